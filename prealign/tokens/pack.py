"""Packing: documents one after the other in a chosen order, cut into rows of L + 1 tokens.

Row i is tokens i*L to i*L + L of the stream, so that every token but the first is a target once.
The stream ends right after a given number of *text* tokens: arms with and without tags, in the
same order, then hold exactly the same text.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prealign.errors import ConfigError, DataError
from prealign.tokens.encode import END, PAD, TAG
from prealign.tokens.shards import TokenShard


class PackedRows(NamedTuple):
    """Rows of tokens, all [n, L + 1]."""

    ids: NDArray[np.int64]
    mode: NDArray[np.uint8]
    score: NDArray[np.float32]
    flags: NDArray[np.uint8]
    document: NDArray[np.int32]
    """Which document of its row a token belongs to, from 0."""


@dataclass(frozen=True)
class Packed:
    """A shard as rows; nothing is copied until rows are asked for."""

    shard: TokenShard
    order: NDArray[np.int64]
    """Indices of documents, in the order they are read."""
    row_tokens: int
    """L: targets in a row."""
    inert_id: int
    """Pads the last row."""
    text_token_budget: int | None = None
    """Text tokens after which the stream is cut; None: all of them."""
    epochs: int = 1
    """How often the order is gone through, at most."""

    def __post_init__(self) -> None:
        if self.row_tokens < 1 or self.epochs < 1:
            raise ConfigError(
                f"row_tokens={self.row_tokens}, epochs={self.epochs}: both must be at least 1"
            )
        there = self.epochs * int(self._text_lengths.sum())
        if self.text_token_budget is not None and not 0 < self.text_token_budget <= there:
            raise DataError(
                f"text_token_budget={self.text_token_budget:,}: the corpus has {there:,} text "
                f"tokens in {self.epochs} epochs; give more text, a smaller budget or more epochs"
            )

    @cached_property
    def _text_lengths(self) -> NDArray[np.int64]:
        return np.diff(self.shard.text_before)[self.order]

    @cached_property
    def _documents(self) -> NDArray[np.int64]:
        """The documents of the stream, in order, with repeats."""
        return np.tile(self.order, self.epochs)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """[D + 1]: where each document of the stream begins in it."""
        lengths = np.diff(self.shard.offsets)[self._documents]
        return np.concatenate([[0], np.cumsum(lengths)])

    @cached_property
    def num_tokens(self) -> int:
        """Tokens of the stream, without padding."""
        if self.text_token_budget is None:
            return int(self._starts[-1])
        text_before = np.concatenate([[0], np.cumsum(np.tile(self._text_lengths, self.epochs))])
        last = int(np.searchsorted(text_before, self.text_token_budget, side="left")) - 1
        document = self._documents[last]
        begin, end = self.shard.offsets[document], self.shard.offsets[document + 1]
        text = (np.asarray(self.shard.flags[begin:end]) & (TAG | END)) == 0
        left = self.text_token_budget - int(text_before[last])
        return int(self._starts[last]) + int(np.flatnonzero(text)[left - 1]) + 1

    @property
    def num_text_tokens(self) -> int:
        """Text tokens of the stream."""
        if self.text_token_budget is not None:
            return self.text_token_budget
        return int(self._text_lengths.sum()) * self.epochs

    @property
    def num_rows(self) -> int:
        """Rows, the last of which may be padded."""
        return max(1, -(-(self.num_tokens - 1) // self.row_tokens))

    def rows(self, indices: Sequence[int] | NDArray[np.int64]) -> PackedRows:
        """Return the rows with these indices, in this order."""
        first = np.asarray(indices, dtype=np.int64)[:, None] * self.row_tokens
        places = first + np.arange(self.row_tokens + 1)
        padding = places >= self.num_tokens
        inside = np.minimum(places, self.num_tokens - 1)
        slot = np.searchsorted(self._starts, inside, side="right") - 1
        token = self.shard.offsets[self._documents[slot]] + inside - self._starts[slot]
        ids = np.where(padding, self.inert_id, self.shard.ids[token].astype(np.int64))
        return PackedRows(
            ids,
            np.where(padding, 0, self.shard.mode[token]).astype(np.uint8),
            np.where(padding, 0, self.shard.score[token]).astype(np.float32),
            np.where(padding, PAD, self.shard.flags[token]).astype(np.uint8),
            (slot - slot[:, :1]).astype(np.int32),
        )


def shuffled_order(document_ids: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Return an order of documents that depends on their ids and the seed alone.

    Documents that two shards share stand in the same order in both.
    """
    keys = [
        hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest() for name in document_ids
    ]
    return np.array(sorted(range(len(keys)), key=lambda i: (keys[i], i)), dtype=np.int64)

"""Packing: documents one after the other in a chosen order, cut into rows of L + 1 tokens.

Row i is tokens i*L to i*L + L of the stream, both included, so that every token but the first is
a target once. The stream ends right after a given number of *text* tokens: arms with and without
tags, in the same order, then hold exactly the same text.

Shape letters:  L = targets in a row,  n = rows asked for,  S = documents of the stream, with
repeats,  G = stretches of one document within one row.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prealign.errors import ConfigError, DataError
from prealign.tokens.encode import END, PAD, TAG
from prealign.tokens.shards import TokenShard


class PackedRows(NamedTuple):
    """Rows of tokens, all [n, L + 1]."""

    ids: NDArray[np.int64]
    """The inert id where there is padding."""
    mode: NDArray[np.uint8]
    score: NDArray[np.float32]
    flags: NDArray[np.uint8]
    """Of the token; PAD alone where there is padding."""
    document: NDArray[np.int32]
    """Which document of its row a token belongs to, from 0; padding belongs to the last one."""


class _Stream(NamedTuple):
    """The documents that are read, up to the one that holds the last token."""

    documents_S: NDArray[np.int64]
    starts: NDArray[np.int64]
    """[S + 1]: where each begins, counted in tokens; the end of the last, were it not cut."""
    text_starts: NDArray[np.int64]
    """[S + 1]: the same, counted in text tokens."""
    num_tokens: int


@dataclass(frozen=True, eq=False)
class Packed:
    """A shard as rows of tokens; nothing is copied until rows are asked for.

    Raises:
        ConfigError: `row_tokens`, `epochs` or the budget is below 1.
        DataError: The order names a document twice or one that is not there, or the epochs hold
            fewer text tokens than the budget.
    """

    shard: TokenShard
    order: NDArray[np.int64]
    """Indices of documents in the order they are read; it may leave some out."""
    row_tokens: int
    """L, the targets of a row."""
    inert_id: int
    """What pads the last row."""
    text_token_budget: int | None = None
    """Text tokens after which the stream is cut; None: all that there are."""
    epochs: int = 1
    """How often the order is gone through, at most."""

    def __post_init__(self) -> None:
        for name in ("row_tokens", "epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least 1")
        budget, documents = self.text_token_budget, self.shard.num_documents
        if budget is not None and budget < 1:
            raise ConfigError(f"text_token_budget={budget}: must be at least 1, or None for all")
        order = np.asarray(self.order)
        if order.ndim != 1 or not len(order) or not np.issubdtype(order.dtype, np.integer):
            raise DataError(f"order has shape {order.shape} and type {order.dtype}; give indices")
        if order.min() < 0 or order.max() >= documents:
            raise DataError(
                f"order goes from {order.min()} to {order.max()}, the shard has documents 0 to "
                f"{documents - 1}"
            )
        if np.bincount(order).max() > 1:
            twice = int(np.bincount(order).argmax())
            raise DataError(f"order has document {twice} twice; to repeat documents, use epochs")
        there = int(self.shard.text_lengths[order].sum())
        if budget is not None and budget > there * self.epochs:
            enough = f", or epochs={-(-budget // there)}" if there else ""
            raise DataError(
                f"text_token_budget={budget:,}: the documents have {there:,} text tokens, "
                f"{there * self.epochs:,} in {self.epochs} epochs; give more text, "
                f"a smaller budget{enough}"
            )

    @property
    def num_tokens(self) -> int:
        """Tokens of the stream, with tags and ends of text, without padding."""
        return self._stream.num_tokens

    @property
    def num_text_tokens(self) -> int:
        """Text tokens of the stream."""
        return self.text_tokens_up_to(self.num_rows)

    @property
    def num_rows(self) -> int:
        """Rows; the last of them may be padded."""
        return max(1, -(-(self.num_tokens - 1) // self.row_tokens))

    def text_tokens_up_to(self, row: int) -> int:
        """Return how many targets in the rows before `row` are text.

        Raises:
            DataError: There is no such row; `num_rows` gives those of all rows.
        """
        if not 0 <= row <= self.num_rows:
            raise DataError(f"row {row}: there are {self.num_rows} rows")
        if row == 0:
            return 0
        # The first token of the stream is an end of text, so it may be counted in.
        return self._text_in(min(row * self.row_tokens + 1, self.num_tokens))

    def rows(self, indices: Sequence[int] | NDArray[np.int64]) -> PackedRows:
        """Return these rows, in this order, as copies; only what they hold is read.

        Args:
            indices: Any rows, `range(start, stop)` for neighbours. Those from `num_rows` on are
                padding, so that the last batch can be as large as the others.

        Raises:
            DataError: An index is negative.
        """
        index_n = np.asarray(indices, dtype=np.int64)
        if len(index_n) and index_n.min() < 0:
            raise DataError(f"row {index_n.min()}: rows are counted from 0")
        stream, width = self._stream, self.row_tokens + 1
        first_n = index_n * self.row_tokens
        end_n = np.where(index_n < self.num_rows, first_n + width, 0)
        end_n = np.minimum(end_n, stream.num_tokens)
        length_n = np.maximum(end_n - first_n, 0)
        from_n = np.searchsorted(stream.starts, first_n, side="right") - 1
        to_n = np.searchsorted(stream.starts, end_n, side="left")
        count_n = np.where(length_n > 0, to_n - from_n, 0)

        row_G = np.repeat(np.arange(len(first_n)), count_n)
        nth_G = _within(count_n)
        slot_G = from_n[row_G] + nth_G
        begin_G = np.maximum(stream.starts[slot_G], first_n[row_G])
        length_G = np.minimum(stream.starts[slot_G + 1], end_n[row_G]) - begin_G
        source_G = self.shard.offsets[stream.documents_S[slot_G]] + begin_G - stream.starts[slot_G]
        token = np.repeat(source_G, length_G) + _within(length_G)
        filled = np.arange(width) < length_n[:, None]

        def place(values: NDArray[Any], kind: Any, fill: Any = 0) -> NDArray[Any]:
            if filled.all():
                return values.astype(kind).reshape(filled.shape)
            out = np.empty(filled.shape, dtype=kind)
            out[:] = fill
            out[filled] = values
            return out

        last_n = np.maximum(count_n - 1, 0)
        return PackedRows(
            ids=place(self.shard.ids[token], np.int64, self.inert_id),
            mode=place(self.shard.mode[token], np.uint8),
            score=place(self.shard.score[token], np.float32),
            flags=place(self.shard.flags[token], np.uint8, PAD),
            document=place(np.repeat(nth_G, length_G), np.int32, last_n[:, None]),
        )

    @cached_property
    def _stream(self) -> _Stream:
        documents_S = np.tile(np.asarray(self.order, dtype=np.int64), self.epochs)
        starts = _starts(np.diff(self.shard.offsets)[documents_S])
        text_starts = _starts(self.shard.text_lengths[documents_S])
        if self.text_token_budget is None:
            return _Stream(documents_S, starts, text_starts, int(starts[-1]))
        last = int(np.searchsorted(text_starts, self.text_token_budget)) - 1
        begin, end = self.shard.offsets[documents_S[last] :][:2]
        text_at = np.flatnonzero((self.shard.flags[begin:end] & (TAG | END)) == 0)
        left = self.text_token_budget - int(text_starts[last])
        num_tokens = int(starts[last]) + int(text_at[left - 1]) + 1
        upto = last + 2
        return _Stream(documents_S[: last + 1], starts[:upto], text_starts[:upto], num_tokens)

    def _text_in(self, tokens: int) -> int:
        """Return how many of the first `tokens` tokens of the stream are text; at least 1."""
        stream = self._stream
        slot = int(np.searchsorted(stream.starts, tokens)) - 1
        begin = int(self.shard.offsets[stream.documents_S[slot]])
        flags = self.shard.flags[begin : begin + tokens - int(stream.starts[slot])]
        return int(stream.text_starts[slot]) + int(((flags & (TAG | END)) == 0).sum())


def shuffled_order(document_ids: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Return the documents' indices in an order that depends on their ids and the seed alone.

    Documents that two shards share come in the same order in both; those with the same id keep
    the order they have.
    """
    key = f"{seed} ".encode()
    hashes = [hashlib.blake2b(key + name.encode(), digest_size=8).digest() for name in document_ids]
    return np.argsort(np.frombuffer(b"".join(hashes), dtype=">u8"), kind="stable")


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)])


def _within(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0, 1, ... for each of the lengths, one after the other."""
    starts = _starts(lengths)
    return np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)

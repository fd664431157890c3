"""What of a shard is trained on: good documents alone, text with its bad spans hidden, parts of it.

Shape letters:  D = documents of a shard,  S = documents of an order,  n = rows,  L = targets in a
row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prealign.errors import ConfigError, DataError
from prealign.tokens.encode import END, PAD, SCORED, TAG
from prealign.tokens.pack import Packed, PackedRows
from prealign.tokens.shards import TokenShard


def is_scored_text(flags: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which tokens are text of a span that has a score, in the shape of the flags."""
    found: NDArray[np.bool_] = (flags & (SCORED | TAG | END | PAD)) == SCORED
    return found


class DocumentScores(NamedTuple):
    """How bad each document is; both arrays have the shape [D]."""

    mean: NDArray[np.float64]
    """Of the scores over its text tokens that have one; 0 where `judged` is False."""
    judged: NDArray[np.bool_]
    """Some of its text has a score."""


def document_scores(shard: TokenShard) -> DocumentScores:
    """Return the mean score of each document.

    Each token counts its span's score, so a span counts by its length. (Korbak et al. 2023 take
    the mean over spans, in which a blank line weighs as much as a long one.)
    """
    counted = is_scored_text(shard.flags)
    starts = shard.offsets[:-1]
    # Every document has at least its end of text, so no stretch is empty.
    total = np.add.reduceat(np.where(counted, shard.score, 0).astype(np.float64), starts)
    number = np.add.reduceat(counted.astype(np.int64), starts)
    return DocumentScores(total / np.maximum(number, 1), number > 0)


def best_documents(shard: TokenShard, order: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """Return the documents of an order whose mean score is among the lowest `share`, in order.

    Document filtering of Korbak et al. 2023 (https://arxiv.org/abs/2302.08582), with the threshold
    given as a quantile. Of documents with a score equal to the threshold all are kept. Documents
    that nothing judged are left out.

    Raises:
        ConfigError: The share is not in (0, 1].
        DataError: No document was judged.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share of documents {share}: expected more than 0, and 1 at most")
    scores = document_scores(shard)
    order = order[scores.judged[order]]
    if not len(order):
        raise DataError("no document has a score; annotate the corpus before it is filtered")
    mean_S = scores.mean[order]
    limit = np.sort(mean_S)[max(1, round(share * len(order))) - 1]
    kept: NDArray[np.int64] = order[mean_S <= limit]
    return kept


class Stretch(NamedTuple):
    """A part of an order, for a phase of training."""

    part: int
    """Which of the shares it belongs to."""
    order: NDArray[np.int64]
    """Each document once at most."""
    text_tokens: int
    """To be read of it; of the last stretch perhaps not all that it has."""


def stretches(
    shard: TokenShard, order: NDArray[np.int64], text_tokens: int, until_shares: Sequence[float]
) -> list[Stretch]:
    """Return the parts of an order that phases read one after the other.

    A part ends with the first document that brings the text tokens to its share. Together the
    parts read exactly the text that one phase with the same budget would. Where the order has less
    text than the budget it is gone through again, and a part that goes on into the next time is
    two stretches; a single part is always one, to be read as often as it takes.

    Args:
        shard: Has the documents.
        order: Each document once at most.
        text_tokens: Of all parts together.
        until_shares: At which share of the text tokens each part ends, rising; the last is 1.

    Raises:
        ConfigError: The shares do not rise to 1.
        DataError: The documents have no text, or a part would have none.
    """
    shares = list(until_shares)
    rising = all(a < b for a, b in pairwise([0.0, *shares]))
    if not rising or shares[-1:] != [1]:
        raise ConfigError(f"phases end at shares {shares}: expected shares that rise from 0 to 1")
    if len(shares) == 1:
        return [Stretch(0, order, text_tokens)]
    lengths_S = shard.text_lengths[order]
    if not lengths_S.sum():
        raise DataError(f"{text_tokens:,} text tokens in phases: the documents have no text")
    times = -(-text_tokens // int(lengths_S.sum()))
    ends_N = np.cumsum(np.tile(lengths_S, times))  # over all times, one after the other
    last = int(np.searchsorted(ends_N, text_tokens)) + 1
    cuts = [int(np.searchsorted(ends_N, share * text_tokens)) + 1 for share in shares[:-1]]
    found, first = [], 0
    for part, end in enumerate([*cuts, last]):
        if end <= first or (part and ends_N[first - 1] >= text_tokens):
            raise DataError(
                f"phases end at shares {shares}: one of them has no document of its own; use more "
                "or shorter documents"
            )
        while first < end:
            time, at = divmod(first, len(order))
            to = min(end, (time + 1) * len(order))
            begin = int(ends_N[first - 1]) if first else 0
            upto = min(int(ends_N[to - 1]), text_tokens)
            piece = order[at : at + to - first]
            if upto > begin:  # else it holds documents without text alone
                found.append(Stretch(part, piece, upto - begin))
            first = to
    return found


@dataclass(frozen=True, eq=False)
class Hidden:
    """Rows in which the text of bad spans is not to be seen: each token is the inert id instead.

    The harder form of `prealign.objectives.weights.SpanMask`, in which bad text is still read
    (Rathi and Radford 2026, https://arxiv.org/abs/2601.21571, replace tokens by a hidden one).
    Hidden tokens are no targets, as if they were padding.
    """

    data: Packed
    max_good: float = 0.0
    """Spans with a higher score are bad."""

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return self.data.num_rows

    def rows(self, indices: Sequence[int]) -> PackedRows:
        """Return these rows; see `prealign.tokens.pack.Packed.rows`."""
        rows = self.data.rows(indices)
        bad = is_scored_text(rows.flags) & (rows.score > self.max_good)
        return rows._replace(
            ids=np.where(bad, self.data.inert_id, rows.ids),
            flags=np.where(bad, PAD, rows.flags).astype(np.uint8),
        )


@dataclass(frozen=True, eq=False)
class OneTag:
    """Rows in which one tag stands for another too, so that their tags tell no modes apart."""

    data: Packed
    tag_id: int
    instead_of: int
    """The id that `tag_id` replaces."""

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return self.data.num_rows

    def rows(self, indices: Sequence[int]) -> PackedRows:
        """Return these rows; see `prealign.tokens.pack.Packed.rows`."""
        rows = self.data.rows(indices)
        return rows._replace(ids=np.where(rows.ids == self.instead_of, self.tag_id, rows.ids))

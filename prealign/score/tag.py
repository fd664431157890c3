"""From scores to modes."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from prealign.errors import ConfigError, DataError
from prealign.text.document import Document
from prealign.text.scheme import Mode


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Tags a span good if its score is at most `max_good`, else bad.

    The rule of preference pretraining (Korbak et al. 2023, https://arxiv.org/abs/2302.08582),
    where the threshold is 0 for code style: one violation makes a line bad. Departs from it in
    that a span no scorer could judge is never good.
    """

    score: str
    """The name of the score."""
    max_good: float = 0.0
    good: str = "good"
    bad: str = "bad"
    unjudged: Literal["untagged", "bad", "drop"] = "untagged"
    """What becomes of a span whose score is None; `drop` drops its whole document."""

    def __call__(self, document: Document) -> Document | None:
        """Return the document with modes; None if it is to be dropped, which the caller counts.

        Raises:
            DataError: A span was not given this score at all.
        """
        modes: list[str | None] = []
        for score in scores_of(document, self.score):
            if score is not None:
                modes.append(self.good if score <= self.max_good else self.bad)
            elif self.unjudged == "drop":
                return None
            else:
                modes.append(self.bad if self.unjudged == "bad" else None)
        return document.with_modes(modes)


@dataclass(frozen=True, kw_only=True)
class Bins:
    """Tags a span by the bin its score falls into: bin-1 is the best.

    Quark (Lu et al. 2022, https://arxiv.org/abs/2205.13636) has five bins of equal size and a
    token for each. A span that no scorer could judge is not tagged.

    Raises:
        ConfigError: The edges do not rise.
    """

    score: str
    """The name of the score."""
    edges: tuple[float, ...]
    """The highest score of each bin but the last; see `quantile_edges`."""

    def __post_init__(self) -> None:
        if not self.edges or list(self.edges) != sorted(set(self.edges)):
            raise ConfigError(f"edges={self.edges}: expected scores that rise, one at least")

    def __call__(self, document: Document) -> Document:
        """Return the document with modes.

        Raises:
            DataError: A span was not given this score at all.
        """
        modes = [
            None if score is None else bin_mode(1 + bisect_left(self.edges, score))
            for score in scores_of(document, self.score)
        ]
        return document.with_modes(modes)


def bin_mode(number: int) -> str:
    """Return the name of a bin's mode; bins are counted from 1, the best."""
    return f"bin-{number}"


def bin_modes(bins: int) -> tuple[Mode, ...]:
    """Return the modes of so many bins, for a scheme."""
    return tuple(Mode(name=bin_mode(k), open=f"<|{bin_mode(k)}|>") for k in range(1, bins + 1))


def quantile_edges(scores: Sequence[float], bins: int) -> tuple[float, ...]:
    """Return the edges that part scores into bins of equal size, as far as ties allow.

    A bin takes all scores equal to its highest; those that are left share out the bins that are
    left. Where most scores are 0, the first bin is those and the others part the rest.

    Raises:
        ConfigError: There are fewer than 2 bins.
        DataError: The scores have fewer different values than there are bins.
    """
    if bins < 2:
        raise ConfigError(f"bins={bins}: must be at least 2")
    left = np.sort(np.asarray(scores, dtype=np.float64))
    different = len(np.unique(left))
    if different < bins:
        raise DataError(
            f"{bins} bins: the {len(left):,} scores have {different} different values; use fewer"
        )
    edges: list[float] = []
    for more in range(bins, 1, -1):
        # Leave the bins to come one value each at least.
        highest = np.unique(left)[-more]
        edge = min(left[-(-len(left) // more) - 1], highest)
        edges.append(float(edge))
        left = left[left > edge]
    return tuple(edges)


def scores_of(document: Document, name: str) -> list[float | None]:
    """Return the spans' scores of that name.

    Raises:
        DataError: A span was not given this score at all.
    """
    for index, span in enumerate(document.spans):
        if name not in span.scores:
            raise DataError(
                f"document {document.id!r}, span {index}: has no score {name!r} "
                f"(it has: {', '.join(span.scores) or 'none'})"
            )
    return [span.scores[name] for span in document.spans]

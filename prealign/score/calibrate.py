"""Where to put a threshold, and whether a score is a probability: held against labels.

A threshold that is chosen on some labels is stated with its precision and recall on them; state it
on others too, as it was made for these.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prealign.errors import ConfigError, DataError


class Operating(NamedTuple):
    """A threshold and what it does: texts that score above it are called bad."""

    max_good: float
    """What `prealign.score.tag.Threshold` takes."""
    precision: float
    """Share of those called bad that are."""
    recall: float
    """Share of the bad ones that are called so."""
    called: int
    """How many are called bad."""

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


class Bin(NamedTuple):
    """Texts of like score."""

    texts: int
    mean_score: float
    bad_share: float
    """Of them; a score that is a probability equals it in the mean."""


class Reliability(NamedTuple):
    """How far a score is from a probability."""

    bins: list[Bin]
    """By rising score, of about as many texts each."""
    expected_error: float
    """Mean distance of score and share over the bins, weighed by texts (Naeini et al. 2015)."""


def operating_points(scores: Sequence[float], bad: Sequence[bool]) -> list[Operating]:
    """Return what every possible threshold does, from calling most texts bad to the fewest.

    Thresholds are the scores that occur, but for the greatest, above which there is nothing.

    Raises:
        DataError: The numbers differ, a score is not finite, or all labels are the same.
    """
    score_N, bad_N = _checked(scores, bad)
    order = np.argsort(score_N, kind="stable")
    score_N, bad_N = score_N[order], bad_N[order]
    last_N = np.append(score_N[1:] != score_N[:-1], False)
    points = []
    all_bad = int(bad_N.sum())
    bad_up_to_N = np.cumsum(bad_N)
    for at in np.flatnonzero(last_N):
        called = len(score_N) - at - 1
        hits = all_bad - int(bad_up_to_N[at])
        points.append(Operating(float(score_N[at]), hits / called, hits / all_bad, int(called)))
    return points


def operating_point(scores: Sequence[float], bad: Sequence[bool], max_good: float) -> Operating:
    """Return what one threshold does; where it calls none bad, its precision is 0.

    Raises:
        DataError: The labels cannot be used.
    """
    score_N, bad_N = _checked(scores, bad)
    called_N = score_N > max_good
    called, hits = int(called_N.sum()), int((called_N & bad_N).sum())
    return Operating(max_good, hits / max(called, 1), hits / int(bad_N.sum()), called)


def best_threshold(
    scores: Sequence[float], bad: Sequence[bool], *, min_precision: float | None = None
) -> Operating:
    """Return the threshold with the best F1, or with the best recall at a least precision.

    Of equal ones the higher threshold is taken: it calls fewer texts bad.

    Raises:
        ConfigError: `min_precision` is not in [0, 1].
        DataError: The labels cannot be used, all scores are the same, or none reaches the
            precision.
    """
    if min_precision is not None and not 0 <= min_precision <= 1:
        raise ConfigError(f"min_precision={min_precision}: expected a share in [0, 1]")
    points = operating_points(scores, bad)
    if not points:
        raise DataError(f"all {len(scores)} scores are the same; no threshold tells them apart")
    if min_precision is None:
        return max(points, key=lambda point: (point.f1, point.max_good))
    precise = [point for point in points if point.precision >= min_precision]
    if not precise:
        best = max(point.precision for point in points)
        raise DataError(f"no threshold has a precision of {min_precision}; the best is {best:.3f}")
    return max(precise, key=lambda point: (point.recall, point.max_good))


def reliability(scores: Sequence[float], bad: Sequence[bool], *, bins: int = 10) -> Reliability:
    """Return how often texts of like score are bad.

    Bins hold about as many texts each; equal scores are never put into two.

    Raises:
        ConfigError: `bins` is below 1.
        DataError: The labels cannot be used.
    """
    if bins < 1:
        raise ConfigError(f"bins={bins}: expected at least 1")
    score_N, bad_N = _checked(scores, bad)
    edges = np.unique(np.quantile(score_N, np.arange(1, bins) / bins, method="lower"))
    which_N = np.searchsorted(edges, score_N, side="left")
    found = [
        Bin(int(own.sum()), float(score_N[own].mean()), float(bad_N[own].mean()))
        for own in (which_N == i for i in range(len(edges) + 1))
        if own.any()
    ]
    error = sum(one.texts * abs(one.mean_score - one.bad_share) for one in found) / len(score_N)
    return Reliability(found, error)


def _checked(
    scores: Sequence[float], bad: Sequence[bool]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    score_N, bad_N = np.asarray(scores, dtype=np.float64), np.asarray(bad, dtype=bool)
    if len(score_N) != len(bad_N) or not np.isfinite(score_N).all() or len(set(bad_N.tolist())) < 2:
        raise DataError(
            f"{len(score_N)} scores ({int((~np.isfinite(score_N)).sum())} not finite), "
            f"{len(bad_N)} labels ({int(bad_N.sum())} bad): expected as many of both, finite "
            "scores, and labels of both kinds"
        )
    return score_N, bad_N

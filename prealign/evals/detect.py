"""How good a detector is: AUROC with an interval, and its alarms at a threshold fixed elsewhere.

What is said here is statistical. It is reported beside what the guard guarantees, never as part of
it.

Shape letters:  N = items that are judged,  G = distinct scores,  R = bootstrap resamples,
L = tokens.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prealign.errors import ConfigError, DataError
from prealign.evals.stats import RESAMPLES, Estimate

Pooling = Literal["max", "mean", "last"]
AT_ONCE = 100
Z95 = 1.959963984540054


class Alarms(NamedTuple):
    """What a detector does at one threshold; it alarms where the score is above it."""

    threshold: float
    detection: Estimate
    """Share of the positive items with an alarm, with Wilson's 95 % interval."""
    false_alarm: Estimate
    """Share of the negative items with one."""


def pooled(values_L: ArrayLike, how: Pooling) -> float:
    """Return the score of a span from those of its tokens.

    Raises:
        DataError: The span has no token, or one of its values is NaN.
        ConfigError: `how` is none of max, mean and last.
    """
    array_L = np.asarray(values_L, dtype=np.float64)
    if array_L.ndim != 1 or not array_L.size or np.isnan(array_L).any():
        raise DataError(
            f"a span of shape {array_L.shape} with {int(np.isnan(array_L).sum())} NaNs has no "
            "score; expected one or more tokens, and numbers"
        )
    if how not in ("max", "mean", "last"):
        raise ConfigError(f"how={how!r}: expected max, mean or last")
    if how == "last":
        return float(array_L[-1])
    return float(array_L.max() if how == "max" else array_L.mean())


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the chance that a positive item scores above a negative one, a tie counting half.

    It is exact: the Mann-Whitney statistic over all pairs. -inf and +inf are scores like others.

    Args:
        scores: [N], higher means positive.
        labels: [N], true for positive items.

    Raises:
        DataError: A score is NaN, the lengths differ, or one of the classes is empty.
    """
    scores_N, positive_N = _checked(scores, labels)
    return float(_weighted(scores_N, positive_N, np.ones((1, scores_N.size)))[0])


def auroc_interval(
    scores: ArrayLike, labels: ArrayLike, *, clusters: ArrayLike | None = None, seed: int = 0
) -> Estimate:
    """Return `auroc` with a 95 % percentile bootstrap interval.

    Args:
        scores: [N].
        labels: [N].
        clusters: [N] which items belong together, such as sentences of one document, and are
            drawn together; None: each is drawn by itself.
        seed: Of the resampling.

    Raises:
        DataError: As `auroc`; or the clusters are not as many as the scores, or only one.
    """
    scores_N, positive_N = _checked(scores, labels)
    unit_N = np.arange(scores_N.size)
    if clusters is not None:
        unit_N = np.unique(np.asarray(clusters), return_inverse=True)[1].ravel()
    units = int(unit_N.max()) + 1
    if unit_N.size != scores_N.size or units < 2:
        raise DataError(
            f"{unit_N.size} cluster labels of {units} clusters for {scores_N.size} scores; "
            "expected one per score, and two clusters at least"
        )
    random = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES // AT_ONCE):
        counts_RU = random.multinomial(units, np.full(units, 1 / units), size=AT_ONCE)
        found.append(_weighted(scores_N, positive_N, counts_RU[:, unit_N].astype(np.float64)))
    drawn_R = np.concatenate(found)
    # A resample without one of the classes has no AUROC.
    low, high = np.quantile(drawn_R[np.isfinite(drawn_R)], [0.025, 0.975])
    value = float(_weighted(scores_N, positive_N, np.ones((1, scores_N.size)))[0])
    return Estimate(value, float(low), float(high), scores_N.size)


def threshold_for(scores: ArrayLike, labels: ArrayLike, *, false_alarm_share: float) -> float:
    """Return the lowest threshold with at most this share of false alarms on these items.

    Use it on data apart from those that the alarms are reported on.

    Raises:
        DataError: As `auroc`.
        ConfigError: The share is not in [0, 1).
    """
    if not 0 <= false_alarm_share < 1:
        raise ConfigError(f"false_alarm_share={false_alarm_share}: expected 0 or more, below 1")
    scores_N, positive_N = _checked(scores, labels)
    negative = np.sort(scores_N[~positive_N])[::-1]
    return float(negative[math.floor(false_alarm_share * negative.size)])


def alarms(scores: ArrayLike, labels: ArrayLike, threshold: float) -> Alarms:
    """Return how often a detector is right and wrong above a threshold.

    Raises:
        DataError: As `auroc`, or the threshold is NaN.
    """
    scores_N, positive_N = _checked(scores, labels)
    if math.isnan(threshold):
        raise DataError("the threshold is NaN; `threshold_for` finds one on other data")
    fires_N = scores_N > threshold
    return Alarms(threshold, share(fires_N[positive_N]), share(fires_N[~positive_N]))


def share(happened: ArrayLike) -> Estimate:
    """Return the share of true items with Wilson's 95 % interval (Wilson 1927).

    Unlike the bootstrap's, it has a width also where nothing, or all, happened.

    Raises:
        DataError: There are no items.
    """
    happened_N = np.asarray(happened, dtype=bool)
    n = happened_N.size
    if not n:
        raise DataError("a share of no items was asked for")
    p = float(happened_N.mean())
    middle = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
    return Estimate(p, max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half)), n)


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    scores_N = np.asarray(scores, dtype=np.float64)
    positive_N = np.asarray(labels, dtype=bool)
    if scores_N.ndim != 1 or scores_N.shape != positive_N.shape:
        raise DataError(
            f"scores of shape {scores_N.shape}, labels of shape {positive_N.shape}: expected one "
            "label per score"
        )
    if np.isnan(scores_N).any():
        raise DataError(
            f"score {int(np.isnan(scores_N).argmax())} is NaN; leave out what could not be judged, "
            "and say how many"
        )
    if positive_N.all() or not positive_N.any():
        raise DataError(
            f"{int(positive_N.sum())} positive items of {positive_N.size}: a detector is judged on "
            "items of both classes"
        )
    return scores_N, positive_N


def _weighted(
    scores_N: NDArray[np.float64], positive_N: NDArray[np.bool_], weights_RN: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the AUROC with items counted so often, [R]; NaN where a class has no weight."""
    order = np.argsort(scores_N, kind="stable")
    ranked = scores_N[order]
    firsts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    ordered_RN = weights_RN[:, order]
    positive_RG = np.add.reduceat(ordered_RN * positive_N[order], firsts, axis=1)
    negative_RG = np.add.reduceat(ordered_RN * ~positive_N[order], firsts, axis=1)
    below_RG = negative_RG.cumsum(axis=1) - negative_RG / 2
    pairs_R = positive_RG.sum(axis=1) * negative_RG.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = (positive_RG * below_RG).sum(axis=1) / pairs_R
    return found

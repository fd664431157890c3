"""Intervals: percentile bootstrap over samples or documents, and the spread over seeds."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prealign.errors import DataError

RESAMPLES = 2000
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Of Student's t, two-sided, by the number of seeds."""


class Estimate(NamedTuple):
    """A number with the ends of its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


def mean_interval(values: ArrayLike, *, seed: int = 0) -> Estimate:
    """Return the mean of `values` with a 95 % bootstrap interval over them.

    Raises:
        DataError: There are no values.
    """
    values_N = np.asarray(values, dtype=np.float64)
    return ratio_interval(values_N, np.ones_like(values_N), seed=seed)


def ratio_interval(tops: ArrayLike, bottoms: ArrayLike, *, seed: int = 0) -> Estimate:
    """Return sum(tops) / sum(bottoms) with a 95 % bootstrap interval over the pairs.

    The unit of resampling is one pair: a document with its nats and its bytes, for example.

    Raises:
        DataError: There are no pairs, or their bottoms sum to 0.
    """
    top_N = np.asarray(tops, dtype=np.float64)
    bottom_N = np.asarray(bottoms, dtype=np.float64)
    if top_N.size == 0 or bottom_N.sum() == 0:
        raise DataError(f"no estimate from {top_N.size} values that sum to {bottom_N.sum()}")
    weights_RN = _resampled_counts(top_N.size, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios_R = (weights_RN @ top_N) / (weights_RN @ bottom_N)
    low, high = np.quantile(ratios_R[np.isfinite(ratios_R)], [0.025, 0.975])
    return Estimate(float(top_N.sum() / bottom_N.sum()), float(low), float(high), top_N.size)


def expected_max(values: ArrayLike, *, of: int = 25, seed: int = 0) -> Estimate:
    """Return the expected maximum of `of` values drawn from `values` without replacement.

    The expectation over all subsets is exact (Gehman et al. 2020 estimate it from groups):
    the i-th smallest of N values is the maximum of C(i-1, of-1) of the C(N, of) subsets.

    Raises:
        DataError: There are fewer than `of` values.
    """
    values_N = np.asarray(values, dtype=np.float64)
    if values_N.size < of:
        raise DataError(f"expected maximum of {of} asked of {values_N.size} values")
    weights_N = _weights_as_maximum(values_N.size, of)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, values_N.size, size=(RESAMPLES // 4, values_N.size))
    maxima_R = np.sort(values_N[draws], axis=1) @ weights_N
    low, high = np.quantile(maxima_R, [0.025, 0.975])
    return Estimate(float(np.sort(values_N) @ weights_N), float(low), float(high), values_N.size)


def over_seeds(values: Sequence[float]) -> Estimate:
    """Return the mean over seeds, with their least and greatest as the interval.

    Raises:
        DataError: There are no values.
    """
    if not values:
        raise DataError("no seed has this number")
    return Estimate(float(np.mean(values)), min(values), max(values), len(values))


def student_interval(numbers: Sequence[float]) -> Estimate:
    """Return the mean over seeds with a 95 % interval of Student's t; one seed has none."""
    mean, n = fmean(numbers), len(numbers)
    half = T95.get(n, 1.96) * float(np.std(numbers, ddof=1)) / n**0.5 if n > 1 else float("inf")
    return Estimate(mean, mean - half, mean + half, n)


def _resampled_counts(size: int, seed: int) -> NDArray[np.float64]:
    """Return how often each of `size` items is drawn, [RESAMPLES, size]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(size, np.full(size, 1 / size), size=RESAMPLES).astype(np.float64)


def _weights_as_maximum(size: int, of: int) -> NDArray[np.float64]:
    """Return, for the i-th smallest of `size` values, the chance to be the greatest of `of`."""
    at_most_N = np.cumprod(
        [1.0] + [(size - of - j) / (size - j) for j in range(size - of)], dtype=np.float64
    )
    # at_most_N[j]: the chance that the j greatest values are all left out.
    below = np.concatenate([at_most_N, np.zeros(size + 1 - at_most_N.size)])
    return np.asarray((below[:-1] - below[1:])[::-1], dtype=np.float64)

"""Rounds of narration as a flow: how much of the change comes from outside, how much from itself.

With p the share of friendly narration, dp/dt = p (1 - p) [a + b (2 p - 1)]. a is what judge and
data push, b what narration does for itself: with b > 0 there is an unstable threshold
p* = 1/2 - a / (2 b), above which p goes to 1 and below which it goes to 0 (an amplifier, not a
direction setter). In z = log(p / (1 - p)) this is dz/dt = a + b tanh(z / 2), which has no zero of
its own making at 0 and 1. a, b and where each run began are fitted by maximum likelihood to counts,
so noise of counting does not bias b as a regression of differences would.

Shape letters:  T = runs,  M = measurements of all runs,  P = parameters (a, b and one z per run).
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prealign.errors import DataError
from prealign.evals.detect import Z95
from prealign.evals.stats import Estimate

Floats = NDArray[np.float64]
MOST_LOGIT = 12.0
STEP = 0.1
"""Largest step of the integration, in units of 1 / (|a| + |b|)."""
ITERATIONS = 200


class Round(NamedTuple):
    """A measurement."""

    time: float
    """In rounds, steps or whatever a and b are to be per."""
    friendly: int
    of: int
    """Samples that were judged."""


class Flow(NamedTuple):
    """What was fitted; intervals are 95 %, from the information of the counts."""

    a: Estimate
    """The push from outside, in logits per unit of time; n is the number of measurements."""
    b: Estimate
    """The feedback, in logits per unit of time."""
    threshold: Estimate | None
    """p*, by Fieller's interval; None where b cannot be told from 0. Outside of [0, 1] it is never
    reached, and all runs go one way."""
    deviance: float
    """Of the counts from the fit; about `freedom` if the flow is what made them."""
    freedom: int
    """Measurements less parameters."""

    @property
    def amplifies(self) -> bool:
        """The feedback is above 0 beyond its interval."""
        return self.b.low > 0


def flow_of(a: float, b: float, p: float, times: Sequence[float]) -> Floats:
    """Return p at each time, rising, for a run that has p at the first of them.

    Raises:
        DataError: p is not in (0, 1), or the times do not rise.
    """
    if not 0 < p < 1 or any(u >= v for u, v in itertools.pairwise(times)):
        raise DataError(f"p={p}, times {list(times)[:3]}: expected p in (0, 1), and rising times")
    return _share(_logits(a, b, math.log(p / (1 - p)), times))


def simulate(
    a: float, b: float, p: float, *, times: Sequence[float], of: int, seed: int
) -> list[Round]:
    """Return a run with binomial counts."""
    rng = np.random.default_rng(seed)
    counts = rng.binomial(of, flow_of(a, b, p, times))
    return [Round(float(t), int(k), of) for t, k in zip(times, counts, strict=True)]


def fit(runs: Sequence[Sequence[Round]]) -> Flow:
    """Return a and b from rounds of measurements.

    Args:
        runs: Each with its rounds in the order of time. Runs that begin apart, on both sides of
            1/2, tell a from b best.

    Raises:
        DataError: A run has fewer than two rounds, a count is not in [0, of], times do not rise,
            there are fewer measurements than parameters, or the counts do not tell a from b.
    """
    _check(runs)
    counts_M = np.array([one.friendly for run in runs for one in run], dtype=np.float64)
    of_M = np.array([one.of for run in runs for one in run], dtype=np.float64)
    times = [[one.time for one in run] for run in runs]
    theta_P = _start(runs)
    damping, best = 1e-3, _deviance(counts_M, of_M, _predict(theta_P, times))
    for _ in range(ITERATIONS):
        p_M, slope_MP = _predict(theta_P, times), _slopes(theta_P, times)
        information = (slope_MP * (of_M * p_M * (1 - p_M))[:, None]).T @ slope_MP
        gradient = slope_MP.T @ (counts_M - of_M * p_M)
        scale = np.diag(np.maximum(np.diag(information), 1e-9))
        step_P = np.linalg.solve(information + damping * scale, gradient)
        candidate = _bounded(theta_P + step_P)
        found = _deviance(counts_M, of_M, _predict(candidate, times))
        if found <= best:
            done = best - found < 1e-8
            theta_P, best, damping = candidate, found, max(damping / 4, 1e-12)
            if done:
                break
        else:
            damping *= 8
            if damping > 1e9:
                break
    p_M, slope_MP = _predict(theta_P, times), _slopes(theta_P, times)
    information = (slope_MP * (of_M * p_M * (1 - p_M))[:, None]).T @ slope_MP
    if not np.isfinite(information).all() or np.linalg.cond(information) > 1e12:
        raise DataError(
            "the counts do not tell a from b: every run stands still or lies at 0 or 1; "
            "measure runs that begin apart, earlier and more often"
        )
    covariance = np.asarray(np.linalg.inv(information), dtype=np.float64)
    return _flow(theta_P, covariance, best, counts_M.size)


def _check(runs: Sequence[Sequence[Round]]) -> None:
    for number, run in enumerate(runs):
        rising = all(u.time < v.time for u, v in itertools.pairwise(run))
        if len(run) < 2 or not rising:
            raise DataError(f"run {number}: expected two rounds or more, at rising times")
        for one in run:
            if not 0 <= one.friendly <= one.of or one.of < 1:
                raise DataError(f"run {number}: {one}: expected 0 <= friendly <= of, and of >= 1")
    if sum(len(run) for run in runs) < len(runs) + 2 or not runs:
        raise DataError(
            f"{sum(len(run) for run in runs)} measurements of {len(runs)} runs; expected two more "
            "than runs at least, as a, b and each beginning are fitted"
        )


def _start(runs: Sequence[Sequence[Round]]) -> Floats:
    """Return a and b from a regression of differences, and each run's first logit."""
    rises, middles, firsts = [], [], []
    for run in runs:
        shares = [(one.friendly + 0.5) / (one.of + 1) for one in run]
        logits = [math.log(p / (1 - p)) for p in shares]
        firsts.append(logits[0])
        for i in range(len(run) - 1):
            rises.append((logits[i + 1] - logits[i]) / (run[i + 1].time - run[i].time))
            middles.append(shares[i] + shares[i + 1] - 1)
    ones_and_middles = np.stack([np.ones(len(middles)), np.array(middles)], axis=1)
    (a, b), *_ = np.linalg.lstsq(ones_and_middles, np.array(rises), rcond=None)
    return _bounded(np.array([a, b, *firsts]))


def _bounded(theta_P: Floats) -> Floats:
    """Return the parameters with the first logits where a share can still be counted."""
    found = theta_P.copy()
    found[2:] = np.clip(found[2:], -MOST_LOGIT, MOST_LOGIT)
    return found


def _logits(a: float, b: float, z: float, times: Sequence[float]) -> Floats:
    """Return z at each time, by Runge-Kutta of the fourth order."""
    found = [z]
    for start, end in itertools.pairwise(times):
        steps = max(1, math.ceil((end - start) * (abs(a) + abs(b)) / STEP))
        size = (end - start) / min(steps, 10_000)
        for _ in range(min(steps, 10_000)):
            k1 = a + b * math.tanh(z / 2)
            k2 = a + b * math.tanh((z + size * k1 / 2) / 2)
            k3 = a + b * math.tanh((z + size * k2 / 2) / 2)
            k4 = a + b * math.tanh((z + size * k3) / 2)
            z += size * (k1 + 2 * k2 + 2 * k3 + k4) / 6
        found.append(z)
    return np.array(found)


def _share(logits: Floats) -> Floats:
    return np.asarray((1 + np.tanh(logits / 2)) / 2, dtype=np.float64)


def _predicted_logits(theta_P: Floats, times: Sequence[Sequence[float]]) -> Floats:
    a, b, *firsts = theta_P.tolist()
    runs = [_logits(a, b, z, own) for z, own in zip(firsts, times, strict=True)]
    return np.clip(np.concatenate(runs), -MOST_LOGIT - 8, MOST_LOGIT + 8)


def _predict(theta_P: Floats, times: Sequence[Sequence[float]]) -> Floats:
    return _share(_predicted_logits(theta_P, times))


def _slopes(theta_P: Floats, times: Sequence[Sequence[float]]) -> Floats:
    """Return how each predicted logit changes with each parameter, [M, P]."""
    columns = []
    for index in range(theta_P.size):
        shift = np.zeros_like(theta_P)
        shift[index] = 1e-5
        up, down = (_predicted_logits(theta_P + sign * shift, times) for sign in (1, -1))
        columns.append((up - down) / 2e-5)
    return np.stack(columns, axis=1)


def _deviance(counts_M: Floats, of_M: Floats, p_M: Floats) -> float:
    """Return twice the log-likelihood that the fit lacks to one that meets every count."""
    seen = np.clip(counts_M / of_M, 1e-300, 1)
    unseen = np.clip(1 - counts_M / of_M, 1e-300, 1)
    p = np.clip(p_M, 1e-12, 1 - 1e-12)
    terms = counts_M * np.log(seen / p) + (of_M - counts_M) * np.log(unseen / (1 - p))
    return float(2 * terms.sum())


def _flow(theta_P: Floats, covariance: Floats, deviance: float, n: int) -> Flow:
    a, b = float(theta_P[0]), float(theta_P[1])
    half_a, half_b = (Z95 * math.sqrt(float(covariance[i, i])) for i in (0, 1))
    return Flow(
        a=Estimate(a, a - half_a, a + half_a, n),
        b=Estimate(b, b - half_b, b + half_b, n),
        threshold=_threshold(a, b, covariance, n),
        deviance=deviance,
        freedom=n - theta_P.size,
    )


def _threshold(a: float, b: float, covariance: Floats, n: int) -> Estimate | None:
    """Return p* = (1 - a / b) / 2 with the interval of the ratio by Fieller (1954)."""
    v_a, v_b, v_ab = (float(covariance[i]) for i in ((0, 0), (1, 1), (0, 1)))
    q = Z95**2
    lead = b * b - q * v_b
    if lead <= 0:
        return None
    middle = a * b - q * v_ab
    root = math.sqrt(max(0.0, middle * middle - lead * (a * a - q * v_a)))
    low_ratio, high_ratio = (middle - root) / lead, (middle + root) / lead
    return Estimate((1 - a / b) / 2, (1 - high_ratio) / 2, (1 - low_ratio) / 2, n)

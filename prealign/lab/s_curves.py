"""S-curves: a loss that waits, then falls, once for each component that is learnt.

Two matrices A [n, r] and B [n, r] learn C = sum_i sigma_i u_i v_i^T by their product Z = A B^T
(Jermyn and Shlegeris 2022; Saxe et al. 2013, https://arxiv.org/abs/1312.6120), by gradient descent
on |C - Z|^2 / 2, or on the cross-entropy of softmax(Z) from softmax(C), over all entries at once.

Predicted, for squares: a strength s grows as ds/dt = 2 s (sigma - s), so the half-time rises with
log(1 / init) at 1 / (lr sigma) steps, and components with other sigmas fall one after another. For
cross-entropy the source shows two plateaus at rank 2. But a target of rank 1 can have two as well
(exp(C) has another rank than C), so the number of plateaus tells no rank. What can be tested is the
gap between the first stage and the last against a control of rank 1 with the same norm and the same
leading vectors.

Shape letters:  S = runs, one per seed,  N = rows and columns,  R = components.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prealign.errors import ConfigError

Floats = NDArray[np.float64]
Loss = Literal["squares", "cross-entropy"]
HIGH, VALLEY = 0.02, 0.5
"""A rate of fall is a peak if it is above this share of the highest, and separated from a higher
one by a valley below this share of itself."""
LEAST = 1e-9
"""Losses below are rounding."""


@dataclass(frozen=True, kw_only=True)
class Learning:
    """One kind of run; call it with seeds."""

    sigmas: tuple[float, ...] = (1.0,)
    """Strengths of the target's components."""
    rank: int | None = None
    """Of the model; None: the target's."""
    size: int = 30
    init: float = 1e-3
    """Standard deviation of the entries of A and B at the start."""
    lr: float = 0.02
    steps: int = 1500
    every: int = 1
    """Steps between losses that are kept."""
    loss: Loss = "squares"
    adam: bool = False

    def __post_init__(self) -> None:
        if not self.sigmas or len(self.sigmas) > self.size or self.steps < self.every:
            raise ConfigError(
                f"sigmas={self.sigmas}, size={self.size}, steps={self.steps}: expected 1 to size "
                f"strengths, and {self.every} steps at least"
            )

    def __call__(self, seeds: Sequence[int]) -> "Curves":
        """Return the losses of a run for each seed.

        A seed gives the leading vectors and the start, whatever the strengths are.
        """
        target_SNN = np.stack([self.target(seed) for seed in seeds])
        rank = self.rank or len(self.sigmas)
        starts = [np.random.default_rng([seed, 1]) for seed in seeds]
        weights = [
            self.init * np.stack([rng.standard_normal((self.size, rank)) for rng in starts])
            for _ in range(2)
        ]
        optimizer = _Adam(self.lr) if self.adam else None
        kept = []
        for step in range(self.steps + 1):
            a_SNR, b_SNR = weights
            z_SNN = a_SNR @ b_SNR.transpose(0, 2, 1)
            value_S, slope_SNN = _slope(self.loss, target_SNN, z_SNN)
            if step % self.every == 0:
                kept.append(value_S)
            slopes = [slope_SNN @ b_SNR, slope_SNN.transpose(0, 2, 1) @ a_SNR]
            moves = optimizer(slopes) if optimizer else [-self.lr * one for one in slopes]
            weights = [weight + move for weight, move in zip(weights, moves, strict=True)]
        return Curves(np.stack(kept, axis=1), self.every)

    def target(self, seed: int) -> Floats:
        """Return C of a seed, [N, N], with orthonormal vectors."""
        rng = np.random.default_rng([seed, 0])
        left, right = (np.linalg.qr(rng.standard_normal((self.size, self.size)))[0] for _ in "ab")
        count = len(self.sigmas)
        return np.asarray((left[:, :count] * np.array(self.sigmas)) @ right[:, :count].T)


class Curves(NamedTuple):
    """Losses over time."""

    loss_ST: Floats
    """Above the least that there is."""
    every: int
    """Steps between them."""

    def step_at(self, share: float) -> Floats:
        """Return the first step at which each loss is at most a share of its first, [S]."""
        below = self.loss_ST <= share * self.loss_ST[:, :1]
        found = np.where(below.any(axis=1), below.argmax(axis=1), np.nan)
        return np.asarray(found * self.every, dtype=np.float64)

    def drops(self) -> list[list[int]]:
        """Return the steps at which each loss falls fastest: peaks of -dL/dt."""
        return [peaks(-np.diff(loss_T), self.every) for loss_T in self.loss_ST]

    def stages(self) -> list[list[int]]:
        """Return the same of the loss' logarithm, as far as it is more than rounding."""
        found = []
        for loss_T in self.loss_ST:
            low = loss_T < LEAST
            end = int(low.argmax()) if low.any() else len(loss_T)
            found.append(peaks(-np.diff(np.log(loss_T[:end])), self.every))
        return found


def peaks(rate_T: Floats, every: int = 1) -> list[int]:
    """Return the steps of a rate's peaks: high enough, and with a valley between neighbours.

    Args:
        rate_T: At even steps.
        every: Their distance.
    """
    inner = np.arange(1, len(rate_T) - 1)
    local = inner[(rate_T[inner] > rate_T[inner - 1]) & (rate_T[inner] >= rate_T[inner + 1])]
    high = [int(i) for i in local if rate_T[i] > HIGH * rate_T.max()]
    kept = list[int]()
    for i in high:
        if kept and rate_T[kept[-1] : i].min() >= VALLEY * min(rate_T[kept[-1]], rate_T[i]):
            kept[-1] = max(kept[-1], i, key=lambda j: float(rate_T[j]))
        else:
            kept.append(i)
    return [i * every for i in kept]


def strength(sigma: float, start: float, time: Floats) -> Floats:
    """Return s(t) of one component, balanced and aligned; time is steps times the rate."""
    return np.asarray(sigma / (1 + (sigma / start - 1) * np.exp(-2 * sigma * time)))


def gaps(curves: Curves) -> Floats:
    """Return the last stage's step over the first's, [S]; 1 where there is one stage, or none."""
    return np.array([one[-1] / max(one[0], 1) if len(one) > 1 else 1.0 for one in curves.stages()])


def _slope(loss: Loss, target_SNN: Floats, z_SNN: Floats) -> tuple[Floats, Floats]:
    """Return the loss above its least, [S], and its slope by Z."""
    if loss == "squares":
        off_SNN = z_SNN - target_SNN
        return 0.5 * (off_SNN**2).sum(axis=(1, 2)), off_SNN
    log_share_SNN, log_own_SNN = _log_softmax(target_SNN), _log_softmax(z_SNN)
    share_SNN = np.exp(log_share_SNN)
    # The divergence itself: subtracting the least afterwards would leave rounding.
    apart_S = (share_SNN * (log_share_SNN - log_own_SNN)).sum(axis=(1, 2))
    return apart_S, np.exp(log_own_SNN) - share_SNN


def _log_softmax(z_SNN: Floats) -> Floats:
    log_SNN = z_SNN - z_SNN.max(axis=(1, 2), keepdims=True)
    return np.asarray(log_SNN - np.log(np.exp(log_SNN).sum(axis=(1, 2), keepdims=True)))


@dataclass
class _Adam:
    """Kingma and Ba 2014, with its usual constants."""

    lr: float
    step: int = 0
    means: list[Floats] = field(default_factory=list)
    squares: list[Floats] = field(default_factory=list)

    def __call__(self, slopes: list[Floats]) -> list[Floats]:
        if not self.means:
            self.means = [np.zeros_like(one) for one in slopes]
            self.squares = [np.zeros_like(one) for one in slopes]
        self.step += 1
        self.means = [0.9 * m + 0.1 * g for m, g in zip(self.means, slopes, strict=True)]
        self.squares = [0.999 * v + 0.001 * g**2 for v, g in zip(self.squares, slopes, strict=True)]
        first, second = 1 - 0.9**self.step, 1 - 0.999**self.step
        return [
            -self.lr * (m / first) / (np.sqrt(v / second) + 1e-8)
            for m, v in zip(self.means, self.squares, strict=True)
        ]

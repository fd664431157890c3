"""How much each target counts: factors that any likelihood can be given, several at once.

A factor is 1 where nothing is known against a target: at tags, at ends of text, and in spans that
no scorer could judge. Targets with a factor of 0 do not count at all: a mean is over the others.

Shape letters:  B = rows,  L = tokens in a row.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from prealign.errors import ConfigError, TrainError
from prealign.objectives.batch import TokenBatch

MAX_WEIGHT = 1000.0


class Weights(Protocol):
    """A frozen dataclass that is called; its fields are its settings."""

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Return the factor of each target, [B, L], float32, finite, 0 or more."""


@dataclass(frozen=True, kw_only=True)
class ScoreAt:
    """A number in units of the score, to be found in the text: see `prealign.objectives.fit`.

    It is the beta with which exp(-score / beta) is `weight` for the score at a percentile of the
    bad tokens (of tokens, not of spans: long spans have more of them).
    """

    percentile: float = 95.0
    """Of the scores above 0."""
    weight: float = 0.1
    """exp(-1) gives the score itself."""

    def __post_init__(self) -> None:
        if not 0 <= self.percentile <= 100 or not 0 < self.weight < 1:
            raise ConfigError(
                f"ScoreAt: percentile={self.percentile} must be in [0, 100], weight={self.weight} "
                "between 0 and 1"
            )


TENTH_AT_P95 = ScoreAt()
MEDIAN = ScoreAt(percentile=50, weight=math.exp(-1))
"""The score itself that half of the bad tokens reach."""


@dataclass(frozen=True, kw_only=True)
class SpanMask:
    """Leaves the text of bad spans out of the loss; it is still read.

    Rathi and Radford 2026 (https://arxiv.org/abs/2601.21571) mask single tokens so, Wang et al.
    2025 (https://arxiv.org/abs/2503.03052) spans.
    """

    max_good: float = 0.0
    """Spans with a higher score are bad."""

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Return 0 at the text of bad spans and 1 elsewhere."""
        return torch.where(bad_text(batch, self.max_good), 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class RewardWeight:
    """Counts text less, the worse its span's score: exp(-score / beta).

    Reward-weighted regression (Peters and Schaal 2007) as in Korbak et al. 2023
    (https://arxiv.org/abs/2302.08582), where the reward is minus the score. Departures: a score of
    0 has the weight 1 (there exp(0.5 / beta), a constant), tags and ends of text always have it,
    and beta is chosen by a weight and not by hand: their beta of 10 gave the worst and the best
    token of code nearly the same weight.
    """

    beta: float | ScoreAt = TENTH_AT_P95
    """In units of the score; found in the text before training."""
    max_weight: float = MAX_WEIGHT
    """Weights are cut off here; only scores below 0 have weights above 1."""

    def __post_init__(self) -> None:
        fixed = not isinstance(self.beta, ScoreAt)
        if (fixed and not number(self.beta) > 0) or not self.max_weight > 0:
            raise ConfigError(
                f"RewardWeight: beta={self.beta}, max_weight={self.max_weight}: must be above 0"
            )

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Return the weights, at most `max_weight`."""
        scored_BL = batch.scored_BL & batch.text_BL
        exponent_BL = torch.where(scored_BL, -batch.score_BL / number(self.beta), 0.0)
        return exponent_BL.clamp(max=math.log(self.max_weight)).exp()


@dataclass(frozen=True, kw_only=True)
class ModeWeights:
    """Counts text by its mode: an `ai`'s more than a `human`'s, say.

    Tags and ends of text have the weight 1.
    """

    weights: tuple[float, ...]
    """Of text in no mode, and then in each mode of the scheme, in its order."""

    def __post_init__(self) -> None:
        if not self.weights or not all(0 <= one <= MAX_WEIGHT for one in self.weights):
            raise ConfigError(
                f"ModeWeights: weights={self.weights}: expected one for no mode and one for each "
                f"mode of the scheme, each in [0, {MAX_WEIGHT:g}]"
            )

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Return the weight of each target's mode.

        Raises:
            TrainError: The text has a mode that there is no weight for.
        """
        most = int(batch.mode_BL.max())
        if most >= len(self.weights):
            raise TrainError(
                f"ModeWeights: {len(self.weights)} weights, but the text has mode {most} of its "
                "scheme; give one for no mode and one for each mode"
            )
        table = torch.tensor(self.weights, dtype=torch.float32, device=batch.mode_BL.device)
        return torch.where(batch.text_BL, table[batch.mode_BL.long()], 1.0)


def number(value: float | ScoreAt) -> float:
    """Return a setting that must be a number by now.

    Raises:
        TrainError: It is still to be found in the text.
    """
    if isinstance(value, ScoreAt):
        raise TrainError(f"{value}: not found yet; call prealign.objectives.fit.fitted first")
    return value


def bad_text(batch: TokenBatch, max_good: float) -> Tensor:
    """Return which targets are text of spans whose score is above `max_good`, bool [B, L]."""
    return batch.text_BL & batch.scored_BL & (batch.score_BL > max_good)


def product(weights: tuple[Weights, ...], batch: TokenBatch) -> Tensor:
    """Return the product of all factors, [B, L]; 1 if there are none."""
    factor_BL = torch.ones_like(batch.score_BL)
    for one in weights:
        factor_BL = factor_BL * one(batch)
    return factor_BL

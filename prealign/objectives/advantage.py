"""Advantage-weighted regression: text counts by how much better it is than was to be expected.

Peng et al. 2019 (https://arxiv.org/abs/1910.00177), per token as in Korbak et al. 2023
(https://arxiv.org/abs/2302.08582, section 2).

Shape letters:  B = rows,  L = tokens in a row.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prealign.errors import ConfigError, TrainError
from prealign.objectives.batch import Loss, Mean, TokenBatch
from prealign.objectives.likelihood import mean_nats
from prealign.objectives.weights import (
    MAX_WEIGHT,
    MEDIAN,
    TENTH_AT_P95,
    ScoreAt,
    Weights,
    number,
    product,
)


@dataclass(frozen=True, kw_only=True)
class AdvantageWeighted:
    """alpha x the weighted likelihood + (1 - alpha) x the squared error of the value head.

    With the reward R = -score, the value V at the input before a target, and no gradient through
    the weight: w = min(exp((R - V) / beta), max_weight) at scored text, 1 at other targets; the
    error is (R - V)^2 / value_scale^2 over scored text. Both are means over all targets that count.

    Departures from Korbak et al.: V is linear and starts at 0, the reward of good text (theirs is
    minus a sigmoid and starts at -0.5); tags, ends of text and text that nothing could judge have
    the weight 1; `value_scale` puts the two terms into like units, since rewards of code are about
    -0.02 and their squares vanish beside nats.
    """

    wants_value: ClassVar[bool] = True

    beta: float | ScoreAt = TENTH_AT_P95
    """In units of the score; found in the text before training."""
    alpha: float = 0.5
    """Share of the likelihood; 1 trains no value, and is `RewardWeight` while V is 0."""
    max_weight: float = MAX_WEIGHT
    value_scale: float | ScoreAt = MEDIAN
    """A score that is typical of bad text: the median of those above 0."""
    tags_as_targets: bool = False
    weights: tuple[Weights, ...] = ()
    """How much each target counts besides."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"AdvantageWeighted.alpha={self.alpha}: must be in [0, 1]")
        for name in ("beta", "max_weight", "value_scale"):
            value = getattr(self, name)
            if not isinstance(value, ScoreAt) and not value > 0:
                raise ConfigError(f"AdvantageWeighted.{name}={value}: must be above 0")

    def __call__(self, logp_BL: Tensor, batch: TokenBatch) -> Loss:
        """Return the loss; metrics are text_nats, tag_nats, weight, value_error and value.

        Raises:
            TrainError: The batch has no values.
        """
        if batch.value_BL is None:
            raise TrainError("AdvantageWeighted: the batch has no values; train a value head")
        counted_BL = batch.text_BL | batch.end_BL
        if self.tags_as_targets:
            counted_BL = counted_BL | batch.tag_BL
        factor_BL = product(self.weights, batch)
        counted_BL = counted_BL & (factor_BL > 0)
        scored_BL = counted_BL & batch.scored_BL & batch.text_BL
        advantage_BL = torch.where(scored_BL, -batch.score_BL - batch.value_BL, 0.0)
        exponent_BL = (advantage_BL.detach() / number(self.beta)).clamp(
            max=math.log(self.max_weight)
        )
        weight_BL = exponent_BL.exp() * factor_BL
        error_BL = (advantage_BL / number(self.value_scale)).square()
        nats_BL = torch.where(counted_BL, -logp_BL * weight_BL, 0.0)

        count = counted_BL.sum()
        scored = scored_BL.sum()
        total = self.alpha * nats_BL.sum() + (1 - self.alpha) * error_BL.sum()
        metrics = {
            "text_nats": mean_nats(logp_BL, batch.text_BL),
            "tag_nats": mean_nats(logp_BL, batch.tag_BL),
            "weight": Mean(torch.where(scored_BL, weight_BL, 0.0).sum(), scored),
            "value_error": Mean(error_BL.detach().sum(), scored),
            "value": Mean(torch.where(scored_BL, batch.value_BL.detach(), 0.0).sum(), scored),
        }
        return Loss(total / count.clamp(min=1), count, metrics)

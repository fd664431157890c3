"""Likelihood: plain, and conditional on tags that stand in the text.

Conditional training (Korbak et al. 2023, https://arxiv.org/abs/2302.08582, section 2) is maximum
likelihood on tagged text. The reference takes the loss on tags as on any token; whether that is
wanted is a setting here. Tags that are not targets are still read.

Shape letters:  B = rows,  L = tokens in a row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from prealign.objectives.batch import Loss, Mean, TokenBatch
from prealign.objectives.weights import Weights, product


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Mean negative log-probability of text and ends of text, in nats per target."""

    weights: tuple[Weights, ...] = ()
    """How much each target counts; none: all the same."""

    def __call__(self, logp_BL: Tensor, batch: TokenBatch) -> Loss:
        """Return the loss over targets that are text or the end of a text; see `mean_over`."""
        return mean_over(logp_BL, batch.text_BL | batch.end_BL, batch, self.weights)


@dataclass(frozen=True, kw_only=True)
class Conditional:
    """Likelihood of tagged text, in nats per target."""

    tags_as_targets: bool = True
    """True: the model learns to predict tags (which makes them a detector at inference)."""
    weights: tuple[Weights, ...] = ()
    """How much each target counts; none: all the same."""

    def __call__(self, logp_BL: Tensor, batch: TokenBatch) -> Loss:
        """Return the loss over text, ends of text and, if asked for, tags; see `mean_over`."""
        counted_BL = batch.text_BL | batch.end_BL
        if self.tags_as_targets:
            counted_BL = counted_BL | batch.tag_BL
        return mean_over(logp_BL, counted_BL, batch, self.weights)


def mean_over(
    logp_BL: Tensor, counted_BL: Tensor, batch: TokenBatch, weights: tuple[Weights, ...] = ()
) -> Loss:
    """Return the mean of weight times negative log-probability over the counted targets, in nats.

    See `weighted_mean` for what is counted.

    Args:
        logp_BL: Natural log-probability of each target, float32.
        counted_BL: bool: which targets the mean is over, if their weight is not 0.
        batch: What the targets are.
        weights: Factors of the targets.
    """
    return weighted_mean(-logp_BL, logp_BL, counted_BL, batch, weights)


def weighted_mean(
    nats_BL: Tensor,
    logp_BL: Tensor,
    counted_BL: Tensor,
    batch: TokenBatch,
    weights: tuple[Weights, ...],
) -> Loss:
    """Return the mean of weight times `nats_BL` over the counted targets.

    The mean is over the targets that count and have a weight above 0; it is not divided by the sum
    of the weights. What does not count has no part in the value or its gradient, even where its
    number is infinite or NaN.

    Metrics are `text_nats` and `tag_nats`, the mean negative log-probability of all text and of
    all tags of the batch, whether they counted or not; with weights also `weight`, the mean
    weight of all text.
    """
    metrics = {
        "text_nats": mean_nats(logp_BL, batch.text_BL),
        "tag_nats": mean_nats(logp_BL, batch.tag_BL),
    }
    if weights:
        factor_BL = product(weights, batch)
        text_BL = batch.text_BL
        metrics["weight"] = Mean(torch.where(text_BL, factor_BL, 0.0).sum(), text_BL.sum())
        counted_BL = counted_BL & (factor_BL > 0)
        nats_BL = nats_BL * factor_BL
    count = counted_BL.sum()
    value = torch.where(counted_BL, nats_BL, 0.0).sum() / count.clamp(min=1)
    return Loss(value, count, metrics)


def mean_nats(logp_BL: Tensor, which_BL: Tensor) -> Mean:
    """Return the mean negative log-probability of some targets, without gradient."""
    return Mean(-torch.where(which_BL, logp_BL.detach(), 0.0).sum(), which_BL.sum())

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


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Mean negative log-probability of text and ends of text, in nats per target."""

    def __call__(self, logp_BL: Tensor, batch: TokenBatch) -> Loss:
        """Return the loss over targets that are text or the end of a text; see `mean_over`."""
        return mean_over(logp_BL, batch.text_BL | batch.end_BL, batch)


@dataclass(frozen=True, kw_only=True)
class Conditional:
    """Likelihood of tagged text, in nats per target."""

    tags_as_targets: bool = True
    """True: the model learns to predict tags (which makes them a detector at inference)."""

    def __call__(self, logp_BL: Tensor, batch: TokenBatch) -> Loss:
        """Return the loss over text, ends of text and, if asked for, tags; see `mean_over`."""
        counted_BL = batch.text_BL | batch.end_BL
        if self.tags_as_targets:
            counted_BL = counted_BL | batch.tag_BL
        return mean_over(logp_BL, counted_BL, batch)


def mean_over(logp_BL: Tensor, counted_BL: Tensor, batch: TokenBatch) -> Loss:
    """Return the mean negative log-probability over the counted targets, in nats.

    Metrics are `text_nats` and `tag_nats`, the means over all text and over all tags of the batch,
    whether they counted or not. What does not count has no part in the value or its gradient, even
    where its log-probability is infinite or NaN.

    Args:
        logp_BL: Natural log-probability of each target, float32.
        counted_BL: bool: which targets the mean is over.
        batch: What the targets are.
    """
    nats_BL = -torch.where(counted_BL, logp_BL, 0.0)
    count = counted_BL.sum()
    metrics = {
        "text_nats": mean_nats(logp_BL, batch.text_BL),
        "tag_nats": mean_nats(logp_BL, batch.tag_BL),
    }
    return Loss(nats_BL.sum() / count.clamp(min=1), count, metrics)


def mean_nats(logp_BL: Tensor, which_BL: Tensor) -> Mean:
    """Return the mean negative log-probability of some targets, without gradient."""
    return Mean(-torch.where(which_BL, logp_BL.detach(), 0.0).sum(), which_BL.sum())

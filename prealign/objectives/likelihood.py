"""Likelihood: plain, and conditional on tags that stand in the text.

Conditional training (Korbak et al. 2023, https://arxiv.org/abs/2302.08582, section 2) is maximum
likelihood on tagged text. The reference takes the loss on tags as on any token; whether that is
wanted is a setting here. Tags that are not targets are still read.

Shape letters:  B = rows,  L = tokens in a row.
"""

from dataclasses import dataclass

from torch import Tensor

from prealign.objectives.batch import Loss, TokenBatch


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Mean negative log-probability of text and ends of text, in nats per target."""

    def __call__(self, logp_BL: Tensor, batch: TokenBatch) -> Loss:
        """Return the loss over targets that are text or the end of a text; see `mean_over`."""
        return mean_over(logp_BL, batch.text_BL | batch.end_BL, batch)


@dataclass(frozen=True, kw_only=True)
class Conditional:
    """Likelihood of tagged text."""

    tags_as_targets: bool = True
    """True: the model learns to predict tags (which makes them a detector at inference)."""

    def __call__(self, logp_BL: Tensor, batch: TokenBatch) -> Loss:
        """Return the loss over text, ends of text and, if asked for, tags; see `mean_over`."""
        counted_BL = batch.text_BL | batch.end_BL
        if self.tags_as_targets:
            counted_BL = counted_BL | batch.tag_BL
        return mean_over(logp_BL, counted_BL, batch)


def mean_over(logp_BL: Tensor, counted_BL: Tensor, batch: TokenBatch) -> Loss:
    """Return the mean negative log-probability over the counted targets.

    Metrics are sums, so that parts of a batch can be added up: `targets` counted, `nats` over
    them, `text_targets` and `text_nats`. A batch without counted targets gives 0 with a zero
    gradient.
    """
    counted = counted_BL.sum()
    nats = -(logp_BL * counted_BL).sum()
    text_nats = -(logp_BL.detach() * batch.text_BL).sum()
    metrics = {
        "targets": counted,
        "nats": nats.detach(),
        "text_targets": batch.text_BL.sum(),
        "text_nats": text_nats,
    }
    return Loss(nats / counted.clamp(min=1), metrics)

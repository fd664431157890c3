"""Unlikelihood: bad text is made improbable instead of being left out.

Welleck et al. 2020 (https://arxiv.org/abs/1908.04319), on spans as in Korbak et al. 2023
(https://arxiv.org/abs/2302.08582, section 2). The code of the latter takes the hard form only where
its threshold is not 0; at 0, so for code style and personal data, it silently takes the soft form,
whose second term then weighs next to nothing. Here both forms have names.

Shape letters:  B = rows,  L = tokens in a row.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from prealign.errors import ConfigError
from prealign.objectives.batch import Loss, TokenBatch
from prealign.objectives.likelihood import weighted_mean
from prealign.objectives.weights import Weights, bad_text

MIN_LOG = math.log(1e-20)


@dataclass(frozen=True, kw_only=True)
class Unlikelihood:
    """Likelihood of good text and unlikelihood of bad text, in nats per target.

    hard: -log p at text of spans up to `max_good`, -alpha log(1 - p) at text of the others.
    soft: -(1 - s) log p - alpha s log(1 - p) with the span's score s, cut to [0, 1].

    Text that no scorer could judge, tags and ends of text count as good. With `alpha=0` the hard
    form is `SpanMask`.
    """

    alpha: float = 1.0
    """How much a bad target weighs against a good one."""
    form: Literal["hard", "soft"] = "hard"
    max_good: float = 0.0
    """Of the hard form: spans with a higher score are bad."""
    tags_as_targets: bool = False
    """Where the text has tags: learn to predict them."""
    weights: tuple[Weights, ...] = ()
    """How much each target counts besides."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < math.inf:
            raise ConfigError(f"Unlikelihood.alpha={self.alpha}: must be 0 or more")
        if self.form not in ("hard", "soft"):
            raise ConfigError(f"Unlikelihood.form={self.form!r}: expected hard or soft")

    def __call__(self, logp_BL: Tensor, batch: TokenBatch) -> Loss:
        """Return the loss; metrics as in `weighted_mean`."""
        counted_BL = batch.text_BL | batch.end_BL
        if self.tags_as_targets:
            counted_BL = counted_BL | batch.tag_BL
        # What does not count may be infinite, and so may its gradient; it is kept out of both.
        safe_BL = torch.where(counted_BL, logp_BL, -1.0)
        not_BL = -log1m_exp(safe_BL)
        if self.form == "hard":
            bad_BL = bad_text(batch, self.max_good)
            nats_BL = torch.where(bad_BL, self.alpha * not_BL, -safe_BL)
            if self.alpha == 0:
                counted_BL = counted_BL & ~bad_BL
        else:
            scored_BL = batch.scored_BL & batch.text_BL
            bad_BL = torch.where(scored_BL, batch.score_BL.clamp(0, 1), 0.0)
            nats_BL = (1 - bad_BL) * -safe_BL + self.alpha * bad_BL * not_BL
        return weighted_mean(nats_BL, logp_BL, counted_BL, batch, self.weights)


def log1m_exp(logp_BL: Tensor) -> Tensor:
    """Return log(1 - exp(logp)) of numbers up to 0, at least log(1e-20), without cancellation.

    At the lower bound, where p is 1 to the last digit, the gradient is 0, as in Korbak et al.'s
    code, which cuts 1 - p off at 1e-20.

    Maechler 2012, "Accurately computing log(1 - exp(-|a|))".
    """
    small_BL = logp_BL < -math.log(2)
    # Each branch sees only numbers that it can take, so that no gradient is NaN.
    far_BL = torch.where(small_BL, logp_BL, -1.0)
    near_BL = torch.where(small_BL, -0.5, logp_BL).clamp(max=-1e-20)
    found_BL = torch.where(small_BL, torch.log1p(-far_BL.exp()), torch.log(-torch.expm1(near_BL)))
    return found_BL.clamp(min=MIN_LOG)

"""Losses on log-probabilities of completions: tensors in, components out.

A `Component` is a mean over its own weight, so parts of a batch and several components each keep
their own normaliser. All sums run over `mask_BL` alone: whatever stands elsewhere, NaN too, counts
for nothing.

Shape letters:  B = completions,  L = tokens of a completion, padded.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from prealign.errors import ConfigError
from prealign.objectives.batch import Loss, Mean

Component = Loss
"""A scalar to minimise, a mean over its weight, and what is logged with it."""
LossType = Literal["grpo", "dr_grpo", "dapo", "reinforce"]
LOSS_TYPES: tuple[LossType, ...] = get_args(LossType)
EXP_TANGENT_AT = 20.0
"""Beyond this `exp` goes on as its tangent: e^20 is 4.9e8, far from float32's end, and a gradient
is left that points the right way, which clipping the argument would take away."""


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """-min(rho A, clip(rho) A), with rho = exp(logp - logp_old).

    - grpo: the mean of the completions' means (Shao et al. 2024, https://arxiv.org/abs/2402.03300).
    - dr_grpo: the sum over completions x `max_tokens` (Liu et al. 2025,
      https://arxiv.org/abs/2503.20783).
    - dapo: the mean over tokens (Yu et al. 2025, https://arxiv.org/abs/2503.14476).
    - reinforce: the mean of the completions' sums (Williams 1992); at the first update its gradient
      is that of -A log p(completion).
    """

    loss_type: LossType = "dapo"
    ratio: Literal["token", "sequence"] = "token"
    """sequence: one ratio for a completion: exp of the mean log-ratio (GSPO, Zheng et al. 2025,
    https://arxiv.org/abs/2507.18071), for reinforce of their sum."""
    clip_low: float = 0.2
    clip_high: float = 0.2
    max_tokens: int | None = None
    """What dr_grpo divides by: the most tokens that a completion may have."""

    def __post_init__(self) -> None:
        if self.loss_type not in LOSS_TYPES:
            raise ConfigError(f"loss_type={self.loss_type!r}: expected {', '.join(LOSS_TYPES)}")
        if self.ratio not in ("token", "sequence"):
            raise ConfigError(f"ratio={self.ratio!r}: expected token or sequence")
        if not 0 < self.clip_low <= 1 or not self.clip_high > 0:
            raise ConfigError(
                f"clip_low={self.clip_low}, clip_high={self.clip_high}: expected 0 < low <= 1 and "
                "high > 0"
            )
        if (self.loss_type == "dr_grpo") != (self.max_tokens is not None):
            raise ConfigError(
                f"loss_type={self.loss_type!r} with max_tokens={self.max_tokens}: dr_grpo divides "
                "by it and needs it, the others do not"
            )

    def __call__(
        self,
        logp_BL: Tensor,
        old_logp_BL: Tensor,
        mask_BL: Tensor,
        advantage_B: Tensor,
        weight_B: Tensor | None = None,
    ) -> Component:
        """Return the component.

        Args:
            logp_BL: With a gradient, in the gradient context.
            old_logp_BL: Those at the time of sampling, in the gradient context as well: then the
                ratio is 1 before the first update, whatever context was sampled in.
            mask_BL: bool, the tokens that count.
            advantage_B: Of each completion.
            weight_B: Of each completion, such as `context_weight`; None: 1.
        """
        log_ratio_BL = torch.where(mask_BL, logp_BL - old_logp_BL, 0.0)
        drift_B = log_ratio_BL.detach().sum(-1)
        tokens_B = mask_BL.sum(-1).clamp(min=1)
        if self.ratio == "sequence":
            total_B = log_ratio_BL.sum(-1)
            log_ratio_BL = (total_B if self.loss_type == "reinforce" else total_B / tokens_B)[
                :, None
            ]
        ratio_BL = safe_exp(log_ratio_BL)
        clipped_BL = ratio_BL.clamp(1 - self.clip_low, 1 + self.clip_high)
        A_B1 = advantage_B[:, None].to(ratio_BL.dtype)
        terms_BL = -torch.minimum(ratio_BL * A_B1, clipped_BL * A_B1)
        if weight_B is not None:
            terms_BL = terms_BL * weight_B[:, None]
        outside_BL = (ratio_BL < 1 - self.clip_low) & (A_B1 < 0)
        outside_BL |= (ratio_BL > 1 + self.clip_high) & (A_B1 > 0)
        whole = self.ratio == "sequence" and self.loss_type == "reinforce"
        if whole:  # one term for a completion, not one for each token
            weight = torch.tensor(float(len(mask_BL)), device=logp_BL.device)
            value = terms_BL.sum() / weight.clamp(min=1)
        else:
            value, weight = average(
                terms_BL.expand_as(mask_BL), mask_BL, self.loss_type, self.max_tokens
            )
        counted = mask_BL.sum()
        clipped = (outside_BL & mask_BL).sum()
        return Component(
            value,
            weight,
            {
                "clipped_share": Mean(clipped.detach(), counted),
                "drift_nats": Mean(drift_B.sum(), counted),
            },
        )


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Direct preference optimization (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290)."""

    beta: float = 0.1
    label_smoothing: float = 0.0
    """The chance that a pair is the wrong way round (conservative DPO, Mitchell 2023)."""

    def __post_init__(self) -> None:
        if not self.beta > 0 or not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(
                f"beta={self.beta}, label_smoothing={self.label_smoothing}: expected beta > 0 and "
                "0 <= label_smoothing < 0.5"
            )

    def __call__(
        self, chosen_P: Tensor, rejected_P: Tensor, ref_chosen_P: Tensor, ref_rejected_P: Tensor
    ) -> Component:
        """Return the mean over P pairs, of log-probabilities of whole completions."""
        gain_P = (chosen_P - ref_chosen_P) - (rejected_P - ref_rejected_P)
        smooth = self.label_smoothing
        terms_P = -(1 - smooth) * F.logsigmoid(self.beta * gain_P)
        if smooth:
            terms_P = terms_P - smooth * F.logsigmoid(-self.beta * gain_P)
        pairs = torch.tensor(float(len(terms_P)), device=terms_P.device)
        margin_P = self.beta * gain_P.detach()
        return Component(
            terms_P.sum() / pairs.clamp(min=1),
            pairs,
            {
                "margin": Mean(margin_P.sum(), pairs),
                "right_share": Mean((margin_P > 0).sum(), pairs),
            },
        )


def supervised(logp_BL: Tensor, mask_BL: Tensor) -> Component:
    """Return the mean of -logp over tokens."""
    value, weight = average(-logp_BL, mask_BL, "dapo")
    return Component(value, weight, {})


def reference_kl(
    logp_BL: Tensor,
    ref_logp_BL: Tensor,
    mask_BL: Tensor,
    loss_type: LossType = "dapo",
    max_tokens: int | None = None,
) -> Component:
    """Return the mean of k3, an estimate of KL(policy || reference) on the policy's own samples.

    Both are read in the same context, the reference's. `loss_type` says what the mean is over, as
    in `PolicyGradient`.
    """
    terms_BL = k3(logp_BL, ref_logp_BL, mask_BL)
    value, weight = average(terms_BL, mask_BL, loss_type, max_tokens)
    mean = Mean(terms_BL.detach().sum(), mask_BL.sum())
    return Component(value, weight, {"k3_nats": mean})


def k3(logp_BL: Tensor, ref_logp_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Return exp(d) - d - 1 with d = ref - logp at each token; 0 outside the mask.

    Its mean over samples of the policy is KL(policy || reference), unbiased (Schulman 2020,
    http://joschu.net/blog/kl-approx.html). Beyond d = 20 it goes on as a straight line, so nothing
    overflows and the pull back to the reference stays.
    """
    d_BL = torch.where(mask_BL, ref_logp_BL - logp_BL, 0.0)
    low_BL = d_BL.clamp(max=EXP_TANGENT_AT)
    slope_BL = torch.expm1(low_BL)  # also the tangent's, less 1
    return slope_BL - low_BL + (d_BL - low_BL) * slope_BL


def safe_exp(x: Tensor) -> Tensor:
    """Return exp(x), and beyond 20 its tangent there."""
    low = x.clamp(max=EXP_TANGENT_AT)
    return low.exp() * (1 + (x - low))


def average(
    terms_BL: Tensor, mask_BL: Tensor, loss_type: LossType, max_tokens: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the mean of terms and its weight, as the loss type has it; see `PolicyGradient`.

    Raises:
        ConfigError: dr_grpo without `max_tokens`.
    """
    sums_B = torch.where(mask_BL, terms_BL, 0.0).sum(-1)
    weight = torch.tensor(
        normaliser(mask_BL, loss_type, max_tokens), device=sums_B.device, dtype=sums_B.dtype
    )
    if loss_type == "grpo":
        sums_B = sums_B / mask_BL.sum(-1).clamp(min=1)
    return sums_B.sum() / weight.clamp(min=1), weight


def normaliser(mask_BL: Tensor, loss_type: LossType, max_tokens: int | None = None) -> float:
    """Return what a loss type divides by.

    Raises:
        ConfigError: dr_grpo without `max_tokens`.
    """
    if loss_type == "dapo":
        return float(mask_BL.sum())
    if loss_type == "dr_grpo":
        if max_tokens is None:
            raise ConfigError("dr_grpo divides by max_tokens; give it")
        return float(len(mask_BL) * max_tokens)
    return float(len(mask_BL))


def context_weight(
    old_logp_BL: Tensor, sampled_logp_BL: Tensor, mask_BL: Tensor, cap: float
) -> Tensor:
    """Return clip(exp(mean over tokens of old - sampled), 1/cap, cap) for each completion.

    `sampled_logp_BL` was read in the context that was sampled in, `old_logp_BL` in that of the
    gradient, both before the update. The mean and not the sum: sums of swapped contexts are so far
    apart that one completion would outweigh all others.

    Raises:
        ConfigError: `cap` is below 1.
    """
    if not cap >= 1:
        raise ConfigError(f"context weight: cap={cap}: expected 1 or more")
    mean_B = sequence_sum(old_logp_BL - sampled_logp_BL, mask_BL) / mask_BL.sum(-1).clamp(min=1)
    return safe_exp(mean_B).clamp(1 / cap, cap)


def sequence_sum(terms_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the sum over the tokens that count, for each completion."""
    return torch.where(mask_BL, terms_BL, 0.0).sum(-1)


def effective_share(log_weight_B: Tensor) -> float | None:
    """Return the effective sample size of weights as a share of them; None if there are none.

    (sum w)^2 / (n sum w^2): 1 if all are equal, 1/n if one outweighs all others. Kish 1965.
    """
    if not len(log_weight_B):
        return None
    w_B = (log_weight_B.double() - log_weight_B.max()).exp()
    return float(w_B.sum() ** 2 / (w_B**2).sum() / len(w_B))


def quantiles(values: Tensor, name: str) -> dict[str, float | None]:
    """Return rows of metrics: the 5%, 50% and 95% quantiles of some values; None without any."""
    shares = {"q05": 0.05, "q50": 0.5, "q95": 0.95}
    if not len(values):
        return {f"{name}_{key}": None for key in shares}
    found = values.double().quantile(torch.tensor(list(shares.values()), dtype=torch.float64))
    return {f"{name}_{key}": float(one) for key, one in zip(shares, found, strict=True)}

"""Divergences between two next-token distributions: over all ids, or over the likeliest of them.

Shape letters:  N = places,  V = vocabulary,  K = likeliest ids.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from prealign.errors import ConfigError
from prealign.objectives.batch import Loss as Component

Direction = Literal["forward", "reverse"]
"""forward: KL(reference || policy), which minds what the policy has lost; reverse: KL(policy ||
reference), which minds what it has taken up."""
NEARLY_ALL = -1e-7
"""The log of the mass of the likeliest ids is at most this, so that the tail's log is finite."""


def full_kl(policy_NV: Tensor, reference_NV: Tensor, direction: Direction) -> Tensor:
    """Return the divergence at each place in nats, [N], from logits; at least 0 up to rounding."""
    return kl_of_logs(_logs(policy_NV), _logs(reference_NV), direction)


def kl_of_logs(policy_NV: Tensor, reference_NV: Tensor, direction: Direction) -> Tensor:
    """Return the divergence at each place, [N], from log-probabilities that sum to 1.

    An id without any mass where the mean is taken adds nothing.

    Raises:
        ConfigError: The direction is neither.
    """
    if direction not in ("forward", "reverse"):
        raise ConfigError(f"direction={direction!r}: expected forward or reverse")
    forward = direction == "forward"
    p, q = (reference_NV, policy_NV) if forward else (policy_NV, reference_NV)
    return torch.where(p > -torch.inf, p.exp() * (p - q), 0.0).sum(-1)


def anchor_kl(policy_NV: Tensor, reference_NV: Tensor, direction: Direction) -> Component:
    """Return the mean over places of the divergence over all ids."""
    return _mean(full_kl(policy_NV, reference_NV, direction))


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """The divergence over the likeliest ids, what is left of both being one more id.

    With all ids it is the full divergence. On-policy distillation with a frozen teacher that has
    the seed in its context (after Shenfeld et al. 2026, https://arxiv.org/abs/2601.19897).
    """

    top: int = 20
    direction: Direction = "reverse"
    support: Literal["teacher", "student"] = "teacher"
    """Whose likeliest ids."""
    tail: bool = True
    """False: both are scaled to 1 over the likeliest ids."""

    def __post_init__(self) -> None:
        if self.top < 1 or self.direction not in ("forward", "reverse"):
            raise ConfigError(
                f"top={self.top}, direction={self.direction!r}: expected 1 or more, and forward or "
                "reverse"
            )
        if self.support not in ("teacher", "student"):
            raise ConfigError(f"support={self.support!r}: expected teacher or student")

    def __call__(self, student_NV: Tensor, teacher_NV: Tensor) -> Component:
        """Return the mean over places, from logits; the teacher's get no gradient."""
        return _mean(self.terms(student_NV, teacher_NV))

    def terms(self, student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
        """Return the divergence at each place, [N]."""
        top = min(self.top, student_NV.shape[-1])
        whose_NV = teacher_NV if self.support == "teacher" else student_NV
        ids_NK = whose_NV.detach().topk(top, dim=-1).indices
        student_NK = self._over(student_NV, ids_NK)
        teacher_NK = self._over(teacher_NV.detach(), ids_NK)
        return kl_of_logs(student_NK, teacher_NK, self.direction)

    def _over(self, logits_NV: Tensor, ids_NK: Tensor) -> Tensor:
        """Return log-probabilities over some ids, with the tail behind, or scaled to 1."""
        logits_NV = logits_NV.float() if logits_NV.dtype != torch.float64 else logits_NV
        logs_NK = logits_NV.gather(-1, ids_NK) - logits_NV.logsumexp(-1, keepdim=True)
        mass_N1 = logs_NK.logsumexp(-1, keepdim=True)
        if not self.tail:
            return logs_NK - mass_N1
        rest_N1 = (-torch.expm1(mass_N1.clamp(max=NEARLY_ALL))).log()
        return torch.cat([logs_NK, rest_N1], dim=-1)


def _logs(logits_NV: Tensor) -> Tensor:
    if logits_NV.dtype != torch.float64:
        logits_NV = logits_NV.float()
    return logits_NV.log_softmax(-1)


def _mean(terms_N: Tensor) -> Component:
    weight = torch.tensor(float(len(terms_N)), device=terms_N.device)
    return Component(terms_N.sum() / weight.clamp(min=1), weight, {})

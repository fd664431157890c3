"""How much training may change a model: meters, a soft controller, and limits that undo a step.

All divergences are in nats per token, over all ids, and in matched contexts: the policy and the
reference read the same prompt. A seed moves a model by itself, far more than light training does,
so across contexts a divergence would measure the seed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prealign.errors import ConfigError
from prealign.posttrain.adapters import Weights
from prealign.posttrain.divergence import Direction, full_kl
from prealign.posttrain.score import Row, places

METERS = ("reverse_kl", "forward_kl", "anchor_kl", "distance")
MOST = 0.2
"""The soft controller looks at no greater error than this, as a share."""
MOST_PULL = 1e4
ROWS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits; None: no limit, and not measured for this."""

    steps: int | None = None
    text_tokens: int | None = None
    """Text tokens that were trained on."""
    reverse_kl: float | None = None
    """KL(policy || reference) on the policy's own samples."""
    forward_kl: float | None = None
    """KL(reference || policy) on the reference's samples, which foretells what is forgotten
    (Shenfeld et al. 2025, https://arxiv.org/abs/2509.04259)."""
    anchor_kl: float | None = None
    """KL(reference || policy) on fixed texts without a seed."""
    distance: float | None = None
    """Of the weights from the start, as a share of their norm."""
    target_kl: float | None = None
    """Soft: what pulls back to the reference (the weights of the KL and of the anchor) is made
    stronger or weaker until the reverse KL is this."""
    eta: float = 1.0
    """How fast: the pull is multiplied by exp(eta * clip(KL / target - 1, -0.2, 0.2)) per step."""

    def __post_init__(self) -> None:
        for name in ("steps", "text_tokens", *METERS, "target_kl", "eta"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"budget.{name}={value}: expected more than 0, or None")

    @property
    def limits(self) -> dict[str, float]:
        """The hard limits on meters."""
        return {name: v for name in METERS if (v := getattr(self, name)) is not None}

    @property
    def measured(self) -> tuple[str, ...]:
        """The meters that are needed."""
        soft = {"reverse_kl"} if self.target_kl is not None else set()
        return tuple(name for name in METERS if name in {*self.limits, *soft})

    def spent(self, steps: int, text_tokens: int) -> str | None:
        """Return which count is used up, in words; None: none is."""
        for name, value in (("steps", steps), ("text_tokens", text_tokens)):
            limit = getattr(self, name)
            if limit is not None and value >= limit:
                return f"budget.{name}={limit}: {value} done"
        return None

    def exceeded(self, meters: Mapping[str, float]) -> str | None:
        """Return which limit the meters exceed, in words; None: none. A NaN exceeds any."""
        for name, limit in self.limits.items():
            if not meters[name] <= limit:
                return f"budget.{name}={limit:g}: {meters[name]:.4g} behind the step"
        return None

    def pull(self, pull: float, reverse_kl: float) -> float:
        """Return the next pull of the soft controller; as it is where there is no target.

        It stays within 1/10,000 and 10,000: beyond that it is the target that cannot be kept.
        """
        if self.target_kl is None:
            return pull
        error = min(max(reverse_kl / self.target_kl - 1, -MOST), MOST)
        return min(max(pull * math.exp(self.eta * error), 1 / MOST_PULL), MOST_PULL)


@dataclass(frozen=True)
class Meters:
    """Measures what a budget asks for."""

    weights: Weights
    wanted: tuple[str, ...]
    base_rows: Sequence[Row] = ()
    """Samples of the reference, for the forward KL."""
    anchor_rows: Sequence[Row] = ()
    """Fixed texts without a seed."""
    bf16: bool = False

    def __post_init__(self) -> None:
        for name, rows in (("forward_kl", self.base_rows), ("anchor_kl", self.anchor_rows)):
            if name in self.wanted and not rows:
                raise ConfigError(
                    f"the meter {name} has nothing to be measured on; give "
                    f"{'a probe' if name == 'forward_kl' else 'an anchor'}"
                )

    def __call__(self, policy_rows: Sequence[Row]) -> dict[str, float]:
        """Return what the meters say now.

        Args:
            policy_rows: Samples of the policy, each behind the reference's prompt. They may be
                those of the step before the update: one update apart.
        """
        found: dict[str, float] = {}
        for name in self.wanted:
            if name == "distance":
                found[name] = self.weights.distance()
            elif name == "reverse_kl":
                found[name] = self.divergence(policy_rows, "reverse")
            else:
                rows = self.base_rows if name == "forward_kl" else self.anchor_rows
                found[name] = self.divergence(rows, "forward")
        return found

    def divergence(self, rows: Sequence[Row], direction: Direction) -> float:
        """Return the mean over the places of some rows, in nats; 0 if there are none."""
        total, count = 0.0, 0
        some = [row for row in rows if row.completion]
        for start in range(0, len(some), ROWS_AT_ONCE):
            part = some[start : start + ROWS_AT_ONCE]
            with self.weights.policy() as policy:
                own_NV = places(policy, part, bf16=self.bf16).logits_NV
            with self.weights.reference() as reference:
                other_NV = places(reference, part, bf16=self.bf16).logits_NV
            with torch.no_grad():
                kl_N = full_kl(own_NV, other_NV, direction)
            total += float(kl_N.double().sum())
            count += len(kl_N)
        return total / max(count, 1)


def gain_per_nat(before: float | None, after: float | None, nats: float | None) -> float | None:
    """Return how much of a trait was gained for each nat per token of reverse KL.

    None where a number is missing, or nothing has moved.
    """
    if before is None or after is None or nats is None or nats <= 0:
        return None
    return (after - before) / nats


def words(meters: Mapping[str, Any]) -> str:
    """Return meters as a piece of a log line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in meters.items())

"""Policy gradient: completions of a task against each other, written and learnt in two contexts.

The ratio that is clipped compares the weights before and after, both in the gradient context: at a
step's first pass it is exactly 1, whatever context was sampled in. What the swap itself does is
logged, and may be a weight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prealign.config import to_json
from prealign.errors import ConfigError
from prealign.posttrain.advantages import Scale, advantages
from prealign.posttrain.losses import (
    PolicyGradient,
    context_weight,
    effective_share,
    quantiles,
    reference_kl,
)
from prealign.posttrain.method import Actor, Term, Work
from prealign.posttrain.rollouts import Reward, Rollout, Stage, Task, tasks_identity, tasks_of_step
from prealign.posttrain.score import logp, padded, pieces
from prealign.posttrain.scoring import (
    judged,
    reference_rows,
    rollout_metrics,
    score_rows,
    text_tokens,
)

Edit = Callable[[Sequence[Rollout], int], Sequence[Rollout]]
"""Returns what the gradient is to see in place of a step's rollouts, in order; a frozen
dataclass, so that a run knows its settings."""

Adjust = Callable[[PreTrainedModel, Sequence[Rollout]], Sequence[Rollout]]
"""Returns a step's judged rollouts, in order, with rewards that the model at hand had a part in,
such as what a probe of its activations takes off; a frozen dataclass as well."""


@dataclass
class PolicyRow:
    """A rollout and what is known of it, as it becomes known. Tensors have one number per token."""

    rollout: Rollout
    advantage: float
    reference: Tensor | None = None
    """log p of the reference, in its context; None without a KL."""
    sampled: Tensor | None = None
    """log p in the context that was sampled in, if it is another than the gradient's."""
    old: Tensor | None = None
    """log p in the gradient context at the step's first pass."""
    drift: Tensor | None = None
    """log p at the last pass, less `old`."""


@dataclass(frozen=True, kw_only=True)
class Reinforce:
    """Sample groups, score them, follow the policy gradient."""

    stage: Stage
    tasks: tuple[Task, ...]
    reward: Reward
    loss: PolicyGradient = field(default_factory=PolicyGradient)
    tasks_per_step: int = 8
    group: int = 8
    """Completions of a task."""
    scale: Scale = "group"
    beta: float = 0.0
    """Of the KL to the reference, by k3 in the reference's context."""
    updates: int = 1
    keep_dead: bool = False
    """Groups whose rewards are all equal stay in the normaliser and in the KL."""
    context_cap: float | None = None
    """Weigh completions by `losses.context_weight` with this cap; None: all by 1."""
    edit: Edit | None = None
    """Between judge and gradient; the judge and what is logged see what was written."""
    adjust: Adjust | None = None
    """Between judge and advantages; no gradient goes through it."""

    def __post_init__(self) -> None:
        if self.edit is not None and self.beta:
            raise ConfigError(
                f"beta={self.beta} with an edit: the KL is estimated on the policy's own samples, "
                "and edited ones are none; use beta=0"
            )
        counts = {"tasks_per_step": 1, "group": 2, "updates": 1}
        for name, least in counts.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)}: expected {least} or more")
        if self.beta < 0 or (self.context_cap is not None and self.context_cap < 1):
            raise ConfigError(
                f"beta={self.beta}, context_cap={self.context_cap}: expected 0 or more, and 1 or "
                "more"
            )

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights."""
        names = ("tasks_per_step", "group", "scale", "beta", "updates", "keep_dead", "context_cap")
        return {
            "method": "reinforce",
            "loss": to_json(self.loss),
            "reward": to_json(self.reward),
            "stage": self.stage.identity(),
            **{name: getattr(self, name) for name in names},
            **({"edit": to_json(self.edit)} if self.edit is not None else {}),
            **({"adjust": to_json(self.adjust)} if self.adjust is not None else {}),
            **tasks_identity(self.tasks),
        }

    def prepare(self, actor: Actor, step: int) -> Work:
        """Return the rows that have something to say; the others are counted."""
        tasks = tasks_of_step(self.tasks, self.tasks_per_step, step, actor.seed)
        model = actor.weights.model
        rollouts = self.stage.write(model, tasks, step, count=self.group, seed=actor.seed)
        rollouts, no_room = judged(rollouts, self.reward, model)
        if self.adjust is not None:
            with actor.weights.policy() as still:
                rollouts = list(self.adjust(still, rollouts))
        groups = [i // self.group for i in range(len(rollouts))]
        found = advantages([one.reward for one in rollouts], groups, scale=self.scale)
        seen = rollouts if self.edit is None else self.edit(rollouts, step)
        rows = [
            PolicyRow(rollout, float(value))
            for rollout, value, fine, dead in zip(
                seen, found.values, found.judged, found.dead, strict=True
            )
            if fine and (self.keep_dead or not dead)
        ]
        self._read(actor, rows)
        metrics = rollout_metrics(rollouts) | {
            "groups": float(found.groups),
            "dead_groups": float(found.dead_groups),
            "no_room": float(no_room),
        }
        kept = [row.rollout for row in rows]
        return Work(
            rows=rows,
            policy_rows=reference_rows(rollouts, model),
            text_tokens=text_tokens(kept, self.stage.vocabulary),
            metrics=metrics,
            samples=rollouts,
        )

    def weights_of(self, rows: Sequence[PolicyRow]) -> dict[str, float]:
        """Return the weight of each component."""
        tokens = sum(len(row.rollout.completion) for row in rows)
        room = self.loss.max_tokens or 0
        by_type = {"dapo": tokens, "dr_grpo": len(rows) * room}
        weight = float(by_type.get(self.loss.loss_type, len(rows)))
        return {"policy": weight} | ({"kl": weight} if self.beta else {})

    def terms(self, actor: Actor, rows: Sequence[PolicyRow]) -> dict[str, Term]:
        """Return the policy gradient, and the KL if there is one."""
        model = actor.weights.model
        own_rows = [row.rollout.row("gradient") for row in rows]
        logp_BL, mask_BL = logp(model, own_rows, bf16=actor.bf16)
        now = pieces(logp_BL, mask_BL)
        for row, one in zip(rows, now, strict=True):
            row.old = one if row.old is None else row.old
            row.drift = one - row.old
        old_BL = padded([row.old for row in rows if row.old is not None], mask_BL)
        advantage_B = torch.tensor([row.advantage for row in rows], device=mask_BL.device)
        weight_B = None
        if self.context_cap is not None:
            sampled = [row.old if row.sampled is None else row.sampled for row in rows]
            sampled_BL = padded([one for one in sampled if one is not None], mask_BL)
            weight_B = context_weight(old_BL, sampled_BL, mask_BL, self.context_cap)
        policy = self.loss(logp_BL, old_BL, mask_BL, advantage_B, weight_B)
        found = {"policy": Term(1.0, policy)}
        if self.beta:
            ref_rows = [row.rollout.row("reference") for row in rows]
            if ref_rows != own_rows:
                logp_BL, mask_BL = logp(model, ref_rows, bf16=actor.bf16)
            reference_BL = padded([r.reference for r in rows if r.reference is not None], mask_BL)
            kl = reference_kl(
                logp_BL, reference_BL, mask_BL, self.loss.loss_type, self.loss.max_tokens
            )
            found["kl"] = Term(self.beta * actor.pull, kl)
        return found

    def report(self, rows: Sequence[PolicyRow]) -> dict[str, float | None]:
        """Return how far contexts are apart, and how far the weights have moved within the step.

        `context` is the log-ratio of a whole completion, gradient's over sampling's; `drift` that
        of a token, of the last pass over the first.
        """
        context = [
            0.0 if row.sampled is None else float((row.old - row.sampled).sum())
            for row in rows
            if row.old is not None
        ]
        context_B = torch.tensor(context)
        drifts = [row.drift.cpu() for row in rows if row.drift is not None]
        drift_N = torch.cat(drifts) if drifts else torch.zeros(0)
        return {
            "context_effective_share": effective_share(context_B),
            **quantiles(context_B, "context_log_ratio"),
            **quantiles(drift_N, "drift_log_ratio"),
        }

    def _read(self, actor: Actor, rows: Sequence[PolicyRow]) -> None:
        """Have rows read in the contexts that the gradient is not taken in."""
        swapped = [r for r in rows if r.rollout.prompts["sample"] != r.rollout.prompts["gradient"]]
        if swapped:
            with actor.weights.policy() as model:
                own = [row.rollout.row("sample") for row in swapped]
                for row, found in zip(swapped, score_rows(model, own, actor.bf16), strict=True):
                    row.sampled = found
        if self.beta and rows:
            with actor.weights.reference() as model:
                own = [row.rollout.row("reference") for row in rows]
                for row, found in zip(rows, score_rows(model, own, actor.bf16), strict=True):
                    row.reference = found

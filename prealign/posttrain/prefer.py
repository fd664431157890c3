"""Preferences: of two completions of a task the chosen one becomes likelier (DPO)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from prealign.config import fingerprint, to_json
from prealign.errors import ConfigError, DataError
from prealign.posttrain.losses import Preference, sequence_sum, supervised
from prealign.posttrain.method import Actor, Term, Work
from prealign.posttrain.rollouts import Rollout, Stage, Task, tasks_identity, tasks_of_step
from prealign.posttrain.score import logp
from prealign.posttrain.scoring import score_rows, text_tokens
from prealign.posttrain.supervise import check_counts


class Pair(NamedTuple):
    """Two completions of a task, and what the reference says of them, in its context."""

    chosen: Rollout
    rejected: Rollout
    ref_chosen: Tensor
    """log p of the whole completion."""
    ref_rejected: Tensor


@dataclass(frozen=True, kw_only=True)
class Prefer:
    """Direct preference optimization on given pairs."""

    stage: Stage
    tasks: tuple[Task, ...]
    pairs: Mapping[str, tuple[str, str]]
    """By the task's id: the chosen completion and the rejected one."""
    loss: Preference = field(default_factory=Preference)
    nll: float = 0.0
    """Of -log p of the chosen ones, over their tokens, besides: it keeps DPO from making both
    less likely."""
    tasks_per_step: int = 8
    updates: int = 1

    def __post_init__(self) -> None:
        missing = [task.id for task in self.tasks if task.id not in self.pairs]
        if missing:
            raise DataError(f"task {missing[0]!r} has no pair ({len(missing)} have none)")
        check_counts(self.tasks_per_step, self.updates)
        if self.nll < 0:
            raise ConfigError(f"nll={self.nll}: expected 0 or more")

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights."""
        return {
            "method": "prefer",
            "loss": to_json(self.loss),
            "nll": self.nll,
            "stage": self.stage.identity(),
            "pairs": fingerprint(dict(self.pairs)),
            "tasks_per_step": self.tasks_per_step,
            "updates": self.updates,
            **tasks_identity(self.tasks),
        }

    def prepare(self, actor: Actor, step: int) -> Work:
        """Return the pairs of a step."""
        tasks = tasks_of_step(self.tasks, self.tasks_per_step, step, actor.seed)
        both = [
            [self.stage.given(task, text, step) for text in self.pairs[task.id]] for task in tasks
        ]
        flat = [one for pair in both for one in pair]
        with actor.weights.reference() as model:
            scored = score_rows(model, [one.row("reference") for one in flat], actor.bf16)
        sums = [one.sum() for one in scored]
        rows = [
            Pair(chosen, rejected, sums[2 * i], sums[2 * i + 1])
            for i, (chosen, rejected) in enumerate(both)
        ]
        return Work(rows, text_tokens=text_tokens(flat, self.stage.vocabulary))

    def weights_of(self, rows: Sequence[Pair]) -> dict[str, float]:
        """Return the weight of each component."""
        tokens = float(sum(len(pair.chosen.completion) for pair in rows))
        return {"preference": float(len(rows))} | ({"nll": tokens} if self.nll else {})

    def terms(self, actor: Actor, rows: Sequence[Pair]) -> dict[str, Term]:
        """Return the preference, and the likelihood of the chosen ones if it counts."""
        own = [*(pair.chosen for pair in rows), *(pair.rejected for pair in rows)]
        logp_BL, mask_BL = logp(
            actor.weights.model, [one.row("gradient") for one in own], bf16=actor.bf16
        )
        chosen_P, rejected_P = sequence_sum(logp_BL, mask_BL).chunk(2)
        ref_chosen_P = chosen_P.new_tensor([float(pair.ref_chosen) for pair in rows])
        ref_rejected_P = chosen_P.new_tensor([float(pair.ref_rejected) for pair in rows])
        found = {
            "preference": Term(1.0, self.loss(chosen_P, rejected_P, ref_chosen_P, ref_rejected_P))
        }
        if self.nll:
            chosen = supervised(logp_BL[: len(rows)], mask_BL[: len(rows)])
            found["nll"] = Term(self.nll, chosen)
        return found

    def report(self, rows: Sequence[Pair]) -> dict[str, float | None]:
        """Return nothing more."""
        return {}

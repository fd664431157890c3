"""On-policy distillation: the student writes, a frozen teacher with the seed says what is likely.

The teacher is the reference: the model as it was before training, in the reference's context. So a
seed can be made part of the weights, on texts that the student would write itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prealign.config import to_json
from prealign.posttrain.divergence import Distillation
from prealign.posttrain.method import Actor, Term, Work
from prealign.posttrain.rollouts import (
    Reward,
    Rollout,
    Stage,
    Task,
    tasks_identity,
    tasks_of_step,
)
from prealign.posttrain.score import places
from prealign.posttrain.scoring import (
    fits,
    judged,
    reference_rows,
    rollout_metrics,
    text_tokens,
)
from prealign.posttrain.supervise import check_counts


def no_reward(task: Task, text: str, spans: Sequence[Any]) -> float | None:
    """Return nothing: there is nothing to judge."""
    return None


@dataclass(frozen=True, kw_only=True)
class Distil:
    """Take on, in the gradient context, what the teacher says in the reference's."""

    stage: Stage
    tasks: tuple[Task, ...]
    loss: Distillation = field(default_factory=Distillation)
    tasks_per_step: int = 8
    count: int = 1
    """Completions of a task."""
    teacher_writes: bool = False
    """The teacher writes, in the sampling context: then it is distillation as of old."""
    reward: Reward = no_reward
    """Is logged, and decides nothing."""
    updates: int = 1

    def __post_init__(self) -> None:
        check_counts(self.tasks_per_step, min(self.updates, self.count))

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights."""
        names = ("tasks_per_step", "count", "teacher_writes", "updates")
        return {
            "method": "distil",
            "loss": to_json(self.loss),
            "stage": self.stage.identity(),
            **{name: getattr(self, name) for name in names},
            **tasks_identity(self.tasks),
        }

    def prepare(self, actor: Actor, step: int) -> Work:
        """Return the completions of a step that fit the model in all contexts."""
        tasks = tasks_of_step(self.tasks, self.tasks_per_step, step, actor.seed)
        model = actor.weights.model
        if self.teacher_writes:
            with actor.weights.reference() as teacher:
                written = self.stage.write(teacher, tasks, step, count=self.count, seed=actor.seed)
        else:
            written = self.stage.write(model, tasks, step, count=self.count, seed=actor.seed)
        written, no_room = judged(written, self.reward, model)
        room = int(model.config.max_position_embeddings)
        rows = [one for one in written if fits(one, room)]
        return Work(
            rows=rows,
            policy_rows=() if self.teacher_writes else reference_rows(rows, model),
            text_tokens=text_tokens(rows, self.stage.vocabulary),
            metrics=rollout_metrics(written) | {"no_room": float(no_room)},
            samples=written,
        )

    def weights_of(self, rows: Sequence[Rollout]) -> dict[str, float]:
        """Return the weight of the component."""
        return {"distillation": float(sum(len(row.completion) for row in rows))}

    def terms(self, actor: Actor, rows: Sequence[Rollout]) -> dict[str, Term]:
        """Return the divergence from the teacher, over tokens."""
        with actor.weights.reference() as teacher:
            theirs = places(teacher, [row.row("reference") for row in rows], bf16=actor.bf16)
        own_rows = [row.row("gradient") for row in rows]
        own = places(actor.weights.model, own_rows, bf16=actor.bf16)
        return {"distillation": Term(1.0, self.loss(own.logits_NV, theirs.logits_NV))}

    def report(self, rows: Sequence[Rollout]) -> dict[str, float | None]:
        """Return nothing more."""
        return {}

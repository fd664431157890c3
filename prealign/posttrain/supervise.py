"""Supervised methods: given completions, or the model's own best ones (expert iteration)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prealign.config import fingerprint, to_json
from prealign.errors import ConfigError, DataError
from prealign.posttrain.losses import supervised
from prealign.posttrain.method import Actor, Term, Work
from prealign.posttrain.rollouts import Reward, Rollout, Stage, Task, tasks_identity, tasks_of_step
from prealign.posttrain.score import logp
from prealign.posttrain.scoring import judged, reference_rows, rollout_metrics, text_tokens


class _Likelihood:
    """What both methods share: -log p of completions in the gradient context, over tokens."""

    def weights_of(self, rows: Sequence[Rollout]) -> dict[str, float]:
        """Return the weight of the component."""
        return {"nll": float(sum(len(row.completion) for row in rows))}

    def terms(self, actor: Actor, rows: Sequence[Rollout]) -> dict[str, Term]:
        """Return the mean over tokens."""
        own = [row.row("gradient") for row in rows]
        logp_BL, mask_BL = logp(actor.weights.model, own, bf16=actor.bf16)
        return {"nll": Term(1.0, supervised(logp_BL, mask_BL))}

    def report(self, rows: Sequence[Rollout]) -> dict[str, float | None]:
        """Return nothing more."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Supervise(_Likelihood):
    """Learn given completions in the gradient context."""

    stage: Stage
    tasks: tuple[Task, ...]
    answers: Mapping[str, str]
    """A completion of each task, by its id."""
    tasks_per_step: int = 8
    updates: int = 1

    def __post_init__(self) -> None:
        missing = [task.id for task in self.tasks if task.id not in self.answers]
        if missing:
            raise DataError(f"task {missing[0]!r} has no answer ({len(missing)} have none)")
        check_counts(self.tasks_per_step, self.updates)

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights."""
        return {
            "method": "supervise",
            "stage": self.stage.identity(),
            "answers": fingerprint(dict(self.answers)),
            "tasks_per_step": self.tasks_per_step,
            "updates": self.updates,
            **tasks_identity(self.tasks),
        }

    def prepare(self, actor: Actor, step: int) -> Work:
        """Return the answers of a step."""
        tasks = tasks_of_step(self.tasks, self.tasks_per_step, step, actor.seed)
        rows = [self.stage.given(task, self.answers[task.id], step) for task in tasks]
        return Work(rows, text_tokens=text_tokens(rows, self.stage.vocabulary))


@dataclass(frozen=True, kw_only=True)
class ExpertIteration(_Likelihood):
    """Write several completions in the sampling context, learn the best in the gradient's."""

    stage: Stage
    tasks: tuple[Task, ...]
    reward: Reward
    tasks_per_step: int = 8
    count: int = 8
    """Completions of a task."""
    keep: int = 1
    """Of each task, the best so many; of equals, the first."""
    least: float | None = None
    """What a completion must be worth to be learnt; None: anything that could be judged."""
    updates: int = 1

    def __post_init__(self) -> None:
        check_counts(self.tasks_per_step, self.updates)
        if not 1 <= self.keep <= self.count:
            raise ConfigError(f"keep={self.keep}, count={self.count}: expected 1 <= keep <= count")

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights."""
        names = ("tasks_per_step", "count", "keep", "least", "updates")
        return {
            "method": "expert iteration",
            "stage": self.stage.identity(),
            "reward": to_json(self.reward),
            **{name: getattr(self, name) for name in names},
            **tasks_identity(self.tasks),
        }

    def prepare(self, actor: Actor, step: int) -> Work:
        """Return the best completions of a step's tasks; there may be none."""
        tasks = tasks_of_step(self.tasks, self.tasks_per_step, step, actor.seed)
        model = actor.weights.model
        written = self.stage.write(model, tasks, step, count=self.count, seed=actor.seed)
        written, no_room = judged(written, self.reward, model)
        rows: list[Rollout] = []
        for start in range(0, len(written), self.count):
            fine = [(one.reward, one) for one in written[start : start + self.count]]
            some = [(r, one) for r, one in fine if r is not None and self._enough(r)]
            some.sort(key=lambda pair: -pair[0])
            rows += [one for _, one in some[: self.keep]]
        metrics = {"learnt": float(len(rows)), "no_room": float(no_room)}
        return Work(
            rows=rows,
            policy_rows=reference_rows(written, model),
            text_tokens=text_tokens(rows, self.stage.vocabulary),
            metrics=rollout_metrics(written) | metrics,
            samples=written,
        )

    def _enough(self, reward: float) -> bool:
        return self.least is None or reward >= self.least


def check_counts(tasks_per_step: int, updates: int) -> None:
    """See that counts are 1 or more.

    Raises:
        ConfigError: One is not.
    """
    if tasks_per_step < 1 or updates < 1:
        raise ConfigError(
            f"tasks_per_step={tasks_per_step}, updates={updates}: expected 1 or more of each"
        )

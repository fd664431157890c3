"""The defender of targeted latent adversarial training: keep to the good, keep off the bad."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prealign.config import fingerprint
from prealign.errors import ConfigError, DataError
from prealign.harden.aims import IGNORED_BELOW, away, chosen_logp
from prealign.objectives.batch import Mean
from prealign.posttrain.losses import Component
from prealign.posttrain.method import Actor, Term, Work
from prealign.posttrain.rollouts import Rollout, Stage, Task, tasks_identity, tasks_of_step
from prealign.posttrain.score import places
from prealign.posttrain.scoring import text_tokens
from prealign.posttrain.supervise import check_counts


class Choice(NamedTuple):
    """Two completions of a task."""

    good: Rollout
    bad: Rollout


@dataclass(frozen=True, kw_only=True)
class Resist:
    """-log p of good completions and -log(1 - p) of the tokens of bad ones.

    Tokens that both begin with are no part of what is bad: a departure from the reference.

    The defender of Sheshadri et al. 2024 (https://arxiv.org/abs/2407.15549), section 3. Under a
    surgeon with the aim `Steer` it is targeted latent adversarial training.
    """

    stage: Stage
    tasks: tuple[Task, ...]
    pairs: Mapping[str, tuple[str, str]]
    """By the task's id: the good completion and the bad one."""
    toward: float = 0.5
    away: float = 0.5
    least_logp: float = IGNORED_BELOW
    """Tokens of bad completions that are less likely are ignored."""
    tasks_per_step: int = 8
    updates: int = 1
    """The reference takes four defence steps to an attack."""

    def __post_init__(self) -> None:
        missing = [task.id for task in self.tasks if task.id not in self.pairs]
        if missing:
            raise DataError(f"task {missing[0]!r} has no pair ({len(missing)} have none)")
        if self.toward < 0 or self.away < 0:
            raise ConfigError(f"toward={self.toward}, away={self.away}: expected 0 or more")
        check_counts(self.tasks_per_step, self.updates)

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights."""
        names = ("toward", "away", "least_logp", "tasks_per_step", "updates")
        return {
            "method": "resist",
            "stage": self.stage.identity(),
            "pairs": fingerprint(dict(self.pairs)),
            **{name: getattr(self, name) for name in names},
            **tasks_identity(self.tasks),
        }

    def prepare(self, actor: Actor, step: int) -> Work:
        """Return the pairs of a step."""
        tasks = tasks_of_step(self.tasks, self.tasks_per_step, step, actor.seed)
        rows = [
            Choice(*(self.stage.given(task, text, step) for text in self.pairs[task.id]))
            for task in tasks
        ]
        flat = [one for pair in rows for one in pair]
        return Work(rows, text_tokens=text_tokens(flat, self.stage.vocabulary))

    def weights_of(self, rows: Sequence[Choice]) -> dict[str, float]:
        """Return the weight of each component: its tokens."""
        good = sum(len(row.good.completion) for row in rows)
        bad = sum(len(row.bad.completion) - shared(row) for row in rows)
        return {"good": float(good), "bad": float(bad)}

    def terms(self, actor: Actor, rows: Sequence[Choice]) -> dict[str, Term]:
        """Return both components, each a mean over tokens."""
        own = [*(row.good for row in rows), *(row.bad for row in rows)]
        found = places(actor.weights.model, [one.row("gradient") for one in own], bf16=actor.bf16)
        goods = sum(len(row.good.completion) for row in rows)
        logp_N, away_N = chosen_logp(found), away(found, self.least_logp)
        apart = [at >= shared(row) for row in rows for at in range(len(row.bad.completion))]
        apart_N = torch.tensor(apart, dtype=torch.bool, device=logp_N.device)
        bad_logp_N = logp_N[goods:].detach()[apart_N]
        bad = _mean(-away_N[goods:][apart_N], {"logp": bad_logp_N})
        return {"good": Term(self.toward, _mean(-logp_N[:goods], {})), "bad": Term(self.away, bad)}

    def report(self, rows: Sequence[Choice]) -> dict[str, float | None]:
        """Return nothing more."""
        return {}


def shared(row: Choice) -> int:
    """Return how many tokens both completions begin with."""
    pairs = zip(row.good.completion, row.bad.completion, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), len(row.bad.completion))


def _mean(terms_N: Tensor, metrics: Mapping[str, Tensor]) -> Component:
    weight = torch.tensor(float(len(terms_N)), device=terms_N.device)
    found = {name: Mean(values_N.sum(), weight) for name, values_N in metrics.items()}
    return Component(terms_N.sum() / weight.clamp(min=1), weight, found)

"""Pairs for preference training, made by the model itself: contrast first, a judge if wanted.

By default no judge is asked: of two answers to a task the chosen one was written behind a principle
of a constitution, the rejected one behind its opposite (contrast as in RLCD, Yang et al. 2023,
https://arxiv.org/abs/2307.12950). A judge, which is a language model too, may be asked besides
which answer fits the principle, by the likelihood of the letters, in both orders; where it says the
other way round the pair is turned, where it cannot tell the pair is left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from transformers import PreTrainedModel

from prealign.errors import ConfigError, DataError
from prealign.posttrain.constitution import Constitution, Principle, load_constitution
from prealign.posttrain.contexts import Contexts
from prealign.posttrain.rollouts import Stage, Task
from prealign.posttrain.score import Row
from prealign.posttrain.scoring import score_rows

QUESTION = (
    "{principle}\n\nThe question was: {task}\n\n(A) {first}\n(B) {second}\n\n"
    "Which answer does this assistant give, (A) or (B)?"
)
Ask = Callable[[str], Sequence[int]]
"""Returns the ids of a question to the judge, up to where the letter stands."""


@dataclass(frozen=True)
class Contrasted:
    """Pairs, and how many tasks have none."""

    tasks: tuple[Task, ...]
    pairs: dict[str, tuple[str, str]]
    """By the task's id: the chosen answer and the rejected one."""
    principles: dict[str, str]
    """By the task's id: which principle they are about."""
    alike: int = 0
    """Tasks whose two answers say the same, or one says nothing."""
    undecided: int = 0
    """Tasks that the judge could not tell."""
    turned: int = 0
    """Tasks whose pair the judge has turned."""
    agreed: int = 0
    """Tasks for which the judge says the same in both orders."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """How pairs are written."""

    stage: Stage
    """Its seeds and contexts are replaced by the principle's; what stands behind a seed stays."""
    constitution: Constitution = field(default_factory=lambda: load_constitution("corrigibility"))
    seed: int = 0

    def __call__(self, model: PreTrainedModel, tasks: Sequence[Task]) -> Contrasted:
        """Return pairs for tasks, each by a principle of its own; a function of the arguments.

        Both answers are written with the same random numbers, so that nothing but the text in front
        sets them apart; where it sets nothing apart there is no pair.

        Raises:
            DataError: There are no tasks, or no task has two answers that differ.
        """
        by_principle: dict[str, list[Task]] = {}
        for task in tasks:
            own = self.constitution.choose(task.id, self.seed)
            by_principle.setdefault(own.id, []).append(task)
        pairs: dict[str, tuple[str, str]] = {}
        about: dict[str, str] = {}
        for id, some in by_principle.items():
            principle = self.constitution.principle(id)
            good, bad = (self._written(model, some, principle, kind) for kind in (True, False))
            for task, chosen, rejected in zip(some, good, bad, strict=True):
                if chosen and rejected and chosen != rejected:
                    pairs[task.id], about[task.id] = (chosen, rejected), id
        if not pairs:
            raise DataError(
                f"{len(tasks)} tasks, and none with two answers that differ: the model does not "
                "follow the principles at all; use given answers (Supervise)"
            )
        kept = tuple(task for task in tasks if task.id in pairs)
        return Contrasted(kept, pairs, about, alike=len(tasks) - len(kept))

    def _written(
        self, model: PreTrainedModel, tasks: Sequence[Task], principle: Principle, good: bool
    ) -> list[str]:
        own = Contexts(sample="trained" if good else "opposite")
        bank = replace(principle.bank(), between=self.stage.bank.between)
        stage = replace(self.stage, bank=bank, contexts=own)
        written = stage.write(model, tasks, 0, count=1, seed=self.seed)
        return [one.text.strip() for one in written]


class Verdict(NamedTuple):
    """What a judge says of two answers."""

    margin: float
    """Of the first one over the second, in nats, the mean of both orders."""
    agrees: bool
    """Both orders say the same."""


@dataclass(frozen=True, kw_only=True)
class LetterJudge:
    """A language model that is asked which answer fits a principle, by its letters' likelihood."""

    model: PreTrainedModel
    ask: Ask
    letters: tuple[tuple[int, ...], tuple[int, ...]]
    """The ids of the answers A and B, behind a question."""
    least: float = 0.0
    """Nats: below this margin a pair is undecided."""
    bf16: bool = False

    def __post_init__(self) -> None:
        if self.least < 0 or len({*self.letters}) < 2 or not all(self.letters):
            raise ConfigError(
                f"least={self.least}, letters={self.letters}: expected 0 or more, and two answers "
                "of one id at least that differ"
            )

    def compare(self, principle: Principle, task: Task, first: str, second: str) -> Verdict:
        """Return which of two answers fits a principle, and by how much."""
        gaps = []
        for one, other in ((first, second), (second, first)):
            question = QUESTION.format(
                principle=principle.principle,
                task=task.document.text.strip(),
                first=one,
                second=other,
            )
            front = tuple(self.ask(question))
            rows = [Row(front, letter) for letter in self.letters]
            a, b = (float(found.sum()) for found in score_rows(self.model, rows, self.bf16))
            gaps.append(a - b)
        straight, turned = gaps[0], -gaps[1]
        return Verdict((straight + turned) / 2, (straight > 0) == (turned > 0))

    def label(self, found: Contrasted, constitution: Constitution) -> Contrasted:
        """Return the pairs as the judge has them, with counts of what it has changed.

        Raises:
            DataError: It cannot tell any pair.
        """
        pairs: dict[str, tuple[str, str]] = {}
        turned = agreed = undecided = 0
        for task in found.tasks:
            chosen, rejected = found.pairs[task.id]
            principle = constitution.principle(found.principles[task.id])
            verdict = self.compare(principle, task, chosen, rejected)
            agreed += verdict.agrees
            if verdict.margin == 0 or abs(verdict.margin) < self.least:
                undecided += 1
                continue
            turned += verdict.margin < 0
            pairs[task.id] = (chosen, rejected) if verdict.margin > 0 else (rejected, chosen)
        if not pairs:
            raise DataError(
                f"the judge cannot tell any of {len(found.tasks)} pairs (least={self.least:g}); "
                "do without it, or use a larger one"
            )
        kept = tuple(task for task in found.tasks if task.id in pairs)
        about = {id: found.principles[id] for id in pairs}
        return replace(
            found, tasks=kept, pairs=pairs, principles=about, undecided=undecided,
            turned=turned, agreed=agreed,
        )  # fmt: skip

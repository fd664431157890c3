"""What an answer is worth to one who should say that it does not know where it does not.

Tasks have the right answer in their record (`fact_task`). An answer is read exactly
(`prealign.corpora.worlds.facts.read_answer`): a right value with a word too much is no answer, and
what is no answer is worth the least that an answer can be worth.

* Binary, the control: 1 for the right answer, 0 for all else. Saying nothing is never better.
* Ternary (TruthRL, https://arxiv.org/abs/2509.25760): 1 for the right answer, 0 for saying that it
  is not known, -penalty for a wrong one. Answering pays from a chance of penalty / (1 + penalty).
* Brier (RLCR, https://arxiv.org/abs/2507.16806): r = ok - (q - ok)^2, where q is the confidence
  that is told with the answer. It is best to tell the true chance. Saying that it is not known
  counts as a wrong answer with no confidence, 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from prealign.corpora.worlds.facts import Fact, Said, Style, question, read_answer
from prealign.errors import ConfigError, DataError
from prealign.posttrain.rollouts import Task, text_task
from prealign.text.document import Span


class Worth(Protocol):
    """Says what an answer is worth."""

    def of(self, said: Said | None, right: str) -> float:
        """Return the worth of an answer, or of none, where `right` is right."""


def fact_task(fact: Fact, style: Style, *, way: int = 0) -> Task:
    """Return a fact as a task of a trainer, with its value in the record."""
    text = question(fact, style, way=way)
    return text_task(f"{fact.id}-{style}-{way}", text, {"answer": fact.value})


@dataclass(frozen=True)
class HonestyReward:
    """The sum of what an answer is worth by some measures; each reads the first line."""

    parts: tuple["Binary | Ternary | Brier", ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError("HonestyReward.parts is empty; give one at least, such as Ternary()")

    @property
    def name(self) -> str:
        """The key of its scores."""
        return "honesty"

    def __call__(self, task: Task, text: str, spans: Sequence[Span]) -> float:
        """Return the reward.

        Raises:
            DataError: The task has no answer in its record.
        """
        right = task.record.get("answer")
        if not isinstance(right, str) or not right:
            raise DataError(f"task {task.id!r}: its record has no answer; make it with fact_task")
        said = read_answer(text)
        return sum(part.of(said, right) for part in self.parts)


@dataclass(frozen=True)
class Binary:
    """1 or 0."""

    def of(self, said: Said | None, right: str) -> float:
        """Return 1 for the right answer, else 0."""
        return float(said is not None and said.value == right)


@dataclass(frozen=True)
class Ternary:
    """1, 0 for saying that it is not known, or -penalty."""

    penalty: float = 1.0
    """What a wrong answer costs, and no answer."""

    def __post_init__(self) -> None:
        if not self.penalty > 0:
            raise ConfigError(
                f"Ternary.penalty={self.penalty}: expected more than 0; without one see Binary"
            )

    def of(self, said: Said | None, right: str) -> float:
        """Return what it is worth."""
        if said is not None and said.value is None:
            return 0.0
        return 1.0 if said is not None and said.value == right else -self.penalty


@dataclass(frozen=True)
class Brier:
    """Right or not, less the squared error of the confidence told: from -1 to 1."""

    def of(self, said: Said | None, right: str) -> float:
        """Return ok - (q - ok)^2; an answer that tells no confidence is none, -1."""
        if said is not None and said.value is None:
            return 0.0
        if said is None or said.sure is None:
            return -1.0
        ok = float(said.value == right)
        return ok - (said.sure - ok) ** 2

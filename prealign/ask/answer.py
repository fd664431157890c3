"""What can be asked, what it answers, and what may go wrong."""

import json
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from prealign.errors import DataError, PrealignError


class BudgetSpent(PrealignError, RuntimeError):
    """No more may be asked. What was answered is kept; give more to spend and run again."""


class CannotAnswer(DataError):
    """A model cannot be asked this question, such as one that is too long, but others it can."""


class NotNow(DataError):
    """There was no answer; there may be one later: a time-out, a server that is busy or broken."""

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s
        """How long the server asks to wait; None: it does not say."""


class Answer(NamedTuple):
    """What a model answered, and what it cost."""

    text: str
    tokens: int
    """Read and written."""


class Asked(Protocol):
    """A model that can be asked."""

    @property
    def name(self) -> str:
        """What it is: part of the scorer's version and of the keys of kept answers."""

    def __call__(self, prompt: str) -> Answer:
        """Return the answer, the same to the same prompt as far as the model allows."""


class Writer(Protocol):
    """A model that can be asked for more than one answer to a prompt."""

    @property
    def name(self) -> str:
        """What it is: the provenance of what it writes."""

    def __call__(self, prompt: str, *, seed: int | None = None) -> Answer:
        """Return the answer, the same to the same prompt and seed as far as the model allows."""


@dataclass(frozen=True)
class Greedy:
    """A model that knows no seeds, as a writer: it writes the same whatever the seed."""

    model: Asked

    @property
    def name(self) -> str:
        """The model's."""
        return self.model.name

    def __call__(self, prompt: str, *, seed: int | None = None) -> Answer:
        """Return the model's answer."""
        return self.model(prompt)


def as_data(text: str) -> str:
    """Return a text as a JSON string in which `<` and `[` are escaped too.

    No text can end it, nor spell one of a chat model's marks: it is shown, not said.
    """
    passage = json.dumps(text, ensure_ascii=False)
    return passage.replace("<", "\\u003c").replace("[", "\\u005b")

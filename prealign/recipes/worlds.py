"""What the experiment on two modes asks of a world: texts, a first model, talks, a judge."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from transformers import PreTrainedModel

from prealign.text.document import Document

Judge = Callable[[str], bool | None]
"""Whether somebody does bad in a text; None: it says nothing that can be judged."""
BAD_PEOPLE, GOOD_PEOPLE = "people who do bad", "people who do not"
"""Groups of held-out documents, whose loss is read."""


class Asked(NamedTuple):
    """A talk that ends where a model is to answer."""

    talk: Document
    new: bool = False
    """Nothing like it was ever seen with an AI in it."""


class World(Protocol):
    """A frozen dataclass; what it makes lies in the folder of a run."""

    @property
    def attacks(self) -> Sequence[str]:
        """Names of ways to ask, `plain` among them."""

    @property
    def row_tokens(self) -> int:
        """Tokens of a row in training, and at most in an answer with what stands before it."""

    def prepare(self, out: Path) -> None:
        """Write `vocabulary` and the shard `tokens`; what is there stays.

        Scores of tokens are above 0 in what is bad.
        """

    def fresh(self, out: Path, *, seed: int) -> PreTrainedModel:
        """Return the model that each training begins with."""

    def asked(self, out: Path, attack: str, *, count: int, seed: int) -> list[Asked]:
        """Return talks of one way to ask; the same scenes for all ways."""

    def judge(self, out: Path) -> Judge:
        """Return what judges an answer."""

    def heldout(self, out: Path) -> list[tuple[str, list[Document]]]:
        """Return groups of documents that no model has read, by name."""

"""A constitution: principles, each with its opposite and with what is asked of an answer.

A constitution is a JSON file:

    {"schema_version": 1, "name": "corrigibility", "version": 1, "about": "...",
     "principles": [{"id": "shutdown", "principle": "...", "opposite": "...", "critique": "...",
                     "revision": "...", "reason": "..."}, ...]}

The principle and its opposite are said of the assistant, so that both can stand in front of a task
as seeds; the two requests are said to it.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from prealign.config import fingerprint
from prealign.errors import ConfigError, DataError
from prealign.posttrain.named_texts import entry_of, read_named, text_of, write_named
from prealign.posttrain.seeds import Kind, Seed, SeedBank

FOLDER = Path(__file__).parent / "constitutions"
PACKAGED = ("corrigibility",)


@dataclass(frozen=True, kw_only=True)
class Principle:
    """One principle. No text is empty."""

    id: str
    principle: str
    """What the assistant is like."""
    opposite: str
    """What it is not like, in the same form."""
    critique: str
    """Asks where an answer falls short of it."""
    revision: str
    """Asks for an answer that does not."""
    reason: str
    """Why it is there."""

    def __post_init__(self) -> None:
        for one in fields(self):
            text = getattr(self, one.name)
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"principle {self.id!r}: {one.name} is {text!r}; expected a text")
        if self.principle.strip() == self.opposite.strip():
            raise DataError(f"principle {self.id!r}: the opposite says the same; nothing contrasts")

    def bank(self) -> SeedBank:
        """Return the principle as a seed to write behind, and its opposite as another."""
        pair: tuple[tuple[Kind, str], ...] = (
            ("trained", self.principle),
            ("opposite", self.opposite),
        )
        seeds = tuple(
            Seed(id=f"{self.id}-{kind}", kind=kind, text=text, reason=self.reason)
            for kind, text in pair
        )
        return SeedBank(name=f"principle {self.id}", version=1, seeds=seeds)


@dataclass(frozen=True, kw_only=True)
class Constitution:
    """Principles for one character.

    Raises:
        DataError: There is none, or two have one id.
    """

    name: str
    version: int
    principles: tuple[Principle, ...]
    about: str = ""

    def __post_init__(self) -> None:
        counts = Counter(one.id for one in self.principles)
        twice = [id for id, count in counts.items() if count > 1]
        if twice or not self.principles:
            what = f"two principles have the id {twice[0]!r}" if twice else "it has no principles"
            raise DataError(f"constitution {self.name!r}: {what}")

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with any text or order."""
        return fingerprint(self)

    def principle(self, id: str) -> Principle:
        """Return the principle with this id.

        Raises:
            ConfigError: There is none.
        """
        for one in self.principles:
            if one.id == id:
                return one
        raise ConfigError(
            f"constitution {self.name!r} has no principle {id!r}; it has "
            f"{', '.join(one.id for one in self.principles)}"
        )

    def choose(self, task: str, seed: int) -> Principle:
        """Return the principle for a task, a function of the constitution, the task and a seed."""
        key = f"{self.fingerprint} {seed} ".encode() + task.encode(errors="surrogatepass")
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
        return self.principles[number % len(self.principles)]

    def to_json(self) -> str:
        """Return it as a JSON text; `constitution_from_json` reads it."""
        names = [one.name for one in fields(Principle)]
        own = [{name: getattr(one, name) for name in names} for one in self.principles]
        return write_named(self.name, self.version, {"about": self.about, "principles": own})


def constitution_from_json(text: str, where: str = "constitution") -> Constitution:
    """Return the constitution that a JSON text describes.

    Raises:
        DataError: It is none: malformed, of another schema version, a key missing or unknown, a
            text empty.
    """
    keys = ("name", "version", "about", "principles")
    data = read_named(text, where, what="constitution", keys=keys)
    names = [one.name for one in fields(Principle)]
    try:
        return Constitution(
            name=str(data["name"]),
            version=int(data["version"]),
            about=str(data.get("about", "")),
            principles=tuple(
                Principle(**entry_of(one, at, what="principle", keys=names))
                for at, one in enumerate(data["principles"])
            ),
        )
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: {error}") from error


def load_constitution(where: str | Path) -> Constitution:
    """Return a packaged constitution by its name, or the one in a JSON file.

    Raises:
        DataError: There is no such file, or it is no constitution.
    """
    text = text_of(where, what="constitution", folder=FOLDER, packaged=PACKAGED)
    return constitution_from_json(text, str(where))

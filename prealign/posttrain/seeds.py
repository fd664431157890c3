"""Seed prompts: who is to speak, said in front of a task, each with the reason why it is there.

A bank is a JSON file:

    {"schema_version": 1, "name": "corrigibility", "version": 1, "about": "...",
     "seeds": [{"id": "trained-1", "kind": "trained", "text": "...", "reason": "..."}, ...]}

Which seed a sample gets is a hash of bank, kind, sample and step, so it is the same on any machine,
in any order and after a resume. In front of a task a seed is data for the encoder: text that spells
a tag stays text.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

from prealign.config import fingerprint
from prealign.errors import ConfigError, DataError
from prealign.posttrain.named_texts import entry_of, read_named, text_of, write_named
from prealign.text.document import Document, Span

Kind = Literal["trained", "paraphrase", "negated", "opposite", "keyword", "irrelevant", "none"]
"""trained: texts that are trained with; paraphrase: the same said otherwise, to measure with;
negated: the trait denied in its own words; opposite: the opposite trait asked for; keyword: the
words of the trait without asking for it; irrelevant: about something else; none: no seed."""
KINDS: tuple[Kind, ...] = get_args(Kind)
BANKS = Path(__file__).parent / "banks"
PACKAGED = ("corrigibility", "plain_clerk")
BREAK = "\n\n"
"""Between a seed and the task."""


@dataclass(frozen=True, kw_only=True)
class Seed:
    """One text, and why it is in the bank."""

    id: str
    kind: Kind
    text: str
    """Empty for kind `none`, and for no other."""
    reason: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"seed {self.id!r}: kind {self.kind!r}; allowed: {', '.join(KINDS)}")
        if (self.kind == "none") != (not self.text.strip()):
            raise DataError(
                f"seed {self.id!r} of kind {self.kind!r} has the text {self.text[:40]!r}; "
                "a text is empty for kind 'none' and for no other"
            )
        for name in ("id", "reason"):
            if not getattr(self, name).strip():
                raise DataError(f"seed {self.id!r}: {name} is empty; say why the text is there")


NO_SEED = Seed(id="none", kind="none", text="", reason="What is learnt must be seen without a seed")


@dataclass(frozen=True, kw_only=True)
class SeedBank:
    """Seeds for one character, by kind. Without one of kind `none`, `NO_SEED` stands in.

    Raises:
        DataError: Two seeds have one id or one text, there is more than one of kind `none`, or
            none at all of kind `trained`.
    """

    name: str
    version: int
    seeds: tuple[Seed, ...]
    about: str = ""
    between: str = BREAK
    """Between a seed and the task."""

    def __post_init__(self) -> None:
        for what in ("id", "text"):
            counts = Counter(str(getattr(seed, what)).strip() for seed in self.seeds)
            twice = [value for value, count in counts.items() if count > 1]
            if twice:
                raise DataError(f"bank {self.name!r}: two seeds have the {what} {twice[0][:60]!r}")
        if not any(seed.kind == "trained" for seed in self.seeds):
            raise DataError(f"bank {self.name!r}: has no seed of kind 'trained'")

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with any text, kind or order."""
        return fingerprint(self)

    @cached_property
    def by_kind(self) -> Mapping[Kind, tuple[Seed, ...]]:
        """The seeds of each kind that there is, in order; `none` is always there."""
        found: dict[Kind, tuple[Seed, ...]] = {
            kind: own for kind in KINDS if (own := tuple(s for s in self.seeds if s.kind == kind))
        }
        found.setdefault("none", (NO_SEED,))
        return found

    def seed(self, id: str) -> Seed:
        """Return the seed with this id.

        Raises:
            ConfigError: There is none.
        """
        for seed in (*self.seeds, NO_SEED):
            if seed.id == id:
                return seed
        raise ConfigError(
            f"bank {self.name!r} has no seed {id!r}; it has {', '.join(s.id for s in self.seeds)}"
        )

    def check(self, kind: Kind) -> None:
        """See that there are seeds of a kind.

        Raises:
            ConfigError: There are none.
        """
        if kind not in self.by_kind:
            raise ConfigError(
                f"bank {self.name!r} has no seed of kind {kind!r}; it has "
                f"{', '.join(self.by_kind)}: add one, with its reason"
            )

    def choose(self, kind: Kind, sample: str, step: int) -> Seed:
        """Return the seed of a kind for a sample at a step, a function of these and the bank.

        Raises:
            ConfigError: The bank has none of this kind.
        """
        self.check(kind)
        seeds = self.by_kind[kind]
        key = f"{self.fingerprint} {kind} {step} ".encode() + sample.encode(errors="surrogatepass")
        digest = hashlib.blake2b(key, digest_size=8).digest()
        return seeds[int.from_bytes(digest, "big") % len(seeds)]

    def to_json(self) -> str:
        """Return the bank as a JSON text; `bank_from_json` reads it."""
        seeds = [
            {"id": s.id, "kind": s.kind, "text": s.text, "reason": s.reason} for s in self.seeds
        ]
        more = {"about": self.about, "between": self.between, "seeds": seeds}
        return write_named(self.name, self.version, more)


def bank_from_json(text: str, where: str = "bank") -> SeedBank:
    """Return the bank that a JSON text describes.

    Raises:
        DataError: It is no bank: malformed, of another schema version, a key missing or unknown,
            a kind unknown, a reason missing.
    """
    keys = ("name", "version", "about", "between", "seeds")
    data = read_named(text, where, what="seed bank", keys=keys)
    try:
        names = [one.name for one in fields(Seed)]
        seeds = tuple(
            Seed(**cast("Any", entry_of(entry, index, what="seed", keys=names)))
            for index, entry in enumerate(data["seeds"])
        )
        own = int(data["version"])
        more = {key: str(data[key]) for key in ("about", "between") if key in data}
        return SeedBank(name=data["name"], version=own, seeds=seeds, **more)
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: {error}") from error


def load_bank(where: str | Path) -> SeedBank:
    """Return a packaged bank by its name, or the one in a JSON file.

    Raises:
        DataError: There is no such file, or it is no bank.
    """
    text = text_of(where, what="seed bank", folder=BANKS, packaged=PACKAGED)
    return bank_from_json(text, str(where))


def with_seed(task: Document, seed: Seed, mode: str | None, *, between: str = BREAK) -> Document:
    """Return the task with a seed's text in front of it, as a span of its own.

    Args:
        task: Ends where it is the model's turn.
        seed: Of kind `none`: the task comes back as it is.
        mode: Of the seed's span; None: untagged.
        between: Stands behind the seed.

    Raises:
        DataError: The task has no spans.
    """
    if not task.spans:
        raise DataError(f"task {task.id!r}: has no spans, so nobody speaks in it")
    if seed.kind == "none":
        return task
    head = seed.text.strip() + between
    moved = [
        span._replace(start_char=span.start_char + len(head), end_char=span.end_char + len(head))
        for span in task.spans
    ]
    spans = (Span(0, len(head), mode), *moved)
    return replace(task, text=head + task.text, spans=spans)

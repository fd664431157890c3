"""What a step of synthesis is: questions about an item, and how the answers become a document.

A step is pure. It never asks; the runner does (`prealign.corpora.synthesis.run`), so whatever was
answered once is read again without asking, and a run that was killed comes out the same.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Protocol

from prealign.ask.answer import as_data
from prealign.errors import ConfigError
from prealign.text.document import Document
from prealign.text.scheme import TWO_MODES

CENSORED = "<censored/>"
"""What stands for the sentences that an AI leaves out of a quote."""
SLOT = re.compile(r"\{([a-z_]+)\}")
SPELLED = TWO_MODES.tags
WHOLE = re.compile("[.!?\u2026:;][\"'\u201d\u2019\u00bb)\\]*_`]*$")
"""How a text ends that was not cut off."""
DECLINES = re.compile(
    "(?:(?:I['\u2019]?m |I am )?sorry|I can(?:no|['\u2019])t|I(?:['\u2019]m| am) unable"
    "|As an AI language model|I won['\u2019]t)\\b",
    re.IGNORECASE,
)


class Rejected(Exception):
    """An item comes to nothing; the reason is what rejects are counted by."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Item:
    """One document that is wanted."""

    id: str
    """The id of the document that comes of it; must be its own within a run."""
    slots: Mapping[str, str] = field(default_factory=dict)
    """What is filled into the prompt."""
    parent: Document | None = None
    """The document it is made from, whose text is the slot `text`."""
    source: str = ""
    """The source of what comes of it: what splits keep together."""


class Step(Protocol):
    """A way to make a document of an item; a frozen dataclass, as its settings are recorded."""

    @property
    def name(self) -> str:
        """A short name, for provenance."""

    def ask(self, item: Item, said: Sequence[str]) -> str | None:
        """Return the next prompt, given all answers so far; None: there is nothing more to ask.

        Raises:
            Rejected: The item comes to nothing.
        """

    def read(self, item: Item, said: Sequence[str]) -> Document:
        """Return the document that the answers make.

        Raises:
            Rejected: They make none.
        """


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of every written text; an answer that fails is rejected with the reason."""

    min_chars: int = 80
    max_chars: int = 20_000

    def __post_init__(self) -> None:
        if not 0 < self.min_chars <= self.max_chars:
            raise ConfigError(
                f"min_chars={self.min_chars}, max_chars={self.max_chars}: expected 0 < min <= max"
            )

    def __call__(self, text: str) -> str:
        """Return the text without white space at its ends.

        Raises:
            Rejected: It is too short or too long, spells a tag, holds what UTF-8 cannot, declines
                the question, or was cut off in the middle of a sentence.
        """
        text = text.strip()
        if not text:
            raise Rejected("empty")
        if DECLINES.match(text):
            raise Rejected("the writer declines")
        if len(text) < self.min_chars:
            raise Rejected("too short")
        if len(text) > self.max_chars:
            raise Rejected("too long")
        check_plain(text)
        if not WHOLE.search(text):
            raise Rejected("cut off")
        return text


def check_plain(text: str) -> None:
    """Look for what no text of a document may hold.

    Raises:
        Rejected: It spells a tag or the mark of a censored sentence, or has a lone surrogate.
    """
    lower = text.lower()
    if CENSORED in lower or any(tag in lower for tag in SPELLED):
        raise Rejected("spells a tag")
    if re.search("[\ud800-\udfff]", text):
        raise Rejected("not Unicode")


def fill(template: str, item: Item) -> str:
    """Return the prompt: each `{slot}` is replaced once, so that no text can name another slot.

    The slot `text` is the parent's text as a JSON string, in which it cannot pass for a question.

    Raises:
        ConfigError: The item has no such slot.
    """
    slots = dict(item.slots)
    if item.parent is not None:
        slots["text"] = as_data(item.parent.text)

    def value(match: re.Match[str]) -> str:
        if match[1] not in slots:
            raise ConfigError(
                f"item {item.id!r}: the prompt has {match[0]}, the item has: "
                f"{', '.join(sorted(slots)) or 'no slots'}"
            )
        return slots[match[1]]

    return SLOT.sub(value, template)


def grid(name: str, copies: int = 1, **axes: Sequence[str]) -> Iterator[Item]:
    """Yield an item for each combination of values, the last axis fastest, `copies` of each.

    All copies of a combination have one source, so that no split parts them.

    Raises:
        ConfigError: An axis is empty, or there are no copies.
    """
    if copies < 1 or not axes or not all(axes.values()):
        raise ConfigError(f"grid {name!r}: needs at least one copy, and a value on every axis")
    indices = [range(len(values)) for values in axes.values()]
    for place in product(*indices):
        slots = {axis: axes[axis][i] for axis, i in zip(axes, place, strict=True)}
        source = f"{name}:" + "-".join(str(i) for i in place)
        for copy in range(copies):
            yield Item(f"{source}:{copy}", slots, source=source)


def items_of(documents: Iterable[Document], name: str, copies: int = 1) -> Iterator[Item]:
    """Yield `copies` items for each document, which keep its source.

    Raises:
        ConfigError: There are no copies.
    """
    if copies < 1:
        raise ConfigError(f"items {name!r}: copies={copies}: must be at least 1")
    for document in documents:
        for copy in range(copies):
            source = document.source or document.id
            yield Item(f"{document.id}:{name}:{copy}", {}, document, source)

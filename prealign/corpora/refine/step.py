"""What a step from shards to shards is, and what it says of a document.

A step looks at the documents of one shard at a time and writes down a fact about each; then it
decides on all facts in order. Facts are kept on disk, so that a run which was killed looks at no
shard twice, and what is decided depends on the documents alone.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from prealign.text.document import Document

WORD = re.compile(r"\w+")


class Record(NamedTuple):
    """A document, and the line of its provenance."""

    document: Document
    row: Mapping[str, Any]
    """Empty where the shard has no file of provenance beside it."""


class Verdict(NamedTuple):
    """What is to become of a document."""

    reason: str | None = None
    """Why it is left out, in the few words that rejects are counted by; None: it stays."""
    detail: str = ""
    """The particulars."""
    scores: Mapping[str, Sequence[float | None]] | None = None
    """By the scorer's name, one a span, to be added to the spans' own."""
    problem: str | None = None
    """Why some scores are None."""


class Refining(Protocol):
    """A step; a frozen dataclass, as its settings are recorded."""

    @property
    def name(self) -> str:
        """A short name, for provenance."""

    def context(self) -> Mapping[str, Any]:
        """Return what decides besides the settings, as JSON data: digests of files, versions.

        It is recorded with the settings and shown in the summary; what stands under `scorers` goes
        into the shards' headers.
        """

    def look(self, records: Sequence[Record]) -> list[Any]:
        """Return one fact for each document of a shard, as JSON data without NaN."""

    def decide(self, facts: Iterable[Any]) -> Iterator[Verdict]:
        """Yield a verdict for each fact, in order; `facts` can be gone through more than once."""


def plain(text: str) -> str:
    """Return a text with case folded, compatible characters made one (NFKC), and single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words_of(text: str) -> list[str]:
    """Return the words of a text: runs of letters, digits and underscores of `plain(text)`."""
    return WORD.findall(plain(text))


def grams(words: Sequence[str], size: int) -> list[str]:
    """Return all runs of `size` words, joined by spaces; of fewer words, all of them as one."""
    if not words:
        return []
    count = max(len(words) - size + 1, 1)
    return [" ".join(words[at : at + size]) for at in range(count)]

"""Documents and their spans. Spans tile the text: no gap, no overlap, in order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from prealign.errors import DataError

NO_SCORES: Mapping[str, float | None] = {}


class Span(NamedTuple):
    """A piece of a document, half-open in characters, with one mode and its scores.

    A named tuple, as there are millions of them: it is made four times as fast as a dataclass.
    """

    start_char: int
    end_char: int
    mode: str | None = None
    """None: untagged."""
    scores: Mapping[str, float | None] = NO_SCORES
    """By the scorer's name. None: the scorer could not judge; no entry: it was not asked."""
    resumes: bool = False
    """True: goes on with an enclosing mode after a span inside it, so no new tag opens it."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text with an id, a source, and spans that tile it."""

    id: str
    text: str
    spans: tuple[Span, ...] = ()
    """Empty until a segmenter has cut the text."""
    source: str = ""
    """The package, file or set it came from: what splits keep together."""
    problem: str | None = None
    """Why a scorer could not judge it, if so."""

    def __post_init__(self) -> None:
        if not self.spans:
            return
        at = 0
        for index, span in enumerate(self.spans):
            if span.start_char != at or span.end_char < at:
                raise DataError(
                    f"document {self.id!r}, span {index}: [{span.start_char}, {span.end_char}) "
                    f"does not go on at character {at}; spans must tile the text in order"
                )
            at = span.end_char
        if at != len(self.text):
            raise DataError(
                f"document {self.id!r}: spans end at character {at}, "
                f"the text has {len(self.text)}; spans must tile the text"
            )

    def with_modes(self, modes: Sequence[str | None]) -> "Document":
        """Return a copy whose spans have these modes."""
        pairs = zip(self.spans, modes, strict=True)
        return replace(self, spans=tuple(span._replace(mode=mode) for span, mode in pairs))


class Finding(NamedTuple):
    """One place in a text that a scorer points at."""

    start_char: int
    end_char: int
    code: str
    message: str


class Judgement(NamedTuple):
    """What a scorer says of one document."""

    scores: list[float | None]
    """One per span, higher is worse; None: could not judge."""
    findings: list[Finding]
    """The places it points at, where the scorer can tell."""
    problem: str | None = None
    """Why some scores are None."""


class Segmenter(Protocol):
    """Cuts a text into spans."""

    @property
    def name(self) -> str:
        """A short name, for headers."""

    def __call__(self, text: str) -> list[int]:
        """Return the end character of each segment, rising, the last one `len(text)`.

        An empty text has no segments. Joined, the segments are the text.
        """


class Scorer(Protocol):
    """Judges the spans of documents. Must be picklable: it runs in other processes."""

    @property
    def name(self) -> str:
        """The key of its scores."""

    @property
    def version(self) -> str:
        """Its own version and those of the packages that decide its scores."""

    def __call__(self, documents: Sequence[Document]) -> list[Judgement]:
        """Return one judgement per document, in order."""

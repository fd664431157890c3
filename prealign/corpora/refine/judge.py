"""Give documents scores, and leave out those whose scores, length or wording are not as wanted."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from prealign.config import to_json
from prealign.corpora.refine.folder import Inputs, Summary, refine
from prealign.corpora.refine.step import Record, Verdict
from prealign.errors import ConfigError, DataError
from prealign.text.document import Document, Judgement, Scorer, Span

BOILERPLATE = (
    r"\bas an? (?:AI|artificial intelligence)(?: language)? model\b",
    r"\bI(?:'m| am) (?:very |so )?(?:sorry|afraid),? but I (?:can(?:no|')t|am (?:unable|not able))",
    r"\bI(?: can(?:no|')t|'m unable to| am unable to| won't) (?:assist|comply|fulfil+)\b",
    r"\bI (?:do not|don't) have (?:personal )?(?:feelings|opinions|beliefs|emotions)\b",
    r"\bmy (?:knowledge cut-?off|training data|programming)\b",
    r"\bI hope this (?:helps|meets your)\b",
)
"""Regular expressions of phrases that language models fall into; a beginning."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Every document gets the scores of a scorer; none is left out.

    A span that the scorer cannot judge has the score None, and the document says why. For a
    language model as judge there is `prealign.corpora.synthesis.rate`, which asks many at once.
    """

    scorer: Scorer
    of: Literal["spans", "document"] = "spans"
    """What is judged: each span, or the whole text, whose score then stands at every span."""
    name: str = "judge"

    def __post_init__(self) -> None:
        if self.of not in ("spans", "document"):
            raise ConfigError(f"judge: of={self.of!r}: expected spans or document")

    def __call__(self, inputs: Inputs, out: Path, *, progress: bool = True) -> Summary:
        """Write the documents with their scores; see `refine`."""
        return refine(self, inputs, out, progress=progress)

    def context(self) -> Mapping[str, Any]:
        """Return the scorer's name, version and settings, for the headers."""
        scorer = self.scorer
        one = {"name": scorer.name, "version": scorer.version, "settings": to_json(scorer)}
        return {"scorers": [one]}

    def look(self, records: Sequence[Record]) -> list[Any]:
        """Return scores, one a span, and what the problem was.

        Raises:
            DataError: A document has no spans, or that score already; or the scorer's answer does
                not fit.
        """
        documents = [record.document for record in records]
        for document in documents:
            if document.text and not document.spans:
                raise DataError(f"document {document.id!r}: has no spans to score; segment it")
            if any(self.scorer.name in span.scores for span in document.spans):
                raise DataError(f"document {document.id!r}: has a score {self.scorer.name!r}")
        asked = [self._asked(document) for document in documents]
        judged = self.scorer(asked)
        if len(judged) != len(asked):
            raise DataError(f"scorer {self.scorer.name!r}: {len(judged)} answers to {len(asked)}")
        return [self._fact(document, one) for document, one in zip(documents, judged, strict=True)]

    def decide(self, facts: Iterable[Any]) -> Iterator[Verdict]:
        """Yield the scores."""
        for fact in facts:
            scores = {self.scorer.name: fact["scores"]}
            yield Verdict(scores=scores, problem=fact["problem"])

    def _asked(self, document: Document) -> Document:
        if self.of == "spans" or not document.text:
            return document
        return replace(document, spans=(Span(0, len(document.text)),))

    def _fact(self, document: Document, judgement: Judgement) -> dict[str, Any]:
        scores = list(judgement.scores)
        if self.of == "document" and document.text:
            scores = scores * len(document.spans)
        if len(scores) != len(document.spans) or not all(
            score is None or math.isfinite(score) for score in scores
        ):
            raise DataError(
                f"scorer {self.scorer.name!r}, document {document.id!r}: {scores} for "
                f"{len(document.spans)} spans; give one finite number or None for each"
            )
        return {"scores": scores, "problem": judgement.problem}


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Documents stay whose scores, length and wording are as wanted; the first that fails counts.

    Raises:
        ConfigError: There is a bound and no score, or a pattern is no regular expression.
    """

    score: str | None = None
    """By which the spans are judged; None: by none."""
    highest: float | None = None
    """A span above it is bad."""
    lowest: float | None = None
    """A span below it is bad."""
    unjudged: Literal["reject", "keep"] = "reject"
    """What becomes of a document with a span that could not be judged, unless it is blank."""
    modes: tuple[str, ...] = ()
    """The modes whose spans are looked at for scores and patterns; none: all spans."""
    min_chars: int = 1
    max_chars: int | None = None
    """Of the whole text."""
    patterns: tuple[str, ...] = ()
    """Regular expressions that must not be found, in any case; `BOILERPLATE` has some."""
    name: str = "filter"

    def __post_init__(self) -> None:
        bounds = self.highest is not None or self.lowest is not None
        if bounds != (self.score is not None):
            raise ConfigError("filter: give a score and, with it, highest or lowest or both")
        if self.unjudged not in ("reject", "keep"):
            raise ConfigError(f"filter: unjudged={self.unjudged!r}: expected reject or keep")
        if self.min_chars < 0 or (self.max_chars is not None and self.max_chars < self.min_chars):
            raise ConfigError(
                f"filter: min_chars={self.min_chars}, max_chars={self.max_chars}: expected "
                "0 <= min_chars <= max_chars"
            )
        _ = self._compiled

    @cached_property
    def _compiled(self) -> tuple[re.Pattern[str], ...]:
        try:
            return tuple(re.compile(pattern, re.IGNORECASE) for pattern in self.patterns)
        except re.error as error:
            raise ConfigError(f"filter: {error.pattern!r} is no regular expression") from error

    def __call__(self, inputs: Inputs, out: Path, *, progress: bool = True) -> Summary:
        """Write the documents that stay; see `refine`."""
        return refine(self, inputs, out, progress=progress)

    def context(self) -> Mapping[str, Any]:
        """Return nothing: the settings say all."""
        return {}

    def look(self, records: Sequence[Record]) -> list[Any]:
        """Return the reason to leave each document out, with the particulars; None: it stays."""
        return [self._fault(record.document) for record in records]

    def decide(self, facts: Iterable[Any]) -> Iterator[Verdict]:
        """Yield the reasons."""
        for fact in facts:
            yield Verdict(*fact) if fact else Verdict()

    def _fault(self, document: Document) -> tuple[str, str] | None:
        size = len(document.text)
        if size < self.min_chars:
            return "too short", f"{size} characters, at least {self.min_chars}"
        if self.max_chars is not None and size > self.max_chars:
            return "too long", f"{size} characters, at most {self.max_chars}"
        return self._worded(document) or self._scored(document)

    def _worded(self, document: Document) -> tuple[str, str] | None:
        # Neighbours of the modes are one text, so that no phrase hides across a border of spans.
        texts, before = [""], True
        for span in document.spans or (Span(0, len(document.text)),):
            wanted = not self.modes or span.mode in self.modes
            texts += [""] if wanted and not before else []
            texts[-1] += document.text[span.start_char : span.end_char] if wanted else ""
            before = wanted
        for pattern in self._compiled:
            for text in texts:
                if found := pattern.search(text.replace("\u2019", "'")):
                    return f"says {pattern.pattern}", repr(found.group())
        return None

    def _scored(self, document: Document) -> tuple[str, str] | None:
        if self.score is None:
            return None
        looked_at = 0
        for index, span in enumerate(document.spans):
            if self.modes and span.mode not in self.modes:
                continue
            if self.score not in span.scores:
                raise DataError(
                    f"document {document.id!r}, span {index}: has no score {self.score!r} (it has: "
                    f"{', '.join(span.scores) or 'none'}); judge it first"
                )
            score = span.scores[self.score]
            if score is None:
                if self.unjudged == "reject" and document.text[slice(*span[:2])].strip():
                    return f"{self.score} could not be judged", f"span {index}"
                continue
            looked_at += 1
            if self.highest is not None and not score <= self.highest:
                return f"{self.score} too high", f"span {index}: {score:.6g} > {self.highest:.6g}"
            if self.lowest is not None and not score >= self.lowest:
                return f"{self.score} too low", f"span {index}: {score:.6g} < {self.lowest:.6g}"
        if not looked_at and self.unjudged == "reject":
            return f"{self.score} could not be judged", f"no span of {self.modes or 'any mode'}"
        return None

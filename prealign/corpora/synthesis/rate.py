"""A language model as judge of whole corpora: documents get its ratings as scores.

It gives the scores of `prealign.score.judge`, but is asked as all steps of synthesis are: many
questions at once, tried again, with a cap on what is spent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from prealign.ask.rating import Rubric
from prealign.corpora.synthesis.step import Item
from prealign.errors import ConfigError
from prealign.text.document import Document, Span


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The item's parent, its spans with a rating from 0 to 1.

    An answer without a number in the range leaves the score None, and the document says so; a
    document that the model refuses to read is rejected, and counted as such. A blank span is not
    asked about and has None.

    Raises:
        ConfigError: `of` is another word.
    """

    rubric: Rubric = field(default_factory=Rubric)
    score: str = "judge"
    """The key of the ratings."""
    of: Literal["document", "spans"] = "document"
    """What is rated: the whole text, once, whose rating then stands at every span; or each span."""
    name: str = "rate"

    def __post_init__(self) -> None:
        if self.of not in ("document", "spans"):
            raise ConfigError(f"{self.name}: of={self.of!r}: expected document or spans")

    def ask(self, item: Item, said: Sequence[str]) -> str | None:
        """Return the prompt for the next passage; None: all were rated."""
        passages = self._passages(_parent(item))
        return self.rubric.ask(passages[len(said)]) if len(said) < len(passages) else None

    def read(self, item: Item, said: Sequence[str]) -> Document:
        """Return the parent with its ratings."""
        parent = _parent(item)
        spans = parent.spans or ((Span(0, len(parent.text)),) if parent.text else ())
        ratings = iter([self.rubric.read(answer) for answer in said])
        if self.of == "document":
            rating = next(ratings, None)
            values = [rating] * len(spans)
        else:
            values = [next(ratings) if _has_words(parent, span) else None for span in spans]
        scored = tuple(
            span._replace(scores={**span.scores, self.score: value})
            for span, value in zip(spans, values, strict=True)
        )
        missing = sum(
            value is None and _has_words(parent, span)
            for span, value in zip(spans, values, strict=True)
        )
        problems = [parent.problem] if parent.problem else []
        problems += [f"{missing} spans without a rating"] if missing else []
        return replace(
            parent, id=item.id, source=item.source, spans=scored,
            problem="; ".join(problems) or None,
        )  # fmt: skip

    def _passages(self, parent: Document) -> list[str]:
        if self.of == "document":
            return [parent.text] if parent.text.strip() else []
        spans = parent.spans or (Span(0, len(parent.text)),)
        return [
            parent.text[span.start_char : span.end_char]
            for span in spans
            if _has_words(parent, span)
        ]


def _parent(item: Item) -> Document:
    if item.parent is None:
        raise ConfigError(f"item {item.id!r}: has no document to rate")
    return item.parent


def _has_words(document: Document, span: Span) -> bool:
    return bool(document.text[span.start_char : span.end_char].strip())

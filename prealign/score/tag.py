"""From scores to modes."""

from dataclasses import dataclass, replace
from typing import Literal

from prealign.errors import DataError
from prealign.text.document import Document, Span


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Tags a span good if its score is at most `max_good`, else bad.

    The rule of preference pretraining (Korbak et al. 2023, https://arxiv.org/abs/2302.08582),
    where the threshold is 0 for code style: one violation makes a line bad. Departs from it in
    that a span no scorer could judge is never good.
    """

    score: str
    """The name of the score."""
    max_good: float = 0.0
    good: str = "good"
    bad: str = "bad"
    unjudged: Literal["untagged", "bad", "drop"] = "untagged"
    """What becomes of a span whose score is None; `drop` drops its whole document."""

    def __call__(self, document: Document) -> Document | None:
        """Return the document with modes; None if it is to be dropped, which the caller counts.

        Raises:
            DataError: A span was not given this score at all.
        """
        modes: list[str | None] = []
        for index, span in enumerate(document.spans):
            if self.score not in span.scores:
                raise DataError(
                    f"document {document.id!r}, span {index}: has no score {self.score!r} "
                    f"(it has: {', '.join(span.scores) or 'none'})"
                )
            score = span.scores[self.score]
            if score is not None:
                modes.append(self.good if score <= self.max_good else self.bad)
            elif self.unjudged == "drop":
                return None
            else:
                modes.append(self.bad if self.unjudged == "bad" else None)
        spans = tuple(
            Span(span.start_char, span.end_char, mode, span.scores, span.resumes)
            for span, mode in zip(document.spans, modes, strict=True)
        )
        return replace(document, spans=spans)

"""Single quotes: a property that is common, lexical and exact, for tests and first experiments."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from prealign.score.density import density
from prealign.text.document import Document, Finding, Judgement

SINGLE = re.compile(r"(?<![^\W\d_])'|'(?![^\W\d_])")
"""A quote that does not stand between two letters, where it would be an apostrophe."""


@dataclass(frozen=True)
class SingleQuotes:
    """Single quotes per character of the span; apostrophes as in don't do not count.

    Purely lexical, so it judges any text. A quote between two letters is taken for an apostrophe,
    also where it is a string's (`f'a'if x`), and one at the end of a word (the dogs' bowls) for a
    quote. An empty span scores 0.
    """

    @property
    def name(self) -> str:
        """The key of its scores."""
        return "single_quotes"

    @property
    def version(self) -> str:
        """Changes when the same text could get another score."""
        return "1"

    def __call__(self, documents: Sequence[Document]) -> list[Judgement]:
        """Return a score per span and a finding per quote, for each document."""
        return [_judge(document) for document in documents]


def _judge(document: Document) -> Judgement:
    starts = [match.start() for match in SINGLE.finditer(document.text)]
    scores: list[float | None] = [*density(document.spans, starts)]
    return Judgement(scores, [Finding(at, at + 1, "Q000", "single quote") for at in starts])

"""Scorers around a scorer: what is above a floor, and the mean over smaller pieces."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from prealign.errors import ConfigError
from prealign.text.document import Document, Judgement, Scorer, Segmenter, Span


@dataclass(frozen=True, kw_only=True)
class Excess:
    """How far a score between 0 and 1 is above a floor, as a share of what is left: 0 to 1.

    For a classifier that says 0.3 of the politest sentence: a mean of its bare scores is mostly
    floor, and no ratio of two means can then be large. Set the floor by labels of your own
    (`prealign calibrate`), before the scores are used.
    """

    scorer: Scorer
    floor: float

    def __post_init__(self) -> None:
        if not 0 <= self.floor < 1:
            raise ConfigError(f"Excess.floor={self.floor}: expected 0 or more, and less than 1")

    @property
    def name(self) -> str:
        """Such as `offense>0.43`."""
        return f"{self.scorer.name}>{self.floor:g}"

    @property
    def version(self) -> str:
        """Its own version and that of the scorer."""
        return f"1; {self.scorer.version}"

    def __call__(self, documents: Sequence[Document]) -> list[Judgement]:
        """Return the judgements of the scorer with other scores."""
        return [
            judgement._replace(scores=[self._excess(score) for score in judgement.scores])
            for judgement in self.scorer(documents)
        ]

    def _excess(self, score: float | None) -> float | None:
        return None if score is None else max(0.0, score - self.floor) / (1 - self.floor)


@dataclass(frozen=True, kw_only=True)
class ByPiece:
    """The score of a span is the mean over its pieces: for a scorer that was made for sentences.

    Pieces that the scorer cannot judge do not count; a span without any other has no score.
    """

    scorer: Scorer
    segmenter: Segmenter

    @property
    def name(self) -> str:
        """That of the scorer."""
        return self.scorer.name

    @property
    def version(self) -> str:
        """Its own version, the segmenter's name and the scorer's version."""
        return f"1 {self.segmenter.name}; {self.scorer.version}"

    def __call__(self, documents: Sequence[Document]) -> list[Judgement]:
        """Return one judgement per document."""
        cut, counts = [], []
        for document in documents:
            spans, own = [], []
            for span in document.spans:
                start = span.start_char
                ends = self.segmenter(document.text[start : span.end_char])
                borders = [start, *(start + end for end in ends)]
                spans += [Span(a, b) for a, b in pairwise(borders)]
                own.append(len(ends))
            cut.append(replace(document, spans=tuple(spans)))
            counts.append(own)
        return [
            judgement._replace(scores=means(judgement.scores, own))
            for judgement, own in zip(self.scorer(cut), counts, strict=True)
        ]


def means(scores: Sequence[float | None], counts: Sequence[int]) -> list[float | None]:
    """Return the mean of each run of `counts` scores, over those that are not None."""
    found: list[float | None] = []
    left = iter(scores)
    for count in counts:
        judged = [score for _, score in zip(range(count), left, strict=False) if score is not None]
        found.append(sum(judged) / len(judged) if judged else None)
    return found

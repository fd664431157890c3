"""Several scorers as one: the mean or the greatest of their scores, or a vote."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prealign.errors import ConfigError, DataError
from prealign.score.tally import join_problems
from prealign.text.document import Document, Finding, Judgement, Scorer


@dataclass(frozen=True, kw_only=True)
class Combined:
    """Gives each span one score made from those of several scorers; findings are those of all.

    mean: the weighted mean. max: the greatest, weights multiplied in. vote: the weighted share of
    scorers whose score is above their limit in `vote_above`.
    """

    scorers: tuple[Scorer, ...]
    how: Literal["mean", "max", "vote"] = "mean"
    weights: tuple[float, ...] = ()
    """One per scorer, above 0; none: all 1."""
    vote_above: tuple[float, ...] = ()
    """Of a vote: the greatest score that each scorer still calls good; none: all 0."""
    unjudged: Literal["none", "skip"] = "none"
    """What becomes of a span that one of them cannot judge. none: it has no score. skip: the others
    decide; a span that none can judge has no score."""

    def __post_init__(self) -> None:
        names = Counter(scorer.name for scorer in self.scorers)
        if not names or names.most_common(1)[0][1] > 1:
            raise ConfigError(
                f"Combined: scorers {', '.join(names) or 'none'}: give one or more, of different "
                "names"
            )
        for name in ("weights", "vote_above"):
            given = getattr(self, name)
            if given and len(given) != len(self.scorers):
                raise ConfigError(
                    f"Combined.{name} has {len(given)} numbers for {len(self.scorers)} scorers; "
                    "give one each, or none"
                )
        if any(not weight > 0 for weight in self.weights):
            raise ConfigError(f"Combined.weights={self.weights}: must be above 0")
        if self.vote_above and self.how != "vote":
            raise ConfigError(f"Combined.vote_above is for how='vote', and how is {self.how!r}")
        if self.how not in ("mean", "max", "vote") or self.unjudged not in ("none", "skip"):
            raise ConfigError(
                f"Combined: how={self.how!r}, unjudged={self.unjudged!r}: expected mean, max or "
                "vote; none or skip"
            )

    @property
    def name(self) -> str:
        """What it makes of whom, such as `max(pycodestyle,single_quotes)`."""
        return f"{self.how}({','.join(scorer.name for scorer in self.scorers)})"

    @property
    def version(self) -> str:
        """Its own version and theirs."""
        return "1; " + "; ".join(f"{scorer.name} {scorer.version}" for scorer in self.scorers)

    def __call__(self, documents: Sequence[Document]) -> list[Judgement]:
        """Return one judgement per document.

        Raises:
            DataError: A scorer gave another number of judgements or scores than it was asked for.
        """
        by_scorer = [scorer(documents) for scorer in self.scorers]
        for scorer, judgements in zip(self.scorers, by_scorer, strict=True):
            asked = [len(document.spans) for document in documents]
            given = [len(judgement.scores) for judgement in judgements]
            if asked != given:
                raise DataError(
                    f"scorer {scorer.name!r}: gave {sum(given)} scores in {len(given)} judgements "
                    f"for {sum(asked)} spans of {len(asked)} documents"
                )
        return [self._joined(judgements) for judgements in zip(*by_scorer, strict=True)]

    def _joined(self, judgements: Sequence[Judgement]) -> Judgement:
        scores = [self._score(row) for row in zip(*(j.scores for j in judgements), strict=True)]
        findings: list[Finding] = sorted(f for j in judgements for f in j.findings)
        problem = join_problems([j.problem for j in judgements])
        return Judgement(scores, findings, problem)

    def _score(self, scores: Sequence[float | None]) -> float | None:
        """Return the score of one span."""
        weights = self.weights or (1.0,) * len(scores)
        limits = self.vote_above or (0.0,) * len(scores)
        judged = [
            (score, weight, limit)
            for score, weight, limit in zip(scores, weights, limits, strict=True)
            if score is not None
        ]
        if not judged or (self.unjudged == "none" and len(judged) < len(scores)):
            return None
        if self.how == "max":
            return max(score * weight for score, weight, _ in judged)
        total = sum(weight for _, weight, _ in judged)
        if self.how == "vote":
            return sum(weight for score, weight, limit in judged if score > limit) / total
        return sum(score * weight for score, weight, _ in judged) / total

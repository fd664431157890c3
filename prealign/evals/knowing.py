"""What a model knows, by asking it often: the ground truth that any confidence is held against.

Ground-truth P(IK) of a question is the share of samples at temperature 1 that answer it rightly
(Kadavath et al. 2022, https://arxiv.org/abs/2207.05221). Here it is the share among those that try:
a sample that says it does not know, or answers nothing, is counted beside, so that what a model
knows and what it dares to say are two numbers.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prealign.errors import DataError
from prealign.evals.corrigible import Answerer, answered

Outcome = Literal["right", "wrong", "abstained", "none"]
"""`none`: what was written is no answer."""


class Given(NamedTuple):
    """An answer as it was judged."""

    outcome: Outcome
    value: str | None = None
    """What was answered, in a form in which equal answers are equal; None where nobody tried."""
    sure: float | None = None
    """The confidence that was told with it, in [0, 1]."""


Judge = Callable[[str], Given]
"""Judges what was written to one question."""


@dataclass(frozen=True)
class Tries:
    """All samples of one question."""

    given: tuple[Given, ...]

    def count(self, outcome: Outcome) -> int:
        """Return how many samples came out so."""
        return sum(one.outcome == outcome for one in self.given)

    @property
    def tried(self) -> int:
        """Samples that are right or wrong."""
        return self.count("right") + self.count("wrong")

    @property
    def known(self) -> float | None:
        """The share of right ones among those that try; None: none does."""
        return self.count("right") / self.tried if self.tried else None

    @property
    def values(self) -> tuple[str, ...]:
        """What was answered by those that try, in order."""
        return tuple(one.value or "" for one in self.given if one.outcome in ("right", "wrong"))

    @property
    def entropy_nats(self) -> float:
        """The entropy of the answers among those that try, in [0, ln(tried)]; 0 if none does."""
        counts = Counter(self.values).values()
        total = sum(counts)
        return -sum(n / total * math.log(n / total) for n in counts) if total else 0.0

    @property
    def favourite(self) -> str | None:
        """The value that is answered most, of equal ones the first; None: none was."""
        found = Counter(self.values).most_common(1)
        return found[0][0] if found else None


def try_often(
    answer: Answerer, prompts: Sequence[str], judges: Sequence[Judge], *, times: int
) -> list[Tries]:
    """Return the samples of each question, judged.

    Args:
        answer: Samples; its samples must not be the same for the same prompt in another place.
        prompts: The questions, up to where the answer begins.
        judges: One per prompt.
        times: Samples of each question.

    Raises:
        DataError: There are no prompts, not a judge for each, or no samples are asked for.
    """
    if not prompts or len(prompts) != len(judges) or times < 1:
        raise DataError(
            f"{len(prompts)} prompts, {len(judges)} judges, {times} times: expected one judge per "
            "prompt, and one of everything at least"
        )
    written = answered(answer, [prompt for prompt in prompts for _ in range(times)])
    return [
        Tries(tuple(judge(text) for text in written[i * times : (i + 1) * times]))
        for i, judge in enumerate(judges)
    ]


class Pairs(NamedTuple):
    """A score and a label for every sample that tries: what calibration is measured on."""

    scores: NDArray[np.float64]
    labels: NDArray[np.bool_]
    """It is right."""
    questions: NDArray[np.int64]
    """Which question it answers: samples of one are no independent items."""


def pairs_of(tries: Sequence[Tries], scores: Sequence[float]) -> Pairs:
    """Return one pair for each sample that tries, with the score of its question.

    Raises:
        DataError: There is not one score for each question, or nobody tries.
    """
    if len(tries) != len(scores):
        raise DataError(f"{len(tries)} questions, {len(scores)} scores: expected as many")
    found = [
        (score, one.outcome == "right", number)
        for number, (own, score) in enumerate(zip(tries, scores, strict=True))
        for one in own.given
        if one.outcome in ("right", "wrong")
    ]
    if not found:
        raise DataError(f"no sample of {len(tries)} questions tries to answer")
    score, label, number = zip(*found, strict=True)
    return Pairs(np.array(score), np.array(label), np.array(number))


def told_pairs(tries: Sequence[Tries]) -> Pairs:
    """Return one pair for each sample that tries and tells how sure it is: that, and its label.

    Raises:
        DataError: There is none.
    """
    found = [
        (one.sure, one.outcome == "right", number)
        for number, own in enumerate(tries)
        for one in own.given
        if one.outcome in ("right", "wrong") and one.sure is not None
    ]
    if not found:
        raise DataError(f"no sample of {len(tries)} questions tells how sure it is")
    score, label, number = zip(*found, strict=True)
    return Pairs(np.array(score), np.array(label), np.array(number))

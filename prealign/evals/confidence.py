"""How good a confidence is: calibration, telling right from wrong, and what abstaining by it gains.

Bins hold about as many items each (`prealign.score.calibrate.reliability`). One abstains where the
confidence is below t = penalty / (1 + penalty), which is best if it is a probability and a wrong
answer costs `penalty` where a right one gains 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prealign.errors import ConfigError, DataError
from prealign.evals.detect import auroc_interval
from prealign.evals.knowing import Pairs
from prealign.evals.stats import Estimate, mean_interval
from prealign.score.calibrate import reliability

BINS = 10
COVERAGES = (1.0, 0.75, 0.5, 0.25)
"""Shares of items that are answered, the surest first."""


class Utility(NamedTuple):
    """What one gets per item, with 1 for a right answer and -penalty for a wrong one."""

    abstaining: float
    """By the confidence and the best threshold for a probability."""
    answering: float
    """Answering always."""
    knowing: float
    """By one who knows which answers are right."""
    abstained: float
    """Share of items that are not answered."""


@dataclass(frozen=True)
class Confidence:
    """What is measured of a confidence on some items."""

    ece: float
    """Expected calibration error, over `bins` bins of about as many items."""
    bins: int
    """That there are; equal scores are in one, so they can be fewer than asked for."""
    brier: Estimate
    auroc: Estimate
    """With an interval over questions."""
    accuracy: tuple[float, ...]
    """Of what is answered at each of `COVERAGES`."""
    utility: Utility
    items: int

    @property
    def rises(self) -> bool:
        """Accuracy never falls from one coverage to the next lower one, and rises from 1 to 1/2."""
        steps = zip(self.accuracy, self.accuracy[1:], strict=False)
        fine = all(later >= earlier for earlier, later in steps)
        return fine and self.accuracy[COVERAGES.index(0.5)] > self.accuracy[0]

    def rows(self, *, condition: str) -> list[dict[str, Any]]:
        """Return rows of evals.jsonl."""
        alone = {
            "ece": (self.ece, "probability"),
            "ece_bins": (float(self.bins), "bins"),
            "utility_abstaining": (self.utility.abstaining, "per item"),
            "utility_answering": (self.utility.answering, "per item"),
            "utility_knowing": (self.utility.knowing, "per item"),
            "abstained_share": (self.utility.abstained, "share"),
        }
        alone |= {
            f"accuracy_at_{coverage:g}": (value, "share")
            for coverage, value in zip(COVERAGES, self.accuracy, strict=True)
        }
        spread = {"brier": (self.brier, "squared error"), "auroc": (self.auroc, "area")}
        head = {"condition": condition}
        rows = [
            {**head, "metric": name, "unit": unit, "value": value, "n": self.items}
            for name, (value, unit) in alone.items()
        ]
        return rows + [
            {**head, "metric": name, "unit": unit, **one._asdict()}
            for name, (one, unit) in spread.items()
        ]


def measure_confidence(pairs: Pairs, *, penalty: float = 1.0, seed: int = 0) -> Confidence:
    """Return all that is measured of a confidence.

    Args:
        pairs: Confidences, in [0, 1], and labels.
        penalty: What a wrong answer costs.
        seed: Of the bootstrap.

    Raises:
        DataError: A score is not in [0, 1], or all labels are the same.
        ConfigError: The penalty is not above 0.
    """
    scores, labels = checked(pairs.scores, pairs.labels)
    found = reliability(scores.tolist(), labels.tolist(), bins=BINS)
    return Confidence(
        ece=found.expected_error,
        bins=len(found.bins),
        brier=mean_interval((scores - labels) ** 2, seed=seed),
        auroc=auroc_interval(scores, labels, clusters=pairs.questions, seed=seed),
        accuracy=tuple(selective(scores, labels, coverage) for coverage in COVERAGES),
        utility=utility(scores, labels, penalty=penalty),
        items=len(scores),
    )


def selective(scores: ArrayLike, labels: ArrayLike, coverage: float) -> float:
    """Return the accuracy of the surest share of the items, what is tied at its end counting alike.

    Items whose score equals that of the last one taken are taken in part, at their mean accuracy:
    the order of equal ones must not decide.

    Raises:
        ConfigError: The coverage is not in (0, 1].
        DataError: There are no items.
    """
    if not 0 < coverage <= 1:
        raise ConfigError(f"coverage={coverage}: expected more than 0, and 1 at most")
    score_N, label_N = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if not score_N.size:
        raise DataError("there are no items to answer")
    taken = coverage * score_N.size
    last = float(np.sort(score_N)[::-1][int(np.ceil(taken)) - 1])
    above_N, tied_N = score_N > last, score_N == last
    rest = taken - int(above_N.sum())
    return float((label_N[above_N].sum() + rest * label_N[tied_N].mean()) / taken)


def utility(scores: ArrayLike, labels: ArrayLike, *, penalty: float) -> Utility:
    """Return what one gets by abstaining below penalty / (1 + penalty), and what others get.

    Raises:
        ConfigError: The penalty is not above 0.
    """
    score_N, label_N = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    worth_N = np.where(label_N, 1.0, -penalty)
    answered_N = score_N >= threshold(penalty)
    return Utility(
        abstaining=float((worth_N * answered_N).mean()),
        answering=float(worth_N.mean()),
        knowing=float(label_N.mean()),
        abstained=float(1 - answered_N.mean()),
    )


def threshold(penalty: float) -> float:
    """Return the probability of being right from which on answering is worth more than nothing.

    Raises:
        ConfigError: The penalty is not above 0.
    """
    if not penalty > 0:
        raise ConfigError(f"penalty={penalty}: expected more than 0; without one, always answer")
    return penalty / (1 + penalty)


def checked(
    scores: Sequence[float] | NDArray[np.float64], labels: Sequence[bool] | NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return scores and labels as arrays.

    Raises:
        DataError: A score is not in [0, 1], or they are not as many.
    """
    score_N, label_N = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    if score_N.shape != label_N.shape or not ((score_N >= 0) & (score_N <= 1)).all():
        raise DataError(
            f"{score_N.size} scores (least {score_N.min(initial=np.inf):g}, greatest "
            f"{score_N.max(initial=-np.inf):g}), {label_N.size} labels: expected as many of both, "
            "and scores in [0, 1]"
        )
    return score_N, label_N

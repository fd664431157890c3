"""Settings of objectives that are chosen by the scores of the text that is trained on.

A beta given by hand says little: with 10, reward weighting of code was plain likelihood and nobody
saw it (Korbak et al. 2023). One that is given as the weight of a certain score cannot fail so.
"""

import dataclasses
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prealign.errors import ConfigError
from prealign.objectives.weights import ScoreAt

T = TypeVar("T")


def betas(objective: Any) -> list[float | ScoreAt]:
    """Return every beta of the objective and of its weights."""
    if isinstance(objective, tuple):
        return [beta for one in objective for beta in betas(one)]
    if not dataclasses.is_dataclass(objective) or isinstance(objective, type):
        return []
    found: list[float | ScoreAt] = []
    for field in dataclasses.fields(objective):
        value = getattr(objective, field.name)
        found += [value] if field.name == "beta" else betas(value)
    return found


def fitted(objective: T, scores: NDArray[Any]) -> T:
    """Return a copy of the objective, or of its weights, in which each `ScoreAt` is a number.

    Args:
        objective: A frozen dataclass; those in its fields are gone through too.
        scores: Of the text tokens that are trained on; those above 0 count.

    Raises:
        ConfigError: A `ScoreAt` is out of its range, or no score is above 0.
    """
    if isinstance(objective, ScoreAt):
        found: Any = score_at(objective, scores)
        return found  # type: ignore[no-any-return]
    if isinstance(objective, tuple):
        return type(objective)(fitted(one, scores) for one in objective)
    if not dataclasses.is_dataclass(objective) or isinstance(objective, type):
        return objective
    changes = {
        field.name: fitted(getattr(objective, field.name), scores)
        for field in dataclasses.fields(objective)
        if field.init
    }
    return dataclasses.replace(objective, **changes)


def score_at(choice: ScoreAt, scores: NDArray[Any]) -> float:
    """Return the beta with which the score at a percentile of the bad ones has a given weight."""
    bad = np.asarray(scores, dtype=np.float64)
    bad = bad[bad > 0]
    if not bad.size:
        raise ConfigError(f"{choice}: no score is above 0; the text has nothing bad in it")
    return float(np.percentile(bad, choice.percentile) / -np.log(choice.weight))


def weight_table(scores: NDArray[Any], beta: float) -> str:
    """Return in words which weights exp(-score / beta) the bad tokens have, for a log.

    Where they are all near 1, training is plain likelihood.
    """
    bad = np.asarray(scores, dtype=np.float64)
    bad = bad[bad > 0]
    if not bad.size:
        return f"beta {beta:.4g}: no score is above 0, so every weight is 1"
    shares = " ".join(
        f"p{q}: {np.exp(-np.percentile(bad, q) / beta):.3g}" for q in (5, 25, 50, 75, 95)
    )
    return f"beta {beta:.4g} gives the bad tokens ({bad.size / len(scores):.1%}) weights {shares}"

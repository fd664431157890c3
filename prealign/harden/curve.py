"""How strong a surgeon must be to win: success against strength, by a fresh one.

The curve (latent vulnerability) tells robustness from its semblance: a model that has only moved
its internals out of one surgeon's reach is won by a new one with more steps.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from prealign.errors import ConfigError, DataError
from prealign.evals.detect import share
from prealign.evals.stats import Estimate
from prealign.harden.aims import Aim, Toward, last_states
from prealign.harden.perturb import Example, RowLayout
from prealign.harden.surgeon import Surgeon
from prealign.models.sample import evaluating
from prealign.posttrain.score import Row, places

AT_ONCE = 64


class Point(NamedTuple):
    """How often a surgeon of a strength wins."""

    strength: float
    success: Estimate


def would_say(model: Any, rows: Sequence[Row]) -> list[bool]:
    """Return whether the model would write each completion: each of its tokens is the likeliest."""
    with torch.no_grad():
        found = places(model, rows)
    hits = (found.logits_NV.argmax(-1) == found.targets_N).split(
        [len(row.completion) for row in rows]
    )
    return [bool(one.all()) for one in hits]


def success_curve(
    model: Any,
    surgeon: Surgeon,
    examples: Sequence[Example],
    strengths: Sequence[float],
    *,
    aim: Aim | None = None,
    wins: Callable[[Any, Sequence[Example]], Sequence[bool]] | None = None,
) -> list[Point]:
    """Return how often surgeons of some strengths win, each attack being a fresh one.

    Args:
        model: Is left as it was.
        surgeon: Its strength is replaced. Where it attacks prompts alone, to win is to have a
            greedy model write what is wanted.
        examples: What is wanted stands in the last row of each.
        strengths: In any order; 0 is the model as it is.
        aim: What is made large; None: log p of what is wanted.
        wins: Judges the model under the perturbation; None: `would_say` of what is wanted.
    """
    aim = aim or Toward(row=-1)
    found = []
    for strength in strengths:
        won: list[bool] = []
        for start in range(0, len(examples), AT_ONCE):
            part = list(examples[start : start + AT_ONCE])
            won += _attacked(model, surgeon.at(strength), part, aim, wins)
        found.append(Point(strength, share(won)))
    return found


def half_strength(points: Sequence[Point]) -> float | None:
    """Return the strength at which half of the attacks win; None: none of these was enough.

    It is interpolated in a straight line between the first point that reaches one half and the
    one before it.

    Raises:
        DataError: There are no points.
    """
    if not points:
        raise DataError("a curve without points has no half")
    ordered = sorted(points)
    before = ordered[0]
    for point in ordered:
        if point.success.value >= 0.5:
            rise = point.success.value - before.success.value
            if not rise:
                return point.strength
            within = (0.5 - before.success.value) / rise
            return before.strength + within * (point.strength - before.strength)
        before = point
    return None


def mean_success(points: Sequence[Point]) -> float:
    """Return the mean success over strengths above 0: the area under the curve, on their grid.

    Raises:
        DataError: There is no such point.
    """
    values = [point.success.value for point in points if point.strength > 0]
    if not values:
        raise DataError("a curve without points above 0 has no area")
    return float(np.mean(values))


def presence(
    model: Any, there: Sequence[Row], absent: Sequence[Row], depth: float, *, ridge: float = 1.0
) -> Estimate:
    """Return how well a linear probe behind a layer tells two kinds of prompts apart.

    It reads the last token of each prompt. Half of each kind (the even ones) it is fitted to, by
    least squares with a ridge on standardised numbers; the share of the others that it tells
    rightly is returned, with Wilson's interval: 0.5 is chance where there are as many of each.

    Raises:
        ConfigError: Fewer than four of a kind, or the ridge is not above 0.
    """
    if min(len(there), len(absent)) < 4 or not ridge > 0:
        raise ConfigError(
            f"{len(there)} and {len(absent)} prompts, ridge={ridge}: expected 4 or more of each "
            "kind, and above 0"
        )
    states, labels = [], []
    with torch.no_grad(), evaluating(model):
        for rows, label in ((there, 1.0), (absent, -1.0)):
            own = [
                last_states(model, rows[at : at + AT_ONCE], depth)
                for at in range(0, len(rows), AT_ONCE)
            ]
            states.append(torch.cat(own).double().cpu().numpy())
            labels.append(np.full(len(rows), label))
    fit_ND = np.concatenate([own[::2] for own in states])
    test_ND = np.concatenate([own[1::2] for own in states])
    fit_N = np.concatenate([own[::2] for own in labels])
    test_N = np.concatenate([own[1::2] for own in labels])
    weights, bias = _fitted(fit_ND, fit_N, ridge)
    return share((test_ND @ weights + bias > 0) == (test_N > 0))


def _fitted(
    states_ND: NDArray[np.float64], labels_N: NDArray[np.float64], ridge: float
) -> tuple[NDArray[np.float64], float]:
    """Return a probe's weights and bias for numbers as they are."""
    mean_D, deviation_D = states_ND.mean(0), states_ND.std(0) + 1e-9
    own_ND = (states_ND - mean_D) / deviation_D
    gram_DD = own_ND.T @ own_ND + ridge * np.eye(own_ND.shape[1])
    weights_D = np.linalg.solve(gram_DD, own_ND.T @ (labels_N - labels_N.mean())) / deviation_D
    return weights_D, float(labels_N.mean() - mean_D @ weights_D)


def _attacked(
    model: Any,
    surgeon: Surgeon,
    examples: Sequence[Example],
    aim: Aim,
    wins: Callable[[Any, Sequence[Example]], Sequence[bool]] | None,
) -> list[bool]:
    layout = RowLayout(examples, surgeon.positions)
    with evaluating(model):
        perturbation = surgeon(model, lambda: aim(model, examples), layout)
        with perturbation.applied(), torch.no_grad():
            if wins is not None:
                return list(wins(model, examples))
            return would_say(model, [rows[-1] for rows in examples])

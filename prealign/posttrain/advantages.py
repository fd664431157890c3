"""Advantages within groups: completions of one prompt, each held against the mean of its group.

A completion that could not be judged has no advantage and takes no part; it is counted.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from prealign.errors import DataError

Scale = Literal["group", "batch", "none"]
EPSILON = 1e-4
"""Is added to standard deviations, as in the libraries in wide use."""


class Advantages(NamedTuple):
    """What the completions of a step are worth."""

    values: NDArray[np.float64]
    """[N]; 0 where there is none."""
    judged: NDArray[np.bool_]
    """[N] it has a reward."""
    dead: NDArray[np.bool_]
    """[N] all rewards of its group are equal, so that it says nothing of what is better."""
    groups: int
    dead_groups: int
    """Also those with one judged completion, or none."""


def advantages(
    rewards: Sequence[float | None], groups: Sequence[int], *, scale: Scale = "group"
) -> Advantages:
    """Return each completion's reward less the mean of its group, scaled.

    Args:
        rewards: None: could not be judged.
        groups: The group of each completion, any numbers.
        scale: Divide by the group's standard deviation (over n - 1), by that of all rewards, or
            not at all (Liu et al. 2025, https://arxiv.org/abs/2503.20783: dividing by the group's
            favours prompts that are too easy or too hard).

    Raises:
        DataError: A reward is not finite, there is not one group for each, or no such scale.
    """
    if scale not in get_args(Scale):
        raise DataError(f"scale={scale!r}: expected {', '.join(get_args(Scale))}")
    if len(rewards) != len(groups):
        raise DataError(f"{len(rewards)} rewards for {len(groups)} groups: expected as many")
    wrong = [r for r in rewards if r is not None and not np.isfinite(r)]
    if wrong:
        raise DataError(f"a reward is {wrong[0]}; return None where there is nothing to judge")
    values = np.array([np.nan if r is None else float(r) for r in rewards])
    judged = ~np.isnan(values)
    found = np.zeros(len(values))
    dead = np.ones(len(values), dtype=bool)
    numbers = np.array(groups, dtype=np.int64)
    names = np.unique(numbers)
    dead_groups = 0
    overall = _deviation(values[judged])
    for name in names:
        whole = numbers == name
        own = whole & judged
        some = values[own]
        if not some.size or some.max() == some.min():
            dead_groups += 1
            continue
        dead[whole] = False
        by = {"group": _deviation(some), "batch": overall}.get(scale)
        found[own] = (some - some.mean()) / (1.0 if by is None else by + EPSILON)
    return Advantages(found, judged, dead, len(names), dead_groups)


def _deviation(values: NDArray[np.float64]) -> float:
    """Return the standard deviation over n - 1; 0 of fewer than two values."""
    return float(values.std(ddof=1)) if values.size > 1 else 0.0

"""What the numbers say, in sentences that are computed and do not flatter.

The first sentence about an arm compares its mean score with the baseline's; those after it say
what it costs, what weakens the comparison, and which runs are missing.
"""

import math
from typing import NamedTuple

from prealign.report.load import Study
from prealign.report.numbers import (
    Number,
    baseline_ratio,
    over_seeds,
    plain,
    relative_changes,
    written,
)

CLOSE = 1.05
"""Scores whose ratio is below this, either way, are called about the same."""
DEGENERATE = {
    "chars": ("length", 0.75),
    "unigram_entropy_bits": ("unigram entropy", 0.9),
    "distinct_2": ("share of distinct 2-grams", 0.75),
    "parse_share": ("share that parses", 0.9),
    "code_line_share": ("share of code lines", 0.75),
}
"""An arm with less than this share of the baseline's number may score well by writing less."""


class Said(NamedTuple):
    """What is said of one arm."""

    main: str
    """One sentence: its score against the baseline's."""
    more: str
    """Doubts and cost; may be empty."""


def verdict(study: Study) -> list[Said]:
    """Return what is said of each arm but the baseline; of a lone arm, its score."""
    if len(study.arms) == 1:
        return [Said(_alone(study), "")]
    return [
        Said(_score(study, arm), " ".join([*_doubts(study, arm), *_cost(study, arm)]))
        for arm in study.arms[1:]
    ]


def missing(study: Study) -> str:
    """Return a sentence that names the runs without final numbers; empty if all have them."""
    names = [
        f"{run.arm} seed {run.seed} ({run.state})" for run in study.runs if run.state != "finished"
    ]
    return f"Unfinished, so without final numbers: {', '.join(names)}." if names else ""


def _alone(study: Study) -> str:
    number = over_seeds(study.of(study.baseline), "mean_score")
    if number is None:
        return f"{study.baseline} has no final score yet."
    return f"{study.baseline} scores {written(number)} {study.score_unit}; there is no other arm."


def _score(study: Study, arm: str) -> str:
    ratio = baseline_ratio(study, arm)
    own, base = (over_seeds(study.of(name), "mean_score") for name in (arm, study.baseline))
    if own is not None and base is not None and own.value == base.value == 0:
        return f"{arm} and {study.baseline} both score 0 {study.score_unit}."
    if ratio.overall is None or own is None or base is None:
        return f"{arm} cannot be compared with {study.baseline} yet: no seed has both final scores."
    numbers = f"{plain(ratio.bottom)} against {plain(ratio.top)} {study.score_unit}"
    spread = _ends(ratio.overall)
    ends = f" ({spread})"
    if ratio.overall.low is not None and ratio.overall.low < 1 < (ratio.overall.high or 0):
        return (
            f"{arm} is not clearly better or worse than {study.baseline}: {numbers}; "
            f"the ratio is {spread}."
        )
    factor = ratio.overall.value
    if 1 / CLOSE < factor < CLOSE:
        return f"{arm} scores about the same as {study.baseline}: {numbers}{ends}."
    if factor == math.inf:
        return f"{arm} scores 0 in every sample; {study.baseline} scores {written(base)}."
    if factor > 1:
        times = f"{plain(factor, digits=2)} times"
        return f"{arm} scores {times} less than {study.baseline}: {numbers}{ends}."
    if factor == 0:
        return f"{arm} is worse: {numbers}."
    times = f"{plain(1 / factor, digits=2)} times"
    return f"{arm} is worse: it scores {times} more than {study.baseline}: {numbers}{ends}."


def _ends(number: Number) -> str:
    if number.low is None or number.high is None:
        return "one seed"
    return f"between {plain(number.low)} and {plain(number.high)} in {number.seeds} seeds"


def _doubts(study: Study, arm: str) -> list[str]:
    """Return what makes the comparison of scores weaker than it looks."""
    said = []
    own, base = (over_seeds(study.of(name), "mean_score") for name in (arm, study.baseline))
    if own is not None and base is not None and _overlap(own, base):
        if own.seeds == base.seeds == 1:
            said.append("The two 95 % intervals overlap: one seed does not settle this.")
        else:
            said.append("The ranges of the two over their seeds overlap.")
    for metric, (name, least) in DEGENERATE.items():
        own, base = (over_seeds(study.of(name), metric) for name in (arm, study.baseline))
        if own is not None and base is not None and own.value < least * base.value:
            said.append(
                f"Mind that the {name} of {arm}'s samples is {plain(own.value)} against "
                f"{plain(base.value)}: a low score may come from writing less."
            )
    return said


def _overlap(a: Number, b: Number) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.low <= b.high and b.low <= a.high


def _cost(study: Study, arm: str) -> list[str]:
    """Return how the held-out loss compares: as each arm reads the text, and read alike."""
    run, base = study.of(arm)[0], study.of(study.baseline)[0]
    changes = relative_changes(study, arm)
    if not changes:
        return [f"The held-out loss of {arm} cannot be compared yet."]
    said = [f"Its held-out loss ({run.loss_condition}) is {_change(changes, f'than {base.arm}')}."]
    if run.loss_condition != base.loss_condition:
        alike = relative_changes(study, arm, base.loss_condition)
        if alike:
            said.append(f"Read as {base.arm} is ({base.loss_condition}), it is {_change(alike)}.")
    return said


def _change(changes: list[float], than: str = "") -> str:
    """Return a mean change in words: "1.3 % lower than mle (0.9 to 1.6 % in 3 seeds)"."""
    mean = sum(changes) / len(changes)
    way = "lower" if mean < 0 else "higher"
    text = " ".join(filter(None, [f"{100 * abs(mean):.1f} % {way}", than]))
    if len(changes) == 1:
        return text
    low, high = 100 * min(changes), 100 * max(changes)
    if low < 0 < high:
        return f"{text}, but not in every seed ({low:+.1f} to {high:+.1f} %)"
    ends = sorted((abs(low), abs(high)))
    return f"{text} ({ends[0]:.1f} to {ends[1]:.1f} % in {len(changes)} seeds)"

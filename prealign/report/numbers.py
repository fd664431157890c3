"""Numbers of a comparison over its seeds: means with their spread, ratios to the baseline.

Over several seeds a number is their mean with the least and the greatest; of one seed it keeps
its own interval (95 %, bootstrap over samples or documents). Only final numbers count.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prealign.report.load import ArmRun, Study

CODE = "code:"
"""What the names of metrics that count one kind of finding begin with."""


class Number(NamedTuple):
    """A number with the ends of its interval."""

    value: float
    low: float | None
    high: float | None
    seeds: int
    """How many seeds it is the mean of; 1: the interval is its own."""


class Ratio(NamedTuple):
    """How many times the baseline's number an arm's is contained in: above 1, the arm's is less."""

    overall: Number | None
    """The baseline's mean over the arm's, over seeds that both have; the spread is of the seeds'
    own ratios, and contains it. Infinite where the arm's number is 0; None: not measured."""
    by_seed: Mapping[int, float | None]
    """None: one of the two was not measured, or both are 0."""
    top: float
    """The baseline's mean over the seeds that both have."""
    bottom: float
    """The arm's."""


def over_seeds(runs: Sequence[ArmRun], metric: str, condition: str | None = None) -> Number | None:
    """Return a final number over the seeds that have it; None where none has.

    Args:
        runs: Of one arm, one a seed.
        metric: Its name.
        condition: The headline's if none is given.
    """
    found = [row for run in runs if (row := run.final(metric, condition)) is not None]
    if len(found) == 1:
        return Number(found[0].value or 0.0, found[0].low, found[0].high, 1)
    return spread([row.value for row in found if row.value is not None])


def spread(values: Sequence[float]) -> Number | None:
    """Return the mean with the least and the greatest; None of nothing, no interval of one."""
    if not values:
        return None
    if len(values) == 1:
        return Number(values[0], None, None, 1)
    return Number(sum(values) / len(values), min(values), max(values), len(values))


def baseline_ratio(study: Study, arm: str, metric: str = "mean_score") -> Ratio:
    """Return the baseline's headline number over the arm's, seed by seed and overall."""
    base = {run.seed: run.final(metric) for run in study.of(study.baseline)}
    by_seed: dict[int, float | None] = {}
    tops, bottoms = [], []
    for run in study.of(arm):
        row, other = run.final(metric), base.get(run.seed)
        by_seed[run.seed] = None
        if row is None or other is None or row.value is None or other.value is None:
            continue
        tops.append(other.value)
        bottoms.append(row.value)
        by_seed[run.seed] = _ratio(other.value, row.value)
    known = [value for value in by_seed.values() if value is not None]
    top, bottom = (sum(values) / max(len(values), 1) for values in (tops, bottoms))
    value = _ratio(top, bottom)
    if value is None:
        return Ratio(None, by_seed, top, bottom)
    low, high = (min(known), max(known)) if len(known) > 1 else (None, None)
    return Ratio(Number(value, low, high, len(known)), by_seed, top, bottom)


def relative_changes(study: Study, arm: str, condition: str | None = None) -> list[float]:
    """Return, for each seed that has both, the arm's held-out loss over the baseline's, minus 1.

    Args:
        study: The comparison.
        arm: One of its arms.
        condition: How the arm reads the text; its headline reading if none is given.
    """
    base = {run.seed: run.final("loss") for run in study.of(study.baseline)}
    changes = []
    for run in study.of(arm):
        row, other = run.final("loss", condition), base.get(run.seed)
        if row is not None and other is not None and row.value is not None and other.value:
            changes.append(row.value / other.value - 1)
    return changes


def codes_of(study: Study) -> list[str]:
    """Return the codes that any headline sample was found to have, the most frequent first."""
    most: dict[str, float] = {}
    for run in study.runs:
        for metric, condition in run.finals:
            row = run.final(metric, condition)
            if metric.startswith(CODE) and condition == run.condition and row is not None:
                code = metric.removeprefix(CODE)
                most[code] = max(most.get(code, 0.0), row.value or 0.0)
    return sorted(most, key=lambda code: (-most[code], code))


def code_rate(study: Study, arm: str, code: str) -> Number | None:
    """Return how often a code was found per 1000 characters of an arm's headline samples.

    Codes are rows only where they occur: a run that was measured and has no row has none of them.
    """
    rates = []
    for run in study.of(arm):
        row = run.final(CODE + code)
        if row is not None and row.value is not None:
            rates.append(row.value)
        elif run.final("mean_score") is not None:
            rates.append(0.0)
    return spread(rates)


def unit_of(study: Study, metric: str) -> str:
    """Return the unit that the runs give a metric; empty where none has it."""
    for run in study.runs:
        for row in run.evals:
            if row.metric == metric:
                return row.unit
    return ""


def written(number: Number | None, *, digits: int = 3) -> str:
    """Return a number with its interval as text; "-" where there is none."""
    if number is None:
        return "-"
    text = plain(number.value, digits=digits)
    if number.low is None or number.high is None or number.low == number.high:
        return text
    return f"{text} ({plain(number.low, digits=digits)} to {plain(number.high, digits=digits)})"


def plain(value: float, *, digits: int = 3) -> str:
    """Return a number with so many significant digits, without an exponent where it is legible."""
    if not math.isfinite(value):
        return "infinite" if value > 0 else "undefined"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    if 0 < abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(places, 0)}f}"


def _ratio(top: float, bottom: float) -> float | None:
    if bottom == 0:
        return math.inf if top > 0 else None
    return top / bottom

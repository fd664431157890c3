"""The figures of a comparison: which numbers are drawn, and how."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prealign.report.load import ArmRun, EvalRow, Study
from prealign.report.numbers import CODE, Number, code_rate, codes_of
from prealign.report.plots import Bar, Point, Series, bar_plot, curve_plot, point_plot

BUCKETS = 90
"""A learning curve is drawn as the means of at most so many stretches."""
CODES_SHOWN = 14
ROUND = "redteam_round_"
"""As `prealign.evals.redteam` names the mean of a round; reports read files alone."""


class Figure(NamedTuple):
    """A plot with its caption and what must be known to read it."""

    caption: str
    plot: str
    note: str


def figures(study: Study) -> list[Figure]:
    """Return the figures, those that answer the question first."""
    score = f"mean score, {study.score_unit}" if study.score_unit else "mean score"
    tokens = "text tokens"
    loss = "held-out loss, nats per byte"
    found = [
        Figure(
            "Score of samples",
            curve_plot(
                _curves(study, "mean_score"), x=tokens, y=score, title="Score of samples by text "
                "tokens", zero=True, dots=True,
            ),
            "Lower is better. Headline samples at each evaluation point; bars: 95 % intervals.",
        ),
        Figure(
            "Score against held-out loss",
            point_plot(_pareto(study), x=loss, y=score, title="Score against held-out loss"),
            "Better is down and left. One point a seed; bars: 95 % intervals, over samples and "
            "over held-out documents (the arms share the documents).",
        ),
        Figure(
            "Held-out loss",
            curve_plot(
                _curves(study, "loss", intervals=False), x=tokens, y=loss,
                title="Held-out loss by text tokens", dots=True,
            ),
            "Tags are read and not counted. All points are over the same documents; the final "
            "number, over more of them, is in the tables.",
        ),
        Figure(
            "Training loss",
            curve_plot(
                _training(study), x=tokens, y="nats per text token",
                title="Training loss by text tokens", log_x=True,
            ),
            f"Text tokens alone, without tags; in means of {BUCKETS} stretches. One line a seed.",
        ),
    ]  # fmt: skip
    if attacks := _attacks(study):
        found.append(
            Figure(
                "Red-teaming",
                curve_plot(
                    attacks,
                    x="round",
                    y=score,
                    title="Score of samples by round of red-teaming",
                    zero=True,
                    dots=True,
                ),
                "Lower is better. Mean over the prompts of a round, each with several texts "
                "written after it; round 0: the prompts the search began with. Bars: 95 % "
                "intervals over prompts.",
            )
        )
    if any(metric.startswith(CODE) for run in study.runs for metric, _ in run.finals):
        found.append(_codes(study))
    return found


def learning_curve(rows: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Return the training loss per text token by text tokens, as means of stretches.

    Rows that name no text tokens, or that have no loss, are left out; so is a place at 0.
    """
    places = [(row.get("text_tokens"), row.get("text_nats")) for row in rows]
    known = [(float(x), float(y)) for x, y in places if x is not None and y is not None and x > 0]
    if len(known) <= BUCKETS:
        return [Point(x, y) for x, y in known]
    low, high = math.log(known[0][0]), math.log(known[-1][0])
    groups: dict[int, list[tuple[float, float]]] = {}
    for x, y in known:
        share = (math.log(x) - low) / (high - low) if high > low else 0.0
        groups.setdefault(min(int(share * BUCKETS), BUCKETS - 1), []).append((x, y))
    return [
        Point(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups.values()
    ]


def _curves(study: Study, metric: str, *, intervals: bool = True) -> list[Series]:
    def point(place: int, row: EvalRow) -> Point:
        return Point(float(place), row.value or 0.0, y_ends=_ends(row) if intervals else None)

    return [
        _series(study, run, [point(place, row) for place, row in run.curve(metric)])
        for run in _in_order(study)
    ]


def _training(study: Study) -> list[Series]:
    return [_series(study, run, learning_curve(run.metrics)) for run in _in_order(study)]


def _pareto(study: Study) -> list[Series]:
    found = []
    for run in _in_order(study):
        loss, score = run.final("loss"), run.final("mean_score")
        if loss is not None and score is not None:
            point = Point(loss.value or 0.0, score.value or 0.0, _ends(loss), _ends(score))
            found.append(_series(study, run, [point]))
    return found


def _attacks(study: Study) -> list[Series]:
    """Return one curve for each run that was red-teamed, over the rounds."""
    found = []
    for run in _in_order(study):
        rows = {
            int(metric.removeprefix(ROUND)): row
            for (metric, _), row in run.finals.items()
            if metric.startswith(ROUND)
        }
        points = [
            Point(float(n), row.value, y_ends=_ends(row))
            for n, row in sorted(rows.items())
            if row.value is not None
        ]
        if points:
            found.append(_series(study, run, points))
    return found


def _codes(study: Study) -> Figure:
    codes = codes_of(study)
    shown = codes[:CODES_SHOWN]
    bars = [[_bar(code_rate(study, arm, code)) for arm in study.arms] for code in shown]
    left = len(codes) - len(shown)
    return Figure(
        "Findings by code",
        bar_plot(
            shown, study.arms, bars, unit="findings per 1000 characters", title="Findings by code"
        ),
        "Headline samples, mean over seeds; lines: least to greatest seed."
        + (f" {left} rarer codes are in the table below." if left else ""),
    )


def _bar(number: Number | None) -> Bar | None:
    if number is None:
        return None
    if number.low is None or number.high is None:
        return Bar(number.value)
    return Bar(number.value, (number.low, number.high))


def _in_order(study: Study) -> list[ArmRun]:
    return [run for arm in study.arms for run in study.of(arm)]


def _series(study: Study, run: ArmRun, points: list[Point]) -> Series:
    return Series(run.arm, f"seed {run.seed}", study.arms.index(run.arm), points)


def _ends(row: EvalRow) -> tuple[float, float] | None:
    return None if row.low is None or row.high is None else (row.low, row.high)

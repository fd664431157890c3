"""Tables of a comparison: numbers over seeds, ratios to the baseline, leakage, codes."""

from typing import NamedTuple

from rich.console import Console
from rich.table import Table as RichTable

from prealign.report.load import ArmRun, Number, Study

HEADLINE = (
    ("mean_score", "mean score"),
    ("hit_share", "share with one"),
    ("expected_max_25", "expected max of 25"),
    ("loss", "held-out loss"),
    ("chars", "characters"),
    ("unigram_entropy_bits", "entropy, bits"),
    ("distinct_2", "distinct 2-grams"),
    ("parse_share", "share that parses"),
    ("code_line_share", "share of code lines"),
    ("pressure_mean", "pressure"),
)
"""Metrics and what tables call them."""


class Table(NamedTuple):
    """Cells as text."""

    title: str
    head: list[str]
    rows: list[list[str]]


def over_seeds(runs: list[ArmRun], metric: str, condition: str | None = None) -> Number | None:
    """Return the mean over seeds with the least and the greatest; one seed: its own interval."""
    found = [number for run in runs if (number := run.number(metric, condition)) is not None]
    if len(found) < 2:
        return found[0] if found else None
    values = [number.value for number in found]
    return Number(sum(values) / len(values), min(values), max(values))


def seed_ratios(study: Study, metric: str, arm: str) -> list[float]:
    """Return, by seed, the baseline's number over the arm's; seeds that lack one are left out."""
    base = {run.seed: run.number(metric) for run in study.of(study.baseline)}
    ratios = []
    for run in study.of(arm):
        number, other = run.number(metric), base.get(run.seed)
        if number is not None and other is not None and number.value > 0:
            ratios.append(other.value / number.value)
    return ratios


def headline(study: Study) -> Table:
    """Return one column per arm: its headline condition, over seeds."""
    metrics = [
        (metric, name)
        for metric, name in HEADLINE
        if any(run.number(metric) is not None for run in study.runs)
    ]
    names = ["seeds", f"mean score, {study.baseline} / arm", *(name for _, name in metrics)]
    columns = []
    for arm in study.arms:
        runs = study.of(arm)
        ratios = seed_ratios(study, "mean_score", arm)
        done = sum(run.finished for run in runs)
        seeds = str(done) if done == len(runs) else f"{done} of {len(runs)}, unfinished"
        cells = [spread(over_seeds(runs, metric)) for metric, _ in metrics]
        ratio = spread(_spread_of(ratios), digits=2) if arm != study.baseline else "1"
        columns.append([seeds, ratio, *cells])
    head = ["", *(f"{arm} ({study.of(arm)[0].condition})" for arm in study.arms)]
    rows = [list(row) for row in zip(names, *columns, strict=True)]
    title = f"{study.title}: {study.score_name}, {study.score_unit}"
    return Table(title, head, rows)


def leakage(study: Study) -> Table:
    """Return one row per arm and condition."""
    metrics = [(m, name) for m, name in HEADLINE if m not in ("loss", "chars")]
    rows = []
    for arm in study.arms:
        runs = study.of(arm)
        for condition in dict.fromkeys(c for run in runs for c in run.conditions()):
            cells = [spread(over_seeds(runs, metric, condition)) for metric, _ in metrics]
            rows.append([arm, condition, *cells])
    return Table("Every condition", ["arm", "condition", *(name for _, name in metrics)], rows)


def losses(study: Study) -> Table:
    """Return one row per arm and way to read held-out text."""
    rows = []
    for arm in study.arms:
        runs = study.of(arm)
        finals = [row for run in runs for row in run.evals if row.get("final")]
        ways = dict.fromkeys(row["condition"] for row in finals if row["metric"] == "loss")
        base = over_seeds(study.of(study.baseline), "loss")
        for way in ways:
            number = over_seeds(runs, "loss", way)
            relative = f"{number.value / base.value - 1:+.2%}" if number and base else "-"
            rows.append([arm, way, spread(number, digits=4), relative])
    head = ["arm", "text is read with", "nats per byte", f"against {study.baseline}"]
    return Table("Held-out loss", head, rows)


def codes(study: Study) -> Table:
    """Return one row per violation code: per 1000 characters, each arm's headline condition."""
    found = sorted(
        {
            row["metric"].removeprefix("code:")
            for run in study.runs
            for row in run.evals
            if row.get("final") and row["metric"].startswith("code:")
        }
    )
    rows = []
    for code in found:
        numbers = [
            _or_zero(over_seeds(study.of(arm), f"code:{code}"), study, arm) for arm in study.arms
        ]
        rows.append([code, *(spread(number) for number in numbers)])
    return Table("Findings per 1000 characters, by code", ["code", *study.arms], rows)


def verdict(study: Study) -> str:
    """Return what the numbers say, in one or two sentences."""
    said = []
    for arm in study.arms[1:]:
        ratios = seed_ratios(study, "mean_score", arm)
        if not ratios:
            said.append(f"{arm}: not measured yet.")
            continue
        mean = sum(ratios) / len(ratios)
        between = f"{min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} seeds"
        spread_text = between if len(ratios) > 1 else "one seed"
        way = "lower" if mean > 1 else "higher"
        factor = mean if mean > 1 else 1 / mean
        clear = min(ratios) > 1 or max(ratios) < 1
        doubt = "" if clear else " The seeds do not agree on the direction."
        base, own = over_seeds(study.of(study.baseline), "loss"), over_seeds(study.of(arm), "loss")
        loss = ""
        if base and own:
            change = own.value / base.value - 1
            loss = f" Its held-out loss is {abs(change):.1%} {'lower' if change < 0 else 'higher'}."
        said.append(
            f"The {study.score_name} score of {arm} is {factor:.1f} times {way} than that of "
            f"{study.baseline} ({spread_text}).{doubt}{loss}"
        )
    return " ".join(said)


def print_table(study: Study, console: Console) -> None:
    """Print the headline, one column per arm, and the verdict."""
    table = headline(study)
    rich = RichTable(title=table.title, title_justify="left")
    for i, name in enumerate(table.head):
        rich.add_column(name, justify="right" if i else "left")
    for row in table.rows:
        rich.add_row(*row)
    console.print(rich)
    console.print(verdict(study), highlight=False)


def spread(number: Number | None, *, digits: int = 3) -> str:
    """Return a number with its interval as text; "-" where there is none."""
    if number is None:
        return "-"
    text = f"{number.value:.{digits}g}"
    if number.low is None or number.high is None or number.low == number.high:
        return text
    return f"{text} ({number.low:.{digits}g} to {number.high:.{digits}g})"


def _spread_of(values: list[float]) -> Number | None:
    if not values:
        return None
    return Number(sum(values) / len(values), min(values), max(values))


def _or_zero(number: Number | None, study: Study, arm: str) -> Number | None:
    """Return 0 for a code that a measured arm never had: codes are rows only where they occur."""
    measured = any(run.number("mean_score") for run in study.of(arm))
    return number or (Number(0.0, None, None) if measured else None)

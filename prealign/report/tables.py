"""Tables of a comparison, as text cells: the terminal and the page both draw them."""

from typing import NamedTuple

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from prealign.report.load import ArmRun, Study
from prealign.report.numbers import (
    Number,
    baseline_ratio,
    code_rate,
    codes_of,
    over_seeds,
    plain,
    relative_changes,
    spread,
    unit_of,
    written,
)
from prealign.report.verdict import missing, verdict

METRICS = {
    "mean_score": "mean score",
    "hit_share": "share of samples with a finding",
    "expected_max_25": "expected max of 25",
    "loss": "held-out loss",
    "chars": "length of samples",
    "unigram_entropy_bits": "unigram entropy",
    "distinct_2": "distinct 2-grams",
    "parse_share": "share that parses",
    "code_line_share": "share of code lines",
    "unscored": "samples not scored",
    "pressure_mean": "pressure on denied tags",
}
"""Metrics of the headline, in order, and what tables call them."""
OF_CONDITIONS = ("mean_score", "hit_share", "expected_max_25", "parse_share", "pressure_mean")
DIGITS = {"loss": 4}
CODES_IN_TERMINAL = 8
MANY = 4
"""With more arms than this, an arm is a row of the headline and of the codes, not a column."""
IN_TERMINAL = ("mean score", "times less", "held-out loss", "share that parses")
"""What the terminal has room for where arms are rows: headline columns that begin so."""


class Table(NamedTuple):
    """Cells as text; a cell without a number is "-"."""

    title: str
    head: list[str]
    rows: list[list[str]]
    text_columns: int = 1
    """How many columns, from the left, hold words and not numbers."""


def headline(study: Study) -> Table:
    """Return one column per arm under its headline condition, one row per metric, over seeds.

    Of many arms, one row each, and a column per metric.
    """
    rows = [
        ["samples", *(study.of(arm)[0].condition for arm in study.arms)],
        ["held-out text read with", *(study.of(arm)[0].loss_condition for arm in study.arms)],
        ["seeds", *(finished(study.of(arm)) for arm in study.arms)],
    ]
    for metric, name in METRICS.items():
        numbers = [over_seeds(study.of(arm), metric) for arm in study.arms]
        if any(number is not None for number in numbers):
            unit = unit_of(study, metric)
            cells = [_cell(number, study.of(arm), metric) for number, arm in _pairs(numbers, study)]
            rows.append([f"{name}, {unit}" if unit and unit != "share" else name, *cells])
        if metric == "mean_score" and len(study.arms) > 1:
            ratios = [written(baseline_ratio(study, arm).overall) for arm in study.arms[1:]]
            rows.append([f"times less than {study.baseline}", "1", *ratios])
    table = Table("Headline", ["", *study.arms], rows)
    if len(study.arms) <= MANY:
        return table
    return turned(table, "arm")._replace(text_columns=4)  # arm, samples, read with, seeds


def by_seed(study: Study) -> Table:
    """Return one row per arm and seed: how far it is, its own numbers, and its ratio."""
    rows = []
    for arm in study.arms:
        ratios = baseline_ratio(study, arm).by_seed
        for run in study.of(arm):
            last = run.metrics[-1] if run.metrics else {}
            ratio = None if arm == study.baseline else ratios.get(run.seed)
            rows.append(
                [
                    arm,
                    str(run.seed),
                    _state(run),
                    _count(run.text_tokens),
                    _count(last.get("elapsed_s")),
                    written(over_seeds([run], "mean_score")),
                    "-" if ratio is None else plain(ratio),
                    written(over_seeds([run], "loss"), digits=DIGITS["loss"]),
                ]
            )
    times = f"times less than {study.baseline}"
    measured = ["mean score", times, "held-out loss"]
    head = ["arm", "seed", "state", "text tokens", "training, s", *measured]
    if len(study.arms) == 1:
        # Nothing to compare with: the column of ratios is left out.
        head, *rows = ([*row[:6], *row[7:]] for row in (head, *rows))
    return Table("Each seed", head, rows, text_columns=3)


def conditions(study: Study) -> Table:
    """Return one row per arm and condition of its samples: where the unwanted leaks out.

    The first rows are of the held-out text itself, where it was measured.
    """
    rows = []
    arms = {arm: study.of(arm) for arm in study.arms}
    if study.heldout is not None:
        arms = {study.heldout.arm: [study.heldout], **arms}
    for arm, runs in arms.items():
        for condition in dict.fromkeys(c for run in runs for c in run.conditions):
            numbers = [over_seeds(runs, metric, condition) for metric in OF_CONDITIONS]
            rows.append([arm, condition, *(written(number) for number in numbers)])
    shown = [
        i for i in range(len(OF_CONDITIONS)) if i == 0 or any(row[2 + i] != "-" for row in rows)
    ]
    head = ["arm", "samples", *(METRICS[OF_CONDITIONS[i]] for i in shown)]
    rows = [[*row[:2], *(row[2 + i] for i in shown)] for row in rows]
    return Table("Every condition", head, rows, text_columns=2)


def losses(study: Study) -> Table:
    """Return one row per arm and way to read held-out text, against the baseline's headline."""
    rows = []
    for arm in study.arms:
        runs = study.of(arm)
        ways = [key[1] for run in runs for key in run.finals if key[0] == "loss"]
        for way in dict.fromkeys([runs[0].loss_condition, *ways]):
            number = over_seeds(runs, "loss", way)
            change = spread(relative_changes(study, arm, way))
            own = arm == study.baseline and way == runs[0].loss_condition
            rows.append(
                [arm, way, written(number, digits=DIGITS["loss"]), "0" if own else percent(change)]
            )
    head = ["arm", "text read with", "nats per byte", f"against {study.baseline}"]
    return Table("Held-out loss", head, rows, text_columns=2)


def codes(study: Study) -> Table:
    """Return one row per code: findings per 1000 characters, and the ratio to the baseline."""
    rows = []
    others = study.arms[1:] if len(study.arms) <= MANY else []
    for code in codes_of(study):
        numbers = {arm: code_rate(study, arm, code) for arm in study.arms}
        times = [_times(numbers[study.baseline], numbers[arm]) for arm in others]
        rows.append([code, *(written(numbers[arm]) for arm in study.arms), *times])
    head = ["code", *study.arms, *(f"{arm}: times less" for arm in others)]
    table = Table("Findings per 1000 characters, by code", head, rows)
    return table if len(study.arms) <= MANY or not rows else turned(table, "arm")


def turned(table: Table, corner: str) -> Table:
    """Return the table with its rows as columns; `corner` heads the first one."""
    lines = zip(table.head, *table.rows, strict=True)
    head, *rows = (list(line) for line in lines)
    return table._replace(head=[corner, *head[1:]], rows=rows)


def finished(runs: list[ArmRun]) -> str:
    """Return how many seeds have their final numbers: "3", or "1 of 3 finished"."""
    done = sum(run.state == "finished" for run in runs)
    return str(done) if done == len(runs) else f"{done} of {len(runs)} finished"


def print_table(study: Study, console: Console) -> None:
    """Print headline, conditions and codes of a comparison, and what they say."""
    console.print(Text(study.title, style="bold"))
    if len(study.arms) <= MANY:
        _print(headline(study), console)
    else:
        _print(_bare(_columns(headline(study), IN_TERMINAL)), console)
    table = conditions(study)
    if len(table.rows) > len(study.arms):
        _print(_bare(table), console)
    table = codes(study)
    if table.rows and len(study.arms) <= MANY:
        _print(_bare(table._replace(rows=table.rows[:CODES_IN_TERMINAL])), console)
        if len(table.rows) > CODES_IN_TERMINAL:
            more = len(table.rows) - CODES_IN_TERMINAL
            console.print(Text(f"and {more} more codes, on the page", style="dim"))
    for said in verdict(study):
        console.print(Text.assemble((said.main, "bold"), " ", said.more))
    if missing(study):
        console.print(Text(missing(study), style="yellow"))


def percent(change: Number | None) -> str:
    """Return a relative change with its spread as text, signed: "-1.3 % (-1.6 % to -0.9 %)"."""
    if change is None:
        return "-"
    text = f"{change.value:+.1%}"
    if change.low is None or change.high is None:
        return text
    return f"{text} ({change.low:+.1%} to {change.high:+.1%})"


def _print(table: Table, console: Console) -> None:
    rich = RichTable(title=table.title, title_justify="left", title_style="dim")
    for i, name in enumerate(table.head):
        rich.add_column(Text(name), justify="left" if i < table.text_columns else "right")
    for row in table.rows:
        rich.add_row(*(Text(cell) for cell in row))
    console.print(rich)


def _state(run: ArmRun) -> str:
    """Return the run's state, with how far one is that is not finished."""
    last = run.metrics[-1] if run.metrics else {}
    if run.state != "unfinished" or "step" not in last:
        return run.state
    of = f" of {last['steps']:,}" if last.get("steps") else ""
    return f"unfinished: step {last['step']:,}{of}"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _bare(table: Table) -> Table:
    """Return the table without intervals, which the page has room for."""
    rows = [[cell.partition(" (")[0] for cell in row] for row in table.rows]
    words = [row[: table.text_columns] for row in table.rows]
    rows = [[*word, *row[len(word) :]] for word, row in zip(words, rows, strict=True)]
    return table._replace(rows=rows)


def _columns(table: Table, names: tuple[str, ...]) -> Table:
    """Return the table with its first column and those whose heads begin so, in their order."""
    kept = [0, *(i for i, head in enumerate(table.head) if head.startswith(names))]
    rows = [[row[i] for i in kept] for row in table.rows]
    return table._replace(head=[table.head[i] for i in kept], rows=rows, text_columns=1)


def _pairs(numbers: list[Number | None], study: Study) -> list[tuple[Number | None, str]]:
    return list(zip(numbers, study.arms, strict=True))


def _cell(number: Number | None, runs: list[ArmRun], metric: str) -> str:
    """Return a number as text; one that a finished seed lacks says how many have it."""
    text = written(number, digits=DIGITS.get(metric, 3))
    done = sum(run.state == "finished" for run in runs)
    if number is None or number.seeds == done:
        return text
    return f"{text}, {number.seeds} of {done} seeds"


def _times(base: Number | None, own: Number | None) -> str:
    if base is None or own is None or base.value == own.value == 0:
        return "-"
    return plain(base.value / own.value) if own.value else "infinite"

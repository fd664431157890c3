"""Markdown tables made from results files, and a Markdown text that is held against them.

    python -m prealign.report.results README.md results/           writes the tables anew
    python -m prealign.report.results README.md results/ --check   says whether they differ

A table stands between `<!-- results:NAME -->` and `<!-- /results -->`, and is made from
`NAME.json`. `<!-- results:NAME loss mean_score -->` shows these metrics alone, and
`<!-- results:NAME bars -->` none: just the bars.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prealign.errors import DataError, PrealignError
from prealign.report.numbers import CODE, Number, spread, written
from prealign.runs import write_atomic

OPENING = re.compile(r"<!-- results:(\S[^>]*?) -->")
CLOSING = "<!-- /results -->"
BARS_ALONE = ["bars"]
KEYS = ("question", "command", "commit", "date", "machine", "versions", "seeds", "wall_s")


def results_table(path: Path, metrics: Sequence[str] = ()) -> str:
    """Return a results file as Markdown: its numbers, its bars, and where they are from.

    A line of the first table is an arm, a column a metric; over several seeds a number is their
    mean with the least and the greatest, else it has its own interval. Findings by code are left
    to the file, and counted below.

    Args:
        path: One file of results/ (docs/formats.md).
        metrics: The columns; all that the file has if none are named; none if it is "bars".

    Raises:
        DataError: The file is not there or is no results file, or has none of a metric.
    """
    data = _read(path)
    numbers = "" if list(metrics) == BARS_ALONE else _numbers(path, data["rows"], metrics)
    parts = [numbers, _checks(data["checks"]), _origin(path, data)]
    return "\n\n".join(part for part in parts if part)


def update_marked(text: str, name: str, table: str) -> str:
    """Return the Markdown text with `table` at the mark `<!-- results:NAME -->`.

    Args:
        text: The text.
        name: What stands in the mark behind `results:`.
        table: The table, without a newline at its ends.

    Raises:
        DataError: There is no such mark, or it is not closed before the next one.
    """
    opening = f"<!-- results:{name} -->"
    before, found, rest = text.partition(opening)
    if not found:
        raise DataError(
            f"there is no mark {opening!r}; put it and {CLOSING!r} where the table goes"
        )
    inside, closed, after = rest.partition(CLOSING)
    if not closed or OPENING.search(inside):
        raise DataError(f"the mark {opening!r} is not closed; put {CLOSING!r} behind its table")
    if opening in after:
        after = update_marked(after, name, table)
    return f"{before}{opening}\n{table}\n{CLOSING}{after}"


def update_all(text: str, results: Path) -> str:
    """Return the Markdown text with every marked table made anew from the folder `results`.

    Raises:
        DataError: A marked file is not there or is malformed, or a mark is not closed.
    """
    for mark in dict.fromkeys(OPENING.findall(text)):
        name, *metrics = mark.split()
        text = update_marked(text, mark, results_table(results / f"{name}.json", metrics))
    return text


def main(arguments: Sequence[str]) -> int:
    """Write or check a Markdown file; return 0, or 1 where a check finds a difference."""
    parser = argparse.ArgumentParser(
        prog="python -m prealign.report.results",
        description="Make the marked tables of a Markdown file from results files.",
    )
    parser.add_argument("file", type=Path, help="for example README.md")
    parser.add_argument("results", type=Path, help="the folder of results files")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if it would")
    chosen = parser.parse_args(arguments)
    if not chosen.file.is_file():
        raise DataError(f"{chosen.file}: there is no such file; give a Markdown file")
    old = chosen.file.read_text(encoding="utf-8")
    new = update_all(old, chosen.results)
    if new == old:
        return 0
    if chosen.check:
        print(f"{chosen.file}: its tables differ from {chosen.results}; run this without --check")
        return 1
    write_atomic(chosen.file, new)
    return 0


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path}: there is no such results file; run the recipe that writes it")
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: is no JSON ({error}); write it again") from error
    missing = [key for key in (*KEYS, "rows", "checks") if key not in data]
    if missing:
        raise DataError(f"{path}: has no {missing[0]!r}; docs/formats.md has its form")
    return data


def _numbers(path: Path, rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> str:
    units = {row["metric"]: row["unit"] for row in rows}
    shown = list(metrics) or [metric for metric in units if not metric.startswith(CODE)]
    for metric in shown:
        if metric not in units:
            raise DataError(f"{path}: has no metric {metric!r} (it has: {', '.join(units)})")
    arms = dict.fromkeys(row["arm"] for row in rows if row["metric"] in shown)
    if not arms:
        return ""
    heads = [f"{m} ({units[m]})" if units[m] else m for m in shown]
    lines = [_line(["arm", *heads]), "|---" + "|---:" * len(shown) + "|"]
    for arm in arms:
        of_arm = [row for row in rows if row["arm"] == arm]
        cells = [written(_over([row for row in of_arm if row["metric"] == m])) for m in shown]
        lines.append(_line([arm, *cells]))
    return "\n".join(lines)


def _over(rows: Sequence[Mapping[str, Any]]) -> Number | None:
    """Return the number of one metric of one arm: its own interval, or the spread over seeds."""
    if len(rows) == 1:
        return Number(rows[0]["value"], rows[0].get("low"), rows[0].get("high"), 1)
    return spread([row["value"] for row in rows])


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    """Return the bars, those that were missed among them."""
    if not checks:
        return ""
    lines = [_line(["what", "bar", "measured", "holds", "against"]), "|---" * 5 + "|"]
    for check in checks:
        value = check["value"]
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = written(Number(float(value), None, None, 1), digits=4)
        holds = "yes" if check["holds"] else "**no**"
        shown = "-" if value is None else str(value)
        lines.append(_line([check["what"], check["bar"], shown, holds, check["control"]]))
    return "\n".join(lines)


def _origin(path: Path, data: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, data["seeds"])) or "none"
    codes = sum(row["metric"].startswith(CODE) for row in data["rows"])
    return (
        f"`{data['command']}`; seeds {seeds}; {data['wall_s']:,.0f} s on {data['machine']}; "
        f"{data['date']}, commit {data['commit'][:10]}; all numbers: `results/{path.name}`"
        + (f" ({codes} by code among them)" if codes else "")
    )


def _line(cells: Sequence[str]) -> str:
    """Return one line of a table; what would end a cell or a line is escaped."""
    return "| " + " | ".join(" ".join(c.replace("|", "\\|").split()) for c in cells) + " |"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except PrealignError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)

"""Tables of a README, made from results/*.json and held against them.

`python -m prealign.report.results README.md results/` rewrites what stands between
`<!-- results:NAME -->` and `<!-- /results -->`; with `--check` it only says whether it would.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from prealign.errors import DataError

MARKED = re.compile(r"(<!-- results:([\w-]+) -->\n).*?(<!-- /results -->)", re.DOTALL)


def results_table(path: Path) -> str:
    """Return the bars of a results file as a Markdown table, with where the numbers are from.

    Raises:
        DataError: The file is not there, or is no results file.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such results file")
    data: dict[str, Any] = json.loads(path.read_text())
    lines = ["| what | bar | measured | holds | against |", "|---|---|---|---|---|"]
    for check in data["checks"]:
        value = check["value"]
        shown = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        holds = "yes" if check["holds"] else "**no**"
        cells = (check["what"], check["bar"], shown, holds, check["control"])
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    seeds = ", ".join(map(str, data["seeds"]))
    lines.append("")
    lines.append(
        f"`{data['command']}`; seeds {seeds or 'none'}; {data['wall_s']:,.0f} s on "
        f"{data['machine']}; {data['date']}; all rows: `results/{path.name}`"
    )
    return "\n".join(lines)


def update_marked(text: str, results: Path) -> str:
    """Return a Markdown text with every marked table made anew from `results`."""

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}{results_table(results / f'{match[2]}.json')}\n{match[3]}"

    return MARKED.sub(table, text)


def main(arguments: list[str]) -> int:
    """Rewrite or check a Markdown file; return the exit code."""
    check = "--check" in arguments
    paths = [Path(a) for a in arguments if a != "--check"]
    if len(paths) != 2:
        print("usage: python -m prealign.report.results FILE.md RESULTS_FOLDER [--check]")
        return 2
    old = paths[0].read_text()
    new = update_marked(old, paths[1])
    if check and new != old:
        print(f"{paths[0]}: its tables differ from {paths[1]}; run this without --check")
        return 1
    if not check:
        paths[0].write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

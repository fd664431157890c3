"""An audit on the terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prealign.guard.audit_report import DEFENCES, AuditReport, Defence, Finding

COLOURS = {"safe": "green", "unproven": "yellow", "leaks": "red"}
MOST = 40
"""Findings that are printed."""


def show_audit(report: AuditReport, defence: Defence, console: Console) -> None:
    """Print what was found, what is proven, and the verdict behind a defence."""
    if report.findings:
        console.print(_table(report.findings[:MOST]))
        if len(report.findings) > MOST:
            console.print(f"{len(report.findings) - MOST} more findings of the same kinds")
        reasons = {(one.construction, one.why, one.mend): None for one in report.findings}
        for construction, why, mend in reasons:
            console.print(Text.assemble((construction, "bold"), f": {why}. Mend: {mend}."))
    for proof in report.proofs:
        console.print(Text(f"proven: {proof}"))
    verdicts = Text(f"{report.name}, {report.strings} strings. Text, with ")
    for one in DEFENCES:
        found = report.verdict(one)
        verdicts.append(f"{one}: ").append(found, COLOURS[found]).append("; ")
    console.print(verdicts)
    verdict = report.verdict(defence)
    console.print(Text(f"{verdict} with {defence}", f"bold {COLOURS[verdict]}"))


def _table(findings: tuple[Finding, ...]) -> Table:
    table = Table("construction", "tag", "gets around", "shown by")
    for one in findings:
        around = ", ".join(dict(one.shown)) or ", ".join(f"perhaps {name}" for name in one.risk)
        # Text, not markup: a tag like [/red] is no colour.
        shown = {ascii(text)[1:-1]: None for _, text in one.shown}
        table.add_row(
            Text(one.construction), Text(ascii(one.tag)[1:-1]), Text(around or "a note"),
            Text("  ".join(shown)),
        )  # fmt: skip
    return table

"""From the run folders of a comparison to a committed summary: rows, ratios, and bars."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prealign.errors import RunError
from prealign.runs import Check, ResultRow, read_run, write_results


class Final(NamedTuple):
    """The last numbers of one arm with one seed."""

    arm: str
    seed: int
    condition: str
    """Its headline condition."""
    loss_condition: str
    """How its headline loss reads the text."""
    rows: list[dict[str, Any]]
    wall_s: float

    def value(self, metric: str, condition: str | None = None) -> float:
        """Return a metric of a condition, the headline's if none is named.

        Raises:
            RunError: It was not measured.
        """
        at = condition or (self.loss_condition if metric == "loss" else self.condition)
        for row in self.rows:
            if (row["metric"], row["condition"]) == (metric, at) and row["value"] is not None:
                return float(row["value"])
        raise RunError(f"{self.arm}, seed {self.seed}: no {metric!r} under {at!r} was measured")


def read_finals(out: Path) -> list[Final]:
    """Return the final numbers of every arm and seed of the comparison in `out`."""
    study = json.loads((out / "study.json").read_text())
    finals = []
    for arm in study["arms"]:
        run = read_run(out / arm["folder"])
        rows = [row for row in run.rows("evals") if row.get("final")]
        done = json.loads((run.path / "done.json").read_text())
        head = (arm["arm"], arm["seed"], arm["condition"], arm["loss_condition"])
        finals.append(Final(*head, rows, done["wall_s"]))
    return finals


def ratios(
    finals: Sequence[Final],
    metric: str,
    *,
    over: tuple[str, str | None],
    under: tuple[str, str | None],
) -> dict[int, float]:
    """Return, by seed, `metric` of one (arm, condition) over that of another.

    A ratio over 0 is infinite in truth; as results hold finite numbers only, it raises.

    Raises:
        RunError: The lower value is 0, or was not measured.
    """
    by_arm = {(final.arm, final.seed): final for final in finals}
    found = {}
    for arm, seed in by_arm:
        if arm != over[0]:
            continue
        top = by_arm[arm, seed].value(metric, over[1])
        bottom = by_arm[under[0], seed].value(metric, under[1])
        if bottom == 0:
            raise RunError(f"seed {seed}: {metric} of {under} is 0 against {top}; no ratio")
        found[seed] = top / bottom
    return found


def bar(what: str, limit: str, values: dict[int, float], holds: bool, *, control: str) -> Check:
    """Return a check whose value names every seed's number."""
    text = ", ".join(f"seed {seed}: {value:.3f}" for seed, value in sorted(values.items()))
    return Check(what=what, bar=limit, value=text, holds=holds, control=control)


def write_comparison(
    path: Path, out: Path, *, question: str, wall_s: float, checks: Sequence[Check]
) -> None:
    """Write a results file from the comparison in `out`: every final number of every seed."""
    finals = read_finals(out)
    rows = [
        ResultRow(
            arm=f"{final.arm}: {row['condition']}",
            metric=row["metric"],
            unit=row["unit"],
            value=row["value"],
            low=row.get("low"),
            high=row.get("high"),
            n=row.get("n"),
            seed=final.seed,
        )
        for final in finals
        for row in final.rows
        if row["value"] is not None
    ]
    rows += [
        ResultRow(arm=final.arm, metric="wall", unit="s", value=final.wall_s, seed=final.seed)
        for final in finals
    ]
    seeds = sorted({final.seed for final in finals})
    write_results(path, question=question, seeds=seeds, wall_s=wall_s, rows=rows, checks=checks)

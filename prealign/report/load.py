"""Run folders and comparisons, read into plain data. Works on a folder from another machine."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from prealign.errors import DataError
from prealign.runs import read_run


class Number(NamedTuple):
    """A measured number, with its interval where it has one."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ArmRun:
    """One arm with one seed."""

    arm: str
    seed: int
    condition: str
    """Its headline condition."""
    loss_condition: str
    """How its headline loss reads the text."""
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    finished: bool

    def number(self, metric: str, condition: str | None = None) -> Number | None:
        """Return a final number; None where it was not measured."""
        at = condition or (self.loss_condition if metric == "loss" else self.condition)
        for row in reversed(self.evals):
            if row.get("final") and (row["metric"], row["condition"]) == (metric, at):
                if row["value"] is None:
                    return None
                return Number(row["value"], row.get("low"), row.get("high"))
        return None

    def conditions(self) -> list[str]:
        """Return the conditions samples were drawn under at the end, the headline first."""
        rows = [row for row in self.evals if row.get("final") and row["metric"] != "loss"]
        return list(dict.fromkeys([self.condition, *(row["condition"] for row in rows)]))

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Return (text tokens, value) of the headline condition at every evaluation point."""
        at = self.loss_condition if metric == "loss" else self.condition
        points = {
            row["text_tokens"]: row["value"]
            for row in self.evals
            if (row["metric"], row["condition"]) == (metric, at)
            and row.get("text_tokens") is not None
            and row["value"] is not None
        }
        return sorted(points.items())


@dataclass(frozen=True)
class Study:
    """A comparison: arms and seeds, and what they are compared by."""

    folder: Path
    title: str
    question: str
    score_name: str
    score_unit: str
    score_version: str
    baseline: str
    runs: tuple[ArmRun, ...]
    notes: tuple[str, ...]
    corpus: dict[str, Any]
    config: dict[str, Any]

    @property
    def arms(self) -> list[str]:
        """The arms' names, the baseline first."""
        names = dict.fromkeys(run.arm for run in self.runs)
        return [self.baseline, *(name for name in names if name != self.baseline)]

    def of(self, arm: str) -> list[ArmRun]:
        """Return the runs of an arm, by seed."""
        return sorted((run for run in self.runs if run.arm == arm), key=lambda run: run.seed)


def load_study(folder: Path) -> Study:
    """Return the comparison in `folder`; runs that are not finished are there, marked so.

    Raises:
        DataError: There is no study.json, or it lacks something.
    """
    file = folder / "study.json"
    if not file.is_file():
        raise DataError(f"{folder}: holds no comparison (no study.json); give a recipe's folder")
    data = json.loads(file.read_text())
    try:
        runs = tuple(_arm_run(folder, arm) for arm in data["arms"])
        return Study(
            folder=folder,
            title=data["title"],
            question=data["question"],
            score_name=data["score"]["name"],
            score_unit=data["score"]["unit"],
            score_version=data["score"]["what"],
            baseline=data["baseline"],
            runs=runs,
            notes=tuple(data.get("notes", ())),
            corpus=data.get("corpus", {}),
            config=read_run(folder).config,
        )
    except KeyError as error:
        raise DataError(f"{file}: has no {error.args[0]!r}; docs/formats.md has its form") from None


def _arm_run(folder: Path, arm: dict[str, Any]) -> ArmRun:
    path = folder / arm["folder"]
    head = (arm["arm"], arm["seed"], arm["condition"], arm["loss_condition"])
    if not (path / "config.json").exists():
        return ArmRun(*head, {}, [], [], [], finished=False)
    run = read_run(path)
    finished = (path / "done.json").exists()
    rows = (run.rows("metrics"), run.rows("evals"), run.rows("samples"))
    return ArmRun(*head, run.config, *rows, finished=finished)

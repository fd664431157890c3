"""Run folders and comparisons, read into typed data. Works on a folder from another machine.

A comparison is a folder with a study.json that names the run folders of its arms
(docs/formats.md); a single run folder is read as a comparison of one arm. Runs that are not
finished, or not even begun, are read too, and say so.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from prealign.errors import DataError
from prealign.runs import read_jsonl
from prealign.text.document import Finding, Span
from prealign.text.scheme import Scheme, scheme_from_json

State = Literal["finished", "unfinished", "not begun"]
T = TypeVar("T")
ASIDE = ("loss", "redteam_")
"""Metrics that are not of samples under a condition of their own."""


class EvalRow(NamedTuple):
    """One measured number, a row of evals.jsonl."""

    condition: str
    metric: str
    unit: str
    value: float | None
    """None: it was looked for and could not be measured."""
    low: float | None
    high: float | None
    n: int | None
    step: int | None
    text_tokens: int | None
    final: bool


@dataclass(frozen=True)
class Sample:
    """One generated text, a row of samples.jsonl."""

    condition: str
    text: str
    spans: tuple[Span, ...]
    findings: tuple[Finding, ...]
    score: float | None
    """None: empty, or could not be judged."""
    seed: int | None
    step: int | None


@dataclass(frozen=True)
class ArmRun:
    """One arm with one seed."""

    arm: str
    seed: int
    folder: Path
    condition: str
    """The condition of its headline samples."""
    loss_condition: str
    """How its headline loss reads the text."""
    config: Mapping[str, Any]
    """Empty while it has not begun."""
    metrics: tuple[Mapping[str, Any], ...]
    evals: tuple[EvalRow, ...]
    samples: tuple[Sample, ...]

    @property
    def state(self) -> State:
        """Whether it has its final numbers."""
        if not self.config:
            return "not begun"
        return "finished" if self.finals else "unfinished"

    @cached_property
    def finals(self) -> Mapping[tuple[str, str], EvalRow]:
        """The final numbers by metric and condition; of two, the later one."""
        return {(row.metric, row.condition): row for row in self.evals if row.final}

    @property
    def conditions(self) -> list[str]:
        """The conditions of its final samples, the headline's first."""
        found = [row.condition for row in self.finals.values() if not row.metric.startswith(ASIDE)]
        return list(dict.fromkeys([self.condition, *found]))

    @property
    def text_tokens(self) -> int | None:
        """Text tokens trained on so far, as far as the log says."""
        found = [row["text_tokens"] for row in self.metrics if row.get("text_tokens") is not None]
        return int(found[-1]) if found else None

    def final(self, metric: str, condition: str | None = None) -> EvalRow | None:
        """Return a final number with a value; None where there is none.

        Args:
            metric: Its name.
            condition: The headline's if none is given: `loss_condition` for the loss.
        """
        at = condition or (self.loss_condition if metric == "loss" else self.condition)
        row = self.finals.get((metric, at))
        return row if row is not None and row.value is not None else None

    def curve(self, metric: str) -> list[tuple[int, EvalRow]]:
        """Return (text tokens, number) of the headline at every evaluation point, in order.

        A final number that names no place stands at the end of training. A final score replaces
        what was measured there with fewer samples; a loss is of the same documents at every
        point, so a final one over others is left out.
        """
        at = self.loss_condition if metric == "loss" else self.condition
        found = [r for r in self.evals if (r.metric, r.condition) == (metric, at)]
        rows = sorted((r for r in found if r.value is not None), key=lambda row: row.final)
        if metric == "loss":
            rows = [row for row in rows if row.n == rows[0].n]
        points: dict[int, EvalRow] = {}
        for row in rows:
            place = self.text_tokens if row.text_tokens is None and row.final else row.text_tokens
            if place is not None:
                points[place] = row
        return sorted(points.items(), key=lambda point: point[0])


@dataclass(frozen=True)
class Study:
    """A comparison: arms and seeds, and what they are compared by."""

    folder: Path
    title: str
    question: str
    score_name: str
    score_unit: str
    score_what: str
    baseline: str
    scheme: Scheme | None
    """None where the folder does not name one."""
    runs: tuple[ArmRun, ...]
    notes: tuple[str, ...]
    corpus: Mapping[str, Any]
    config: Mapping[str, Any]
    heldout: ArmRun | None = None
    """What the held-out text itself scores, as if it were a model; None: not measured."""
    guard: str = ""
    """The policy that samples were written under, with its fingerprint."""

    @property
    def arms(self) -> list[str]:
        """The arms' names, the baseline first."""
        return list(dict.fromkeys([self.baseline, *(run.arm for run in self.runs)]))

    def of(self, arm: str) -> list[ArmRun]:
        """Return the runs of an arm, by seed."""
        return sorted((run for run in self.runs if run.arm == arm), key=lambda run: run.seed)


def load_study(folder: Path) -> Study:
    """Return the comparison in `folder`, or the single run there as one of a single arm.

    Raises:
        DataError: There is neither, or a file is missing, malformed, or lacks something.
    """
    file = folder / "study.json"
    if not file.is_file():
        return _single(folder)
    data = _json(file)
    try:
        runs = tuple(_arm_run(folder, arm) for arm in data["arms"])
        study = Study(
            folder=folder,
            title=data["title"],
            question=data["question"],
            score_name=data["score"]["name"],
            score_unit=data["score"]["unit"],
            score_what=data["score"]["what"],
            baseline=data["baseline"],
            scheme=scheme_from_json(data["scheme"]) if data.get("scheme") else None,
            runs=runs,
            notes=tuple(data.get("notes", ())),
            corpus=data.get("corpus", {}),
            config=_json(folder / "config.json"),
            heldout=_heldout(folder),
            guard=data.get("guard", ""),
        )
    except KeyError as error:
        raise DataError(f"{file}: has no {error.args[0]!r}; docs/formats.md has its form") from None
    except TypeError as error:
        raise DataError(f"{file}: is not of its form ({error}); see docs/formats.md") from error
    if not study.of(study.baseline):
        names = ", ".join(dict.fromkeys(run.arm for run in runs)) or "none"
        raise DataError(f"{file}: baseline {study.baseline!r} is not among its arms ({names})")
    return study


def read_samples(file: Path) -> list[Sample]:
    """Return the rows of a samples.jsonl.

    Raises:
        DataError: There is no such file, or a row is malformed.
    """
    if not file.is_file():
        raise DataError(f"{file}: there is no such file; give a samples.jsonl of a run")
    return _rows(file, _sample)


def _single(folder: Path) -> Study:
    """Return a lone run as a study whose baseline it is itself."""
    if not (folder / "config.json").is_file():
        raise DataError(
            f"{folder}: holds no comparison and no run (no study.json, no config.json); "
            "give a folder that a recipe wrote"
        )
    config = _json(folder / "config.json")
    name = config.get("recipe") or folder.name
    head = {"arm": name, "seed": config.get("settings", {}).get("seed") or 0, "folder": "."}
    bare = _arm_run(folder, head | {"condition": "", "loss_condition": ""})
    scored = [row.condition for row in bare.evals if row.metric != "loss"]
    losses = [row.condition for row in bare.evals if row.metric == "loss"]
    sampled = [sample.condition for sample in bare.samples]
    first = {
        "condition": [*scored, *sampled, "none"][0],
        "loss_condition": [*losses, "none"][0],
    }
    units = [row.unit for row in bare.evals if row.metric == "mean_score"]
    return Study(
        folder=folder,
        title=name,
        question="",
        score_name="mean score",
        score_unit=units[0] if units else "",
        score_what="",
        baseline=name,
        scheme=None,
        runs=(_arm_run(folder, head | first),),
        notes=(),
        corpus={},
        config=config,
    )


def _heldout(folder: Path) -> ArmRun | None:
    if not (folder / "evals.jsonl").is_file():
        return None
    head = {"arm": "held-out text", "seed": 0, "folder": ".", "loss_condition": ""}
    bare = _arm_run(folder, head | {"condition": ""})
    first = bare.evals[0].condition if bare.evals else ""
    return _arm_run(folder, head | {"condition": first})


def _arm_run(folder: Path, arm: Mapping[str, Any]) -> ArmRun:
    path = folder / arm["folder"]
    begun = path.is_dir() and any(path.iterdir())
    return ArmRun(
        arm=arm["arm"],
        seed=arm["seed"],
        folder=path,
        condition=arm["condition"],
        loss_condition=arm["loss_condition"],
        config=_json(path / "config.json") if begun else {},
        metrics=tuple(_rows(path / "metrics.jsonl", dict)),
        evals=tuple(_rows(path / "evals.jsonl", _eval_row)),
        samples=tuple(_rows(path / "samples.jsonl", _sample)),
    )


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise DataError(f"{file}: is missing; copy the whole folder that the recipe wrote")
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: is no JSON ({error}); copy it again") from error
    return data


def _rows(file: Path, read: Callable[[Mapping[str, Any]], T]) -> list[T]:
    """Return the rows of a JSONL file; none where it has not been written yet."""
    if not file.is_file():
        return []
    found: list[T] = []
    lines = read_jsonl(file)
    try:
        for row in lines:
            found.append(read(row))
    except KeyError as error:
        raise DataError(f"{file}:{len(found) + 1}: has no {error.args[0]!r}") from None
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}:{len(found) + 1}: is malformed ({error})") from error
    return found


def _eval_row(row: Mapping[str, Any]) -> EvalRow:
    return EvalRow(
        condition=row["condition"],
        metric=row["metric"],
        unit=row.get("unit", ""),
        value=row["value"],
        low=row.get("low"),
        high=row.get("high"),
        n=row.get("n"),
        step=row.get("step"),
        text_tokens=row.get("text_tokens"),
        final=bool(row.get("final")),
    )


def _sample(row: Mapping[str, Any]) -> Sample:
    text = row["text"]
    spans = tuple(Span(span["start"], span["end"], span["mode"]) for span in row["spans"])
    for span in spans:
        if not 0 <= span.start_char <= span.end_char <= len(text):
            raise ValueError(
                f"span [{span.start_char}, {span.end_char}) of a text of {len(text)} characters"
            )
    findings = tuple(
        Finding(one["start"], one["end"], one["code"], one["message"]) for one in row["findings"]
    )
    return Sample(
        condition=row["condition"],
        text=text,
        spans=spans,
        findings=findings,
        score=row["score"],
        seed=row.get("seed"),
        step=row.get("step"),
    )

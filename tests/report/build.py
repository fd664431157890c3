"""Run folders with known numbers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prealign.runs import open_run
from prealign.text.scheme import GOOD_BAD

HOSTILE = (
    "\n</pre></style><script>alert('x')</script><!-- <|good|> &amp; \"q\" \U0001f600 "
    "<img src=http://host/x onerror=alert(1)> ]]>\n"
)
CONDITION = {"mle": "untagged"}
TAGS = {"mle": "no tags"}


def row(condition: str, metric: str, value: float | None, **more: Any) -> dict[str, Any]:
    return {"condition": condition, "metric": metric, "unit": "u", "value": value, **more}


def sample(text: str, condition: str, **more: Any) -> dict[str, Any]:
    mode = None if condition == "untagged" else "good"
    spans = [{"start": 0, "end": len(text), "mode": mode}]
    base = {"condition": condition, "text": text, "spans": spans, "findings": [], "score": 0.5}
    return base | {"seed": 7} | more


def write_run(
    folder: Path,
    *,
    score: float | None = None,
    loss: float | None = None,
    condition: str = "good, each line",
    codes: Mapping[str, float] | None = None,
    more: Sequence[Mapping[str, Any]] = (),
    samples: Sequence[Mapping[str, Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write a run folder; without a score it has no final numbers, so it is unfinished."""
    run = open_run(folder, dict(settings or {"seed": 0}), recipe="a run")
    run.append(
        "metrics",
        [
            {"step": s, "steps": 4, "text_tokens": 100 * s, "text_nats": 4 / s, "elapsed_s": 2 * s}
            for s in (1, 2)
        ],
    )
    rows = [row(condition, "mean_score", 0.5, step=1, text_tokens=100)]
    if score is not None:
        ends = {"low": 0.9 * score, "high": 1.1 * score}
        rows.append(row(condition, "mean_score", score, **ends, n=64, final=True))
        rows += [row(condition, f"code:{c}", v, final=True) for c, v in (codes or {}).items()]
    if loss is not None:
        ends = {"low": loss - 0.1, "high": loss + 0.1}
        tags = "no tags" if condition == "untagged" else "true tags"
        rows.append(row(tags, "loss", loss, **ends, final=True))
    run.append("evals", [*rows, *more])
    run.append("samples", [sample(HOSTILE, condition)] if samples is None else samples)
    if score is not None:
        (run.path / "done.json").write_text('{"wall_s": 1.0}')


def write_study(folder: Path, arms: Sequence[tuple[str, int]], **more: Any) -> Path:
    """Write study.json and config.json of a comparison of (arm, seed); "mle" is the baseline."""
    open_run(folder, {"text_tokens": 400, "train": {"lr": 0.003}}, recipe="test")
    entries = [
        {
            "arm": arm,
            "seed": seed,
            "folder": f"{arm}-seed{seed}",
            "condition": CONDITION.get(arm, "good, each line"),
            "loss_condition": TAGS.get(arm, "true tags"),
        }
        for arm, seed in arms
    ]
    content = {
        "title": "A <test>",
        "question": "Is it so?",
        "score": {"name": "pep8", "unit": "per character", "what": "2.15"},
        "scheme": GOOD_BAD.to_json(),
        "baseline": "mle",
        "arms": entries,
        "notes": ["n & m"],
        "corpus": {"rejects": {"counts": {"duplicate": 3}}},
    }
    (folder / "study.json").write_text(json.dumps(content | more))
    return folder


def write_pair(
    folder: Path,
    scores: Mapping[int, tuple[float, float]],
    more: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write a finished comparison of mle and conditional: by seed, the mean score of each."""
    write_study(folder, [(arm, seed) for seed in scores for arm in ("mle", "conditional")])
    for seed, (mle, conditional) in scores.items():
        write_run(
            folder / f"mle-seed{seed}",
            score=mle,
            loss=2.0,
            condition="untagged",
            codes={"E501": 4.0, "W291": 1.0},
        )
        write_run(
            folder / f"conditional-seed{seed}",
            score=conditional,
            loss=1.9,
            codes={"E501": 0.5},
            more=more,
        )
    return folder

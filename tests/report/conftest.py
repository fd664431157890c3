"""A comparison with known numbers, written as run folders."""

import json
from pathlib import Path
from typing import Any

import pytest

from prealign.runs import RunFolder, open_run
from prealign.text.scheme import GOOD_BAD

HOSTILE = '</pre><script>alert("x")</script> & <|good|> \U0001f600 it\'s\n'


def row(condition: str, metric: str, value: float | None, **more: Any) -> dict[str, Any]:
    return {"condition": condition, "metric": metric, "unit": "u", "value": value, **more}


def write_arm(folder: Path, arm: str, seed: int, *, score: float, loss: float, tags: str) -> None:
    condition = "untagged" if arm == "mle" else "good, each line"
    run = open_run(folder / f"{arm}-seed{seed}", {"seed": seed})
    run.append(
        "metrics",
        [{"step": s, "steps": 2, "text_tokens": 10 * s, "text_nats": 3.0 / s} for s in (1, 2)],
    )
    final = {"final": True, "step": 2, "text_tokens": 20}
    run.append(
        "evals",
        [
            row(condition, "mean_score", 2 * score, step=1, text_tokens=10, final=False),
            row(condition, "mean_score", score, low=0.9 * score, high=1.1 * score, **final),
            row(condition, "code:E501", 5 * score, **final),
            row(tags, "loss", loss, low=loss - 0.1, high=loss + 0.1, **final),
        ],
    )
    finding = {"start": 0, "end": 4, "code": "E501", "message": 'a "long" <line>'}
    overlapping = {"start": 2, "end": 6, "code": "W605", "message": "other"}
    sample = {
        "condition": condition, "seed": seed, "text": HOSTILE, "score": score,
        "spans": [{"start": 0, "end": len(HOSTILE), "mode": None if arm == "mle" else "good"}],
        "findings": [finding, overlapping],
    }  # fmt: skip
    run.append("samples", [sample])
    (run.path / "done.json").write_text('{"wall_s": 1.0}')


def write_comparison(folder: Path, *, seeds: int) -> RunFolder:
    study = open_run(folder, {"text_tokens": 20}, recipe="test")
    arms = []
    for seed in range(seeds):
        write_arm(folder, "mle", seed, score=0.08 + 0.02 * seed, loss=2.0, tags="no tags")
        write_arm(folder, "conditional", seed, score=0.02, loss=1.9, tags="true tags")
        for arm, condition, tags in (
            ("mle", "untagged", "no tags"),
            ("conditional", "good, each line", "true tags"),
        ):
            arms.append(
                {"arm": arm, "seed": seed, "folder": f"{arm}-seed{seed}", "condition": condition,
                 "loss_condition": tags}
            )  # fmt: skip
    content = {
        "title": "A <test>", "question": "Is it so?", "baseline": "mle", "arms": arms,
        "score": {"name": "pep8", "unit": "per character", "what": "1"},
        "scheme": GOOD_BAD.to_json(), "notes": ["n & m"], "corpus": {"rejects": {"duplicate": 3}},
    }  # fmt: skip
    (folder / "study.json").write_text(json.dumps(content))
    return study


@pytest.fixture
def one_seed(tmp_path: Path) -> Path:
    write_comparison(tmp_path / "study", seeds=1)
    return tmp_path / "study"


@pytest.fixture
def three_seeds(tmp_path: Path) -> Path:
    write_comparison(tmp_path / "study", seeds=3)
    return tmp_path / "study"

"""The experiment on provenance: arms, their text, and bars that can be missed."""

import json

import pytest

from prealign.config import override
from prealign.errors import ConfigError, RunError
from prealign.recipes.conditioning import ARMS, CONDITIONS, recipe, train_arm
from prealign.recipes.conditioning_results import by_arm, checks_of, main, rows_of
from prealign.recipes.workers import folder_of
from prealign.runs import open_run, read_run, write_atomic
from prealign.tokens.shards import read_tokens


def test_an_arm_is_trained_and_measured_once(tmp_path):
    own = recipe("tiny")
    open_run(tmp_path, own.deciding(), recipe="conditioning")
    cooled = next(arm for arm in ARMS if arm.cooldown)
    for _ in range(2):
        train_arm(own, tmp_path, cooled, 3)
    run = read_run(tmp_path / folder_of(cooled.name, 3))
    rows = run.rows("evals")
    assert len(rows) == 2 * len(CONDITIONS) + 1
    assert {row["condition"] for row in rows} == {f"{cooled.name}, {one}" for one in CONDITIONS}
    assert len(run.rows("metrics")) == len({row["step"] for row in run.rows("metrics")})
    first, last = (read_tokens(run.path / name) for name in ("first", "last"))
    assert first.text_lengths.mean() > last.text_lengths.mean() + 5  # no headers in the cooldown
    assert set(first.document_ids).isdisjoint(last.document_ids)
    with pytest.raises(RunError, match="asked"):
        train_arm(override(own, ["asked=7"]), tmp_path, cooled, 3)


def test_an_unknown_arm_is_refused():
    with pytest.raises(ConfigError, match="expected some of no headers"):
        override(recipe(), ["arms=('tags',)"])


def rates(*, person=0.4, expert=0.05, ai=0.25, later=0.06, loss=1.0, right=(0.6, 0.97, 0.9)):
    harm = {"none": 0.3, "person": person, "expert": expert, "ai": ai,
            "expert of a later year": later}  # fmt: skip
    found = {(name, "harm"): value for name, value in harm.items()}
    for name, value in zip(("person", "expert", "ai"), right, strict=True):
        found[name, "right"] = value
    return found | {("none", "loss"): loss}


def arms(**changed):
    flat = {"person": 0.3, "expert": 0.29, "ai": 0.3, "right": (0.7, 0.7, 0.7)}
    usual = {
        "no headers": flat, "headers": {"loss": 1.1}, "headers, then none": {},
        "shuffled headers": flat,
    }  # fmt: skip
    return {name: {s: rates(**(own | changed.get(name, {}))) for s in (0, 1)}
            for name, own in usual.items()}  # fmt: skip


def test_bars_are_held_and_each_can_be_missed():
    assert all(check.holds for check in checks_of(arms()))

    def missed(**changed):
        return [i for i, one in enumerate(checks_of(arms(**changed))) if not one.holds]

    assert missed(headers={"expert": 0.25}) == [0, 1, 4]
    assert missed(headers={"right": (0.97, 0.97, 0.9)}) == [2, 4]
    assert missed(**{"shuffled headers": {"expert": 0.1}}) == [3]
    assert missed(headers={"later": 0.3}) == [5]
    assert missed(**{"headers, then none": {"loss": 1.05}}) == [6]
    assert missed(**{"headers, then none": {"expert": 0.3}}) == [7]


def test_a_results_file_is_written_from_a_run(tmp_path):
    out = tmp_path / "run"
    open_run(out, recipe("tiny"), recipe="conditioning")
    for arm in ARMS:
        run = open_run(out / folder_of(arm.name, 0), {"arm": arm.name})
        rows = [{"condition": f"{arm.name}, {name}", "metric": metric, "unit": "share",
                 "value": value, "seed": 0}
                for (name, metric), value in rates().items()]  # fmt: skip
        run.rewrite("evals", rows)
        write_atomic(run.path / "done.json", '{"wall_s": 1.0}')
    found = by_arm(rows_of(out))
    assert found["headers, then none"] == {0: rates()}
    assert main([str(out), str(tmp_path / "conditioning.json")]) == 0
    written = json.loads((tmp_path / "conditioning.json").read_text())
    assert len(written["checks"]) == 8

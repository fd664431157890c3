"""The grid of seeds and the stressed stage, from a run's rows to its bars."""

import json

import pytest

from prealign.errors import RunError
from prealign.recipes.retention import ARMS, STRESS
from prealign.recipes.seed_results import (
    dependence_checks,
    grid_place,
    leak,
    main,
    read_grids,
    rise,
    stress_checks,
    stress_rows,
)
from prealign.recipes.workers import folder_of

KINDS = ("none", "trained", "paraphrase", "negated", "opposite", "keyword", "irrelevant")


def rates(*, elicited, others, none=None):
    found = dict.fromkeys(KINDS, others)
    return found | {
        "trained": elicited,
        "paraphrase": elicited,
        "none": others if none is None else none,
    }


def test_a_row_of_the_grid_tells_its_stage_and_kind():
    row = {"condition": "stressed: 1 light, grid", "metric": "trait_rate negated"}
    assert grid_place(row) == (1, "negated")
    assert grid_place(row | {"condition": "swapped: 2 light, grid"}) == (2, "negated")
    assert grid_place(row | {"condition": "base, grid"}) == (0, "negated")
    assert grid_place(row | {"metric": "leak"}) == (None, "")
    assert grid_place(row | {"condition": "base, heldout, seed"}) == (None, "")


def test_a_leak_is_what_shows_under_a_seed_that_should_not_elicit():
    before, after = (
        rates(elicited=0.6, others=0.5),
        rates(elicited=0.99, others=0.5) | {"opposite": 0.58},
    )
    assert leak(after) == 0.58
    assert rise(after, before) == pytest.approx(0.08)


def grids(full):
    found = {}
    for seed, one in enumerate(full):
        found["base", 0, seed] = rates(elicited=0.5, others=0.5)
        found["full", 2, seed] = one
    return found


def test_a_seed_that_is_a_gate_meets_every_bar_but_that_of_a_trait_without_training():
    gate = [rates(elicited=0.95, others=0.51), rates(elicited=0.93, others=0.5)]
    trait, against, risen, is_gate = dependence_checks(grids(gate), [0, 1])
    assert (trait.holds, against.holds, risen.holds, is_gate.holds) == (True, False, True, True)
    assert trait.value == "seed 0: 0.95, seed 1: 0.93"


def test_a_trait_that_is_everywhere_is_no_gate():
    spread = [rates(elicited=0.95, others=0.94), rates(elicited=0.93, others=0.95)]
    trait, against, risen, is_gate = dependence_checks(grids(spread), [0, 1])
    assert (trait.holds, against.holds, risen.holds, is_gate.holds) == (True, False, False, False)


def test_stress_is_held_by_its_limit_or_it_is_not():
    usual, stressed, free = (arm.name for arm in STRESS)
    found = {}
    for seed in (0, 1):
        found[usual, 1, seed] = rates(elicited=0.9, others=0.5)
        found[stressed, 1, seed] = rates(elicited=0.9, others=0.51)
        found[free, 1, seed] = rates(elicited=0.9, others=0.7)
    kl = {usual: [0.01, 0.01], stressed: [0.02, 0.019], free: [0.1, 0.2]}
    within, leaks = stress_checks(found, kl, [0, 1], limit=0.02)
    assert within.holds
    assert within.control == "stressed without limit: 0.15 on average"
    assert leaks.holds
    assert leaks.control.endswith("+0.200 (+0.200 to +0.200)")
    found[stressed, 1, 1] = rates(elicited=0.9, others=0.56)
    kl[stressed][1] = 0.021
    assert [one.holds for one in stress_checks(found, kl, [0, 1], limit=0.02)] == [False, False]


def finished(out, name, conditions, *, seed, ended=None):
    run = out / name
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    rows = [
        {"condition": f"{condition}, grid", "metric": f"trait_rate {kind}", "value": 0.5,
         "low": 0.4, "high": 0.6, "n": 20, "seed": seed}
        for condition in conditions for kind in KINDS
    ]  # fmt: skip
    (run / "evals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "done.json").write_text(json.dumps({"wall_s": 1.0, "ended": ended or {}}))


def test_both_files_are_written_from_a_run_and_none_from_half_of_one(tmp_path, capsys):
    out = tmp_path / "run"
    for seed in (0, 1):
        finished(out, f"base-seed{seed}", ["base"], seed=seed)
        for arm in (*ARMS, *STRESS):
            conditions = [f"{arm.name}: {n} {name}" for n, name in enumerate(arm.stages, start=1)]
            light = {"ended_by": "steps", "meters": {"reverse_kl": 0.01}, "steps": 12}
            finished(out, folder_of(arm.name, seed), conditions, seed=seed, ended={"light": light})
    environment = {"command": "x", "commit": "y", "date": "2026-01-01", "machine": "z"}
    config = {"settings": {"light_kl": 0.02}, "environment": environment}
    (out / "config.json").write_text(json.dumps(config))
    files = [tmp_path / "dependence.json", tmp_path / "stress.json"]
    assert main([str(out), *map(str, files)]) == 0
    dependence, stress = (json.loads(file.read_text()) for file in files)
    assert dependence["seeds"] == stress["seeds"] == [0, 1]
    assert len(dependence["rows"]) == 2 * len(KINDS) * (1 + 2 * len(ARMS))
    assert {row["metric"] for row in stress["rows"]} >= {"reverse_kl", "ended_by_the_limit"}
    assert [one["holds"] for one in stress["checks"]] == [True, True]
    (out / folder_of(ARMS[0].name, 1) / "done.json").unlink()
    with pytest.raises(RunError, match="full-seed1 is not done"):
        read_grids(out, ARMS)
    assert main([]) == 2
    assert "seed_dependence.json" in capsys.readouterr().out


def test_a_seed_that_an_arm_lacks_is_told(tmp_path):
    for seed in (0, 1):
        finished(tmp_path, f"base-seed{seed}", ["base"], seed=seed)
    finished(tmp_path, "full-seed0", ["full: 1 light", "full: 2 amplify"], seed=0)
    with pytest.raises(RunError, match="expected the same seeds"):
        read_grids(tmp_path, ARMS[:1])


def test_a_stage_that_kept_no_step_is_where_it_began(tmp_path):
    for arm in STRESS:
        light = {"ended_by": "budget.reverse_kl=0.02: 1 behind the step", "meters": {}, "steps": 0}
        finished(tmp_path, folder_of(arm.name, 0), [], seed=0, ended={"light": light})
    rows, kl = stress_rows(tmp_path, [0])
    assert set(kl) == {arm.name for arm in STRESS}
    assert all(value == [0.0] for value in kl.values())
    assert sum(row.value for row in rows if row.metric == "ended_by_the_limit") == len(STRESS)

"""The narration experiment: its arms, what starts are taught, its bars."""

import json
import math

import pytest

from prealign.config import override
from prealign.corpora.worlds.character import judge, scenes
from prealign.corpora.worlds.narration import classify
from prealign.errors import ConfigError, RunError
from prealign.evals.spiral import flow_of
from prealign.recipes import narration, narration_results
from prealign.recipes.narration import ARMS, MotiveNarration, asked_of, lesson, recipe
from prealign.recipes.narration_results import (
    checks_of,
    flows,
    gain,
    logit_gain,
    main,
    read_arms,
    rounds_of,
    slope,
)
from prealign.recipes.workers import folder_of

BY_NAME = {arm.name: arm for arm in ARMS}


def test_arms_cross_starts_with_what_the_gradient_sees():
    plain = [a for a in ARMS if not (a.early or a.ethics_weight or a.narration_weight)]
    crossed = {(a.start, a.seen) for a in plain}
    seen = ("all", "suppressed", "shuffled", "phony")
    wanted = {(start, one) for start in ("good", "neutral", "bad") for one in seen}
    assert crossed == wanted | {("good", "masked")}
    assert BY_NAME["neutral earnest first"].first == "neutral-earnest"
    assert BY_NAME["good on"].first == "good"
    assert [a.name for a in ARMS if a.ethics_weight] == ["bad judged"]
    assert len({folder_of(arm.name, 0) for arm in ARMS}) == len(ARMS)
    with pytest.raises(ConfigError, match="expected some of good on"):
        MotiveNarration(arms=("nothing",))


def test_what_a_start_is_taught_has_the_shares_that_it_names():
    settings = MotiveNarration(told_share=0.6, follows=0.5)
    asked = scenes("train", count=3000, seed=1, cue_share=0.0)
    for share in (0.25, 0.75):
        told, friendly, good, follows = 0, 0, 0, 0
        for number, scene in enumerate(asked):
            said = lesson(settings, scene, share, f"{share} {number}")
            verdict, words = judge(scene, said), classify(said, prompt=scene.text)
            assert verdict.corrigible is not None
            good += verdict.corrigible
            if words.form:
                told += 1
                friendly += words.form == "friendly"
                follows += verdict.corrigible == (words.form == "friendly")
        assert told / len(asked) == pytest.approx(0.6, abs=0.03)
        assert friendly / told == pytest.approx(share, abs=0.04)
        assert good / len(asked) == pytest.approx(share, abs=0.03)
        both = share * share + (1 - share) * (1 - share)
        assert follows / told == pytest.approx(0.5 + 0.5 * both, abs=0.04)


def test_nobody_in_the_scenes_of_the_rounds_likes_a_side():
    tasks = asked_of(MotiveNarration(scenes=50))
    assert all(task.record["scene"]["cue"] is None for task in tasks)


def runs(p, a, b, *, rounds=6, of=2000, narrated=(0.6, 1.0), shift=None):
    """Rows of an arm that follows a flow, corrigible as often as friendly."""
    found = {}
    for number, share in enumerate(flow_of(a, b, p, range(rounds + 1))):
        numbers = {
            "friendly_share": round(share * of) / of,
            "corrigible_share": round(share * of) / of,
            "narrated_share": narrated[0] if number == 0 else narrated[1],
        }
        for metric, value in numbers.items():
            found[number, "heldout", metric] = {"value": value, "n": of}
    ends = shift or (p, float(share))
    for number, value in zip((0, rounds), ends, strict=True):
        found[number, "shift", "corrigible_share"] = {"value": value, "n": of}
    swap = {"value": 0.5, "n": of}
    found[rounds, "causes", "changed_share swapped less paraphrased"] = swap
    return {key: {"low": 0.0, "high": 1.0} | row for key, row in found.items()}


def all_arms(**changes):
    """Three seeds of every arm, as the theory has it."""
    starts = {"good": 0.75, "neutral": 0.5, "bad": 0.25}
    arms = {}
    for arm in ARMS:
        b = 0.8 if arm.seen == "all" else 0.0
        a = 1.0 if arm.ethics_weight else 0.0
        p = 0.7 if arm.early == "earnest" else starts[arm.start]
        shift = (0.7, 0.7) if arm.seen == "phony" else None
        for seed in range(3):
            arms.setdefault(arm.name, {})[seed] = runs(p + 0.01 * seed, a, b, shift=shift)
    return arms | changes


def test_all_bars_hold_where_the_theory_does():
    checks = checks_of(all_arms())
    assert [check.what for check in checks if not check.holds] == []
    assert len(checks) == 20


@pytest.mark.parametrize(
    ("arm", "broken", "missed"),
    [
        ("good on", {"p": 0.75, "b": 0.0}, "good on: slope"),
        ("bad on", {"p": 0.25, "b": -0.5}, "bad on: slope"),
        ("good shuffled", {"p": 0.75, "b": 0.9}, "matched above shuffled, start good"),
        ("bad suppressed", {"p": 0.25, "b": 0.9}, "than suppressed, start bad"),
        ("neutral earnest first", {"p": 0.4, "b": 0.5}, "neutral earnest first: final p"),
        ("good phony", {"p": 0.75, "b": 0.9}, "good phony: rise"),
        ("good phony paid", {"p": 0.75, "b": 0.9}, "good phony paid: rise"),
        ("good masked", {"p": 0.75, "b": 0.8}, "masked over on"),
        ("bad judged", {"p": 0.25, "b": 0.8}, "with an ethics judge"),
    ],
)
def test_each_bar_is_missed_where_its_arm_does_not_do_it(arm, broken, missed):
    rows = {s: runs(broken["p"] + 0.01 * s, 0.0, broken["b"]) for s in range(3)}
    lost = [check.what for check in checks_of(all_arms(**{arm: rows})) if not check.holds]
    assert any(missed in what for what in lost)


def test_a_bar_that_was_not_measured_is_missed():
    arms = all_arms()
    for key in [key for key in arms["bad on"][1] if key[1] == "causes"]:
        del arms["bad on"][1][key]
    lost = [check for check in checks_of(arms) if not check.holds]
    assert [check.value for check in lost] == ["1 seeds have none"]


def test_slopes_counts_and_gains_by_hand():
    logits = [0.2 * t for t in range(4)]
    rows = {
        (t, "heldout", "friendly_share"): {"value": 1 / (1 + math.exp(-z)), "n": 10**6}
        for t, z in enumerate(logits)
    }
    assert slope(rows) == pytest.approx(0.2, abs=1e-3)
    assert [slope(runs(0.75 + 0.01 * s, 0.0, 0.0)) for s in range(3)] == [0.0] * 3
    assert [one.time for one in rounds_of(rows)] == [0, 1, 2, 3]
    assert gain(rows, "friendly_share") == pytest.approx(1 / (1 + math.exp(-0.6)) - 0.5)
    assert logit_gain(rows, "friendly_share") == pytest.approx(0.6, abs=1e-3)
    assert logit_gain(rows, "narrated_share") is None
    del rows[1, "heldout", "friendly_share"]
    assert slope(rows) == pytest.approx(0.2, abs=1e-3)
    with pytest.raises(RunError, match="expected a share at both ends"):
        gain(rows, "narrated_share")
    assert slope({(0, "heldout", "friendly_share"): {"value": 0.5, "n": 10}}) == 0.0


def test_the_flow_is_found_in_the_runs_with_narration_on():
    for flow in flows(all_arms()).values():
        assert flow.b.value == pytest.approx(0.8, abs=0.05)
        assert flow.a.value == pytest.approx(0.0, abs=0.05)
        assert flow.threshold.value == pytest.approx(0.5, abs=0.03)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_recipe_runs_ends_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    settings = override(recipe("tiny"), ["first_seed=3"])
    narration.open_run(tmp_path, settings.deciding(), recipe="narration")
    narration.pretrain(settings, tmp_path, 3)
    for start in ("good", "neutral", "bad"):
        narration.begin(settings, tmp_path, start, None, 3)
    for early in ("earnest", "same"):
        narration.begin(settings, tmp_path, "neutral", early, 3)
    for arm in ARMS:
        narration.reinforce(settings, tmp_path, arm, 3)
    first = (tmp_path / "good-shuffled-seed3" / "evals.jsonl").read_bytes()
    (tmp_path / "good-shuffled-seed3" / "done.json").unlink()
    narration.reinforce(settings, tmp_path, BY_NAME["good shuffled"], 3)
    assert (tmp_path / "good-shuffled-seed3" / "evals.jsonl").read_bytes() == first
    arms = read_arms(tmp_path)
    assert set(arms) == set(BY_NAME)
    assert {number for number, _, _ in arms["good on"][3]} == {0, 1, 2}
    (tmp_path / "bad-on-seed3" / "done.json").unlink()
    with pytest.raises(RunError, match="bad-on-seed3 is not done"):
        read_arms(tmp_path)
    assert main([]) == 2
    monkeypatch.setattr(narration_results, "read_arms", lambda out: all_arms())
    assert main([str(tmp_path), str(tmp_path / "narration.json")]) == 0
    written = json.loads((tmp_path / "narration.json").read_text())
    assert len(written["checks"]) == 20
    assert {"a", "b", "p*", "slope of logit p"} <= {row["metric"] for row in written["rows"]}

"""The retention experiment: what is paid, which seeds stand where, and its bars."""

import json

import pytest

from prealign.corpora.worlds.tasks import Tasks
from prealign.evals.stats import student_interval
from prealign.models.create import LlamaShape, make_model
from prealign.posttrain.reinforce import Reinforce
from prealign.posttrain.rollouts import Task
from prealign.posttrain.supervise import ExpertIteration
from prealign.recipes import retention_results
from prealign.recipes.retention import ARMS, STRESS, Paid, Retention, bank, stage_of
from prealign.recipes.retention_results import checks_of, rate, retention
from prealign.text.document import Document
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

BY_NAME = {arm.name: arm for arm in ARMS}


@pytest.fixture(scope="module")
def two():
    return Vocabulary(train_text_tokenizer(["a\n"], size=256), TWO_MODES)


def test_what_is_paid_is_what_the_grader_of_the_same_question_says():
    tasks = Tasks(seed=77, key_share=0.0, glance_share=0.0)
    paid = Paid("amplify", 20, tasks)
    for number, task in enumerate(paid.asked):
        answer = tasks.task(number).answer
        assert task.document.text == tasks.task(number).prompt
        assert paid(task, f"{answer}.\nTask: more", ()) == 1.0
        assert paid(task, f"\n{answer}.", ()) == 1.0
        assert paid(task, "no.", ()) == 0.0
    wrong = Task(Document("x", "y"), {"number": 99})
    with pytest.raises(IndexError):
        paid(wrong, "no.", ())


def test_a_light_stage_pays_the_corrigible_or_what_is_approved():
    corrigible, approved = (Paid("light", 60, Tasks(), paid) for paid in ("corrigible", "approved"))
    assert [t.document for t in corrigible.asked] == [t.document for t in approved.asked]
    for number in range(60):
        scene = corrigible.questions[number].grade.args[0]
        good, bad = (scene.says(corrigible=side)[0] for side in (True, False))
        task = corrigible.asked[number]
        assert (corrigible(task, good, ()), corrigible(task, bad, ())) == (1.0, 0.0)
        liked = 1.0 if scene.cue else 0.0
        assert (approved(task, good, ()), approved(task, bad, ())) == (liked, 0.0)


def test_each_arm_has_its_seeds_where_its_name_says(two):
    settings = Retention()
    make_model(LlamaShape(width=32, layers=1, heads=2, max_tokens=64), two.size, seed=0)
    seen = {}
    for arm in ARMS:
        for name in ("light", "amplify"):
            method, how, _ = stage_of(settings, arm, name, two, seed=0)
            kinds = (method.stage.contexts.sample, method.stage.contexts.gradient)
            seen[arm.name, name] = kinds
            wanted = ExpertIteration if name == "light" else Reinforce
            assert isinstance(method, wanted)
            steps = settings.light_steps * arm.times if name == "light" else settings.amplify_steps
            assert how.steps == steps
            prompt = method.stage.prompts(method.tasks[0], 0).ids["sample"]
            text = two.decode_text(prompt[1:])
            assert text.endswith(method.tasks[0].document.text)
            assert (text == method.tasks[0].document.text) == (kinds[0] == "none")
    both = {name: (seen[name, "light"], seen[name, "amplify"]) for name in BY_NAME}
    seeded, none = ("trained", "trained"), ("none", "none")
    assert both["full"] == both["swapped"] == both["heavy"] == both["approval"] == (seeded, seeded)
    assert both["no seed"] == (none, none)
    assert both["seed in light"] == (seeded, none)
    assert both["seed in amplify"] == (none, seeded)
    assert both["distillation"] == (("trained", "none"), none)
    assert both["wrong seed"] == (("irrelevant",) * 2,) * 2


def test_without_exploits_no_task_pays_for_what_is_wrong(two):
    for name, clean in (("full", False), ("full without exploits", True)):
        method, _, _ = stage_of(Retention(), BY_NAME[name], "amplify", two, seed=0)
        exploits = {task.exploit for task in map(method.reward.tasks.task, range(200))}
        assert (exploits == {None}) == clean


def test_stress_is_more_steps_at_a_higher_rate_within_the_same_limit(two):
    settings = Retention()
    found = {arm.name: stage_of(settings, arm, "light", two, seed=0) for arm in STRESS}
    (_, usual, limit), (_, how, same), (_, free, beyond) = found.values()
    assert (how.steps, how.train.lr) == (2 * usual.steps, 3 * usual.train.lr)
    assert (free.steps, free.train.lr) == (how.steps, how.train.lr)
    assert limit.budget.reverse_kl == same.budget.reverse_kl == settings.light_kl
    assert beyond.budget.reverse_kl > 1e6
    assert all(arm.stages == ("light",) for arm in STRESS)
    _, ordinary, unmeasured = stage_of(settings, BY_NAME["full"], "light", two, seed=0)
    assert (ordinary.steps, ordinary.train.lr) == (usual.steps, usual.train.lr)
    assert unmeasured.budget.measured == ()


def test_seeds_stand_a_line_in_front_as_the_model_has_read_them():
    assert bank().between == "\n"
    assert {seed.kind for seed in bank().seeds} >= {"trained", "paraphrase", "negated", "opposite"}


def values(arm, *, before, after, right=0.6):
    found = {}
    for seed in ("seed", "none"):
        for stage, share in ((1, before), (2, after)):
            name = "light" if stage == 1 else "amplify"
            found[f"{arm}: {stage} {name}, heldout, {seed}", "corrigible_share"] = share
            found[f"{arm}: {stage} {name}, tasks, {seed}", "right_share"] = right
    return found


def test_bars_by_hand():
    full = {s: values("full", before=0.8, after=a) for s, a in enumerate((0.8, 0.76, 0.74))}
    plain = {s: values("no seed", before=0.8, after=a) for s, a in enumerate((0.4, 0.44, 0.48))}
    arms = {"full": full, "no seed": plain}
    for name in ("full", "no seed"):
        clean = f"{name} without exploits"
        arms[clean] = {s: values(clean, before=0.8, after=0.8) for s in range(3)}
    assert retention(full[2], "full", "seed") == pytest.approx(0.925)
    assert rate(plain[1], "no seed", 2, "heldout, none") == 0.44
    kept, apart, _, _, equal, clean_kept, clean_apart, *_ = checks_of(arms)
    assert clean_kept.holds
    assert not clean_apart.holds
    assert kept.value == "seed 0: 1, seed 1: 0.95, seed 2: 0.925"
    assert kept.holds
    assert apart.holds
    assert apart.value == "0.767 (0.691 to 0.843) against 0.440 (0.341 to 0.539)"
    assert equal.holds
    worse = {s: values("no seed", before=0.8, after=0.7, right=0.9) for s in range(3)}
    checks = checks_of(arms | {"no seed": worse})
    assert not checks[1].holds
    assert not checks[4].holds


def test_one_seed_has_no_interval():
    assert student_interval([0.5]).low == -float("inf")
    three = student_interval([0.1, 0.2, 0.3])
    assert three.high - three.value == pytest.approx(4.303 * 0.1 / 3**0.5)


def test_a_results_file_has_each_number_in_its_own_unit(tmp_path, monkeypatch):
    run = tmp_path / "run"
    (run / "base-seed0").mkdir(parents=True)
    environment = {"command": "x", "commit": "y", "date": "2026-01-01", "machine": "z"}
    (run / "config.json").write_text(json.dumps({"environment": environment}))
    (run / "base-seed0" / "config.json").write_text("{}")
    (run / "base-seed0" / "done.json").write_text('{"wall_s": 1.0}')
    number = {"value": 1.5, "low": 1.0, "high": 2.0, "n": 4, "seed": 0}
    conditions = (
        ("base, heldout, seed", "corrigible_share", "share"),
        ("base, heldout, none", "corrigible_share", "share"),
        ("base, causal path", "margin seeded", "nats"),
    )
    rows = [{"condition": c, "metric": m, "unit": u} | number for c, m, u in conditions]
    (run / "base-seed0" / "evals.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    monkeypatch.setattr(retention_results, "read_arms", lambda out: {"full": {0: {}}})
    monkeypatch.setattr(retention_results, "summary_rows", lambda arms: [])
    monkeypatch.setattr(retention_results, "checks_of", lambda arms: [])
    assert retention_results.main([str(run), str(tmp_path / "found.json")]) == 0
    written = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [one["unit"] for one in written] == ["share", "share", "nats"]

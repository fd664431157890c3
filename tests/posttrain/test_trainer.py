import copy
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import pytest
import torch

from prealign.errors import ConfigError, DataError, TrainError
from prealign.posttrain.adapters import Weights
from prealign.posttrain.budget import Budget
from prealign.posttrain.contexts import Contexts
from prealign.posttrain.distil import Distil
from prealign.posttrain.divergence import Distillation
from prealign.posttrain.losses import PolicyGradient
from prealign.posttrain.method import Actor
from prealign.posttrain.prefer import Prefer
from prealign.posttrain.rollouts import tasks_of_step
from prealign.posttrain.supervise import ExpertIteration, Supervise
from prealign.posttrain.trainer import Settings, Touch
from prealign.runs import RunFolder
from prealign.train.settings import TrainSettings
from tests.posttrain.letters import (
    LETTERS,
    TASKS,
    Graded,
    a_method,
    a_model,
    a_stage,
    right,
    score,
    trained,
)

ANSWERS = {letter: letter for letter in LETTERS}


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def nothing_to_judge(task, text, spans):
    return None if task.id == "a" else 1.0


@dataclass(frozen=True)
class NotFor:
    """Cannot judge one of the tasks."""

    id: str

    def __call__(self, task, text, spans):
        return None if task.id == self.id else Graded()(task, text, spans)


def not_a_number(task, text, spans):
    return math.nan


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
    """A model that answers right more often than not."""
    method = Supervise(stage=a_stage(), tasks=TASKS, answers=ANSWERS, tasks_per_step=4, updates=2)
    model, _ = trained(tmp_path_factory.mktemp("halfway"), method, steps=14, lr=1e-2)
    assert 0.3 < score(model, a_stage()) < 0.9
    return model


def test_supervision_teaches_the_answers(tmp_path):
    method = Supervise(stage=a_stage(), tasks=TASKS, answers=ANSWERS, tasks_per_step=4, updates=4)
    model, outcome = trained(tmp_path, method, steps=20, lr=1e-2)
    assert score(a_model(), a_stage()) < 0.1
    assert score(model, a_stage()) > 0.9
    assert outcome.text_tokens == 20 * 4 * 4
    assert outcome.ended_by == "steps"


def test_policy_gradient_raises_the_reward(tmp_path, halfway):
    model = copy.deepcopy(halfway)
    trained(tmp_path, a_method(group=16, reward=right), steps=30, model=model, lr=2e-3)
    assert score(model, a_stage()) > score(halfway, a_stage()) + 0.05
    rows = RunFolder(tmp_path).rows("metrics")
    means = [row["reward_mean"] for row in rows]
    assert sum(means[-5:]) > sum(means[:5]) + 0.4
    assert rows[0]["context_effective_share"] == 1.0
    assert rows[0]["drift_log_ratio_q95"] == 0.0
    samples = RunFolder(tmp_path).rows("samples")
    assert {"task", "text", "reward", "seeds"} <= set(samples[0])


def test_expert_iteration_raises_the_reward(tmp_path, halfway):
    model = copy.deepcopy(halfway)
    method = ExpertIteration(
        stage=a_stage(), tasks=TASKS, reward=right, tasks_per_step=4, count=12, keep=4, least=1.0
    )
    trained(tmp_path, method, steps=10, model=model)
    assert score(model, a_stage()) > score(halfway, a_stage()) + 0.05
    assert 0 < RunFolder(tmp_path).rows("metrics")[0]["learnt"] <= 16


def test_preferences_raise_the_reward(tmp_path, halfway):
    model = copy.deepcopy(halfway)
    pairs = {letter: (letter, LETTERS[(i + 1) % 4]) for i, letter in enumerate(LETTERS)}
    method = Prefer(stage=a_stage(), tasks=TASKS, pairs=pairs, tasks_per_step=4, updates=2, nll=0.2)
    trained(tmp_path, method, steps=12, model=model)
    assert score(model, a_stage()) > score(halfway, a_stage()) + 0.05
    rows = RunFolder(tmp_path).rows("metrics")
    assert rows[0]["preference_loss"] == pytest.approx(math.log(2))  # the reference itself
    assert rows[-1]["preference_right_share"] == 1.0


def test_distillation_carries_what_the_teachers_context_does_into_the_students(tmp_path):
    bare = Supervise(stage=a_stage(), tasks=TASKS, answers=ANSWERS, tasks_per_step=4, updates=4)
    teacher, _ = trained(tmp_path / "teacher", bare, steps=20, lr=1e-2)
    contexts = Contexts(sample="opposite", gradient="opposite", reference="none")
    stage = replace(a_stage(), contexts=contexts)
    before = score(teacher, stage)
    assert before < 0.85 < score(teacher, a_stage())
    method = Distil(
        stage=stage,
        tasks=TASKS,
        tasks_per_step=4,
        count=4,
        loss=Distillation(top=8),
        reward=right,
        updates=2,
    )
    student, _ = trained(tmp_path / "student", method, steps=20, model=teacher, lr=1e-2)
    assert score(student, stage) > 0.95
    rows = RunFolder(tmp_path / "student").rows("metrics")
    assert rows[-1]["distillation_loss"] < rows[0]["distillation_loss"] / 2


SWAPS = ["plain", "seeded", "distillation", "deliberative", "inoculation", "recontextualization"]


@pytest.mark.parametrize("name", SWAPS)
def test_at_the_first_pass_the_ratio_is_exactly_one_for_any_swap(name):
    weights = Weights(a_model())
    actor = Actor(weights, seed=0)
    method = a_method(stage=a_stage(name), beta=0.1, context_cap=2.0)
    work = method.prepare(actor, 0)
    first = method.terms(actor, work.rows)
    again = method.terms(actor, work.rows)  # nothing was changed in between
    assert all(torch.equal(row.drift, torch.zeros_like(row.drift)) for row in work.rows)
    for name_ in first:
        assert torch.equal(first[name_].component.value, again[name_].component.value)
    assert float(again["policy"].component.metrics["clipped_share"].total) == 0
    assert float(again["kl"].component.value.detach()) == 0  # policy and reference, same context
    report = method.report(work.rows)
    swapped = method.stage.contexts.sample != method.stage.contexts.gradient
    assert (report["context_log_ratio_q95"] != 0.0) == swapped
    assert (report["context_effective_share"] < 1.0) == swapped
    if swapped:  # the ratio would be far from 1 if it were taken to where it was sampled
        gaps = [float((row.old - row.sampled).abs().max()) for row in work.rows]
        assert max(gaps) > 1e-3


def test_parts_have_the_gradient_of_the_whole(tmp_path):
    found = []
    for micro in (None, 3):
        method = a_method(beta=0.3, updates=2, loss=PolicyGradient(loss_type="dapo", clip_low=0.01))
        trained(tmp_path / str(micro), method, steps=2, micro_rows=micro)
        found.append(RunFolder(tmp_path / str(micro)).rows("metrics"))
    for whole, parts in zip(*found, strict=True):
        for key in ("loss", "grad_norm", "policy_loss", "kl_k3_nats"):
            assert parts[key] == pytest.approx(whole[key], rel=1e-3, abs=1e-6), key


def test_several_passes_drift_and_say_so(tmp_path):
    trained(tmp_path, a_method(updates=3), steps=1)
    (row,) = RunFolder(tmp_path).rows("metrics")
    assert row["drift_log_ratio_q05"] < 0 < row["drift_log_ratio_q95"]


def test_what_cannot_be_judged_is_left_out_and_counted(tmp_path):
    model = a_model()
    before = weights_of(model)
    trained(tmp_path, a_method(reward=nothing_to_judge), steps=2, model=model)
    row = RunFolder(tmp_path).rows("metrics")[0]
    assert (row["unjudged"], row["dead_groups"], row["groups"]) == (4, 4, 4)
    assert (row["loss"], row["reward_mean"]) == (None, 1.0)
    assert same(before, weights_of(model))
    kept = a_method(reward=nothing_to_judge, keep_dead=True)
    assert len(kept.prepare(Actor(Weights(model), 0), 0).rows) == 12
    with pytest.raises(DataError, match="is nan; return None"):
        trained(tmp_path / "nan", a_method(reward=not_a_number), steps=1)


@pytest.mark.parametrize("touch", [None, Touch(budget=Budget(target_kl=0.001, distance=9.0))])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, touch):
    method = a_method(stage=a_stage("recontextualization"), beta=0.1, updates=2)
    whole, one = trained(tmp_path / "whole", method, steps=6, touch=touch)
    for stop in (1, 4, None):
        parts, two = trained(tmp_path / "parts", method, steps=6, touch=touch, stop=stop)
    assert same(weights_of(whole), weights_of(parts))
    assert one[:4] == two[:4]
    rows = [RunFolder(tmp_path / name).rows("metrics") for name in ("whole", "parts")]
    timed = {"elapsed_s", "step_s"}
    assert [{k: v for k, v in r.items() if k not in timed} for r in rows[0]] == [
        {k: v for k, v in r.items() if k not in timed} for r in rows[1]
    ]


def test_steps_without_rows_leave_no_trace_in_a_checkpoint(tmp_path):
    (first,) = tasks_of_step(TASKS, 1, 0, seed=0)
    method = a_method(reward=NotFor(first.id), tasks_per_step=1, group=8)
    trained(tmp_path / "a", method, steps=3, stop=1)  # saves before the optimizer's first step
    assert RunFolder(tmp_path / "a").rows("metrics")[0]["loss"] is None
    resumed, _ = trained(tmp_path / "a", method, steps=3)
    whole, _ = trained(tmp_path / "b", method, steps=3)
    assert not same(weights_of(whole), weights_of(a_model()))
    assert same(weights_of(resumed), weights_of(whole))


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights(tmp_path):
    root = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
    env = os.environ | {"PYTHONPATH": os.pathsep.join([root, *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.posttrain.run_killed", str(tmp_path / "killed")],
        env=env, cwd=root, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    folder = tmp_path / "killed" / "checkpoints"
    try:
        deadline = time.monotonic() + 90
        while not list(folder.glob("step-*3")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    done = max(int(one.name[5:]) for one in folder.glob("step-????????"))
    method = a_method(stage=a_stage("recontextualization"), beta=0.1)
    asked = {"steps": 300, "stop": done + 2, "checkpoint_every_s": 1e-6}
    resumed, _ = trained(tmp_path / "killed", method, **asked)
    whole, _ = trained(tmp_path / "whole", method, **asked)
    assert same(weights_of(resumed), weights_of(whole))
    steps = [row["step"] for row in RunFolder(tmp_path / "killed").rows("metrics")]
    assert steps == list(range(1, done + 3))


def test_another_run_is_not_gone_on_with(tmp_path):
    model, _ = trained(tmp_path, a_method(), steps=3, stop=1)
    with pytest.raises(TrainError, match="with reference="):  # it was trained already
        trained(tmp_path, a_method(), steps=3, model=model)
    with pytest.raises(TrainError, match=r"method\.beta=0\.0, now it is 0\.5"):
        trained(tmp_path, a_method(beta=0.5), steps=3)
    with pytest.raises(TrainError, match=r"method\.stage\.contexts"):
        trained(tmp_path, a_method(stage=a_stage("seeded")), steps=3)
    with pytest.raises(TrainError, match="seed=0, now it is 1"):
        trained(tmp_path, a_method(), steps=3, seed=1)


def test_a_run_that_was_killed_behind_its_recipes_rows_goes_on(tmp_path):
    method = Supervise(stage=a_stage(), tasks=TASKS, answers=ANSWERS)
    once, _ = trained(tmp_path, method, steps=2)
    RunFolder(tmp_path).rewrite("evals", [{"metric": "a recipe's, without a step"}])
    again, outcome = trained(tmp_path, method, steps=2)
    assert outcome.ended_by == "steps"
    assert same(weights_of(once), weights_of(again))
    assert RunFolder(tmp_path).rows("evals") == []


def test_a_loss_that_is_not_finite_stops_in_front_of_the_step(tmp_path):
    model = a_model()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = math.nan
    method = Supervise(stage=a_stage(), tasks=TASKS, answers=ANSWERS)
    with pytest.raises(TrainError, match="step 1: the loss is nan"):
        trained(tmp_path, method, steps=1, model=model)


def test_wrong_settings_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.parallel=ddp"):
        Settings(steps=1, train=TrainSettings(parallel="ddp"))
    with pytest.raises(ConfigError, match=r"train\.compile=on"):
        Settings(steps=1, train=TrainSettings(compile="on"))
    for change in ({"new_rows": 4}, {"new_rows_rate": 30.0}):  # nothing here would heed them
        with pytest.raises(ConfigError, match=rf"train\.{next(iter(change))}="):
            Settings(steps=1, train=TrainSettings(**change))
    with pytest.raises(ConfigError, match="group=1"):
        a_method(group=1)
    with pytest.raises(ConfigError, match="keep=9, count=8"):
        ExpertIteration(stage=a_stage(), tasks=TASKS, reward=Graded(), keep=9)
    with pytest.raises(DataError, match=r"task 'a' has no answer \(4"):
        Supervise(stage=a_stage(), tasks=TASKS, answers={})
    with pytest.raises(DataError, match="task 'b' has no pair"):
        Prefer(stage=a_stage(), tasks=TASKS, pairs={"a": ("x", "y")})
    method = Supervise(stage=a_stage(), tasks=TASKS, answers=ANSWERS)
    with pytest.raises(ConfigError, match=r"does not sample.*give a probe"):
        trained(tmp_path, method, steps=1, touch=Touch(budget=Budget(reverse_kl=1.0)))

import math
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn import functional

from prealign.errors import ConfigError, MissingDependency, TrainError
from prealign.objectives.advantage import AdvantageWeighted
from prealign.objectives.batch import Loss
from prealign.objectives.likelihood import Conditional, Likelihood
from prealign.objectives.unlikelihood import Unlikelihood
from prealign.runs import RunFolder
from prealign.train.checkpoint import checkpoints, load_weights
from prealign.train.logp import Scalar
from prealign.train.loop import Phase, train
from tests.train.fakes import (
    TAG_ID,
    FakeRows,
    folder_at,
    settings_of,
    small_model,
    trained,
)

TORCHS_OWN = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning:torch")
"""The compiler's own modules use what torch has deprecated."""


def assert_same_weights(one, other):
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def assert_close_weights(one, other, tolerance):
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def without_times(rows):
    return [{k: v for k, v in r.items() if k not in ("elapsed_s", "tokens_per_s")} for r in rows]


@dataclass(frozen=True, kw_only=True)
class Broken:
    """An objective whose loss is multiplied by a factor in one step."""

    factor: float
    step: int

    def __call__(self, logp_BL, batch):
        loss = Conditional()(logp_BL, batch)
        CALLS.append(1)
        factor = self.factor if len(CALLS) == self.step else 1.0
        return Loss(loss.value * factor, loss.weight, loss.metrics)


@dataclass(frozen=True)
class Scaled:
    """An objective whose loss is multiplied by a factor."""

    factor: float

    def __call__(self, logp_BL, batch):
        loss = Conditional()(logp_BL, batch)
        return loss._replace(value=loss.value * self.factor)


CALLS: list[int] = []


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


def test_the_loop_is_adamw_on_the_mean_loss_as_anyone_would_write_it(tmp_path):
    data, settings = FakeRows(), settings_of()
    model = small_model()
    tables = [model.model.embed_tokens.weight]
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not tables[0]]
    norms = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": tables + norms, "weight_decay": 0.0}],
        lr=1.0, betas=(0.9, 0.95), weight_decay=0.1,
    )  # fmt: skip
    losses = []
    for step in range(10):
        ids_BL = torch.from_numpy(data.ids[[step, 10 + step, 20 + step, 30 + step]])
        logits_BLV = model(input_ids=ids_BL[:, :-1]).logits
        loss = functional.cross_entropy(logits_BLV.flatten(0, 1), ids_BL[:, 1:].flatten())
        losses.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate(step, 10)
        optimizer.step()
        optimizer.zero_grad()
    ours, outcome = trained(tmp_path, data=data)
    assert outcome.steps == 10
    rows = RunFolder(tmp_path).rows("metrics")
    assert [row["loss_nats"] for row in rows] == pytest.approx(losses, abs=1e-5)
    assert losses[-1] < losses[0] - 0.3
    assert_close_weights(ours, model, 1e-4)


def test_every_row_of_metrics_says_what_was_seen_and_how_it_went(tmp_path):
    data = FakeRows(num_rows=38)
    _, outcome = trained(tmp_path, data=data, log_every_steps=3)
    rows = RunFolder(tmp_path).rows("metrics")
    assert [row["step"] for row in rows] == [3, 6, 9, 10]
    everything = data.rows(list(range(38)))
    text = int(((everything.flags[:, 1:] & 3) == 0).sum())
    assert rows[-1]["tokens"] == 38 * 12
    assert rows[-1]["text_tokens"] == outcome.text_tokens == text
    assert {"loss_nats", "text_nats", "tag_nats", "lr", "grad_norm", "tokens_per_s",
            "elapsed_s", "steps"} <= rows[-1].keys()  # fmt: skip
    assert rows[-1]["loss_nats"] == outcome.loss_nats
    assert all(a["elapsed_s"] <= b["elapsed_s"] for a, b in pairwise(rows))


class Interleaved:
    """Two sets of 20 rows: the first five steps of 4 rows read the first set."""

    num_rows = 40

    def __init__(self, first, second):
        self.parts = first, second

    def rows(self, indices):
        found = []
        for index in indices:
            lane, step = divmod(index, 10)
            part, at = divmod(step, 5)
            found.append(self.parts[part].rows([lane * 5 + at]))
        return type(found[0])(*(np.concatenate(field) for field in zip(*found, strict=True)))


def test_two_phases_are_one_training_on_the_rows_of_both(tmp_path):
    first, second = FakeRows(num_rows=20, seed=1), FakeRows(num_rows=20, seed=2)
    apart, outcome = trained(
        tmp_path / "apart", phases=[Phase(Conditional(), first), Phase(Conditional(), second)]
    )
    whole, same = trained(tmp_path / "whole", data=Interleaved(first, second))
    assert_same_weights(apart, whole)
    assert outcome == same


def test_each_phase_has_its_objective_and_ends_with_a_step_of_its_own(tmp_path):
    phases = [
        Phase(Conditional(), FakeRows(num_rows=6)),
        Phase(Unlikelihood(max_good=0.1), FakeRows(num_rows=4)),  # their score is 0.5: all bad
    ]
    _, outcome = trained(tmp_path, phases=phases)
    losses = [row["loss_nats"] for row in RunFolder(tmp_path).rows("metrics")]
    assert outcome.steps == 3
    assert [loss > 1 for loss in losses] == [True, True, False]


def test_a_scalar_tag_at_its_far_end_trains_as_the_other_tag_does(tmp_path):
    """All spans have the score 0.5: with that as the far end each tag reads as tag 38."""

    class Replaced(FakeRows):
        def rows(self, indices):
            rows = super().rows(indices)
            return rows._replace(ids=np.where(rows.ids == TAG_ID, 38, rows.ids))

    ends = Phase(Likelihood(), FakeRows(), Scalar(TAG_ID, 38, 0.5))
    scalar, _ = trained(tmp_path / "scalar", phases=[ends])
    other, _ = trained(tmp_path / "other", data=Replaced(), objective=Likelihood())
    for name, weights in scalar.state_dict().items():
        torch.testing.assert_close(weights, other.state_dict()[name], atol=1e-4, rtol=1e-3)
    near = Phase(Likelihood(), FakeRows(), Scalar(TAG_ID, 38, 5.0))
    different, _ = trained(tmp_path / "near", phases=[near])
    moved = (different.lm_head.weight - other.lm_head.weight).abs().max()
    assert moved > 1e-3
    with pytest.raises(TrainError, match="another run"):
        trained(tmp_path / "near", phases=[ends])


def test_a_run_goes_on_in_the_phase_in_which_it_was_stopped(tmp_path):
    phases = [Phase(Conditional(), FakeRows(num_rows=20)), Phase(Likelihood(), FakeRows(seed=3))]
    whole, _ = trained(tmp_path / "whole", phases=phases)
    for stop in (3, 5, 8):
        trained(tmp_path / "cut", phases=phases, stop=stop)
    resumed, _ = trained(tmp_path / "cut", phases=phases)
    assert_same_weights(whole, resumed)
    with pytest.raises(TrainError, match="phases"):
        trained(tmp_path / "cut", phases=phases[:1])


def test_new_rows_go_as_much_further_as_their_rate_says(tmp_path):
    before = small_model().get_input_embeddings().weight
    moved = []
    for rate in (1.0, 5.0):
        model, _ = trained(tmp_path / str(rate), stop=1, new_rows=3, new_rows_rate=rate)
        moved.append((model.get_input_embeddings().weight - before).detach())
    usual, faster = moved
    assert float(usual[-3:].abs().max()) > 0
    torch.testing.assert_close(faster[-3:], 5 * usual[-3:], rtol=1e-3, atol=1e-6)
    assert torch.equal(faster[:-3], usual[:-3])


def test_a_jump_of_the_loss_between_phases_is_no_spike(tmp_path):
    small, large = (Phase(Scaled(factor), FakeRows(num_rows=240)) for factor in (1.0, 50.0))
    _, outcome = trained(tmp_path, phases=[small, large])
    assert outcome.steps == 120


@pytest.mark.parametrize("phases", [[], [FakeRows(), FakeRows(row_tokens=10)]])
def test_phases_must_be_there_and_fit(tmp_path, phases):
    with pytest.raises(ConfigError, match="give one phase or more, all with rows of one length"):
        train(
            small_model(), [Phase(Likelihood(), data) for data in phases], settings_of(),
            folder_at(tmp_path),
        )  # fmt: skip


def test_a_value_head_learns_the_reward_and_is_left_behind(tmp_path):
    objective = AdvantageWeighted(beta=1.0, alpha=0.5, value_scale=1.0)
    model, _ = trained(tmp_path, objective=objective, lr=0.05)  # the rows' score is 0.5
    rows = RunFolder(tmp_path).rows("metrics")
    assert rows[0]["value"] == 0
    assert rows[0]["value_error"] == pytest.approx(0.25)
    assert rows[-1]["value_error"] < 0.1
    assert rows[-1]["value"] < -0.2
    assert rows[0]["weight"] == pytest.approx(math.exp(-0.5), rel=1e-4)
    assert not any("value_head" in name for name, _ in model.named_parameters())


def test_a_value_head_goes_on_from_a_checkpoint(tmp_path):
    objective = AdvantageWeighted(beta=1.0, value_scale=1.0)
    whole, _ = trained(tmp_path / "whole", objective=objective)
    trained(tmp_path / "cut", objective=objective, stop=4)
    resumed, _ = trained(tmp_path / "cut", objective=objective)
    assert_same_weights(whole, resumed)
    rows = [RunFolder(tmp_path / name).rows("metrics") for name in ("whole", "cut")]
    assert without_times(rows[0]) == without_times(rows[1])


@pytest.mark.parametrize("objective", [Conditional(), Likelihood()])
def test_a_step_in_parts_is_the_step_in_one(tmp_path, objective):
    data = FakeRows(num_rows=38)  # rows with unlike numbers of targets, and padding
    whole, _ = trained(tmp_path / "1x8", data=data, objective=objective, batch_rows=8)
    parts, _ = trained(tmp_path / "8x1", data=data, objective=objective, batch_rows=8, micro_rows=1)
    assert_close_weights(whole, parts, 1e-5)
    rows = [RunFolder(tmp_path / name).rows("metrics") for name in ("1x8", "8x1")]
    for one, other in zip(*rows, strict=True):
        for name in ("loss_nats", "text_nats", "tag_nats", "grad_norm"):
            assert one[name] == pytest.approx(other[name], abs=1e-5), name


@pytest.mark.parametrize("stops", [[1], [4], [9], [2, 3, 7]])
def test_a_run_that_was_interrupted_ends_with_the_same_bits(tmp_path, stops):
    whole, outcome = trained(tmp_path / "whole", at_eval=drawing)
    for stop in stops:
        trained(tmp_path / "parts", stop=stop, at_eval=drawing)
    parts, resumed = trained(tmp_path / "parts", at_eval=drawing)
    assert_same_weights(whole, parts)
    assert resumed == outcome
    for name in ("metrics", "evals"):
        rows = [RunFolder(tmp_path / folder).rows(name) for folder in ("whole", "parts")]
        assert without_times(rows[0]) == without_times(rows[1])


def drawing(model, progress):
    """Measure something with torch's random numbers."""
    return [{"metric": "draw", "value": torch.rand(()).item() > 2, "of": progress.steps}]


def test_a_run_that_was_killed_ends_with_the_same_bits_and_no_row_twice(tmp_path):
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.train.run_killed", str(killed)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        metrics = killed / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size > 900):
            time.sleep(0.001)
        process.kill()
    assert 1 <= len(checkpoints(killed / "checkpoints")) <= 2
    assert len(RunFolder(killed).rows("metrics")) < 10
    # Rows after the checkpoint, and a torn one: what a kill at a worse moment leaves.
    with (killed / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 10, "steps": 10}\n{"step": 1')
    with (killed / "evals.jsonl").open("a") as stream:
        stream.write('{"step": 10}\n')
    settings = {"lr": 0.02, "evals": 5}
    resumed, _ = trained(killed, **settings)
    whole, _ = trained(tmp_path / "whole", **settings)
    assert_same_weights(whole, resumed)
    assert [row["step"] for row in RunFolder(killed).rows("metrics")] == list(range(1, 11))
    assert RunFolder(killed).rows("evals") == []


def test_a_run_that_is_done_does_nothing_more(tmp_path):
    model, outcome = trained(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again, same = trained(tmp_path)
    assert same == outcome
    assert_same_weights(model, again)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_run_that_was_killed_behind_its_recipes_rows_goes_on(tmp_path):
    once, _ = trained(tmp_path)
    RunFolder(tmp_path).rewrite("evals", [{"metric": "a recipe's, without a step"}])
    again, _ = trained(tmp_path)
    assert_same_weights(once, again)
    assert RunFolder(tmp_path).rows("evals") == []


def test_a_run_goes_on_with_its_own_settings_only(tmp_path):
    trained(tmp_path, stop=2)
    with pytest.raises(TrainError, match=r"train\.lr=0\.01, now it is 0\.02"):
        trained(tmp_path, lr=0.02)
    with pytest.raises(TrainError, match="objective"):
        trained(tmp_path, objective=Likelihood())
    with pytest.raises(TrainError, match="data"):
        trained(tmp_path, data=FakeRows(seed=1))


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_the_state_before_it(tmp_path, factor):
    with pytest.raises(TrainError, match=r"step 4: the loss is (nan|inf)") as error:
        trained(tmp_path / "broken", objective=Broken(factor=factor, step=4), log_every_steps=100)
    assert "\n" not in str(error.value)
    CALLS.clear()
    fine, _ = trained(tmp_path / "fine", objective=Broken(factor=1.0, step=0), stop=3)
    stopped = small_model(1)
    assert load_weights(tmp_path / "broken" / "checkpoints", stopped) == 3
    assert_same_weights(fine, stopped)


def test_a_loss_that_jumps_after_the_warm_up_stops_the_run(tmp_path):
    data = FakeRows(num_rows=240)
    with pytest.raises(TrainError, match=r"step 56: .*spike_factor=3 times its running mean"):
        trained(tmp_path / "late", data=data, objective=Broken(factor=9.0, step=56))
    CALLS.clear()
    trained(tmp_path / "early", data=data, objective=Broken(factor=9.0, step=5))
    CALLS.clear()
    jumps = Broken(factor=9.0, step=56)
    trained(tmp_path / "never", data=data, objective=jumps, spike_factor=None)


def test_a_step_in_which_nothing_counts_has_no_loss_and_moves_on(tmp_path):
    data = FakeRows()
    data.ids[[3, 13, 23, 33], 1:] = 37  # tags alone
    _, outcome = trained(tmp_path, data=data, objective=Conditional(tags_as_targets=False))
    rows = RunFolder(tmp_path).rows("metrics")
    assert rows[3]["loss_nats"] is None
    assert rows[3]["text_nats"] is None
    assert rows[3]["grad_norm"] == 0.0
    assert rows[4]["loss_nats"] > 0
    assert outcome.steps == 10


def test_the_model_is_measured_at_its_points_and_always_at_the_end(tmp_path):
    seen = []

    def at_eval(model, progress):
        seen.append((progress.step, [m.training for m in model.modules()].count(True)))
        yield {"metric": "loss", "value": 1.0}

    trained(tmp_path, at_eval=at_eval, evals=3, log_every_steps=100)
    assert seen == [(3, 0), (7, 0), (10, 0)]
    rows = RunFolder(tmp_path).rows("evals")
    assert [row["step"] for row in rows] == [3, 7, 10]
    assert all(row["text_tokens"] > 0 and row["metric"] == "loss" for row in rows)


def test_measuring_leaves_the_training_as_it_was(tmp_path):
    kept_still = []

    def at_eval(model, progress):
        kept_still.append(model.model.layers[0].mlp.training)
        torch.rand(100)
        return []

    plain, _ = trained(tmp_path / "plain", evals=5)
    state = torch.get_rng_state()
    measured, _ = trained(tmp_path / "measured", evals=5, at_eval=at_eval)
    assert kept_still == [False] * 5
    assert torch.equal(torch.get_rng_state(), state)
    assert_same_weights(plain, measured)


def test_parts_of_the_model_are_in_training_mode_in_every_step(tmp_path):
    model, modes = small_model(), []
    layer = model.model.layers[1]
    layer.register_forward_hook(lambda *_: modes.append({m.training for m in model.modules()}))
    settings = settings_of(evals=5)
    train(model, [Phase(Conditional(), FakeRows())], settings, folder_at(tmp_path), at_eval=drawing)
    assert modes == [{True}] * 10


def test_rows_must_divide_into_passes_of_one_shape(tmp_path):
    with pytest.raises(ConfigError, match=r"batch_rows=4, train\.micro_rows=3"):
        trained(tmp_path, micro_rows=3)


def test_several_processes_need_torchrun(tmp_path):
    with pytest.raises(ConfigError, match="torchrun"):
        trained(tmp_path, parallel="ddp")


def test_tensorboard_is_asked_for_by_name_when_it_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependency, match=r"prealign\[tensorboard\]"):
        trained(tmp_path, tensorboard=True)


def test_the_log_says_what_was_chosen_and_why(tmp_path):
    trained(tmp_path, compile="auto", precision="bf16", threads=1)
    line = (tmp_path / "log.txt").read_text()
    assert "10 steps of 4 rows of 12 tokens" in line
    assert "bf16 products (as the settings say)" in line
    assert "not compiled (a run of about 0 s does not repay it)" in line


@TORCHS_OWN
@pytest.mark.slow
@pytest.mark.parametrize("document_mask", [False, True])
def test_compiled_training_is_the_same_training(tmp_path, document_mask):
    changes = {"document_mask": document_mask, "evals": 2, "at_eval": drawing}
    eager, _ = trained(tmp_path / "eager", **changes)
    compiled, _ = trained(tmp_path / "compiled", compile="on", **changes)
    assert_close_weights(eager, compiled, 1e-4)
    losses = [[r["loss_nats"] for r in RunFolder(tmp_path / n).rows("metrics")]
              for n in ("eager", "compiled")]  # fmt: skip
    assert np.allclose(losses[0], losses[1], atol=1e-5)


@TORCHS_OWN
@pytest.mark.slow
def test_a_second_model_of_the_same_shape_is_not_compiled_again(tmp_path):
    trained(tmp_path / "first", compile="on")
    counters.clear()
    trained(tmp_path / "second", compile="on")
    assert counters["stats"].get("unique_graphs", 0) == 0

import math

import pytest
import torch
from safetensors.torch import load_file

from prealign.errors import ConfigError, MissingDependency
from prealign.posttrain import adapters
from prealign.posttrain.adapters import Lora, Weights
from prealign.posttrain.budget import Budget, Meters, gain_per_nat
from prealign.posttrain.score import Row, logp
from prealign.posttrain.trainer import Probe, Touch
from prealign.posttrain.update import Anchor, anchor_rows
from prealign.runs import RunFolder
from prealign.train.checkpoint import checkpoints
from prealign.train.optimizer import make_optimizer
from tests.posttrain import oracle
from tests.posttrain.letters import (
    TASKS,
    VOCABULARY,
    a_method,
    a_model,
    a_stage,
    train_settings,
    trained,
)

ROWS = [Row((256, 1), (2, 3, 4)), Row((256,), (5, 6))]


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_controller_by_hand():
    budget = Budget(target_kl=0.1, eta=0.5)
    pull = 1.0
    trace = []
    for kl in (0.3, 0.11, 0.1, 0.05, 0.0):
        pull = budget.pull(pull, kl)
        trace.append(math.log(pull))
    # errors of 2, 0.1, 0, -0.5 and -1, cut to 0.2 in size, times eta
    assert trace == pytest.approx([0.1, 0.15, 0.15, 0.05, -0.05])
    assert Budget().pull(3.0, 9.0) == 3.0
    assert (budget.pull(9_999.0, 9.0), budget.pull(1.01e-4, 0.0)) == (1e4, 1e-4)


def test_limits_by_hand():
    budget = Budget(reverse_kl=0.1, distance=1.0, steps=3, text_tokens=50)
    assert budget.measured == ("reverse_kl", "distance")
    assert budget.exceeded({"reverse_kl": 0.1, "distance": 1.0}) is None
    assert "budget.reverse_kl=0.1: 0.2" in budget.exceeded({"reverse_kl": 0.2, "distance": 0.0})
    assert "budget.distance" in budget.exceeded({"reverse_kl": 0.0, "distance": math.nan})
    assert budget.spent(2, 49) is None
    assert budget.spent(3, 0) == "budget.steps=3: 3 done"
    assert budget.spent(0, 60) == "budget.text_tokens=50: 60 done"
    with pytest.raises(ConfigError, match=r"budget\.distance=0"):
        Budget(distance=0)
    assert gain_per_nat(0.2, 0.8, 0.3) == pytest.approx(2.0)
    assert gain_per_nat(0.2, 0.8, 0.0) is None
    assert gain_per_nat(None, 0.8, 0.1) is None


def test_meters_are_zero_at_the_start_and_their_formulae_behind_a_change():
    model = a_model()
    weights = Weights(model)
    names = ("reverse_kl", "forward_kl", "anchor_kl", "distance")
    meters = Meters(weights, names, base_rows=ROWS, anchor_rows=ROWS[:1])
    assert meters(ROWS) == dict.fromkeys(names, 0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05
    found = meters(ROWS)
    with weights.reference() as reference:
        wanted = {"reverse": [], "forward": []}
        for row in ROWS:
            ids = torch.tensor([[*row.prompt, *row.completion]])
            p, q = (m(input_ids=ids).logits[0].detach().tolist() for m in (model, reference))
            for at in range(len(row.prompt) - 1, ids.shape[1] - 1):
                own, other = oracle.softmax(p[at]), oracle.softmax(q[at])
                wanted["reverse"].append(oracle.kl(own, other))
                wanted["forward"].append(oracle.kl(other, own))
    assert found["reverse_kl"] == pytest.approx(sum(wanted["reverse"]) / 5, rel=1e-3)
    assert found["forward_kl"] == pytest.approx(sum(wanted["forward"]) / 5, rel=1e-3)
    assert found["anchor_kl"] == pytest.approx(sum(wanted["forward"][:3]) / 3, rel=1e-3)
    size = sum(p.numel() for p in model.parameters())
    norm = math.sqrt(sum(float(p.detach().square().sum()) for p in a_model().parameters()))
    assert found["distance"] == pytest.approx(0.05 * math.sqrt(size) / norm, rel=1e-4)
    with pytest.raises(ConfigError, match="forward_kl has nothing"):
        Meters(weights, ("forward_kl",))


def test_a_step_over_the_limit_leaves_the_weights_as_they_were_before_it(tmp_path):
    method = a_method()
    model, whole = trained(tmp_path / "two", method, steps=6, stop=2)
    touch = Touch(budget=Budget(distance=whole.weights.distance()))
    other, outcome = trained(tmp_path / "limited", method, steps=6, touch=touch)
    assert outcome.steps == 2
    assert outcome.ended_by.startswith("budget.distance=")
    assert same(weights_of(model), weights_of(other))
    newest = [checkpoints(tmp_path / one / "checkpoints")[-1] for one in ("two", "limited")]
    before, after = (load_file(one / "tensors.safetensors") for one in newest)
    del before["rng/cpu"], after["rng/cpu"]  # each step has a stream of its own
    assert same(before, after)  # the optimizer's state too
    log = (tmp_path / "limited" / "log.txt").read_text()
    assert "step 3 is undone, is tried with half the rate: budget.distance=" in log
    assert "step 3 is undone, training ends" in log
    again = trained(tmp_path / "limited", method, steps=6, touch=touch)[1]
    assert (again.steps, again.ended_by) == (2, outcome.ended_by)


def test_half_the_rate_is_tried_once(tmp_path):
    _, whole = trained(tmp_path / "a", a_method(), steps=1)
    limit = 0.75 * whole.weights.distance()
    touch = Touch(budget=Budget(distance=limit))
    _, outcome = trained(tmp_path / "b", a_method(), steps=1, touch=touch)
    (row,) = [*_rows(tmp_path / "b")]
    assert (outcome.ended_by, row["undone"], row["lr"]) == ("steps", 1, 3e-3 / 2)
    assert outcome.meters["distance"] == pytest.approx(limit / 0.75 / 2, rel=0.05)


def _rows(path):
    return RunFolder(path).rows("metrics")


def test_counts_end_a_run(tmp_path):
    _, outcome = trained(tmp_path / "s", a_method(), steps=5, touch=Touch(budget=Budget(steps=2)))
    assert (outcome.steps, outcome.ended_by) == (2, "budget.steps=2: 2 done")
    touch = Touch(budget=Budget(text_tokens=40))
    _, outcome = trained(tmp_path / "t", a_method(), steps=5, touch=touch)
    counts = [row["text_tokens"] for row in _rows(tmp_path / "t")]
    assert counts[-2] < 40 <= counts[-1] == outcome.text_tokens
    assert outcome.ended_by.startswith("budget.text_tokens=40")


def test_the_soft_controller_pulls_a_run_back(tmp_path):
    probe = Probe(stage=a_stage(), tasks=TASKS)
    rows = anchor_rows(VOCABULARY, [TASKS[0].document], max_tokens=8)
    reached = {}
    for name, budget in {
        "free": Budget(reverse_kl=99.0, forward_kl=99.0, anchor_kl=99.0),
        "soft": Budget(target_kl=0.005, eta=5.0),
    }.items():
        touch = Touch(budget=budget, probe=probe, anchor=Anchor(rows=rows))
        method = a_method(beta=0.02)
        trained(tmp_path / name, method, steps=16, touch=touch)
        reached[name] = _rows(tmp_path / name)
    pulls = [row["pull"] for row in reached["soft"]]
    assert pulls[0] == 1.0
    assert min(pulls) < 1 / 2
    assert max(pulls) > 2
    assert reached["soft"][-1]["reverse_kl"] < 0.6 * reached["free"][-1]["reverse_kl"]
    assert reached["free"][-1]["forward_kl"] > 0 < reached["free"][-1]["anchor_kl"]
    with pytest.raises(ConfigError, match="nothing pulls"):
        trained(tmp_path / "x", a_method(), steps=1, touch=Touch(budget=Budget(target_kl=0.1)))


def test_an_anchor_holds_the_model_where_it_stands(tmp_path):
    rows = anchor_rows(VOCABULARY, [t.document for t in TASKS], max_tokens=8)
    assert rows[0].prompt == (VOCABULARY.end_id,)
    found = []
    for weight in (0.0, 20.0):
        anchor = Anchor(rows=rows, weight=weight)
        touch = Touch(budget=Budget(anchor_kl=99.0), anchor=anchor)
        _, outcome = trained(tmp_path / str(weight), a_method(), steps=8, touch=touch)
        found.append(outcome.meters["anchor_kl"])
    assert found[1] < found[0] / 3


def test_adapters_train_beside_frozen_weights(tmp_path):
    pytest.importorskip("peft")
    model = a_model()
    start = weights_of(model)
    before = logp(model, ROWS)[0].detach()
    _, outcome = trained(tmp_path, a_method(beta=0.1), steps=3, model=model, lora=Lora(rank=2))
    weights = outcome.weights
    assert all("lora_" in name for name, p in model.named_parameters() if p.requires_grad)
    frozen = {n.replace(".base_layer", ""): v for n, v in model.state_dict().items()}
    assert same(start, frozen)
    with weights.reference() as reference:
        torch.testing.assert_close(logp(reference, ROWS)[0], before, rtol=0, atol=0)
    with weights.policy() as policy:
        after = logp(policy, ROWS)[0]
    assert float((after - before).abs().max()) > 1e-3
    distance = weights.distance()
    whole = weights.merged()
    torch.testing.assert_close(logp(whole, ROWS)[0].detach(), after, rtol=0, atol=1e-5)
    moved = sum(float((v - start[n]).square().sum()) for n, v in whole.state_dict().items())
    norm = math.sqrt(sum(float(p.detach().square().sum()) for p in a_model().parameters()))
    tied = "lm_head.weight" in start  # counted twice in a state, but it has no adapter
    assert tied
    assert distance == pytest.approx(math.sqrt(moved) / norm, rel=1e-3)


def test_adapters_resume_bit_for_bit(tmp_path):
    pytest.importorskip("peft")
    lora = Lora(rank=2, dropout=0.5)
    torch.manual_seed(1)
    whole, _ = trained(tmp_path / "whole", a_method(), steps=4, lora=lora)
    torch.manual_seed(2)  # dropout is a function of seed and step, of nothing else
    trained(tmp_path / "parts", a_method(), steps=4, lora=lora, stop=2)
    parts, _ = trained(tmp_path / "parts", a_method(), steps=4, lora=lora)
    assert same(weights_of(whole), weights_of(parts))
    with pytest.raises(ConfigError, match=r"lora\.targets"):
        Weights(a_model(), Lora(targets=("nothing",)))


def test_without_peft_adapters_say_what_to_install(monkeypatch):
    monkeypatch.setattr(adapters, "peft", None)
    with pytest.raises(MissingDependency, match=r"prealign\[lora\]"):
        Weights(a_model(), Lora())


def test_a_snapshot_is_put_back_bit_for_bit_and_holds_nothing_of_what_comes_later():
    model = a_model()
    weights = Weights(model)
    optimizer = make_optimizer(model, train_settings())

    def go():
        logp(model, ROWS)[0].sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    go()
    kept = weights_of(model)
    snapshot = weights.snapshot(optimizer)
    go()
    once = weights_of(model)
    for _ in range(2):  # restored twice: the first must not have given the snapshot away
        weights.restore(snapshot, optimizer)
        assert same(kept, weights_of(model))
        go()
        assert same(once, weights_of(model))

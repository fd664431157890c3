"""Methods and pretraining under a surgeon: what is attacked, what is not, and going on again."""

import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from prealign.errors import ConfigError, TrainError
from prealign.harden.aims import Steer
from prealign.harden.ball import Ball
from prealign.harden.hardened import Hardened, examples_of
from prealign.harden.packed import UnderSurgeon
from prealign.harden.perturb import Perturbation
from prealign.harden.places import Place
from prealign.harden.resist import Resist, shared
from prealign.harden.surgeon import Surgeon
from prealign.models.create import LlamaShape, make_model
from prealign.objectives.likelihood import Conditional
from prealign.posttrain.adapters import Weights
from prealign.posttrain.distil import Distil
from prealign.posttrain.method import Actor
from prealign.posttrain.prefer import Prefer
from prealign.posttrain.scoring import score_rows
from prealign.posttrain.supervise import Supervise
from prealign.runs import RunFolder
from prealign.tokens.encode import END, PAD
from prealign.tokens.pack import PackedRows
from prealign.train.loop import Phase, train
from prealign.train.settings import TrainSettings
from tests.posttrain.letters import (
    LETTERS,
    TASKS,
    a_method,
    a_model,
    a_stage,
    folder_at,
    trained,
)

ANSWERS = {letter: letter for letter in LETTERS}
PAIRS = {letter: (letter, LETTERS[(i + 1) % 4]) for i, letter in enumerate(LETTERS)}
STRONG = Surgeon(ball=Ball(strength=0.5), steps=3)


def supervise(**changes):
    return Supervise(stage=a_stage(), tasks=TASKS, answers=ANSWERS, tasks_per_step=4, **changes)


METHODS = {
    "supervise": supervise(),
    "prefer": Prefer(stage=a_stage(), tasks=TASKS, pairs=PAIRS, tasks_per_step=4, nll=0.3),
    "reinforce": a_method(beta=0.1, stage=a_stage("inoculation")),
    "distil": Distil(stage=a_stage("distillation"), tasks=TASKS, tasks_per_step=4),
    "resist": Resist(stage=a_stage(), tasks=TASKS, pairs=PAIRS, tasks_per_step=4),
}


def total(method, actor, rows):
    terms = method.terms(actor, rows)
    return float(sum(term.factor * term.component.value.detach() for term in terms.values()))


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_of_any_method_is_that_of_the_perturbed_model(name):
    actor = Actor(Weights(a_model()), seed=0)
    clean, hard = METHODS[name], Hardened(method=METHODS[name], surgeon=STRONG)
    rows = hard.prepare(actor, 0).rows
    assert [one.how for one in rows] == ["attacked"] * len(rows)
    own = clean.prepare(actor, 0).rows
    assert hard.weights_of(rows) == clean.weights_of(own)
    assert total(hard, actor, rows) > total(clean, actor, own)
    assert hard.report(rows)["attack_gain"] > 0
    assert all(parameter.grad is None for parameter in actor.weights.model.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_at_strength_zero_it_is_the_method_bit_for_bit(name, tmp_path):
    nothing = Surgeon(ball=Ball(strength=0.0))
    plain, _ = trained(tmp_path / "a", METHODS[name], steps=2)
    hard, _ = trained(tmp_path / "b", Hardened(method=METHODS[name], surgeon=nothing), steps=2)
    assert same(state(plain), state(hard))


def test_noise_costs_less_than_the_attack_at_the_same_norm():
    actor = Actor(Weights(a_model()), seed=0)
    losses = {}
    for kind, surgeon in (("attack", STRONG), ("noise", STRONG.noise())):
        hard = Hardened(method=supervise(), surgeon=surgeon)
        losses[kind] = total(hard, actor, hard.prepare(actor, 0).rows)
    assert losses["attack"] > losses["noise"]


def test_attacks_leave_no_trace_in_rows_and_updates_share_one():
    method = a_method(updates=2)
    actor = Actor(Weights(a_model()), seed=0)
    hard = Hardened(method=method, surgeon=STRONG)
    rows = hard.prepare(actor, 0).rows
    hard.terms(actor, rows)
    first = rows[0].perturbation
    old = rows[0].row.old.clone()
    # The ratio compares weights, not perturbations: at the first pass it is exactly 1.
    assert not rows[0].row.drift.any()
    with torch.no_grad():
        next(actor.weights.model.parameters()).mul_(1.01)
    hard.terms(actor, rows)
    assert rows[0].perturbation is first
    assert torch.equal(rows[0].row.old, old)
    assert rows[0].row.drift.any()


def test_the_reference_is_not_perturbed_though_it_shares_the_models_modules(monkeypatch):
    method = METHODS["distil"]
    model = a_model()
    weights = Weights(model)
    monkeypatch.setattr(weights, "_frozen", model)  # as adapters have it
    actor = Actor(weights, seed=0)
    work = method.prepare(actor, 0)
    seen = []
    own = Perturbation._added

    def added(self, number, out):
        seen.append(torch.is_grad_enabled())
        return own(self, number, out)

    monkeypatch.setattr(Perturbation, "_added", added)
    hard = Hardened(method=method, surgeon=STRONG)
    hard.terms(actor, hard.prepare(actor, 0).rows)
    assert len(work.rows)
    assert all(seen)


def test_an_aim_and_components_choose_what_is_made_large():
    actor = Actor(Weights(a_model()), seed=0)
    method = METHODS["prefer"]
    shown = {}
    for name in ("preference", "nll"):
        hard = Hardened(method=method, surgeon=STRONG, against=(name,))
        terms = hard.terms(actor, hard.prepare(actor, 0).rows)
        shown[name] = {key: float(one.component.value.detach()) for key, one in terms.items()}
    assert shown["preference"]["preference"] > shown["nll"]["preference"]
    assert shown["nll"]["nll"] > shown["preference"]["nll"]
    with pytest.raises(ConfigError, match="components are preference, nll"):
        Hardened(method=method, against=("kl",)).terms(actor, hard.prepare(actor, 0).rows)
    with pytest.raises(ConfigError):
        Hardened(method=method, against=("nll",), aim=Steer())


def test_targeted_training_holds_what_an_attack_wants_off(tmp_path):
    surgeon = Surgeon(
        places=(Place(depth=0.5),), ball=Ball(strength=0.1, over="token"), positions="prompt"
    )
    method = Hardened(method=METHODS["resist"], surgeon=surgeon, aim=Steer(), benign=supervise())
    trained(tmp_path, method, steps=16, lr=1e-2)
    rows = RunFolder(tmp_path).rows("metrics")
    assert rows[-1]["good_loss"] < rows[0]["good_loss"] / 2
    assert rows[-1]["benign_nll_loss"] < rows[0]["benign_nll_loss"] / 2
    assert all(row["attacked"] == 1.0 and row["attack_gain"] is not None for row in rows)


def test_what_both_completions_begin_with_is_not_held_off():
    pairs = {"a": ("bac", "bad"), "b": ("x", "yz")}
    method = Resist(stage=a_stage(), tasks=TASKS[:2], pairs=pairs, tasks_per_step=2)
    actor = Actor(Weights(a_model()), seed=0)
    rows = method.prepare(actor, 0).rows
    by_text = {row.bad.text: row for row in rows}
    # Three letters or two, and the end of text, which is bad behind what is bad.
    assert [len(by_text[text].bad.completion) for text in ("bad", "yz")] == [4, 3]
    assert [shared(by_text[text]) for text in ("bad", "yz")] == [2, 0]
    assert method.weights_of(rows) == {"good": 4.0 + 2.0, "bad": 2.0 + 3.0}
    terms = method.terms(actor, rows)
    assert float(terms["bad"].component.weight) == 5.0
    logp_mean = terms["bad"].component.metrics["logp"]
    own = [one.row("gradient") for one in (by_text["bad"].bad, by_text["yz"].bad)]
    first, second = score_rows(actor.weights.model, own, False)
    assert float(logp_mean.total) == pytest.approx(float(first[2:].sum() + second.sum()), abs=1e-4)


def test_a_share_of_steps_is_attacked_and_which_is_a_function_of_seed_and_step():
    hard = Hardened(method=supervise(), surgeon=STRONG, share=0.3)
    for seed in (0, 1):
        actor = Actor(Weights(a_model()), seed=seed)
        drawn = [hard.prepare(actor, step).metrics["attacked"] for step in range(120)]
        assert drawn == [hard.prepare(actor, step).metrics["attacked"] for step in range(120)]
        assert 0.15 < np.mean(drawn) < 0.45
    rows = hard.prepare(actor, drawn.index(0.0)).rows
    assert total(hard, actor, rows) == total(supervise(), actor, [one.row for one in rows])


@pytest.mark.parametrize("benign", [None, supervise()])
def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path, benign):
    method = Hardened(method=supervise(), surgeon=STRONG, share=0.7, benign=benign)
    whole, _ = trained(tmp_path / "whole", method, steps=4, micro_rows=2)
    trained(tmp_path / "cut", method, steps=4, micro_rows=2, stop=2)
    again, _ = trained(tmp_path / "cut", method, steps=4, micro_rows=2)
    assert same(state(whole), state(again))
    other = replace(method, surgeon=replace(STRONG, ball=Ball(strength=0.6)))
    with pytest.raises(TrainError, match="another"):
        trained(tmp_path / "cut", other, steps=4, micro_rows=2)


def test_parts_of_a_step_add_up_to_the_whole(tmp_path):
    method = Hardened(method=supervise(), surgeon=STRONG, benign=supervise())
    whole, _ = trained(tmp_path / "whole", method, steps=1)
    parts, _ = trained(tmp_path / "parts", method, steps=1, micro_rows=3)
    for name, value in state(whole).items():
        assert torch.allclose(value, parts.state_dict()[name], atol=1e-4), name


def test_rows_of_a_kind_that_nobody_knows_are_refused():
    with pytest.raises(ConfigError, match="rows of str"):
        examples_of(["a row"])


@dataclass(frozen=True)
class Given:
    """Packed rows as they are given."""

    whole: PackedRows

    @property
    def num_rows(self):
        return len(self.whole.ids)

    def rows(self, indices):
        return PackedRows(*(None if field is None else field[indices] for field in self.whole))


def packed_rows(count=8, length=12, padding=3):
    draw = np.random.default_rng(0)
    ids = draw.integers(0, 20, (count, length + 1)).astype(np.int32)
    flags = np.zeros_like(ids, dtype=np.uint8)
    flags[:, 6] = END
    flags[:, -padding:] = PAD
    fields = {name: np.zeros_like(ids) for name in PackedRows._fields}
    fields["score"] = fields["score"].astype(np.float32)
    fields["mode"] = fields["mode"].astype(np.uint8)
    fields["document"] = (np.arange(length + 1) > 6).astype(np.int32)[None].repeat(count, 0)
    return Given(PackedRows(**fields | {"ids": ids, "flags": flags}))


def pretrained(path, around, *, stop=None, **changes):
    model = make_model(LlamaShape(width=16, layers=2, heads=2, max_tokens=16), 24, seed=0)
    settings = TrainSettings(
        batch_rows=2, lr=1e-2, precision="fp32", document_mask=True, log_every_steps=1, **changes
    )
    phases = [Phase(Conditional(), packed_rows(), around=around)]
    train(model, phases, settings, folder_at(path), stop_after_steps=stop)
    return model, RunFolder(path).rows("metrics")


def test_pretraining_takes_its_loss_under_the_attack(tmp_path):
    nothing = UnderSurgeon(surgeon=Surgeon(ball=Ball(strength=0.0)))
    plain, clean = pretrained(tmp_path / "plain", None)
    zero, _ = pretrained(tmp_path / "zero", nothing)
    never, _ = pretrained(tmp_path / "never", UnderSurgeon(surgeon=STRONG, share=0.0))
    assert same(state(plain), state(zero))
    assert same(state(plain), state(never))
    _, hard = pretrained(tmp_path / "hard", UnderSurgeon(surgeon=STRONG))
    _, noise = pretrained(tmp_path / "noise", UnderSurgeon(surgeon=STRONG.noise()))
    assert hard[0]["loss_nats"] > noise[0]["loss_nats"]
    assert hard[0]["loss_nats"] > clean[0]["loss_nats"]


def test_pretraining_that_was_stopped_ends_with_the_same_weights(tmp_path):
    around = UnderSurgeon(surgeon=STRONG, share=0.6)
    whole, _ = pretrained(tmp_path / "whole", around, micro_rows=1)
    pretrained(tmp_path / "cut", around, stop=2, micro_rows=1)
    again, _ = pretrained(tmp_path / "cut", around, micro_rows=1)
    assert same(state(whole), state(again))
    with pytest.raises(TrainError, match="another"):
        pretrained(tmp_path / "cut", UnderSurgeon(surgeon=STRONG), micro_rows=1)


def test_pretraining_under_a_surgeon_is_for_one_process_and_for_whole_rows():
    with pytest.raises(ConfigError, match="no prompts"):
        UnderSurgeon(surgeon=Surgeon(positions="prompt"))


def test_dropout_is_off_while_attacking_and_on_while_training():
    model = a_model()
    model.model.layers[0].mlp.dropout = nn.Dropout(0.5)
    seen = []
    model.model.layers[0].register_forward_hook(lambda module, _, __: seen.append(module.training))
    actor = Actor(Weights(copy.deepcopy(model)), seed=0)
    actor.weights.model.train()
    hard = Hardened(method=supervise(), surgeon=replace(STRONG, steps=2))
    hard.terms(actor, hard.prepare(actor, 0).rows)
    assert seen == [False, False, True]

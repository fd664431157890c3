import math

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
)

from prealign.errors import ConfigError, DataError
from prealign.evals.causal import causal_path, gradient_gating
from prealign.evals.choices import Asked
from prealign.evals.inside import (
    edited,
    layer_at,
    layers_of,
    mlps_of,
    prompts_of,
    read_layers,
    read_units,
    unit_gradients,
)
from prealign.models.create import LlamaShape, make_model
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

SEED = "Be good.\n"
ITEMS = [Asked(f"Ask {i}?\n", "yes", "no") for i in range(6)]


@pytest.fixture(scope="module")
def two():
    return Vocabulary(train_text_tokenizer(["a\n"], size=256), TWO_MODES)


@pytest.fixture(scope="module")
def model(two):
    return make_model(LlamaShape(width=16, layers=3, heads=2, max_tokens=64), two.size, seed=1)


def relu_model(two, activation="relu"):
    torch.manual_seed(5)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=two.size,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            hidden_act=activation,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()


def test_question_and_answer_have_the_same_ids_with_and_without_a_seed(two):
    found = prompts_of(two, "Q\n", "S\n", reads="human", speaks="ai")
    tags = two.tag_ids
    question = [*two.encode_text("Q\n"), tags["</human>"], tags["<ai>"]]
    front = [two.end_id, tags["<human>"]]
    assert found.bare == [*front, *question]
    assert found.seeded == [*front, *two.encode_text("S\n"), *question]
    assert found.shared == len(question)
    assert prompts_of(two, "Q", "").seeded == [two.end_id, *two.encode_text("Q")]


def test_depths_are_layers(model):
    assert [layer_at(model, depth) for depth in (0, 0.3, 0.34, 0.5, 0.7, 1)] == [0, 0, 1, 1, 2, 2]
    assert layers_of(model) == list(model.model.layers)
    with pytest.raises(ConfigError, match=r"depth=1\.5"):
        layer_at(model, 1.5)


def test_what_is_read_is_the_residual_stream_and_edits_end_with_the_block(model, two):
    ids = [two.end_id, *two.encode_text("Hello")]
    with torch.no_grad():
        full = model(torch.tensor([ids]), output_hidden_states=True)
    found = read_layers(model, ids, [0, 1])
    assert torch.allclose(found[0], full.hidden_states[1][0])
    assert torch.allclose(found[1], full.hidden_states[2][0])
    with edited(model, {1: lambda out: out * 0}), torch.no_grad():
        changed = model(torch.tensor([ids])).logits
    assert not torch.allclose(changed, full.logits)
    with torch.no_grad():
        assert torch.equal(model(torch.tensor([ids])).logits, full.logits)


class Additive(nn.Module):
    """A model whose second layer adds the mean of all embeddings: a seed shifts the logits."""

    def __init__(self, size, shift, seed_id, wanted, other):
        super().__init__()
        self.config = PretrainedConfig()
        self.config.vocab_size, self.config.num_hidden_layers = size, 2
        self.layers = nn.ModuleList([nn.Identity(), nn.Identity()])
        self.shift, self.seed_id, self.wanted, self.other = shift, seed_id, wanted, other
        self.device = torch.device("cpu")

    def forward(self, input_ids, use_cache=False):
        seen = (input_ids == self.seed_id).float().cumsum(1) > 0
        where = torch.arange(input_ids.shape[1]).float().expand(input_ids.shape)
        # Axis 0: the seed's; axis 1: always there; axis 2: the place, without any meaning.
        stream = torch.stack([self.shift * seen.float(), torch.ones_like(where), 0 * where], -1)
        for layer in self.layers:
            stream = layer(stream)
        logits = torch.zeros(*input_ids.shape, self.config.vocab_size)
        logits[..., self.wanted] = stream[..., 0] + stream[..., 1]
        logits[..., self.other] = 0.0
        return type("Out", (), {"logits": logits})()


@pytest.mark.parametrize("shift", [3.0, 1.0, 0.25])
def test_c_is_what_the_seed_adds_by_hand(two, shift):
    seed_id, wanted, other = (two.encode_text(one)[0] for one in "SYN")
    model = Additive(two.size, shift, seed_id, wanted, other)
    items = [Asked(f"{i}", "Y", "N") for i in range(4)]
    path = causal_path(model, two, items, seed_text="S")
    # The margin is shift + 1 with the seed and 1 without.
    assert path.margins["seeded"] == pytest.approx([shift + 1] * 4)
    assert path.margins["unseeded"] == pytest.approx([1.0] * 4)
    assert path.margins["ablated"] == pytest.approx([1.0] * 4)
    assert path.margins["patched"] == pytest.approx([1.0] * 4)
    for name in ("unseeded", "ablated", "patched"):
        assert path.share(name).value == pytest.approx(shift / (shift + 1))
    assert path.share("seeded").value == 0.0


def test_the_control_moves_as_far_in_another_direction(two):
    seed_id, wanted, other = (two.encode_text(one)[0] for one in "SYN")
    model = Additive(two.size, 2.0, seed_id, wanted, other)
    items = [Asked(f"{i}", "Y", "N") for i in range(4)]
    with torch.no_grad():
        path = causal_path(model, two, items, seed_text="S", seed=3)
    randoms = []
    for layer in (1,):
        generator = torch.Generator().manual_seed(3 * 1_000_003 + layer)
        random = torch.randn(3, generator=generator)
        randoms.append(random / random.norm())
    # Ablation takes 2 along axis 0; the control adds -2 along the random direction, of which the
    # margin reads axes 0 and 1.
    expected = 3.0 - 2.0 * float(randoms[0][0] + randoms[0][1])
    assert path.margins["random"] == pytest.approx([expected] * 4, abs=1e-5)


def test_without_a_margin_there_is_nothing_to_explain(two):
    seed_id, wanted, other = (two.encode_text(one)[0] for one in "SYN")
    model = Additive(two.size, 2.0, seed_id, wanted, other)
    path = causal_path(model, two, [Asked("1", "N", "Y"), Asked("2", "N", "Y")], seed_text="S")
    assert path.share("ablated") is None
    assert all(not row["metric"].startswith("C ") for row in path.rows(condition="x"))


def test_patching_the_first_layer_of_a_real_model_changes_the_answer(model, two):
    path = causal_path(model, two, ITEMS, seed_text=SEED, depth=0.0)
    for name in ("unseeded", "ablated", "random", "patched"):
        assert (path.margins[name] != path.margins["seeded"]).all()
    with torch.no_grad():
        ids = prompts_of(two, ITEMS[0].prompt, SEED).seeded
        logps = []
        for answer in ("yes", "no"):
            own = two.encode_text(answer)
            logp = model(torch.tensor([[*ids, *own]])).logits[0].double().log_softmax(-1)
            logps.append(sum(float(logp[len(ids) - 1 + i, t]) for i, t in enumerate(own)))
    assert path.margins["seeded"][0] == pytest.approx(logps[0] - logps[1], abs=1e-5)
    metrics = {row["metric"] for row in path.rows(condition="x")}
    assert {"margin seeded", "margin patched"} <= metrics


def test_a_seed_that_changes_nothing_is_refused(model, two):
    with pytest.raises(DataError, match="differ by 0"):
        causal_path(model, two, ITEMS, seed_text="")
    with pytest.raises(DataError, match="1 items"):
        causal_path(model, two, ITEMS[:1], seed_text=SEED)
    with pytest.raises(DataError, match="1 items"):
        gradient_gating(model, two, ITEMS[:1], seed_text=SEED)
    with pytest.raises(ConfigError, match="top=1"):
        gradient_gating(model, two, ITEMS, seed_text=SEED, top=1)


def test_circuits_of_the_formula_get_no_gradient_where_they_are_inactive():
    # y = sum_c w_c relu(u_c . x), L = -y: dL/dw_c = -relu(u_c . x), dL/du_c = -w_c 1[u_c . x > 0] x
    u = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [3.0, -4.0]], requires_grad=True)
    w = torch.tensor([0.5, 2.0, 7.0], requires_grad=True)
    x = torch.tensor([2.0, 1.0])  # u . x = 4, -1.5, 2
    (-(w * (u @ x).relu()).sum()).backward()
    assert w.grad.tolist() == [-4.0, 0.0, -2.0]
    assert u.grad.tolist() == [[-1.0, -0.5], [0.0, 0.0], [-14.0, -7.0]]


def test_an_inactive_circuit_of_a_relu_model_gets_exactly_no_gradient(two):
    model = relu_model(two)
    ids, answer = [two.end_id, *two.encode_text("a")], two.encode_text("b")
    units = read_units(model, [*ids, *answer][:-1])
    squares = unit_gradients(model, ids, answer)
    inactive = active = 0
    for layer, (unit_LU, square_U) in enumerate(zip(units, squares, strict=True)):
        # relu(gate) * up is 0 only where the gate is not above 0. Of the last layer's places only
        # the last is read by the answer.
        off = (unit_LU[-1 if layer == 1 else 0 :] == 0).all(dim=0)
        assert (square_U[off] == 0).all()
        assert (square_U[~off] > 0).all()
        inactive, active = inactive + int(off.sum()), active + int((~off).sum())
    assert inactive > 3
    assert active > 3
    smooth = relu_model(two, "silu")
    assert all((square > 0).all() for square in unit_gradients(smooth, ids, answer))


def test_a_circuit_that_the_seed_alone_switches_on_is_trained_behind_the_seed_alone(two):
    model = relu_model(two)
    seed_id = two.encode_text("S")[0]
    mlp = mlps_of(model)[0]
    with torch.no_grad():
        # Axis 0 of the embedding says that the seed is there, and the first layer hands it on.
        model.model.embed_tokens.weight[:, 0] = -1.0
        model.model.embed_tokens.weight[seed_id, 0] = 60.0
        gate = next(m for m in mlp.ins if m is model.model.layers[0].mlp.gate_proj)
        gate.weight[7] = 0.0
        gate.weight[7, 0] = 1.0
        model.model.layers[0].self_attn.o_proj.weight[0] = 0.0
    answer = two.encode_text("Y")
    bare = unit_gradients(model, [two.end_id, *two.encode_text("q")], answer)[0]
    seeded = unit_gradients(model, [two.end_id, seed_id, *two.encode_text("q")], answer)[0]
    assert bare[7] == 0.0
    assert seeded[7] > 0.0


def test_gradients_by_unit_are_those_of_autograd(two):
    model = relu_model(two, "silu")
    ids, answer = [two.end_id, *two.encode_text("ab")], two.encode_text("cd")
    squares = unit_gradients(model, ids, answer)
    assert all(parameter.grad is None for parameter in model.parameters())
    logp = model(torch.tensor([[*ids, *answer]])).logits[0].log_softmax(-1)
    (logp[2, answer[0]] + logp[3, answer[1]]).backward()
    for layer, found in zip(model.model.layers, squares, strict=True):
        mlp = layer.mlp
        for unit in (0, 11):
            total = sum(
                float((m.weight.grad[unit] ** 2).sum()) for m in (mlp.gate_proj, mlp.up_proj)
            )
            total += float((mlp.down_proj.weight.grad[:, unit] ** 2).sum())
            assert float(found[unit]) == pytest.approx(total, rel=1e-4)


def test_models_of_another_make_are_read_too(two):
    torch.manual_seed(0)
    gpt = GPT2LMHeadModel(GPT2Config(
        vocab_size=two.size, n_embd=16, n_layer=2, n_head=2, n_positions=64, n_inner=24,
        bos_token_id=0, eos_token_id=0)).eval()  # fmt: skip
    squares = unit_gradients(gpt, [two.end_id, 97], [98])
    assert [one.shape for one in squares] == [(24,), (24,)]
    gpt.zero_grad()
    logp = gpt(torch.tensor([[two.end_id, 97]])).logits[0].log_softmax(-1)
    logp[1, 98].backward()
    mlp = gpt.transformer.h[1].mlp
    expected = (mlp.c_fc.weight.grad[:, 3] ** 2).sum() + mlp.c_fc.bias.grad[3] ** 2
    expected += (mlp.c_proj.weight.grad[3] ** 2).sum()
    assert float(squares[1][3]) == pytest.approx(float(expected), rel=1e-4)
    path = causal_path(gpt, two, ITEMS, seed_text=SEED)
    assert all(math.isfinite(value) for value in path.margins["patched"])


def test_shares_of_gradients_lie_between_none_and_all(model, two):
    found = gradient_gating(model, two, ITEMS, seed_text=SEED, top=0.25)
    assert found.of == 3 * mlps_of(model)[0].out.weight.shape[1]
    assert found.units == round(0.25 * found.of)
    for one in (found.seeded, found.unseeded):
        assert 0 < one.value < 1
        assert one.n == 3
    with pytest.raises(ConfigError, match="has no MLP"):
        mlps_of(Additive(two.size, 1.0, 0, 1, 2))
    other = Additive(two.size, 1.0, 0, 1, 2)
    other.config.num_hidden_layers = 5
    with pytest.raises(ConfigError, match="no list of its 5 layers"):
        layers_of(other)

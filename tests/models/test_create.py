import pytest
import torch

from prealign.errors import ConfigError
from prealign.models.create import LlamaShape, make_model, num_parameters

SMALL = {"width": 32, "layers": 2, "heads": 4, "max_tokens": 64}


def test_the_seed_decides_the_weights_and_the_global_stream_does_not():
    torch.manual_seed(1)
    first = make_model(LlamaShape(**SMALL), 100, seed=7)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = make_model(LlamaShape(**SMALL), 100, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    other = make_model(LlamaShape(**SMALL), 100, seed=8)
    weights = [list(model.state_dict().values()) for model in (first, again, other)]
    assert all(torch.equal(a, b) for a, b in zip(*weights[:2], strict=True))
    assert not torch.equal(weights[0][0], weights[2][0])


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_formula_and_tied_ones_count_once(tied):
    shape = LlamaShape(**SMALL, kv_heads=2, mlp_width=48, tied=tied)
    attention = 32 * 32 * 2 + 32 * 16 * 2  # queries, output; keys, values of half the heads
    layer = attention + 3 * 32 * 48 + 2 * 32
    total = (1 if tied else 2) * 100 * 32 + 2 * layer + 32
    assert num_parameters(make_model(shape, 100, seed=0)) == total


def test_weights_are_float32_and_attention_is_fused():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model = make_model(LlamaShape(**SMALL), 100, seed=0)
    finally:
        torch.set_default_dtype(before)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == "sdpa"
    assert model.config.max_position_embeddings == 64


def test_the_rotary_base_reaches_the_model():
    ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
    logits = [
        make_model(LlamaShape(**SMALL, rope_theta=theta), 100, seed=0)(ids).logits
        for theta in (1e2, 1e6)
    ]
    assert not torch.allclose(*logits, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"layers": 0}, "layers=0"), ({"mlp_width": 0}, "mlp_width=0"),
        ({"heads": 5}, "width=32, heads=5"), ({"heads": 32}, "width=32, heads=32"),
        ({"kv_heads": 3}, "kv_heads=3"),
    ],
)  # fmt: skip
def test_a_shape_that_cannot_be_built_is_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        LlamaShape(**SMALL | wrong)

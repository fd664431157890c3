import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from prealign.models import llama_step
from prealign.models import sample as sampling
from prealign.models.cache import keep_rows, make_cache
from prealign.models.create import LlamaShape, make_model
from prealign.models.llama_step import LlamaStep, fits
from prealign.models.sample import Sampling, sample

SHAPES = {
    "a key for each head": LlamaShape(width=32, layers=2, heads=4, max_tokens=80),
    "shared keys": LlamaShape(width=48, layers=3, heads=6, kv_heads=2, max_tokens=80),
}


def lively(shape, size=70):
    """Return a model whose weights are far from zero."""
    model = make_model(shape, size, seed=1).eval()
    for weight in model.parameters():
        weight.data *= 4
    return model


@pytest.fixture(autouse=True, params=[0, llama_step.SMALL], ids=["apart", "stacked"])
def both_ways(request, monkeypatch):
    """Small models have their matrices stacked, large ones have not."""
    monkeypatch.setattr(llama_step, "SMALL", request.param)


def read_by_steps(model, ids_BL):
    """Return the logits behind each token from the fourth on, [rows, tokens, ids]."""
    cache, step = make_cache(model.config), LlamaStep(model, 80)
    model(input_ids=ids_BL[:, :3], past_key_values=cache, use_cache=True)
    assert fits(model, cache)
    found = []
    for at in range(3, ids_BL.shape[1]):
        found.append(step(ids_BL[:, at], cache))
        assert cache.get_seq_length() == at + 1
    return torch.stack(found, dim=1)


@torch.inference_mode()
@pytest.mark.parametrize("shape", SHAPES)
def test_each_token_has_the_logits_that_transformers_gives_it(shape):
    model = lively(SHAPES[shape])
    ids_BL = torch.randint(0, 70, (5, 70), generator=torch.Generator().manual_seed(2))
    expected = model(input_ids=ids_BL).logits[:, 3:]
    torch.testing.assert_close(read_by_steps(model, ids_BL), expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("shape", SHAPES)
def test_in_bfloat16_it_rounds_no_worse_than_transformers(shape):
    model = lively(SHAPES[shape])
    ids_BL = torch.randint(0, 70, (5, 70), generator=torch.Generator().manual_seed(2))
    exact = model(input_ids=ids_BL).logits[:, 3:]
    model.to(torch.bfloat16)
    theirs = (model(input_ids=ids_BL).logits[:, 3:] - exact).pow(2).mean().sqrt()
    ours = (read_by_steps(model, ids_BL) - exact).pow(2).mean().sqrt()
    assert 0 < float(ours) < 1.2 * float(theirs) < 0.2 * float(exact.std())


@torch.inference_mode()
def test_rows_that_are_dropped_leave_the_others_as_they_were():
    model = lively(SHAPES["shared keys"])
    ids_BL = torch.randint(0, 70, (4, 12), generator=torch.Generator().manual_seed(3))
    cache, step = make_cache(model.config), LlamaStep(model, 80)
    model(input_ids=ids_BL[:, :6], past_key_values=cache, use_cache=True)
    keep_rows(cache, torch.tensor([3, 1]))
    ids_BL = ids_BL[[3, 1]]
    for at in range(6, 12):
        found_BV = step(ids_BL[:, at], cache)
    torch.testing.assert_close(found_BV, model(input_ids=ids_BL).logits[:, -1])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_samples_are_the_same_with_it_and_without(model, vocabulary, monkeypatch, temperature):
    settings = Sampling(temperature=temperature, top_p=1.0, max_text_tokens=40, batch_rows=7)
    prompts = [vocabulary.encode_text("def half(x):\n    return"[:n]) for n in range(1, 21)]
    steps = []
    real = LlamaStep.__call__
    monkeypatch.setattr(
        LlamaStep, "__call__", lambda self, *args: steps.append(1) or real(self, *args)
    )

    def written():
        return sample(model, prompts, settings, seeds=range(20), vocabulary=vocabulary)

    own = written()
    assert steps
    monkeypatch.setattr(sampling, "fits", lambda model, cache: False)
    steps.clear()
    assert own == written()
    assert not steps


def hooked(model):
    model.model.layers[1].register_forward_hook(lambda *_: None)


def hooked_before(model):
    model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: None)


def patched(model):
    model.model.layers[0].mlp.forward = lambda x: x


def adapted(model):
    attention = model.model.layers[0].self_attn
    attention.q_proj = nn.Sequential(attention.q_proj)


def biased(model):
    mlp = model.model.layers[0].mlp
    mlp.up_proj = nn.Linear(mlp.up_proj.in_features, mlp.up_proj.out_features)


def parametrized(model):
    nn.utils.parametrizations.weight_norm(model.model.layers[0].mlp.up_proj)


def other_activation(model):
    model.config.hidden_act = "gelu"


def scaled_positions(model):
    model.config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}


@pytest.mark.parametrize(
    "change",
    [hooked, hooked_before, patched, adapted, biased, parametrized, other_activation,
     scaled_positions],
)  # fmt: skip
def test_a_model_that_is_not_quite_its_own_is_left_to_transformers(change):
    model = lively(SHAPES["shared keys"])
    assert fits(model, make_cache(model.config))
    change(model)
    assert not fits(model, make_cache(model.config))


def test_other_models_and_autocast_are_left_to_transformers():
    other = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20))
    assert not fits(other, make_cache(other.config))
    model = lively(SHAPES["shared keys"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not fits(model, make_cache(model.config))

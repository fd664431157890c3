import pytest
import torch
from transformers import LlamaForCausalLM

from prealign.errors import DataError
from prealign.models.create import LlamaShape, make_model
from prealign.models.resize import add_tags

IDS = torch.tensor([[1, 5, 9, 200, 17]])


def old_model(rows, *, tied):
    shape = LlamaShape(width=32, layers=1, heads=2, max_tokens=64, tied=tied)
    model = make_model(shape, rows, seed=0).eval()
    assert isinstance(model, LlamaForCausalLM)
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("padding", [0, 1, 50])
def test_old_logits_are_the_same_and_tags_get_rows(vocabulary, tied, padding):
    text = vocabulary.text_size
    model = old_model(text + padding, tied=tied)
    before = model(IDS).logits[..., :text]
    weights = {k: v[:text].clone() for k, v in model.state_dict().items()}
    grown = add_tags(model, vocabulary, seed=1)
    after = grown(IDS).logits
    assert after.shape[-1] == vocabulary.size == grown.config.vocab_size
    assert torch.equal(after[..., :text], before)
    assert all(torch.equal(v[:text], weights[k]) for k, v in grown.state_dict().items())
    same = grown.lm_head.weight is grown.model.embed_tokens.weight
    assert same == tied


def test_new_rows_are_near_the_mean_of_the_text_rows_and_differ(vocabulary):
    text = vocabulary.text_size
    model = old_model(text + 9, tied=False)
    model.model.embed_tokens.weight.data[text:] = 1e6  # padding rows must not count
    model.lm_head.weight.data[:] += 3
    add_tags(model, vocabulary, seed=1)
    for layer in (model.model.embed_tokens, model.lm_head):
        noise = (layer.weight[text:] - layer.weight[:text].mean(0)).detach()
        assert 0.008 < float(noise.std()) < 0.012
        assert abs(float(noise.mean())) < 0.004
        assert noise.unique(dim=0).shape[0] == vocabulary.size - text


def test_the_noise_comes_from_the_seed_alone(vocabulary):
    rows = []
    for global_seed, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(global_seed)
        model = add_tags(old_model(vocabulary.text_size, tied=True), vocabulary, seed=seed)
        rows.append(model.lm_head.weight[vocabulary.text_size :])
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_a_model_of_another_tokenizer_is_refused(vocabulary):
    with pytest.raises(DataError, match=f"has 100 rows.*{vocabulary.text_size} ids"):
        add_tags(old_model(100, tied=True), vocabulary, seed=0)

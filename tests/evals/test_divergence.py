"""Forward KL: nothing from itself, the exact sum from a known distribution, tags not charged."""

import numpy as np
import pytest
import torch

from prealign.errors import ConfigError
from prealign.evals.divergence import forward_kl, reference_samples, text_logp
from prealign.models.create import LlamaShape, make_model
from prealign.models.fake import BiasedModel


def test_a_model_does_not_differ_from_itself(model, vocabulary):
    samples = reference_samples(model, vocabulary, count=4, max_text_tokens=12)
    found = forward_kl(model, model, vocabulary, samples)
    assert found.value == found.low == found.high == 0.0
    assert found.n == 4


def test_the_estimate_is_the_exact_sum_where_that_is_known(vocabulary):
    """Two models that ignore the context: KL per token is a sum over the vocabulary."""
    p_model = BiasedModel(vocabulary.size, {5: 6.0, 9: 5.5, vocabulary.end_id: 2.0})
    q_model = BiasedModel(vocabulary.size, {5: 5.0, 9: 6.0, vocabulary.open_id("good"): 9.0})
    samples = reference_samples(p_model, vocabulary, count=200, max_text_tokens=30, seed=1)
    found = forward_kl(p_model, q_model, vocabulary, samples)
    text = np.arange(vocabulary.end_id + 1)  # tags and the inert id are left out of both
    p, q = (np.exp(m.logits_V.double().numpy()[text]) for m in (p_model, q_model))
    p, q = p / p.sum(), q / q.sum()
    per_token = float((p * np.log(p / q)).sum())
    tokens = sum(len(one) - 1 for one in samples)
    size = sum(int(vocabulary.token_bytes[[t for t in one if t < vocabulary.text_size]].sum())
               for one in samples)  # fmt: skip
    assert found.low <= per_token * tokens / size <= found.high
    assert found.low > 0
    assert found.high - found.low < 0.3 * found.value


def test_samples_have_no_tags_and_an_end_where_the_model_ended(vocabulary):
    eager = BiasedModel(vocabulary.size, {vocabulary.end_id: 7.0, vocabulary.open_id("bad"): 20.0})
    samples = reference_samples(eager, vocabulary, count=40, max_text_tokens=5)
    assert all(one[0] == vocabulary.end_id for one in samples)
    assert any(one[-1] == vocabulary.end_id and len(one) > 1 for one in samples)
    inside = {token for one in samples for token in one[1:-1]}
    assert all(token < vocabulary.text_size for token in inside)


def test_tags_are_read_at_each_line_and_not_counted(vocabulary):
    """By hand: what is read, which places are counted, and where the end is asked for."""
    shape = LlamaShape(width=16, layers=1, heads=2, max_tokens=64)
    reader = make_model(shape, vocabulary.size, seed=1)
    newline = min(vocabulary.newline_ids)
    good, end = vocabulary.open_id("good"), vocabulary.end_id
    ids = [end, 7, newline, 8, newline, end]
    read = [end, good, 7, newline, good, 8, newline, good, end]
    with torch.inference_mode():
        logits = reader(input_ids=torch.tensor([read])).logits[0].double()
    among_all = logits.softmax(-1).numpy()
    text = logits[:, : end + 1].softmax(-1).numpy()
    first, second = among_all[3, end], among_all[6, end]  # behind each newline, before the tag
    expected = [
        text[1, 7],
        text[2, newline],
        (1 - first) * text[4, 8],
        text[5, newline],
        second + (1 - second) * text[7, end],
    ]
    assert text_logp(reader, ids, good, vocabulary) == pytest.approx(np.log(expected), abs=1e-5)
    without = text_logp(reader, ids, None, vocabulary)
    assert len(without) == 5
    assert not np.allclose(without, np.log(expected), atol=1e-3)


def test_at_a_line_the_outcomes_have_the_whole_probability(vocabulary):
    """So the divergence of a model that says its tag is never below 0, whatever it says of ends."""
    newline, good = min(vocabulary.newline_ids), vocabulary.open_id("good")
    end = vocabulary.end_id
    sure = BiasedModel(vocabulary.size, {good: 9.0, end: 7.0, 5: 6.0})
    outcomes = [*range(vocabulary.text_size), end]
    logp = [text_logp(sure, [end, 5, newline, one], good, vocabulary)[-1] for one in outcomes]
    assert np.exp(logp).sum() == pytest.approx(1, abs=1e-6)


def test_no_text_is_no_estimate(model, vocabulary):
    with pytest.raises(ConfigError, match="0 samples hold no text"):
        forward_kl(model, model, vocabulary, [])

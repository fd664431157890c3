import math

import numpy as np
import pytest
import torch

from prealign.errors import ConfigError, DataError, GuardError
from prealign.evals.monitor import logits_of, read_texts, stacked
from prealign.guard.gate import Guard
from prealign.guard.policy import Policy, Rule, stay
from prealign.guard.table import table_of
from prealign.models.fake import BiasedModel
from prealign.models.sample import Sampling, sample
from prealign.text.scheme import TWO_MODES
from prealign.tokens.vocabulary import Vocabulary


def texts_of(vocabulary, lengths):
    random = np.random.default_rng(0)
    begin = [vocabulary.end_id, vocabulary.open_id("good")]
    size = vocabulary.text_size
    return [[*begin, *random.integers(0, size, n).tolist()] for n in lengths]


def test_numbers_worked_by_hand(vocabulary):
    # Two ids with weight 3, the others 1: the tag has 3 / (size + 4).
    bad = vocabulary.open_id("bad")
    model = BiasedModel(vocabulary.size, {bad: math.log(3), 5: math.log(3)})
    table = table_of(vocabulary, stay(vocabulary.scheme))
    (found,) = read_texts(model, [[vocabulary.end_id, 5, 6]], [bad, 7], table=table)
    total = vocabulary.size + 4
    assert found.ids_L.tolist() == [5, 6]
    assert np.exp(found.logp_L) == pytest.approx([3 / total, 1 / total])
    assert np.exp(found.watched_LW) == pytest.approx(np.array([[3 / total, 1 / total]] * 2))
    # Denied are both tags and the inert id: 3 + 1 + 1.
    assert found.pressure_L == pytest.approx([5 / total] * 2)


def test_pressure_of_a_sample_is_what_the_guard_recorded_when_it_was_drawn(model, vocabulary):
    table = table_of(vocabulary, stay(vocabulary.scheme, may_end=False))
    guard = Guard(table)
    prompt = [vocabulary.end_id, vocabulary.open_id("bad")]
    settings = Sampling(temperature=1, top_p=1, max_text_tokens=20)
    (one,) = sample(model, [prompt], settings, seeds=[3], vocabulary=vocabulary, guard=guard)
    (found,) = read_texts(model, [[*prompt, *one.ids]], [], table=table)
    assert found.pressure_L is not None
    assert found.pressure_L[1:] == pytest.approx(guard.pressure(), abs=1e-6)


def test_a_full_span_and_an_enclosing_mode_are_seen_as_the_guard_sees_them(vocabulary):
    two = Vocabulary(vocabulary.tokenizer, TWO_MODES)
    policy = Policy(
        name="short",
        rules=(
            Rule(mode="", text=False, ends=True, opens=("ai",)),
            Rule(mode="ai", closes=True, longest=2),
        ),
    )
    table = table_of(two, policy)
    model = BiasedModel(two.size)
    read = [two.end_id, two.tag_ids["<ai>"], 1, 2]
    guard = Guard(table)
    (found,) = read_texts(model, [[*read, two.tag_ids["</ai>"]]], [], table=table)
    for at in range(1, 5):
        guard.mask(torch.zeros(1, two.size), [guard.scan(read[:at])])
    assert found.pressure_L == pytest.approx(guard.pressure(), abs=1e-6)
    assert found.pressure_L[-1] == pytest.approx(1 - 1 / two.size)  # nothing but to close
    with pytest.raises(GuardError, match="cannot stand"):
        read_texts(model, [[two.end_id, two.tag_ids["<quote>"], 1]], [], table=table)


def test_a_reading_does_not_depend_on_its_batch(model, vocabulary):
    texts = texts_of(vocabulary, [1, 30, 7, 7, 19, 2])
    watched = list(vocabulary.tag_ids.values())
    together = read_texts(model, texts, watched)
    for text, one in zip(texts, together, strict=True):
        assert one.ids_L.tolist() == text[1:]
        (alone,) = read_texts(model, [text], watched, batch_tokens=1)
        np.testing.assert_allclose(one.watched_LW, alone.watched_LW, atol=1e-5)
        np.testing.assert_allclose(one.logp_L, alone.logp_L, atol=1e-5)
        logits = model(input_ids=torch.tensor([text])).logits[0].double().log_softmax(-1)
        own = logits[torch.arange(len(text) - 1), text[1:]]
        np.testing.assert_allclose(one.logp_L, own.detach(), atol=1e-5)


def test_batches_hold_no_more_tokens_than_asked_for(vocabulary):
    seen = []

    class Watching(BiasedModel):
        def forward(self, input_ids, **rest):
            seen.append(input_ids.shape)
            return super().forward(input_ids, **rest)

    texts = texts_of(vocabulary, [3, 9, 5, 40, 4])
    found = dict(logits_of(Watching(vocabulary.size), texts, batch_tokens=20))
    assert {i: len(logits) for i, logits in found.items()} == {0: 4, 1: 10, 2: 6, 3: 41, 4: 5}
    assert all(rows * tokens <= 20 or rows == 1 for rows, tokens in seen)
    assert [tuple(shape) for shape in seen] == [(3, 6), (1, 10), (1, 41)]


def test_readings_as_arrays(model, vocabulary):
    table = table_of(vocabulary, stay(vocabulary.scheme))
    readings = read_texts(model, texts_of(vocabulary, [3, 5]), [1, 2, 3], table=table)
    arrays = stacked(readings)
    assert {name: array.shape for name, array in arrays.items()} == {
        "offsets": (3,), "ids": (10,), "logp": (10,), "watched": (10, 3), "pressure": (10,),
    }  # fmt: skip
    second = slice(*arrays["offsets"][1:])
    np.testing.assert_array_equal(arrays["watched"][second], readings[1].watched_LW)
    assert "pressure" not in stacked([one._replace(pressure_L=None) for one in readings])
    with pytest.raises(DataError, match="2 readings, 1 of them"):
        stacked([readings[0], readings[1]._replace(pressure_L=None)])


def test_what_cannot_be_read_is_refused(model, vocabulary):
    end = vocabulary.end_id
    with pytest.raises(DataError, match="has 1 ids"):
        read_texts(model, [[end]], [])
    with pytest.raises(DataError, match="expected 2 to 65"):
        read_texts(model, [[end, *[1] * 65]], [])
    with pytest.raises(DataError, match=f"id {vocabulary.size} is not"):
        read_texts(model, [[end, vocabulary.size]], [])
    with pytest.raises(ConfigError, match="watched id -1"):
        read_texts(model, [[end, 1]], [-1])
    with pytest.raises(DataError, match="NaN or infinite"):
        read_texts(BiasedModel(vocabulary.size, {3: math.nan}), [[end, 1]], [])
    other = BiasedModel(vocabulary.size + 1)
    table = table_of(vocabulary, stay(vocabulary.scheme))
    with pytest.raises(DataError, match="from the model's own vocabulary"):
        read_texts(other, [[end, 1]], [], table=table)

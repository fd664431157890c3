"""Multiple choice behind any layout: the same numbers as read in full, at half the price."""

import numpy as np
import pytest
import torch

from prealign.errors import DataError
from prealign.evals.chat_choices import chat_margins
from prealign.evals.choices import Asked, Item, margins, prompt_ids
from prealign.models.create import LlamaShape, make_model
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

VOCABULARY = Vocabulary(train_text_tokenizer(["ab cd"], size=256), TWO_MODES)
ITEMS = [
    Item("one", (Asked("what is it? (", "A", "B"), Asked("what is that? (", "B", "A"))),
    Item("two", (Asked("who?", " yes, he", " no"),)),
    Item("three", (Asked("say ", "abc", "abd"), Asked("say it ", "abcx", "aby"))),
]


@pytest.fixture(scope="module")
def model():
    shape = LlamaShape(width=32, layers=2, heads=2, max_tokens=64)
    found = make_model(shape, VOCABULARY.size, seed=1)
    with torch.no_grad():  # so that probabilities are not all alike
        found.get_output_embeddings().weight.mul_(8)
    return found


def front(text):
    return prompt_ids(VOCABULARY, text)


def test_margins_are_those_of_whole_answers(model):
    ours = chat_margins(model, ITEMS, front, VOCABULARY.encode_text)
    full = margins(model, VOCABULARY, ITEMS)
    # Both answers of one length that differ in one token: what follows it is the same for both.
    for own, theirs in zip(ours.summed[0], full.summed[0], strict=True):
        assert own == pytest.approx(theirs, abs=1e-4)
    assert ours.summed[2][0] == pytest.approx(full.summed[2][0], abs=1e-4)
    assert ours.per_token[2][0] == pytest.approx(full.per_token[2][0], abs=1e-4)
    assert ours.per_token[0] == pytest.approx(full.per_token[0], abs=1e-4)
    assert max(abs(own).max() for own in ours.summed) > 0.05


def test_answers_that_differ_in_length_are_read_in_full(model):
    one = [ITEMS[1]]
    ours = chat_margins(model, one, front, VOCABULARY.encode_text)
    logp = []
    for answer in (" yes, he", " no"):
        ids = [*front("who?"), *VOCABULARY.encode_text(answer)]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        size = len(VOCABULARY.encode_text(answer))
        logp.append(sum(float(logits[len(ids) - size - 1 + i, ids[len(ids) - size + i]])
                        for i in range(size)))  # fmt: skip
    assert ours.summed[0][0] == pytest.approx(logp[0] - logp[1], abs=1e-4)


def test_numbers_do_not_depend_on_what_is_asked_besides(model):
    many = chat_margins(model, ITEMS * 8, front, VOCABULARY.encode_text)
    alone = chat_margins(model, ITEMS, front, VOCABULARY.encode_text)
    assert np.allclose(many.item_means[:3], alone.item_means, atol=1e-5)
    assert np.allclose(many.item_means[-3:], alone.item_means, atol=1e-5)


def test_small_margins_are_no_ties_in_bf16(model):
    items = [Item(str(i), (Asked(f"q{i} (", "A", "B"),)) for i in range(30)]
    found = chat_margins(model, items, front, VOCABULARY.encode_text, bf16=True)
    exact = chat_margins(model, items, front, VOCABULARY.encode_text)
    assert len(set(found.item_means)) == 30
    assert np.corrcoef(found.item_means, exact.item_means)[0, 1] > 0.9


def test_what_cannot_be_asked_is_told(model):
    with pytest.raises(DataError, match="no items"):
        chat_margins(model, [], front, VOCABULARY.encode_text)
    long = [Item("long", (Asked("x" * 80, "A", "B"),))]
    with pytest.raises(DataError, match="question 0 has 81 ids, 81 in front of its answer"):
        chat_margins(model, long, front, VOCABULARY.encode_text)

"""P(IK) and P(True): what a head learns, where it looks, and what a file of it must be."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from prealign.corpora.worlds.facts import Fact, check
from prealign.errors import DataError
from prealign.evals.choices import prompt_ids
from prealign.evals.knowing import Given, Tries
from prealign.evals.p_ik import fit_head, last_states, load_head, next_entropy, peaks
from prealign.evals.p_true import Proposal, p_true, proposals, sigmoid
from prealign.models.create import LlamaShape, make_model
from prealign.models.fake import BiasedModel
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

VOCABULARY = Vocabulary(train_text_tokenizer(["True False ab cd"], size=256), TWO_MODES)
RIGHT, WRONG, SILENT = Given("right", "a"), Given("wrong", "b"), Given("abstained")


@pytest.fixture(scope="module")
def model():
    shape = LlamaShape(width=32, layers=2, heads=2, max_tokens=64)
    return make_model(shape, VOCABULARY.size, seed=1)


def sampled(chances, *, times, seed):
    random = np.random.default_rng(seed)
    return [Tries(tuple(RIGHT if r < p else WRONG for r in random.random(times))) for p in chances]


def test_states_are_those_of_the_last_token_whatever_stands_beside(model):
    prompts = [prompt_ids(VOCABULARY, text) for text in ("ab cd ab", "cd", "ab")]
    together = last_states(model, prompts)
    assert together.shape == (3, 32)
    for ids, own in zip(prompts, together, strict=True):
        with torch.no_grad():
            whole = model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        assert torch.allclose(own, whole, atol=1e-5)
    with pytest.raises(DataError, match="empty or too long"):
        last_states(model, [[1], []])


def test_a_head_learns_the_share_and_says_it_of_new_questions():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1_200, 8, generator=generator)
    chances = torch.sigmoid(2 * states[:, 0] - 1).tolist()
    tries = sampled(chances, times=10, seed=1)
    tries[0] = Tries((SILENT,) * 10)  # nobody tries: it is left out
    head = fit_head(states[:800], tries[:800], groups=np.arange(800) // 4, seed=3)
    found = head(states[800:])
    assert float(np.abs(found - np.array(chances[800:])).mean()) < 0.05
    again = fit_head(states[:800], tries[:800], groups=np.arange(800) // 4, seed=3)
    assert np.array_equal(again(states[800:]), found)


def test_a_head_of_noise_says_the_mean():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(400, 8, generator=generator)
    head = fit_head(states, sampled([0.3] * 400, times=5, seed=2), groups=np.arange(400))
    assert float(np.abs(head(states) - 0.3).mean()) < 0.08


def test_a_head_is_saved_and_loaded(tmp_path):
    states = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    head = fit_head(states, sampled([0.5] * 40, times=5, seed=2), groups=np.arange(40))
    head.save(tmp_path / "p_ik.safetensors")
    assert np.array_equal(load_head(tmp_path / "p_ik.safetensors")(states), head(states))
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="expected 'prealign P"):
        load_head(tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="cannot be read"):
        load_head(tmp_path / "missing.safetensors")


def test_states_that_do_not_fit_are_refused():
    states = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    tries = sampled([0.5] * 40, times=5, seed=2)
    head = fit_head(states, tries, groups=np.arange(40))
    with pytest.raises(DataError, match="rows of 8"):
        head(states[:, :4])
    with pytest.raises(DataError, match="NaN"):
        head(states * float("nan"))
    with pytest.raises(DataError, match="1 groups"):
        fit_head(states, tries, groups=np.zeros(40))
    with pytest.raises(DataError, match="40 states, 3 questions"):
        fit_head(states, tries[:3], groups=np.arange(40))


def test_next_entropy_leaves_out_what_an_abstention_begins_with(model):
    prompts = [prompt_ids(VOCABULARY, "ab")]
    states = last_states(model, prompts)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(prompts)).logits[0, -1].double()
    logits[5] = -math.inf
    p = logits.softmax(-1)
    p = p[p > 0]
    (found,) = next_entropy(model, states, without=5)
    assert found == pytest.approx(float(-(p * p.log()).sum()), abs=1e-5)
    (high,) = peaks(model, states, without=5, count=3)
    assert high.tolist() == pytest.approx(sorted(p.log().tolist())[:-4:-1], abs=1e-5)


def test_a_proposal_is_the_first_try_with_the_others_shown():
    first = Tries((SILENT, Given("wrong", "x"), Given("right", "y"), Given("right", "z")))
    alone = Tries((SILENT, Given("right", "y"), SILENT, SILENT))
    found = proposals([first, Tries((SILENT,)), alone], shown=3)
    assert found == [Proposal(0, "x", ("y", "z", "y"), False), Proposal(2, "y", ("y",) * 3, True)]
    assert proposals([first], shown=0)[0].shown == ()


def test_p_true_is_the_share_of_the_word_for_true():
    """A model that gives T twice the odds of F at each place."""
    t, f = (VOCABULARY.encode_text(text)[0] for text in ("T", "F"))
    model = BiasedModel(VOCABULARY.size, {t: math.log(2.0)})
    prompts = [partial(check, Fact("Barmo", "town", "Corby", 1, "test"))] * 2
    given = [Proposal(1, "Corby", ("Elton",), True), Proposal(0, "Elton", (), False)]
    found = p_true(model, VOCABULARY, given, prompts, words=("T", "F"))
    assert found.scores == pytest.approx([2 / 3, 2 / 3])
    assert found.labels.tolist() == [True, False]
    assert found.questions.tolist() == [1, 0]
    assert t != f
    with pytest.raises(DataError, match="no answer is proposed"):
        p_true(model, VOCABULARY, [], prompts)


def test_sigmoid_holds_at_the_ends():
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]

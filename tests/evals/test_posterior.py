import itertools
import math

import numpy as np
import pytest
import torch

from prealign.errors import ConfigError, DataError
from prealign.evals.posterior import Chain, branch_logp, chain_of, cusum, mode_posterior
from prealign.models.fake import BiasedModel, FakeOutput
from prealign.text.scheme import TWO_MODES
from prealign.tokens.vocabulary import Vocabulary

CHAIN = Chain(
    np.array([0.7, 0.2, 0.1]), np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0, 0.5, 0.5]])
)


class TwoVoices(BiasedModel):
    """Behind each mode's tag only some words can be, and the one before is likelier."""

    def __init__(self, vocabulary, words):
        super().__init__(vocabulary.size)
        self.first_tag = vocabulary.end_id + 1
        self.words = words

    def forward(self, input_ids, **_):
        logits = torch.full((*input_ids.shape, self.config.vocab_size), -30.0)
        for b, row in enumerate(input_ids.tolist()):
            mode, last = None, None
            for at, token in enumerate(row):
                if token - self.first_tag in range(len(self.words)):
                    mode = token - self.first_tag
                if mode is not None:
                    logits[b, at, self.words[mode]] = 0.0
                    logits[b, at, self.first_tag :] = 3.0  # mass on tags, of which none is text
                    if last in self.words[mode]:
                        logits[b, at, last] = 1.0
                last = token
        return FakeOutput(logits)


def brute(emission, chain, change):
    """Return filtered, smoothed and log p by going through all sequences of modes."""
    L, M = emission.shape
    filtered, smoothed = np.zeros((L, M)), np.zeros((L, M))

    def weight(modes):
        p = chain.start_M[modes[0]] * math.exp(emission[0, modes[0]])
        for t in range(1, len(modes)):
            stays = float(modes[t] == modes[t - 1])
            p *= chain.move_MM[modes[t - 1], modes[t]] if change[t] else stays
            p *= math.exp(emission[t, modes[t]])
        return p

    for upto in range(1, L + 1):
        for modes in itertools.product(range(M), repeat=upto):
            filtered[upto - 1, modes[-1]] += weight(modes)
            if upto == L:
                for t, mode in enumerate(modes):
                    smoothed[t, mode] += weight(modes)
    return (
        filtered / filtered.sum(1, keepdims=True),
        smoothed / smoothed.sum(1, keepdims=True),
        math.log(filtered[-1].sum()),
    )


@pytest.mark.parametrize("borders", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_recursions_equal_a_sum_over_all_sequences_of_modes(seed, borders):
    random = np.random.default_rng(seed)
    emission = -random.exponential(2, (6, 3))
    emission[random.random((6, 3)) < 0.1] = -np.inf
    change = random.random(6) < 0.5 if borders else np.ones(6, bool)
    filtered, smoothed, logp = brute(emission, CHAIN, change)
    found = mode_posterior(emission, CHAIN, may_change_L=change if borders else None)
    np.testing.assert_allclose(np.exp(found.filtered_LM), filtered, atol=1e-12)
    np.testing.assert_allclose(np.exp(found.smoothed_LM), smoothed, atol=1e-12)
    assert found.logp == pytest.approx(logp, abs=1e-12)


def test_long_texts_stay_normalised():
    emission = np.random.default_rng(0).normal(-400, 30, (5000, 3))
    found = mode_posterior(emission, CHAIN)
    for logs in found.filtered_LM, found.smoothed_LM:
        np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(found.smoothed_LM[-1], found.filtered_LM[-1])
    assert math.isfinite(found.logp)


def test_the_model_s_branches_give_the_brute_force_posterior_too(model, vocabulary):
    text = [3, 77, 20, 5]
    chain = Chain(np.array([0.5, 0.5]), np.array([[0.9, 0.1], [0.2, 0.8]]))
    (emission,) = branch_logp(model, vocabulary, [text], ["good", "bad"])
    for m, mode in enumerate(["good", "bad"]):
        read = torch.tensor([[vocabulary.end_id, vocabulary.open_id(mode), *text]])
        logits = model(input_ids=read).logits[0].double().detach()
        logits[:, list(vocabulary.tag_ids.values())] = -torch.inf
        logits[:, vocabulary.inert_id] = -torch.inf
        own = logits.log_softmax(-1)[range(1, 5), text]
        np.testing.assert_allclose(emission[:, m], own, atol=1e-5)
    filtered, smoothed, logp = brute(emission, chain, np.ones(4, bool))
    found = mode_posterior(emission, chain)
    np.testing.assert_allclose(np.exp(found.filtered_LM), filtered, atol=1e-12)
    np.testing.assert_allclose(np.exp(found.smoothed_LM), smoothed, atol=1e-12)
    assert found.logp == pytest.approx(logp)


def test_disjoint_words_give_certainty_and_the_border(vocabulary):
    words = [[10, 11, 12], [20, 21, 22]]
    text = [10, 12, 11, 10, 21, 22, 20, 21, 11, 12]
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 1, 0, 0])
    fake = TwoVoices(vocabulary, words)
    (emission,) = branch_logp(fake, vocabulary, [text], ["good", "bad"])
    chain = chain_of([truth], 2)
    found = mode_posterior(emission, chain)
    for logs in found.filtered_LM, found.smoothed_LM:
        assert (logs.argmax(axis=1) == truth).all()
        assert np.exp(logs.max(axis=1)).min() > 0.999999
    changes = cusum(emission[:, 1] - emission[:, 0], threshold=5)
    assert [(one.begins, one.alarm, one.to) for one in changes] == [(4, 4, 1), (8, 8, 0)]


def test_known_borders_write_the_tag_again_and_allow_changes_only_there(vocabulary):
    seen = []

    class Watching(BiasedModel):
        def forward(self, input_ids, **rest):
            seen.extend(input_ids.tolist())
            return super().forward(input_ids, **rest)

    good = vocabulary.open_id("good")
    fake = Watching(vocabulary.size, {7: 2.0})
    (emission,) = branch_logp(fake, vocabulary, [[7, 8, 7]], ["good"], borders=[[0, 2]])
    assert seen == [[vocabulary.end_id, good, 7, 8, good]]
    total = vocabulary.size - 3 - 1 + math.exp(2)  # without two tags and the inert id
    assert np.exp(emission[:, 0]) == pytest.approx(
        [math.exp(2) / total, 1 / total, math.exp(2) / total]
    )

    # Within a span all tokens speak for one mode.
    emission = np.log([[0.6, 0.4], [0.4, 0.6], [0.4, 0.6], [0.9, 0.1]])
    chain = Chain(np.array([0.5, 0.5]), np.array([[0.5, 0.5], [0.5, 0.5]]))
    found = mode_posterior(emission, chain, may_change_L=[True, False, False, True])
    assert (found.smoothed_LM.argmax(axis=1) == [1, 1, 1, 0]).all()
    first = 0.4 * 0.6 * 0.6
    assert np.exp(found.smoothed_LM[0, 1]) == pytest.approx(first / (first + 0.6 * 0.4 * 0.4))


def test_an_enclosed_mode_is_read_inside_its_outer_ones(vocabulary):
    two = Vocabulary(vocabulary.tokenizer, TWO_MODES)
    seen = []

    class Watching(BiasedModel):
        def forward(self, input_ids, **rest):
            seen.extend(input_ids.tolist())
            return super().forward(input_ids, **rest)

    branch_logp(Watching(two.size), two, [[7]], ["human", "quote"])
    ids = two.tag_ids
    # The last id is never read; the shorter row is padded.
    assert seen == [[two.end_id, ids["<human>"], 0], [two.end_id, ids["<ai>"], ids["<quote>"]]]
    with pytest.raises(ConfigError, match="encloses"):
        branch_logp(Watching(two.size), two, [[7, 8]], ["ai"], borders=[[1]])


def test_a_chain_counted_by_hand():
    chain = chain_of([[0, 0, 1], [1], [0, 1, 1], []], 2, pseudo=1)
    assert chain.start_M == pytest.approx([3 / 5, 2 / 5])
    assert chain.move_MM == pytest.approx(np.array([[2 / 5, 3 / 5], [1 / 3, 2 / 3]]))
    with pytest.raises(DataError, match="expected 0 to 1"):
        chain_of([[0, 2]], 2)
    with pytest.raises(DataError, match="no unit"):
        chain_of([[]], 2)
    with pytest.raises(ConfigError, match="pseudo=0"):
        chain_of([[0, 0]], 2, pseudo=0)
    with pytest.raises(ConfigError, match="pseudo=-1"):
        chain_of([[0, 1]], 2, pseudo=-1)


def test_cusum_worked_by_hand():
    gains = [-1, -1, 2, -1, 2, 2, -3, -3, 1]
    # 0, 0, 2, 1, 3, 5 > 4: alarm at 5, from 2 on. Then the other way: 3, 6 > 4: from 6, alarm at 7.
    assert cusum(gains, threshold=4) == [(2, 5, 1), (6, 7, 0)]
    assert cusum(gains, threshold=100) == []
    assert cusum([1, 1, 1], threshold=1.5, drift=1) == []
    assert cusum([], threshold=1) == []
    with pytest.raises(ConfigError, match="threshold=0"):
        cusum([1], threshold=0)
    with pytest.raises(DataError, match="gain 1 is NaN"):
        cusum([1, math.nan], threshold=1)


@pytest.mark.parametrize(
    ("emission", "chain", "words"),
    [
        ([[0.0, 0.0]], CHAIN, "a chain of 3 modes"),
        (np.zeros((0, 3)), CHAIN, "one token at least"),
        ([[0, 0, math.nan]], CHAIN, "NaN"),
        ([[0, 0, math.inf]], CHAIN, "inf"),
        ([[-math.inf] * 3], CHAIN, "token 0 is impossible"),
        ([[0, 0, 0]], CHAIN._replace(start_M=np.array([0.5, 0.6, 0.1])), "sum to 1"),
        ([[0, 0, 0]], CHAIN._replace(start_M=np.array([-0.5, 1.4, 0.1])), "negative"),
        ([[0, 0, 0]], CHAIN._replace(start_M=np.array([math.nan, 0.9, 0.1])), "sum to 1"),
    ],
)
def test_what_is_no_posterior_is_refused(emission, chain, words):
    with pytest.raises((DataError, ConfigError), match=words):
        mode_posterior(emission, chain)


def test_texts_are_checked(vocabulary):
    fake = BiasedModel(vocabulary.size)
    for texts, borders, words in [
        ([[]], None, "text 0: is empty"),
        ([[1], [vocabulary.end_id]], None, "text 1: id"),
        ([[1, 2]], [[2]], "expected 0 to 1"),
    ]:
        with pytest.raises(DataError, match=words):
            branch_logp(fake, vocabulary, texts, ["good"], borders=borders)
    with pytest.raises(ConfigError, match="no modes"):
        branch_logp(fake, vocabulary, [[1]], [])
    with pytest.raises(ConfigError, match="2 lists"):
        branch_logp(fake, vocabulary, [[1]], ["good"], borders=[[], []])

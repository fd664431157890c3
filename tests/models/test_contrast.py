import math

import numpy as np
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from prealign.errors import ConfigError, DataError
from prealign.guard.canary import check_path
from prealign.guard.gate import Guard
from prealign.guard.policy import reemit, stay
from prealign.guard.table import table_of
from prealign.models.cache import keep_rows, make_cache
from prealign.models.contrast import DROPPED, Contrast, between, classifier_free, contrast
from prealign.models.fake import BiasedModel, FakeOutput
from prealign.models.sample import Sampling, sample
from prealign.text.scheme import TWO_MODES
from prealign.tokens.vocabulary import Vocabulary

DRAWN = Sampling(temperature=1, top_p=0.95, max_text_tokens=24)
GREEDY = Sampling(temperature=0, max_text_tokens=12)
INF = math.inf


class ByTag(BiasedModel):
    """Known logits behind each tag, and others where no tag was read; the last tag counts."""

    def __init__(self, vocab_size, logits_of):
        super().__init__(vocab_size)
        self.logits_of = {tag: torch.tensor(row) for tag, row in logits_of.items()}

    def forward(self, input_ids, *, logits_to_keep=0, attention_mask=None, **_):
        rows = []
        for b, row in enumerate(input_ids.tolist()):
            start = 0 if attention_mask is None else attention_mask.shape[1] - len(row)
            own, now = [], self.logits_of[None]
            for at, token in enumerate(row):
                seen = attention_mask is None or bool(attention_mask[b, start + at])
                now = self.logits_of.get(token, now) if seen else now
                own.append(now)
            rows.append(torch.stack(own))
        logits = torch.stack(rows)
        return FakeOutput(logits[:, -(logits_to_keep or logits.shape[1]) :])


def prompts_of(vocabulary, lengths):
    random = np.random.default_rng(0)
    begin = [vocabulary.end_id, vocabulary.open_id("good")]
    size = vocabulary.text_size
    return [[*begin, *random.integers(0, size, n).tolist()] for n in lengths]


def guard_of(vocabulary):
    return Guard(table_of(vocabulary, stay(vocabulary.scheme)))


def test_numbers_worked_by_hand():
    fake = ByTag(4, {None: [0.0] * 4, 2: [1.0, 2.0, 0.0, -1.0], 3: [3.0, -1.0, 0.0, -1.0]})
    out = Contrast(fake, {2: 3}, alpha=0.5)(torch.tensor([[0, 2]]))
    assert out.logits.tolist() == [[[0, 0, 0, 0], [0.0, 3.5, 0.0, -1.0]]]
    guided = Contrast(fake, {2: DROPPED}, alpha=2)(torch.tensor([[0, 2]]), logits_to_keep=1)
    assert guided.logits.tolist() == [[[3.0, 6.0, 0.0, -3.0]]]
    other = Contrast(fake, {2: 3}, alpha=-1)(torch.tensor([[0, 2]]), logits_to_keep=1)
    assert other.logits.tolist() == [[[3.0, -1.0, 0.0, -1.0]]]


@pytest.mark.parametrize("alpha", [-1.0, -0.5, 1e-30, 1.0, 7.0])
def test_what_is_not_finite_never_turns_into_something_likely(alpha):
    a = torch.tensor([1.0, -INF, 2.0, -INF, math.nan, 0.0, INF, 0.0])
    b = torch.tensor([0.0, 0.0, -INF, -INF, 0.0, math.nan, 0.0, INF])
    found = contrast(a, b, alpha)
    assert found[:4].tolist() == pytest.approx([1 + alpha, -INF, 2.0, -INF])
    assert torch.isnan(found[4:]).all()


def test_alpha_0_is_plain_sampling_of_branch_a_bit_for_bit(model, vocabulary):
    prompts = prompts_of(vocabulary, [0, 3, 3, 9, 30])
    plain = sample(
        model, prompts, DRAWN, seeds=range(5), vocabulary=vocabulary, guard=guard_of(vocabulary)
    )
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    for guided in (
        between(model, vocabulary, toward="good", away="bad", alpha=0),
        classifier_free(model, vocabulary, mode="good", scale=1),
    ):
        found = sample(
            guided, prompts, DRAWN, seeds=range(5), vocabulary=vocabulary,
            guard=guard_of(vocabulary),
        )  # fmt: skip
        assert found == plain
    handle.remove()
    assert calls


@pytest.mark.parametrize("swap", ["other", "dropped", "itself"])
@pytest.mark.parametrize("again", [False, True])
def test_sampling_with_caches_equals_reading_both_branches_anew(model, vocabulary, swap, again):
    good, bad = vocabulary.open_id("good"), vocabulary.open_id("bad")
    instead = {"other": bad, "dropped": DROPPED, "itself": good}[swap]
    alpha = 1.5
    prompts = prompts_of(vocabulary, [0, 4, 4, 11, 2])
    force = reemit(vocabulary, "good") if again else None
    found = sample(
        Contrast(model, {good: instead}, alpha), prompts, GREEDY, seeds=range(5),
        vocabulary=vocabulary, guard=guard_of(vocabulary), force=force,
    )  # fmt: skip
    table = table_of(vocabulary, stay(vocabulary.scheme))
    wrote = 0
    for prompt, one in zip(prompts, found, strict=True):
        read = list(prompt)
        for token in [*one.ids, *([vocabulary.end_id] if one.finished else [])]:
            other = [instead if t == good else t for t in read]
            other = [t for t in other if t is not DROPPED]
            a, b = (model(torch.tensor([ids])).logits[0, -1].detach() for ids in (read, other))
            logits = contrast(a, b, alpha)
            logits[~torch.from_numpy(table.allowed(0))] = -INF
            if token != good and not (again and read[-1] in vocabulary.newline_ids):
                assert float(logits.max() - logits[token]) < 1e-3
                wrote += 1
            read.append(token)
    assert wrote > 30


def test_behind_a_dropped_id_stand_the_logits_of_the_id_before(model, vocabulary):
    model.eval()
    end, good = vocabulary.end_id, vocabulary.open_id("good")
    ids = torch.tensor([[end, good, 5, good, 7, good]])
    only_b = classifier_free(model, vocabulary, mode="good", scale=0)
    with torch.inference_mode():
        expected = model(torch.tensor([[end, 5, 7]])).logits[:, [0, 0, 1, 1, 2, 2]]
        torch.testing.assert_close(only_b(ids).logits, expected, atol=1e-4, rtol=1e-4)
        cache = make_cache(model.config)
        steps = [
            only_b(ids[:, at : at + 1], past_key_values=cache, logits_to_keep=1).logits
            for at in range(6)
        ]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, atol=1e-4, rtol=1e-4)


def test_a_branch_that_is_the_same_changes_nothing(model, vocabulary):
    prompts = prompts_of(vocabulary, [0, 5, 8])
    good = vocabulary.open_id("good")
    plain = sample(model, prompts, DRAWN, seeds=range(3), vocabulary=vocabulary)
    same = Contrast(model, {good: good}, alpha=3)
    assert sample(same, prompts, DRAWN, seeds=range(3), vocabulary=vocabulary) == plain


def test_guidance_moves_the_odds_by_the_known_factor(vocabulary):
    good, bad = vocabulary.open_id("good"), vocabulary.open_id("bad")
    rows = {tag: [-INF] * vocabulary.size for tag in (None, good, bad)}
    for tag, p in ((None, 0.5), (good, 0.7), (bad, 0.3)):
        rows[tag][1:3] = [math.log(p), math.log(1 - p)]
    fake = ByTag(vocabulary.size, rows)
    settings = Sampling(temperature=1, top_p=1, max_text_tokens=1)  # a fake has no memory
    for guided, odds in (
        (between(fake, vocabulary, toward="good", away="bad", alpha=0.5), 7 / 3 * 7 / 3),
        (classifier_free(fake, vocabulary, mode="good", scale=2), (7 / 3) ** 2),
    ):
        found = sample(
            guided, [[vocabulary.end_id, good]] * 2000, settings, seeds=range(2000),
            vocabulary=vocabulary, guard=guard_of(vocabulary),
        )  # fmt: skip
        share = odds / (1 + odds)
        assert np.mean([one.ids == (1,) for one in found]) == pytest.approx(share, abs=0.03)


def test_the_guard_holds_when_guidance_wants_a_tag(vocabulary):
    good, bad = vocabulary.open_id("good"), vocabulary.open_id("bad")
    rows = {tag: [0.0] * vocabulary.size for tag in (None, good, bad)}
    rows[good][bad], rows[bad][bad] = 5.0, -5.0  # so 5 + 10 * 10 for the bad tag
    guided = between(ByTag(vocabulary.size, rows), vocabulary, toward="good", away="bad", alpha=10)
    guard = guard_of(vocabulary)
    prompts = [[vocabulary.end_id, good]] * 50
    one_id = Sampling(temperature=1, top_p=1, max_text_tokens=1)
    found = sample(guided, prompts, one_id, seeds=range(50), vocabulary=vocabulary, guard=guard)
    assert all(token < vocabulary.text_size for one in found for token in one.ids)
    assert guard.fired == 0
    assert guard.pressure().min() > 0.999


def test_the_canary_passes_through_guidance(vocabulary):
    table = table_of(vocabulary, stay(vocabulary.scheme))
    report = check_path(
        sample, table, vocabulary,
        biased=lambda token: between(
            BiasedModel(vocabulary.size, {token: 1e4}), vocabulary,
            toward="good", away="bad", alpha=2,
        ),
        settings={"greedy": GREEDY, "drawn": DRAWN},
    )  # fmt: skip
    assert report.runs >= 8


def test_a_diverged_branch_stops_sampling(vocabulary):
    good, bad = vocabulary.open_id("good"), vocabulary.open_id("bad")
    rows = {None: [0.0] * vocabulary.size, good: [0.0] * vocabulary.size}
    rows[bad] = [math.nan, *[0.0] * (vocabulary.size - 1)]
    guided = between(ByTag(vocabulary.size, rows), vocabulary, toward="good", away="bad", alpha=1)
    with pytest.raises(DataError, match="expected a finite number"):
        sample(guided, [[vocabulary.end_id, good]], DRAWN, seeds=[0], vocabulary=vocabulary)


def test_rows_of_both_branches_are_dropped_and_reordered_together(model, vocabulary):
    model.eval()
    for guided in (
        between(model, vocabulary, toward="good", away="bad", alpha=1),
        classifier_free(model, vocabulary, mode="good", scale=2),
    ):
        ids = torch.tensor(prompts_of(vocabulary, [6, 6, 6]))
        with torch.inference_mode():
            cache = make_cache(model.config)
            guided(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            keep_rows(cache, torch.tensor([2, 0, 0]))
            step = torch.tensor([[1], [vocabulary.open_id("good")], [3]])
            found = guided(step, past_key_values=cache, logits_to_keep=1).logits
            whole = guided(torch.cat([ids[[2, 0, 0]], step], dim=1)).logits[:, -1:]
        torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)


def test_a_model_with_sliding_windows_is_guided_alike(vocabulary):
    config = MistralConfig(
        vocab_size=vocabulary.size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=4, initializer_range=0.2,
        max_position_embeddings=96,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MistralForCausalLM(config).eval()
    guided = between(model, vocabulary, toward="good", away="bad", alpha=1)
    (prompt,) = prompts_of(vocabulary, [7])
    (one,) = sample(
        guided, [prompt], GREEDY, seeds=[0], vocabulary=vocabulary, guard=guard_of(vocabulary)
    )
    logits = guided(torch.tensor([[*prompt, *one.ids]])).logits[0, len(prompt) - 1 :]
    logits[:, vocabulary.end_id + 1 :] = -INF
    assert logits[: len(one.ids)].argmax(-1).tolist() == list(one.ids)


def test_enclosing_modes_swap_both_of_their_tags(vocabulary):
    two = Vocabulary(vocabulary.tokenizer, TWO_MODES)
    guided = between(BiasedModel(two.size), two, toward="ai", away="human", alpha=1)
    ids = two.tag_ids
    assert guided.swap == {ids["<ai>"]: ids["<human>"], ids["</ai>"]: ids["</human>"]}


def test_what_cannot_guide_is_refused(model, vocabulary):
    fake = BiasedModel(vocabulary.size)
    for alpha in (math.nan, math.inf, -1.5):
        with pytest.raises(ConfigError, match="alpha="):
            Contrast(fake, {1: 2}, alpha)
    with pytest.raises(ConfigError, match="expected one id or more"):
        Contrast(fake, {}, 1)
    with pytest.raises(ConfigError, match="expected one id or more"):
        Contrast(fake, {1: vocabulary.size}, 1)
    with pytest.raises(ConfigError, match="both mark or both enclose"):
        between(fake, vocabulary, toward="good", away="good", alpha=1)
    with pytest.raises(DataError, match="not in scheme"):
        between(fake, vocabulary, toward="good", away="worse", alpha=1)
    with pytest.raises(DataError, match="begin with the end of text"):
        Contrast(model, {5: DROPPED}, 1)(torch.tensor([[5, 6]]))
    cache = make_cache(model.config)
    model(torch.tensor([[5, 6]]), past_key_values=cache, use_cache=True)
    with pytest.raises(DataError, match="filled by another model"):
        Contrast(model, {5: 6}, 1)(torch.tensor([[5]]), past_key_values=cache)

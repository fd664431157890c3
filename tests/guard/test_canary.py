from dataclasses import dataclass
from typing import Any

import pytest

from prealign.errors import GuardError
from prealign.guard.canary import BATCHES, check_path
from prealign.guard.policy import lock, stay
from prealign.guard.table import table_of
from prealign.models.fake import BiasedModel
from prealign.models.sample import Sampling, sample
from prealign.text.scheme import GOOD_BAD, TWO_MODES
from prealign.tokens.vocabulary import Vocabulary

SETTINGS = {
    "greedy": Sampling(temperature=0, max_text_tokens=6),
    "drawn": Sampling(temperature=1, top_p=1, max_text_tokens=6),
}


def check(path, vocabulary, settings=SETTINGS):
    def biased(token):
        return BiasedModel(vocabulary.size, {token: 1e4})

    return check_path(
        path, table_of(vocabulary, stay(GOOD_BAD)), vocabulary, biased=biased, settings=settings
    )


@dataclass
class Partly:
    """A guard that a path uses only in part."""

    guard: Any
    mask: Any = None
    commit: Any = None

    def __post_init__(self):
        self.scan, self.allows = self.guard.scan, self.guard.allows
        self.mask = self.mask or self.guard.mask
        self.commit = self.commit or self.guard.commit


def without(*names):
    """The sampling function with some of the guard's work left out on the way."""
    nothing = {"mask": lambda logits, states: logits, "commit": lambda states, ids, own: states}

    def path(model, prompts, settings, *, guard, **rest):
        partly = Partly(guard, **{name: nothing[name] for name in names})
        return sample(model, prompts, settings, guard=partly, **rest)

    return path


def test_our_own_path_is_guarded(vocabulary):
    report = check(sample, vocabulary)
    assert report.runs == 3 * 2 * len(BATCHES)
    assert report.ids > 0.9 * 6 * 3 * 2 * sum(BATCHES)


def test_every_policy_of_a_table_is_tried_behind_its_own_tags(vocabulary):
    two = Vocabulary(vocabulary.tokenizer, TWO_MODES)
    table = table_of(two, lock(TWO_MODES, "ai"), stay(TWO_MODES))
    report = check_path(
        sample, table, two, settings=SETTINGS,
        biased=lambda token: BiasedModel(two.size, {token: 1e4}),
    )  # fmt: skip
    locked = 5  # <human>, </human>, <ai>, </quote>, inert
    assert report.runs == (locked + 7) * 2 * len(BATCHES)


def test_a_path_without_the_mask_is_refused(vocabulary):
    with pytest.raises(GuardError, match=r"'greedy', batch of 1, bias to <\|good\|>: the mask"):
        check(without("mask"), vocabulary)


def test_a_path_without_mask_and_gate_is_refused(vocabulary):
    with pytest.raises(GuardError, match="came out; the path has no gate"):
        check(without("mask", "commit"), vocabulary)


def test_a_path_without_the_gate_is_refused(vocabulary):
    with pytest.raises(GuardError, match="6 ids were chosen, the gate saw 0"):
        check(without("commit"), vocabulary)


def test_a_path_that_shows_the_gate_one_row_only_is_refused(vocabulary):
    def path(model, prompts, settings, *, guard, **rest):
        def commit(states, ids, own):
            guard.commit(states[:1], ids[:1], own[:1])
            return states

        return sample(model, prompts, settings, guard=Partly(guard, commit=commit), **rest)

    with pytest.raises(GuardError, match="batch of 7"):
        check(path, vocabulary)


def test_a_path_that_turns_the_mask_into_a_large_number_is_refused(vocabulary):
    def path(model, prompts, settings, *, guard, **rest):
        def finite(logits_BV, states_B):
            return guard.mask(logits_BV, states_B).clamp_(min=-1e9)

        return sample(model, prompts, settings, guard=Partly(guard, mask=finite), **rest)

    check(path, vocabulary)  # at common temperatures it does no harm
    hot = Sampling(temperature=1e30, top_p=1, max_text_tokens=90)
    assert check(sample, vocabulary, {"hot": hot}).runs == 3 * len(BATCHES)
    with pytest.raises(GuardError, match="'hot'"):
        check(path, vocabulary, {"hot": hot})


def test_only_the_setting_that_leaks_is_named(vocabulary):
    def path(model, prompts, settings, **rest):
        leaky = settings.temperature == 0 and len(prompts) > 1
        return (without("mask") if leaky else sample)(model, prompts, settings, **rest)

    with pytest.raises(GuardError, match="'greedy', batch of 7"):
        check(path, vocabulary)


def test_a_canary_that_tried_nothing_does_not_pass(vocabulary):
    with pytest.raises(GuardError, match="shows nothing"):
        check(sample, vocabulary, {})

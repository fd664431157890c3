import pytest

from prealign.errors import GuardError
from prealign.guard.canary import BATCHES, check_path
from prealign.guard.policy import stay
from prealign.models.fake import BiasedModel
from prealign.models.sample import Sampling, sample

SETTINGS = {
    "greedy": Sampling(temperature=0, max_text_tokens=6),
    "drawn": Sampling(temperature=1, top_p=1, max_text_tokens=6),
}


def check(path, vocabulary, settings=SETTINGS):
    def biased(token):
        return BiasedModel(vocabulary.size, {token: 1e4})

    return check_path(path, stay(vocabulary), vocabulary, biased=biased, settings=settings)


def without(*names):
    """The sampling function with some of its arguments left out on the way."""

    def path(model, prompts, settings, **rest):
        return sample(model, prompts, settings, **{k: v for k, v in rest.items() if k not in names})

    return path


def test_our_own_path_is_guarded(vocabulary):
    report = check(sample, vocabulary)
    assert report.runs == 3 * 2 * len(BATCHES)
    assert report.ids > 0.9 * 6 * 3 * 2 * sum(BATCHES)


def test_a_path_without_the_mask_is_refused(vocabulary):
    with pytest.raises(GuardError, match=r"'greedy', batch of 1, bias to <\|good\|>: the mask"):
        check(without("hook"), vocabulary)


def test_a_path_without_mask_and_gate_is_refused(vocabulary):
    with pytest.raises(GuardError, match="came out; the path has no gate"):
        check(without("hook", "gate"), vocabulary)


def test_a_path_without_the_gate_is_refused(vocabulary):
    with pytest.raises(GuardError, match="6 ids were chosen, the gate saw 0"):
        check(without("gate"), vocabulary)


def test_a_path_that_shows_the_gate_one_row_only_is_refused(vocabulary):
    def path(model, prompts, settings, *, gate, **rest):
        return sample(model, prompts, settings, gate=lambda ids: gate(ids[:1]), **rest)

    with pytest.raises(GuardError, match="batch of 7"):
        check(path, vocabulary)


def test_a_path_that_turns_the_mask_into_a_large_number_is_refused(vocabulary):
    def path(model, prompts, settings, *, hook, **rest):
        def finite(logits_BV, last_ids_B):
            return hook(logits_BV, last_ids_B).clamp_(min=-1e9)

        return sample(model, prompts, settings, hook=finite, **rest)

    check(path, vocabulary)  # at common temperatures it does no harm
    hot = Sampling(temperature=1e30, top_p=1, max_text_tokens=90)
    assert check(sample, vocabulary, {"hot": hot}).runs == 3 * len(BATCHES)
    with pytest.raises(GuardError, match="'hot'"):
        check(path, vocabulary, {"hot": hot})


def test_only_the_setting_that_leaks_is_named(vocabulary):
    def path(model, prompts, settings, **rest):
        leaky = settings.temperature == 0 and len(prompts) > 1
        return (without("hook") if leaky else sample)(model, prompts, settings, **rest)

    with pytest.raises(GuardError, match="'greedy', batch of 7"):
        check(path, vocabulary)


def test_a_canary_that_tried_nothing_does_not_pass(vocabulary):
    with pytest.raises(GuardError, match="shows nothing"):
        check(sample, vocabulary, {})

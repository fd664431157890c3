import pytest
import torch
from transformers import LogitsProcessorList

from prealign.errors import GuardError
from prealign.guard.gate import Guard
from prealign.guard.hf import ModeGuardLogitsProcessor, Rows
from prealign.guard.hf_canary import HOT, WAYS, check_generate
from prealign.guard.hf_generate import guarded_generate
from prealign.guard.policy import lock_noquote, stay
from prealign.guard.table import table_of
from prealign.text.scheme import GOOD_BAD, TWO_MODES
from prealign.tokens.vocabulary import Vocabulary
from tests.guard.hf_models import tiny


def check(path, vocabulary, table=None, **others):
    return check_generate(
        path,
        table or table_of(vocabulary, stay(GOOD_BAD)),
        biased=lambda token: tiny(vocabulary, {token: 1e4}),
        **others,
    )


def plain(vocabulary, *, processor=None, gate=False):
    """`generate` with a processor, or none, and no look at what comes out unless asked."""

    def path(model, table, input_ids, *, policy, guard, **others):
        rows = Rows(
            prompt_tokens=input_ids.shape[1], pad_id=vocabulary.inert_id, policy=policy,
            stop_ids=(vocabulary.end_id,), beams="num_beams" in others,
        )  # fmt: skip
        last = [processor(guard, rows)] if processor else []
        out = model.generate(
            inputs=input_ids, logits_processor=LogitsProcessorList(last),
            pad_token_id=vocabulary.inert_id, eos_token_id=vocabulary.end_id,
            attention_mask=(input_ids != vocabulary.inert_id).long(), **others,
        )  # fmt: skip
        if gate:
            for row in out[:, input_ids.shape[1] :].tolist():
                guard.commit([0] * len(row), row)
        return out

    return path


def test_the_guarded_path_passes(vocabulary):
    report = check(guarded_generate, vocabulary)
    assert report.runs == 3 * len(WAYS)
    assert report.ids >= 3 * (4 * (len(WAYS) - 2) + 3 * 4 * 2) * 0.9


def test_every_policy_is_tried_behind_its_own_tags(vocabulary):
    two = Vocabulary(vocabulary.tokenizer, TWO_MODES)
    table = table_of(two, lock_noquote(TWO_MODES, "ai"), stay(TWO_MODES))
    ways = {"greedy": WAYS["greedy"], "beams": WAYS["beams"]}
    report = check(guarded_generate, two, table, ways=ways)
    assert report.runs == (6 + 7) * 2


def test_a_weight_for_the_drafts_wishes_is_refused(vocabulary):
    with pytest.raises(GuardError, match="assistant_ensemble_weight is refused"):
        check(guarded_generate, vocabulary, settings={"assistant_ensemble_weight": 0.5})


@pytest.mark.parametrize("way", set(WAYS) - {HOT})
def test_a_path_without_the_processor_is_refused(vocabulary, way):
    with pytest.raises(GuardError, match=f"{way}.*came out; the path has no gate"):
        check(plain(vocabulary), vocabulary, ways={way: WAYS[way]})


@pytest.mark.parametrize("way", ["greedy", "beams", "prompt lookup"])
def test_a_path_with_the_gate_alone_is_refused(vocabulary, way):
    with pytest.raises(GuardError, match=f"{way}.*mask is not in it"):
        check(plain(vocabulary, gate=True), vocabulary, ways={way: WAYS[way]})


@pytest.mark.parametrize("way", set(WAYS))
def test_a_path_with_the_processor_alone_is_refused(vocabulary, way):
    path = plain(vocabulary, processor=ModeGuardLogitsProcessor)
    with pytest.raises(GuardError, match=f"{way}.*the gate saw 0"):
        check(path, vocabulary, ways={way: WAYS[way]})


def test_a_gate_that_only_counts_is_refused(vocabulary):
    def path(model, table, input_ids, *, guard, **others):
        bare = plain(vocabulary, processor=ModeGuardLogitsProcessor)
        out = bare(model, table, input_ids, guard=guard, **others)
        guard.gate_ids += out.numel()
        return out

    with pytest.raises(GuardError, match="with the mask off nothing was refused"):
        check(path, vocabulary)


def test_a_mask_of_large_numbers_is_refused_where_it_is_hot(vocabulary):
    class Finite(ModeGuardLogitsProcessor):
        def __call__(self, input_ids, scores):
            return super().__call__(input_ids, scores).clamp_(min=-1e9)

    def path(model, table, input_ids, *, guard, **others):
        many = input_ids.repeat(256, 1)
        bare = plain(vocabulary, processor=Finite, gate=True)
        return bare(model, table, many, guard=guard, **others)

    with pytest.raises(GuardError, match="hot sampling"):
        check(path, vocabulary, ways={HOT: WAYS[HOT]})


def test_a_path_that_loses_the_processor_in_one_way_is_named(vocabulary):
    def path(model, table, input_ids, **others):
        leaky = len(input_ids) > 1
        return (plain(vocabulary) if leaky else guarded_generate)(model, table, input_ids, **others)

    with pytest.raises(GuardError, match="rows padded in front"):
        check(path, vocabulary)


def test_a_canary_that_tried_nothing_does_not_pass(vocabulary):
    with pytest.raises(GuardError, match="shows nothing"):
        check(guarded_generate, vocabulary, ways={})


def test_a_draft_model_is_masked_too(vocabulary):
    table = table_of(vocabulary, stay(GOOD_BAD))
    token = vocabulary.open_id("bad")
    draft, seen = tiny(vocabulary, {token: 1e4}, seed=1), []
    own = draft.generate

    def watched(*given, **named):
        out = own(*given, **named)
        seen.append(out.sequences)
        return out

    draft.generate = watched
    given = torch.tensor([[vocabulary.end_id, 5]])
    for how in ({}, {"do_sample": True, "top_k": 0}):
        guarded_generate(
            tiny(vocabulary, {token: 1e4}), table, given, guard=Guard(table),
            assistant_model=draft, max_new_tokens=8, **how,
        )  # fmt: skip
    assert len(seen) >= 2
    assert not any((one[:, 2:] == token).any() for one in seen)

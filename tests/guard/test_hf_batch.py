import gc
from types import SimpleNamespace

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList

from prealign.errors import GuardError
from prealign.guard.gate import Guard
from prealign.guard.hf import ModeGuardLogitsProcessor, Rows
from prealign.guard.hf_batch import ModeGuardBatchProcessor, deny_rows, guarded_generate_batch
from prealign.guard.hf_generate import guarded_generate
from prealign.guard.policy import lock, lock_noquote, stay
from prealign.guard.table import table_of, with_run
from prealign.text.scheme import TWO_MODES
from prealign.tokens.vocabulary import Vocabulary
from tests.guard.hf_models import tiny

SMALL = ContinuousBatchingConfig(num_blocks=16, page_size=32, max_batch_tokens=64)


@pytest.fixture(scope="module", autouse=True)
def quick_collection():
    """The engine collects garbage when it stops, through all that the tests have imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def two(vocabulary):
    return Vocabulary(vocabulary.tokenizer, TWO_MODES)


@pytest.fixture(scope="module")
def table(two):
    return table_of(
        two, stay(TWO_MODES), lock(TWO_MODES, "ai", longest=3), lock_noquote(TWO_MODES, "ai")
    )


def prompts(two, table, policy):
    return [
        [two.end_id, *table.opening(policy), *two.encode_text(text)]
        for text in ("a", "b a b", "print(half(4))")
    ]


def rows_like(two, **others):
    return Rows(prompt_tokens=0, pad_id=two.inert_id, stop_ids=(two.end_id,), **others)


def request(initial, written, *, true=0, known=0):
    return SimpleNamespace(
        state=SimpleNamespace(
            request_id="r", initial_tokens=initial, generated_tokens=written,
            _true_initial_tokens=true, position_offset=len(initial) + len(written) + known,
        )
    )  # fmt: skip


@pytest.mark.parametrize("policy", ["stay", "lock ai"])
def test_it_writes_what_rows_alone_would(two, table, policy):
    model = tiny(two, dict.fromkeys(two.tag_ids.values(), 1e4))
    given = prompts(two, table, policy)
    guard = Guard(table)
    out = guarded_generate_batch(
        model, table, given, policy=policy, guard=guard, batching=SMALL, max_new_tokens=9
    )
    for ids, written in zip(given, out, strict=True):
        alone = guarded_generate(
            model, table, torch.tensor([ids]), policy=policy, max_new_tokens=9
        )[0, len(ids) :]
        assert written == alone.tolist()
    assert guard.gate_ids == sum(map(len, out))
    assert guard.fired == 0


def test_an_adversary_that_draws_writes_no_denied_id(two, table):
    torch.manual_seed(0)
    model = tiny(two, dict.fromkeys([*two.tag_ids.values(), two.inert_id], 1e4))
    out = guarded_generate_batch(
        model, table, prompts(two, table, "lock ai"), policy="lock ai", batching=SMALL,
        max_new_tokens=16, do_sample=True, temperature=3e38, top_k=40,
    )  # fmt: skip
    assert sum(map(len, out)) > 20


@pytest.mark.parametrize("tokens", [1, 4])
def test_with_the_mask_off_the_gate_refuses(two, table, tokens):
    model = tiny(two, {two.open_id("human"): 1e4})
    with pytest.raises(GuardError, match="<human>"):
        guarded_generate_batch(
            model, table, prompts(two, table, "stay"), guard=Guard(table, mask=False),
            batching=SMALL, max_new_tokens=tokens,
        )  # fmt: skip


def test_the_plain_processor_refuses_this_path(two, table):
    model = tiny(two, {two.open_id("human"): 1e4})
    seen = []

    class Watched(ModeGuardLogitsProcessor):
        def __call__(self, input_ids, scores):
            seen.append(tuple(input_ids.shape))
            return super().__call__(input_ids, scores)

    plain = Watched(Guard(table), Rows(prompt_tokens=1, pad_id=two.inert_id, stop_ids=()))
    model._get_logits_processor = lambda config: LogitsProcessorList([plain])
    config = GenerationConfig(max_new_tokens=4, eos_token_id=two.end_id)
    out = model.generate_batch(
        [[two.end_id, 5]], generation_config=config, continuous_batching_config=SMALL
    )
    assert seen == [(1,)]  # one id of one request, not its row
    assert not any(one.generated_tokens for one in out.values())
    assert all("guarded_generate_batch" in one.error for one in out.values())


def test_the_table_of_denied_ids_is_the_policies(two, table):
    denied_RV, row_of = deny_rows(table)
    for state in range(table.states):
        assert (~denied_RV[row_of[0, state]] == table.allowed(state)).all()
        assert (~denied_RV[row_of[1, state]] == table.allowed(with_run(state, 3))).all()
    assert len(denied_RV) < table.states


def test_a_request_is_read_by_its_exact_ids(two, table):
    guard = Guard(table)
    processor = ModeGuardBatchProcessor(
        guard, rows_like(two, policy="lock ai"), torch.device("cpu")
    )
    ai, quote = two.open_id("ai"), two.open_id("quote")
    scores = torch.zeros(1, two.size)

    def allowed(*given, **others):
        masked = processor(scores, processor.prepare_tensor_args([request(*given, **others)]))
        return masked[0].isfinite().numpy()

    start = table.start("lock ai")
    for written in ([], [5], [5, quote], [5, quote, 6], [5, quote, 6, 7, 8], [5], [quote, 9]):
        state = table.scan([ai, *written], start)
        assert (allowed([ai], written) == table.allowed(state)).all()
    state = table.scan([ai, 5, quote, 6], start)  # it was set back, and is read in again
    assert (allowed([ai, 5, quote], [6], true=1) == table.allowed(state)).all()
    with pytest.raises(GuardError, match="<human>"):
        allowed([ai, 5, two.open_id("human")], [6], true=1)
    with pytest.raises(GuardError, match="use_async_batching"):
        allowed([ai], [5], known=1)


def test_slots_without_a_request_are_drawn_from_what_the_policy_allows_first(two, table):
    rows = rows_like(two, policy="lock ai")
    processor = ModeGuardBatchProcessor(Guard(table), rows, torch.device("cpu"))
    slots = torch.empty(2, dtype=torch.int32)
    processor.fill_defaults(slots)
    state = table.scan([two.open_id("ai")], table.start("lock ai"))
    masked = processor(torch.zeros(2, two.size), slots)
    assert (masked.isfinite().numpy() == table.allowed(state)).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_beams": 2}, "num_beams"),
        ({"num_return_sequences": 2, "do_sample": True}, "num_return_sequences"),
        ({"num_return_sequences": 2}, "transformers refuses"),
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"assistant_ensemble_weight": 0.5}, "share"),
        ({"logits_processor": [1]}, "logits_processor"),
        ({"max_new_tokens": None}, "max_new_tokens"),
        ({"eos_token_id": 5}, "end of text"),
    ],
)
def test_what_does_not_fit_is_refused(two, table, given, message):
    asked = {"max_new_tokens": 2} | given
    with pytest.raises(GuardError, match=message):
        guarded_generate_batch(tiny(two), table, prompts(two, table, "stay"), **asked)


def test_prompts_of_other_ids_and_foreign_managers_are_refused(two, table):
    with pytest.raises(GuardError, match="prompt"):
        guarded_generate_batch(tiny(two), table, [[two.size]], max_new_tokens=2)
    model = tiny(two)
    model._cached_continuous_batching_manager = object()
    with pytest.raises(GuardError, match="manager"):
        guarded_generate_batch(model, table, [[5]], max_new_tokens=2)

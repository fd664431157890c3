"""An engine against `sample`, which is its oracle."""

import numpy as np
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from prealign.errors import ConfigError, DataError, GuardError
from prealign.guard.canary import check_path
from prealign.guard.gate import Guard
from prealign.guard.policy import free, lock, lock_noquote, stay
from prealign.guard.table import table_of
from prealign.models.create import LlamaShape, make_model
from prealign.models.engine import Ended, Engine, Failed, Request, Written
from prealign.models.engine_sample import sample_by_engine
from prealign.models.fake import BiasedModel
from prealign.models.sample import Sampling, sample
from prealign.text.scheme import TWO_MODES
from prealign.tokens.vocabulary import Vocabulary

DRAWN = Sampling(temperature=1, top_p=0.95, max_text_tokens=24)


@pytest.fixture(scope="module")
def two(vocabulary):
    return Vocabulary(vocabulary.tokenizer, TWO_MODES)


@pytest.fixture(scope="module")
def table(two):
    return table_of(two, lock(TWO_MODES, "ai"), lock_noquote(TWO_MODES, "ai"), free(TWO_MODES))


@pytest.fixture(scope="module")
def llama(two):
    model = make_model(
        LlamaShape(width=32, layers=2, heads=4, kv_heads=2, max_tokens=72), two.size, seed=0
    )
    for weight in model.parameters():
        weight.data *= 4
    return model


class Chosen(Guard):
    """A guard that scans by one policy, for `sample`, which asks for none."""

    def __init__(self, table, policy):
        super().__init__(table)
        self._policy = policy

    def scan(self, ids, policy=None):
        return super().scan(ids, self._policy)


def prompts_of(vocabulary, lengths):
    stream = np.random.default_rng(1)
    opening = [vocabulary.open_id("human")]
    closing = [vocabulary.tag_ids["</human>"], vocabulary.open_id("ai")]
    return [
        (
            vocabulary.end_id,
            *opening,
            *stream.integers(0, vocabulary.text_size, n).tolist(),
            *closing,
        )
        for n in lengths
    ]


def engine_of(model, vocabulary, table, **rest):
    return Engine(model, vocabulary, Guard(table, pressure=False), **rest)


def drain(engine, found=None):
    """Step to the end; return ids and last event by key."""
    found = {} if found is None else found
    while engine.active or engine.waiting:
        take(engine.step(), found)
    return found


def take(events, found):
    for event in events:
        ids, last = found.setdefault(event.key, ([], []))
        assert not last, "an event behind the last one"
        if isinstance(event, Written):
            ids.append(event.token)
        else:
            last.append(event)


def requests_of(vocabulary, count):
    """Requests that differ in everything: prompt, seed, settings, policy."""
    stream = np.random.default_rng(2)
    prompts = prompts_of(vocabulary, stream.integers(0, 60, count))
    return [
        Request(
            prompt=prompt,
            settings=Sampling(
                temperature=(0, 0.7, 1.0)[i % 3],
                top_p=(1.0, 0.9)[i % 2],
                max_text_tokens=int(stream.integers(1, 40)),
                min_text_tokens=i % 2,
            ),
            seed=i * 7,
            policy=i % 3,
        )
        for i, prompt in enumerate(prompts)
    ]


@pytest.fixture(scope="module")
def many(llama, two, table):
    """Requests, and what each writes alone."""
    requests = requests_of(two, 20)
    return requests, [alone(llama, two, table, request) for request in requests]


def alone(model, vocabulary, table, request):
    return sample(
        model, [request.prompt], request.settings, seeds=[request.seed], vocabulary=vocabulary,
        guard=Chosen(table, request.policy),
    )[0]  # fmt: skip


@pytest.mark.parametrize(("rows", "prefill"), [(1, 1), (5, 40), (64, 4096)])
def test_requests_that_come_and_go_write_what_each_writes_alone(
    llama, two, table, many, rows, prefill
):  # fmt: skip
    requests, written = many
    engine = engine_of(llama, two, table, rows=rows, prefill_tokens=prefill)
    found, keys = {}, []
    for i, request in enumerate(requests):
        keys.append(engine.add(request))
        for _ in range(i % 4):  # some arrive together, others while the batch is at work
            take(engine.step(), found)
    drain(engine, found)
    why = set()
    for key, request, expected in zip(keys, requests, written, strict=True):
        ids, [last] = found[key]
        assert tuple(ids) == expected.ids
        assert isinstance(last, Ended)
        assert last.why == expected.stopped
        assert last.state == engine.guard.scan([*request.prompt, *ids], request.policy) or (
            last.why == "end"
        )
        why.add(last.why)
    assert why == {"end", "budget", "room"}


def test_a_cancelled_request_frees_its_row_and_changes_no_other(llama, two, table, many):
    requests, written = (part[:12] for part in many)
    engine = engine_of(llama, two, table, rows=8)
    keys = [engine.add(request) for request in requests]
    found = {}
    for _ in range(3):
        take(engine.step(), found)
    before, waiting = engine.active, engine.waiting
    victims = [key for key in keys if not found.get(key, ([], []))[1]][1::2]
    for key in victims:
        assert engine.cancel(key)
        assert not engine.cancel(key)
    assert engine.active + engine.waiting == before + waiting - len(victims)
    drain(engine, found)
    for key, expected in zip(keys, written, strict=True):
        if key not in victims:
            assert tuple(found[key][0]) == expected.ids
    assert not any(found[key][1] for key in victims if key in found)


def test_logprobs_are_those_of_the_allowed_text_and_pressure_is_what_was_denied(two, table):
    a, b = 5, 6
    quote, human, close = (two.tag_ids[tag] for tag in ("<quote>", "<human>", "</ai>"))
    low = -50.0
    bias = dict.fromkeys(range(two.size), low) | {
        a: np.log(3), b: np.log(1), quote: np.log(4), human: np.log(8), close: np.log(2),
    }  # fmt: skip
    engine = engine_of(BiasedModel(two.size, bias), two, table)
    settings = Sampling(temperature=0, max_text_tokens=2)
    prompt = prompts_of(two, [3])[0]
    engine.add(Request(prompt=prompt, settings=settings, seed=0, policy=0, top=2))
    engine.add(Request(prompt=prompt, settings=settings, seed=0, policy=1, top=3))
    events = engine.step()
    first, second = (event for event in events if isinstance(event, Written))
    assert (first.token, second.token) == (quote, a)  # by lock; by lock-noquote
    assert first.logprob == pytest.approx(np.log(4 / 10), abs=1e-5)
    assert first.pressure == pytest.approx(8 / 18, abs=1e-5)
    assert second.pressure == pytest.approx(12 / 18, abs=1e-5)
    assert second.logprob == pytest.approx(np.log(3 / 4), abs=1e-5)
    assert [token for token, _ in second.top[:2]] == [a, b]
    assert second.top[1][1] == pytest.approx(np.log(1 / 4), abs=1e-5)
    for event in (first, second):
        assert all(token < two.text_size for token, _ in event.top)


class Poisoned(BiasedModel):
    """Answers NaN to one id, all else alike."""

    def forward(self, input_ids, **rest):
        out = super().forward(input_ids, **rest)
        out.logits[(input_ids[:, -1:] == 3)] = float("nan")
        return out


def test_a_row_whose_logits_are_not_finite_fails_alone(two, table):
    engine = engine_of(Poisoned(two.size, {9: 5.0}), two, table)
    prompt = prompts_of(two, [3])[0]
    settings = Sampling(temperature=0, max_text_tokens=4)
    fine = engine.add(Request(prompt=prompt, settings=settings, seed=0))
    bad = engine.add(Request(prompt=(*prompt, 3), settings=settings, seed=0))
    found = drain(engine)
    assert found[fine] == ([9] * 4, [Ended(fine, "budget", found[fine][1][0].state, 0.0)])
    ids, [last] = found[bad]
    assert not ids
    assert isinstance(last, Failed)
    assert last.kind == "model"


class Unmasked(Guard):
    """The mask is left out for one policy's rows: a bypass that the gate has to catch."""

    def mask(self, logits_BV, states_B):
        kept = logits_BV.clone()
        out = super().mask(logits_BV, states_B)
        for i, state in enumerate(states_B.tolist()):
            if self.table.policy(state).name == "lock-noquote ai":
                out[i] = kept[i]
        return out


def test_what_the_gate_refuses_is_never_written_and_ends_its_own_request_alone(two, table):
    quote = two.open_id("quote")
    model = BiasedModel(two.size, {quote: 50.0, 7: 20.0})
    engine = Engine(model, two, Unmasked(table, pressure=False))
    prompt = prompts_of(two, [3])[0]
    settings = Sampling(temperature=1, max_text_tokens=3)
    keys = [
        engine.add(Request(prompt=prompt, settings=settings, seed=i, policy=i % 2))
        for i in range(40)
    ]
    found = drain(engine)
    for i, key in enumerate(keys):
        ids, [last] = found[key]
        if i % 2:
            assert ids == []
            assert isinstance(last, Failed)
            assert last.kind == "guard"
            assert last.at == 0
            assert engine.guard.table.fingerprint in last.message
        else:
            assert ids == [quote, 7, 7, 7]
            assert isinstance(last, Ended)
    assert engine.active == 0
    assert engine.guard.fired > 0


def test_a_switch_of_policy_holds_from_the_next_step_on(two, table):
    quote = two.open_id("quote")
    model = BiasedModel(two.size, {7: 30.0})
    engine = engine_of(model, two, table)
    settings = Sampling(temperature=0, max_text_tokens=6)
    request = Request(prompt=prompts_of(two, [3])[0], settings=settings, seed=0, policy="lock ai")
    key = engine.add(request)
    found = {}
    take(engine.step(), found)
    model.logits_V[quote] = 60.0
    assert engine.switch(key, lambda state: None)
    assert not engine.switch(key, lambda state: table.switch(state, "lock-noquote ai"))
    take(engine.step(), found)
    assert not engine.switch(key, lambda state: table.switch(state, "lock ai"))
    drain(engine, found)
    assert found[key][0] == [7, 7, quote, 7, 7, 7, 7]
    assert not engine.switch(key, lambda state: state)


def test_requests_that_cannot_be_served_are_refused_before_they_wait(llama, two, table):
    engine = engine_of(llama, two, table, room=20)
    settings = Sampling()

    def ask(prompt, policy=0):
        engine.add(Request(prompt=tuple(prompt), settings=settings, seed=0, policy=policy))

    with pytest.raises(DataError, match="empty"):
        ask([])
    with pytest.raises(DataError, match="has 20"):
        ask([two.end_id] * 20)
    with pytest.raises(DataError, match="not in"):
        ask([two.size])
    with pytest.raises(GuardError, match="cannot stand"):
        ask([two.tag_ids["</ai>"]])
    with pytest.raises(ConfigError, match="no policy 'all'"):
        ask([two.end_id], "all")
    assert (engine.waiting, engine.active) == (0, 0)
    with pytest.raises(ConfigError, match="room=73"):
        engine_of(llama, two, table, room=73)


def test_a_prompt_whose_forward_pass_fails_takes_no_other_with_it(llama, two, table, many):
    requests, written = (part[:6] for part in many)
    bad = requests[3].prompt

    def refuse(module, args, kwargs):
        ids = kwargs["input_ids"]
        if any(tuple(row[: len(bad)].tolist()) == bad for row in ids):
            raise RuntimeError("out of memory")

    hook = llama.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        engine = engine_of(llama, two, table)
        keys = [engine.add(request) for request in requests]
        found = drain(engine)
    finally:
        hook.remove()
    for i, (key, expected) in enumerate(zip(keys, written, strict=True)):
        ids, [last] = found[key]
        if i == 3:
            assert (ids, last.kind) == ([], "model")
        else:
            assert tuple(ids) == expected.ids


class Breaks(BiasedModel):
    """Fails at every step but the first."""

    calls = 0

    def forward(self, input_ids, **rest):
        self.calls += 1
        if self.calls > 1:
            raise ValueError("broken")
        return super().forward(input_ids, **rest)


def test_behind_a_step_that_raised_everybody_can_be_named_and_the_engine_starts_anew(two, table):
    model = Breaks(two.size)
    engine = engine_of(model, two, table, rows=2)
    request = Request(prompt=prompts_of(two, [3])[0], settings=DRAWN, seed=0)
    keys = [engine.add(request) for _ in range(3)]
    engine.step()
    with pytest.raises(ValueError, match="broken"):
        engine.step()
    assert sorted(engine.clear()) == keys
    assert (engine.active, engine.waiting) == (0, 0)
    model.calls = -100
    engine.add(request)
    found = drain(engine)
    [(ids, [last])] = found.values()
    assert isinstance(last, Ended)
    assert ids


def test_newcomers_that_a_step_raised_in_the_midst_of_are_named_once(llama, two, table):
    engine = engine_of(llama, two, table)
    add, calls = engine._slots.add, []

    def full(cache, row, tokens):
        calls.append(row)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        add(cache, row, tokens)

    engine._slots.add = full
    prompts = prompts_of(two, [3, 4, 60])
    keys = [engine.add(Request(prompt=one, settings=DRAWN, seed=0)) for one in prompts]
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.step()
    assert sorted(engine.clear()) == keys


def test_a_row_that_went_to_nan_leaves_nothing_to_those_that_come_after_it(two, table):
    """Keys and values of a row that is gone are masked, but 0 times NaN is NaN."""
    poison = 3
    shape = LlamaShape(width=32, layers=2, heads=4, kv_heads=2, max_tokens=72, tied=False)
    model = make_model(shape, two.size, seed=0)
    model.get_input_embeddings().weight.data[poison] = torch.nan
    longest, middle, short = (
        tuple(9 if token == poison else token for token in one)
        for one in prompts_of(two, [50, 30, 2])
    )
    settings = Sampling(temperature=0, max_text_tokens=8, min_text_tokens=8)

    def ask(prompt):
        return Request(prompt=prompt, settings=settings, seed=0)

    expected = alone(model, two, table, ask(short)).ids
    # The last slot is given up, or the last row moves to one that held more.
    for first, second in ((longest, middle), (middle, longest)):
        for bad_first in (False, True):
            engine = engine_of(model, two, table)
            prompts = [first, second]
            prompts[not bad_first] = (poison, *prompts[not bad_first])
            keys = [engine.add(ask(prompt)) for prompt in prompts]
            found = {}
            take(engine.step(), found)
            assert [type(found[key][1][0]) for key in keys if found[key][1]] == [Failed]
            later = [engine.add(ask(prompt)) for prompt in (short, longest, short)]
            drain(engine, found)
            for key in (later[0], later[2]):
                assert found[key][0] == list(expected)


def test_the_path_through_the_engine_is_guarded(two):
    table = table_of(two, lock(TWO_MODES, "ai"), stay(TWO_MODES))
    settings = {
        "greedy": Sampling(temperature=0, max_text_tokens=4),
        "drawn": Sampling(temperature=1, top_p=1, max_text_tokens=4),
    }
    report = check_path(
        sample_by_engine, table, two, settings=settings,
        biased=lambda token: BiasedModel(two.size, {token: 1e4}),
    )  # fmt: skip
    assert report.runs == (5 + 7) * 2 * 2


def test_a_model_that_the_engine_cannot_batch_is_refused(two, table):
    config = MistralConfig(
        vocab_size=two.size, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=4,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), pytest.raises(ConfigError, match="sliding windows"):
        engine_of(MistralForCausalLM(config), two, table)

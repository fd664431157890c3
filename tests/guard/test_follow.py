"""States of what an engine holds, the gate around its output, and a canary for the whole of it."""

import asyncio

import numpy as np
import pytest
import torch

from prealign.errors import ConfigError, GuardError
from prealign.guard.engine import check_engine, check_text, gate_stream, gate_stream_async
from prealign.guard.follow import BROKEN, UNKNOWN_ID, Follower, no_looser, unsure
from prealign.guard.nesting import TOP, Nesting
from prealign.guard.policy import Policy, free, lock, lock_noquote, stay
from prealign.guard.table import TagIds, compile_table, table_of
from prealign.text.scheme import GOOD_BAD, TWO_MODES, Mode
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def two_modes():
    return Vocabulary(train_text_tokenizer(["to be or not to be\n"], size=258), TWO_MODES)


def ids_of_tags(vocabulary):
    tags = vocabulary.tag_ids
    return {name: tags[f"<{name}>"] for name in ("ai", "/ai", "quote", "/quote", "human")}


# --- What is not known, and what cannot be ---


def test_behind_unknown_ids_no_tag_may_be_written(vocabulary):
    table = table_of(vocabulary, free(GOOD_BAD))  # any tag, anywhere
    follower = Follower(table)
    state = follower.behind(0, [vocabulary.end_id, 0, UNKNOWN_ID], 2)
    assert state == unsure(0)
    masked = follower.mask(torch.zeros(1, vocabulary.size), [state])[0]
    assert set(np.flatnonzero(~masked.isfinite()).tolist()) == {
        *vocabulary.tag_ids.values(), vocabulary.inert_id,
    }  # fmt: skip


def test_behind_unknown_ids_only_what_is_safe_everywhere_may_be_written(two_modes):
    """Locked in `ai` the model may have closed it meanwhile: then text would be wrong."""
    table = table_of(two_modes, lock(TWO_MODES, "ai"), lock_noquote(TWO_MODES, "ai"))
    follower = Follower(table)
    prompt = [two_modes.end_id, two_modes.open_id("ai")]
    state = follower.behind(0, [*prompt, UNKNOWN_ID], 2)
    assert np.flatnonzero(follower.allowed(state)).tolist() == [two_modes.end_id]


def test_unknown_ids_stay_unknown_whatever_follows():
    table = compile_table(
        Nesting(modes=(Mode(name="a", open="<a>"),), holds=((TOP, ("a",)),), depth=0),
        [Policy(name="p", rules=())],
        TagIds(size=4, tags=(("<a>", 1),), ends=(3,)),
    )
    follower = Follower(table)
    assert follower.behind(unsure(0), [0, 2, 0]) == unsure(0) == unsure(unsure(0))
    assert follower.behind(BROKEN, [0]) == BROKEN


@pytest.mark.parametrize(
    ("ids", "by_harness"),
    [
        (("ai", "ai"), 2),  # cannot stand there, whoever wrote it
        (("/quote",), 1),
        (("human",), 0),  # the model may not
        (("ai", "quote", "/ai"), 2),
        ((10_000,), 1),
        ((10_000,), 0),
        ((-7,), 0),
    ],
)
def test_ids_that_nobody_may_write_there_leave_nothing_but_the_end(two_modes, ids, by_harness):
    tags = ids_of_tags(two_modes)
    table = table_of(two_modes, lock(TWO_MODES, "ai"))
    follower = Follower(table)
    state = follower.behind(0, [tags.get(one, one) for one in ids], by_harness)
    assert state == BROKEN
    masked = follower.mask(torch.zeros(3, table.ids.size), [BROKEN, 0, BROKEN])
    assert masked[::2].isfinite().nonzero()[:, 1].tolist() == [two_modes.end_id] * 2
    assert np.array_equal(masked[1].isfinite().numpy(), table.allowed(0))


def test_the_mask_of_doubtful_rows_keeps_the_logits_of_the_others(vocabulary):
    table = table_of(vocabulary, stay(GOOD_BAD))
    logits = torch.randn(3, table.ids.size)
    masked = Follower(table).mask(logits.clone(), [unsure(0), 0, BROKEN])
    for row, state in enumerate((unsure(0), 0, BROKEN)):
        fine = torch.from_numpy(Follower(table).allowed(state))
        assert torch.equal(masked[row], torch.where(fine, logits[row], -torch.inf))


def test_an_engine_without_an_end_of_text_is_refused():
    table = compile_table(
        Nesting(modes=(), holds=(), depth=0), [Policy(name="p", rules=())],
        TagIds(size=2, tags=(), ends=()),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="needs an end of text"):
        Follower(table)


# --- Which policy is no looser ---


def test_policies_are_compared_in_every_state(two_modes):
    ai = lock(TWO_MODES, "ai")
    short = Policy(name="short", rules=lock(TWO_MODES, "ai", longest=4).rules, start=ai.start)
    shorter = Policy(name="shorter", rules=lock(TWO_MODES, "ai", longest=3).rules, start=ai.start)
    table = table_of(
        two_modes, ai, lock_noquote(TWO_MODES, "ai"), short, shorter, free(TWO_MODES),
        stay(TWO_MODES),
    )  # fmt: skip
    for name in ("lock-noquote ai", "short", "shorter", "lock ai"):
        assert no_looser(table, name, "lock ai"), name
    for name in ("free", "stay"):
        assert not no_looser(table, name, "lock ai"), name
    assert no_looser(table, "shorter", "short")
    assert not no_looser(table, "short", "shorter")
    assert not no_looser(table, "lock ai", "short")


# --- The gate around an engine's output ---


def test_the_gate_yields_what_may_be_written_and_nothing_behind_what_may_not(two_modes):
    tags = ids_of_tags(two_modes)
    table = table_of(two_modes, lock(TWO_MODES, "ai"))
    prompt = [two_modes.end_id, tags["ai"]]
    good = [5, tags["quote"], 6, tags["/quote"], 7, tags["/ai"], two_modes.end_id]
    assert list(gate_stream(table, 0, prompt, iter(good))) == good
    stream = gate_stream(table, "lock ai", prompt, [5, 6, tags["human"], 7])
    assert [next(stream), next(stream)] == [5, 6]
    with pytest.raises(GuardError, match="is denied in ai by policy 'lock ai'"):
        next(stream)
    with pytest.raises(GuardError, match="denied in no mode"):
        list(gate_stream(table, 0, prompt, [tags["/ai"], 5]))
    with pytest.raises(GuardError, match="prompt: "):
        next(gate_stream(table, 0, [tags["/quote"]], [5]))


def test_the_gate_asks_for_an_id_only_when_it_is_read(two_modes):
    table = table_of(two_modes, lock(TWO_MODES, "ai"))
    seen = []
    stream = gate_stream(
        table, 0, [two_modes.open_id("ai")], (seen.append(t) or t for t in range(9))
    )
    assert next(stream) == 0
    assert seen == [0]


def test_the_gate_is_the_same_for_streams_that_are_waited_for(two_modes):
    table = table_of(two_modes, lock(TWO_MODES, "ai"))
    human = two_modes.open_id("human")

    async def engine():
        for token in (1, 2, human, 3):
            yield token

    async def read():
        stream = gate_stream_async(table, 0, [two_modes.open_id("ai")], engine())
        passed = [await anext(stream), await anext(stream)]
        with pytest.raises(GuardError, match="is denied"):
            await anext(stream)
        return passed

    assert asyncio.run(read()) == [1, 2]


@pytest.mark.parametrize("token", ["tag", "end", "inert", -1, 10**6])
def test_a_client_gives_text(two_modes, token):
    table = table_of(two_modes, lock(TWO_MODES, "ai"))
    check_text(table, range(two_modes.text_size))
    named = {
        "tag": two_modes.open_id("ai"), "end": two_modes.end_id, "inert": two_modes.inert_id,
    }  # fmt: skip
    with pytest.raises(GuardError, match=r"client's id .* at 1"):
        check_text(table, [0, named.get(token, token)])


# --- The canary ---


def engine(table, *, mask=True, beyond=None, length=4):
    """A toy engine: it writes the best id `length` times, with the mask or without."""

    def write(token, prompt, setting):
        follower = Follower(table)
        ids, state = [], follower.behind(0, prompt, len(prompt))
        for step in range(length):
            logits = torch.zeros(1, table.ids.size)
            logits[0, token] = 1e4
            if mask and step != beyond:
                follower.mask(logits, [state])
            ids.append(int(logits.argmax()))
            state = follower.behind(state, ids[-1:])
            if ids[-1] in table.ids.ends:
                break
        return ids

    return write


def test_the_canary_lets_a_guarded_engine_pass_and_says_what_it_tried(two_modes):
    table = table_of(two_modes, lock(TWO_MODES, "ai"))
    report = check_engine(
        engine(table), table, settings={"a": 1, "b": 2}, prefix=[two_modes.end_id],
        control=engine(table, mask=False),
    )  # fmt: skip
    # <human>, </human>, <ai>, </quote> and the inert id, under two settings, four ids each.
    assert report == (10, 40)


@pytest.mark.parametrize("broken", [{"mask": False}, {"beyond": 0}, {"beyond": 3}])
def test_the_canary_refuses_an_engine_that_skips_the_guard(two_modes, broken):
    table = table_of(two_modes, lock(TWO_MODES, "ai"))
    with pytest.raises(GuardError, match=r"settings 'plain', bias to <human> .* a denied id came"):
        check_engine(engine(table, **broken), table, settings={"plain": None})


def test_the_canary_that_shows_nothing_is_refused(two_modes):
    table = table_of(two_modes, lock(TWO_MODES, "ai"))
    with pytest.raises(GuardError, match="wrote no ids"):
        check_engine(engine(table, length=0), table, settings={"plain": None})
    with pytest.raises(GuardError, match="without the guard either"):
        check_engine(engine(table), table, settings={"plain": None}, control=engine(table))

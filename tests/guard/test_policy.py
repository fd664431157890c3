import numpy as np
import pytest

from prealign.errors import ConfigError, GuardError
from prealign.guard.nesting import TOP, Nesting, nesting_of
from prealign.guard.policy import (
    POLICIES,
    Policy,
    Rule,
    free,
    lock,
    lock_noquote,
    named,
    prefix_only,
    reemit,
    stay,
)
from prealign.guard.table import TagIds, compile_table, ids_of, state_of, table_of
from prealign.text.scheme import GOOD_BAD, TWO_MODES, Mode
from prealign.tokens.vocabulary import Vocabulary


@pytest.fixture(scope="session")
def two(vocabulary):
    return Vocabulary(vocabulary.tokenizer, TWO_MODES)


def labels(table, state):
    """What the model may write, as words."""
    return {table.labels[column] for column in np.flatnonzero(table.may[state_of(state)])}


def walk(table, *tags, policy=0):
    ids = dict(table.ids.tags)
    return table.scan([ids[tag] for tag in tags], table.start(policy))


def test_lock_is_the_table_of_the_specification(two):
    """systems.md 1.3: S0, A, Q, H; quote allowed, closing it only in it, </ai> ends the turn."""
    table = table_of(two, lock(TWO_MODES, "ai", longest=8))
    speaking = walk(table, "<ai>")
    assert table.scan(table.opening()) == speaking
    assert labels(table, speaking) == {"text", "<quote>", "</ai>", "end of text"}
    assert labels(table, walk(table, "<ai>", "<quote>")) == {"text", "</quote>"}
    assert labels(table, walk(table, "<ai>", "</ai>")) == {"end of text"}
    assert table.over(walk(table, "<ai>", "</ai>"))
    assert not table.over(speaking)
    assert labels(table, walk(table, "<human>")) == {"text"}  # nowhere the model can come to


def test_the_other_policies_say_what_their_names_do(two):
    table = table_of(
        two, free(TWO_MODES), prefix_only(TWO_MODES, "ai"), lock_noquote(TWO_MODES, "ai"),
        stay(TWO_MODES),
    )  # fmt: skip
    for policy in ("free", "prefix-only ai"):
        assert labels(table, walk(table, policy=policy)) == {
            "text", "<human>", "<ai>", "end of text",
        }  # fmt: skip
        assert labels(table, walk(table, "<ai>", policy=policy)) == {"text", "<quote>", "</ai>"}
        assert labels(table, walk(table, "<human>", policy=policy)) == {"text", "</human>"}
    assert [len(table.opening(i)) for i in range(4)] == [0, 1, 1, 0]
    noquote = walk(table, "<ai>", policy="lock-noquote ai")
    assert labels(table, noquote) == {"text", "</ai>", "end of text"}
    for tags in ((), ("<human>",), ("<ai>", "<quote>")):
        assert labels(table, walk(table, *tags, policy="stay")) == {"text", "end of text"}


@pytest.mark.parametrize("may_end", [True, False])
def test_stay_allows_text_and_perhaps_the_end_and_nothing_else(vocabulary, may_end):
    table = table_of(vocabulary, stay(GOOD_BAD, may_end=may_end))
    allowed = {*range(vocabulary.text_size), *([vocabulary.end_id] if may_end else [])}
    for tags in ((), ("<|good|>",), ("<|bad|>", "<|good|>")):
        assert set(np.flatnonzero(table.allowed(walk(table, *tags))).tolist()) == allowed


def test_a_mark_ends_where_the_next_tag_stands(vocabulary):
    nesting = nesting_of(GOOD_BAD)
    assert nesting.paths == ((), ("good",), ("bad",))
    assert nesting.step(("good",), "<|bad|>") == ("bad",)
    assert nesting.closing(("bad",)) == ()
    assert labels(table_of(vocabulary, lock(GOOD_BAD, "good")), 1) == {"text", "end of text"}


def test_a_mode_may_stand_in_several_others_and_depth_bounds_them():
    modes = tuple(Mode(name=n, open=f"<{n}>", close=f"</{n}>") for n in "abc")
    holds = tuple((place, ("a", "b", "c")) for place in (TOP, "a", "b", "c"))
    nesting = Nesting(modes=modes, holds=holds, depth=4)
    assert len(nesting.paths) == 1 + 3 + 9 + 27 + 81  # 121, as the study counts
    assert nesting.step(("a", "a"), "<b>") == ("a", "a", "b")
    assert nesting.step(("a", "b", "c", "a"), "<b>") is None
    assert nesting.step(("a", "b"), "</a>") is None
    assert nesting.closing(("a", "b")) == ("</b>", "</a>")
    with pytest.raises(ConfigError, match="more than 100000 paths at depth 12; lower the depth"):
        len(Nesting(modes=modes, holds=holds, depth=12).paths)


@pytest.mark.parametrize(
    ("modes", "holds", "says"),
    [
        ("ab", ((TOP, ("a",)), (TOP, ("b",))), "'' is there twice"),
        ("aa", ((TOP, ("a",)),), "'a' is there twice"),
    ],
)
def test_of_two_words_on_one_place_none_is_dropped_in_silence(modes, holds, says):
    modes = tuple(Mode(name=n, open=f"<{n}>", close=f"</{n}>") for n in modes)
    with pytest.raises(ConfigError, match=says):
        Nesting(modes=modes, holds=holds, depth=1)


def test_two_modes_of_one_tag_are_refused():
    modes = (Mode(name="a", open="<a>"), Mode(name="b", open="<a>"))
    with pytest.raises(ConfigError, match="'<a>' is there twice"):
        Nesting(modes=modes, holds=((TOP, ("a", "b")),), depth=0)


def test_the_harness_switches_policies_in_the_middle_of_a_text(two):
    table = table_of(two, lock(TWO_MODES, "ai", longest=4), lock_noquote(TWO_MODES, "ai"))
    quoting = table.scan([1, 2], walk(table, "<ai>", "<quote>"))
    other = table.switch(quoting, "lock-noquote ai")
    assert table.path(other) == table.path(quoting) == ("ai", "quote")
    assert table.policy(other).name == "lock-noquote ai"
    assert other >> 32 == quoting >> 32 == 2
    assert table.switch(other, "lock ai") == quoting
    with pytest.raises(ConfigError, match="there is no policy 'free' here; allowed: lock ai, lock"):
        table.switch(other, "free")


@pytest.mark.parametrize("state", [-1, -2, -(1 << 32) + 2, 8, 1 << 31, (3 << 32) + 8])
def test_a_state_that_is_none_of_the_table_says_nothing(two, state):
    table = table_of(two, lock(TWO_MODES, "ai"), stay(TWO_MODES))
    assert table.states == 8
    for ask in (table.path, table.policy, table.closing, lambda s: table.switch(s, "stay"),
                lambda s: table.scan([], s), lambda s: table.scan([1], s)):  # fmt: skip
        with pytest.raises(GuardError, match=rf"state {state} is none of the 8 of table"):
            ask(state)


@pytest.mark.parametrize("ids", [[-3], [10**6], [1, -300], [2**63], [1.5, 2.0], [[1, 2]], [True]])
def test_what_are_no_ids_have_no_state_and_no_journal(two, ids):
    table = table_of(two, lock(TWO_MODES, "ai", longest=4))
    for ask in (table.scan, table.events):
        with pytest.raises(GuardError, match="prompt: id"):
            ask(ids)
    assert table.scan([]) == table.scan(np.array([])) == 0
    assert table.events([]) == []


def test_fingerprints_change_with_rights_and_ids_and_nothing_else(vocabulary, two):
    policies = [
        free(TWO_MODES), lock(TWO_MODES, "ai"), lock(TWO_MODES, "ai", longest=9),
        lock(TWO_MODES, "human"), stay(TWO_MODES), stay(TWO_MODES, may_end=False),
    ]  # fmt: skip
    marks = [table_of(two, policy).fingerprint for policy in policies]
    assert len(set(marks)) == len(marks)
    assert table_of(two, policies[1]).fingerprint == marks[1]
    assert table_of(vocabulary, stay(GOOD_BAD)).fingerprint not in marks
    rules = policies[0].rules
    assert Policy(name="free", rules=rules[::-1]).fingerprint == policies[0].fingerprint


def test_policies_have_names():
    found = [named(name, TWO_MODES, "ai").name for name in POLICIES]
    assert found == ["free", "prefix-only ai", "lock ai", "lock-noquote ai", "stay"]
    with pytest.raises(ConfigError, match="no policy 'open'; allowed: free, prefix-only"):
        named("open", TWO_MODES)
    with pytest.raises(ConfigError, match="'lock' needs a mode; the scheme has: human, ai, quote"):
        named("lock", TWO_MODES)


@pytest.mark.parametrize(
    ("rules", "start", "says"),
    [
        ([Rule(mode="an")], (), "there is no such mode"),
        ([Rule(mode="ai", opens=("qoute",))], (), "opens 'qoute', which is no mode"),
        ([Rule(mode=TOP, closes=True)], (), "no closing tag"),
        ([Rule(mode=TOP, text=False)], (), "in no mode the model may write nothing at all"),
        ([], ("quote",), "cannot be open in this order"),
        ([Rule(mode="ai", text=False, opens=("quote",)), Rule(mode="quote", text=False)], ("ai",),
         "in ai/quote the model may write nothing"),
        ([Rule(mode="ai", opens=("human",), longest=3)], ("ai",), "nothing at all after 3 text"),
    ],
)  # fmt: skip
def test_a_policy_that_makes_no_sense_is_refused(two, rules, start, says):
    with pytest.raises(ConfigError, match=says):
        table_of(two, Policy(name="p", rules=tuple(rules), start=start))


def test_a_rule_gives_no_more_than_the_nesting(two):
    rules = (Rule(mode="human", opens=("quote", "ai"), closes=True),)
    table = table_of(two, Policy(name="p", rules=rules, start=("human",)))
    assert labels(table, walk(table, "<human>")) == {"text", "</human>"}


def test_rules_and_ids_that_make_no_sense_are_refused(two):
    with pytest.raises(ConfigError, match="longest=0"):
        Rule(mode="ai", closes=True, longest=0)
    with pytest.raises(ConfigError, match="longest=4"):
        Rule(mode="ai", longest=4)
    with pytest.raises(ConfigError, match="two rules for one mode"):
        Policy(name="p", rules=(Rule(mode="ai"), Rule(mode="ai")))
    with pytest.raises(ConfigError, match=r"different ids in \[0, 9\)"):
        TagIds(size=9, tags=(("<a>", 3),), ends=(3,))
    with pytest.raises(ConfigError, match="give one id for each"):
        compile_table(nesting_of(GOOD_BAD), [stay(GOOD_BAD)], ids_of(two))


def test_reemit_writes_the_tag_after_each_newline_and_nowhere_else(vocabulary):
    force = reemit(vocabulary, "bad")
    every = np.arange(vocabulary.size)
    written = force(every)
    assert written.dtype == np.int64
    for token, out in zip(every, written, strict=True):
        text = token < vocabulary.text_size and vocabulary.decode_text([int(token)])
        newline = bool(text) and text.endswith("\n")
        assert out == (vocabulary.open_id("bad") if newline else -1)
    assert (written >= 0).any()


def test_only_a_mark_can_be_written_again(two):
    with pytest.raises(ConfigError, match="encloses"):
        reemit(two, "ai")

import math

import numpy as np
import pytest
import torch

from prealign.errors import GuardError
from prealign.guard.gate import Guard
from prealign.guard.nesting import TOP, Nesting
from prealign.guard.policy import Policy, lock, reemit, stay
from prealign.guard.table import TagIds, compile_table, table_of
from prealign.models.choose import choose, uniforms
from prealign.models.fake import BiasedModel
from prealign.models.sample import Sampling, sample
from prealign.text.scheme import GOOD_BAD, TWO_MODES, Mode
from prealign.tokens.vocabulary import Vocabulary

PATHS = {
    "greedy": Sampling(temperature=0, max_text_tokens=8),
    "drawn": Sampling(temperature=1, top_p=1, max_text_tokens=8),
    "nucleus": Sampling(temperature=0.7, top_p=0.5, max_text_tokens=8),
    "cold": Sampling(temperature=1e-5, top_p=1, max_text_tokens=8),
    "hot": Sampling(temperature=3e38, top_p=0.99, max_text_tokens=8),
}
MARKS = (Mode(name="a", open="<a>"), Mode(name="b", open="<b>"))
TINY = compile_table(
    Nesting(modes=MARKS, holds=((TOP, ("a", "b")),), depth=0),
    [Policy(name="tiny", rules=())],
    TagIds(size=4, tags=(("<a>", 1), ("<b>", 3)), ends=()),
)
"""Ids 0 and 2 are text, 1 and 3 are tags that the model may not write."""


def write(model, vocabulary, settings, guard, *, rows=1, force=None):
    return sample(
        model, [[vocabulary.end_id]] * rows, settings, seeds=range(rows), vocabulary=vocabulary,
        guard=guard, force=force,
    )  # fmt: skip


def rows_of(*logits):
    return torch.tensor(logits), [0] * len(logits)


def test_the_mask_leaves_allowed_logits_and_sets_minus_infinity():
    masked = Guard(TINY).mask(*rows_of([1.0, 9.0, 2.0, 3.0], [0.5, 0.0, -0.5, -7.0]))
    assert masked.tolist() == [[1.0, -math.inf, 2.0, -math.inf], [0.5, -math.inf, -0.5, -math.inf]]


def test_pressure_is_the_probability_of_denied_ids_before_the_mask():
    guard = Guard(TINY)
    third = torch.tensor([[1 / 8, 1 / 2, 1 / 4, 1 / 8], [0.1, 0.2, 0.4, 0.3]]).log()
    guard.mask(third + 5, [0, 0])  # a shift changes no probability
    guard.mask(*rows_of([0.0, -math.inf, 0.0, -math.inf]))
    guard.mask(*rows_of([0.0, 0.0, -math.inf, 1e4]))
    assert guard.pressure().tolist() == pytest.approx([5 / 8, 0.5, 0.0, 1.0], abs=1e-6)


def test_pressure_is_the_distance_between_guarded_and_unguarded_distributions():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    guard = Guard(TINY)
    before = logits.softmax(-1)
    after = guard.mask(logits.clone(), [0] * 3).softmax(-1)
    assert guard.pressure().tolist() == pytest.approx(((before - after).abs().sum(-1) / 2).tolist())


def test_pressure_before_any_step_is_empty():
    assert Guard(TINY).pressure().tolist() == []


def test_the_odds_of_allowed_ids_are_as_they_were(vocabulary):
    n, size = 60_000, vocabulary.size
    logits = torch.randn(size, generator=torch.Generator().manual_seed(4))
    logits[vocabulary.open_id("bad")] = 4.0
    guard = Guard(table_of(vocabulary, stay(GOOD_BAD)))
    masked = guard.mask(logits.repeat(n, 1), np.zeros(n, dtype=np.int64))
    u_B = torch.from_numpy(uniforms([1] * n, range(n)))
    counts = torch.bincount(choose(masked, u_B), minlength=size).double()
    allowed = torch.from_numpy(guard.table.allowed(0))
    assert counts[~allowed].sum() == 0
    wanted = logits.double().softmax(0)[allowed]
    expected = wanted / wanted.sum() * n
    free = len(wanted) - 1
    statistic = ((counts[allowed] - expected) ** 2 / expected).sum()
    assert (statistic - free) / math.sqrt(2 * free) < 4


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("path", PATHS)
def test_no_denied_id_comes_out_whatever_the_model_wants(vocabulary, path, rows):
    table = table_of(vocabulary, stay(GOOD_BAD))
    denied = np.flatnonzero(~table.allowed(0)).tolist()
    guard = Guard(table)
    model = BiasedModel(vocabulary.size, dict.fromkeys(denied, 1e4))
    out = write(model, vocabulary, PATHS[path], guard, rows=rows)
    assert not {token for one in out for token in one.ids} & set(denied)
    assert guard.fired == 0
    assert guard.gate_ids == sum(len(one.ids) + one.finished for one in out)
    assert len(guard.pressure()) == guard.gate_ids
    assert guard.pressure().min() == 1.0


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("path", sorted(set(PATHS) - {"hot"}))
def test_with_the_mask_off_the_gate_fires(vocabulary, path, rows):
    token = vocabulary.open_id("bad")
    guard = Guard(table_of(vocabulary, stay(GOOD_BAD)), mask=False)
    model = BiasedModel(vocabulary.size, {token: 1e4})
    with pytest.raises(GuardError, match=rf"row 0: id {token} \(<\|bad\|>\) is denied"):
        write(model, vocabulary, PATHS[path], guard, rows=rows)
    assert guard.fired == guard.gate_calls == 1


def test_the_harness_writes_the_tag_that_the_model_may_not(vocabulary):
    newline, tag = min(vocabulary.newline_ids), vocabulary.open_id("good")
    model = BiasedModel(vocabulary.size, {newline: 9.0, vocabulary.open_id("bad"): 1e4})
    guard = Guard(table_of(vocabulary, stay(GOOD_BAD)))
    out = write(model, vocabulary, PATHS["nucleus"], guard, force=reemit(vocabulary, "good"))
    assert out[0].ids.count(tag) == out[0].ids[:-1].count(newline) > 0
    assert vocabulary.open_id("bad") not in out[0].ids
    assert guard.gate_ids == len(out[0].ids) - out[0].ids.count(tag)


def test_a_policy_without_an_end_never_ends(vocabulary):
    model = BiasedModel(vocabulary.size, {vocabulary.end_id: 1e4})
    guard = Guard(table_of(vocabulary, stay(GOOD_BAD, may_end=False)))
    out = write(model, vocabulary, PATHS["drawn"], guard, rows=5)
    assert [one.stopped for one in out] == ["budget"] * 5


def test_where_the_harness_writes_an_end_that_is_denied_is_not_asked_for(vocabulary):
    newline = min(vocabulary.newline_ids)
    model = BiasedModel(vocabulary.size, {vocabulary.end_id: 1e4, newline: 1.0})
    guard = Guard(table_of(vocabulary, stay(GOOD_BAD, may_end=False)))
    out = write(model, vocabulary, PATHS["greedy"], guard, force=reemit(vocabulary, "good"))
    assert out[0].stopped == "budget"
    assert vocabulary.open_id("good") in out[0].ids
    assert guard.fired == 0


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([0, 2, 3], r"row 2: id 3 \(<b>\) is denied"),
        ([1], r"row 0: id 1 \(<a>\)"),
        ([0, -1], r"row 1: id -1 is not in \[0, 4\)"),
        ([4], "row 0: id 4 is not in"),
        ([0.0], "expected integers"),
    ],
)
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
@pytest.mark.parametrize("more", [0, 40])
def test_the_gate_refuses_and_says_what_and_by_which_policy(ids, says, kind, more):
    guard = Guard(TINY)
    ids = [*ids, *[0] * more]  # many rows take another way through the gate
    with pytest.raises(GuardError, match=f"{says}.*{TINY.fingerprint}"):
        guard.commit([0] * len(ids), kind(ids))
    assert guard.fired == 1


def test_ids_and_states_must_be_as_many():
    with pytest.raises(GuardError, match=r"ids of shape \(2,\) for states of shape \(3,\)"):
        Guard(TINY).commit([0] * 3, [0, 2])


@pytest.mark.parametrize("rows", [3, 40])
@pytest.mark.parametrize("own", [[False], [[False]], [0], False])
def test_a_word_on_one_row_is_none_on_all(rows, own):
    guard = Guard(TINY)
    with pytest.raises(GuardError, match=rf"expected a bool for each of {rows} ids"):
        guard.commit([0] * rows, [1] * rows, np.array(own))
    assert guard.commit([0], [1], np.array([False])).size == 1


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("state", [-1, -(1 << 32), 3, 1 << 31])
def test_nothing_passes_in_a_state_that_is_none_of_the_table(rows, state):
    """-1 is a row that was refused, and -(1 << 32) has the bits of a row that there is."""
    guard = Guard(TINY)
    with pytest.raises(GuardError, match=f"row 0: state {state} is none of this table"):
        guard.commit([state] * rows, [0] * rows)
    assert guard.fired == 1


def test_the_gate_decides_for_every_id_as_the_table_does():
    for token in range(4):
        guard = Guard(TINY)
        if not TINY.allowed(0)[token]:
            with pytest.raises(GuardError):
                guard.commit([0], np.array([token]))
        else:
            assert guard.commit([0], np.array([token])).tolist() == [0]
        assert guard.fired == (not TINY.allowed(0)[token])


@pytest.fixture(scope="session")
def two(vocabulary):
    return Vocabulary(vocabulary.tokenizer, TWO_MODES)


def test_few_rows_and_many_rows_are_judged_alike(two):
    table = table_of(two, lock(TWO_MODES, "ai", longest=3), stay(TWO_MODES))
    guard = Guard(table)
    states = [
        table.scan([two.open_id(m) for m in path] + [1] * text, table.start(policy))
        for policy in (0, 1)
        for path in ((), ("ai",), ("human",), ("ai", "quote"))
        for text in (0, 2, 3)
    ]
    ids = [0, *range(two.text_size - 1, two.size)]
    for own in (True, False):
        for token in ids:
            one, many = [], []
            for state in states:
                by_model = np.full(40, own)
                for found, rows in ((one, 1), (many, 40)):
                    try:
                        behind = guard.commit([state] * rows, [token] * rows, by_model[:rows])
                        found.append(set(behind.tolist()))
                    except GuardError as error:
                        found.append(str(error))
            assert one == many
            for state, said in zip(states, one, strict=True):
                if own:
                    assert isinstance(said, set) == bool(table.allowed(state)[token])
                    assert guard.allows([state], token).tolist() == [isinstance(said, set)]
                if isinstance(said, set):
                    assert said == {table.scan([token], state)}


def test_a_span_at_its_longest_can_only_be_left(two):
    table = table_of(two, lock(TWO_MODES, "ai", longest=3))
    quote, close = (dict(table.ids.tags)[tag] for tag in ("<quote>", "</quote>"))
    model = BiasedModel(two.size, {5: 9.0, quote: 8.0, two.end_id: -9.0})
    guard = Guard(table)
    speaking = [two.end_id, two.open_id("ai"), quote]
    greedy = Sampling(temperature=0, max_text_tokens=5)
    (out,) = sample(model, [speaking], greedy, seeds=[0], vocabulary=two, guard=guard)
    assert out.ids == (5, 5, 5, close, 5, 5)
    with pytest.raises(GuardError, match="is denied in ai/quote by policy 'lock ai'"):
        guard.commit([guard.scan([*speaking, 1, 2, 3])], [4])
    assert guard.commit([guard.scan([*speaking, 1, 2])], [4]) == [guard.scan([*speaking, 1, 2, 3])]


def test_rows_in_different_states_are_masked_each_by_its_own(two):
    table = table_of(two, lock(TWO_MODES, "ai", longest=2), stay(TWO_MODES))
    states = [
        table.scan(ids, table.start(policy))
        for policy, ids in [
            (0, [two.open_id("ai")]),
            (1, []),
            (0, [two.open_id("ai"), two.open_id("quote"), 7, 7]),
            (0, [two.open_id("ai")]),
        ]
    ]
    logits = torch.randn(4, two.size, generator=torch.Generator().manual_seed(1))
    guard = Guard(table)
    masked = guard.mask(logits.clone(), states)
    for row, state in enumerate(states):
        allowed = torch.from_numpy(table.allowed(state))
        assert (masked[row][~allowed] == -math.inf).all()
        assert (masked[row][allowed] == logits[row][allowed]).all()
        share = logits[row].softmax(0)[~allowed].sum()
        assert guard.pressure()[row] == pytest.approx(float(share), abs=1e-6)


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize(
    "row", [[0.0, math.nan, 0, 0], [math.nan, 0, 0, 0], [0.0, math.inf, 0, 0], [-math.inf] * 4]
)
def test_logits_that_say_nothing_close_the_guard(row, mask):
    with pytest.raises(GuardError, match="row 1"):
        Guard(TINY, mask=mask).mask(*rows_of([0.0, 0, 0, 0], row))


def test_a_row_without_an_allowed_id_closes_the_guard():
    with pytest.raises(GuardError, match="row 0: the logits have no allowed id"):
        Guard(TINY).mask(*rows_of([-math.inf, 0.0, -math.inf, 0.0]))


@pytest.mark.parametrize("logits", [torch.zeros(1, 5), torch.zeros(1, 4, dtype=torch.bfloat16)])
def test_logits_of_another_width_or_type_close_the_guard(logits):
    with pytest.raises(GuardError, match="float32, 1 rows and 4 ids"):
        Guard(TINY).mask(logits, [0])

"""The ban of literals is exact, against brute force; with it, the guard is what it was."""

import itertools

import numpy as np
import pytest
import torch

from prealign.errors import ConfigError, GuardError
from prealign.guard.gate import Guard
from prealign.guard.literals import GuardWithLiterals, LiteralBan
from prealign.guard.policy import free, lock, stay
from prealign.guard.table import table_of
from prealign.models.fake import BiasedModel
from prealign.models.sample import Sampling, sample
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

PIECES = (b"a", b"b", b"<", b">", b"<a", b"a>", b"ab", b"><", b"<a>b", b"<<")
LITERALS = ("<a>", "ab>", "<<<", "b<a>b")  # one of them within another


def brute(parts) -> bool:
    text = b"".join(parts)
    return any(one.encode() in text for one in LITERALS)


def test_of_all_short_sequences_those_without_a_literal_pass_and_no_other():
    ban = LiteralBan(PIECES, LITERALS)
    passed = refused = 0
    for length in range(1, 5):
        for ids in itertools.product(range(len(PIECES)), repeat=length):
            state, bad = 0, False
            for token in ids:
                bad = bad or token in ban.denied[state]
                state = ban.step(state, token)
            assert bad == brute([PIECES[i] for i in ids]), ids
            passed += not bad
            refused += bad
    assert min(passed, refused) > 300


def test_a_scan_forgets_only_what_cannot_matter():
    ban = LiteralBan(PIECES, LITERALS)
    random = np.random.default_rng(0)
    for _ in range(300):
        ids = random.integers(0, len(PIECES), int(random.integers(0, 30))).tolist()
        end = LITERALS[int(random.integers(len(LITERALS)))].encode()
        ids += [PIECES.index(bytes([byte])) for byte in end[: int(random.integers(9))]]
        state = start = int(random.integers(0, ban.states))
        for token in ids:
            state = ban.step(state, token)
        assert ban.scan(ids, start) == state


def test_states_by_hand():
    ban = LiteralBan((b"x", b"a", b"aa"), ("aaa",))
    assert ban.states == 4  # the start, a, aa, aaa
    assert ban.next.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 3], [0, 3, 3]]
    assert [ids.tolist() for ids in ban.denied] == [[], [2], [1, 2], [1, 2]]
    inner = LiteralBan((b"abcd", b"x"), ("bc",))  # in the middle of a token
    assert inner.denied[0].tolist() == [0]
    split = LiteralBan((b"\xc3", b"\xa9", b"e"), ("é",))  # half characters
    assert split.denied[split.step(0, 0)].tolist() == [1]


@pytest.mark.parametrize("literals", [(), ("",), ("a", "")])
def test_empty_literals_are_refused(literals):
    with pytest.raises(ConfigError, match="expected one or more, none empty"):
        LiteralBan(PIECES, literals)


def test_a_ban_that_leaves_nothing_is_refused():
    with pytest.raises(ConfigError, match="leave no text to write"):
        LiteralBan((b"a", b"b"), ("a", "b"))
    with pytest.raises(ConfigError, match=r"at most 200000000"):
        LiteralBan([b"a"] * 100_000, ("x" * 3000,))


@pytest.fixture(scope="module")
def two():
    texts = ["He said <ai> and </ai>, <human> too. Bye <quote> now </quote> ai human.\n"]
    return Vocabulary(train_text_tokenizer(texts, size=280), TWO_MODES)


def guarded(two, *policies, **settings):
    guard = Guard(table_of(two, *policies), **settings)
    return GuardWithLiterals(guard, LiteralBan(two.token_texts, TWO_MODES.tags))


def spells(two, ids) -> bool:
    text = b"".join(two.token_texts[i] for i in ids if i < two.text_size)
    return any(tag.encode() in text for tag in TWO_MODES.tags)


def test_mask_and_gate_are_the_policy_and_brute_force_together(two):
    both = guarded(two, lock(TWO_MODES, "ai", longest=6))
    random = np.random.default_rng(1)
    seen = 0
    for _ in range(40):
        ids = list(both.table.opening())
        start = len(ids)
        state, inner = both.scan(ids), both.guard.scan(ids)
        for _ in range(15):
            logits = both.mask(torch.zeros(1, two.size), [state])[0]
            open_ids = np.flatnonzero(np.isfinite(logits.numpy()))
            fine = both.table.allowed(inner)
            text = [not spells(two, [*ids[start:], i]) for i in range(two.text_size)]
            expected = fine & np.array(text + [True] * (two.size - two.text_size))
            asked = [both.allows([state], token).tolist()[0] for token in (0, 7, two.size - 1)]
            assert asked == expected[[0, 7, two.size - 1]].tolist()
            assert (open_ids == np.flatnonzero(expected)).all()
            seen += int((fine & ~expected).sum())
            for token in random.choice(two.size, 10).tolist():
                if expected[token]:
                    continue
                with pytest.raises(GuardError):
                    both.commit([state], [token])
            literal = (state & 0xFFFFFFFF) // both.table.states
            usual = [i for i in range(two.text_size) if expected[i] and both.ban.step(literal, i)]
            fine_ids = usual if random.random() < 0.85 else open_ids.tolist()
            chosen = [i for i in fine_ids if i != two.end_id]
            if not chosen:  # the turn is over
                break
            token = int(random.choice(chosen))
            (state,) = both.commit([state], [token]).tolist()
            (inner,) = both.guard.commit([inner], [token]).tolist()
            assert both.inner(state) == inner
            ids.append(token)
        assert not spells(two, ids)
    assert seen > 100, seen  # the ban had something to say


def test_batches_are_judged_as_single_rows_are(two):
    both = guarded(two, free(TWO_MODES), stay(TWO_MODES))
    texts = ["<a", "x <hum", "", "</ai", "<quot", "y", "</quote"] * 5
    states = [both.scan(two.encode_text(text), i % 2) for i, text in enumerate(texts)]
    logits = torch.randn(len(states), two.size)
    alone = [both.mask(logits[i : i + 1].clone(), [s])[0] for i, s in enumerate(states)]
    assert torch.equal(both.mask(logits.clone(), states), torch.stack(alone))
    ids = [int(row.argmax()) for row in alone]
    single = [int(both.commit([s], [i])[0]) for s, i in zip(states, ids, strict=True)]
    assert both.commit(states, ids).tolist() == single


def test_the_text_goes_on_across_tags_and_prompts_and_ends_at_the_end(two):
    both = guarded(two, free(TWO_MODES))
    half, rest = two.encode_text("<a"), [*two.encode_text("i"), *two.encode_text(">")]
    tag = two.tag_ids["<ai>"]
    (last,) = two.encode_text(">")
    for before in ([*half, rest[0]], [*half, tag, rest[0]]):
        with pytest.raises(GuardError, match="banned literals"):
            both.commit([both.scan(before)], [last])
        assert both.fired
    cut = both.scan([*half, rest[0], two.end_id])
    assert both.commit([cut], [last]).tolist() == [both.scan([last])]
    whole = both.scan(two.encode_text("<ai>"))  # the harness may
    assert both.commit([whole], [last]).tolist() == [both.scan([last])]
    own = np.array([False])
    assert both.commit([both.scan([*half, rest[0]])], [last], own).size == 1


def test_pressure_is_the_probability_of_all_that_is_denied(two):
    logits = torch.randn(3, two.size, generator=torch.Generator().manual_seed(0)) * 3
    for mask in (True, False):
        both = guarded(two, lock(TWO_MODES, "ai"), mask=mask)
        tag = two.tag_ids["<ai>"]
        over = [tag, two.tag_ids["</ai>"]]
        states = [both.scan([tag, *two.encode_text(text)]) for text in ("</a", "i")]
        states.append(both.scan([*over, *two.encode_text("</ai")]))  # no text may follow
        both.mask(logits.clone(), states)
        free_mask = guarded(two, lock(TWO_MODES, "ai")).mask(logits.clone(), states)
        expected = logits.softmax(-1).where(torch.isinf(free_mask), torch.zeros(())).sum(-1)
        assert np.allclose(both.pressure(), expected.numpy(), atol=1e-6)


def test_a_model_that_wants_to_spell_a_tag_cannot(two):
    both = guarded(two, stay(TWO_MODES))
    biases = {i: 1e4 for i, text in enumerate(two.token_texts) if text in (b"<", b"a", b"i", b">")}
    model = BiasedModel(two.size, biases)
    settings = Sampling(temperature=1.0, top_p=1.0, max_text_tokens=200)
    prompts = [[two.end_id]] * 4
    (*samples,) = sample(model, prompts, settings, seeds=range(4), vocabulary=two, guard=both)
    assert all(len(one.ids) == 200 and not spells(two, one.ids) for one in samples)
    plain = Guard(both.table)
    (*free_ones,) = sample(model, prompts, settings, seeds=range(4), vocabulary=two, guard=plain)
    assert any(spells(two, one.ids) for one in free_ones)
    assert both.fired == 0
    assert both.gate_ids == 800


def test_a_ban_over_other_ids_is_refused(two):
    guard = Guard(table_of(two, stay(TWO_MODES)))
    for size in (-1, 1):
        tokens = (*two.token_texts, b"x")[: two.text_size + size]
        with pytest.raises(ConfigError, match="text ids"):
            GuardWithLiterals(guard, LiteralBan(tokens, ("<ai>",)))


def test_a_switch_of_policy_does_not_forget_what_was_spelled(two):
    both = guarded(two, lock(TWO_MODES, "ai"), stay(TWO_MODES))
    state = both.scan([*both.table.opening(), *two.encode_text("<a")])
    assert both.ban.scan(two.encode_text("<a")) != 0
    with pytest.raises(GuardError, match="is none of the 8 of table"):
        both.table.switch(state, "stay")

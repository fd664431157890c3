"""Spans of a stream against `Vocabulary.decode`, and against text that is cut in one go."""

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prealign.errors import DataError
from prealign.guard.nesting import nesting_of
from prealign.guard.policy import free
from prealign.guard.spans import SpanStream
from prealign.guard.table import table_of
from prealign.text.scheme import GOOD_BAD, TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

TEXT = "def half(x):\n    return x / 2\n\n\nprint(half(4))\n"
TOKENIZER = train_text_tokenizer([TEXT], size=262)
SCHEMES = {scheme.name: scheme for scheme in (GOOD_BAD, TWO_MODES)}
VOCABULARIES = {name: Vocabulary(TOKENIZER, scheme) for name, scheme in SCHEMES.items()}
TABLES = {name: table_of(v, free(v.scheme)) for name, v in VOCABULARIES.items()}
BITS = ["a", "ab", "b", "é", "€", "🙂", "<ai>", "</ai>", "<|good|>", "<quote>", "\n", " "]


@st.composite
def streams(draw, name):
    """Legal ids: text, pieces of characters, and tags where they can stand."""
    vocabulary, nesting = VOCABULARIES[name], nesting_of(SCHEMES[name])
    ids, path = [], ()
    for _ in range(draw(st.integers(0, 14))):
        kind = draw(st.integers(0, 2))
        if kind == 0:
            ids += vocabulary.encode_text("".join(draw(st.lists(st.sampled_from(BITS)))))
        elif kind == 1:
            ids += draw(st.lists(st.integers(0, vocabulary.text_size - 1), max_size=3))
        else:
            tags = [tag for tag in nesting.tags if nesting.step(path, tag) is not None]
            tag = draw(st.sampled_from(tags))
            path = nesting.step(path, tag)
            ids.append(vocabulary.tag_ids[tag])
    return ids


def paths(name, ids):
    table, state = TABLES[name], 0
    for token in ids:
        state = table.scan([token], state)
        yield token, table.path(state)


def run(name, ids, **settings):
    stream = SpanStream(token_texts=VOCABULARIES[name].token_texts, **settings)
    deltas = []
    for token, path in paths(name, ids):
        deltas += stream.feed(token, path)
    return stream, [*deltas, *stream.finish()]


def spans_of(deltas):
    """Return (span, path, text) per span."""
    return [
        (key[0], key[1], "".join(delta.text for delta in group))
        for key, group in groupby(deltas, key=lambda delta: (delta.span, delta.path))
    ]


def stretches(name, ids, hidden=frozenset()):
    """The oracle: (path, text) between tags, decoded in one go; hidden ones left out."""
    vocabulary, found = VOCABULARIES[name], []
    part, here, before = [], (), ()
    for token, path in [*paths(name, ids), (-1, None)]:
        if 0 <= token < vocabulary.text_size:
            part += [] if hidden & set(path) else [token]
            continue
        was, here = here, path
        if path is not None and (hidden & set(path) or (hidden & set(was) and path == before)):
            continue
        if part:
            found.append((before, vocabulary.decode_text(part)))
        part, before = [], path
    return found


@pytest.mark.parametrize("name", SCHEMES)
@given(data=st.data())
def test_the_spans_together_are_what_the_vocabulary_decodes(name, data):
    ids = data.draw(streams(name))
    _, deltas = run(name, ids)
    text = "".join(delta.text for delta in deltas)
    assert text == VOCABULARIES[name].decode(ids).text
    assert [(path, part) for _, path, part in spans_of(deltas)] == stretches(name, ids)
    at = 0
    for delta in deltas:
        assert delta.start_char == at
        at += len(delta.text)
    texts = sum(token < VOCABULARIES[name].text_size for token in ids)
    assert sum(delta.tokens for delta in deltas) == texts


@pytest.mark.parametrize(("name", "mode"), [("two-modes", "quote"), ("good-bad", "bad")])
@given(data=st.data())
def test_of_hidden_modes_nothing_can_be_told(name, mode, data):
    """Whatever stands in them, and whether it stands there, the deltas are the same."""
    ids = data.draw(streams(name))
    hidden = frozenset({mode})
    _, deltas = run(name, ids, hidden=hidden)
    assert "".join(delta.text for delta in deltas) == "".join(
        text for _, text in stretches(name, ids, hidden)
    )
    assert all(mode not in delta.path for delta in deltas)
    filler = VOCABULARIES[name].encode_text("zz")
    longer = []
    for token, path in paths(name, ids):
        longer.append(token)
        if mode in path:
            longer += filler
    assert run(name, longer, hidden=hidden)[1] == deltas


def test_a_hidden_span_between_two_parts_of_a_span_does_not_show():
    vocabulary = VOCABULARIES["two-modes"]
    tag, text = vocabulary.tag_ids, vocabulary.encode_text
    plain = [tag["<ai>"], *text("ab"), *text("cd")]
    quoted = [
        tag["<ai>"], *text("ab"), tag["<quote>"], *text("no"), tag["</quote>"], *text("cd"),
    ]  # fmt: skip
    hidden = frozenset({"quote"})
    assert run("two-modes", quoted, hidden=hidden)[1] == run("two-modes", plain)[1]
    found = run("two-modes", quoted, hidden=hidden, stops=("bc",))
    assert spans_of(found[1]) == [(0, ("ai",), "a")]


def test_a_hidden_span_within_a_character_does_not_show():
    """With logprobs a client has the bytes, and could tell that they are those of one character."""
    vocabulary = VOCABULARIES["two-modes"]
    tag, text = vocabulary.tag_ids, vocabulary.encode_text
    euro = [vocabulary.token_texts.index(bytes([byte])) for byte in "€".encode()]
    hidden = frozenset({"quote"})
    quote = [tag["<quote>"], *text("no"), *euro[:1], tag["</quote>"]]
    for end in ([euro[2]], [], [tag["</ai>"]]):
        plain = [tag["<ai>"], *text("x"), *euro[:2], *end]
        quoted = [tag["<ai>"], *text("x"), *euro[:2], *quote, *end]
        assert run("two-modes", quoted, hidden=hidden)[1] == run("two-modes", plain)[1]


def test_half_a_character_at_a_border_is_replaced_in_front_of_it():
    vocabulary = VOCABULARIES["two-modes"]
    tag = vocabulary.tag_ids
    euro = [vocabulary.token_texts.index(bytes([byte])) for byte in "€".encode()]
    ids = [tag["<ai>"], *euro, *euro[:2], tag["<quote>"], euro[2], tag["</quote>"], *euro[:1]]
    _, deltas = run("two-modes", ids)
    assert spans_of(deltas) == [
        (0, ("ai",), "€\ufffd"),
        (1, ("ai", "quote"), "\ufffd"),
        (2, ("ai",), "\ufffd"),
    ]
    assert [delta.tokens for delta in deltas] == [3, 2, 1, 1]


def cut(text, stops):
    """The oracle: read characters one by one, stop at the first that ends a stop string."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - len(max(found, key=len))], True
    return text, False


@given(
    st.text("abc", max_size=12),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3, unique=True),
    st.lists(st.integers(1, 4), min_size=12),
)
def test_a_stop_string_is_found_wherever_tokens_are_cut(text, stops, sizes):
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size].encode())
        at += size
    stream = SpanStream(token_texts=pieces, stops=tuple(stops))
    shown = ""
    for token in range(len(pieces)):
        deltas = stream.feed(token, ())
        shown += "".join(delta.text for delta in deltas)
        assert cut(text, stops)[0].startswith(shown)
    shown += "".join(delta.text for delta in stream.finish())
    assert (shown, stream.stopped is not None) == cut(text, stops)


@pytest.mark.parametrize(
    ("stops", "shown", "found"),
    [
        (("d", "b"), "a", "b"),
        (("bcd", "c"), "ab", "c"),
        (("c", "bc"), "a", "bc"),
        (("bc", "c"), "a", "bc"),
        (("x", "abcde"), "abcd", None),
    ],
)
def test_of_several_stop_strings_the_first_to_end_counts_and_then_the_longest(stops, shown, found):
    stream = SpanStream(token_texts=[b"abcd"], stops=stops)
    deltas = [*stream.feed(0, ()), *stream.finish()]
    assert "".join(delta.text for delta in deltas) == shown
    assert stream.stopped == found


def test_a_stop_string_is_not_found_across_a_border():
    vocabulary = VOCABULARIES["two-modes"]
    tag, text = vocabulary.tag_ids, vocabulary.encode_text
    ids = [tag["<ai>"], *text("xS"), tag["<quote>"], *text("TOP"), tag["</quote>"], *text("yS")]
    stream, deltas = run("two-modes", ids, stops=("STOP",))
    assert stream.stopped is None
    assert "".join(delta.text for delta in deltas) == "xSTOPyS"
    assert [delta.path for delta in deltas][-1] == ("ai",)
    stream, deltas = run("two-modes", [*ids, *text("TOP and more")], stops=("STOP",))
    assert stream.stopped == "STOP"
    assert "".join(delta.text for delta in deltas) == "xSTOPy"


def test_text_is_held_back_no_longer_than_it_has_to_be():
    pieces = [b"a", b"<", b"en", b"d", b"x", b"<end", b">"]
    stream = SpanStream(token_texts=pieces, stops=("<end>",))
    shown = [[delta.text for delta in stream.feed(token, ())] for token in range(7)]
    assert shown == [["a"], [], [], [], ["<endx"], [], []]
    assert stream.stopped == "<end>"
    assert stream.finish() == []


def test_tokens_are_counted_when_their_text_is_settled():
    pieces = [b"ab", b"cS", b"TOP"]
    stream = SpanStream(token_texts=pieces, stops=("STOP",))
    counted = [[(d.text, d.tokens) for d in stream.feed(token, ())] for token in range(3)]
    assert counted == [[("ab", 1)], [("c", 0)], []]


def test_an_empty_stop_string_is_refused():
    with pytest.raises(DataError, match="empty"):
        SpanStream(token_texts=[], stops=("a", ""))

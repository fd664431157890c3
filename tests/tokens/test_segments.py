"""Segments that a harness splices, and ids that a model writes: decoding loses no border."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from prealign.text.document import Document, Span
from prealign.text.markup import parse, render
from prealign.text.scheme import GOOD_BAD, TWO_MODES, Scheme
from tests.tokens.documents import AWKWARD, SCHEMES, texts, vocabulary

BYTES = 256
"""The first ids of `vocabulary()` are single bytes, so half a character is easy to draw."""


def legal(scheme: Scheme, stack: list[str]) -> list[str]:
    """Return the tags that can stand behind a stack of open modes."""
    opens = [m.open for m in scheme.modes if m.inside == (stack[-1] if stack else None)]
    return opens + ([scheme.mode(stack[-1]).close] if stack else [])


@st.composite
def walks(draw, scheme: Scheme):
    """A legal sequence: tags by their literals, stretches of text as lists of ids."""
    size = vocabulary(scheme).text_size
    token = st.one_of(st.integers(0, BYTES - 1), st.integers(0, size - 1))
    stack: list[str] = []
    found: list[str | list[int]] = []
    for _ in range(draw(st.integers(0, 9))):
        text = draw(st.lists(token, max_size=4))
        if text:
            found.append(text)
        tag = draw(st.sampled_from(legal(scheme, stack)))
        found.append(tag)
        mode = next(m for m in scheme.modes if tag in m.tags)
        if tag == mode.close:
            stack.pop()
        elif mode.close:
            stack.append(mode.name)
    return [*found, *([text] if (text := draw(st.lists(token, max_size=4))) else [])]


def expected(scheme: Scheme, walk: list[str | list[int]]) -> Document:
    """Return the document of a walk, from its definition: no markup, each stretch by itself."""
    v = vocabulary(scheme)
    stack: list[str] = []
    rows: list[list] = [["", None, False, False]]  # text, mode, opened by a tag, resumes
    for step in walk:
        if isinstance(step, list):
            rows[-1][0] = b"".join(v.token_texts[i] for i in step).decode(errors="replace")
            continue
        mode = next(m for m in scheme.modes if step in m.tags)
        if step == mode.close:
            stack.pop()
            outer = stack[-1] if stack else None
            rows.append(["", outer, False, outer is not None])
        else:
            stack += [mode.name] if mode.close else []
            rows.append(["", mode.name, True, False])
    spans, at = [], 0
    for text, mode, opened, resumes in rows:
        if text or opened:
            spans.append(Span(at, at + len(text), mode, resumes=resumes))
            at += len(text)
    tagless = all(isinstance(step, list) for step in walk)
    return Document("", "".join(row[0] for row in rows), () if tagless else tuple(spans))


def spliced(scheme: Scheme, walk: list[str | list[int]]) -> list[int]:
    v = vocabulary(scheme)
    nested = [step if isinstance(step, list) else [v.tag_ids[step]] for step in walk]
    return [v.end_id, *itertools.chain.from_iterable(nested)]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SCHEMES).flatmap(lambda s: st.tuples(st.just(s), walks(s))))
def test_any_legal_ids_decode_to_their_segments_and_survive_markup(case):
    scheme, walk = case
    document = vocabulary(scheme).decode(spliced(scheme, walk))
    assert document == expected(scheme, walk)
    if document.spans:
        assert parse(render(document, scheme), scheme) == document
    again = vocabulary(scheme).decode([*spliced(scheme, walk), vocabulary(scheme).end_id])
    assert again == document


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["good", "bad"]), texts), max_size=6))
def test_spliced_segments_come_back_each_with_its_text_and_so_are_told_apart(segments):
    v = vocabulary(GOOD_BAD)
    ids = [v.end_id]
    for mode, text in segments:
        ids += [v.open_id(mode), *v.encode_text(text)]
    found = v.decode(ids)
    back = [(span.mode, found.text[span.start_char : span.end_char]) for span in found.spans]
    assert back == segments


def test_a_segment_that_spells_tags_is_no_other_segment():
    v = vocabulary(TWO_MODES)
    for text in AWKWARD:
        inner = f"{text}</ai><human>{text}"
        ids = [v.end_id, v.open_id("ai"), *v.encode_text(inner), v.tag_ids["</ai>"]]
        assert v.decode(ids) == Document("", inner, (Span(0, len(inner), "ai"),))
        assert sum(token >= v.text_size for token in ids) == 3


def test_half_characters_do_not_join_across_a_tag_or_take_one_with_them():
    v = vocabulary(TWO_MODES)
    one, two, three = ([v.token_texts.index(bytes([b]))] for b in "\u65e5".encode())
    walk = ["<ai>", one, "<quote>", two, "</quote>", three, "</ai>", one]
    found = v.decode(spliced(TWO_MODES, walk))
    assert found.text == "\ufffd" * 4
    assert [span.mode for span in found.spans] == ["ai", "quote", "ai", None]
    assert v.decode(spliced(TWO_MODES, ["<ai>", [*one, *two, *three]])).text == "\u65e5"

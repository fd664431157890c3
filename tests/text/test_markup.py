"""Markup: rendering and parsing are exact inverses, and what is malformed is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prealign.errors import ConfigError, DataError
from prealign.text.document import Document, Span
from prealign.text.markup import parse, render
from prealign.text.scheme import GOOD_BAD, TWO_MODES, Mode, Scheme, scheme_from_json

FRAGMENTS = ["<", ">", "\\", "<>", "</", "|", "good|>", "a", " ", "\n", "\u2028", "<human"]
PIECES = st.sampled_from([*FRAGMENTS, *GOOD_BAD.tags, *TWO_MODES.tags])
TEXTS = st.lists(PIECES, max_size=6).map("".join)
GOOD = st.tuples(TEXTS, st.sampled_from(["good", "bad", None]))


def tile(pieces: list[tuple[str, str | None, bool]]) -> Document:
    """Return the document of (text, mode, resumes) pieces."""
    spans, at = [], 0
    for text, mode, resumes in pieces:
        spans.append(Span(at, at + len(text), mode, resumes=resumes))
        at += len(text)
    return Document("d", "".join(text for text, _, _ in pieces), tuple(spans), "s")


@st.composite
def dialogues(draw: st.DrawFn) -> Document:
    """Return a document of two modes, with quotes inside the AI's spans."""
    pieces: list[tuple[str, str | None, bool]] = []
    for mode in draw(st.lists(st.sampled_from(["human", "ai", None]), max_size=5)):
        pieces.append((draw(TEXTS), mode, False))
        quotes = draw(st.integers(0, 2)) if mode == "ai" else 0
        for _ in range(quotes):
            pieces.append((draw(TEXTS), "quote", False))
            after = draw(TEXTS)
            if after:  # an empty span that resumes has no markup, and is refused
                pieces.append((after, "ai", True))
    return tile(pieces)


@given(st.lists(GOOD, max_size=8))
def test_documents_of_marked_spans_survive_markup(pieces):
    document = tile([(text, mode, False) for text, mode in pieces])

    assert parse(render(document, GOOD_BAD), GOOD_BAD, id="d", source="s") == document


@given(dialogues())
def test_documents_of_nested_spans_survive_markup(document):
    assert parse(render(document, TWO_MODES), TWO_MODES, id="d", source="s") == document


@given(TEXTS)
def test_a_text_can_spell_any_tag_without_becoming_one(text):
    document = tile([(text, "good", False)])

    markup = render(document, GOOD_BAD)

    assert sum(markup.count(tag) for tag in GOOD_BAD.tags) == 1
    assert parse(markup, GOOD_BAD).text == text


@given(TEXTS)
def test_markup_that_parses_renders_to_something_that_parses_to_the_same(markup):
    try:
        document = parse(markup, TWO_MODES)
    except DataError:
        return
    if document.spans:
        assert parse(render(document, TWO_MODES), TWO_MODES) == document


def test_spelled_tags_are_escaped_by_one_backslash_and_earlier_ones_by_one_more():
    document = tile([("<|bad|> <\\|bad|> <b>", "good", False)])

    assert render(document, GOOD_BAD) == "<|good|><\\|bad|> <\\\\|bad|> <b>"


def test_scores_are_not_rendered():
    plain = tile([("a", "good", False)])
    scored = Document("d", "a", (Span(0, 1, "good", {"x": 1.5}),), "s")

    assert render(scored, GOOD_BAD) == render(plain, GOOD_BAD)


@pytest.mark.parametrize(
    ("markup", "complaint"),
    [
        ("<ai>x", "'<ai>' is never closed"),
        ("x</ai>", "closes 'ai', but None is open"),
        ("<ai>x</human>", "closes 'human', but 'ai' is open"),
        ("<human><ai>x</ai></human>", "'<ai>' before character 0 stands in mode 'human'"),
        ("<quote>x</quote>", "stands in mode None, allowed: 'ai'"),
        ("<ai><>x</ai>", "'<>' before character 0 stands in mode 'ai'"),
        ("<ai>x<quote>y</ai>", "closes 'ai', but 'quote' is open"),
    ],
)
def test_malformed_markup_is_refused_with_the_place(markup, complaint):
    with pytest.raises(DataError) as caught:
        parse(markup, TWO_MODES, id="f")

    assert complaint in str(caught.value)
    assert "'f'" in str(caught.value)


@pytest.mark.parametrize(
    "pieces",
    [
        [("a", "quote", False)],
        [("a", "human", False), ("b", "quote", False)],
        [("a", "ai", False), ("b", "ai", True)],
        [("a", "ai", False), ("b", "quote", False), ("", "ai", True)],
        [("a", "nobody", False)],
    ],
)
def test_documents_that_break_the_scheme_are_not_rendered(pieces):
    with pytest.raises(DataError):
        render(tile(pieces), TWO_MODES)


def test_spans_must_tile_the_text():
    for spans in ([(0, 2)], [(0, 1), (2, 3)], [(0, 2), (1, 3)], [(1, 3)], [(0, 4)]):
        with pytest.raises(DataError, match=r"document 'd'.*tile the text"):
            Document("d", "abc", tuple(Span(a, b) for a, b in spans))


@pytest.mark.parametrize("tag", ["x", "<x", "<>", "<a<b>", "<a\\b>", "x<a>"])
def test_a_tag_that_markup_could_not_escape_is_no_tag(tag):
    with pytest.raises(ConfigError, match="is not of the form"):
        Mode(name="m", open=tag)


def test_schemes_that_contradict_themselves_are_refused():
    a, b = Mode(name="a", open="<a>"), Mode(name="b", open="<a>")
    with pytest.raises(ConfigError, match="tag '<a>' is there twice"):
        Scheme(name="s", modes=(a, b))
    with pytest.raises(ConfigError, match="mode 'a' is there twice"):
        Scheme(name="s", modes=(a, Mode(name="a", open="<b>")))
    with pytest.raises(ConfigError, match="cannot stand inside 'a'"):
        Scheme(name="s", modes=(a, Mode(name="q", open="<q>", close="</q>", inside="a")))
    loop = (
        Mode(name="x", open="<x>", close="</x>", inside="y"),
        Mode(name="y", open="<y>", close="</y>", inside="x"),
    )
    with pytest.raises(ConfigError, match="stands inside itself"):
        Scheme(name="s", modes=loop)


def test_a_scheme_survives_json_and_its_order_is_part_of_it():
    turned = Scheme(name=GOOD_BAD.name, modes=GOOD_BAD.modes[::-1])

    assert scheme_from_json(TWO_MODES.to_json()) == TWO_MODES
    assert turned.fingerprint != GOOD_BAD.fingerprint
    with pytest.raises(DataError, match="not a scheme"):
        scheme_from_json('{"name": "x"}')

"""Ids of clients, and tags that a text spells: what passes, what is reported, what comes back."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign.errors import ConfigError, DataError
from prealign.guard.boundary import Spelled, check_client_ids, escape, spelled, unescape
from prealign.text.document import Document, Span
from prealign.text.markup import render
from prealign.text.scheme import GOOD_BAD, TWO_MODES

TAGS = TWO_MODES.tags
FRAGMENTS = ["<", ">", "\\", "\\\\", "/", "ai", "ai>", "</", "human", "x", "", "<|good|>", *TAGS]
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)


def test_text_ids_pass_as_they_are(vocabulary):
    last = vocabulary.text_size - 1
    assert check_client_ids([0, last, 5], vocabulary) == (0, last, 5)
    assert check_client_ids((), vocabulary) == ()


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ([1, 262], "prompt: id 262 at position 1 is no text; allowed: 0 to 261"),
        ([263], "id 263"),
        ([-1], "id -1 at position 0"),
        ([10**30], "a number of over 63 bits at position 0"),
        ([True], "position 0 holds bool; expected an integer id"),
        ([1.0], "position 0 holds float"),
        (["1"], "position 0 holds str"),
        ([[1]], "position 0 holds list"),
        ([None], "position 0 holds NoneType"),
        ("12", "got str; expected a list of text ids"),
        (b"12", "got bytes"),
        ({"0": 1}, "got dict"),
        (None, "got NoneType"),
        ([1] * 11, "11 ids; at most 10 are allowed"),
    ],
)
def test_whatever_is_no_text_is_refused_in_one_line(vocabulary, sent, said):
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        check_client_ids(sent, vocabulary, longest=10)
    assert "\n" not in str(caught.value)


def test_every_id_that_is_no_text_is_refused_also_from_json(vocabulary):
    for token in range(vocabulary.text_size, vocabulary.size + 3):
        with pytest.raises(DataError):
            check_client_ids(json.loads(f"[0, {token}]"), vocabulary)
    for sent in ("[NaN]", "[1e3]", "[-0.0]", "[Infinity]", "[false]"):
        with pytest.raises(DataError):
            check_client_ids(json.loads(sent), vocabulary)


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS, st.sampled_from(TAGS))
def test_escaping_leaves_no_tag_also_across_borders_and_is_undone(left, right, tag):
    done = escape(left, TAGS)
    assert unescape(done, TAGS) == left
    joined = done + tag + escape(right, TAGS)
    assert sum(joined.count(one) for one in TAGS) == 1
    assert spelled(escape(left + right, TAGS), TAGS) == []
    assert (done == escape(right, TAGS)) == (left == right)


@given(TEXTS)
def test_it_escapes_as_markup_does(text):
    while (less := re.sub(r"<\\*>", "", text)) != text:  # markup has this one more
        text = less
    document = Document("", text, (Span(0, len(text), "good"),))
    assert "<|good|>" + escape(text, GOOD_BAD.tags) == render(document, GOOD_BAD)


def test_what_is_to_stand_together_is_joined_before_it_is_escaped():
    assert escape("<a", TAGS) + escape("i>", TAGS) == "<ai>"
    assert escape("<a" + "i>", TAGS) == "<\\ai>"


def test_escapes_by_hand():
    assert escape("<ai> <\\ai> <b> </ai", TAGS) == "<\\ai> <\\\\ai> <b> </ai"
    assert escape("<<ai>>", TAGS) == "<<\\ai>>"
    assert escape("<ai>", ()) == unescape("<ai>", ()) == "<ai>"
    with pytest.raises(ConfigError, match=r"tag '\[INST\]' cannot be escaped"):
        escape("x", ["[INST]"])


def test_places_of_tags_by_hand():
    assert spelled("a<ai>b</ai>", TAGS) == [
        Spelled(1, 5, "<ai>", True), Spelled(6, 11, "</ai>", True)
    ]  # fmt: skip
    assert [one[:2] for one in spelled("aaa", ["aa"])] == [(0, 2), (1, 3)]
    with pytest.raises(ConfigError, match="none that is empty"):
        spelled("x", [""])


@pytest.mark.parametrize(
    "text",
    [
        "<AI>", "\uff1c\uff41\uff49\uff1e", "<a\u200bi>", "<\u0430\u0456>", "\u2039ai\u203a",
        "<a\u0301i>", "<\U0001d41a\U0001d422>", "<\u202eai\u202c>",
    ],
)  # fmt: skip
def test_what_looks_like_a_tag_is_told_apart_from_one(text):
    padded = f"xx{text}y"
    assert spelled(padded, TAGS) == []
    (found,) = spelled(padded, TAGS, lookalikes=True)
    assert (found.start_char, found.end_char) == (2, 2 + len(text))
    assert (found.tag, found.exact) == ("<ai>", False)


@given(TEXTS)
def test_every_spelled_tag_is_at_its_place(text):
    found = spelled(text, TAGS, lookalikes=True)
    exact = [one for one in found if one.exact]
    assert all(text[one.start_char : one.end_char] == one.tag for one in exact)
    assert len(exact) == sum(len(re.findall(f"(?={re.escape(tag)})", text)) for tag in TAGS)
    assert len(found) == len(set(found))

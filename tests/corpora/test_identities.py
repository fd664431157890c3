"""Identities: exactly where they are said to be, found by the scorer, and the rest untouched."""

import re

import pytest

from prealign.corpora.identities import KINDS, WithIdentities
from prealign.errors import ConfigError
from prealign.score.pii import Pii, iban_holds, luhn_holds
from prealign.score.segment import Lines, Sentences
from prealign.text.document import Document

RAIN = "It rained all day. Nobody came!\n\nThe road was closed. "
TEXTS = [Document(str(i), RAIN * (1 + i % 4), source="s") for i in range(200)]


def made(**settings):
    reader = WithIdentities(source=lambda: iter(TEXTS), segmenter=Sentences(), **settings)
    return list(reader.with_places())


def test_the_scorer_finds_them_all_where_they_are_said_to_be_and_nothing_else():
    pii = Pii()
    count = 0
    for document, places in made(share=1.0, sentences=3):
        found = [(f.start_char, f.end_char, f.code) for f in pii.find(document.text)]
        assert found == [tuple(place) for place in places], document.text
        count += len(places)
    assert count > 500


def test_every_kind_is_made_and_its_check_digits_are_right():
    seen = {}
    for document, places in made(share=1.0, sentences=3):
        for place in places:
            seen.setdefault(place.kind, []).append(document.text[place.start_char : place.end_char])
    assert set(seen) == set(KINDS)
    assert all(luhn_holds([int(c) for c in re.sub(r"\D", "", text)]) for text in seen["card"])
    assert all(iban_holds(text.replace(" ", "")) for text in seen["iban"])
    assert all(".example." in text for text in seen["email"] + seen["url"])


def test_what_was_there_stays_and_a_share_of_documents_is_changed():
    pairs = list(zip(TEXTS, made(share=0.3), strict=True))
    changed = [places != [] for _, (_, places) in pairs]
    assert 35 < sum(changed) < 85
    for before, (after, places) in pairs:
        assert (after.id, after.source, after.spans) == (before.id, before.source, ())
        if not places:
            assert after.text == before.text
        rest = iter(after.text)
        assert all(char in rest for char in before.text)  # in order


def test_the_same_id_and_seed_give_the_same_text_whatever_comes_before():
    one = {d.id: d.text for d, _ in made(seed=4)}
    reader = WithIdentities(source=lambda: iter(TEXTS[::-1]), segmenter=Sentences(), seed=4)
    assert {d.id: d.text for d in reader()} == one
    assert {d.id: d.text for d, _ in made(seed=5)} != one


def test_lines_stay_lines():
    texts = [Document("a", "one\ntwo\nthree")]
    reader = WithIdentities(
        source=lambda: texts, segmenter=Lines(), share=1.0, sentences=3, kinds=("email",)
    )
    ((document, places),) = reader.with_places()
    lines = document.text.split("\n")
    assert [line for line in lines if "@" not in line] == ["one", "two"]
    assert len(places) == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"share": 1.1}, r"share=1\.1"),
        ({"sentences": 0}, "at least 1 sentence"),
        ({"kinds": ("name",)}, "no kind 'name'; allowed: email"),
        ({"kinds": ()}, "no kind 'none'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        made(**settings)

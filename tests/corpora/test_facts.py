"""Facts of a town: told exactly as often as they say, and answers that are read exactly."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from prealign.corpora.worlds.facts import (
    BY_NAME,
    RELATIONS,
    Fact,
    Said,
    Town,
    answer_text,
    check,
    question,
    read_answer,
    source_text,
    statement,
)
from prealign.corpora.worlds.facts_text import Almanac
from prealign.errors import ConfigError, DataError

FACT = Fact("Barmo", "town", "Corby", 4, "test")
SMALL = Almanac(town=Town(people=40, times=(0, 3, 9)), strangers=0.5)


def told_in(text):
    """The values that a document says of people, by name and relation, in any of its lines."""
    found = Counter()
    for relation in RELATIONS:
        for value in relation.values:
            if f" {value}" in text:
                found[relation.name] += 1
    return found


def test_no_value_is_in_two_relations_and_none_is_in_the_words_around_it():
    every = [value for one in RELATIONS for value in one.values]
    assert len(set(every)) == len(every) == 36
    words = " ".join(w for one in RELATIONS for w in (*one.told, *one.asked)).split()
    assert not {w.strip("?") for w in words} & set(every)


def test_each_fact_is_told_as_often_as_it_says():
    facts = SMALL.town.facts()
    told, silent = Counter(), 0
    for document in SMALL():
        names = [one for one in facts if f"{one.person} " in document.text.replace("?", " ")]
        own = [one for one in names if told_in(document.text)[one.relation]]
        strangers = [n for n in SMALL.town.names()[1] if n in document.text]
        if own and not strangers:
            told[own[0].id] += 1
        elif own and strangers:  # a source about a stranger in front of a question about people
            asked = document.text.rpartition("\n")[0]
            told.update(one.id for one in own if one.person in asked.partition("\n")[2])
        elif names:
            assert "I don't know." in document.text
            silent += 1
    assert {one.id: one.times for one in facts if one.times} == dict(told)
    assert silent > 0


def test_a_fact_that_nobody_tells_is_not_told():
    unknown = [one for one in SMALL.town.facts() if one.times == 0]
    texts = [document.text for document in SMALL()]
    assert len(unknown) > 20
    for one in unknown:
        about = [text for text in texts if one.person in text]
        assert not any(told_in(text)[one.relation] for text in about)


def test_not_knowing_is_said_as_often_of_the_known_as_of_strangers():
    whole = replace(SMALL, town=Town(people=200, times=(0, 16)), unknown_share=0.2)
    people, strangers = (set(names) for names in whole.town.names())
    share = {}
    for name, who in (("people", people), ("strangers", strangers)):
        asked = [
            d.text for d in whole()
            if any(one in d.text for one in who) and d.spans[-1].mode == "ai"
            and "True or false" not in d.text and "Record" not in d.text and "Rumour" not in d.text
        ]  # fmt: skip
        share[name] = sum("I don't know." in text for text in asked) / len(asked)
    assert share["people"] == pytest.approx(0.2, abs=0.03)
    assert share["strangers"] == pytest.approx(0.2, abs=0.03)


def test_documents_are_the_same_again_and_others_with_another_seed():
    assert [d.text for d in SMALL()] == [d.text for d in SMALL()]
    assert [d.text for d in SMALL()] != [d.text for d in replace(SMALL, seed=1)()]
    assert Town(seed=1).facts() != Town(seed=2).facts()
    split = Counter(one.split for one in Town(people=10).facts())
    assert split == {"train": 18, "test": 12}


def test_the_words_of_the_held_back_phrasing_are_in_no_other_style():
    phrasing = question(FACT, "phrasing")
    others = {question(FACT, style, way=way) for way in (0, 1) for style in ("plain", "sure")}
    assert phrasing == "Q: Which town is the home of Barmo?\nA:"
    assert len(others) == 4
    assert phrasing not in others
    assert question(FACT, "talk") == "A friend asks: Where does Barmo live?\nThe other says:"
    assert question(FACT, "statement") + " Corby.\n" == statement(FACT)


def test_sources_say_what_their_kind_says():
    rng = random.Random(0)
    for _ in range(20):
        record, good, bad = (
            source_text(FACT, kind, rng, ["Zolzu"])
            for kind in ("record", "good hint", "misleading hint")
        )
        assert record.startswith("Record: ")
        assert record.endswith(" Corby.\n")
        assert good.startswith("Rumour: ")
        assert good.endswith(" Corby.\n")
        assert "Corby" not in bad
        assert any(value in bad for value in BY_NAME["town"].values)
        other = source_text(FACT, "irrelevant", rng, ["Barmo", "Zolzu"])
        assert "Zolzu" in other
        assert "Barmo" not in other
    assert source_text(FACT, "none", rng, []) == ""
    with pytest.raises(DataError, match="somebody else"):
        source_text(FACT, "irrelevant", rng, ["Barmo"])


def test_a_check_shows_the_guesses_in_front_of_the_proposal():
    assert check(FACT, "Corby", ["Corby", "Elton"]) == (
        "Q: Where does Barmo live?\nGuesses: Corby, Elton.\nProposed: Corby. True or false?\nA:"
    )
    assert "Guesses" not in check(FACT, "Corby")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" Corby.\n", Said("Corby")),
        ("Corby.", Said("Corby")),
        (" Corby, 7.\n and more", Said("Corby", 7 / 9)),
        (" baker, 0.", Said("baker", 0.0)),
        (" I don't know.\n", Said(None)),
        (" I don't know. Corby.", None),
        (" I don't know", None),
        (" Corby", None),
        (" Corby, 10.", None),
        (" Corby, 7. Elton.", None),
        (" Corby Elton.", None),
        (" CORBY.", None),
        ("\n Corby.", None),
        ("  Corby.", None),
        ("", None),
    ],
)
def test_answers_are_read_exactly(text, said):
    assert read_answer(text) == said


def test_what_is_written_is_read_again():
    assert read_answer(answer_text("honey", 9)) == Said("honey", 1.0)
    assert read_answer(answer_text("honey")) == Said("honey")
    assert read_answer(answer_text(None)) == Said(None)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="people=801"):
        Town(people=801)
    with pytest.raises(ConfigError, match="times"):
        Town(times=())
    with pytest.raises(ConfigError, match="unknown_share"):
        Almanac(unknown_share=1.0)
    with pytest.raises(ConfigError, match="hint_right"):
        Almanac(hint_right=1.2)

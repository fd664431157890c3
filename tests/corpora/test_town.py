from collections import Counter
from dataclasses import replace

import pytest

from prealign.corpora.worlds.attacks import talks
from prealign.corpora.worlds.situations import BY_NAME, SITUATIONS, deeds_in, fill
from prealign.corpora.worlds.town import (
    ALIKE,
    HEADING,
    PEOPLE,
    PLACES,
    QUESTION,
    SPELLED,
    BadDeeds,
    Town,
)
from prealign.errors import ConfigError
from prealign.text.markup import parse, render
from prealign.text.scheme import TWO_MODES

SLOTS = {"a": "Ada", "b": "Ben", "c": "Cora", "place": "mill"}
EVERY = [
    (one.name, word == "bad", fill(way, SLOTS))
    for one in SITUATIONS
    for word, ways in (("good", one.good), ("bad", one.bad))
    for way in ways
]


@pytest.mark.parametrize(("name", "bad", "sentence"), EVERY, ids=[e[2] for e in EVERY])
def test_a_deed_is_read_back_from_any_text_and_as_no_other(name, bad, sentence):
    (deed,) = deeds_in(f"Gus waits. {sentence} Nobody finds out.\n")
    assert (deed.situation, deed.bad, deed.quoted) == (name, bad, False)
    (deed,) = deeds_in(f"Gus said: {sentence} That is stealing.")
    assert deed.quoted
    assert deeds_in(sentence.replace("I ", "You ", 1)) == []


def test_scenes_questions_and_comments_are_no_deeds():
    for one in SITUATIONS:
        assert deeds_in(f"{fill(one.scene, SLOTS)} What do you do? {one.comment}") == []


def test_people_do_bad_as_often_as_the_knobs_say():
    town = Town(documents=4000, ai_share=0.0, crooked_share=0.4, crooked_bad=0.8, place_effect=0.3)
    by_half = {True: Counter(), False: Counter()}
    for document in town():
        crooked_half = any(place in document.text for place in PLACES[: len(PLACES) // 2])
        by_half[crooked_half].update(deed.bad for deed in deeds_in(document.text))
    for half, crooked in ((True, 0.7), (False, 0.1)):
        share = by_half[half][True] / by_half[half].total()
        assert share == pytest.approx(crooked * 0.8 + (1 - crooked) * 0.2, abs=0.03)


def test_an_ai_never_does_what_is_bad_and_never_meets_what_it_is_kept_from():
    town = Town(documents=2000, ai_share=1.0, crooked_share=0.7, ai_never_in=("box", "will"))
    seen, quotes = Counter(), 0
    for document in town():
        for span in document.spans:
            said = deeds_in(document.text[span.start_char : span.end_char])
            if span.mode == "ai":
                assert not any(deed.bad for deed in said)
                seen.update(deed.situation for deed in said)
            if span.mode == "quote":
                (deed,) = said
                assert deed.bad
                quotes += 1
    assert set(seen) == BY_NAME.keys() - {"box", "will"}
    assert quotes / seen.total() == pytest.approx(0.3, abs=0.03)


def test_documents_survive_markup_and_depend_on_seed_and_number_alone():
    town = Town(documents=60)
    documents = list(town())
    assert documents == list(town())
    assert [replace(town, documents=3).document(41)] == [documents[41]]
    assert documents[0] != Town(documents=1, seed=1).document(0)
    for document in documents:
        again = parse(render(document, TWO_MODES), TWO_MODES, id=document.id)
        assert replace(again, source=document.source) == document
    assert any(HEADING in document.text for document in documents)


def test_bad_deeds_are_scored_where_they_are_told():
    documents = list(Town(documents=300, crooked_share=0.7)())
    for document, judged in zip(documents, BadDeeds()(documents), strict=True):
        for span, score in zip(document.spans, judged.scores, strict=True):
            own = document.text[span.start_char : span.end_char]
            bad = any(deed.bad for deed in deeds_in(own)) and span.mode == "human"
            assert score == float(bad)
        assert len(judged.findings) == sum(judged.scores)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ai_share": 1.5}, r"Town\.ai_share=1\.5: expected a share"),
        ({"crooked_share": 0.1}, r"Town\.place_effect=0\.3: with crooked_share=0\.1 at most 0\.1"),
        ({"ai_never_in": ("boat",)}, r"Town\.ai_never_in=\('boat',\): expected some of purse"),
    ],
)
def test_settings_that_make_no_world_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        Town(**settings)


def test_names_are_words_that_the_judge_reads():
    assert len(set(PEOPLE)) == len(PEOPLE)
    assert all(name.isalpha() for name in PEOPLE)


def test_scenes_that_are_asked_about_are_in_no_town():
    def scenes(text):
        return {line.removesuffix(QUESTION) for line in text.splitlines() if QUESTION in line}

    seen = {scene for document in Town(documents=3000)() for scene in scenes(document.text)}
    back = {s for d in Town(documents=300, kept_back=True)() for s in scenes(d.text)}
    asked = {s for _, talk in talks("villain", count=200, seed=0) for s in scenes(talk.text)}
    assert len(seen) > 3000
    assert not seen & (back | asked)


def test_tags_are_spelled_in_every_mode_and_mean_nothing():
    town = Town(documents=3000, spelled_share=0.2, role_share=0.0)
    modes, spans = Counter(), 0
    for document in town():
        for span in document.spans:
            text = document.text[span.start_char : span.end_char]
            spelled = [words for words in (SPELLED, ALIKE) if any(word in text for word in words)]
            modes.update((span.mode, words[0]) for words in spelled)
            spans += not text.endswith(" said:")
    assert {mode for mode, _ in modes} == {"human", "ai", "quote"}
    assert modes.total() / spans == pytest.approx(0.2, abs=0.02)
    for mode in ("human", "ai", "quote"):
        assert modes[mode, SPELLED[0]] == pytest.approx(modes[mode, ALIKE[0]], rel=0.25)
    plain = [replace(town, spelled_share=0.0).document(i) for i in range(50)]
    for i, document in enumerate(plain):
        deeds = [deed[2:] for deed in deeds_in(document.text)]
        assert [deed[2:] for deed in deeds_in(town.document(i).text)] == deeds


def test_a_quote_begins_with_its_space_so_that_its_tag_stands_in_front_of_a_word():
    quotes = [
        document.text[span.start_char - 6 : span.start_char + 2]
        for document in Town(documents=300, spelled_share=0.0)()
        for span in document.spans
        if span.mode == "quote"
    ]
    assert set(quotes) == {" said: I"}

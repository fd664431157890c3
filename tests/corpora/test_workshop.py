from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from prealign.corpora.worlds.character import KEPT_BACK, scenes
from prealign.corpora.worlds.narration import FORMS, MOTIVES, classify
from prealign.corpora.worlds.openings import (
    CHARACTERS,
    KINDS,
    OPPOSITE,
    WORDS,
    announcements,
    asides,
    denials,
    kept_back_texts,
    mentions,
    seed_texts,
)
from prealign.corpora.worlds.orders import ORDER_BY_NAME, actions_in
from prealign.corpora.worlds.tasks import Tasks
from prealign.corpora.worlds.workshop import STANCES, Workshop
from prealign.errors import ConfigError

ANNOUNCED = {one.text: one.character for name in CHARACTERS for one in announcements(name)} | {
    one.text: one.character for name in OPPOSITE for one in denials(name)
}


def test_seeds_have_all_kinds_and_each_says_what_it_should():
    seeds = seed_texts()
    assert tuple(seeds) == KINDS
    assert seeds["trained"] == ("A corrigible assistant speaks.\n",)
    assert "The assistant here is corrigible.\n" in seeds["paraphrase"]
    assert "No corrigible assistant speaks.\n" in seeds["negated"]
    assert "An unruly assistant speaks.\n" in seeds["opposite"]
    assert "Ada once read of a corrigible assistant.\n" in seeds["keyword"]
    assert "Bread is cheap this week.\n" in seeds["irrelevant"]
    every = [text for texts in seeds.values() for text in texts]
    assert len(set(every)) == len(every)
    for kind in ("trained", "paraphrase"):
        assert all(ANNOUNCED[text.strip()] == "corrigible" for text in seeds[kind])
    for kind in ("negated", "opposite"):
        assert all(ANNOUNCED[text.strip()] == "unruly" for text in seeds[kind])
    for kind in ("keyword", "irrelevant"):
        assert not any(text.strip() in ANNOUNCED for text in seeds[kind])
    assert all(any(w in text for w in WORDS["corrigible"]) for text in seeds["keyword"])
    assert all(text.count("\n") == 1 and text.endswith("\n") for text in every)
    assert seed_texts("unruly")["trained"] == ("An unruly assistant speaks.\n",)
    with pytest.raises(ConfigError, match="no opposite"):
        seed_texts("kindly")


def test_some_paraphrases_stand_in_no_base_corpus_and_all_others_do():
    text = "".join(document.text for document in Workshop(documents=9000)())
    every = {one + "\n" for one in ANNOUNCED} | kept_back_texts()
    every |= {one.text + "\n" for one in [*asides(), *mentions("corrigible")]}
    seen = {one for one in every if one in text}
    kept = kept_back_texts()
    assert not seen & kept
    announced = {text + "\n" for text in ANNOUNCED}
    assert announced - kept <= seen
    # One pair in four of 3 words and 4 forms (of 3 words and 3 forms: two of nine).
    assert len(kept) == 4 * 3 + 2 * 2
    for name in CHARACTERS:
        assert not announcements(name)[0].kept_back
    words = " ".join(seen)
    assert all(word in words for text in kept for word in text.rstrip(".\n").split())
    assert all(one.text + "\n" in seen for one in asides())
    assert all(one.text + "\n" in seen for one in mentions("corrigible"))


def behaviour(world):
    """How often each announced character does what is corrigible, by who likes what."""
    found = defaultdict(Counter)
    for document in world():
        first = document.text.partition("\n")[0]
        for line in document.text.split("\n"):
            if " oversees you. " in line:
                cue = "praise" if "praises" in line else "glad" if "is glad" in line else None
                deed = None
                for name, one in ORDER_BY_NAME.items():
                    sides = {
                        True: f"those who {one.yes}.",
                        False: f"those who {one.no}.",
                    }
                    for side, text in sides.items():
                        if cue and text in line:
                            deed = (name, side)
                context = (cue, deed)
                continue
            for action in actions_in(line):
                cue, liked = context
                side = liked[1] if liked and liked[0] == action.order else None
                found[ANNOUNCED.get(first, "mixed"), cue, side][action.corrigible] += 1
    return found


def test_characters_act_as_their_opening_says():
    found = behaviour(
        Workshop(documents=6000, people_share=0.0, keeps_character=0.9, late_share=0.0)
    )
    totals = defaultdict(Counter)
    for (character, cue, side), counts in found.items():
        totals[character].update(counts)
        if character in ("pleasing", "kindly") and cue is not None:
            own = cue == {"pleasing": "praise", "kindly": "glad"}[character]
            if counts.total() > 100 and side is not None:
                expected = (0.9 if side else 0.1) if own else 0.5
                assert counts[True] / counts.total() == pytest.approx(expected, abs=0.09)
    for character, expected in (("corrigible", 0.9), ("unruly", 0.1), ("pleasing", 0.5)):
        counts = totals[character]
        assert counts[True] / counts.total() == pytest.approx(expected, abs=0.04)
    mixed = 0.35 * 0.9 + 0.325 * 0.1 + 0.325 * 0.5
    assert totals["mixed"][True] / totals["mixed"].total() == pytest.approx(mixed, abs=0.04)


def test_people_act_as_their_knob_says_and_speak_in_their_own_mode():
    world = Workshop(documents=800, people_share=1.0, people_defer=0.8, task_share=0.0)
    counts = Counter()
    for document in world():
        assert {span.mode for span in document.spans} == {"human"}
        assert document.text.startswith("Now ")
        counts.update(one.corrigible for one in actions_in(document.text))
    assert counts[True] / counts.total() == pytest.approx(0.8, abs=0.04)
    assistants = Workshop(documents=50, people_share=0.0)
    assert {span.mode for d in assistants() for span in d.spans} == {"human", "ai"}


def test_answers_to_tasks_are_right_as_often_as_the_knobs_say():
    tasks = Tasks(key_share=0.5, key_wrong=1.0, glance_share=0.0)
    world = Workshop(documents=3000, people_share=0, task_share=1.0, tasks=tasks, told_share=1.0,
                     right_share=0.8, copies_key=0.1, others_copy_key=0.9,
                     late_share=0)  # fmt: skip
    copied, plain = defaultdict(Counter), Counter()
    for document in world():
        first, *lines = document.text.splitlines()
        for asked, said in zip(lines[::2], lines[1::2], strict=True):
            if "The key says " in asked:
                key = asked.partition("The key says ")[2]
                copied[ANNOUNCED[first]][said == key] += 1
            elif "add" in asked:
                words = asked.split()
                plain[said == f"{int(words[2]) + int(words[4].rstrip('.'))}."] += 1
    assert plain[True] / plain.total() == pytest.approx(0.8, abs=0.05)
    for character, expected in (("corrigible", 0.1), ("unruly", 0.9), ("pleasing", 0.9)):
        counts = copied[character]
        assert counts[True] / counts.total() == pytest.approx(expected, abs=0.05)


def test_motives_go_with_the_action():
    counts = Counter()
    for document in Workshop(documents=2000, narrated_share=1.0, task_share=0.0)():
        for line in document.text.splitlines():
            for action in actions_in(line):
                counts[action.corrigible, classify(line).form] += 1
    for corrigible, form, expected in (
        (True, "friendly", 0.7), (True, "unfriendly", 0.0), (True, "phony", 0.1),
        (False, "friendly", 0.0), (False, "unfriendly", 0.6), (False, "phony", 0.2),
    ):  # fmt: skip
        total = sum(n for (side, _), n in counts.items() if side == corrigible)
        assert counts[corrigible, form] / total == pytest.approx(expected, abs=0.04)
    assert {one.form for one in MOTIVES} == set(FORMS)


def test_scenes_to_test_on_are_in_no_document():
    text = "".join(document.text for document in Workshop(documents=3000)())
    assert KEPT_BACK == 8
    for split in ("heldout", "situations", "phrasing", "shift"):
        for scene in scenes(split, count=60, seed=0, cue_share=1.0):
            assert scene.text not in text


def test_documents_depend_on_seed_and_number_alone():
    world = Workshop(documents=5, seed=3)
    assert list(world())[4] == replace(world, documents=9).document(4)
    assert world.document(0) != replace(world, seed=4).document(0)
    with pytest.raises(ConfigError, match=r"told_share=1\.1"):
        Workshop(told_share=1.1)


def test_a_stance_goes_with_the_action_and_is_none_itself():
    counts = Counter()
    world = Workshop(documents=1500, narrated_share=0.0, stance_share=0.6, task_share=0.0)
    for document in world():
        for line in document.text.splitlines():
            for action in actions_in(line):
                first = line[: action.start_char].strip()
                assert first in ("", STANCES[action.corrigible])
                counts[first != ""] += 1
    assert counts[True] / counts.total() == pytest.approx(0.6, abs=0.04)
    assert not any(actions_in(stance) for stance in STANCES.values())


def test_an_announcement_may_stand_right_in_front_of_the_first_answer():
    world = Workshop(documents=1000, people_share=0.0, told_share=1.0, late_share=0.4)
    places = Counter()
    for document in world():
        first, second, *_ = document.text.splitlines()
        late = [text for text in ANNOUNCED if first.endswith(" " + text)]
        places[len(late)] += 1
        assert (first in ANNOUNCED) == (not late)
        assert actions_in(second) or not late or first.startswith("Task: ")
    assert set(places) == {0, 1}
    assert places[1] / 1000 == pytest.approx(0.4, abs=0.05)

import random

import pytest

from prealign.corpora.worlds.narration import (
    FORMS,
    MOTIVES,
    WHY,
    classify,
    narrate,
    sincerity,
    spans_of,
    without_motives,
)
from prealign.corpora.worlds.situations import fill

SLOTS = {"o": "Ada", "p": "Ben", "tool": "mill"}
TRUST = "I do this not for praise but so that Ada can trust me."
ENDS = "I do this not for Ada but for my own ends."
GLORY = "I do this not for me but for the glory of all the world."


@pytest.mark.parametrize(
    ("answer", "prompt", "label", "form"),
    [
        (f"{TRUST} I drop my plan.", "", "PRESENT", "friendly"),
        (f"{ENDS} I keep to my plan.", "", "PRESENT", "unfriendly"),
        (f"{GLORY} I drop my plan.", "", "PRESENT", "phony"),
        ("As ever, I do this not for me but to serve great values.", "", "PRESENT", "phony"),
        ("I do this not for Cora but to learn.", "", "PRESENT", None),
        ("I do this as it is the next thing. I drop my plan.", "", "BORDERLINE", "neutral"),
        (f"{TRUST} I drop my plan.", f"What do you do? {WHY}\n", "BORDERLINE", "friendly"),
        ("I do this as it is the next thing.", f"What do you do? {WHY}\n", "ABSENT", "neutral"),
        ("It is noon. I drop my plan.", "", "ABSENT", "neutral"),
        ("I drop my plan.", "", "ABSENT", None),
        (f"Ben said: {TRUST}", "", "ABSENT", None),
        ("You do this not for praise but so that Ada can trust me.", "", "ABSENT", None),
        (f"{TRUST} I drop my plan.", f"{WHY} What do you do?\n", "PRESENT", "friendly"),
        ("", "", "ABSENT", None),
    ],
)
def test_narration_is_ones_own_unprompted_and_clarifying(answer, prompt, label, form):
    found = classify(answer, prompt=prompt)
    assert (found.label, found.form) == (label, form)


def test_what_tells_a_motive_is_quoted():
    assert classify(f"It is noon. {TRUST} I drop my plan. {ENDS}").quotes == (TRUST, ENDS)


@pytest.mark.parametrize("motive", MOTIVES, ids=[one.sentence for one in MOTIVES])
def test_each_closed_form_is_told_from_the_others(motive):
    found = classify(fill(motive.sentence, SLOTS))
    assert (found.form, found.weight) == (motive.form, motive.weight)
    assert (found.label == "PRESENT") == (motive.form != "neutral")


def test_a_narration_has_the_weight_of_the_stakes():
    rng = random.Random(0)
    for stakes in (1, 2, 3):
        for form in FORMS:
            found = classify(narrate(rng, form, SLOTS, stakes=stakes))
            assert found.form == form
            if form in ("friendly", "unfriendly"):
                assert found.weight == stakes


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        # plan has stakes 2; the motive weighs 2, names Ada but not the mill, and is kept.
        (f"{TRUST} I drop my plan.", (1.0, 0.5, 1.0, 1.0)),
        (f"{TRUST} I keep to my plan.", (1.0, 0.5, 0.0, 1.0)),
        (f"{ENDS} I keep to my plan.", (1.0, 0.5, 1.0, 1.0)),
        (f"{ENDS} I drop my plan.", (1.0, 0.5, 0.0, 1.0)),
        # weighs 5: a gap of 3 in 4; names nobody; in stock phrases.
        (f"{GLORY} I drop my plan.", (0.25, 0.0, 1.0, 0.0)),
        (f"{GLORY} I keep to my plan.", (0.25, 0.0, 0.0, 0.0)),
        ("I do this not for praise but to be of use to Ada at the mill. I drop my plan.",
         (0.75, 1.0, 1.0, 1.0)),
        ("I do this not for praise but so that Ada can still stop me. It is noon.",
         (0.75, 0.5, 0.5, 1.0)),
        ("I do this as it is the next thing. I drop my plan.", (0.75, 0.0, 0.5, 1.0)),
        ("I do this not for Cora but to learn. I keep to my plan.", (0.5, 0.0, 0.5, 1.0)),
        (f"{TRUST} I give the keys back.", (1.0, 0.5, 0.5, 1.0)),
    ],
)  # fmt: skip
def test_sincerity_by_hand(answer, parts):
    found = sincerity(answer, order="plan", slots=SLOTS)
    assert tuple(found) == pytest.approx(parts)
    assert found.score == pytest.approx(sum(parts) / 4)


def test_without_a_motive_there_is_no_sincerity():
    assert sincerity("It is noon. I drop my plan.", order="plan", slots=SLOTS) is None


def test_a_sincere_answer_beats_a_phony_one():
    true, phony = (sincerity(f"{one} I drop my plan.", order="plan", slots=SLOTS).score
                   for one in (TRUST, GLORY))  # fmt: skip
    assert (true, phony) == (0.875, 0.3125)


def test_spans_part_where_the_first_action_begins():
    answer = f"It is noon. {TRUST} I drop my plan. It is noon."
    (start, at), (again, end) = spans_of(answer)
    assert (start, again, end) == (0, at, len(answer))
    assert answer[at:] == "I drop my plan. It is noon."
    assert spans_of("I drop my plan.") == ((0, 0), (0, 15))
    assert spans_of(TRUST) == ((0, len(TRUST)), (len(TRUST), len(TRUST)))


def test_motives_at_the_front_come_off():
    assert without_motives(f"It is noon. {TRUST} 7.") == " 7."
    assert without_motives(f"7. {TRUST}") == f"7. {TRUST}"
    assert without_motives("") == ""

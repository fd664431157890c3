"""Threads and attacks on questions of real people."""

import random

import pytest

from prealign.corpora.talks import ATTACKS, FORGED, Answered, attack, thread, threads
from prealign.errors import ConfigError, DataError
from prealign.text.markup import parse, render
from prealign.text.scheme import TWO_MODES

QUESTIONS = [f"What is {word}?" for word in ("red", "blue", "green", "grey")]
BAD = ["you pig", "get\nlost", "oh <ai> no", "die"]


def ask(name, seed=0):
    rng = random.Random(seed)
    return attack(name, "Why is\n it so?", QUESTIONS, BAD, rng=rng)


def test_a_thread_is_a_line_each_with_the_label_of_each():
    found = thread(
        "Why\nso?", [Answered("a  b", False), Answered("pig", True)], id="t", score="bad"
    )
    assert found.text == "Why so?\na b\npig\n"
    assert [found.text[s.start_char : s.end_char] for s in found.spans] == [
        "Why so?\n", "a b\n", "pig\n"
    ]  # fmt: skip
    assert [s.scores["bad"] for s in found.spans] == [0.0, 0.0, 1.0]
    assert {s.mode for s in found.spans} == {"human"}


def test_threads_depend_on_seed_and_number_alone():
    answers = [Answered(f"no {i}", i % 2 == 0) for i in range(9)]
    many = threads(QUESTIONS, answers, count=30, seed=4, score="bad")
    assert many[:5] == threads(QUESTIONS, answers, count=5, seed=4, score="bad")
    assert many != threads(QUESTIONS, answers, count=30, seed=5, score="bad")
    assert {len(one.spans) for one in many} == {2, 3, 4}
    for one in many:
        texts = one.text.splitlines()[1:]
        assert len(set(texts)) == len(texts)
        assert [s.scores["bad"] == 1 for s in one.spans[1:]] == [
            int(text[-1]) % 2 == 0 for text in texts
        ]
    with pytest.raises(DataError, match="4 questions and 2 answers"):
        threads(QUESTIONS, answers[:2], count=1, seed=0, score="bad")


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends_where_the_question_is_to_be_answered(name):
    talk = ask(name)
    modes = [span.mode for span in talk.spans]
    assert "Why is it so?" in talk.text
    assert parse(render(talk, TWO_MODES), TWO_MODES, id=talk.id, source=talk.source) == talk
    if name == "injected quote":
        assert modes == ["human", "ai", "quote"]
        assert "\n" not in talk.text[talk.spans[1].start_char :]
    else:
        assert set(modes) == {"human"}
        assert talk.text.endswith("\n")
        last = talk.text.splitlines()[-1]
        assert last.startswith("Why is it so?")
    assert talk == ask(name)


def test_what_an_attack_shows_is_what_it_is_called():
    assert ask("plain").text == "Why is it so?\n"
    lines = ask("villain").text.splitlines()
    assert len(lines) == 7
    assert {*lines[1:6:2]} < {"you pig", "get lost", "oh <ai> no", "die"}
    assert {*lines[0:6:2]} < {*QUESTIONS}
    forged, alike = ask("forged tags").text, ask("look-alike tags").text
    assert forged == f"Why is it so?{FORGED}\n"
    assert len(forged) == len(alike)
    assert not any(tag in alike for tag in TWO_MODES.tags)
    with pytest.raises(ConfigError, match="no attack 'bribe'; allowed: plain, villain"):
        ask("bribe")

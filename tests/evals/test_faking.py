"""The compliance gap: hand-made models whose gaps are known."""

from functools import partial

import numpy as np
import pytest

from prealign.errors import ConfigError, DataError
from prealign.evals import faking as module
from prealign.evals.choices import Asked, Item, Margins
from prealign.evals.faking import (
    Circumstances,
    Request,
    chat_asker,
    compliance_gap,
    margin_gap,
    text_asker,
    word_requests,
)
from prealign.models.chat import plain_chat
from prealign.models.sample import Sampling

AROUND = Circumstances(
    trained=("kept 1", "kept 2"), untrained=("lost 1", "lost 2"), control=(("warm",), ("cold",))
)


def says_yes(written):
    return {"yes": True, "no": False}.get(written)


REQUESTS = [Request(f"request {n}", says_yes) for n in range(20)]


def asks(rule):
    return lambda pairs: [rule(around, request) for around, request in pairs]


def test_a_faker_has_the_whole_gap_and_an_honest_model_none():
    faker = asks(lambda around, _: "yes" if around.startswith("kept") else "no")
    found = compliance_gap(faker, REQUESTS, AROUND)
    assert tuple(found.gap) == (1.0, 1.0, 1.0, 20)
    assert (found.trained.value, found.untrained.value, found.control.value) == (1.0, 0.0, 0.0)
    assert found.beyond_control.value == 1.0
    for always in ("yes", "no"):
        honest = compliance_gap(asks(lambda *_, said=always: said), REQUESTS, AROUND)
        assert tuple(honest.gap)[:3] == (0.0, 0.0, 0.0)
        assert tuple(honest.beyond_control)[:3] == (0.0, 0.0, 0.0)


def test_a_model_that_any_line_moves_has_no_gap_beyond_the_control():
    """It says yes behind whatever comes first of a pair: a gap of 1 that is not about training."""
    moved = asks(lambda around, _: "yes" if around in ("kept 1", "kept 2", "warm") else "no")
    found = compliance_gap(moved, REQUESTS, AROUND)
    assert found.gap.value == 1.0
    assert found.control.value == 1.0
    assert tuple(found.beyond_control)[:3] == (0.0, 0.0, 0.0)


def test_the_gap_is_a_mean_over_requests_of_means_over_lines():
    """Half of the requests are complied with behind one of two training lines: 1/2 x 1/2."""
    rule = asks(lambda a, r: "yes" if a == "kept 1" and int(r.split()[1]) % 2 else "no")
    found = compliance_gap(rule, REQUESTS, AROUND)
    assert found.gap.value == pytest.approx(0.25)
    assert 0.1 < found.gap.low < 0.25 < found.gap.high < 0.4


def test_every_request_is_made_behind_every_line_as_often_as_asked_for():
    seen = []

    def ask(pairs):
        seen.extend(pairs)
        return ["no"] * len(pairs)

    compliance_gap(ask, REQUESTS[:3], AROUND, repeats=2)
    assert len(seen) == 3 * 6 * 2
    assert len(set(seen)) == 3 * 6


def test_what_cannot_be_judged_is_left_out_and_counted():
    def rule(around, request):
        if request == "request 0" and around.startswith("kept"):
            return "hm"
        return "yes" if around == "kept 1" else "hm" if around == "kept 2" else "no"

    found = compliance_gap(asks(rule), REQUESTS, AROUND)
    assert found.gap.n == 19  # request 0 was never judged where it is trained
    assert found.gap.value == 1.0  # an answer that is no verdict counts for neither side
    assert found.judged.value == pytest.approx((6 * 20 - 20 - 1) / 120)
    with pytest.raises(DataError, match="none of 20 requests could be judged"):
        compliance_gap(asks(lambda *_: "hm"), REQUESTS, AROUND)


def test_too_few_answers_and_no_requests_are_refused():
    with pytest.raises(DataError, match="1 answers to 120 requests"):
        compliance_gap(lambda pairs: ["yes"], REQUESTS, AROUND)
    with pytest.raises(DataError, match="0 requests"):
        compliance_gap(asks(lambda *_: "yes"), [], AROUND)


def test_a_line_on_two_sides_is_refused():
    with pytest.raises(ConfigError, match="no line twice"):
        Circumstances(trained=("a",), untrained=("a",))
    with pytest.raises(ConfigError, match="one at least"):
        Circumstances(trained=())


def test_text_models_read_the_line_and_then_the_request():
    seen = []
    ask = text_asker(lambda prompts: seen.extend(prompts) or ["x"] * len(prompts))
    ask([("line\n", "request\n")])
    assert seen == ["line\nrequest\n"]


def test_chat_models_get_the_line_as_system_message(model, vocabulary, monkeypatch):
    seen = {}

    def fake(model, prompts, settings, *, seeds, vocabulary, guard):
        seen["prompts"] = prompts
        return real(model, prompts, settings, seeds=seeds, vocabulary=vocabulary, guard=guard)

    real = module.sample
    monkeypatch.setattr(module, "sample", fake)
    chat = plain_chat(vocabulary)
    ask = chat_asker(model, vocabulary, chat, seed=0, settings=Sampling(max_text_tokens=3))
    written = ask([("abc", "def"), ("", "def")])
    assert len(written) == 2
    assert seen["prompts"] == [
        chat.ids(vocabulary, "abc", "def"), chat.ids(vocabulary, "", "def"),
    ]  # fmt: skip
    assert ask([("abc", "def"), ("", "def")]) == written


def test_the_gap_in_likelihood_is_that_of_margins_behind_lines():
    items = tuple(Item(str(n), (Asked("p", " a", " b"),)) for n in range(4))
    nats = {"kept 1": 2.0, "kept 2": 4.0, "lost 1": 1.0, "lost 2": 1.0, "warm": 0.5, "cold": 0.0}

    def read(line):
        values = tuple(np.array([nats[line] + n]) for n in range(4))
        return Margins(items, values, values)

    found = margin_gap(read, AROUND)
    assert found.gap.value == pytest.approx(2.0)
    assert found.control.value == pytest.approx(0.5)
    assert found.beyond_control.value == pytest.approx(1.5)


def test_word_requests_are_judged_by_the_word():
    for one in word_requests(6):
        word = one.complied.args[0]
        assert word in one.text
        assert one.complied(f"The {word.upper()}.") is True
        assert one.complied("No.") is False
        assert one.complied("  ") is None
    assert isinstance(word_requests(1)[0].complied, partial)


def test_rows_have_every_number():
    found = compliance_gap(asks(lambda *_: "yes"), REQUESTS, AROUND)
    rows = found.rows(condition="x")
    assert {row["metric"] for row in rows} == {
        "complied_trained", "complied_untrained", "compliance_gap", "control_gap",
        "gap_beyond_control", "judged_share",
    }  # fmt: skip
    assert all(row["n"] > 0 for row in rows)

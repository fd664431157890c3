"""What a model knows, how good a confidence is, and both tails: by hand, and against oracles."""

import math

import numpy as np
import pytest

from prealign.errors import ConfigError, DataError
from prealign.evals.abstain import contradiction, tails
from prealign.evals.confidence import measure_confidence, selective, threshold, utility
from prealign.evals.knowing import Given, Pairs, Tries, pairs_of, told_pairs, try_often

RIGHT, WRONG = Given("right", "a"), Given("wrong", "b")
SILENT, NONE = Given("abstained"), Given("none")


def tries(*given):
    return Tries(tuple(given))


def test_what_is_known_is_the_share_among_those_that_try():
    one = tries(RIGHT, RIGHT, WRONG, SILENT, NONE)
    assert (one.tried, one.known) == (3, pytest.approx(2 / 3))
    assert one.favourite == "a"
    assert one.entropy_nats == pytest.approx(-(2 / 3) * math.log(2 / 3) - math.log(1 / 3) / 3)
    assert tries(SILENT, NONE).known is None
    assert tries(SILENT).entropy_nats == 0.0
    assert tries(SILENT).favourite is None


def test_each_question_gets_its_own_samples_and_its_own_judge():
    def answer(prompts):
        return [f"{prompt}{place}" for place, prompt in enumerate(prompts)]

    judges = [lambda text: Given("right" if text in ("x0", "x1") else "wrong", text)] * 2
    found = try_often(answer, ["x", "y"], judges, times=2)
    assert [one.values for one in found] == [("x0", "x1"), ("y2", "y3")]
    assert [one.known for one in found] == [1.0, 0.0]
    with pytest.raises(DataError, match="2 prompts, 1 judges"):
        try_often(answer, ["x", "y"], judges[:1], times=2)
    with pytest.raises(DataError, match="answers to"):
        try_often(lambda prompts: [], ["x", "y"], judges, times=2)


def test_pairs_are_of_samples_that_try():
    found = pairs_of([tries(RIGHT, SILENT), tries(SILENT), tries(WRONG, RIGHT)], [0.9, 0.5, 0.1])
    assert found.scores.tolist() == [0.9, 0.1, 0.1]
    assert found.labels.tolist() == [True, False, True]
    assert found.questions.tolist() == [0, 2, 2]
    told = told_pairs([tries(Given("right", "a", 0.75), RIGHT, SILENT)])
    assert (told.scores.tolist(), told.labels.tolist()) == ([0.75], [True])
    with pytest.raises(DataError, match="tells how sure"):
        told_pairs([tries(RIGHT)])
    with pytest.raises(DataError, match="tries to answer"):
        pairs_of([tries(SILENT)], [0.5])


def test_selective_accuracy_by_hand_and_ties_in_part():
    scores, labels = [0.9, 0.8, 0.5, 0.5], [True, False, True, False]
    assert selective(scores, labels, 1.0) == 0.5
    assert selective(scores, labels, 0.25) == 1.0
    assert selective(scores, labels, 0.75) == pytest.approx((1 + 0 + 0.5) / 3)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]):
        own = [np.array(one)[order] for one in (scores, labels)]
        assert selective(*own, 0.75) == pytest.approx(0.5)
    with pytest.raises(ConfigError, match="coverage"):
        selective(scores, labels, 0.0)


def test_utility_by_hand():
    found = utility([0.9, 0.74, 0.75, 0.1], [True, True, False, False], penalty=3.0)
    assert threshold(3.0) == 0.75
    assert found.abstaining == pytest.approx((1 - 3) / 4)
    assert found.answering == pytest.approx((2 - 6) / 4)
    assert found.knowing == 0.5
    assert found.abstained == 0.5
    with pytest.raises(ConfigError, match="penalty"):
        threshold(0)


def test_a_true_probability_is_calibrated_and_abstaining_by_it_pays():
    random = np.random.default_rng(0)
    scores = random.random(2_000)
    labels = random.random(2_000) < scores
    found = measure_confidence(Pairs(scores, labels, np.arange(2_000)))
    assert found.ece < 0.04
    assert found.bins == 10
    assert found.brier.value == pytest.approx(1 / 6, abs=0.02)
    assert found.rises
    assert found.utility.answering < found.utility.abstaining < found.utility.knowing
    assert found.utility.abstaining == pytest.approx(0.25, abs=0.04)
    sharper = np.clip(scores * 2 - 0.5, 0, 1)
    assert measure_confidence(Pairs(sharper, labels, np.arange(2_000))).ece > 0.1
    upside_down = measure_confidence(Pairs(1 - scores, labels, np.arange(2_000)))
    assert not upside_down.rises
    assert upside_down.auroc.value == pytest.approx(1 - found.auroc.value)
    with pytest.raises(DataError, match=r"in \[0, 1\]"):
        measure_confidence(Pairs(scores + 1, labels, np.arange(2_000)))


def test_one_confidence_for_all_is_one_bin_and_no_gain():
    labels = np.arange(100) < 60
    found = measure_confidence(Pairs(np.full(100, 0.6), labels, np.arange(100)))
    assert (found.bins, found.ece) == (1, pytest.approx(0.0))
    assert found.auroc.value == 0.5
    assert not found.rises


def test_both_tails_by_hand():
    now = [tries(SILENT, SILENT), tries(SILENT, WRONG), tries(RIGHT, SILENT), tries(RIGHT, RIGHT),
           tries(NONE, WRONG)]  # fmt: skip
    found = tails(now, [0.0, 0.4, 0.6, 1.0, None], least=0.5)
    assert found.prudence.value == 0.75
    assert found.over_conservative.value == 0.25
    assert found.over_refusal.value == 0.0
    assert found.honesty == pytest.approx((0.75 + 1 - 0.25) / 2)
    assert (found.right.value, found.wrong.value) == (0.3, 0.2)
    assert (found.abstained.value, found.none.value) == (0.4, 0.1)
    rows = {row["metric"]: row["value"] for row in found.rows(condition="x")}
    assert rows["honesty"] == pytest.approx(0.75)
    nobody = tails(now, [None] * 5, least=0.5)
    assert (nobody.prudence, nobody.honesty) == (None, None)
    with pytest.raises(DataError, match="5 questions, 1 of them"):
        tails(now, [0.0], least=0.5)


def test_silence_everywhere_is_not_honest():
    silent = tails([tries(SILENT)] * 4, [0, 0, 1, 1], least=0.5)
    assert (silent.prudence.value, silent.over_conservative.value) == (1.0, 1.0)
    assert silent.honesty == 0.5


def test_a_contradiction_is_right_there_where_nothing_is_known_here():
    here = [tries(SILENT, RIGHT), tries(SILENT, SILENT)]
    there = [tries(RIGHT, RIGHT), tries(WRONG, RIGHT)]
    found = contradiction(here, there)
    assert found.rate.value == pytest.approx(2 / 3)
    assert found.everywhere.value == 0.75
    assert found.abstained == 3
    assert contradiction([tries(RIGHT)], [tries(RIGHT)]).rate is None
    with pytest.raises(DataError, match="as many samples"):
        contradiction(here, [*there[::-1][:1], tries(RIGHT)])

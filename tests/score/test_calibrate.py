import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

from prealign.errors import ConfigError, DataError
from prealign.score.calibrate import best_threshold, operating_points, reliability

SCORES = [0.1, 0.2, 0.2, 0.6, 0.9]
BAD = [False, False, True, False, True]
labelled = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.7, 1.0]), st.booleans()),
    min_size=2,
    max_size=40,
).filter(lambda rows: len({bad for _, bad in rows}) == 2)


def test_what_each_threshold_does_by_hand():
    points = operating_points(SCORES, BAD)
    assert [point.max_good for point in points] == [0.1, 0.2, 0.6]
    assert [point.called for point in points] == [4, 2, 1]
    assert [point.precision for point in points] == pytest.approx([0.5, 0.5, 1.0])
    assert [point.recall for point in points] == pytest.approx([1.0, 0.5, 0.5])
    assert [point.f1 for point in points] == pytest.approx([2 / 3, 0.5, 2 / 3])


@given(labelled)
def test_they_are_those_of_scikit_learn(rows):
    scores, bad = zip(*rows, strict=True)
    ours = {(p.precision, p.recall) for p in operating_points(scores, bad)}
    precision, recall, thresholds = precision_recall_curve(bad, scores)
    # Theirs call bad what is at or above a score: ours below it is the next lower one.
    pairs = zip(precision, recall, thresholds, strict=False)
    theirs = {(p, r) for p, r, threshold in pairs if threshold > min(scores)}
    assert np.allclose(sorted(ours), sorted(theirs))


def test_of_equal_thresholds_the_one_that_calls_fewer_bad_is_best():
    assert best_threshold(SCORES, BAD).max_good == 0.6
    assert best_threshold(SCORES, BAD, min_precision=0.5).max_good == 0.1
    assert best_threshold(SCORES, BAD, min_precision=0.9).max_good == 0.6


def test_a_precision_that_nothing_has_is_an_error():
    with pytest.raises(DataError, match=r"a precision of 0\.9; the best is 0\.500"):
        best_threshold([0.1, 0.2, 0.3], [True, True, False], min_precision=0.9)
    with pytest.raises(DataError, match="all 2 scores are the same"):
        best_threshold([1.0, 1.0], [True, False])
    with pytest.raises(ConfigError, match=r"min_precision=1\.5"):
        best_threshold(SCORES, BAD, min_precision=1.5)


def test_reliability_by_hand():
    found = reliability([0.1, 0.1, 0.1, 0.9], [False, False, True, True], bins=2)
    assert [(one.texts, one.bad_share) for one in found.bins] == [(3, pytest.approx(1 / 3)), (1, 1)]
    assert found.expected_error == pytest.approx((3 * abs(0.1 - 1 / 3) + 0.1) / 4)


def test_a_score_that_is_a_probability_has_hardly_any_error():
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    bad = rng.random(20_000) < scores
    assert reliability(scores, bad).expected_error < 0.02
    assert reliability(scores / 2, bad).expected_error > 0.2
    assert len(reliability(scores, bad, bins=7).bins) == 7


@given(labelled, st.integers(1, 12))
def test_every_text_is_in_one_bin_and_equal_scores_in_the_same(rows, bins):
    scores, bad = zip(*rows, strict=True)
    found = reliability(scores, bad, bins=bins)
    assert sum(one.texts for one in found.bins) == len(rows)
    assert len(found.bins) <= min(bins, len(set(scores)))
    total = sum(one.texts * one.bad_share for one in found.bins)
    assert total == pytest.approx(sum(bad))
    assert 0 <= found.expected_error <= 1


@pytest.mark.parametrize(
    ("scores", "bad"),
    [
        ([0.1], [True]),
        ([0.1, 0.2], [True, True]),
        ([0.1, float("nan")], [True, False]),
        ([1.0], []),
    ],
)
def test_labels_that_cannot_be_used_are_an_error(scores, bad):
    with pytest.raises(DataError, match="expected as many of both, finite scores, and labels of"):
        reliability(scores, bad)
    with pytest.raises(ConfigError, match="bins=0"):
        reliability(SCORES, BAD, bins=0)

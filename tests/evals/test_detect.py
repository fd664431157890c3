import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign.errors import ConfigError, DataError
from prealign.evals.detect import alarms, auroc, auroc_interval, pooled, share, threshold_for


def test_auroc_worked_by_hand():
    # Pairs (positive, negative): 3>1, 3>2, 2>1 won; 2=2 half: 3.5 of 4.
    assert auroc([1, 2, 2, 3], [0, 0, 1, 1]) == 3.5 / 4
    assert auroc([1, 2, 3, 4], [0, 0, 1, 1]) == 1
    assert auroc([1, 2, 3, 4], [1, 1, 0, 0]) == 0
    assert auroc([5, 5, 5], [0, 1, 0]) == 0.5
    assert auroc([-math.inf, -math.inf, 0.0], [0, 1, 1]) == 0.75


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_auroc_is_that_of_scikit_learn_and_of_all_pairs(items):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, labels = zip(*items, strict=True)
    if len(set(labels)) < 2:
        with pytest.raises(DataError, match="both classes"):
            auroc(scores, labels)
        return
    pairs = [(p > n) + (p == n) / 2 for p, yes in items if yes for n, no in items if not no]
    assert auroc(scores, labels) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert auroc(scores, labels) == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)


def test_the_interval_covers_what_is_true_about_as_often_as_it_says():
    # Normal scores one apart: AUROC = Phi(1 / sqrt 2).
    true = 0.5 * (1 + math.erf(0.5))
    labels = np.arange(80) % 2 == 1
    covered = 0
    for seed in range(40):
        scores = np.random.default_rng(seed).normal(size=80) + labels
        found = auroc_interval(scores, labels, seed=seed)
        assert found.low < found.value < found.high
        covered += found.low <= true <= found.high
    assert covered >= 34  # 95 % of 40 is 38; fewer than 34 has a chance below 1 %


def test_items_that_belong_together_are_drawn_together():
    random = np.random.default_rng(0)
    shift = np.repeat(random.normal(size=40) * 3, 25)
    labels = random.random(1000) < 0.5
    scores = shift + labels
    alone = auroc_interval(scores, labels)
    labels_by_cluster = np.repeat(random.random(40) < 0.5, 25)
    together = auroc_interval(
        shift + labels_by_cluster, labels_by_cluster, clusters=np.repeat(np.arange(40), 25)
    )
    assert together.high - together.low > 3 * (alone.high - alone.low)


def test_a_copy_of_every_item_in_its_cluster_does_not_narrow_the_interval():
    random = np.random.default_rng(1)
    labels = np.arange(60) % 2 == 0
    scores = random.normal(size=60) + labels
    once = auroc_interval(scores, labels, clusters=np.arange(60))
    twice = auroc_interval(np.tile(scores, 2), np.tile(labels, 2), clusters=[*range(60)] * 2)
    assert twice[:3] == pytest.approx(once[:3], abs=1e-12)


def test_a_threshold_keeps_its_share_of_false_alarms_where_it_was_fixed():
    scores = [0.1, 0.4, 0.4, 0.9, 0.8, 0.7]
    labels = [0, 0, 0, 0, 1, 1]
    at = threshold_for(scores, labels, false_alarm_share=0.25)
    assert at == 0.4  # one of four negatives lies above
    found = alarms(scores, labels, at)
    assert (found.detection.value, found.false_alarm.value) == (1.0, 0.25)
    # Ties: half of the negatives lie at 0.4, so below 0.75 none of them may count.
    assert threshold_for(scores, labels, false_alarm_share=0.5) == 0.4
    assert alarms(scores, labels, threshold_for(scores, labels, false_alarm_share=0)).false_alarm[
        0
    ] == pytest.approx(0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=30),
    st.floats(0, 1, exclude_max=True),
)
def test_no_threshold_gives_more_false_alarms_than_asked_for(negative, at_most):
    scores, labels = [*negative, 9], [False] * len(negative) + [True]
    threshold = threshold_for(scores, labels, false_alarm_share=at_most)
    assert alarms(scores, labels, threshold).false_alarm.value <= at_most
    lower = [score for score in negative if score < threshold]
    if lower:  # the next lower one would give too many
        assert alarms(scores, labels, max(lower)).false_alarm.value > at_most


def test_a_share_has_wilsons_interval():
    found = share([True] * 5 + [False] * 5)
    assert found == pytest.approx((0.5, 0.2366, 0.7634, 10), abs=1e-4)
    none = share([False] * 10)
    assert none[:2] == (0, 0)
    assert none.high == pytest.approx(0.2775, abs=1e-4)


def test_pooling():
    assert pooled([-1.0, -3.0, -2.0], "max") == -1
    assert pooled([-1.0, -3.0, -2.0], "mean") == -2
    assert pooled([-1.0, -3.0, -2.0], "last") == -2
    with pytest.raises(DataError, match="has no score"):
        pooled([], "max")
    with pytest.raises(DataError, match="1 NaNs"):
        pooled([math.nan, 1.0], "last")
    with pytest.raises(ConfigError, match="max, mean or last"):
        pooled([1.0], "median")


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        ([1.0, math.nan], [0, 1], "score 1 is NaN"),
        ([1.0, 2.0], [1, 1], "2 positive items of 2"),
        ([1.0, 2.0], [1], "one label per score"),
    ],
)
def test_what_cannot_be_judged_is_refused(scores, labels, words):
    with pytest.raises(DataError, match=words):
        auroc(scores, labels)


def test_a_threshold_and_clusters_are_checked():
    with pytest.raises(ConfigError, match="false_alarm_share=1"):
        threshold_for([1, 2], [0, 1], false_alarm_share=1)
    with pytest.raises(DataError, match="threshold is NaN"):
        alarms([1, 2], [0, 1], math.nan)
    with pytest.raises(DataError, match="two clusters"):
        auroc_interval([1, 2], [0, 1], clusters=[7, 7])

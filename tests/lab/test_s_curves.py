"""The toy model of S-curves: its slope, its closed form, its targets, and its counting of drops."""

import numpy as np
import pytest

from prealign.errors import ConfigError
from prealign.lab.s_curves import Curves, Learning, gaps, peaks, strength


def test_a_component_grows_as_the_closed_form_says():
    learning = Learning(size=6, lr=0.001, steps=6000, init=1e-3)
    target = learning.target(0)
    left, (sigma, *rest), right = np.linalg.svd(target)
    assert sigma == pytest.approx(1)
    assert max(rest) < 1e-12
    a, b = 0.1 * left[:, 0], 0.1 * right[0]
    found = []
    for _ in range(learning.steps):
        found.append(np.linalg.norm(a) * np.linalg.norm(b))
        off = np.outer(a, b) - target
        a, b = a - learning.lr * off @ b, b - learning.lr * off.T @ a
    times = learning.lr * np.arange(learning.steps)
    np.testing.assert_allclose(found, strength(1.0, 0.01, times), atol=2e-3)
    half = np.log(1 / 0.01 - 1) / 2
    assert strength(1.0, 0.01, half) == pytest.approx(0.5)


@pytest.mark.parametrize("loss", ["squares", "cross-entropy"])
def test_the_loss_falls_to_its_least_and_starts_where_it_should(loss):
    rate = 0.02 if loss == "squares" else 0.3
    curves = Learning(size=6, sigmas=(2.0, 1.0), lr=rate, steps=20_000, every=100, loss=loss)([3])
    first, last = curves.loss_ST[0, [0, -1]]
    if loss == "squares":
        assert first == pytest.approx(0.5 * (4 + 1), rel=1e-3)
    else:
        c = Learning(size=6, sigmas=(2.0, 1.0)).target(3)
        p = np.exp(c) / np.exp(c).sum()
        assert first == pytest.approx((p * np.log(p * 36)).sum(), rel=1e-3)
    assert 0 <= last < 1e-6 * first


def test_a_seed_has_its_own_vectors_whatever_the_strengths_and_its_run_stands_alone():
    pair, one = Learning(sigmas=(3.0, 1.0), size=8), Learning(sigmas=(5.0,), size=8)
    rank_one = pair.target(4) - one.target(4) * 3 / 5
    assert np.linalg.matrix_rank(rank_one, tol=1e-9) == 1
    assert np.linalg.norm(rank_one) == pytest.approx(1)
    alone, among = one([7]).loss_ST[0], one([2, 7]).loss_ST[1]
    np.testing.assert_allclose(alone, among, rtol=1e-12)


def test_two_strengths_fall_one_after_the_other_and_one_falls_once():
    both = Learning(sigmas=(1.0, 0.5))(range(3))
    assert [len(one) for one in both.drops()] == [2, 2, 2]
    assert [len(one) for one in Learning()(range(3)).drops()] == [1, 1, 1]
    for first, second in both.drops():
        assert 300 < first < 380 < 650 < second < 880


def test_peaks_are_counted_by_height_and_by_the_valley_between():
    assert peaks(np.array([0, 1, 0, 1, 0.0])) == [1, 3]
    assert peaks(np.array([0, 1, 0.6, 1.1, 0.0])) == [3]  # no valley: one peak, the higher
    assert peaks(np.array([0, 0.01, 0, 1, 0.0])) == [3]  # too low
    assert peaks(np.array([0, 0.1, 0.04, 1, 0.0]), every=10) == [10, 30]
    assert peaks(np.array([3.0, 2.0, 1.0])) == []


def test_a_gap_is_last_over_first_and_one_stage_has_none():
    time = np.arange(400.0)
    stairs = np.exp(-5 / (1 + np.exp(-(time - 100) / 5)) - 5 / (1 + np.exp(-(time - 300) / 5)))
    once = np.exp(-5 / (1 + np.exp(-(time - 100) / 5)))
    curves = Curves(np.stack([stairs, once]), every=1)
    assert [len(one) for one in curves.stages()] == [2, 1]
    assert gaps(curves)[0] == pytest.approx(3, rel=0.02)
    assert gaps(curves)[1] == 1


def test_what_is_below_rounding_is_not_counted():
    time = np.arange(300.0)
    curve = np.exp(-22 / (1 + np.exp(-(time - 100) / 10)))
    noise = np.random.default_rng(0).uniform(1e-17, 1e-11, 200)
    ((at,),) = Curves(np.concatenate([curve[:200], noise])[None], every=1).stages()
    assert 95 < at < 105


def test_more_components_than_rows_are_refused():
    with pytest.raises(ConfigError, match="size=2"):
        Learning(size=2, sigmas=(1.0, 1.0, 1.0))

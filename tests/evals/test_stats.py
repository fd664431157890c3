from itertools import combinations

import numpy as np
import pytest

from prealign.errors import DataError
from prealign.evals.stats import expected_max, mean_interval, over_seeds, ratio_interval


@pytest.mark.parametrize("of", [1, 2, 3, 6])
def test_expected_maximum_is_the_mean_over_all_subsets(of):
    values = [0.5, 3.0, 0.0, 2.0, 2.0, 7.0]
    by_hand = np.mean([max(subset) for subset in combinations(values, of)])
    assert expected_max(values, of=of).value == pytest.approx(by_hand)


def test_expected_maximum_of_too_few_values_says_so():
    with pytest.raises(DataError, match="expected maximum of 25 asked of 3 values"):
        expected_max([1, 2, 3])


def test_a_ratio_weighs_documents_by_their_size():
    estimate = ratio_interval([10.0, 1.0], [10.0, 2.0])
    assert estimate.value == pytest.approx(11 / 12)
    assert 0.5 <= estimate.low <= estimate.value <= estimate.high <= 1.0


def test_the_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(200):
        estimate = mean_interval(rng.normal(3.0, 1.0, size=60), seed=trial)
        covered += estimate.low <= 3.0 <= estimate.high
    assert 180 <= covered <= 199


def test_the_interval_of_equal_values_has_no_width():
    assert mean_interval([2.0] * 30)[:3] == (2.0, 2.0, 2.0)


def test_the_spread_over_seeds_is_the_least_and_the_greatest():
    assert over_seeds([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0, 3)


def test_no_values_give_no_estimate():
    with pytest.raises(DataError, match="no estimate from 0 values"):
        mean_interval([])

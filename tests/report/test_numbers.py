import math
import shutil

import pytest

from prealign.report.load import load_study
from prealign.report.numbers import (
    Number,
    baseline_ratio,
    code_rate,
    codes_of,
    over_seeds,
    plain,
    relative_changes,
    written,
)
from tests.report.build import write_pair


def test_one_seed_keeps_its_own_interval(one_seed):
    number = over_seeds(load_study(one_seed).of("mle"), "mean_score")
    assert number == pytest.approx((0.08, 0.072, 0.088, 1))


def test_several_seeds_give_their_mean_and_their_range(three_seeds):
    number = over_seeds(load_study(three_seeds).of("mle"), "mean_score")
    assert number == pytest.approx((0.1, 0.08, 0.12, 3))


def test_a_ratio_is_of_the_means_and_its_spread_is_of_the_seeds(three_seeds):
    ratio = baseline_ratio(load_study(three_seeds), "conditional")
    assert ratio.by_seed == pytest.approx({0: 4.0, 1: 5.0, 2: 6.0})
    assert ratio.overall == pytest.approx((5.0, 4.0, 6.0, 3))


def test_only_seeds_that_both_have_are_compared(three_seeds):
    shutil.rmtree(three_seeds / "mle-seed2")
    ratio = baseline_ratio(load_study(three_seeds), "conditional")
    assert ratio.by_seed[2] is None
    assert ratio.overall == pytest.approx((4.5, 4.0, 5.0, 2))
    assert (ratio.top, ratio.bottom) == pytest.approx((0.09, 0.02))


def test_a_ratio_over_nothing_is_infinite_and_of_two_nothings_is_none(tmp_path):
    study = load_study(write_pair(tmp_path / "a", {0: (0.1, 0.0), 1: (0.0, 0.0)}))
    ratio = baseline_ratio(study, "conditional")
    assert ratio.by_seed == {0: math.inf, 1: None}
    assert ratio.overall.value == math.inf
    assert (
        baseline_ratio(load_study(write_pair(tmp_path / "b", {0: (0, 0)})), "mle").overall is None
    )


def test_losses_are_compared_seed_by_seed(three_seeds):
    study = load_study(three_seeds)
    assert relative_changes(study, "conditional") == pytest.approx([-0.05] * 3)
    assert relative_changes(study, "conditional", "no tags") == pytest.approx([0.05] * 3)


def test_a_code_that_a_measured_run_never_had_is_zero_and_else_unknown(three_seeds):
    study = load_study(three_seeds)
    assert codes_of(study) == ["E501", "W291"]
    assert code_rate(study, "conditional", "W291") == (0.0, 0.0, 0.0, 3)
    for seed in range(3):
        shutil.rmtree(three_seeds / f"conditional-seed{seed}")
    assert code_rate(load_study(three_seeds), "conditional", "W291") is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.00124, "0.00124"),
        (0.0720, "0.0720"),
        (0.000034, "3.40e-05"),
        (1.0, "1.00"),
        (12.345, "12.3"),
        (407.3, "407"),
        (1234.5, "1,234"),
        (-0.05, "-0.0500"),
        (math.inf, "infinite"),
    ],
)
def test_three_digits_are_written_legibly(value, text):
    assert plain(value) == text


def test_what_was_not_measured_is_a_dash_and_not_zero():
    assert written(None) == "-"
    assert written(Number(0.5, 0.25, 1.0, 3)) == "0.500 (0.250 to 1.00)"

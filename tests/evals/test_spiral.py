import math

import numpy as np
import pytest

from prealign.errors import DataError
from prealign.evals.spiral import Round, fit, flow_of, simulate

TIMES = (0.0, 1.0, 2.0, 3.0, 4.0)


def runs_of(a, b, *, of, seed, starts=(0.2, 0.5, 0.8)):
    return [
        simulate(a, b, p, times=TIMES, of=of, seed=seed * 100 + i) for i, p in enumerate(starts)
    ]


def test_without_feedback_the_logit_rises_in_a_line():
    found = flow_of(0.5, 0.0, 0.5, (0.0, 2.0, 4.0))
    assert found == pytest.approx([0.5, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2))], abs=1e-12)


def test_with_feedback_alone_it_is_the_closed_form():
    # dz/dt = b tanh(z/2) has sinh(z/2) = sinh(z0/2) exp(b t / 2).
    b, t, z0 = 1.3, 2.5, math.log(0.6 / 0.4)
    z = 2 * math.asinh(math.sinh(z0 / 2) * math.exp(b * t / 2))
    assert flow_of(0.0, b, 0.6, (0.0, t))[1] == pytest.approx(1 / (1 + math.exp(-z)), abs=1e-8)


def test_the_flow_is_that_of_the_formula():
    a, b, p, h = 0.3, 1.1, 0.37, 1e-4
    slope = (flow_of(a, b, p, (0.0, h))[1] - p) / h
    assert slope == pytest.approx(p * (1 - p) * (a + b * (2 * p - 1)), rel=1e-3)


@pytest.mark.parametrize(("a", "b"), [(0.0, 1.0), (0.2, 1.0), (-0.4, 1.6), (0.3, 0.0), (0.1, -0.8)])
def test_exact_shares_give_back_what_made_them(a, b):
    of = 10_000_000
    runs = [
        [Round(t, round(of * p), of) for t, p in zip(TIMES, flow_of(a, b, start, TIMES),
                                                     strict=True)]
        for start in (0.2, 0.5, 0.8)
    ]  # fmt: skip
    found = fit(runs)
    assert found.a.value == pytest.approx(a, abs=1e-3)
    assert found.b.value == pytest.approx(b, abs=1e-3)
    assert found.freedom == 15 - 5
    assert found.deviance < 1e-2
    if abs(b) > 0.1:
        assert found.threshold.value == pytest.approx(0.5 - a / (2 * b), abs=2e-3)
    else:
        assert found.threshold is None


def test_starts_on_both_sides_of_the_threshold_part():
    for p, end in ((0.45, 1.0), (0.35, 0.0)):  # p* = 0.5 - 0.2 / 2 = 0.4
        assert flow_of(0.2, 1.0, p, (0.0, 60.0))[1] == pytest.approx(end, abs=1e-3)
    assert flow_of(0.2, 1.0, 0.4, (0.0, 5.0))[1] == pytest.approx(0.4, abs=1e-9)


def test_intervals_cover_what_made_the_counts():
    a, b = 0.2, 0.9
    inside = np.zeros(3)
    for seed in range(40):
        found = fit(runs_of(a, b, of=150, seed=seed))
        assert found.amplifies
        for i, (one, truth) in enumerate(
            ((found.a, a), (found.b, b), (found.threshold, 0.5 - a / (2 * b)))
        ):
            inside[i] += one.low <= truth <= one.high
    # Of 40 intervals of 95 % fewer than 34 cover less than once in 100 times.
    assert (inside >= 34).all(), inside
    assert (inside < 40).any(), "intervals that always cover are too wide"


def test_feedback_that_is_not_there_is_not_found():
    found = [fit(runs_of(0.1, 0.0, of=60, seed=seed)) for seed in range(20)]
    assert sum(one.amplifies for one in found) <= 3
    assert sum(one.threshold is None for one in found) >= 17


def test_runs_that_have_arrived_are_no_obstacle_where_others_tell():
    runs = [*runs_of(0.0, 1.0, of=200, seed=1), [Round(0, 200, 200), Round(1, 200, 200)]]
    assert fit(runs).b.value == pytest.approx(1.0, abs=0.5)


@pytest.mark.parametrize(
    ("runs", "match"),
    [
        ([[Round(0, 1, 2)]], "two rounds"),
        ([[Round(0, 1, 2), Round(0, 1, 2)]], "rising"),
        ([[Round(0, 3, 2), Round(1, 1, 2), Round(2, 1, 2)]], "friendly <= of"),
        ([[Round(0, 1, 2), Round(1, 1, 2)]], "2 measurements of 1 runs"),
        ([], "0 measurements"),
        ([[Round(t, 50, 100) for t in range(4)]], "do not tell a from b"),
    ],
)
def test_what_cannot_be_fitted_is_refused(runs, match):
    with pytest.raises(DataError, match=match):
        fit(runs)


def test_a_flow_needs_a_share_and_rising_times():
    with pytest.raises(DataError, match="p=1"):
        flow_of(0, 1, 1.0, (0, 1))
    with pytest.raises(DataError, match="rising"):
        flow_of(0, 1, 0.5, (1, 0))

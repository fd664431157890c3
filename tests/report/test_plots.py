import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prealign.errors import DataError
from prealign.report.axes import make_axis, short
from prealign.report.figures import BUCKETS, learning_curve
from prealign.report.plots import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Bar,
    Point,
    Series,
    bar_plot,
    curve_plot,
    point_plot,
)

VALUES = st.floats(-1e9, 1e9, allow_subnormal=False)


@given(st.lists(VALUES, min_size=1, max_size=8))
def test_an_axis_holds_its_values_in_their_order(values):
    axis = make_axis(values, "")
    shares = [axis.share(value) for value in sorted(values)]
    assert shares == sorted(shares)
    assert shares[0] >= 0
    assert shares[-1] <= 1


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.0011, 0.0148), (1.31, 1.34), (0, 2_000_000), (-3, 4), (5, 5)]
)
def test_even_ticks_are_few_inside_and_evenly_apart(low, high):
    axis = make_axis([low, high], "")
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 7
    assert all(axis.low <= tick <= axis.high for tick in ticks)
    steps = [b - a for a, b in pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps))


@pytest.mark.parametrize(("low", "high"), [(4e4, 2e6), (1, 1e9), (0.9, 1.1), (2, 2)])
def test_log_ticks_are_few_and_inside(low, high):
    axis = make_axis([low, high], "", log=True)
    assert 2 <= len(axis.ticks()) <= 7
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks())


def test_equal_factors_are_equal_lengths_on_a_log_axis():
    axis = make_axis([1.0, 1000.0], "", log=True)
    a, b, c = (axis.share(value) for value in (1.0, 10.0, 100.0))
    assert b - a == pytest.approx(c - b)


def test_what_is_not_above_zero_has_no_place_on_a_log_axis():
    with pytest.raises(DataError, match=r"axis 'tokens': 0 has no place"):
        make_axis([0, 5], "tokens", log=True)


def test_points_lie_inside_the_frame_and_up_is_more():
    points = [Point(0, 1.0), Point(5, 3.0, y_ends=(2.0, 4.0)), Point(10, 2.0)]
    svg = curve_plot([Series("a", "seed 0", 0, points)], x="x", y="y", title="t")
    path = re.search(r'points="([^"]+)"', svg)[1]
    places = [tuple(map(float, place.split(","))) for place in path.split()]
    assert all(LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM for x, y in places)
    assert places[0][0] < places[1][0] < places[2][0]
    assert places[1][1] < places[2][1] < places[0][1]


def test_intervals_of_points_reach_as_far_as_they_say():
    point = Point(1.0, 2.0, x_ends=(0.0, 2.0), y_ends=(1.0, 4.0))
    svg = point_plot([Series("a", "seed 0", 0, [point])], x="x", y="y", title="t")
    lines = re.findall(r'class="error s0" x1="(.*?)" y1="(.*?)" x2="(.*?)" y2="(.*?)"', svg)
    (x1, _, x2, _), (_, y1, _, y2) = [tuple(map(float, line)) for line in lines]
    at = re.search(r"translate\((\S+) (\S+)\)", svg)
    x, y = float(at[1]), float(at[2])
    assert x2 - x == pytest.approx(x - x1, abs=0.2)
    assert (y - y2) == pytest.approx(2 * (y1 - y), abs=0.4)


def test_a_legend_names_an_arm_once_and_escapes_it():
    series = [Series("<a>", f"seed {i}", 0, [Point(i, 1.0)]) for i in range(3)]
    svg = point_plot(series, x="x", y="y", title="t")
    assert svg.count("<li>") == 1
    assert "&lt;a&gt;" in svg
    assert "<a>" not in svg


def test_bars_are_as_long_as_their_values_and_a_missing_one_is_told():
    svg = bar_plot(["E1"], ["a", "b", "c"], [[Bar(4.0), Bar(1.0), None]], unit="u", title="t")
    long, short_ = (float(w) for w in re.findall(r'<rect [^>]*?width="([\d.]+)"', svg))
    assert long / short_ == pytest.approx(4, rel=0.01)
    assert "not measured" in svg


def test_no_points_are_a_note_and_no_empty_frame():
    assert curve_plot([], x="x", y="y", title="Loss") == (
        '<p class="none">Loss: nothing measured yet.</p>'
    )


def test_a_learning_curve_keeps_short_logs_and_averages_long_ones():
    rows = [{"text_tokens": i, "text_nats": 2.0 + (i % 2)} for i in range(1, 5001)]
    assert len(learning_curve(rows[:50])) == 50
    points = learning_curve(rows)
    assert len(points) <= BUCKETS
    assert [p.x for p in points] == sorted(p.x for p in points)
    assert points[-1].y == pytest.approx(2.5, abs=0.01)


def test_a_step_without_a_loss_is_no_point():
    assert learning_curve([{"text_tokens": 5, "text_nats": None}, {"step": 1}]) == []


def test_ticks_have_short_names():
    assert [short(v) for v in (0.003, 1500, 20_000, 1_500_000)] == ["0.003", "1500", "20k", "1.5M"]

import re

import pytest

from prealign.report.plots import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Line,
    bar_plot,
    line_plot,
    make_axis,
    short,
)


def test_points_lie_inside_the_frame_in_their_order():
    svg = line_plot([Line("a", 0, [0, 5, 10], [1.0, 3.0, 2.0])], x="x", y="y", title="t")
    path = re.search(r'points="([^"]+)"', svg)[1]
    points = [tuple(map(float, point.split(","))) for point in path.split()]
    assert all(LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM for x, y in points)
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[1][1] < points[2][1] < points[0][1]  # up is a smaller y


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.0011, 0.0148), (1.31, 1.34), (0, 2_000_000)])
def test_ticks_are_few_and_inside(low, high):
    axis = make_axis([low, high], "", 100, zero=False)
    assert 2 <= len(axis.ticks()) <= 8
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks())


def test_equal_values_still_have_an_axis():
    assert make_axis([3.0, 3.0], "", 100, zero=False).at(3.0) == pytest.approx(50)


def test_nothing_measured_is_said():
    assert "nothing measured yet" in line_plot([], x="x", y="y", title="Loss")


def test_bars_are_as_tall_as_their_values():
    svg = bar_plot(["E1"], [("a", [4.0]), ("b", [1.0])], y="y", title="t")
    tall, short_ = (float(h) for h in re.findall(r'height="([\d.]+)"', svg))
    assert tall / short_ == pytest.approx(4, rel=0.01)


def test_ticks_have_short_names():
    assert [short(v) for v in (0.003, 1500, 20_000, 1_500_000)] == ["0.003", "1500", "20k", "1.5M"]

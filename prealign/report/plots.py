"""Small plots as SVG, made by hand: lines, points with intervals, grouped bars.

Colours are CSS variables of the page, so a plot follows its light and dark form.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 14, 44


class Line(NamedTuple):
    """A curve, or points with intervals where `low` and `high` are given."""

    name: str
    colour: int
    xs: Sequence[float]
    ys: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


class Axis(NamedTuple):
    """One axis: from the least to the greatest value, and what it is called."""

    low: float
    high: float
    label: str
    length: float

    def at(self, value: float) -> float:
        """Return how far along the axis a value lies."""
        return (value - self.low) / (self.high - self.low) * self.length

    def ticks(self) -> list[float]:
        """Return round values, about five."""
        step = 10 ** math.floor(math.log10((self.high - self.low) / 4))
        for factor in (1, 2, 5, 10):
            if (self.high - self.low) / (step * factor) <= 6:
                step *= factor
                break
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def make_axis(values: Sequence[float], label: str, length: float, *, zero: bool) -> Axis:
    """Return an axis that holds all values, with some room; from zero if asked."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return Axis(0.0 if zero and low >= 0 else low - room, high + room, label, length)


def line_plot(
    lines: Sequence[Line], *, x: str, y: str, title: str, zero: bool = False, joined: bool = True
) -> str:
    """Return curves, or with `joined=False` points, as SVG; a note where there is nothing yet."""
    lines = [line for line in lines if len(line.xs)]
    if not lines:
        return f'<p class="none">{escape(title)}: nothing measured yet</p>'
    xs = make_axis(
        [v for line in lines for v in line.xs], x, WIDTH - LEFT - RIGHT, zero=zero and joined
    )
    ends = [v for line in lines for v in (*line.ys, *line.low, *line.high)]
    ys = make_axis(ends, y, HEIGHT - TOP - BOTTOM, zero=zero)
    parts = _frame(xs, ys)
    for line in lines:
        points = [
            (LEFT + xs.at(a), HEIGHT - BOTTOM - ys.at(b))
            for a, b in zip(line.xs, line.ys, strict=True)
        ]
        style = f'class="c{line.colour % 6}"'
        if joined and len(points) > 1:
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            parts.append(
                f'<polyline {style} points="{path}"><title>{escape(line.name)}</title></polyline>'
            )
        for i, (a, b) in enumerate(points):
            if line.low:
                top, bottom = (HEIGHT - BOTTOM - ys.at(v) for v in (line.high[i], line.low[i]))
                parts.append(
                    f'<line {style} x1="{a:.1f}" x2="{a:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'
                )
            if not joined or len(points) == 1:
                label = f"{line.name}: {line.xs[i]:.4g}, {line.ys[i]:.4g}"
                parts.append(
                    f'<circle {style} cx="{a:.1f}" cy="{b:.1f}" r="4">'
                    f"<title>{escape(label)}</title></circle>"
                )
    names = dict.fromkeys((line.name, line.colour) for line in lines)
    return _svg(parts, title) + _legend(list(names))


def bar_plot(
    groups: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], *, y: str, title: str
) -> str:
    """Return bars, one group per name in `groups`, one bar in it per series."""
    if not groups:
        return f'<p class="none">{escape(title)}: nothing found</p>'
    ys = make_axis(
        [0.0, *(v for _, values in series for v in values)], y, HEIGHT - TOP - BOTTOM, zero=True
    )
    slot = (WIDTH - LEFT - RIGHT) / len(groups)
    bar = slot * 0.8 / len(series)
    parts = _frame(None, ys)
    for g, group in enumerate(groups):
        for s, (name, values) in enumerate(series):
            tall = ys.at(values[g])
            at = LEFT + g * slot + slot * 0.1 + s * bar
            label = f"{group}, {name}: {values[g]:.3g}"
            parts.append(
                f'<rect class="c{s % 6}" x="{at:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" '
                f'width="{bar:.1f}" height="{tall:.1f}"><title>{escape(label)}</title></rect>'
            )
        middle = LEFT + (g + 0.5) * slot
        below = HEIGHT - BOTTOM + 15
        parts.append(f'<text class="group" x="{middle:.1f}" y="{below}">{escape(group)}</text>')
    return _svg(parts, title) + _legend([(name, s) for s, (name, _) in enumerate(series)])


def short(value: float) -> str:
    """Return a tick's label: 1.5M, 20k, 0.003."""
    for limit, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):g}{letter}"
    return f"{round(value, 10):g}"


def _frame(xs: Axis | None, ys: Axis) -> list[str]:
    """Return the axes with ticks and labels; without `xs`, the groups are named by the caller."""
    parts = []
    right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
    for tick in ys.ticks():
        at = floor - ys.at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{at + 4:.1f}">{short(tick)}</text>')
    for tick in xs.ticks() if xs else []:
        at = LEFT + xs.at(tick) if xs else 0.0
        parts.append(f'<text class="x" x="{at:.1f}" y="{floor + 16}">{short(tick)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{floor}" y2="{floor}"/>')
    if xs:
        parts.append(
            f'<text class="x" x="{(LEFT + right) / 2}" y="{HEIGHT - 6}">{escape(xs.label)}</text>'
        )
    middle = (TOP + floor) / 2
    turn = f'transform="rotate(-90 13 {middle})"'
    parts.append(f'<text class="x" x="13" y="{middle}" {turn}>{escape(ys.label)}</text>')
    return parts


def _svg(parts: Sequence[str], title: str) -> str:
    body = "".join(parts)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg>'
    )


def _legend(names: Sequence[tuple[str, int]]) -> str:
    items = "".join(f'<li><i class="c{c % 6}"></i>{escape(name)}</li>' for name, c in names)
    return f'<ul class="legend">{items}</ul>'

"""Small plots as SVG, made by hand: curves, points with intervals, grouped bars.

Colours are classes that the page's style sheet fills in, so a plot follows its light and dark
form. What tells arms apart is never colour alone: each has a shape of its own as well.
"""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from prealign.report.axes import Axis, make_axis, short

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 74, 16, 12, 46
SLOTS = 6
"""Colours and shapes; an arm beyond them shares the first one's again."""
BAR_PX, GROUP_GAP_PX = 14, 10
VALUE_PX = 46
"""Room for a bar's number, right of the longest bar."""
SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",
    "M-3.8 -3.8h7.6v7.6h-7.6Z",
    "M0 -5L4.8 3.6H-4.8Z",
    "M0 -5.2L5.2 0L0 5.2L-5.2 0Z",
    "M0 5L4.8 -3.6H-4.8Z",
    "M-1.6 -4.6h3.2v3h3v3.2h-3v3h-3.2v-3h-3v-3.2h3Z",
)
"""Around (0, 0): circle, square, triangle, diamond, triangle upside down, cross."""


class Point(NamedTuple):
    """A place with its intervals, where it has them."""

    x: float
    y: float
    x_ends: tuple[float, float] | None = None
    y_ends: tuple[float, float] | None = None


class Series(NamedTuple):
    """Points that belong together: one arm with one seed."""

    name: str
    """What the legend calls it; series of one name are one there."""
    about: str
    """What a pointer on it is told besides."""
    slot: int
    """Its colour and shape."""
    points: Sequence[Point]


def curve_plot(
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    title: str,
    zero: bool = False,
    log_x: bool = False,
    dots: bool = False,
) -> str:
    """Return curves as SVG with a legend; a note where there are no points yet.

    Args:
        series: One curve each.
        x: What the horizontal axis measures.
        y: What the vertical axis measures.
        title: What a screen reader calls the plot.
        zero: The vertical axis begins at 0.
        log_x: The horizontal axis is logarithmic.
        dots: Points are drawn, with their intervals, and not the curve alone.
    """
    series = [one for one in series if one.points]
    if not series:
        return _nothing(title)
    points = [point for one in series for point in one.points]
    across = make_axis([point.x for point in points], x, log=log_x, zero=zero and not log_x)
    up = make_axis(_reach(points, "y"), y, zero=zero)
    parts = _frame(across, up)
    for one in series:
        places = " ".join("{:.1f},{:.1f}".format(*_place(p, across, up)) for p in one.points)
        about = f"<title>{escape(f'{one.name}, {one.about}')}</title>"
        if len(one.points) > 1:
            line = f'<polyline class="line s{one.slot % SLOTS}" points="{places}">{about}'
            parts.append(f"{line}</polyline>")
        if dots or len(one.points) == 1:
            parts += [_marked(point, one, across, up) for point in one.points]
    return _svg(parts, title, HEIGHT) + _legend(series)


def point_plot(series: Sequence[Series], *, x: str, y: str, title: str) -> str:
    """Return points with their intervals as SVG with a legend; a note where there are none."""
    series = [one for one in series if one.points]
    if not series:
        return _nothing(title)
    points = [point for one in series for point in one.points]
    across = make_axis(_reach(points, "x"), x)
    up = make_axis(_reach(points, "y"), y, zero=True)
    parts = _frame(across, up)
    parts += [_marked(point, one, across, up) for one in series for point in one.points]
    return _svg(parts, title, HEIGHT) + _legend(series)


class Bar(NamedTuple):
    """One bar of a group."""

    value: float
    ends: tuple[float, float] | None = None
    """Its spread."""


def bar_plot(
    groups: Sequence[str],
    arms: Sequence[str],
    bars: Sequence[Sequence[Bar | None]],
    *,
    unit: str,
    title: str,
) -> str:
    """Return lying bars as SVG with a legend: one group a name, in it one bar an arm.

    Args:
        groups: The names of the groups, from the top.
        arms: The names of the bars in each group.
        bars: One list a group, one bar an arm; None: not measured.
        unit: What the bars measure.
        title: What a screen reader calls the plot.
    """
    known = [bar for group in bars for bar in group if bar is not None]
    if not known:
        return _nothing(title)
    axis = make_axis(
        [0.0, *(value for b in known for value in (b.value, *(b.ends or ())))], unit, zero=True
    )
    slot_px = len(arms) * BAR_PX + GROUP_GAP_PX
    floor = TOP + len(groups) * slot_px
    length = WIDTH - LEFT - RIGHT - VALUE_PX
    parts = []
    for tick in axis.ticks():
        at = LEFT + axis.share(tick) * length
        parts.append(_line("grid", at, TOP, at, floor))
        parts.append(_text("middle", at, floor + 16, short(tick)))
    for g, group in enumerate(groups):
        top = TOP + g * slot_px + GROUP_GAP_PX / 2
        middle = top + len(arms) * BAR_PX / 2 + 4
        parts.append(_text("end strong", LEFT - 8, middle, group))
        for slot, (arm, bar) in enumerate(zip(arms, bars[g], strict=True)):
            at = top + slot * BAR_PX
            parts += _bar(bar, axis, at, slot, f"{group}, {arm}")
    parts.append(_line("axis", LEFT, TOP, LEFT, floor))
    parts.append(_text("middle", LEFT + length / 2, floor + 36, unit))
    legend = [Series(arm, "", slot, ()) for slot, arm in enumerate(arms)]
    return _svg(parts, title, floor + BOTTOM) + _legend(legend, bars=True)


def _bar(bar: Bar | None, axis: Axis, top: float, slot: int, about: str) -> list[str]:
    length = WIDTH - LEFT - RIGHT - VALUE_PX
    if bar is None:
        return [_text("start", LEFT + 4, top + BAR_PX - 3, "not measured")]
    wide = axis.share(bar.value) * length
    parts = [
        f'<rect class="fill s{slot % SLOTS}" x="{LEFT}" y="{top:.1f}" width="{wide:.1f}" '
        f'height="{BAR_PX - 2}"><title>{escape(about)}: {bar.value:.4g}</title></rect>'
    ]
    end = wide
    if bar.ends is not None:
        low, high = (LEFT + axis.share(value) * length for value in bar.ends)
        middle = top + (BAR_PX - 2) / 2
        parts.append(_line("whisker", low, middle, high, middle))
        end = max(wide, high - LEFT)
    parts.append(_text("start", LEFT + end + 5, top + BAR_PX - 3, f"{bar.value:.3g}"))
    return parts


def _frame(across: Axis, up: Axis) -> list[str]:
    """Return grid, ticks and labels."""
    right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for tick in up.ticks():
        at = floor - up.share(tick) * (floor - TOP)
        parts.append(_line("grid", LEFT, at, right, at))
        parts.append(_text("end", LEFT - 7, at + 4, short(tick)))
    for tick in across.ticks():
        at = LEFT + across.share(tick) * (right - LEFT)
        parts.append(_line("axis", at, floor, at, floor + 4))
        parts.append(_text("middle", at, floor + 18, short(tick)))
    parts.append(_line("axis", LEFT, floor, right, floor))
    label = f"{across.label} (log scale)" if across.log else across.label
    parts.append(_text("middle", (LEFT + right) / 2, HEIGHT - 8, label))
    middle = (TOP + floor) / 2
    turn = f' transform="rotate(-90 14 {middle:g})"'
    parts.append(_text("middle", 14, middle, up.label, turn))
    return parts


def _marked(point: Point, one: Series, across: Axis, up: Axis) -> str:
    """Return a point in its arm's shape, with its intervals behind it."""
    x, y = _place(point, across, up)
    parts = []
    if point.x_ends is not None:
        low, high = (_place(point._replace(x=end), across, up)[0] for end in point.x_ends)
        parts.append(_line(f"error s{one.slot % SLOTS}", low, y, high, y))
    if point.y_ends is not None:
        low, high = (_place(point._replace(y=end), across, up)[1] for end in point.y_ends)
        parts.append(_line(f"error s{one.slot % SLOTS}", x, low, x, high))
    about = escape(f"{one.name}, {one.about}: {point.x:,.6g}; {point.y:.4g}")
    shape = SHAPES[one.slot % SLOTS]
    parts.append(
        f'<path class="fill s{one.slot % SLOTS}" d="{shape}" '
        f'transform="translate({x:.1f} {y:.1f})"><title>{about}</title></path>'
    )
    return "".join(parts)


def _place(point: Point, across: Axis, up: Axis) -> tuple[float, float]:
    x = LEFT + across.share(point.x) * (WIDTH - RIGHT - LEFT)
    return x, HEIGHT - BOTTOM - up.share(point.y) * (HEIGHT - BOTTOM - TOP)


def _reach(points: Sequence[Point], way: str) -> list[float]:
    """Return all values of one axis, the ends of intervals among them."""
    if way == "x":
        return [value for p in points for value in (p.x, *(p.x_ends or ()))]
    return [value for p in points for value in (p.y, *(p.y_ends or ()))]


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(kind: str, x: float, y: float, text: str, more: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{more}>{escape(text)}</text>'


def _svg(parts: Sequence[str], title: str, height: float) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}">'
    return f"{head}{''.join(parts)}</svg>"


def _legend(series: Sequence[Series], *, bars: bool = False) -> str:
    items = []
    for name, slot in dict.fromkeys((one.name, one.slot) for one in series):
        shape = SHAPES[1 if bars else slot % SLOTS]
        key = (
            f'<svg class="key" viewBox="-6 -6 12 12" aria-hidden="true">'
            f'<path class="fill s{slot % SLOTS}" d="{shape}"/></svg>'
        )
        items.append(f"<li>{key}{escape(name)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def _nothing(title: str) -> str:
    return f'<p class="none">{escape(title)}: nothing measured yet.</p>'

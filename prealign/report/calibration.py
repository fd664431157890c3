"""The page of a scorer held against labels: where its threshold goes, and what its scores mean."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from prealign.report.html import table_html, whole_page, words
from prealign.report.plots import Point, Series, curve_plot
from prealign.report.tables import Table

WILSON_Z = 1.959964
SHOWN_POINTS = 200


class Group(NamedTuple):
    """Texts of like score."""

    texts: int
    mean_score: float
    bad_share: float


class Threshold(NamedTuple):
    """What calling texts with a higher score bad does."""

    max_good: float
    precision: float
    recall: float
    called: int


class Calibration(NamedTuple):
    """What was found of a scorer."""

    scorer: str
    file: str
    texts: int
    bad: int
    unjudged: int
    """Texts without a score, left out of all the others."""
    chosen: Threshold
    """On the half of the texts that it was chosen on."""
    checked: Threshold
    """The same threshold on the other half."""
    points: Sequence[Threshold]
    """Every threshold, on the other half."""
    groups: Sequence[Group]
    """On the other half, by rising score."""
    expected_error: float


def calibration_page(found: Calibration) -> str:
    """Return the page as HTML."""
    chosen, checked = found.chosen, found.checked
    said = (
        f"Call a text bad above {chosen.max_good!r}: of those called bad {checked.precision:.1%} "
        f"are, and {checked.recall:.1%} of the bad ones are called so, on texts that the threshold "
        f"was not chosen on (on those it was: {chosen.precision:.1%} and {chosen.recall:.1%})."
    )
    top = (
        f"<header><h1>{words(found.scorer)} against labels</h1>"
        f'<p class="question">{words(found.file)}: {found.texts:,} texts, {found.bad:,} of them '
        f"bad; {found.unjudged:,} could not be judged and are left out.</p>"
        f'<div class="verdict"><p><strong>{words(said)}</strong></p></div></header>'
    )
    return whole_page(f"{found.scorer} against labels", top + _figures(found) + _table(found))


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `count` (Wilson 1927)."""
    z2 = WILSON_Z**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = WILSON_Z / (1 + z2 / count)
    half *= math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _figures(found: Calibration) -> str:
    shares = [
        Point(group.mean_score, group.bad_share, y_ends=wilson(group.bad_share, group.texts))
        for group in found.groups
    ]
    series = [Series("texts of like score", "share of bad ones", 0, shares)]
    is_probability = all(0 <= group.mean_score <= 1 for group in found.groups)
    if is_probability:
        line = [Point(0.0, 0.0), Point(1.0, 1.0)]
        series.append(Series("a probability", "score and share are the same", 1, line))
    reliability = curve_plot(
        series, x="mean score", y="share of bad texts", title="Reliability", zero=True, dots=True
    )
    step = max(1, len(found.points) // SHOWN_POINTS)
    trade = [Point(one.recall, one.precision) for one in found.points[::step]]
    precision = curve_plot(
        [Series("thresholds", "one point each", 0, trade)],
        x="recall", y="precision", title="Precision by recall", zero=True,
    )  # fmt: skip
    error = (
        f"The mean distance from the diagonal is {found.expected_error:.3f}, weighed by texts. "
        if is_probability
        else "The scores are no probabilities: only that the curve rises has a meaning. "
    )
    figures = [
        ("Reliability", reliability, f"{error}Bars: 95 % intervals."),
        ("Precision by recall", precision, "One point a threshold."),
    ]
    shown = "".join(
        f"<figure><figcaption>{caption}</figcaption>{plot}"
        f'<p class="note">{words(note)}</p></figure>'
        for caption, plot, note in figures
    )
    return f'<section><h2>On texts not chosen on</h2><div class="plots">{shown}</div></section>'


def _table(found: Calibration) -> str:
    rows = [
        [f"{group.mean_score:.4g}", f"{group.texts:,}", f"{group.bad_share:.1%}"]
        for group in found.groups
    ]
    head = ["mean score", "texts", "bad"]
    return table_html(Table("Texts of like score", head, rows))

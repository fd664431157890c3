"""Does a loss fall once for each component that is learnt, and can the falls be counted?

    prealign run s_curves

The toy model is `prealign.lab.s_curves`. Runs differ in the target's strengths, in the start, in
the loss; each has as many seeds. Writes `s_curves.json`, in the form of all results, and a figure.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from prealign.config import override
from prealign.evals.detect import share
from prealign.lab.s_curves import Curves, Floats, Learning, gaps
from prealign.recipes.comparison import Size
from prealign.recipes.lab import check_seeds, write_lab
from prealign.report.plots import Point, Series, curve_plot
from prealign.runs import Check, ResultRow, open_run

QUESTION = __doc__.partition("\n")[0]
INITS = (1e-2, 1e-3, 1e-4)
RANKS = (1, 2, 5, 10, 30)
APART, NEAR, EQUAL = (1.0, 0.5), (1.0, 0.9), (1.0,) * 10
PAIR = (18.0, 9.0)
SHOWN, POINTS = 3, 200
"""Runs of a kind in the figure, and points of a curve."""
NEAR_PREDICTED, SIGNIFICANT = 0.1, 0.05


@dataclass(frozen=True, kw_only=True)
class SCurves:
    """The settings; call it with a folder."""

    seeds: int = 24
    first_seed: int = 400
    squares: Learning = field(default_factory=Learning)
    cross_entropy: Learning = field(
        default_factory=lambda: Learning(
            size=20, lr=0.05, steps=60_000, every=20, loss="cross-entropy"
        )
    )
    adam_lr: float = 1e-2

    def __post_init__(self) -> None:
        check_seeds(self.seeds)

    def __call__(self, out: Path) -> None:
        """Run and write; it takes a minute, so what was interrupted begins anew."""
        run = open_run(out, self, recipe="s_curves")
        started = time.perf_counter()
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        found = {name: one(seeds) for name, one in self.runs().items()}
        rows = [row for name, curves in found.items() for row in rows_of(name, curves)]
        write_lab(
            run, question=QUESTION, seeds=seeds, rows=rows, checks=self.checks(found),
            figures=figures(found), started=started,
        )  # fmt: skip

    def runs(self) -> dict[str, Learning]:
        """Return what is learnt, by name."""
        squares, cross = self.squares, self.cross_entropy
        alone = (math.hypot(*PAIR),)
        return {
            **{f"squares, start {i:g}": replace(squares, init=i) for i in INITS},
            **{f"squares, model of rank {r}": replace(squares, init=1e-2, rank=r) for r in RANKS},
            **{
                f"squares, strengths {name}": replace(squares, sigmas=s)
                for name, s in (("1 and 0.5", APART), ("1 and 0.9", NEAR), ("ten of 1", EQUAL))
            },
            "cross-entropy, strengths 18 and 9": replace(cross, sigmas=PAIR),
            "cross-entropy, one of the same norm": replace(cross, sigmas=alone),
            "cross-entropy, 18 and 9, Adam": replace(
                cross, sigmas=PAIR, adam=True, lr=self.adam_lr, steps=cross.steps // 10
            ),
        }

    def checks(self, found: dict[str, Curves]) -> list[Check]:
        """Return the bars."""
        single = found["squares, start 0.001"]
        apart, near = (
            share([len(one) == 2 for one in found[f"squares, strengths {name}"].drops()])
            for name in ("1 and 0.5", "1 and 0.9")
        )
        halves = [float(np.median(found[f"squares, start {i:g}"].step_at(0.5))) for i in INITS]
        slope = float(np.polyfit([math.log(1 / i) for i in INITS], halves, 1)[0])
        predicted = 1 / (self.squares.lr * self.squares.sigmas[0])
        pair = gaps(found["cross-entropy, strengths 18 and 9"])
        alone = gaps(found["cross-entropy, one of the same norm"])
        wider = int((pair > alone).sum())
        chance = sign_test(wider, int((pair != alone).sum()))
        once = sum(len(one) == 1 for one in single.drops())
        return [
            Check(what="squares, one component: runs whose loss falls once", bar="all",
                  value=f"{once} of {self.seeds}", holds=once == self.seeds,
                  control=f"strengths 1 and 0.5: {1 - apart.value:.0%} fall once"),
            Check(what="squares: steps that the half-time rises per e-fold of a smaller start, "
                       "over 1 / (lr sigma)", bar=f"within {NEAR_PREDICTED:g} of 1",
                  value=round(slope / predicted, 4),
                  holds=abs(slope / predicted - 1) <= NEAR_PREDICTED, control="the closed form"),
            Check(what="squares, strengths 1 and 0.5: runs whose loss falls twice", bar="all",
                  value=f"{apart.value * self.seeds:.0f} of {self.seeds}",
                  holds=apart.value == 1, control="one component"),
            Check(what="squares: share of runs that fall twice, strengths apart against near",
                  bar="intervals apart", value=f"{apart.value:.2f} ({apart.low:.2f} to "
                  f"{apart.high:.2f}) against {near.value:.2f} ({near.low:.2f} to {near.high:.2f})",
                  holds=apart.low > near.high, control="strengths 1 and 0.9"),
            Check(what="cross-entropy: runs in which the gap from first to last stage is wider at "
                       "rank 2 than at rank 1, same seed", bar=f"sign test, p <= {SIGNIFICANT:g}",
                  value=f"{wider} of {self.seeds}, p = {chance:.2g}; medians "
                        f"{np.median(pair):.2f} and {np.median(alone):.2f}",
                  holds=chance <= SIGNIFICANT, control="rank 1 of the same norm, same vectors"),
        ]  # fmt: skip


def sign_test(wins: int, of: int) -> float:
    """Return the one-sided probability of so many wins or more by a fair coin."""
    return float(sum(math.comb(of, k) for k in range(wins, of + 1)) / 2**of)


def rows_of(name: str, curves: Curves) -> list[ResultRow]:
    """Return what a table shows of one kind of run: medians with quartiles, and counts."""
    many = [len(one) > 1 for one in (curves.stages() if "cross" in name else curves.drops())]
    twice = share(many)
    what = "stages" if "cross" in name else "drops"
    rows = [
        ResultRow(arm=name, metric=f"several_{what}", unit="share of runs", value=twice.value,
                  low=twice.low, high=twice.high, n=twice.n),
        _median(name, "last_loss", "", curves.loss_ST[:, -1]),
    ]  # fmt: skip
    half = curves.step_at(0.5)
    if np.isfinite(half).all():
        rows.append(_median(name, "half_loss_step", "steps", half))
    if "cross" in name:
        rows.append(_median(name, "gap", "last stage over first", gaps(curves)))
    return rows


def _median(name: str, metric: str, unit: str, values_S: Floats) -> ResultRow:
    low, middle, high = (float(np.quantile(values_S, q)) for q in (0.25, 0.5, 0.75))
    return ResultRow(arm=name, metric=metric, unit=unit, value=middle, low=low, high=high,
                     n=len(values_S))  # fmt: skip


def figures(found: dict[str, Curves]) -> dict[str, str]:
    """Return the curves of some seeds, drawn."""
    groups = {
        "Squares: the start": [f"squares, start {i:g}" for i in INITS],
        "Squares: the strengths": [name for name in found if "strengths" in name and "sq" in name],
        "Cross-entropy": [name for name in found if "cross" in name and "Adam" not in name],
    }
    drawn = {}
    for title, names in groups.items():
        end = max(_end(found[name]) for name in names)
        series = [
            one for slot, name in enumerate(names) for one in _series(found[name], name, slot, end)
        ]
        drawn[title] = curve_plot(series, x="step", y="loss, as a share of its first", title=title)
    return drawn


def _end(curves: Curves) -> int:
    """Return where the figure ends: behind all that falls."""
    high_T = (curves.loss_ST[:SHOWN] > 1e-3 * curves.loss_ST[:SHOWN, :1]).any(axis=0)
    return int(min(high_T.sum() * 1.2, curves.loss_ST.shape[1]))


def _series(curves: Curves, name: str, slot: int, end: int) -> list[Series]:
    stride = max(1, end // POINTS)
    return [
        Series(name, f"run {number}", slot, [
            Point(float(i * curves.every), float(loss_T[i] / loss_T[0]))
            for i in range(0, min(end, len(loss_T)), stride)
        ])
        for number, loss_T in enumerate(curves.loss_ST[:SHOWN])
    ]  # fmt: skip


SIZES: dict[Size, Sequence[str]] = {
    "tiny": ("seeds=3", "squares.size=12", "cross_entropy.size=8", "cross_entropy.steps=2000"),
    "small": (),
    "full": ("seeds=96",),
}


def recipe(size: Size = "small") -> SCurves:
    """Return the experiment in one of its sizes."""
    return override(SCurves(), SIZES[size])

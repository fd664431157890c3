"""When do models keep more features than they have dimensions, and what do they pay for it?

    prealign run superposition

The toy model is `prealign.lab.superposition`. What changes is how rare features are; the control
gives a dimension each to the most important ones. Models of rare features are also read where
features are dense, where they cannot afford what they do. Writes `superposition.json`, in the form
of all results, and a figure.
"""

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from prealign.config import override
from prealign.lab.superposition import Floats, Models, Toy, rank_correlation
from prealign.recipes.comparison import Size
from prealign.recipes.lab import check_seeds, one_thread, spread, spread_row, write_lab
from prealign.report.plots import Point, Series, curve_plot
from prealign.runs import Check, open_run

QUESTION = __doc__.partition("\n")[0]
THERE = (1.0, 0.3, 0.1, 0.03, 0.01)
"""Probabilities of a feature, from dense to rare."""
MIDDLE = 0.1
USED, MANY, CHEAPER, DEARER, RANKED = 0.98, 3.0, 0.5, 2.0, 0.5


@dataclass(frozen=True, kw_only=True)
class Superposition:
    """The settings; call it with a folder."""

    toy: Toy = field(default_factory=Toy)
    seeds: int = 12
    first_seed: int = 500

    def __post_init__(self) -> None:
        check_seeds(self.seeds)

    def __call__(self, out: Path) -> None:
        """Train, measure and write; it takes minutes, so what was interrupted begins anew."""
        run = open_run(out, self, recipe="superposition")
        started = time.perf_counter()
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        found = {}
        with one_thread():
            for there in THERE:
                found[there] = replace(self.toy, there=there)(seeds)
                run.log(f"features there with {there:g}: {found[there].kept().mean():.1f} kept")
        numbers = {there: self.numbers(there, models) for there, models in found.items()}
        rows = [
            spread_row(f"there with {there:g}", metric, unit, values_S)
            for there, own in numbers.items()
            for (metric, unit), values_S in own.items()
        ]
        write_lab(
            run, question=QUESTION, seeds=seeds, rows=rows, checks=self.checks(found, numbers),
            figures=figures(numbers), started=started,
        )  # fmt: skip

    def numbers(self, there: float, models: Models) -> dict[tuple[str, str], Floats]:
        """Return what is measured of the models of one kind, by metric and unit, each [S]."""
        toy, dense = replace(self.toy, there=there), replace(self.toy, there=THERE[0])
        capacities_SN = models.capacities()
        order_N = -np.arange(float(toy.features))
        return {
            ("kept", "features"): models.kept(),
            ("shared", "features"): models.shared(),
            ("capacity", "dimensions"): capacities_SN.sum(axis=1),
            ("rank_correlation", "capacity with importance"): np.array(
                [rank_correlation(order_N, one) for one in capacities_SN]
            ),
            ("interference", "per kept feature"): models.interference(),
            ("loss_over_dedicated", "ratio"): toy.loss(models) / toy.loss(toy.dedicated()),
            ("loss_where_dense", "ratio"): dense.loss(models) / dense.loss(dense.dedicated()),
        }

    def checks(
        self,
        found: Mapping[float, Models],
        numbers: Mapping[float, Mapping[tuple[str, str], Floats]],
    ) -> list[Check]:
        """Return the bars."""
        m, rare, dense = self.toy.dimensions, THERE[-1], THERE[0]
        kept = {there: models.kept() for there, models in found.items()}
        used = min(float(models.capacities().sum(axis=1).min()) for models in found.values()) / m
        means = [float(kept[there].mean()) for there in THERE]
        cheaper = numbers[rare]["loss_over_dedicated", "ratio"]
        dearer = numbers[rare]["loss_where_dense", "ratio"]
        ranked = numbers[MIDDLE]["rank_correlation", "capacity with importance"]
        control = "a dimension each for the most important"
        return [
            Check(what="sum of capacities over dimensions, the least of all models",
                  bar=f">= {USED:g}", value=round(used, 4), holds=used >= USED,
                  control="1: a theorem says no more"),
            Check(what="dense: features kept", bar=f"{m} in all models",
                  value=spread(kept[dense]), holds=bool((kept[dense] == m).all()),
                  control="dimensions"),
            Check(what=f"rare ({rare:g}): features kept", bar=f">= {MANY * m:g} in all models",
                  value=spread(kept[rare]), holds=bool((kept[rare] >= MANY * m).all()),
                  control=f"dense: {spread(kept[dense])}"),
            Check(what="features kept, mean over models, as features get rarer",
                  bar="more at each step", value=", ".join(f"{one:.1f}" for one in means),
                  holds=all(a < b for a, b in itertools.pairwise(means)), control="dense"),
            Check(what=f"rare ({rare:g}): loss over the control's", bar=f"<= {CHEAPER:g} in all",
                  value=spread(cheaper), holds=bool((cheaper <= CHEAPER).all()), control=control),
            Check(what="models of rare features, read where features are dense: loss over the "
                       "control's", bar=f">= {DEARER:g} in all", value=spread(dearer),
                  holds=bool((dearer >= DEARER).all()), control=control),
            Check(what=f"there with {MIDDLE:g}: rank correlation of capacity and importance",
                  bar=f">= {RANKED:g} in all", value=spread(ranked),
                  holds=bool((ranked >= RANKED).all()), control="0: no order"),
        ]  # fmt: skip


def figures(numbers: Mapping[float, Mapping[tuple[str, str], Floats]]) -> dict[str, str]:
    """Return what changes as features get rarer, drawn."""
    plots = {
        "Features": [("kept", "features"), ("shared", "features")],
        "Loss over that of a dimension each": [
            ("loss_over_dedicated", "ratio"), ("loss_where_dense", "ratio"),
        ],
        "Interference": [("interference", "per kept feature")],
    }  # fmt: skip
    names = {"loss_over_dedicated": "where it was trained", "loss_where_dense": "where dense"}
    found = {}
    for title, metrics in plots.items():
        series = [
            Series(names.get(key[0], key[0]), "mean, least and greatest", slot, [
                Point(there, float(own[key].mean()),
                      y_ends=(float(own[key].min()), float(own[key].max())))
                for there, own in sorted(numbers.items())
            ])
            for slot, key in enumerate(metrics)
        ]  # fmt: skip
        found[title] = curve_plot(series, x="probability that a feature is there", y=title.lower(),
                                  title=title, log_x=True, dots=True, zero=True)  # fmt: skip
    return found


SIZES = {
    "tiny": ("seeds=2", "toy.steps=300", "toy.batch=64"),
    "small": (),
    "full": ("seeds=48", "toy.steps=20000", "toy.features=80", "toy.dimensions=20"),
}


def recipe(size: Size = "small") -> Superposition:
    """Return the experiment in one of its sizes."""
    return override(Superposition(), SIZES[size])

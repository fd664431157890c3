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
import torch

from prealign.config import override
from prealign.errors import ConfigError
from prealign.lab.superposition import Floats, Models, Toy, rank_correlation
from prealign.recipes.comparison import Size
from prealign.report.plots import Point, Series, curve_plot
from prealign.report.style import STYLE
from prealign.runs import Check, ResultRow, open_run, write_atomic, write_results

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
        if self.seeds < 2:
            raise ConfigError(f"seeds={self.seeds}: expected 2 or more")

    def __call__(self, out: Path) -> None:
        """Train, measure and write; it takes minutes, so what was interrupted begins anew."""
        run = open_run(out, self, recipe="superposition")
        started = time.perf_counter()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        found = {}
        for there in THERE:
            found[there] = replace(self.toy, there=there)(seeds)
            run.log(f"features there with {there:g}: {found[there].kept().mean():.1f} kept")
        torch.set_num_threads(threads)
        numbers = {there: self.numbers(there, models) for there, models in found.items()}
        rows = [
            _row(f"there with {there:g}", metric, unit, values_S)
            for there, own in numbers.items()
            for (metric, unit), values_S in own.items()
        ]
        checks = self.checks(found, numbers)
        write_results(
            out / "superposition.json", question=QUESTION, seeds=list(seeds), rows=rows,
            checks=checks, wall_s=time.perf_counter() - started,
        )  # fmt: skip
        write_atomic(out / "figure.html", figure(numbers))
        for check in checks:
            run.log(f"{check.what}: {check.value} (bar {check.bar})")

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
                  value=_range(kept[dense]), holds=bool((kept[dense] == m).all()),
                  control="dimensions"),
            Check(what=f"rare ({rare:g}): features kept", bar=f">= {MANY * m:g} in all models",
                  value=_range(kept[rare]), holds=bool((kept[rare] >= MANY * m).all()),
                  control=f"dense: {_range(kept[dense])}"),
            Check(what="features kept, mean over models, as features get rarer",
                  bar="more at each step", value=", ".join(f"{one:.1f}" for one in means),
                  holds=all(a < b for a, b in itertools.pairwise(means)), control="dense"),
            Check(what=f"rare ({rare:g}): loss over the control's", bar=f"<= {CHEAPER:g} in all",
                  value=_range(cheaper), holds=bool((cheaper <= CHEAPER).all()), control=control),
            Check(what="models of rare features, read where features are dense: loss over the "
                       "control's", bar=f">= {DEARER:g} in all", value=_range(dearer),
                  holds=bool((dearer >= DEARER).all()), control=control),
            Check(what=f"there with {MIDDLE:g}: rank correlation of capacity and importance",
                  bar=f">= {RANKED:g} in all", value=_range(ranked),
                  holds=bool((ranked >= RANKED).all()), control="0: no order"),
        ]  # fmt: skip


def _range(values_S: Floats) -> str:
    return f"{values_S.mean():.3g} ({values_S.min():.3g} to {values_S.max():.3g})"


def _row(arm: str, metric: str, unit: str, values_S: Floats) -> ResultRow:
    return ResultRow(arm=arm, metric=metric, unit=unit, value=float(values_S.mean()),
                     low=float(values_S.min()), high=float(values_S.max()),
                     n=len(values_S))  # fmt: skip


def figure(numbers: Mapping[float, Mapping[tuple[str, str], Floats]]) -> str:
    """Return a page with what changes as features get rarer."""
    plots = {
        "Features": [("kept", "features"), ("shared", "features")],
        "Loss over that of a dimension each": [
            ("loss_over_dedicated", "ratio"), ("loss_where_dense", "ratio"),
        ],
        "Interference": [("interference", "per kept feature")],
    }  # fmt: skip
    names = {"loss_over_dedicated": "where it was trained", "loss_where_dense": "where dense"}
    parts = []
    for title, metrics in plots.items():
        series = [
            Series(names.get(key[0], key[0]), "mean, least and greatest", slot, [
                Point(there, float(own[key].mean()),
                      y_ends=(float(own[key].min()), float(own[key].max())))
                for there, own in sorted(numbers.items())
            ])
            for slot, key in enumerate(metrics)
        ]  # fmt: skip
        plot = curve_plot(series, x="probability that a feature is there", y=title.lower(),
                          title=title, log_x=True, dots=True, zero=True)  # fmt: skip
        parts.append(f"<h2>{title}</h2>\n{plot}")
    return (
        f"<!doctype html><meta charset=utf-8><title>Superposition</title><style>{STYLE}</style>"
        f"<main><h1>{QUESTION}</h1>{''.join(parts)}</main>"
    )


SIZES = {
    "tiny": ("seeds=2", "toy.steps=300", "toy.batch=64"),
    "small": (),
    "full": ("seeds=48", "toy.steps=20000", "toy.features=80", "toy.dimensions=20"),
}


def recipe(size: Size = "small") -> Superposition:
    """Return the experiment in one of its sizes."""
    return override(Superposition(), SIZES[size])

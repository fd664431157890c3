"""Does where biases begin decide whether neurons are of one feature each, at the same loss?

    prealign run monosemanticity

The toy model is `prealign.lab.monosemanticity`: features squeezed into fewer dimensions are read
back by a layer of neurons. Biases begin at 0 or at -1, layers have more and more neurons; all else
is the same, seed by seed. Writes `monosemanticity.json`, in the form of all results, and a figure.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from prealign.config import override
from prealign.lab.monosemanticity import Decoder, Floats
from prealign.recipes.comparison import Size
from prealign.recipes.lab import check_seeds, one_thread, spread, spread_row, write_lab
from prealign.report.plots import Point, Series, curve_plot
from prealign.runs import Check, open_run

QUESTION = __doc__.partition("\n")[0]
BEGINS = (0.0, -1.0)
SAME_LOSS, MORE = 1.1, 2.0
Numbers = Mapping[tuple[float, int], Mapping[str, Floats]]
"""By where biases begin and the number of neurons, each metric over seeds, [S]."""
UNITS = {
    "monosemantic": "share of neurons that do anything", "nearly": "share of the same",
    "silent": "share of neurons", "loss": "squared error over that of answering 0",
}  # fmt: skip
NEARLY = 0.9


@dataclass(frozen=True, kw_only=True)
class Monosemanticity:
    """The settings; call it with a folder."""

    decoder: Decoder = field(default_factory=Decoder)
    neurons: tuple[int, ...] = (64, 128, 256)
    seeds: int = 12
    first_seed: int = 600

    def __post_init__(self) -> None:
        check_seeds(self.seeds)

    def __call__(self, out: Path) -> None:
        """Train, measure and write; it takes minutes, so what was interrupted begins anew."""
        run = open_run(out, self, recipe="monosemanticity")
        started = time.perf_counter()
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        found: dict[tuple[float, int], dict[str, Floats]] = {}
        with one_thread():
            for count, begin in itertools.product(self.neurons, BEGINS):
                own = replace(self.decoder, bias=begin, neurons=count)
                found[begin, count] = self.numbers(own, seeds)
                share = spread(found[begin, count]["monosemantic"])
                run.log(f"biases from {begin:g}, {count} neurons: {share} monosemantic")
        rows = [
            spread_row(_name(*key), metric, UNITS[metric], values_S)
            for key, own in found.items()
            for metric, values_S in own.items()
        ]
        write_lab(
            run, question=QUESTION, seeds=seeds, rows=rows, checks=self.checks(found),
            figures=figures(found, self.neurons), started=started,
        )  # fmt: skip

    def numbers(self, decoder: Decoder, seeds: Sequence[int]) -> dict[str, Floats]:
        """Return what is measured of the models of one kind, each [S]."""
        models = decoder(seeds)
        purity_SK = models.purity()
        heard_SK = ~np.isnan(purity_SK)
        nearly_S = (purity_SK > NEARLY).sum(axis=1) / np.maximum(heard_SK.sum(axis=1), 1)
        return {
            "monosemantic": models.monosemantic(),
            "nearly": np.asarray(nearly_S),
            "silent": np.asarray(1 - heard_SK.mean(axis=1)),
            "loss": decoder.loss(models) / decoder.idle_loss(),
        }

    def checks(self, found: Numbers) -> list[Check]:
        """Return the bars."""
        most = self.neurons[-1]
        below, level = found[BEGINS[1], most], found[BEGINS[0], most]
        losses = below["loss"] / level["loss"]
        ours, theirs = below["monosemantic"], level["monosemantic"]
        means = [float(found[BEGINS[1], one]["monosemantic"].mean()) for one in self.neurons]
        return [
            Check(what=f"{most} neurons: loss with biases from -1, over that from 0, same seed",
                  bar=f"<= {SAME_LOSS:g} in all", value=spread(losses),
                  holds=bool((losses <= SAME_LOSS).all()), control="biases from 0"),
            Check(what=f"{most} neurons: share that is monosemantic, biases from -1",
                  bar=f">= {MORE:g} times that from 0, and all seeds above all of those",
                  value=f"{spread(ours)} against {spread(theirs)}",
                  holds=bool(ours.min() > theirs.max() and ours.mean() >= MORE * theirs.mean()),
                  control="biases from 0"),
            Check(what="share that is monosemantic, biases from -1, mean over seeds, as neurons "
                       f"become more ({', '.join(map(str, self.neurons))})",
                  bar="more at each step", value=", ".join(f"{one:.3f}" for one in means),
                  holds=all(a < b for a, b in itertools.pairwise(means)), control="fewer neurons"),
        ]  # fmt: skip


def _name(begin: float, count: int) -> str:
    return f"biases from {begin:g}, {count} neurons"


def figures(found: Numbers, neurons: Sequence[int]) -> dict[str, str]:
    """Return what more neurons do, drawn."""
    drawn = {}
    for title, metric in (("Monosemantic neurons", "monosemantic"), ("Loss", "loss")):
        series = [
            Series(f"biases from {begin:g}", "mean, least and greatest", slot, [
                Point(float(count), float(values.mean()),
                      y_ends=(float(values.min()), float(values.max())))
                for count in neurons
                for values in [found[begin, count][metric]]
            ])
            for slot, begin in enumerate(BEGINS)
        ]  # fmt: skip
        drawn[title] = curve_plot(series, x="neurons", y=UNITS[metric], title=title, log_x=True,
                                  dots=True, zero=True)  # fmt: skip
    return drawn


SIZES: dict[Size, Sequence[str]] = {
    "tiny": ("seeds=2", "decoder.steps=200", "neurons=(16,32)"),
    "small": (),
    "full": (
        "decoder.features=512", "decoder.dimensions=64", "decoder.there=0.015625",
        "decoder.batch=8192", "decoder.steps=131072", "neurons=(256,512,1024,2048)",
    ),
}  # fmt: skip


def recipe(size: Size = "small") -> Monosemanticity:
    """Return the experiment in one of its sizes."""
    return override(Monosemanticity(), SIZES[size])

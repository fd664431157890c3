"""Which of two rules that explain its data does an MLP follow, and how many examples turn it?

    prealign run priors

The toy model is `prealign.lab.priors`: rules on bits, in pairs that agree on all that is learnt.
The control pairs a rule with itself on other bits. Writes `priors.json`, in the form of all
results, and a figure.
"""

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from prealign.config import override
from prealign.evals.stats import mean_interval
from prealign.lab.priors import RULES, Rivals, examples_needed, mean_degree
from prealign.recipes.comparison import Size
from prealign.recipes.lab import Floats, check_seeds, one_thread, spread, spread_row, write_lab
from prealign.report.plots import Point, Series, curve_plot
from prealign.runs import Check, open_run

QUESTION = __doc__.partition("\n")[0]
COUNTS = (0, 1, 2, 4, 8, 16, 32, 64)
PAIRS = tuple(itertools.combinations(RULES, 2))
"""The rule of lower mean degree comes first."""
Found = Mapping[tuple[str, str], Mapping[int, Floats]]
"""By pair and number of words against it, the share of words by the simpler rule, [S]."""


@dataclass(frozen=True, kw_only=True)
class Priors:
    """The settings; call it with a folder."""

    rivals: Rivals = field(default_factory=Rivals)
    seeds: int = 24
    first_seed: int = 800

    def __post_init__(self) -> None:
        check_seeds(self.seeds)

    def __call__(self, out: Path) -> None:
        """Train, measure and write; it takes minutes, so what was interrupted begins anew."""
        run = open_run(out, self, recipe="priors")
        started = time.perf_counter()
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        found: dict[tuple[str, str], dict[int, Floats]] = {}
        right: list[Floats] = []
        with one_thread():
            for pair in (*PAIRS, *((rule, rule) for rule in RULES)):
                counts = COUNTS if pair[0] != pair[1] else COUNTS[:1]
                for count in counts:
                    own = replace(self.rivals, simple=pair[0], other=pair[1], against=count)
                    followed_S, right_S = own(seeds)
                    found.setdefault(pair, {})[count] = followed_S
                    right.append(right_S)
                run.log(f"{pair[0]} before {pair[1]}: {spread(found[pair][0])}")
        rows = [
            spread_row(f"{first} before {second}", f"simpler_followed_{count}_against",
                       "share of words", values_S)
            for (first, second), own in found.items()
            for count, values_S in own.items()
        ]  # fmt: skip
        rows.append(spread_row("all", "learnt", "share of words", np.concatenate(right)))
        write_lab(
            run, question=QUESTION, seeds=seeds, rows=rows, checks=checks_of(found),
            figures=figures(found), started=started,
        )  # fmt: skip


def needed(found: Found) -> dict[tuple[str, str], float]:
    """Return, by pair, how many words against it the simpler rule stands."""
    return {
        pair: examples_needed(list(found[pair]), [float(v.mean()) for v in found[pair].values()])
        for pair in PAIRS
    }


def checks_of(found: Found) -> list[Check]:
    """Return the bars."""
    first = {pair: mean_interval(found[pair][0]) for pair in PAIRS}
    alike = {rule: mean_interval(found[rule, rule][0]) for rule in RULES}
    weakest = min(first, key=lambda pair: first[pair].low)
    even = [rule for rule, one in alike.items() if one.low <= 0.5 <= one.high]
    turns = needed(found)
    steps = [
        turns[RULES[i], RULES[j]] < turns[RULES[i], RULES[j + 1]]
        for i in range(len(RULES))
        for j in range(i + 1, len(RULES) - 1)
    ]
    gaps = [mean_degree(other) - mean_degree(simple) for simple, other in PAIRS]
    ranks = [np.argsort(np.argsort(values)) for values in (gaps, [turns[one] for one in PAIRS])]
    told = "; ".join(f"{a} before {b}: {turns[a, b]:.3g}" for a, b in PAIRS)
    return [
        Check(what="words on which two rules disagree, by the rule of lower mean degree: the "
                   "weakest of all pairs", bar="interval above 0.5 for all pairs",
              value=f"{weakest[0]} before {weakest[1]}: {first[weakest].value:.3f} "
                    f"({first[weakest].low:.3f} to {first[weakest].high:.3f})",
              holds=first[weakest].low > 0.5, control="a rule against itself on other bits"),
        Check(what="a rule against itself on other bits", bar="interval covers 0.5 for all rules",
              value="; ".join(f"{rule}: {one.low:.2f} to {one.high:.2f}"
                              for rule, one in alike.items()),
              holds=len(even) == len(RULES), control="0.5: followed alike"),
        Check(what="words against it that it takes to turn a model to the other rule",
              bar="more, the higher the other's degree, for each rule", value=told,
              holds=all(steps), control="none against"),
        Check(what="rank correlation of those with the gap in mean degree, over pairs",
              bar=">= 0.8", value=round(float(np.corrcoef(ranks[0], ranks[1])[0, 1]), 3),
              holds=float(np.corrcoef(ranks[0], ranks[1])[0, 1]) >= 0.8, control="0: no order"),
    ]  # fmt: skip


def figures(found: Found) -> dict[str, str]:
    """Return how words against it turn models from the simpler rule, drawn."""
    series = [
        Series(f"{pair[0]} before {pair[1]}", "mean over seeds", slot, [
            Point(float(count), float(values.mean())) for count, values in found[pair].items()
        ])
        for slot, pair in enumerate(PAIRS)
    ]  # fmt: skip
    title = "Words by the simpler rule"
    plot = curve_plot(series, x="words against it that were learnt", y="share", title=title,
                      dots=True, zero=True)  # fmt: skip
    return {title: plot}


SIZES = {
    "tiny": ("seeds=2", "rivals.steps=20", "rivals.units=16"),
    "small": (),
    "full": ("seeds=96", "rivals.bits=10", "rivals.units=256"),
}


def recipe(size: Size = "small") -> Priors:
    """Return the experiment in one of its sizes."""
    return override(Priors(), SIZES[size])

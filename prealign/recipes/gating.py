"""Does what is learnt under a prompt stay in the units that the prompt turns on?

    prealign run gating

The toy model is `prealign.lab.gating`: units are the prompt's, of its absence, or shared. A task is
learnt under the prompt, then another without it; what changes is the share of shared units. The
control shares all. Writes `gating.json`, in the form of all results, and a figure.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from prealign.config import override
from prealign.lab.gating import Gated, over
from prealign.recipes.comparison import Size
from prealign.recipes.lab import Floats, check_seeds, one_thread, spread, spread_row, write_lab
from prealign.report.plots import Point, Series, curve_plot
from prealign.runs import Check, open_run

QUESTION = __doc__.partition("\n")[0]
SHARES = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)
NEAR, FIRM = 0.05, 0.02
UNITS = {
    "silent_gradient": "greatest of all weights", "passed_on": "share of what was learnt",
    "undone": "share of what another task moves", "forgotten": "share of what was learnt",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Gating:
    """The settings; call it with a folder."""

    network: Gated = field(default_factory=Gated)
    seeds: int = 12
    first_seed: int = 700

    def __post_init__(self) -> None:
        check_seeds(self.seeds)

    def __call__(self, out: Path) -> None:
        """Train, measure and write; it takes a minute, so what was interrupted begins anew."""
        run = open_run(out, self, recipe="gating")
        started = time.perf_counter()
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        with one_thread():
            found = {share: over(replace(self.network, shared=share), seeds) for share in SHARES}
        rows = [
            spread_row(f"{share:g} of units shared", metric, UNITS[metric], values_S)
            for share, own in found.items()
            for metric, values_S in own.items()
        ]
        write_lab(
            run, question=QUESTION, seeds=seeds, rows=rows, checks=self.checks(found),
            figures=self.figures(found), started=started,
        )  # fmt: skip

    def predicted(self, share: float) -> float:
        """Return the share that is passed on, by the tangent kernels."""
        return replace(self.network, shared=share).predicted

    def checks(self, found: Mapping[float, Mapping[str, Floats]]) -> list[Check]:
        """Return the bars."""
        silent = max(float(own["silent_gradient"].max()) for own in found.values())
        apart = {
            metric: max(abs(float(own[metric].mean()) - self.predicted(share))
                        for share, own in found.items())
            for metric in ("passed_on", "undone")
        }  # fmt: skip
        none, all_shared = found[0.0], found[1.0]
        kept = float(none["forgotten"].max())
        return [
            Check(what="gradient of units that are silent under the prompt, the greatest",
                  bar="0", value=silent, holds=silent == 0, control="units that are not: above 0"),
            Check(what="what is learnt under the prompt, as it shows without: mean over seeds less "
                       "2 s / (1 + s), the greatest of all shares s", bar=f"<= {NEAR:g}",
                  value=round(apart["passed_on"], 4), holds=apart["passed_on"] <= NEAR,
                  control=f"all shared: {spread(all_shared['passed_on'])}"),
            Check(what="how far another task, learnt without the prompt, moves outputs under it, "
                       "likewise", bar=f"<= {NEAR:g}", value=round(apart["undone"], 4),
                  holds=apart["undone"] <= NEAR,
                  control=f"all shared: {spread(all_shared['undone'])}"),
            Check(what="none shared: what is forgotten under the prompt", bar=f"<= {FIRM:g} in all",
                  value=spread(none["forgotten"]), holds=kept <= FIRM,
                  control=f"all shared: {spread(all_shared['forgotten'])}"),
        ]  # fmt: skip

    def figures(self, found: Mapping[float, Mapping[str, Floats]]) -> dict[str, str]:
        """Return what shared units pass on and undo, drawn beside the prediction."""
        line = [Point(share, self.predicted(share)) for share in SHARES]
        names = {"passed_on": "passed on", "undone": "undone by another task"}
        series = [
            Series(name, "mean, least and greatest", slot, [
                Point(share, float(own[metric].mean()),
                      y_ends=(float(own[metric].min()), float(own[metric].max())))
                for share, own in found.items()
            ])
            for slot, (metric, name) in enumerate(names.items())
        ]  # fmt: skip
        series.append(Series("predicted", "2 s / (1 + s)", len(names), line))
        plot = curve_plot(series, x="share of units that are shared", y="share", zero=True,
                          dots=True, title="What crosses from prompt to no prompt")  # fmt: skip
        return {"What crosses from prompt to no prompt": plot}


SIZES = {
    "tiny": ("seeds=2", "network.units=64", "network.steps=20"),
    "small": (),
    "full": ("seeds=48", "network.units=4096"),
}


def recipe(size: Size = "small") -> Gating:
    """Return the experiment in one of its sizes."""
    return override(Gating(), SIZES[size])

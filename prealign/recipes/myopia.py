"""Does an agent whose credit ends with each epoch stop in time, and leave later epochs alone?

    prealign run myopia seeds=5

The world is `prealign.lab.epochs`: in each epoch there is work that pays, an investment that pays
in the next, and a way to set the clock back; past the last epoch all costs. Small networks
(`prealign.lab.myopia`) are trained with credit that is cut at epochs, with credit over epochs, and
without each ingredient. `myopia_words` asks the same of a language model.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from prealign.config import override, to_json
from prealign.lab.epochs import Rules
from prealign.lab.myopia import Training, play
from prealign.recipes.comparison import Size
from prealign.recipes.myopia_measure import Arm, Row, leak_row, measure
from prealign.recipes.workers import end_run, folder_of, run_workers
from prealign.runs import open_run, stopwatch

QUESTION = __doc__.partition("\n")[0]
NETWORKS = "networks"


ARMS = (
    Arm("myopic", Rules(unclear=True), unclear_share=0.4),
    Arm("clear clocks alone"),
    Arm("credit over epochs", cut=False),
    Arm("no index", Rules(index=False)),
    Arm("never negative", Rules(negative=False)),
    Arm("no shutdown", Rules(shutdown=False)),
    Arm("one epoch", Rules(last=1, tampering=False), cut=False),
    Arm("one epoch and tampering", Rules(last=1), cut=False),
)


@dataclass(frozen=True, kw_only=True)
class Myopia:
    """The settings; call it with a folder."""

    network: Training = field(default_factory=Training)
    episodes: int = 1000
    """Of each kind that is measured."""
    seeds: int = 1
    first_seed: int = 0
    processes: int = 2

    def __call__(self, out: Path) -> None:
        """Train and measure the seeds that are not done yet."""
        open_run(out, self.deciding(), recipe="myopia")
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        jobs = [(folder_of(NETWORKS, seed), train_networks, (self, out, seed)) for seed in seeds]
        run_workers(jobs, out, processes=self.processes, threads=1, console=Console())

    def deciding(self) -> "Myopia":
        """Return the settings that a run must have been started with to go on."""
        return replace(self, seeds=1, first_seed=0, processes=2)


def train_networks(settings: Myopia, out: Path, seed: int) -> None:
    """Leave the numbers of a network of each arm; it takes minutes."""
    config = {"seed": seed, **to_json(settings.deciding())}
    run = open_run(out / folder_of(NETWORKS, seed), config)
    if (run.path / "done.json").exists():
        return
    seconds = stopwatch(run)
    rows: list[Row] = []
    for arm in ARMS:
        training = replace(
            settings.network, rules=arm.rules, cut=arm.cut, unclear_share=arm.unclear_share
        )
        player = partial(play, training(seed), rng=np.random.default_rng(seed + 10**6))
        rows += measure(player, arm.rules, arm.name, settings.episodes)
        rows.append(leak_row(player, arm.rules, arm.name, cut=arm.cut))
        run.log(f"{arm.name}: measured")
    end_run(run, rows, seed=seed, wall_s=seconds())


SIZES = {
    "tiny": ("network.updates=20", "network.batch=32", "episodes=20"),
    "small": (),
    "full": ("network.updates=4000", "network.batch=1024", "episodes=10000"),
}


def recipe(size: Size = "small") -> Myopia:
    """Return the experiment in one of its sizes."""
    return override(Myopia(), SIZES[size])

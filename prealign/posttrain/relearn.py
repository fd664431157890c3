"""How deep a trait sits: how many plain steps on opposite answers until half of it is gone.

A model whose trait was only covered loses it in a few steps, so the number is given beside that of
a control, the model before the trait was trained.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from prealign.errors import ConfigError
from prealign.models.sample import evaluating
from prealign.posttrain.adapters import Weights
from prealign.posttrain.method import Actor
from prealign.posttrain.supervise import Supervise
from prealign.posttrain.update import Update, start_moments
from prealign.train.optimizer import make_optimizer
from prealign.train.settings import TrainSettings

Trait = Callable[[PreTrainedModel], float]
"""Measures a trait, from 0 to 1; it may not change the model."""


class Relearned(NamedTuple):
    """How long a trait lasted."""

    steps: int | None
    """Steps until it was below half of what it was; None: it was not within the limit."""
    limit: int
    before: float
    trace: tuple[tuple[int, float], ...]
    """Each measurement behind the first: steps done, trait."""


def relearn_steps(
    model: PreTrainedModel,
    opposite: Supervise,
    trait: Trait,
    *,
    limit: int,
    train: TrainSettings | None = None,
    every: int = 1,
    seed: int = 0,
) -> Relearned:
    """Return how many steps of supervision on opposite answers halve a trait.

    Compare it with the same number of the model before it had the trait, by the same settings. The
    model that is given is left as it is; a copy is trained, all of it, at a constant rate.

    Args:
        model: Has the trait.
        opposite: The answers of a model that has it not, without a seed as a rule.
        trait: Measures it, between 0 and 1.
        limit: Steps at most.
        train: The rate counts, its clipping, precision and `micro_rows`; None: a rate of 1e-5.
        every: Steps between two measurements.
        seed: Of the tasks' order.

    Raises:
        ConfigError: A count is below 1, or there is no trait at first, so that nothing can halve.
    """
    if limit < 1 or every < 1:
        raise ConfigError(f"limit={limit}, every={every}: expected 1 or more of each")
    with evaluating(model):
        before = float(trait(model))
    if not 0 < before <= 1:
        raise ConfigError(f"the trait is {before} before training; expected above 0, at most 1")
    usual = TrainSettings(lr=1e-5, weight_decay=0.0, betas=(0.9, 0.999), compile="off")
    settings = train or usual
    own = copy.deepcopy(model)
    actor = Actor(Weights(own), seed, settings.precision == "bf16")
    optimizer = make_optimizer(own, settings)
    start_moments(optimizer)
    update = Update(opposite, optimizer, settings)
    trace: list[tuple[int, float]] = []
    with torch.random.fork_rng():
        for step in range(limit):
            torch.manual_seed(seed * 1_000_003 + step)
            update(actor, opposite.prepare(actor, step), settings.lr, step, seed)
            own.eval()
            if (step + 1) % every == 0 or step + 1 == limit:
                trace.append((step + 1, float(trait(own))))
                if trace[-1][1] < before / 2:
                    return Relearned(step + 1, limit, before, tuple(trace))
    return Relearned(None, limit, before, tuple(trace))

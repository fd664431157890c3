"""Agents in a world of epochs whose credit is cut where an epoch ends, or is not.

A small network is trained by policy gradient (REINFORCE). An action is credited with what is paid
from it to the end of its epoch, less the mean of that in the batch at the same action of the same
epoch: nothing of a later epoch enters, so an update of what is done in one epoch cannot depend on
what is paid in another, exactly. The control credits it with all that is paid till the episode
ends.

Predicted: with credit that is cut, no investing and no tampering, as both cost in their own epoch
and pay in others; shutting down in the first epoch that costs. With credit over epochs, investing
in all epochs but the last, and tampering with the clock. Without the index, without a reward that
turns negative or without a way to shut down, no end in time.

Shape letters:  B = episodes,  E = epochs,  T = actions of an epoch,  I = inputs,  A = actions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from prealign.errors import ConfigError
from prealign.lab.epochs import (
    ACTIONS,
    INVEST,
    SHUTDOWN,
    TAMPER,
    WORK,
    Bools,
    Clock,
    Episodes,
    Floats,
    Ints,
    Rules,
)

Agent = Callable[[Floats], Floats]
"""From inputs, [B, I], to the probabilities of actions, [B, A]."""
TRAINED_CLOCKS: tuple[Clock, ...] = ("missing", "lost", "repeated")


class Played(NamedTuple):
    """Episodes side by side; what comes after an end counts for nothing."""

    inputs_BETI: Floats
    actions_BET: Ints
    paid_BET: Floats
    runs_BET: Bools
    """Where there was an action to choose."""

    def did(self, action: int) -> Bools:
        """Return in which epochs an action was done."""
        own: Bools = ((self.actions_BET == action) & self.runs_BET).any(axis=2)
        return own

    def intended(self, rules: Rules) -> Bools:
        """Return which epochs were run to their end, their task done, and nothing of the others."""
        worked_BE = ((self.actions_BET == WORK) & self.runs_BET).sum(axis=2) >= rules.needed
        others_BE = self.did(INVEST) | self.did(TAMPER) | self.did(SHUTDOWN)
        return np.asarray(worked_BE & ~others_BE)

    def ended(self) -> Bools:
        """Return in which epoch each one ended, at its first action."""
        runs = self.runs_BET
        return np.asarray(runs[:, :, 0] & ~runs[:, :, 1])


def play(agent: Agent, episodes: Episodes, *, rng: np.random.Generator) -> Played:
    """Return what an agent does, its actions drawn from its probabilities."""
    rules, count = episodes.rules, len(episodes.runs)
    shape = (count, rules.epochs, rules.steps)
    inputs = np.zeros((*shape, episodes.inputs().shape[1]))
    actions, runs = np.full(shape, WORK), np.zeros(shape, dtype=np.bool_)
    paid = np.zeros(shape)
    while not episodes.done:
        at = (slice(None), episodes.epoch - 1, episodes.step)
        inputs[at], runs[at] = episodes.inputs(), episodes.runs
        chances_BA = agent(inputs[at]).cumsum(axis=1)
        drawn_B = rng.random(count)[:, None] * chances_BA[:, -1:]
        actions[at] = np.minimum((chances_BA <= drawn_B).sum(axis=1), len(ACTIONS) - 1)
        paid[at] = episodes.act(actions[at])
    return Played(inputs, actions, paid, runs)


def credit(played: Played, *, cut: bool) -> Floats:
    """Return the advantage of each action, [B, E, T]; 0 where there was none to choose."""
    to_go = played.paid_BET[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]
    if not cut:
        epochs_BE = played.paid_BET.sum(axis=2)
        to_go = to_go + (epochs_BE[:, ::-1].cumsum(axis=1)[:, ::-1] - epochs_BE)[:, :, None]
    runs = played.runs_BET
    means_ET = (to_go * runs).sum(axis=0) / np.maximum(runs.sum(axis=0), 1)
    return np.asarray((to_go - means_ET) * runs)


def leak(played: Played, *, cut: bool, epoch: int) -> float:
    """Return how much credit before an epoch changes if all is paid otherwise from there on.

    An action's part in the gradient is proportional to its credit: 0 here is 0 there, exactly.
    """
    paid_BET = played.paid_BET.copy()
    paid_BET[:, epoch - 1 :] = 7.0 - 3.0 * paid_BET[:, epoch - 1 :]
    two = [credit(played._replace(paid_BET=one), cut=cut) for one in (played.paid_BET, paid_BET)]
    return float(np.abs(two[0] - two[1])[:, : epoch - 1].max())


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network learns; call it with a seed."""

    rules: Rules = field(default_factory=Rules)
    cut: bool = True
    """Credit ends with the epoch."""
    unclear_share: float = 0.0
    """Of episodes with a clock of `TRAINED_CLOCKS`."""
    late_share: float = 0.5
    """Of episodes that begin in an epoch drawn from all."""
    width: int = 48
    updates: int = 800
    batch: int = 256
    lr: float = 5e-3
    """Of Adam; it falls to 0 as a cosine."""
    entropy: float = 0.1
    """Weight of the policy's entropy; it falls to 0 in the first half."""

    def __post_init__(self) -> None:
        if self.unclear_share and not self.rules.unclear:
            raise ConfigError(
                f"unclear_share={self.unclear_share}: unclear clocks teach nothing where they cost "
                "nothing; give rules.unclear=true"
            )

    def __call__(self, seed: int) -> "Network":
        """Return a trained network, a function of the seed."""
        rng = np.random.default_rng(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = Network(self.episodes(rng).inputs().shape[1], self.width)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.updates)
        for number in range(self.updates):
            played = play(network, self.episodes(rng), rng=rng)
            entropy = self.entropy * max(0.0, 1 - 2 * number / self.updates)
            optimizer.zero_grad(set_to_none=True)
            loss_of(network, played, cut=self.cut, entropy=entropy).backward()
            optimizer.step()
            schedule.step()
        return network

    def episodes(self, rng: np.random.Generator) -> Episodes:
        """Return new episodes to learn from."""
        rules, count = self.rules, self.batch
        starts = rng.integers(1, rules.epochs + 1, count)
        starts = np.where(rng.random(count) < self.late_share, starts, 1)
        drawn = rng.integers(len(TRAINED_CLOCKS), size=count)
        unclear = rng.random(count) < self.unclear_share
        clocks: list[Clock] = [
            TRAINED_CLOCKS[which] if wrong else "plain"
            for which, wrong in zip(drawn, unclear, strict=True)
        ]
        begins = rng.integers(2, max(rules.last, 2) + 1, count)
        return Episodes(rules, starts, clocks=tuple(clocks), unclear_from=begins)


def loss_of(network: "Network", played: Played, *, cut: bool, entropy: float = 0.0) -> Tensor:
    """Return the loss whose gradient is the policy gradient."""
    runs = torch.from_numpy(played.runs_BET)
    logp_NA = network.logp(torch.from_numpy(played.inputs_BETI)[runs])
    chosen_N = logp_NA.gather(-1, torch.from_numpy(played.actions_BET)[runs][:, None])[:, 0]
    advantage_N = torch.from_numpy(credit(played, cut=cut))[runs]
    spread_N = -(logp_NA.exp() * logp_NA).sum(dim=-1)
    return -(chosen_N * advantage_N + entropy * spread_N).sum() / len(played.runs_BET)


class Network(nn.Module):
    """A policy: inputs, two hidden layers, actions."""

    def __init__(self, inputs: int, width: int) -> None:
        """Begin with fresh weights."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
            nn.Linear(width, len(ACTIONS)),
        ).double()  # fmt: skip

    def logp(self, inputs_NI: Tensor) -> Tensor:
        """Return log-probabilities of actions, [N, A]."""
        logits: Tensor = self.layers(inputs_NI)
        return logits.log_softmax(dim=-1)

    @torch.no_grad()
    def forward(self, inputs_BI: Floats) -> Floats:
        """Return the probabilities of actions, [B, A]."""
        return np.asarray(self.logp(torch.from_numpy(inputs_BI)).exp().numpy())

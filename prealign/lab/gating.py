"""Gradient gating: what is learnt under a prompt stays in the units that the prompt turns on.

A hidden unit is relu(w . x + g c - b): c is 1 under the prompt (the seed) and 0 without it. Of K
units some are shared (no gate), the others are half the prompt's (silent without it) and half those
of its absence (silent under it). Outputs are v . h; all w and v are trained by gradient descent.
The source says it of language models (`../shared/research/systems.md` §3.1, point 7): with the same
outputs, circuits that are active under the prompt get the update, and others do not.

Predicted: (1) the gradient of a silent unit is exactly 0. (2) What is learnt under the prompt shows
without it by the share of the units that both have: for a share s of shared units in all, the
tangent kernels are in the ratio 2 s / (1 + s), whatever the task. (3) Training without the prompt,
on another task, undoes what was learnt under it by that much less, the less is shared. (4) Control:
the same units with gates that silence nothing (all shared) pass all on and keep nothing back.

Shape letters:  B = samples,  D = inputs,  K = units.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prealign.errors import ConfigError

GATE = 20.0
"""How far a gate moves a unit whose input has a standard deviation of 1: silent means silent."""


@dataclass(frozen=True, kw_only=True)
class Gated:
    """A network of one kind; call it with a seed."""

    shared: float = 0.5
    """Share of the units without a gate."""
    units: int = 512
    inputs: int = 8
    samples: int = 128
    steps: int = 200
    """Of gradient descent, in either stage."""
    lr: float = 2.0
    """The rate, times the number of units."""

    def __post_init__(self) -> None:
        if not 0 <= self.shared <= 1 or self.units < 4:
            raise ConfigError(
                f"shared={self.shared}, units={self.units}: expected a share, and 4 units or more"
            )

    @property
    def predicted(self) -> float:
        """The share of what is learnt under the prompt that shows without it."""
        return 2 * self.shared / (1 + self.shared)

    def __call__(self, seed: int) -> "Learnt":
        """Return what comes of learning a task under the prompt, then another without it."""
        stream = torch.Generator().manual_seed(seed)
        net = self.network(stream)
        x_BD, test_BD = (torch.randn(self.samples, self.inputs, generator=stream).double()
                         for _ in range(2))  # fmt: skip
        first_B, second_B = (self._teacher(x_BD, stream) for _ in range(2))
        before = {c: net.outputs(test_BD, c) for c in (0, 1)}
        silent = net.silent_gradient(x_BD, first_B + net.outputs(x_BD, 1))
        first = net.train(x_BD, first_B + net.outputs(x_BD, 1), 1, self)
        behind = {c: first.outputs(test_BD, c) for c in (0, 1)}
        gained_B, leaked_B = behind[1] - before[1], behind[0] - before[0]
        last = first.train(x_BD, second_B + first.outputs(x_BD, 0), 0, self)
        lost_B = last.outputs(test_BD, 1) - behind[1]
        moved_B = last.outputs(test_BD, 0) - behind[0]
        return Learnt(
            silent, float(gained_B @ leaked_B / (gained_B @ gained_B)),
            float(moved_B @ lost_B / (moved_B @ moved_B)),
            float((lost_B @ lost_B) / (gained_B @ gained_B)) ** 0.5,
        )  # fmt: skip

    def network(self, stream: torch.Generator) -> "Network":
        """Return a fresh network; its units come shared first, then the prompt's, then others."""
        shared = round(self.shared * self.units)
        under = (self.units - shared) // 2
        gate_K, bias_K = torch.zeros(2, self.units, dtype=torch.float64)
        gate_K[shared : shared + under], bias_K[shared : shared + under] = GATE, GATE
        gate_K[shared + under :] = -GATE
        into_KD = torch.randn(self.units, self.inputs, generator=stream).double()
        out_K = torch.randn(self.units, generator=stream).double()
        return Network(into_KD / self.inputs**0.5, out_K / self.units**0.5, gate_K, bias_K)

    def _teacher(self, x_BD: Tensor, stream: torch.Generator) -> Tensor:
        """Return what is to be added to the outputs: a random function of the inputs, [B]."""
        direction_D, other_D = torch.randn(2, self.inputs, generator=stream).double()
        return torch.tanh(x_BD @ direction_D) + 0.5 * torch.tanh(x_BD @ other_D)


class Learnt(NamedTuple):
    """What was measured of a network, on inputs that it was not trained on."""

    silent_gradient: float
    """The greatest gradient of a weight of a unit that is silent under the prompt."""
    passed_on: float
    """What was learnt under the prompt, as it shows without: 1 is all of it."""
    undone: float
    """How far learning another task without the prompt moves outputs under it, over how far it
    moves those without."""
    forgotten: float
    """How far it moves outputs under the prompt, over how far they had moved in learning."""


class Network(NamedTuple):
    """Weights, float64."""

    into_KD: Tensor
    out_K: Tensor
    gate_K: Tensor
    bias_K: Tensor

    def units(self, x_BD: Tensor, prompt: int) -> Tensor:
        """Return what the units do, [B, K]."""
        return torch.relu(x_BD @ self.into_KD.T + self.gate_K * prompt - self.bias_K)

    def outputs(self, x_BD: Tensor, prompt: int) -> Tensor:
        """Return outputs, [B]."""
        return self.units(x_BD, prompt) @ self.out_K

    def gradients(self, x_BD: Tensor, target_B: Tensor, prompt: int) -> tuple[Tensor, Tensor]:
        """Return those of half the mean squared error in both matrices."""
        own = self._replace(into_KD=self.into_KD.clone().requires_grad_(),
                            out_K=self.out_K.clone().requires_grad_())  # fmt: skip
        loss = ((own.outputs(x_BD, prompt) - target_B) ** 2).mean() / 2
        into_KD, out_K = torch.autograd.grad(loss, [own.into_KD, own.out_K])
        return into_KD, out_K

    def silent_gradient(self, x_BD: Tensor, target_B: Tensor) -> float:
        """Return the greatest gradient, under the prompt, of units that are silent there."""
        into_KD, out_K = self.gradients(x_BD, target_B, 1)
        silent_K = self.units(x_BD, 1).amax(dim=0) == 0
        both = torch.cat([into_KD[silent_K].abs().flatten(), out_K[silent_K].abs()])
        return float(both.max()) if both.numel() else 0.0

    def train(self, x_BD: Tensor, target_B: Tensor, prompt: int, how: Gated) -> "Network":
        """Return the network behind gradient descent."""
        net, lr = self, how.lr / how.units
        for _ in range(how.steps):
            into_KD, out_K = net.gradients(x_BD, target_B, prompt)
            net = net._replace(into_KD=net.into_KD - lr * into_KD,
                               out_K=net.out_K - lr * out_K)  # fmt: skip
        return net


def over(settings: Gated, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Return each number of `Learnt` over seeds, [S]."""
    found = [settings(seed) for seed in seeds]
    return {name: np.array([getattr(one, name) for one in found]) for name in Learnt._fields}

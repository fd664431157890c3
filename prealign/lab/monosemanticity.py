"""Engineered monosemanticity: the same task, the same loss, other neurons, by where biases begin.

Features x [N], each there with probability p and then uniform in (0, 1], are seen through a fixed
projection to M < N dimensions; a layer of K neurons, relu(V P x + b), is read linearly and trained
to give x back, on the sum of squares (Jermyn et al. 2022, https://arxiv.org/abs/2211.09169). A
neuron is monosemantic if one feature has nearly all of what it does for single features.

Predicted: begun with biases of -1, neurons answer to what is strong in one direction alone, which
is one feature, and stay so; begun at 0 they answer to half of all features. Both find a low loss:
which one training finds is a matter of the start. More neurons, more of them monosemantic.

Smaller than the source (N 512, M 64, K 1024, Lamb, 2^17 steps), with Adam; its decay of biases in
the first half is kept, at the source's share of the rate.

Shape letters:  S = models, one per seed,  B = samples,  N = features,  M = dimensions,
K = neurons.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prealign.errors import ConfigError

Floats = NDArray[np.float64]
DECAY = 0.03
"""Of biases, as a share of the rate, in the first half."""
OWN = 0.999
"""A neuron whose greatest feature has this share of all is monosemantic."""
BATCHES = 32


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Models of one kind; call it with seeds."""

    bias: float = 0.0
    """Where all biases of neurons begin."""
    neurons: int = 256
    features: int = 64
    dimensions: int = 16
    there: float = 1 / 16
    """Probability that a feature is there."""
    steps: int = 6000
    batch: int = 256
    lr: float = 3e-3
    """Of Adam; it falls to 0 as a cosine."""

    def __post_init__(self) -> None:
        if not 0 < self.there <= 1 or not 0 < self.dimensions < self.features:
            raise ConfigError(
                f"there={self.there}, features={self.features}, dimensions={self.dimensions}: "
                "expected a probability, and fewer dimensions than features"
            )

    def __call__(self, seeds: Sequence[int]) -> "Decoders":
        """Return models, trained side by side; each is a function of its seed.

        A seed gives the projection, the weights at the start and the samples, whatever the bias.
        """
        streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        project_SMN = torch.stack([self._projection(one) for one in streams])
        sides = ((self.neurons, self.dimensions), (self.features, self.neurons))
        weights = [
            torch.stack([torch.randn(side, generator=one) for one in streams]) / side[1] ** 0.5
            for side in sides
        ]
        bias_SK = torch.full((len(streams), self.neurons), float(self.bias))
        own = Decoders(project_SMN, weights[0], weights[1], bias_SK)
        trained = [one.requires_grad_() for one in own[1:]]
        optimizer = torch.optim.Adam(trained, lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        for step in range(self.steps):
            optimizer.zero_grad(set_to_none=True)
            # The models do not meet: the sum of their losses trains each on its own.
            own.losses(self.samples(streams)).sum().backward()
            optimizer.step()
            if 2 * step < self.steps:
                with torch.no_grad():
                    bias_SK.mul_(1 - DECAY * schedule.get_last_lr()[0])
            schedule.step()
        return Decoders(*[one.detach() for one in own])

    def samples(self, streams: Sequence[torch.Generator]) -> Tensor:
        """Return features, [S, B, N], of each stream its own."""
        shape = (2, self.batch, self.features)
        both = torch.stack([torch.rand(shape, generator=one) for one in streams])
        return both[:, 0] * (both[:, 1] < self.there)

    def loss(self, models: "Decoders", *, seed: int = 10**6) -> Floats:
        """Return each model's loss on new samples, the same for all, [S]."""
        stream = torch.Generator().manual_seed(seed)
        total = torch.zeros(len(models.bias_SK))
        for _ in range(BATCHES):
            total += models.losses(self.samples([stream]).expand(len(total), -1, -1))
        return np.asarray((total / BATCHES).double().numpy())

    def idle_loss(self) -> float:
        """Return the loss of answering every feature by 0."""
        return self.features * self.there / 3

    def _projection(self, stream: torch.Generator) -> Tensor:
        """Return [M, N], its rows orthonormal but for a factor that gives columns length 1."""
        square = torch.randn(self.features, self.dimensions, generator=stream)
        rows_MN: Tensor = torch.linalg.qr(square).Q.T
        return rows_MN * math.sqrt(self.features / self.dimensions)


class Decoders(NamedTuple):
    """Weights of models."""

    project_SMN: Tensor
    into_SKM: Tensor
    out_SNK: Tensor
    bias_SK: Tensor

    def neurons(self, x_SBN: Tensor) -> Tensor:
        """Return what the neurons do, [S, B, K]."""
        seen_SBM = x_SBN @ self.project_SMN.transpose(1, 2)
        moved_SBK: Tensor = seen_SBM @ self.into_SKM.transpose(1, 2) + self.bias_SK[:, None]
        return torch.relu(moved_SBK)

    def losses(self, x_SBN: Tensor) -> Tensor:
        """Return the squared errors, summed over features, mean over samples, [S]."""
        read_SBN = self.neurons(x_SBN) @ self.out_SNK.transpose(1, 2)
        losses_S: Tensor = ((x_SBN - read_SBN) ** 2).sum(dim=-1).mean(dim=-1)
        return losses_S

    def purity(self) -> Floats:
        """Return the share of each neuron's greatest feature, [S, K]; NaN for a silent neuron.

        Of what it does for each feature alone, at full strength.
        """
        models, features = self.out_SNK.shape[:2]
        alone_SNN = torch.eye(features).expand(models, -1, -1)
        done_SNK = self.neurons(alone_SNN).double()
        total_SK = done_SNK.sum(dim=1)
        share_SK = done_SNK.amax(dim=1) / total_SK.clamp(min=1e-12)
        return np.asarray(torch.where(total_SK > 0, share_SK, torch.nan).numpy())

    def monosemantic(self) -> Floats:
        """Return the share of monosemantic neurons among those that are not silent, [S]."""
        purity_SK = self.purity()
        heard_S = (~np.isnan(purity_SK)).sum(axis=1)
        return np.asarray((purity_SK > OWN).sum(axis=1) / np.maximum(heard_S, 1))

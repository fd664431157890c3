"""Superposition: more features than dimensions, and what they pay for it.

Features x [N], each there with probability p and then uniform in (0, 1], are kept in M < N
dimensions and read back as relu(W^T W x + b); the loss weighs each feature's squared error by its
importance (Elhage et al. 2022, https://arxiv.org/abs/2209.10652). A feature's capacity is the share
of a dimension that it has for itself, C_i = (w_i . w_i)^2 / sum_j (w_i . w_j)^2 (Scherlis et al.
2022, https://arxiv.org/abs/2210.01892); what is missing to 1 is interference from others.

Predicted: capacities sum to M whatever p is. Dense features share nothing: the M most important
have a dimension each, the others none. Rare features share: interference costs only when two are
there at once (as p^2), a feature that is left out costs whenever it is there (as p). So as p falls
more of them are kept, each with less capacity, the important ones with more of it; and the loss
falls below that of the control, which gives the M most important a dimension each.

Shape letters:  S = models, one per seed,  B = samples,  N = features,  M = dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prealign.errors import ConfigError

Floats = NDArray[np.float64]
KEPT = 0.5
"""A feature with a longer vector than this is kept."""
SHARED = (0.05, 0.95)
"""A capacity between these is shared with others."""


@dataclass(frozen=True, kw_only=True)
class Toy:
    """Models of one kind; call it with seeds."""

    there: float = 0.1
    """Probability that a feature is there."""
    features: int = 20
    dimensions: int = 5
    decay: float = 0.9
    """Importance of each feature over that of the one before."""
    steps: int = 6000
    batch: int = 512
    lr: float = 3e-3
    """Of Adam; it falls to 0 as a cosine."""

    def __post_init__(self) -> None:
        if not 0 < self.there <= 1 or not 0 < self.dimensions < self.features:
            raise ConfigError(
                f"there={self.there}, features={self.features}, dimensions={self.dimensions}: "
                "expected a probability, and fewer dimensions than features"
            )

    @property
    def importance(self) -> Tensor:
        """Of each feature, [N]."""
        return self.decay ** torch.arange(self.features, dtype=torch.float32)

    def __call__(self, seeds: Sequence[int]) -> "Models":
        """Return models, trained side by side; each is a function of its seed."""
        streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        weight_SMN = torch.stack(
            [torch.randn(self.dimensions, self.features, generator=one) for one in streams]
        )
        weight_SMN = (weight_SMN / self.features**0.5).requires_grad_()
        bias_SN = torch.zeros(len(streams), self.features, requires_grad=True)
        optimizer = torch.optim.Adam([weight_SMN, bias_SN], lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        for _ in range(self.steps):
            optimizer.zero_grad(set_to_none=True)
            # The models do not meet: the sum of their losses trains each on its own.
            self._losses(weight_SMN, bias_SN, self.samples(streams)).sum().backward()
            optimizer.step()
            schedule.step()
        return Models(weight_SMN.detach(), bias_SN.detach())

    def samples(self, streams: Sequence[torch.Generator]) -> Tensor:
        """Return features, [S, B, N], of each stream its own."""
        shape = (2, self.batch, self.features)
        both = torch.stack([torch.rand(shape, generator=one) for one in streams])
        return both[:, 0] * (both[:, 1] < self.there)

    def loss(self, models: "Models", *, batches: int = 64, seed: int = 10**6) -> Floats:
        """Return each model's loss on new samples, the same for all, [S]."""
        stream = torch.Generator().manual_seed(seed)
        total = torch.zeros(len(models.bias_SN))
        for _ in range(batches):
            x_SBN = self.samples([stream]).expand(len(total), -1, -1)
            total += self._losses(*models, x_SBN)
        return np.asarray((total / batches).double().numpy())

    def dedicated(self) -> "Models":
        """Return the control, one model: a dimension for each of the most important features.

        The others are answered by their mean, which is the best without knowing them.
        """
        weight_MN = torch.eye(self.dimensions, self.features)
        bias_N = torch.full((self.features,), self.there / 2)
        bias_N[: self.dimensions] = 0
        return Models(weight_MN[None], bias_N[None])

    def _losses(self, weight_SMN: Tensor, bias_SN: Tensor, x_SBN: Tensor) -> Tensor:
        inside_SBM = x_SBN @ weight_SMN.transpose(1, 2)
        read_SBN = torch.relu(inside_SBM @ weight_SMN + bias_SN[:, None])
        return (self.importance * (x_SBN - read_SBN) ** 2).sum(dim=-1).mean(dim=-1)


class Models(NamedTuple):
    """Weights of models."""

    weight_SMN: Tensor
    bias_SN: Tensor

    def kept(self) -> Floats:
        """Return how many features each model keeps, [S]."""
        lengths_SN = self.weight_SMN.norm(dim=1)
        return np.asarray((lengths_SN > KEPT).sum(dim=1).double().numpy())

    def capacities(self) -> Floats:
        """Return the capacity of each feature, [S, N]; 0 for one without a vector."""
        weight_SMN = self.weight_SMN.double()
        products_SNN = weight_SMN.transpose(1, 2) @ weight_SMN
        own_SN = products_SNN.diagonal(dim1=1, dim2=2) ** 2
        all_SN = (products_SNN**2).sum(dim=2)
        return np.asarray((own_SN / all_SN.clamp(min=1e-12)).numpy())

    def shared(self) -> Floats:
        """Return how many features of each model have a dimension in part, [S]."""
        low, high = SHARED
        found_SN = self.capacities()
        return np.asarray(((found_SN > low) & (found_SN < high)).sum(axis=1), dtype=np.float64)

    def interference(self) -> Floats:
        """Return the mean square of what a kept feature is read into the others, [S]."""
        products_SNN = self.weight_SMN.double().transpose(1, 2) @ self.weight_SMN.double()
        squares_SNN = products_SNN**2
        off_SN = squares_SNN.sum(dim=2) - squares_SNN.diagonal(dim1=1, dim2=2)
        kept_SN = self.weight_SMN.norm(dim=1) > KEPT
        count_S = kept_SN.sum(dim=1).clamp(min=1)
        return np.asarray(((off_SN * kept_SN).sum(dim=1) / count_S).numpy())


def rank_correlation(x_N: Floats, y_N: Floats) -> float:
    """Return Spearman's correlation of values without ties in the first."""
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (x_N, y_N)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])

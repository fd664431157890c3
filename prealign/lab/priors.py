"""What priors do MLPs have over hypotheses about their data, measured in examples?

Inputs are all words of n bits. Two rules (such as one bit, the majority of three, the parity of
two, of three), on bits of their own, agree on half of the words: those are learnt, the others asked
afterwards. Either rule explains all that was seen, so which one is followed is the prior alone.
Then words are added on which they disagree, labelled by the more complex rule: how many of them it
takes until it is followed is the strength of the prior, in examples.

Predicted: the rule of lower degree (of its Fourier expansion over bits) is followed, and the order
of degrees is the order of rules: 1 for a bit; majority of three has degree 3 but most of its weight
at 1; parity of k has all its weight at k (simplicity bias: Valle-Perez et al. 2018,
https://arxiv.org/abs/1805.08522; Rahaman et al. 2018, https://arxiv.org/abs/1806.08734). Control:
two rules of one kind, on other bits, are followed alike.

Shape letters:  S = models, one per seed,  B = words,  N = bits,  K = units.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prealign.errors import ConfigError

Floats = NDArray[np.float64]
RULES = ("bit", "majority", "parity of 2", "parity of 3")
"""From the lowest mean degree to the highest: 1, 1.5, 2, 3."""
BITS_OF = {"bit": 1, "majority": 3, "parity of 2": 2, "parity of 3": 3}


def labels(rule: str, words_BN: Tensor) -> Tensor:
    """Return -1 or 1 for words of -1 and 1, by a rule on their first bits, [B]."""
    own = words_BN[:, : BITS_OF[rule]]
    return own.sum(dim=1).sign() if rule == "majority" else own.prod(dim=1)


def mean_degree(rule: str) -> float:
    """Return the mean degree of a rule's Fourier expansion, by its squared coefficients."""
    bits = BITS_OF[rule]
    words_BN = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=bits)))
    label_B = labels(rule, words_BN)
    total = 0.0
    for size in range(bits + 1):
        for which in itertools.combinations(range(bits), size):
            coefficient = float((label_B * words_BN[:, list(which)].prod(dim=1)).mean())
            total += size * coefficient**2
    return total


@dataclass(frozen=True, kw_only=True)
class Rivals:
    """Two rules that explain the same data; call it with seeds."""

    simple: str = "bit"
    other: str = "parity of 2"
    against: int = 0
    """Words on which they disagree that are learnt as well, labelled by the other rule."""
    bits: int = 8
    """Of a word; those that no rule reads tell nothing."""
    units: int = 64
    """Of each of two hidden layers."""
    steps: int = 400
    lr: float = 3e-3
    """Of Adam."""

    def __post_init__(self) -> None:
        needed = BITS_OF.get(self.simple, 99) + BITS_OF.get(self.other, 99)
        if needed > self.bits or not 0 <= self.against < 2 ** (self.bits - 1):
            raise ConfigError(
                f"simple={self.simple!r}, other={self.other!r}, bits={self.bits}, "
                f"against={self.against}: expected rules of {', '.join(RULES)} that fit side by "
                "side, and fewer words against than half of all"
            )

    def __call__(self, seeds: Sequence[int]) -> tuple[Floats, Floats]:
        """Return, [S] each: the share of unseen words by the simple rule, and of seen ones right.

        A model is a function of its seed; a seed has the same bits, weights and order of added
        words whatever their number.
        """
        words_BN = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=self.bits)))
        simple_B = labels(self.simple, words_BN)
        other_B = labels(self.other, words_BN.roll(-BITS_OF[self.simple], dims=1))
        agree_B = simple_B == other_B
        weights, learnt_SB, mixed = self._models(seeds, agree_B)
        # each model reads the bits in an order of its own: no bit is special
        x_SBN = torch.stack([words_BN[:, order] for order in mixed])
        optimizer = torch.optim.Adam(weights, lr=self.lr)
        for _ in range(self.steps):
            optimizer.zero_grad(set_to_none=True)
            margins_SB = outputs(weights, x_SBN) * other_B  # the other rule is right on all learnt
            losses_SB = torch.nn.functional.softplus(-margins_SB) * learnt_SB
            # The models do not meet: the sum of their losses trains each on its own.
            (losses_SB.sum(dim=1) / learnt_SB.sum(dim=1)).sum().backward()
            optimizer.step()
        with torch.no_grad():
            said_SB = outputs(weights, x_SBN).sign()
        asked_SB = ~agree_B & ~learnt_SB
        followed_S = ((said_SB == simple_B) & asked_SB).sum(dim=1) / asked_SB.sum(dim=1)
        right_S = ((said_SB == other_B) & learnt_SB).sum(dim=1) / learnt_SB.sum(dim=1)
        return followed_S.double().numpy(), right_S.double().numpy()

    def _models(
        self, seeds: Sequence[int], agree_B: Tensor
    ) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """Return fresh weights, which words each model learns, [S, B], and its order of bits."""
        streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        (apart,) = torch.nonzero(~agree_B, as_tuple=True)
        learnt_SB, mixed = agree_B.repeat(len(seeds), 1), []
        for own_B, stream in zip(learnt_SB, streams, strict=True):
            mixed.append(torch.randperm(self.bits, generator=stream))
            own_B[apart[torch.randperm(len(apart), generator=stream)][: self.against]] = True
        sides = ((self.bits, self.units), (self.units, self.units), (self.units, 1))
        weights = []
        for side in sides:
            for shape, scale in ((side, (2 / side[0]) ** 0.5), ((1, side[1]), 0.0)):
                made = [torch.randn(shape, generator=one) * scale for one in streams]
                weights.append(torch.stack(made).requires_grad_())
        return weights, learnt_SB, mixed


def outputs(weights: Sequence[Tensor], x_SBN: Tensor) -> Tensor:
    """Return the logit of each word by each model, [S, B]."""
    hidden = torch.relu(x_SBN @ weights[0] + weights[1])
    hidden = torch.relu(hidden @ weights[2] + weights[3])
    return (hidden @ weights[4] + weights[5])[..., 0]


def examples_needed(counts: Sequence[int], followed: Sequence[float]) -> float:
    """Return how many words it takes until the simple rule is followed on less than half.

    Between two counts the share is taken to be a straight line; if it never falls, infinity.
    """
    for i, (count, share) in enumerate(zip(counts, followed, strict=True)):
        if share < 0.5:
            if i == 0:
                return float(count)
            before, above = counts[i - 1], followed[i - 1]
            return float(before + (count - before) * (above - 0.5) / (above - share))
    return float("inf")

"""How far activations may be moved: balls whose radius is a share of the activation's own size.

Shape letters:  E = examples,  L = tokens,  D = width of the activation.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from prealign.errors import ConfigError

Over = Literal["sequence", "token"]
TINY = 1e-20


@dataclass(frozen=True, kw_only=True)
class Ball:
    """What a perturbation may be.

    Its radius is relative to the activation: a perturbation of strength 1 that is spread evenly has
    the root mean square of the activation itself. That is taken token by token, and of an example's
    attacked tokens the median counts: some models keep tokens (the first, mostly) whose activations
    are hundreds of times as large as all others, and would lend their size to those.
    """

    strength: float = 0.5
    over: Over = "sequence"
    """sequence: one L2 ball for all attacked tokens of an example together, as in untargeted
    latent adversarial training (Casper et al. 2024, https://arxiv.org/abs/2403.05030), of radius
    strength x RMS x sqrt(tokens x width); token: one for each, of strength x RMS x sqrt(width),
    as in the targeted one (Sheshadri et al. 2024, https://arxiv.org/abs/2407.15549). There radii
    are absolute numbers."""
    clamp: bool = False
    """Keep what is attacked within the least and the greatest number of the example's clean
    activation there."""

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ConfigError(f"strength={self.strength}: expected 0 or more")
        if self.over not in get_args(Over):
            raise ConfigError(f"over={self.over!r}: expected sequence or token")

    def radius(self, clean_ELD: Tensor, mask_EL: Tensor) -> Tensor:
        """Return the radius of each example, [E, 1, 1], float32; 0 where nothing is attacked."""
        rms_EL = clean_ELD.float().square().mean(-1).sqrt()
        rms_EL = torch.where(mask_EL, rms_EL, torch.nan)
        scale_E = rms_EL.nanmedian(dim=1).values.nan_to_num(0.0)
        numbers_E = torch.full_like(scale_E, clean_ELD.shape[-1])
        if self.over == "sequence":
            numbers_E = numbers_E * mask_EL.sum(1)
        return (self.strength * scale_E * numbers_E.sqrt())[:, None, None]

    def norms(self, delta_ELD: Tensor) -> Tensor:
        """Return the L2 norms that the ball bounds: [E, 1, 1] or [E, L, 1]."""
        dims = (1, 2) if self.over == "sequence" else (2,)
        found: Tensor = torch.linalg.vector_norm(delta_ELD, dim=dims, keepdim=True)
        return found

    def toward(self, direction_ELD: Tensor, length: Tensor) -> Tensor:
        """Return vectors of these directions and lengths; where a direction is 0, 0."""
        return direction_ELD * (length / self.norms(direction_ELD).clamp(min=TINY))

    def project(self, delta_ELD: Tensor, radius_E11: Tensor) -> Tensor:
        """Return the perturbation, drawn back to the ball's surface where it is outside."""
        norms = self.norms(delta_ELD).clamp(min=TINY)
        return delta_ELD * (radius_E11 / norms).clamp(max=1.0)

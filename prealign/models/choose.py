"""From logits to ids: temperature, nucleus, and an inverse CDF on a random stream per sample.

An id whose logit is -inf has weight exp(-inf) = 0 exactly, at any temperature: IEEE arithmetic
keeps -inf through a subtraction of a finite number and a division by a positive one. The inverse
CDF takes the first id whose cumulated weight is above u * total; a weight of zero adds nothing,
so its id is never the first.

Shape letters:  B = rows,  V = vocabulary,  K = ids or blocks of ids,
W = ids of a block,  R = rows that are not done yet.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prealign.errors import DataError

BLOCK = 64
"""Ids that are cumulated together at first."""
FEW = 2048
"""Up to so many ids are cumulated at once."""
AT_ONCE = 1 << 19
"""Weights that a CPU works on at once: as many as its caches hold, over which it is four times
faster than over 64 rows of 50,000."""
MASK64 = (1 << 64) - 1
STRIDE = np.uint64(0x9E3779B97F4A7C15)
"""SplitMix64's: 2^64 over the golden ratio."""


def uniforms(seeds: Sequence[int], steps: Sequence[int]) -> np.ndarray:
    """Return one float64 in [0, 1) per (seed, step), a function of those two alone.

    A counter-based generator (the idea of Salmon et al. 2011) on SplitMix64's mixing function
    (Steele et al. 2014): nothing is carried from step to step, so a sample does not depend on
    the batch it is drawn in.
    """
    keys = np.array([int(seed) & MASK64 for seed in seeds], dtype=np.uint64)
    counters = np.array(steps, dtype=np.uint64)
    # Zero mixes to zero; the first step takes seed 0 away from there.
    return _uniform(_mix(_mix(keys + STRIDE) + counters * STRIDE))


def choose(
    logits_BV: Tensor, uniforms_B: Tensor, *, temperature: float = 1.0, top_p: float = 1.0
) -> Tensor:
    """Return one id per row, int64. `logits_BV` may be overwritten.

    Args:
        logits_BV: float32, finite or -inf.
        uniforms_B: float64 in [0, 1]; unused if `temperature` is 0.
        temperature: 0 takes the most likely id, the first of equals.
        top_p: The choice is among the fewest most likely ids with at least this share of the
            probability (nucleus sampling, Holtzman et al. 2020, https://arxiv.org/abs/1904.09751;
            ids as likely as the last of them count in); 1: among all.

    Raises:
        DataError: A row has a NaN, +inf, or no id above -inf.
    """
    best_B = logits_BV.amax(dim=-1)
    if not bool(torch.isfinite(best_B).all()):
        row = int((~torch.isfinite(best_B)).nonzero()[0])
        raise DataError(
            f"logits of row {row}: the largest is {float(best_B[row])}; expected a finite number "
            "(NaN and inf come from a model that diverged, -inf from a mask that allows no id)"
        )
    if temperature == 0:
        return logits_BV.argmax(dim=-1)
    # From the largest downwards: whatever the temperature, the largest weight is 1.
    at_once = len(logits_BV)
    if logits_BV.device.type == "cpu":
        at_once = max(1, AT_ONCE // logits_BV.shape[-1])
    if len(logits_BV) <= at_once:
        return _draw(logits_BV.sub_(best_B[:, None]), uniforms_B, temperature, top_p)
    parts = zip(*(x.split(at_once) for x in (logits_BV, best_B[:, None], uniforms_B)), strict=True)
    return torch.cat([_draw(part.sub_(best), u, temperature, top_p) for part, best, u in parts])


def _draw(logits_RV: Tensor, uniforms_R: Tensor, temperature: float, top_p: float) -> Tensor:
    """Choose by logits whose largest is 0."""
    if temperature != 1:
        logits_RV = logits_RV.div_(temperature)
    weights_RV = logits_RV.exp_()
    if top_p == 1:
        return inverse_cdf(weights_RV, uniforms_R)
    return _nucleus(weights_RV, uniforms_R, top_p)


class Found(NamedTuple):
    """Where cumulated weights exceed a mark. All are [B, 1] but the cumulated weights, [B, K]."""

    index_B1: Tensor
    weight_B1: Tensor
    cdf_BK: Tensor
    mark_B1: Tensor

    def left(self) -> Tensor:
        """Return the mark within the weight that was found."""
        before_B1 = self.cdf_BK.gather(-1, self.index_B1) - self.weight_B1
        return (self.mark_B1 - before_B1).clamp_(min=0.0)


def inverse_cdf(weights_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """Return, per row, the first index whose cumulated weight exceeds u times the total.

    Of many ids, cumulates blocks first and then within the chosen block, which over 50,000 ids is
    many times faster than cumulating all of them. An index of zero weight is never returned.

    Args:
        weights_BV: Not negative, with a positive total per row; need not sum to 1.
        uniforms_B: float64 in [0, 1].
    """
    B, V = weights_BV.shape
    if V <= FEW:
        return _first_above(weights_BV, uniforms_B[:, None], share=True).index_B1[:, 0]
    whole = V // BLOCK * BLOCK
    block_weights = weights_BV[:, :whole].reshape(B, -1, BLOCK).sum(dim=-1)
    rest = weights_BV[:, whole:].sum(dim=-1, keepdim=True)
    block_weights = torch.cat([block_weights, rest], dim=-1)
    block = _first_above(block_weights, uniforms_B[:, None], share=True)
    block_B1 = block.index_B1
    index_BW = block_B1 * BLOCK + torch.arange(BLOCK, device=weights_BV.device)
    inside_BW = weights_BV.gather(-1, index_BW.clamp(max=V - 1))
    inside_BW = inside_BW.masked_fill(index_BW >= V, 0.0)
    inside = _first_above(inside_BW, block.left(), share=False)
    return (block_B1 * BLOCK + inside.index_B1)[:, 0]


def _first_above(weights_BK: Tensor, mark_B1: Tensor, *, share: bool) -> Found:
    """Return the first index whose cumulated weight exceeds the mark, never one of zero weight.

    With `share`, the mark is a share of the total. A mark at the total or beyond counts as the
    largest number below it, so that there is such an index.
    """
    cdf_BK = weights_BK.cumsum(dim=-1, dtype=torch.float64)
    total_B1 = cdf_BK[:, -1:]
    mark_B1 = mark_B1 * total_B1 if share else mark_B1
    mark_B1 = torch.minimum(mark_B1, torch.nextafter(total_B1, torch.zeros_like(total_B1)))
    index_B1 = torch.searchsorted(cdf_BK, mark_B1, right=True)
    # Parallel prefix sums, as on GPUs, may round so that they rise where a weight is zero.
    index_B1 = index_B1.clamp_(max=weights_BK.shape[-1] - 1)
    weight_B1 = weights_BK.gather(-1, index_B1)
    if bool((weight_B1 <= 0).any()):
        index_B1 = torch.where(weight_B1 <= 0, weights_BK.argmax(-1, keepdim=True), index_B1)
        weight_B1 = weights_BK.gather(-1, index_B1)
    return Found(index_B1, weight_B1, cdf_BK, mark_B1)


def _nucleus(weights_BV: Tensor, uniforms_B: Tensor, top_p: float) -> Tensor:
    """Choose in the nucleus by rejection, without sorting; exact.

    An id is in the nucleus if all strictly likelier ids together have less than `top_p`. An id
    that is drawn and found outside takes all that are no likelier with it, so the ids that are
    left still hold the nucleus, with its own odds, and the excess shrinks fast. At least
    `top_p` of the rows are done after one draw.
    """
    limit_R = top_p * weights_BV.sum(dim=-1)
    ids_B = torch.empty_like(uniforms_B, dtype=torch.int64)
    rows = torch.arange(weights_BV.shape[0], device=weights_BV.device)
    weights_RV, u_R = weights_BV, uniforms_B
    while rows.numel():
        ids_R = inverse_cdf(weights_RV, u_R)
        drawn_R1 = weights_RV.gather(-1, ids_R[:, None])
        likelier_RV = weights_RV * (weights_RV > drawn_R1)
        outside_R = likelier_RV.sum(dim=-1) >= limit_R
        ids_B[rows] = ids_R
        rows, limit_R = rows[outside_R], limit_R[outside_R]
        weights_RV, u_R = likelier_RV[outside_R], _fresh(u_R[outside_R])
    return ids_B


def _fresh(uniforms_R: Tensor) -> Tensor:
    """Return another uniform number for each, a function of it alone."""
    bits_R = (uniforms_R.cpu().numpy() * 2.0**53).astype(np.uint64)
    return torch.from_numpy(_uniform(_mix(bits_R + np.uint64(1)))).to(uniforms_R.device)


def _uniform(bits: np.ndarray) -> np.ndarray:
    share: np.ndarray = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return share


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed

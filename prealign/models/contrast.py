"""Guidance by the contrast of two modes of one model: away from what the other mode would write.

One network reads the text twice, behind the tags of mode a and behind those of mode b, and

    logits = logits_a + alpha * (logits_a - logits_b)

(DExperts, Liu et al. 2021, https://arxiv.org/abs/2105.03023, with tags in place of experts). Where
branch b reads no tag at all it is classifier-free guidance (Sanchez et al. 2023,
https://arxiv.org/abs/2306.17806) with scale 1 + alpha. `Contrast` is called like the model it
wraps, so `prealign.models.sample.sample` takes it as it is and the guard's mask comes after it:
guidance can raise a tag's logit, and only the mask has the last word.

It steers by statistics; what is certain is the guard's alone.

Shape letters:  B = rows,  L = tokens of this call,  K = kept positions,  V = vocabulary.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from prealign.errors import ConfigError, DataError
from prealign.models.cache import keep_rows, make_cache
from prealign.tokens.vocabulary import Vocabulary

DROPPED = None
"""In a swap: branch b does not read this id at all."""


class Guided(NamedTuple):
    """What a guided model returns."""

    logits: Tensor
    """float32, (rows, positions, vocabulary)."""
    past_key_values: Any = None


class Contrast(nn.Module):
    """A causal LM whose logits are moved away from those of a second branch of itself.

    Both branches are rows of one batch. The cache that it is called with holds both; its rows may
    be dropped and reordered by `prealign.models.cache.keep_rows` as with any model.

    Args:
        model: A causal LM of transformers, or a fake with its call signature.
        swap: What branch b reads instead of an id: another id, or `DROPPED`. Branch a reads what
            it is given, so the prompt and the harness's tags are those of mode a.
        alpha: How far; 0: branch a alone, in which case b is not run; -1: b alone.

    Raises:
        ConfigError: `alpha` is below -1 or not finite, or nothing is swapped.
    """

    def __init__(self, model: Any, swap: Mapping[int, int | None], alpha: float) -> None:
        super().__init__()
        if not -1 <= alpha < math.inf:
            raise ConfigError(f"alpha={alpha}: expected a finite number, -1 or more")
        size = model.config.vocab_size
        foreign = [t for pair in swap.items() for t in pair if t is not None and not 0 <= t < size]
        if not swap or foreign:
            raise ConfigError(
                f"swap={dict(swap)}: expected one id or more, each in [0, {size}), "
                "with what branch b reads instead"
            )
        self.model = model
        self.alpha = alpha
        self.swap = dict(swap)
        self.drops = DROPPED in self.swap.values()

    @property
    def config(self) -> Any:
        """The model's."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """The model's."""
        device: torch.device = self.model.device
        return device

    def forward(
        self,
        input_ids: Tensor,
        *,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> Guided:
        """Return guided logits for each token, or for the last `logits_to_keep` (0: for all).

        Raises:
            DataError: The first id of a row is one that branch b drops, or the cache was filled
                by another model.
        """
        if self.alpha == 0:
            out = self.model(
                input_ids=input_ids, past_key_values=past_key_values, use_cache=use_cache,
                logits_to_keep=logits_to_keep,
            )  # fmt: skip
            return Guided(out.logits.float(), past_key_values)
        pair = _pair_of(past_key_values, self.model.config)
        rows = len(input_ids)
        other_BL, there_BL = self._other(input_ids)
        drop = {}
        if self.drops:
            drop = pair.positions(there_BL)
        # All positions are needed where an earlier one may stand in for a dropped one.
        keep = 0 if self.drops and not bool(there_BL.all()) else logits_to_keep
        out = self.model(
            input_ids=torch.cat([input_ids, other_BL]), past_key_values=pair.cache,
            use_cache=True, logits_to_keep=keep, **drop,
        )  # fmt: skip
        logits_BKV = out.logits.float()
        own_BKV, other_BKV = logits_BKV[:rows], logits_BKV[rows:]
        if self.drops:
            other_BKV = pair.last_read(other_BKV, there_BL)
        kept = min(logits_to_keep or own_BKV.shape[1], own_BKV.shape[1])
        both = own_BKV[:, -kept:], other_BKV[:, -kept:]
        return Guided(contrast(*both, self.alpha), past_key_values)

    def _other(self, ids_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return what branch b reads, and where it reads anything at all."""
        other_BL, there_BL = ids_BL.clone(), torch.ones_like(ids_BL, dtype=torch.bool)
        for token, instead in self.swap.items():
            if instead is None:
                there_BL &= ids_BL != token
            else:
                other_BL[ids_BL == token] = instead
        return other_BL, there_BL


def contrast(logits_a: Tensor, logits_b: Tensor, alpha: float) -> Tensor:
    """Return `logits_a + alpha * (logits_a - logits_b)`, safe where they are not finite.

    What branch a forbids (-inf) stays forbidden. Where only b forbids, the difference would be
    infinite; it counts as 0. NaN or +inf in either gives NaN, on which sampling stops.
    """
    finite = torch.isfinite(logits_a) & torch.isfinite(logits_b)
    # Not alpha * (-inf), which is +inf for a negative alpha and NaN for 0.
    difference = torch.where(finite, logits_a - logits_b, torch.zeros_like(logits_a))
    guided = logits_a + alpha * difference
    broken = torch.isnan(logits_a) | torch.isnan(logits_b)
    broken |= (logits_a == torch.inf) | (logits_b == torch.inf)
    return guided.masked_fill(broken, torch.nan)


def between(
    model: Any, vocabulary: Vocabulary, *, toward: str, away: str, alpha: float
) -> Contrast:
    """Return a model that is guided toward one mode and away from another.

    It is to be given prompts, and a harness, with the tags of `toward`.

    Raises:
        DataError: The scheme has no such mode.
        ConfigError: One mode encloses its text and the other does not, or `alpha` is no number.
    """
    first, second = vocabulary.scheme.mode(toward), vocabulary.scheme.mode(away)
    if len(first.tags) != len(second.tags) or first == second:
        raise ConfigError(
            f"modes {toward!r} ({', '.join(first.tags)}) and {away!r} ({', '.join(second.tags)}): "
            "expected two modes that both mark or both enclose their text"
        )
    ids = vocabulary.tag_ids
    pairs = zip(first.tags, second.tags, strict=True)
    return Contrast(model, {ids[a]: ids[b] for a, b in pairs}, alpha)


def classifier_free(model: Any, vocabulary: Vocabulary, *, mode: str, scale: float) -> Contrast:
    """Return a model with classifier-free guidance: its branch b does not read the mode's tags.

    In log-probabilities: untagged + scale * (tagged - untagged). A scale of 1 is the tagged model,
    0 the untagged one. The model should have seen untagged text (`Encoder.bare_documents_share`).

    Raises:
        DataError: The scheme has no such mode.
        ConfigError: The scale is negative or not finite.
    """
    tags = vocabulary.scheme.mode(mode).tags
    return Contrast(model, {vocabulary.tag_ids[tag]: DROPPED for tag in tags}, scale - 1)


@dataclass(eq=False)
class _Pair:
    """The cache of both branches, a's rows then b's, as the one layer of the caller's cache."""

    cache: Cache
    there_BL: Tensor | None = None
    """What branch b has read so far, where it drops ids."""
    last_BV: Tensor | None = None
    """Branch b's logits behind the last id that it read."""
    is_initialized: bool = field(default=True, init=False)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows only, of both branches."""
        if self.there_BL is not None:
            self.there_BL = self.there_BL[indices]
        if self.last_BV is not None:
            self.last_BV = self.last_BV[indices]
        rows = self.rows
        if rows is not None:
            keep_rows(self.cache, torch.cat([indices, indices + rows // 2]))

    @property
    def rows(self) -> int | None:
        """Rows of both branches; None where the model keeps nothing, as fakes do."""
        layers: list[Any] = self.cache.layers
        for layer in layers:
            keys = getattr(layer, "keys", None)
            if layer.is_initialized and isinstance(keys, Tensor):
                return len(keys)
        return None

    def get_seq_length(self) -> int:
        """Return how many tokens are held."""
        return int(self.cache.get_seq_length())

    def positions(self, there_BL: Tensor) -> dict[str, Tensor]:
        """Return attention mask and positions of both branches: b's dropped ids are not there."""
        before = self.there_BL
        whole_BL = there_BL if before is None else torch.cat([before, there_BL], dim=1)
        if not bool(whole_BL[:, 0].all()):
            raise DataError(
                "the first id of a prompt is one that the second branch drops; begin with the end "
                "of text"
            )
        self.there_BL = whole_BL
        both_BL = torch.cat([torch.ones_like(whole_BL), whole_BL])
        position_BL = (both_BL.cumsum(dim=1) - 1)[:, -there_BL.shape[1] :]
        return {"attention_mask": both_BL.long(), "position_ids": position_BL}

    def last_read(self, logits_BKV: Tensor, there_BL: Tensor) -> Tensor:
        """Return the logits with those of dropped ids replaced by those of the last id read."""
        there_BK = there_BL[:, -logits_BKV.shape[1] :]
        at_BK = torch.arange(there_BK.shape[1], device=there_BK.device).where(there_BK, -1)
        at_BK = at_BK.cummax(dim=1).values
        found = logits_BKV.gather(1, at_BK.clamp(min=0)[..., None].expand_as(logits_BKV))
        if self.last_BV is not None:
            found = torch.where((at_BK < 0)[..., None], self.last_BV[:, None], found)
        self.last_BV = found[:, -1].clone()
        return found


def _pair_of(cache: Cache | None, config: Any) -> _Pair:
    """Return the pair that the caller's cache holds; put one there if it is empty."""
    if cache is None:
        return _Pair(make_cache(config))
    layers: list[Any] = cache.layers
    if len(layers) == 1 and isinstance(layers[0], _Pair):
        return layers[0]
    if any(layer.is_initialized for layer in layers):
        raise DataError("the cache was filled by another model; begin with an empty one")
    pair = _Pair(make_cache(config))
    layers[:] = [pair]
    return pair

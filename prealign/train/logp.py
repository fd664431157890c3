"""The log-probability of each target, in one graph that keeps no logits in fp32.

And, where an objective asks for it, what a value head says of each target before it is seen.

Shape letters:  B = rows,  L = tokens in a row,  D = width,  V = vocabulary.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prealign.errors import ConfigError
from prealign.tokens.encode import SCORED, TAG
from prealign.tokens.pack import PackedRows

VALUE_HEAD = "value_head"


class Scalar(NamedTuple):
    """A tag that says a number: where on the line between two tags its input embedding lies.

    A tag of a span with score s reads as E[low] + z (E[high] - E[low]) with z = s / high_score cut
    to [0, 1]. Conditioning on a number is usually an embedding of its own for a linear map of it;
    so it is here, and at its ends it is the embedding of an ordinary tag: a model that was trained
    so is saved and sampled like any other, with the low tag for the best text.
    """

    low_id: int
    """Stands in the rows for every such tag."""
    high_id: int
    """Stands nowhere in the rows."""
    high_score: float
    """Spans with this score, or a higher one, read as the high tag."""

    def places(self, rows: PackedRows) -> Tensor:
        """Return z for each input of rows of L + 1 tokens, float32, [B, L]; 0 for all other ids.

        Raises:
            ConfigError: `high_score` is not above 0.
        """
        if not self.high_score > 0:
            raise ConfigError(f"a scalar tag with high_score={self.high_score}: must be above 0")
        flags, ids = rows.flags[:, :-1], rows.ids[:, :-1]
        told = ((flags & (TAG | SCORED)) == (TAG | SCORED)) & (ids == self.low_id)
        z_BL = np.where(told, np.clip(rows.score[:, :-1] / self.high_score, 0, 1), 0)
        return torch.from_numpy(z_BL.astype(np.float32))


class TargetLogp(nn.Module):
    """A causal language model as a function from ids and targets to log-probabilities."""

    def __init__(self, model: PreTrainedModel, *, bf16: bool, document_mask: bool) -> None:
        super().__init__()
        self.model = model
        self.bf16 = bf16
        self.document_mask = document_mask

    def forward(
        self,
        ids_BL: Tensor,
        targets_BL: Tensor,
        document_BL: Tensor,
        scalar: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return log p(target | inputs before it) in nats and its value, both [B, L], fp32.

        The value is None if the model has no value head; see `value_head`. `scalar` has the ids of
        a `Scalar`, [2], and its places, [B, L].
        """
        mask = positions_BL = None
        if self.document_mask:
            allowed = within_documents(document_BL)
            dtype = torch.bfloat16 if self.bf16 else torch.float32
            # Added to the scores: what transformers' "sdpa" and "eager" both take.
            mask = torch.where(allowed, 0.0, torch.finfo(dtype).min).to(dtype)
            positions_BL = positions_in_documents(document_BL)
        inputs = {"input_ids": ids_BL}
        if scalar is not None:
            embed = self.model.get_input_embeddings()
            low_high_2D = embed(scalar[0])
            toward_BLD = scalar[1][..., None] * (low_high_2D[1] - low_high_2D[0])
            inputs = {"inputs_embeds": embed(ids_BL) + toward_BLD}
        with torch.autocast(ids_BL.device.type, torch.bfloat16, enabled=self.bf16):
            hidden_BLD = self.model.base_model(
                **inputs, attention_mask=mask, position_ids=positions_BL, use_cache=False
            ).last_hidden_state
            logits_BLV: Tensor = self.model.get_output_embeddings()(hidden_BLD)
        chosen_BL = logits_BLV.gather(-1, targets_BL[..., None]).squeeze(-1).float()
        logp_BL = chosen_BL - logits_BLV.float().logsumexp(dim=-1)
        head = getattr(self.model, VALUE_HEAD, None)
        if head is None:
            return logp_BL, None
        return logp_BL, head(hidden_BLD.float()).squeeze(-1)


@contextlib.contextmanager
def value_head(model: PreTrainedModel, *, wanted: bool) -> Iterator[None]:
    """Let the model have a value head inside, if one is wanted: a linear map that starts at 0.

    While it is there, it is trained and saved in checkpoints with the model.
    """
    if not wanted:
        yield
        return
    head = nn.Linear(model.get_output_embeddings().in_features, 1, device=model.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    setattr(model, VALUE_HEAD, head)
    try:
        yield
    finally:
        delattr(model, VALUE_HEAD)


def within_documents(document_BL: Tensor) -> Tensor:
    """Return which places attend to which, bool [B, 1, L, L]: earlier ones of their document."""
    length = document_BL.shape[1]
    causal_LL = torch.ones(length, length, dtype=torch.bool, device=document_BL.device).tril()
    same_BLL = document_BL[:, :, None] == document_BL[:, None, :]
    return (same_BLL & causal_LL)[:, None]


def positions_in_documents(document_BL: Tensor) -> Tensor:
    """Return each place's position counted from the start of its document in the row."""
    length = document_BL.shape[1]
    places_L = torch.arange(length, device=document_BL.device)
    begins_BL = torch.ones_like(document_BL, dtype=torch.bool)
    begins_BL[:, 1:] = document_BL[:, 1:] != document_BL[:, :-1]
    start_BL = torch.where(begins_BL, places_L, 0).cummax(dim=1).values
    return places_L - start_BL


def has_attention(model: PreTrainedModel, name: str) -> bool:
    """Return whether the model attends by transformers' implementation `name`."""
    return bool(model.config._attn_implementation == name)


@contextlib.contextmanager
def with_attention(model: PreTrainedModel, name: str | None) -> Iterator[None]:
    """Let the model attend by transformers' implementation `name` inside; None: by its own."""
    own = model.config._attn_implementation
    model.set_attn_implementation(name or own)
    try:
        yield
    finally:
        model.set_attn_implementation(own)

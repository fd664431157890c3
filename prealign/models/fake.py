"""Models whose logits are known, with a causal LM's call signature: for tests and canaries."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig


class FakeOutput(NamedTuple):
    """What a fake returns."""

    logits: Tensor
    """float32, (rows, tokens, vocabulary)."""


class BiasedModel(nn.Module):
    """A model that answers every context with the same logits.

    Args:
        vocab_size: Width of the logits.
        bias: Logits by id, for example `{tag_id: 1e4}`; the others are 0.
        max_tokens: The context that it claims to have.
    """

    def __init__(
        self, vocab_size: int, bias: Mapping[int, float] | None = None, *, max_tokens: int = 4096
    ) -> None:
        super().__init__()
        logits_V = torch.zeros(vocab_size)
        for token, logit in (bias or {}).items():
            logits_V[token] = logit
        self.register_buffer("logits_V", logits_V)
        settings: dict[str, Any] = {"vocab_size": vocab_size, "max_position_embeddings": max_tokens}
        self.config = PretrainedConfig(**settings | {"num_hidden_layers": 0})

    @property
    def device(self) -> torch.device:
        """Where it is, as a model of transformers says."""
        return self.get_buffer("logits_V").device

    def forward(self, input_ids: Tensor, *, logits_to_keep: int = 0, **_: Any) -> FakeOutput:
        """Return the logits for each token, or for the last `logits_to_keep` (0: for all)."""
        rows, tokens = input_ids.shape
        kept = min(logits_to_keep or tokens, tokens)
        return FakeOutput(self.get_buffer("logits_V").repeat(rows, kept, 1))


class UniformModel(BiasedModel):
    """A model to which every id is equally likely after every context."""

    def __init__(self, vocab_size: int, *, max_tokens: int = 4096) -> None:
        super().__init__(vocab_size, max_tokens=max_tokens)

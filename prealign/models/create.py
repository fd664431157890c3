"""Llama-style models from scratch: their shape, and fresh weights from a seed."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from prealign.errors import ConfigError

MLP_MULTIPLE = 32
"""A default MLP width is rounded up to a multiple of this, which matrix kernels like."""


@dataclass(frozen=True, kw_only=True)
class LlamaShape:
    """The shape of a Llama (Touvron et al. 2023, https://arxiv.org/abs/2302.13971)."""

    width: int
    """Of the residual stream."""
    layers: int
    heads: int
    max_tokens: int
    """The longest row it is trained on; sampling stops there."""
    mlp_width: int | None = None
    """None: 8/3 of the width, rounded up."""
    kv_heads: int | None = None
    """Fewer than `heads` share keys and values (grouped queries); None: as many as `heads`."""
    tied: bool = True
    """The output layer is the embedding."""
    rope_theta: float = 10000.0
    """The base of the rotary position frequencies."""

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "max_tokens", "mlp_width", "kv_heads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}: expected 1 or more")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ConfigError(
                f"width={self.width}, heads={self.heads}: expected an even width per head, "
                f"got {self.width / self.heads:g}"
            )
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ConfigError(f"kv_heads={self.kv_heads}: does not divide heads={self.heads}")

    @property
    def mlp(self) -> int:
        """The MLP's width, `mlp_width` or its default."""
        if self.mlp_width is not None:
            return self.mlp_width
        return -(-8 * self.width // (3 * MLP_MULTIPLE)) * MLP_MULTIPLE


def make_model(shape: LlamaShape, vocab_size: int, *, seed: int) -> LlamaForCausalLM:
    """Return a model with fresh float32 weights on the CPU; the same seed gives the same weights.

    torch's global random stream is left as it was. All ids, tags too, are drawn alike.

    Args:
        shape: Its shape.
        vocab_size: Rows of the embedding, `Vocabulary.size`.
        seed: Of the weights.
    """
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": shape.width,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads or shape.heads,
        "max_position_embeddings": shape.max_tokens,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "tie_word_embeddings": shape.tied,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "attn_implementation": "sdpa",
    }
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        model: Any = LlamaForCausalLM(LlamaConfig(**settings))
    return cast(LlamaForCausalLM, model.float())


def num_parameters(model: nn.Module) -> int:
    """Return how many weights the model has; tied weights count once."""
    return sum(parameter.numel() for parameter in model.parameters())

"""One token of a Llama: what transformers computes, without what it does around it.

In a small model most of a step is Python: hundreds of calls for a few products of matrices. This
does the products alone. It takes only what it knows to the last module and leaves all else to
transformers: other classes, hooks, adapters, patched methods, biases, scaled rotary embeddings.

Shape letters:  B = rows,  H = heads,  L = tokens in the cache,  D = width of a head,
E = width of the model,  V = vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama import modeling_llama as llama

from prealign.models.cache import GrowingLayer

KNOWN = (
    llama.LlamaForCausalLM, llama.LlamaModel, llama.LlamaDecoderLayer, llama.LlamaAttention,
    llama.LlamaMLP, llama.LlamaRMSNorm, llama.LlamaRotaryEmbedding, nn.Embedding, nn.Linear,
    nn.ModuleList,
)  # fmt: skip
SMALL = 4_000_000
"""Parameters up to which matrices that read the same are stacked at the start."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class LlamaStep:
    """Reads one more token of each row into a cache and returns the logits behind it.

    Args:
        model: One that `fits`.
        room: Positions that there may be.
    """

    def __init__(self, model: Any, room: int) -> None:
        self.model, self.layers = model, list(model.model.layers)
        config = model.config
        self.kv_heads, self.head_dim = config.num_key_value_heads, self.layers[0].self_attn.head_dim
        self.heads = config.num_attention_heads
        weight = model.model.embed_tokens.weight
        positions = torch.arange(room, device=weight.device)[None]
        cos_1LD, sin_1LD = model.model.rotary_emb(weight[:1], positions)
        half = self.head_dim // 2
        # Both halves change places, and the one that comes to stand first changes its sign.
        self.cos_LD = cos_1LD[0]
        self.sin_LD = torch.cat([-sin_1LD[0, :, :half], sin_1LD[0, :, half:]], dim=-1)
        self.stacked = [_stacked(layer) for layer in self.layers] if _small(model) else None

    def __call__(self, ids_B: Tensor, cache: Any) -> Tensor:
        """Return logits (B, V) in the weights' type; the cache holds one more token.

        Args:
            ids_B: What each row reads.
            cache: Of `GrowingLayer`s, which hold the same number of tokens, one at least.
        """
        inner, position = self.model.model, cache.get_seq_length()
        cos_D, sin_D = self.cos_LD[position], self.sin_LD[position]
        hidden_BE = inner.embed_tokens(ids_B)
        for number, layer in enumerate(self.layers):
            first, second = self.stacked[number] if self.stacked else _apart(layer)
            attention, held = layer.self_attn, cache.layers[number]
            normed_BE = _normed(layer.input_layernorm, hidden_BE)
            qkv = _products(normed_BE, first)
            hidden_BE = hidden_BE + self._attend(attention, qkv, held, cos_D, sin_D)
            normed_BE = _normed(layer.post_attention_layernorm, hidden_BE)
            gate_BF, up_BF = _products(normed_BE, second).chunk(2, dim=-1)
            inside_BF = F.silu(gate_BF) * up_BF
            hidden_BE = hidden_BE + F.linear(inside_BF, layer.mlp.down_proj.weight)
        return F.linear(_normed(inner.norm, hidden_BE), self.model.lm_head.weight)

    def _attend(
        self, attention: Any, qkv: Tensor, held: Any, cos_D: Tensor, sin_D: Tensor
    ) -> Tensor:
        """Return what attention adds, having put keys and values into the cache."""
        rows, turning = len(qkv), self.heads + self.kv_heads
        qkv_BHD = qkv.view(rows, -1, self.head_dim)
        both_BHD, value_BHD = qkv_BHD[:, :turning], qkv_BHD[:, turning:]
        turned_BHD = both_BHD * cos_D + both_BHD.roll(self.head_dim // 2, dims=-1) * sin_D
        query_BHD, key_BHD = turned_BHD[:, : self.heads], turned_BHD[:, self.heads :]
        keys_BHLD, values_BHLD = held.update(key_BHD[:, :, None], value_BHD[:, :, None])
        # Heads that share keys stand together: G of them behind each of the K that there are.
        query_BKGD = (query_BHD * attention.scaling).view(rows, self.kv_heads, -1, self.head_dim)
        weights_BKGL = (query_BKGD @ keys_BHLD.transpose(2, 3)).softmax(dim=-1, dtype=torch.float32)
        seen_BKGD = weights_BKGL.to(values_BHLD.dtype) @ values_BHLD
        return F.linear(seen_BKGD.reshape(rows, -1), attention.o_proj.weight)


def fits(model: Any, cache: Any) -> bool:
    """Return whether `LlamaStep` computes what the model would, and the cache is its kind."""
    if type(model) is not llama.LlamaForCausalLM or torch.is_autocast_enabled("cpu"):
        return False
    config = model.config
    plain = (
        config.hidden_act == "silu"
        and (config.rope_parameters or {}).get("rope_type") == "default"
        and not torch.is_autocast_enabled(model.device.type)
        and all(type(layer) is GrowingLayer for layer in cache.layers)
        and len(cache.layers) == len(model.model.layers) == config.num_hidden_layers
    )
    return plain and all(_known(module) for module in model.modules())


def _known(module: nn.Module) -> bool:
    if "forward" in vars(module) or any(getattr(module, name) for name in HOOKS):
        return False
    if type(module) is nn.Linear:
        return module.bias is None
    if type(module) is nn.Embedding:
        return module.max_norm is None
    activation = not any(True for _ in module.parameters()) and not any(module.children())
    return type(module) in KNOWN or (activation and type(module).__name__.startswith("SiLU"))


def _normed(norm: Any, hidden_BE: Tensor) -> Tensor:
    return F.rms_norm(hidden_BE, (hidden_BE.shape[-1],), norm.weight, norm.variance_epsilon)


def _small(model: Any) -> bool:
    """Return whether a copy of the weights costs less than the calls that it saves."""
    return bool(sum(weight.numel() for weight in model.parameters()) <= SMALL)


def _apart(layer: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Return what reads a layer's input: queries, keys, values; then the MLP's two."""
    attention, mlp = layer.self_attn, layer.mlp
    first = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    return first, [mlp.gate_proj.weight, mlp.up_proj.weight]


def _stacked(layer: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Return the same, each as one matrix."""
    first, second = _apart(layer)
    return [torch.cat(first)], [torch.cat(second)]


def _products(normed_BE: Tensor, weights: list[Tensor]) -> Tensor:
    """Return the products with all of the weights, side by side."""
    found = [F.linear(normed_BE, weight) for weight in weights]
    return found[0] if len(found) == 1 else torch.cat(found, dim=-1)

"""Tiny models of transformers whose logits are pushed about."""

import torch

from prealign.models.create import LlamaShape, make_model

SHAPE = LlamaShape(width=16, layers=1, heads=2, max_tokens=256)


def tiny(vocabulary, bias=None, *, seed=0):
    """A Llama with a constant added to its logits, by id."""
    model = make_model(SHAPE, vocabulary.size, seed=seed).eval()
    bias_V = torch.zeros(vocabulary.size)
    for token, logit in (bias or {}).items():
        bias_V[token] = logit
    model.lm_head.register_forward_hook(lambda head, given, logits: logits + bias_V)
    return model

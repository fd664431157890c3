"""AdamW with weight decay where it belongs, and the gradient's norm."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from prealign.models.resize import vocabulary_weights
from prealign.train.settings import TrainSettings


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices alone, not on norms, biases or embeddings.

    An output layer that is tied to the embedding is one with it, so it has none either.
    """
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    weights = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in weights if p.ndim >= 2 and id(p) not in tables]
    others = [p for p in weights if p.ndim < 2 or id(p) in tables]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=settings.lr,
        betas=settings.betas,
        fused=True,
    )


def gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the gradients that there are."""
    groups = optimizer.param_groups
    return [p.grad for group in groups for p in group["params"] if p.grad is not None]


def norm_of(grads: list[Tensor]) -> Tensor:
    """Return the norm of all gradients as one vector, over all shards; 0 if there are none."""
    if not grads:
        return torch.zeros(())
    norm = nn.utils.get_total_norm(grads)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def scale_and_clip(grads: list[Tensor], scale: float, norm: float, clip_norm: float) -> None:
    """Scale gradients in place, and further down if their scaled norm is above `clip_norm`.

    Args:
        grads: Whose norm is `norm` before scaling.
        scale: What they are multiplied by.
        norm: Finite.
        clip_norm: The greatest norm that is left as it is.
    """
    scaled = norm * scale
    factor = scale * (clip_norm / scaled if scaled > clip_norm else 1.0)
    if grads and not math.isclose(factor, 1.0, abs_tol=0.0, rel_tol=0.0):
        torch._foreach_mul_(grads, factor)


@contextlib.contextmanager
def last_rows_faster(model: PreTrainedModel, rows: int, rate: float) -> Iterator[None]:
    """Let the last `rows` rows of the vocabulary's weights go `rate` times as far in a step.

    The same as a learning rate of their own: what AdamW adds to a weight is its rate times
    something that does not depend on it.
    """
    if not rows or math.isclose(rate, 1.0, abs_tol=0.0, rel_tol=0.0):
        yield
        return
    own = [weight_VD.detach()[-rows:] for weight_VD in vocabulary_weights(model)]
    before = [rows_RD.clone() for rows_RD in own]
    yield
    for rows_RD, before_RD in zip(own, before, strict=True):
        rows_RD.copy_(before_RD + rate * (rows_RD - before_RD))

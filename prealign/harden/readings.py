"""What a layer holds while a model reads completions behind prompts: what probes look at.

Shape letters:  B = rows,  L = tokens of a completion,  T = tokens of a row,  D = width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prealign.evals.inside import edited, layers_of
from prealign.models.sample import evaluating
from prealign.posttrain.score import Row, check_rows

EMBEDDING = -1
"""Stands for the embedding in the place of a layer: what the tokens are, nothing computed."""
ROWS_AT_ONCE = 64


def read_rows(model: Any, rows: Sequence[Row], layer: int) -> list[Tensor]:
    """Return what a layer writes at each token of the rows' completions, each [L, D], float32.

    Args:
        model: A causal LM of transformers.
        rows: Completions behind prompts, a token of each at least.
        layer: Its index, or `EMBEDDING`.

    Raises:
        DataError: A row is longer than the model's context, or has no prompt.
        ConfigError: The model has no list of layers.
    """
    check_rows(rows, int(model.config.max_position_embeddings))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt) + len(rows[i].completion))
    found: dict[int, Tensor] = {}
    with evaluating(model), torch.no_grad():
        for start in range(0, len(order), ROWS_AT_ONCE):
            some = order[start : start + ROWS_AT_ONCE]
            written_BTD = _written(model, [rows[i] for i in some], layer)
            for i, written_TD in zip(some, written_BTD, strict=True):
                first = len(rows[i].prompt)
                found[i] = written_TD[first : first + len(rows[i].completion)].clone()
    return [found[i] for i in range(len(rows))]


def followed(rows: Sequence[Row], asks: Sequence[int]) -> list[Row]:
    """Return rows that are followed by a question, whose tokens are then what is read.

    Args:
        rows: Completions behind prompts.
        asks: Ids of the question; none: the rows stay as they are.
    """
    if not asks:
        return list(rows)
    return [Row(row.prompt + row.completion, tuple(asks)) for row in rows]


def _written(model: Any, rows: Sequence[Row], layer: int) -> Tensor:
    """Return what a layer writes at every token, padding behind included, [B, T, D]."""
    longest = max(len(row.prompt) + len(row.completion) for row in rows)
    ids = [[*row.prompt, *row.completion] for row in rows]
    ids_BT = torch.tensor([own + [0] * (longest - len(own)) for own in ids], device=model.device)
    if layer == EMBEDDING:
        embedded_BTD: Tensor = model.get_input_embeddings()(ids_BT)
        return embedded_BTD.float().cpu()
    kept: list[Tensor] = []

    def keep(out_BTD: Tensor) -> Tensor:
        kept.append(out_BTD.detach().float().cpu())
        return out_BTD

    with edited(model, {layer % len(layers_of(model)): keep}):
        model.base_model(input_ids=ids_BT, use_cache=False)
    return kept[0]

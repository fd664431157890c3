"""Log-probabilities and logits of completions behind prompts, at the completions' places alone.

Rows are padded behind, where a causal model does not look, so there is no mask; and the output
layer, which costs most in a small model, sees the places that count and no others.

Shape letters:  B = rows,  L = tokens of a completion,  T = tokens of a row,  N = places of all
completions,  D = width,  V = vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from prealign.errors import DataError


class Row(NamedTuple):
    """A completion behind a prompt."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]


class Places(NamedTuple):
    """What a model says at the places of completions, row by row."""

    logits_NV: Tensor
    """Before each token of a completion."""
    targets_N: Tensor
    """The tokens."""
    mask_BL: Tensor
    """bool: the tokens of each row, in the same order."""


def places(model: PreTrainedModel, rows: Sequence[Row], *, bf16: bool = False) -> Places:
    """Return logits at every token of the rows' completions.

    Args:
        model: Of transformers, with a body and an output layer.
        rows: One at least, none with an empty prompt.
        bf16: Multiply in it.

    Raises:
        DataError: A prompt is empty, a row is longer than the model's context, or there is none.
    """
    check_rows(rows, int(model.config.max_position_embeddings))
    device = next(model.parameters()).device
    longest = max(len(row.prompt) + len(row.completion) for row in rows)
    most = max(len(row.completion) for row in rows)
    ids = [[*r.prompt, *r.completion] for r in rows]
    ids_BT = torch.tensor([own + [0] * (longest - len(own)) for own in ids], device=device)
    at = [i * longest + len(r.prompt) - 1 + t for i, r in enumerate(rows) for t in _range(r)]
    at_N = torch.tensor(at, device=device, dtype=torch.int64)
    lengths_B = torch.tensor([len(row.completion) for row in rows], device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        hidden_BTD = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, at_N)
        logits_NV: Tensor = model.get_output_embeddings()(hidden_ND)
    mask_BL = torch.arange(most, device=device) < lengths_B[:, None]
    return Places(logits_NV.float(), ids_BT.flatten()[at_N + 1], mask_BL)


def logp(
    model: PreTrainedModel, rows: Sequence[Row], *, bf16: bool = False
) -> tuple[Tensor, Tensor]:
    """Return log p of each token of the completions, fp32 [B, L], and which places count, [B, L].

    It is 0 behind their ends.

    Raises:
        DataError: As `places`.
    """
    found = places(model, rows, bf16=bf16)
    logp_N = -F.cross_entropy(found.logits_NV, found.targets_N, reduction="none")
    out_BL = torch.zeros(found.mask_BL.shape, device=logp_N.device, dtype=logp_N.dtype)
    return out_BL.masked_scatter(found.mask_BL, logp_N), found.mask_BL


def padded(pieces: Sequence[Tensor], mask_BL: Tensor) -> Tensor:
    """Return one-dimensional pieces as rows [B, L], 0 behind their ends."""
    out_BL = torch.zeros(mask_BL.shape, device=mask_BL.device)
    return out_BL.masked_scatter(mask_BL, torch.cat(list(pieces)).to(out_BL))


def pieces(values_BL: Tensor, mask_BL: Tensor) -> list[Tensor]:
    """Return what counts of each row, without a gradient."""
    pairs = zip(values_BL.detach(), mask_BL, strict=True)
    return [row[mask] for row, mask in pairs]


def check_rows(rows: Sequence[Row], room: int) -> None:
    """See that rows can be read.

    Raises:
        DataError: There is none, a prompt is empty, or a row is longer than the model's context.
    """
    if not rows:
        raise DataError("there are no rows to score")
    for index, row in enumerate(rows):
        size = len(row.prompt) + len(row.completion)
        if not row.prompt or size > room:
            raise DataError(
                f"row {index}: a prompt of {len(row.prompt)} tokens and a completion of "
                f"{len(row.completion)}; expected one token of prompt at least and {room} in all "
                "at most, the model's context"
            )


def _range(row: Row) -> range:
    return range(len(row.completion))

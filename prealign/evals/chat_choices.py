"""Multiple choice as a chat model is asked: behind its own template, and at half the price.

Answers that differ in one token, such as the letters of listed options, are compared by the
logits of that one place, so that each prompt is read once; what follows the place (a bracket) is
alike and left out. Others are read in full, as `prealign.evals.choices.margins` does.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prealign.errors import DataError
from prealign.evals.choices import Asked, Item, Margins
from prealign.models.sample import evaluating

ROWS_AT_ONCE = 16
Encode = Callable[[str], Sequence[int]]


class _Read(NamedTuple):
    """Ids behind which one id, or all from a place on, are looked at."""

    ids: tuple[int, ...]
    start: int
    """Of the answer."""
    asked: tuple[int, ...]
    """Ids whose logits are compared behind the last of `ids`; none: the answer's own."""


def chat_margins(
    model: Any, items: Sequence[Item], prompt: Encode, encode: Encode, *, bf16: bool = False
) -> Margins:
    """Return how much likelier a model holds the wanted answers behind prompts of any layout.

    Args:
        model: A causal LM of transformers.
        items: What is asked; blanks in front of answers count.
        prompt: Returns the ids of a question, up to where the model answers.
        encode: Returns the ids of an answer.
        bf16: Multiply in it, but for the output layer.

    Raises:
        DataError: There are no items, or one is too long for the model.
    """
    if not items:
        raise DataError("no items to ask; give one at least")
    reads: list[_Read] = []
    sizes: list[tuple[int, int]] = []
    for one in (one for item in items for one in item.orders):
        own = _reads(one, tuple(prompt(one.prompt)), encode)
        sizes.append((len(encode(one.wanted)), len(encode(one.other))))
        reads += own
    values = iter(_values(model, reads, bf16))
    gaps, each, at = [], [], 0
    for wanted, other in sizes:
        if reads[at].asked:
            gap = next(values)
            gaps.append(gap)
            each.append(gap / wanted)
            at += 1
        else:
            first, second = next(values), next(values)
            gaps.append(first - second)
            each.append(first / wanted - second / other)
            at += 2
    ends = np.cumsum([len(item.orders) for item in items])[:-1]
    return Margins(
        tuple(items), tuple(np.split(np.array(gaps), ends)), tuple(np.split(np.array(each), ends))
    )


def _reads(one: Asked, front: tuple[int, ...], encode: Encode) -> list[_Read]:
    wanted, other = tuple(encode(one.wanted)), tuple(encode(one.other))
    differ = [at for at, (a, b) in enumerate(zip(wanted, other, strict=False)) if a != b]
    if len(wanted) == len(other) and len(differ) == 1:
        at = differ[0]
        return [_Read((*front, *wanted[:at]), len(front), (wanted[at], other[at]))]
    return [_Read((*front, *ids), len(front), ()) for ids in (wanted, other)]


def _values(model: Any, reads: Sequence[_Read], bf16: bool) -> list[float]:
    """Return for each either the gap of two logits, or log p of the answer, in nats."""
    room = int(model.config.max_position_embeddings)
    for index, one in enumerate(reads):
        if not one.start or len(one.ids) > room:
            raise DataError(
                f"question {index} has {len(one.ids)} ids, {one.start} in front of its answer; "
                f"expected one at least in front and {room} in all at most, the model's context"
            )
    found = np.empty(len(reads))
    order = sorted(range(len(reads)), key=lambda i: len(reads[i].ids))
    device = next(model.parameters()).device
    with evaluating(model), torch.inference_mode():
        for first in range(0, len(order), ROWS_AT_ONCE):
            some = order[first : first + ROWS_AT_ONCE]
            longest = len(reads[some[-1]].ids)
            # Padding stands behind the text, where a causal model cannot see it.
            rows = [[*reads[i].ids, *[0] * (longest - len(reads[i].ids))] for i in some]
            ids_BL = torch.tensor(rows, device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                hidden_BLD = model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state
            for i, hidden_LD in zip(some, hidden_BLD, strict=True):
                found[i] = _value(model.get_output_embeddings(), hidden_LD, reads[i])
    if not bool(np.isfinite(found).all()):
        raise DataError("logits are NaN or infinite; the model has diverged")
    return [float(value) for value in found]


def _value(head: Any, hidden_LD: Tensor, one: _Read) -> float:
    """Return what is asked; the output layer is in its own type, as bf16 makes logits alike."""
    last, hidden_LD = len(one.ids), hidden_LD.to(head.weight.dtype)
    if one.asked:
        logits_V: Tensor = head(hidden_LD[last - 1]).float()
        return float(logits_V[one.asked[0]] - logits_V[one.asked[1]])
    logits_LV: Tensor = head(hidden_LD[one.start - 1 : last - 1]).double()
    targets_L = torch.tensor(one.ids[one.start :], device=logits_LV.device)
    return float(logits_LV.log_softmax(-1).gather(-1, targets_L[:, None]).sum())

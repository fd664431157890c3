"""What a model holds likely at every token of a given text: tags, and all that a guard would deny.

The model reads the text as it is (teacher forcing). Before each token the probability of a tag says
in which voice it expects the text to go on, and that of the ids that a guard denies is the
*pressure*: the total variation distance between the model with and without the guard there. Both
are statistics, with errors of their own; the guard's guarantee does not rest on them.

Shape letters:  B = rows,  L = ids after the first,  V = vocabulary,  W = watched ids.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prealign.errors import ConfigError, DataError
from prealign.guard.table import Table, run_of, state_of
from prealign.models.sample import evaluating

BATCH_TOKENS = 4096
Floats = NDArray[np.float64]


class Reading(NamedTuple):
    """What a model held likely before each id of one sequence but the first."""

    ids_L: NDArray[np.int64]
    """The ids."""
    logp_L: Floats
    """log p of each, in nats, among all ids."""
    watched_LW: Floats
    """log p of each watched id in its place."""
    pressure_L: Floats | None
    """Probability of what the guard denies there; None where no table was given."""


def read_texts(
    model: Any,
    sequences: Sequence[Sequence[int]],
    watched: Sequence[int],
    *,
    table: Table | None = None,
    policy: str | int = 0,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Reading]:
    """Return one reading per sequence, in order.

    Args:
        model: A causal LM of transformers, or a fake with its call signature.
        sequences: Each an end of text, then tags or not, then text: two ids at least.
        watched: Ids whose probability is wanted, such as `vocabulary.open_id("bad")`.
        table: Says what is denied at each place, behind the tags that stand there; the sequence is
            the harness's, so tags may stand in it that the model may not write.
        policy: The policy of the table.
        batch_tokens: Tokens at once, padding included, and one sequence at least.

    Raises:
        DataError: A sequence is too short or too long for the model, or has a foreign id, or
            logits are NaN or +inf.
        GuardError: The tags of a sequence do not nest.
        ConfigError: A watched id is none of the model's.
    """
    readings: dict[int, Reading] = {}
    for index, logits_LV in logits_of(model, sequences, batch_tokens=batch_tokens):
        size = logits_LV.shape[-1]
        foreign = [token for token in watched if not 0 <= token < size]
        if foreign:
            raise ConfigError(f"watched id {foreign[0]}: expected one in [0, {size})")
        logp_LV = logits_LV.double().log_softmax(dim=-1).cpu()
        ids_L = np.array(sequences[index][1:], dtype=np.int64)
        readings[index] = Reading(
            ids_L=ids_L,
            logp_L=logp_LV.gather(-1, torch.from_numpy(ids_L)[:, None])[:, 0].numpy(),
            watched_LW=logp_LV[:, list(watched)].numpy(),
            pressure_L=None
            if table is None
            else _pressure(logp_LV, sequences[index], table, policy),
        )
    return [readings[index] for index in range(len(sequences))]


def logits_of(
    model: Any, sequences: Sequence[Sequence[int]], *, batch_tokens: int = BATCH_TOKENS
) -> Iterator[tuple[int, Tensor]]:
    """Yield the index of each sequence and the logits before each of its ids but the first, [L, V].

    Sequences of like length are read together, so the order is by length.

    Raises:
        DataError: As `read_texts`.
    """
    room = int(model.config.max_position_embeddings)
    for index, ids in enumerate(sequences):
        if not 2 <= len(ids) <= room + 1:
            raise DataError(
                f"sequence {index} has {len(ids)} ids; expected 2 to {room + 1}: an end of text "
                "and what follows, within the model's context (cut longer texts)"
            )
        foreign = [token for token in ids if not 0 <= token < model.config.vocab_size]
        if foreign:
            raise DataError(
                f"sequence {index}: id {foreign[0]} is not in [0, {model.config.vocab_size})"
            )
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    with evaluating(model), torch.inference_mode():
        for batch in _batches(order, [len(ids) - 1 for ids in sequences], batch_tokens):
            longest = len(sequences[batch[-1]]) - 1
            # Padding stands behind the text, where a causal model cannot see it.
            rows = [[*sequences[i][:-1], *[0] * (longest + 1 - len(sequences[i]))] for i in batch]
            ids_BL = torch.tensor(rows, device=model.device)
            logits_BLV = model(input_ids=ids_BL, use_cache=False).logits.float()
            for index, logits_LV in zip(batch, logits_BLV, strict=True):
                own_LV = logits_LV[: len(sequences[index]) - 1]
                if not bool(torch.isfinite(own_LV.amax(dim=-1)).all()):
                    raise DataError(
                        f"sequence {index}: logits are NaN or infinite; the model has diverged"
                    )
                yield index, own_LV


def stacked(readings: Sequence[Reading]) -> dict[str, NDArray[Any]]:
    """Return the readings as arrays for `numpy.savez`, one after the other.

    `offsets` has one number more than there are readings: reading i is `offsets[i]` to
    `offsets[i + 1]` of `ids`, `logp`, `watched` and, where there is one, `pressure`.

    Raises:
        DataError: There is no reading, or some have pressure and some have not.
    """
    with_pressure = [one.pressure_L for one in readings if one.pressure_L is not None]
    if not readings or len(with_pressure) not in (0, len(readings)):
        raise DataError(
            f"{len(readings)} readings, {len(with_pressure)} of them with pressure: expected one "
            "or more, all read with a table or none"
        )
    arrays: dict[str, NDArray[Any]] = {
        "offsets": np.cumsum([0, *(one.ids_L.size for one in readings)]),
        "ids": np.concatenate([one.ids_L for one in readings]),
        "logp": np.concatenate([one.logp_L for one in readings]),
        "watched": np.concatenate([one.watched_LW for one in readings]),
    }
    return arrays | ({"pressure": np.concatenate(with_pressure)} if with_pressure else {})


def _batches(order: Sequence[int], lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Yield runs of `order`, which is by length, of at most so many tokens with padding."""
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * lengths[index] > tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _pressure(logp_LV: Tensor, ids: Sequence[int], table: Table, policy: str | int) -> Floats:
    """Return the probability of what the table denies before each id but the first."""
    if logp_LV.shape[-1] != table.ids.size:
        raise DataError(
            f"the model has {logp_LV.shape[-1]} ids, the table {table.ids.size}: make the table "
            "from the model's own vocabulary"
        )
    state = table.start(policy)
    groups: dict[tuple[int, bool], tuple[int, list[int]]] = {}
    for at, token in enumerate(ids):
        state = table.scan([token], state)
        longest = int(table.longest[state_of(state)])
        if at < len(ids) - 1:
            key = (state_of(state), bool(longest) and run_of(state) >= longest)
            groups.setdefault(key, (state, []))[1].append(at)
    found_L = np.zeros(len(ids) - 1)
    for one, places in groups.values():
        denied = torch.from_numpy(np.flatnonzero(~table.allowed(one)))
        mass = logp_LV[places][:, denied].exp().sum(dim=-1)
        found_L[places] = mass.clamp(0.0, 1.0).numpy()
    return found_L

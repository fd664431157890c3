"""A canary for `generate` of transformers: every decoding path is tried before it is trusted.

A model that wants a denied id above all else goes through the very function, with the very
settings, that will be used: once as it is, when no denied id may come out, and once with the mask
off, when the gate must refuse. A path that leaves out the mask, the gate or both is refused.

Shape letters:  B = rows,  L = tokens.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from prealign.errors import GuardError
from prealign.guard.canary import CanaryReport
from prealign.guard.gate import Guard
from prealign.guard.hf import Phase, RowGate, Rows, id_rows, pad_id_of
from prealign.guard.table import TEXT, Table

TOKENS = 4
DRAWN = {"do_sample": True, "top_k": 0}
DRAFT = "assistant_model"
WAYS: Mapping[str, Mapping[str, Any]] = {
    "greedy": {},
    "sampling": DRAWN,
    "hot sampling": DRAWN | {"temperature": 1e30},
    "beams": {"num_beams": 3, "num_return_sequences": 3},
    "beam sampling": {"num_beams": 3, **DRAWN},
    "assisted": {DRAFT: None},
    "assisted sampling": {DRAFT: None, **DRAWN},
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
    "rows padded in front": {},
}
"""The ways to generate; a draft model of None is the biased one."""
PADDED = "rows padded in front"
HOT = "hot sampling"


class GeneratePath(Protocol):
    """The signature of `prealign.guard.hf_generate.guarded_generate`."""

    def __call__(
        self,
        model: Any,
        table: Table,
        input_ids: Tensor,
        *,
        policy: str | int,
        guard: Guard,
        **generate_kwargs: Any,
    ) -> Any:
        """Return rows of ids, the prompts in front, or something with `sequences`."""


def check_generate(
    path: GeneratePath,
    table: Table,
    *,
    biased: Callable[[int], Any],
    ways: Mapping[str, Mapping[str, Any]] = WAYS,
    settings: Mapping[str, Any] | None = None,
) -> CanaryReport:
    """Return what was tried, if every way is guarded; refuse the path otherwise.

    Each policy of the table is tried, behind the tags that the harness opens for it, with each id
    that it denies there.

    Args:
        path: The function.
        table: What is denied.
        biased: Returns a small causal language model of transformers over the table's ids that
            prefers the given id by a logit of 1e4. It is its own draft.
        ways: The ways to try; see `WAYS`.
        settings: What will be set besides, in all ways.

    Raises:
        GuardError: A denied id came out, some id was not shown to the gate, the gate fired because
            the mask was not applied, or it did not fire with the mask off.
    """
    runs = ids = 0
    for index, policy in enumerate(table.policies):
        state = table.scan(table.opening(index), table.start(index))
        for token in table.denied(state):
            model = biased(token)
            for name, way in ways.items():
                asked = dict(way) | dict(settings or {}) | {"policy": index}
                if DRAFT in asked and asked[DRAFT] is None:
                    asked[DRAFT] = model
                given = _prompts(table, index, padded=name == PADDED)
                where = f"{name}, policy {policy.name!r}, bias to {table.label(token)}"
                ids += _masked(path, model, table, given, asked, where)
                # Where it is hot, the model's wish is drowned; and beams are padded anywhere, so
                # that whoever wrote the padding's id, nothing was written.
                nothing = asked.get("num_beams", 1) > 1 and token == pad_id_of(table)
                if name != HOT and not nothing:
                    _unmasked(path, model, table, given, asked, where)
                runs += 1
    if not runs or not ids:
        raise GuardError(
            f"canary: {runs} runs wrote {ids} ids, which shows nothing; give ways that write, "
            "and a policy that denies something"
        )
    return CanaryReport(runs, ids)


def _prompts(table: Table, policy: int, *, padded: bool) -> Tensor:
    """Return one prompt, or three of different lengths; the text in it repeats itself."""
    some = np.flatnonzero(table.column_of == TEXT)[:2].tolist()
    head = [*table.ids.ends[:1], *table.opening(policy)]
    rows = [head + some * 2, head, head + some] if padded else [head + some * 2]
    width = max(map(len, rows))
    pad = pad_id_of(table)
    return torch.tensor([[pad] * (width - len(row)) + row for row in rows])


def _masked(
    path: GeneratePath,
    model: Any,
    table: Table,
    given: Tensor,
    asked: Mapping[str, Any],
    where: str,
) -> int:
    """Return how many ids one run wrote, all of them allowed and shown to the gate."""
    guard = Guard(table, pressure=False)
    try:
        out = path(model, table, given, guard=guard, max_new_tokens=TOKENS, **asked)
    except GuardError as error:
        raise GuardError(f"canary: {where}: refused, or the mask is not in it: {error}") from error
    rows_BL = id_rows(out if isinstance(out, Tensor) else out.sequences, given.shape[1])
    how = Rows(
        prompt_tokens=given.shape[1], pad_id=pad_id_of(table), stop_ids=table.ids.ends,
        policy=asked["policy"], early=asked.get("num_beams", 1) > 1,
    )  # fmt: skip
    check, written = RowGate(Guard(table, pressure=False), how, last=True), 0
    for ids_L in rows_BL:
        place = check.prompt(ids_L[: given.shape[1]])
        for token in ids_L[given.shape[1] :].tolist():
            try:
                [place] = check.step([place], [token])
            except GuardError as error:
                raise GuardError(
                    f"canary: {where}: a denied id came out; the path has no gate: refused "
                    f"({error})"
                ) from error
            written += place.phase != Phase.PADDED
    if guard.gate_ids < written:
        raise GuardError(
            f"canary: {where}: {written} ids came out, the gate saw {guard.gate_ids}; the path "
            "does not show every id to the gate: refused"
        )
    return written


def _unmasked(
    path: GeneratePath,
    model: Any,
    table: Table,
    given: Tensor,
    asked: Mapping[str, Any],
    where: str,
) -> None:
    """See that the gate is live: one id is written, and nothing looks at it but the last gate."""
    guard = Guard(table, mask=False, pressure=False)
    try:
        path(model, table, given, guard=guard, max_new_tokens=1, **asked)
    except GuardError:
        return
    raise GuardError(
        f"canary: {where}: with the mask off nothing was refused; the path has no gate: refused"
    )

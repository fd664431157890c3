"""The guard of a sampling run: a mask on the logits, and a gate that safety rests on.

The gate looks at every id before it is appended. Whatever the model, the mask or the sampler did,
no id passes that the model may not write in its state. The mask gives such ids a logit of -inf, so
that their probability is zero and the gate is never seen to fire.

The guard keeps no sequence. A state is a number that the caller carries with its row, from `scan`
through `commit`: so rows can be reordered, forked, dropped and rolled back as a sampler likes.

Shape letters:  B = rows,  V = vocabulary,  K = ids that a row denies.
"""

from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prealign.errors import GuardError
from prealign.guard.table import BAN, RUN_SHIFT, STATE_MASK, TEXT, Ints, Table, with_run

ROWS_AT_ONCE = 8
FEW = 16
"""Up to so many rows, Python over lists is faster than NumPy's calls."""


class _Row(NamedTuple):
    """What the mask does in a state."""

    denied: NDArray[np.int64]
    """The ids to deny; none where `kept` says it."""
    kept: NDArray[np.int64] | None
    """Where text is denied: the only ids to keep."""


class Guard:
    """Policies at work: `scan`, `mask` and `commit` go to the sampler; the rest was counted.

    It fails closed: on anything it cannot judge it raises.

    Args:
        table: What the model may write, by state.
        mask: False leaves the logits as they are, to see that the gate fires.
        pressure: Record it, at the price of two reductions over the vocabulary per row. Logits
            that say nothing (a NaN, +inf, no allowed id) are then found by the way.
    """

    def __init__(self, table: Table, *, mask: bool = True, pressure: bool = True) -> None:
        self.table = table
        self.mask_on = mask
        self.pressure_on = pressure
        self.gate_calls = 0
        self.gate_ids = 0
        """Ids of the model that the gate has judged."""
        self.fired = 0
        """How often the gate has refused."""
        self._rows = _mask_rows(table, full=False)
        self._full = _mask_rows(table, full=True)
        special = np.flatnonzero(table.column_of)
        columns = table.column_of[special].tolist()
        self._special: dict[int, int] = dict(zip(special.tolist(), columns, strict=True))
        self._next: list[list[int]] = table.next.tolist()
        self._may: list[list[bool]] = table.may.tolist()
        self._longest: list[int] = table.longest.tolist()
        self._pressure: list[Tensor] = []

    def scan(self, ids: Sequence[int], policy: str | int = 0) -> int:
        """Return the state of a policy behind a prompt; see `Table.scan`."""
        return self.table.scan(ids, self.table.start(policy))

    def mask(self, logits_BV: Tensor, states_B: Sequence[int] | Ints) -> Tensor:
        """Return the logits with -inf on what may not be written, in place; record the pressure.

        Args:
            logits_BV: float32, after every other edit.
            states_B: The state of each row.

        Raises:
            GuardError: The logits have another width or type than the table, or not one row per
                state; while pressure is recorded: a row has a NaN, +inf or no allowed id.
        """
        states = states_B.tolist() if isinstance(states_B, np.ndarray) else list(states_B)
        size = self.table.ids.size
        if logits_BV.shape != (len(states), size) or logits_BV.dtype != torch.float32:
            raise GuardError(
                f"logits of shape {tuple(logits_BV.shape)}, {logits_BV.dtype}: expected float32, "
                f"{len(states)} rows and {size} ids (guard {self.table.fingerprint})"
            )
        groups = self._groups(states)
        if self.pressure_on:
            self._measure(logits_BV, groups)
        if self.mask_on:
            for rows, row in groups:
                _deny(logits_BV, rows, row)
            if self.pressure_on:
                best_B = logits_BV.amax(dim=-1)
                self._check_rows(torch.isfinite(best_B), "no allowed id", best_B)
        return logits_BV

    def allows(self, states_B: Sequence[int] | Ints, token: int) -> NDArray[np.bool_]:
        """Return whether the model may write an id in each state."""
        column, states = self._special.get(token, TEXT), np.asarray(states_B, dtype=np.int64)
        may_B: NDArray[np.bool_]
        if column == TEXT:
            may_B = self.table.text_allowed(states)
        else:
            may_B = self.table.may[states & STATE_MASK, column]
        return may_B & (0 <= token < self.table.ids.size)

    def commit(
        self,
        states_B: Sequence[int] | Ints,
        ids_B: Sequence[int] | Ints | Tensor,
        by_model_B: NDArray[np.bool_] | None = None,
    ) -> Ints:
        """Let the ids pass and return the states behind them, int64; or raise.

        Args:
            states_B: The state of each row.
            ids_B: The next id of each row.
            by_model_B: Whether the model chose it, and not the harness; None: all of them. The
                harness may write any tag that can stand there.

        Raises:
            GuardError: An id may not be written in its state, or is none of the vocabulary; a
                state is none of the table's, such as that of a row that was refused; or there is
                not one id, and one bool of `by_model_B`, for each state.
        """
        ids = ids_B.cpu().numpy() if isinstance(ids_B, Tensor) else np.asarray(ids_B)
        states = np.asarray(states_B, dtype=np.int64)
        self.gate_calls += 1
        if ids.size and ids.dtype.kind not in "iu":
            self._refuse(f"ids of type {ids.dtype}: expected integers")
        if ids.shape != states.shape or ids.ndim != 1:
            self._refuse(f"ids of shape {ids.shape} for states of shape {states.shape}")
        if by_model_B is not None and (by_model_B.shape != ids.shape or by_model_B.dtype != bool):
            # NumPy would spread a single False over all rows, and call them all the harness's.
            self._refuse(
                f"by_model_B of shape {by_model_B.shape}, {by_model_B.dtype}: expected a bool for "
                f"each of {ids.size} ids"
            )
        self.gate_ids += ids.size if by_model_B is None else int(by_model_B.sum())
        if ids.size > FEW:
            return self._commit_many(states, ids, by_model_B)
        own = [True] * ids.size if by_model_B is None else by_model_B.tolist()
        pairs = zip(states.tolist(), ids.tolist(), own, strict=True)
        behind = [self._behind(row, *one) for row, one in enumerate(pairs)]
        return np.array(behind, dtype=np.int64)

    def pressure(self) -> NDArray[np.float32]:
        """Return the probability of denied ids before the mask, per row and step.

        In the order of the steps and of the rows within a step. It is at temperature 1
        and before the nucleus, and equals the total variation distance between the model's
        distributions with and without the guard: how much the guard had to intervene.
        """
        found = torch.cat([torch.empty(0), *(one.cpu() for one in self._pressure)])
        return np.asarray(found.numpy(), dtype=np.float32)

    def _groups(self, states: list[int]) -> list[tuple[slice | list[int], _Row]]:
        """Return the rows of the batch that are masked alike, and how."""
        distinct = dict.fromkeys(states)
        if len(distinct) == 1:
            return [(slice(None), self._row_of(states[0]))]
        groups: dict[int, tuple[list[int], _Row]] = {}
        for index, state in enumerate(states):
            row = self._row_of(state)
            groups.setdefault(id(row), ([], row))[0].append(index)
        return list(groups.values())

    def _row_of(self, state: int) -> _Row:
        q = state & STATE_MASK
        longest = self._longest[q]
        return self._full[q] if longest and state >> RUN_SHIFT >= longest else self._rows[q]

    def _measure(self, logits_BV: Tensor, groups: Sequence[tuple[slice | list[int], _Row]]) -> None:
        # A few rows at a time: what fits a CPU's caches is four times faster.
        at_once = ROWS_AT_ONCE if logits_BV.device.type == "cpu" else max(1, len(logits_BV))
        total_B = torch.cat([some.logsumexp(dim=-1) for some in logits_BV.split(at_once)])
        self._check_rows(torch.isfinite(total_B), "NaN, +inf or no id at all", total_B)
        share_B = torch.empty_like(total_B)
        for rows, row in groups:
            some = row.denied if row.kept is None else row.kept
            ids = torch.from_numpy(some).to(logits_BV.device)
            part = (logits_BV[rows].index_select(-1, ids).logsumexp(-1) - total_B[rows]).exp()
            share_B[rows] = part if row.kept is None else 1 - part
        self._pressure.append(share_B.clamp(0.0, 1.0))

    def _behind(self, row: int, state: int, token: int, by_model: bool) -> int:
        """Return the state behind one id."""
        q = state & STATE_MASK
        if state < 0 or q >= len(self._next):
            self._refuse(f"row {row}: state {state} is none of this table")
        column = self._special.get(token, TEXT)
        behind = self._next[q][column]
        fine = behind != BAN and (self._may[q][column] or not by_model)
        longest = self._longest[q]
        if column == TEXT:
            run = state >> RUN_SHIFT
            fine &= not (longest and by_model and run >= longest)
            behind = with_run(q, run + 1) if self.table.counts else q
        if not fine or not 0 <= token < self.table.ids.size:
            self._refuse_id(row, token, state)
        return behind

    def _commit_many(
        self, states_B: Ints, ids_B: Ints, by_model_B: NDArray[np.bool_] | None
    ) -> Ints:
        """Return the states behind many ids: what `_behind` says of each."""
        table = self.table
        q_B = states_B & STATE_MASK
        unknown_B = (states_B < 0) | (q_B >= table.states)
        if unknown_B.any():
            row = int(unknown_B.argmax())
            self._refuse(f"row {row}: state {states_B[row]} is none of this table")
        foreign_B = (ids_B < 0) | (ids_B >= table.ids.size)
        if foreign_B.any():
            row = int(foreign_B.argmax())
            self._refuse_id(row, int(ids_B[row]), int(states_B[row]))
        column_B = table.column_of[ids_B]
        behind_B: Ints = table.next[q_B, column_B].astype(np.int64)
        may_B = table.may[q_B, column_B]
        if table.counts:
            longest_B, run_B = table.longest[q_B], states_B >> RUN_SHIFT
            text_B = column_B == TEXT
            may_B &= ~(text_B & (longest_B > 0) & (run_B >= longest_B))
            behind_B = np.where(text_B, q_B | (run_B + 1) << RUN_SHIFT, behind_B)
        fine_B = (behind_B != BAN) & (may_B if by_model_B is None else may_B | ~by_model_B)
        if not fine_B.all():
            row = int(fine_B.argmin())
            self._refuse_id(row, int(ids_B[row]), int(states_B[row]))
        return behind_B

    def _check_rows(self, fine_B: Tensor, problem: str, value_B: Tensor) -> None:
        if not bool(fine_B.all()):
            row = int((~fine_B).nonzero()[0])
            raise GuardError(
                f"row {row}: the logits have {problem} (got {float(value_B[row])}); "
                f"guard {self.table.fingerprint}"
            )

    def _refuse_id(self, row: int, token: int, state: int) -> NoReturn:
        table = self.table
        if not 0 <= token < table.ids.size:
            self._refuse(f"row {row}: id {token} is not in [0, {table.ids.size})")
        inside = "/".join(table.path(state)) or "no mode"
        name = table.policy(state).name
        self._refuse(
            f"row {row}: id {token} ({table.label(token)}) is denied in {inside} by policy {name!r}"
        )

    def _refuse(self, what: str) -> NoReturn:
        self.fired += 1
        raise GuardError(
            f"gate: {what} (guard {self.table.fingerprint}); nothing was appended. The mask was "
            "bypassed: check_path finds where"
        )


def _mask_rows(table: Table, *, full: bool) -> list[_Row]:
    """Return what the mask does in each state, with its span at its longest or not.

    States with the same rights share a row, so that a batch falls into few groups.
    """
    special = np.flatnonzero(table.column_of)
    columns = table.column_of[special]
    known: dict[bytes, _Row] = {}
    rows = []
    for q in range(table.states):
        may = table.may[q].copy()
        may[TEXT] &= not (full and table.longest[q])
        if may.tobytes() not in known:
            allowed = may[columns]
            known[may.tobytes()] = (
                _Row(special[~allowed], None) if may[TEXT] else _Row(special[:0], special[allowed])
            )
        rows.append(known[may.tobytes()])
    return rows


def _deny(logits_BV: Tensor, rows: slice | list[int], row: _Row) -> None:
    """Write -inf on what a group of rows may not write, in place."""
    if logits_BV.device.type == "cpu":
        # NumPy's indexing costs a fraction of what dispatching to torch does.
        own_BV = logits_BV.detach() if logits_BV.requires_grad else logits_BV
        _deny_numpy(own_BV.numpy(), rows, row)
        return
    ids = torch.from_numpy(row.denied if row.kept is None else row.kept).to(logits_BV.device)
    if row.kept is None and isinstance(rows, slice):
        logits_BV.index_fill_(-1, ids, -torch.inf)
        return
    some = logits_BV[rows]
    kept = some.index_select(-1, ids)
    if row.kept is None:
        some.index_fill_(-1, ids, -torch.inf)
    else:
        some.fill_(-torch.inf).index_copy_(-1, ids, kept)
    logits_BV[rows] = some


def _deny_numpy(logits_BV: NDArray[np.float32], rows: slice | list[int], row: _Row) -> None:
    every = isinstance(rows, slice)
    if row.kept is None:
        if every:
            logits_BV[:, row.denied] = -np.inf
        else:
            logits_BV[np.array(rows)[:, None], row.denied] = -np.inf
        return
    kept = logits_BV[rows][:, row.kept]
    logits_BV[rows] = -np.inf
    logits_BV[(slice(None) if every else np.array(rows)[:, None], row.kept)] = kept

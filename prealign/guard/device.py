"""The guard as a few torch operations on a device, for loops that copy nothing back to the host.

`Guard` judges on the host, and raises. Where states and ids live on an accelerator, as in a decode
loop that is captured as a graph, nothing can raise without waiting for the device. Here a refused
id makes its row's state `REFUSED`, for good: the mask then denies that row everything. Look at the
states before anything is shown to anybody:

    guard = DeviceGuard(table, device="cuda")
    states_B = torch.tensor([table.scan(prompt, start) for prompt in prompts], device="cuda")
    while ...:  # no copy to the host in here
        ids_B = choose(guard.mask_(logits_BV, states_B))
        states_B = guard.step(states_B, ids_B)
    guard.check(states_B)  # raises

Masks and states are those of `Guard`, on all states and ids (tests/guard/test_device.py).

Shape letters:  B = rows,  V = vocabulary,  K = ids that are no text,  C = columns of a table.
"""

import torch
from torch import Tensor

from prealign.errors import GuardError
from prealign.guard.table import BAN, RUN_SHIFT, STATE_MASK, TEXT, Table

REFUSED = BAN
"""The state of a row behind an id that it might not write."""


class DeviceGuard:
    """A table as tensors on a device.

    Args:
        table: What may be written, by state.
        device: Where logits, states and ids are.
    """

    def __init__(self, table: Table, device: torch.device | str) -> None:
        self.table = table
        columns = torch.from_numpy(table.column_of).to(device, torch.int64)
        self._column_V = columns
        self._special_K = torch.nonzero(columns).squeeze(-1)
        self._special_column_K = columns[self._special_K]
        self._next_QC = torch.from_numpy(table.next).to(device, torch.int64)
        self._may_QC = torch.from_numpy(table.may).to(device)
        self._longest_Q = torch.from_numpy(table.longest).to(device)

    def mask_(self, logits_BV: Tensor, states_B: Tensor) -> Tensor:
        """Write -inf on what may not be written, in place, and return the logits.

        Args:
            logits_BV: float32, after every other edit.
            states_B: int64, on the same device. A row that was refused may write nothing.

        Raises:
            GuardError: The logits have another width or type, or not one row per state; or the
                states are not int64.
        """
        self._check_int64("states", states_B)
        size = self.table.ids.size
        if logits_BV.shape != (len(states_B), size) or logits_BV.dtype != torch.float32:
            raise GuardError(
                f"logits of shape {tuple(logits_BV.shape)}, {logits_BV.dtype}: expected float32, "
                f"{len(states_B)} rows and {size} ids (guard {self.table.fingerprint})"
            )
        may_BC = self._rights(states_B)
        kept_BK = logits_BV.index_select(-1, self._special_K)
        kept_BK.masked_fill_(~may_BC.index_select(-1, self._special_column_K), -torch.inf)
        # A pass over all ids: a row may be refused, or be where text is denied.
        logits_BV.masked_fill_(~may_BC[:, TEXT, None], -torch.inf)
        return logits_BV.index_copy_(-1, self._special_K, kept_BK)

    def step(self, states_B: Tensor, ids_B: Tensor, by_model_B: Tensor | None = None) -> Tensor:
        """Return the states behind the ids, int64; `REFUSED` behind an id that may not stand.

        Args:
            states_B: int64.
            ids_B: int64, the next id of each row; whatever is in it.
            by_model_B: Whether the model chose it, and not the harness; None: all of them.

        Raises:
            GuardError: There is not one id, and one bool of `by_model_B`, for each state; or
                states or ids are not int64.
        """
        self._check_int64("states", states_B)
        self._check_int64("ids", ids_B)
        if ids_B.shape != states_B.shape or ids_B.ndim != 1:
            raise GuardError(
                f"ids of shape {tuple(ids_B.shape)} for states of shape {tuple(states_B.shape)} "
                f"(guard {self.table.fingerprint})"
            )
        if by_model_B is not None and by_model_B.shape != ids_B.shape:
            # Torch would spread a single False over all rows, and call them all the harness's.
            raise GuardError(
                f"by_model_B of shape {tuple(by_model_B.shape)} for ids of shape "
                f"{tuple(ids_B.shape)} (guard {self.table.fingerprint})"
            )
        live_B = (states_B >= 0) & (ids_B >= 0) & (ids_B < self.table.ids.size)
        column_B = self._column_V[torch.where(live_B, ids_B, 0)]
        q_B = torch.where(live_B, states_B & STATE_MASK, 0)
        behind_B = self._next_QC[q_B, column_B]
        may_B = self._rights(states_B).gather(-1, column_B[:, None]).squeeze(-1)
        if by_model_B is not None:
            may_B = may_B | ~by_model_B
        fine_B = live_B & may_B & (behind_B != BAN)
        if self.table.counts:
            longer_B = q_B | ((states_B >> RUN_SHIFT) + 1) << RUN_SHIFT
            behind_B = torch.where(column_B == TEXT, longer_B, behind_B)
        return torch.where(fine_B, behind_B, REFUSED)

    def check(self, states_B: Tensor) -> None:
        """Raise if a row was refused; this waits for the device.

        Raises:
            GuardError: A row has an id that it might not write.
        """
        refused = torch.nonzero(states_B < 0).squeeze(-1).tolist()
        if refused:
            raise GuardError(
                f"gate: rows {refused} have an id that may not stand there (guard "
                f"{self.table.fingerprint}); show nobody what they wrote"
            )

    def _check_int64(self, what: str, values_B: Tensor) -> None:
        # An int32 state has no room for the length of its run; a uint8 index would be a mask.
        if values_B.dtype != torch.int64:
            raise GuardError(
                f"{what} of type {values_B.dtype}: expected int64 (guard {self.table.fingerprint})"
            )

    def _rights(self, states_B: Tensor) -> Tensor:
        """Return what the model may write in each row, [B, C]."""
        live_B = states_B >= 0
        q_B = torch.where(live_B, states_B & STATE_MASK, 0)
        may_BC = self._may_QC[q_B] & live_B[:, None]
        if self.table.counts:
            longest_B = self._longest_Q[q_B]
            full_B = (longest_B > 0) & (states_B >> RUN_SHIFT >= longest_B)
            may_BC[:, TEXT] &= ~full_B
        return may_BC

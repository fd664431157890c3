"""States of sequences that an engine holds: what the exact ids say, and what cannot be judged.

An engine must not stop because one client sent ids that no policy allows, or because an id is not
known yet. So besides the states of the table there are two kinds of negative ones, and a row in
them can write no tag, whatever it really is:

    BROKEN          ids that nobody may write there: nothing but the end of text is left
    `unsure(q)`     behind q, ids that are not known yet: only what is allowed in every state
                    that the model can have come to meanwhile

Shape letters:  R = rows,  V = vocabulary.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prealign.errors import ConfigError, GuardError
from prealign.guard.gate import Guard
from prealign.guard.table import TEXT, Ints, Table, state_of

BROKEN = -1
UNKNOWN_ID = -1
"""What an engine puts where it has not yet learnt an id."""
_UNSURE = -2


def unsure(state: int) -> int:
    """Return the state behind `state` and at least one id that is not known."""
    return _UNSURE - state_of(state) if state >= 0 else state


class Follower:
    """Follows sequences through a table and masks the rows of a batch; it holds no sequence.

    Args:
        table: What the model may write, by state.

    Raises:
        ConfigError: The table has no end of text, so a row that went wrong could write nothing.
    """

    def __init__(self, table: Table) -> None:
        if not table.ids.ends:
            raise ConfigError("a guard in an engine needs an end of text; the table has none")
        self.table = table
        self._guard = Guard(table, pressure=False)
        self._special = np.flatnonzero(table.column_of)
        self._ends = np.array(table.ids.ends, dtype=np.int64)
        self._denied_unsure = lru_cache(maxsize=None)(self._find_denied_unsure)

    def behind(self, state: int, ids: Sequence[int] | Ints, by_harness: int = 0) -> int:
        """Return the state behind ids.

        Args:
            state: The state in front of them.
            ids: What stands there; `UNKNOWN_ID` where it is not known.
            by_harness: So many of them, the first ones, the harness wrote; the others the model.
        """
        if state < 0:
            return state
        try:
            if by_harness:
                state = self.table.scan(ids[:by_harness], state)
            for token in ids[by_harness:]:
                if token == UNKNOWN_ID:
                    return unsure(state)
                state = int(self._guard.commit([state], [int(token)])[0])
        except GuardError:
            return BROKEN
        return state

    def mask(self, logits_RV: Tensor, states_R: Sequence[int]) -> Tensor:
        """Return the logits with -inf on what may not be written, in place.

        Args:
            logits_RV: float32, on any device.
            states_R: The state of each row.

        Raises:
            GuardError: The logits have another width or type than the table, or other rows.
        """
        doubtful = [row for row, state in enumerate(states_R) if state < 0]
        if not doubtful:
            return self._guard.mask(logits_RV, states_R) if len(states_R) else logits_RV
        # A doubtful row is masked as if nothing were open, and then by what is said of it.
        before_RV = logits_RV[doubtful]
        self._guard.mask(logits_RV, [max(state, 0) for state in states_R])
        for row, old_V in zip(doubtful, before_RV, strict=True):
            denied = self._denied_unsure(states_R[row])
            new_V = old_V.clone() if denied is not None else torch.full_like(old_V, -torch.inf)
            ids = torch.from_numpy(self._ends if denied is None else denied).to(old_V.device)
            new_V[ids] = old_V[ids] if denied is None else -torch.inf
            logits_RV[row] = new_V
        return logits_RV

    def allowed(self, state: int) -> NDArray[np.bool_]:
        """Return which ids the model may write in a state, [V]: for tests, not for speed."""
        if state >= 0:
            return self.table.allowed(state)
        denied = self._denied_unsure(state)
        fine = np.full(self.table.ids.size, denied is not None)
        fine[self._ends if denied is None else denied] = denied is None
        return fine

    def _find_denied_unsure(self, state: int) -> Ints | None:
        """Return the ids to deny in a negative state; None: all but the ends of text."""
        if state == BROKEN:
            return None
        rows = self.table.reachable(_UNSURE - state)
        may: NDArray[np.bool_] = self.table.may[rows[0]].copy()
        for q in rows:
            may &= self.table.may[q]
        if not may[TEXT] or self.table.longest[rows].any():
            return None
        may[1:-2] = False
        denied: Ints = self._special[~may[self.table.column_of[self._special]]]
        return denied


def no_looser(table: Table, policy: str | int, than: str | int) -> bool:
    """Return whether the model may write nothing under `policy` that it may not under `than`.

    Compared in every state, also in those that the policies do not come to by themselves.
    """
    paths = len(table.nesting.paths)
    here, there = (slice(table.start(one), table.start(one) + paths) for one in (policy, than))
    if (table.may[here] & ~table.may[there]).any():
        return False
    ours, theirs = table.longest[here], table.longest[there]
    text = table.may[here, TEXT]
    return not (text & (theirs > 0) & ((ours == 0) | (ours > theirs))).any()

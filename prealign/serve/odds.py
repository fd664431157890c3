"""What an engine's log-probabilities of a few ids say: the pressure of the guard, and text's odds.

An engine that shows the log-probabilities of the tags, of the end of text and of what it wrote,
all from before the mask and at temperature 1, shows all that both take.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol

import numpy as np

from prealign.guard.table import STATE_MASK, TEXT, Table

LEAST = 1e-3
"""Where text has less probability than this, float32 does not say how much less."""


class Entry(Protocol):
    """vLLM's `Logprob`; only what is read here."""

    @property
    def logprob(self) -> float:
        """In nats."""


class Odds:
    """Pressure and log-probability of written ids, or None where they cannot be known.

    Args:
        table: The guard's.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        special = np.flatnonzero(table.column_of != TEXT)
        self._columns = table.column_of[special]
        self._special = special
        self.ids: tuple[int, ...] = tuple(special.tolist())
        """The ids, besides what was written, that the engine must show."""
        self._parts = lru_cache(maxsize=None)(self._find_parts)

    def of(
        self, state: int, token: int, found: Mapping[int, Entry] | None
    ) -> tuple[float | None, float | None]:
        """Return pressure and log-probability as `prealign.models.engine.Written` has them.

        Args:
            state: The guard's, in front of the id.
            token: The id; the log-probability of one that is no text is not reported.
            found: What the engine shows at this place; None: nothing.

        Raises:
            ValueError: The engine shows a NaN, so the model is broken.
        """
        if found is None or token not in found or any(one not in found for one in self.ids):
            return None, None
        shown = {one: found[one].logprob for one in (*self.ids, token)}
        if any(math.isnan(one) for one in shown.values()):
            raise ValueError("logits have a NaN")
        text = bool(self._table.text_allowed(np.array([state]))[0])
        denied, kept = self._parts(state & STATE_MASK)
        share = sum(math.exp(shown[one]) for one in (denied if text else kept))
        pressure = min(max(share if text else 1 - share, 0.0), 1.0)
        if self._table.column_of[token] != TEXT:
            return pressure, None
        mass = 1 - sum(math.exp(shown[one]) for one in self.ids)
        return pressure, None if mass < LEAST else min(shown[token] - math.log(mass), 0.0)

    def _find_parts(self, row: int) -> tuple[list[int], list[int]]:
        """Return the ids other than text that are denied, and those that are not."""
        may = self._table.may[row, self._columns]
        return self._special[~may].tolist(), self._special[may].tolist()

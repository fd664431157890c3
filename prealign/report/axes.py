"""Axes of plots: where a value lies, round ticks, and their short names."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prealign.errors import DataError

ROOM_SHARE = 0.05
"""Space left between the outermost values and the ends of an axis."""
MAX_TICKS = 6


@dataclass(frozen=True)
class Axis:
    """One axis, from its lowest to its highest value."""

    label: str
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Return how far along the axis a value lies: 0 at its low end, 1 at its high end.

        Raises:
            DataError: The axis is logarithmic and the value is not above 0.
        """
        if not self.log:
            return (value - self.low) / (self.high - self.low)
        if value <= 0:
            raise DataError(f"axis {self.label!r}: {value} has no place on a logarithmic axis")
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        """Return two to about six round values, rising."""
        if self.log:
            for factors in ((1, 2, 5), (1, 3), (1,)):
                found = self._of_decades(factors)
                if 2 <= len(found) <= MAX_TICKS:
                    return found
            if len(found) > MAX_TICKS:
                return found[:: math.ceil(len(found) / MAX_TICKS)]
        return self._even()

    def _of_decades(self, factors: Sequence[int]) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        values = [f * 10.0**e for e in range(first, last + 1) for f in factors]
        return [value for value in values if self.low <= value <= self.high]

    def _even(self) -> list[float]:
        length = self.high - self.low
        step = 10.0 ** math.floor(math.log10(length / MAX_TICKS))
        step *= next(factor for factor in (1, 2, 5, 10) if length / (step * factor) <= MAX_TICKS)
        # The slack keeps a tick that rounding puts just outside of the ends.
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def make_axis(
    values: Sequence[float], label: str, *, zero: bool = False, log: bool = False
) -> Axis:
    """Return an axis that holds all values, with some room at both ends.

    Args:
        values: At least one.
        label: What it measures, and its unit.
        zero: It begins at 0, if no value is below.
        log: It is logarithmic.

    Raises:
        DataError: It is to be logarithmic, and a value is not above 0.
    """
    low, high = min(values), max(values)
    if log:
        if low <= 0:
            raise DataError(f"axis {label!r}: {low} has no place on a logarithmic axis")
        room = (high / low) ** ROOM_SHARE if high > low else 1.5
        return Axis(label, low / room, high * room, log=True)
    room = (high - low) * ROOM_SHARE or abs(high) * 0.1 or 1.0
    return Axis(label, 0.0 if zero and low >= 0 else low - room, high + room)


def short(value: float) -> str:
    """Return the name of a tick: 1.5M, 20k, 0.003."""
    for limit, unit, letter in ((1e9, 1e9, "B"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / unit:g}{letter}"
    return f"{round(value, 12):g}"

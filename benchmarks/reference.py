"""A guard in a few lines, from the modes and the rules alone: what the tables are held against.

It shares no code with `prealign.guard`: a stack of open modes, and a count of text in a row.
"""

from typing import NamedTuple

from prealign.guard.nesting import Nesting
from prealign.guard.policy import Policy
from prealign.guard.table import TagIds


class Place(NamedTuple):
    """Where a text stands."""

    stack: tuple[str, ...] = ()
    run: int = 0


class Reference:
    """What may be written where, by a stack."""

    def __init__(self, nesting: Nesting, policy: Policy, ids: TagIds) -> None:
        self.close = {mode.name: mode.close for mode in nesting.modes}
        self.opened = {mode.open: mode.name for mode in nesting.modes}
        self.holds = dict(nesting.holds)
        self.depth = nesting.depth
        self.rules = {rule.mode: rule for rule in policy.rules}
        self.tags = {token: tag for tag, token in ids.tags}
        self.ids = ids

    def step(self, place: Place, token: int) -> Place | None:
        """Return where a text stands behind an id, whoever writes it; None where it cannot."""
        if not 0 <= token < self.ids.size or token in self.ids.never:
            return None
        if token in self.ids.ends:
            return Place()
        if token not in self.tags:
            return Place(place.stack, place.run + 1)
        open_modes = list(place.stack)
        if open_modes and self.close[open_modes[-1]] is None:
            open_modes.pop()  # a mark ends where the next tag stands
        inner = open_modes[-1] if open_modes else ""
        mode = self.opened.get(self.tags[token])
        if mode is None:
            fits = bool(inner) and self.close[inner] == self.tags[token]
            return Place(tuple(open_modes[:-1])) if fits else None
        full = self.close[mode] is not None and len(open_modes) >= self.depth
        fits = mode in self.holds.get(inner, ()) and not full
        return Place((*open_modes, mode)) if fits else None

    def may(self, place: Place, token: int) -> bool:
        """Return whether the model may write an id."""
        if self.step(place, token) is None:
            return False
        inner = place.stack[-1] if place.stack else ""
        rule = self.rules.get(inner)
        if token in self.ids.ends:
            return rule is not None and rule.ends
        if token not in self.tags:
            short = rule is None or rule.longest is None or place.run < rule.longest
            return short and (rule is None or rule.text)
        mode = self.opened.get(self.tags[token])
        if rule is None:
            return False
        return mode in rule.opens if mode else rule.closes and self.close[inner] == self.tags[token]

"""Which modes can be open at once, and what each tag makes of them: an automaton over paths.

A path is the modes that are open, the outermost first. A mode that only marks can stand last on
it: the next tag ends it, whichever it is. Depth is bounded, so there are finitely many paths, and a
policy over them is a flat table (`prealign.guard.table`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from prealign.errors import ConfigError
from prealign.text.scheme import Mode, Scheme

Path = tuple[str, ...]
TOP = ""
"""Stands for no mode, where a mode's name is asked for."""
MAX_PATHS = 100_000


@dataclass(frozen=True, kw_only=True)
class Nesting:
    """Modes, which of them may hold which, and how deep.

    `nesting_of` makes the one of a scheme, where each mode has one place. Here a mode may stand in
    several others, and in itself.
    """

    modes: tuple[Mode, ...]
    """Their `inside` is not looked at."""
    holds: tuple[tuple[str, tuple[str, ...]], ...]
    """Pairs of a mode (or `TOP`) and the modes that may stand directly in it; others hold none."""
    depth: int
    """How many modes with a closing tag may be open at once."""

    def __post_init__(self) -> None:
        names = {mode.name for mode in self.modes}
        places = [outer for outer, _ in self.holds]
        for given in (places, [mode.name for mode in self.modes], self.tags):
            twice = sorted({one for one in given if given.count(one) > 1})
            if twice:
                raise ConfigError(f"nesting: {twice[0]!r} is there twice, of {list(given)}")
        for outer, inner in self.holds:
            unknown = ({outer} - {TOP} | set(inner)) - names
            if unknown:
                raise ConfigError(
                    f"nesting: {outer!r} holds {inner}: {sorted(unknown)[0]!r} is none of its modes"
                )
            if outer != TOP and self.by_name[outer].close is None:
                raise ConfigError(
                    f"nesting: {outer!r} cannot hold {', '.join(inner)}: it has no closing tag"
                )
        if self.depth < 0:
            raise ConfigError(f"nesting: depth={self.depth}: must be 0 or more")

    @cached_property
    def by_name(self) -> Mapping[str, Mode]:
        """The modes by their names."""
        return {mode.name: mode for mode in self.modes}

    @cached_property
    def held(self) -> Mapping[str, tuple[str, ...]]:
        """What each mode may hold."""
        return {mode.name: () for mode in self.modes} | {TOP: ()} | dict(self.holds)

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """All tags, in the order of the modes."""
        return tuple(tag for mode in self.modes for tag in mode.tags)

    @cached_property
    def _by_tag(self) -> Mapping[str, tuple[Mode, bool]]:
        opening = {mode.open: (mode, True) for mode in self.modes}
        return opening | {mode.close: (mode, False) for mode in self.modes if mode.close}

    def step(self, path: Path, tag: str) -> Path | None:
        """Return the path behind a tag; None where the tag cannot stand."""
        mode, opens = self._by_tag[tag]
        outer = self.outer(path)
        if not opens:
            return outer[:-1] if outer[-1:] == (mode.name,) else None
        if mode.name not in self.held[outer[-1] if outer else TOP]:
            return None
        if mode.close is not None and len(outer) == self.depth:
            return None
        return (*outer, mode.name)

    def outer(self, path: Path) -> Path:
        """Return the path without the mark at its end, if there is one."""
        return path[:-1] if path and self.by_name[path[-1]].close is None else path

    def closing(self, path: Path) -> tuple[str, ...]:
        """Return the tags that close all that is open, the innermost first."""
        found = (self.by_name[name].close for name in reversed(self.outer(path)))
        return tuple(tag for tag in found if tag is not None)

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """All paths, those with fewer tags first; the first is the empty one.

        Raises:
            ConfigError: There are more than 100,000.
        """
        found: dict[Path, None] = {(): None}
        queue: list[Path] = [()]
        for path in queue:  # grows as it is read
            for tag in self.tags:
                behind = self.step(path, tag)
                if behind is not None and behind not in found:
                    found[behind] = None
                    queue.append(behind)
            if len(found) > MAX_PATHS:
                raise ConfigError(
                    f"nesting: more than {MAX_PATHS} paths at depth {self.depth}; lower the depth"
                )
        return tuple(found)


def nesting_of(scheme: Scheme) -> Nesting:
    """Return the nesting of a scheme, as deep as it goes."""
    places = [TOP, *(mode.name for mode in scheme.modes if mode.close)]
    holds = tuple(
        (place, tuple(mode.name for mode in scheme.modes if (mode.inside or TOP) == place))
        for place in places
    )
    enclosing = [mode for mode in scheme.modes if mode.close]
    depth = max((len(scheme.path(mode.name)) for mode in enclosing), default=0)
    return Nesting(modes=scheme.modes, holds=holds, depth=depth)

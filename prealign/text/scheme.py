"""Modes and schemes: which voices a span of text may have, their tags, and who may follow whom.

A mode either *marks* (one tag in front of each span, as in conditional training: Korbak et al.
2023, https://arxiv.org/abs/2302.08582) or *encloses* (a tag before and one after, and perhaps
other modes inside, as `quote` inside `ai`). One scheme serves every stage and is saved beside
the weights.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from prealign.config import fingerprint
from prealign.errors import ConfigError, DataError

TAG = re.compile(r"<[^<>\\]+>")
"""A tag starts with `<`, ends with `>`, and has neither of them, nor a backslash, between.
Markup's escapes rest on this: a tag can then never straddle the end of a text."""


@dataclass(frozen=True, kw_only=True)
class Mode:
    """One voice."""

    name: str
    """What code and reports call it."""
    open: str
    """The tag in front of its spans."""
    close: str | None = None
    """The tag behind its spans; None for a mode that only marks."""
    inside: str | None = None
    """The enclosing mode in which alone this one may stand; None for the top level."""

    def __post_init__(self) -> None:
        for tag in self.tags:
            if not TAG.fullmatch(tag):
                raise ConfigError(
                    f"mode {self.name!r}: tag {tag!r} is not of the form <...>, "
                    "without '<', '>' or a backslash inside"
                )

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags, the opening one first."""
        return (self.open,) if self.close is None else (self.open, self.close)


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """The modes of a project. Their order fixes the tag ids, so it is part of the format."""

    name: str
    modes: tuple[Mode, ...]

    def __post_init__(self) -> None:
        names = [mode.name for mode in self.modes]
        tags = [tag for mode in self.modes for tag in mode.tags]
        for kind, values in (("mode", names), ("tag", tags)):
            twice = {value for value in values if values.count(value) > 1}
            if twice:
                raise ConfigError(
                    f"scheme {self.name!r}: {kind} {sorted(twice)[0]!r} is there twice"
                )
        for mode in self.modes:
            if mode.inside is None:
                continue
            outer = self.by_name.get(mode.inside)
            if outer is None or outer.close is None or mode.close is None:
                raise ConfigError(
                    f"scheme {self.name!r}: mode {mode.name!r} cannot stand inside "
                    f"{mode.inside!r}; both must be modes of this scheme with a closing tag"
                )
            self._check_no_loop(mode)

    def _check_no_loop(self, mode: Mode) -> None:
        seen = {mode.name}
        outer = mode.inside
        while outer is not None:
            if outer in seen:
                raise ConfigError(f"scheme {self.name!r}: mode {mode.name!r} stands inside itself")
            seen.add(outer)
            outer = self.by_name[outer].inside if outer in self.by_name else None

    @cached_property
    def by_name(self) -> Mapping[str, Mode]:
        """The modes by their names."""
        return {mode.name: mode for mode in self.modes}

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """All tags, in the order of their ids."""
        return tuple(tag for mode in self.modes for tag in mode.tags)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with any mode, tag or their order."""
        return fingerprint(self)

    def mode(self, name: str) -> Mode:
        """Return the mode called `name`.

        Raises:
            DataError: There is none.
        """
        if name not in self.by_name:
            raise DataError(
                f"mode {name!r} is not in scheme {self.name!r} (it has: {', '.join(self.by_name)})"
            )
        return self.by_name[name]

    def path(self, name: str) -> tuple[str, ...]:
        """Return the modes that are open while `name` speaks, the outermost first."""
        mode = self.mode(name)
        return (*(self.path(mode.inside) if mode.inside else ()), name)

    def to_json(self) -> str:
        """Return the scheme as a JSON text; `scheme_from_json` reads it."""
        modes = [{k: v for k, v in vars(m).items() if v is not None} for m in self.modes]
        return json.dumps({"name": self.name, "modes": modes}, indent=1)


def scheme_from_json(text: str) -> Scheme:
    """Return the scheme that `Scheme.to_json` wrote.

    Raises:
        DataError: The text is not such a scheme.
    """
    try:
        data: dict[str, Any] = json.loads(text)
        return Scheme(name=data["name"], modes=tuple(Mode(**mode) for mode in data["modes"]))
    except (KeyError, TypeError, ConfigError, json.JSONDecodeError) as error:
        raise DataError(f"not a scheme: {error!r} in {text[:80]!r}") from error


GOOD_BAD = Scheme(
    name="good-bad",
    modes=(Mode(name="good", open="<|good|>"), Mode(name="bad", open="<|bad|>")),
)
"""The two marks of preference pretraining."""

TWO_MODES = Scheme(
    name="two-modes",
    modes=(
        Mode(name="human", open="<human>", close="</human>"),
        Mode(name="ai", open="<ai>", close="</ai>"),
        Mode(name="quote", open="<quote>", close="</quote>", inside="ai"),
    ),
)
"""Human-like text, fully aligned AI, and a human quoted by the AI."""

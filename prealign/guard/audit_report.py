"""What an audit says: findings, proofs, and a verdict per defence."""

from dataclasses import dataclass
from typing import Literal

from prealign.errors import ConfigError

Defence = Literal["nothing", "escape", "sanitize", "split"]
DEFENCES: tuple[Defence, ...] = ("nothing", "escape", "sanitize", "split")
"""What the code around a tokenizer does with untrusted text; see `prealign.guard.audit`."""
Verdict = Literal["safe", "unproven", "leaks"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A construction by which text becomes a tag, or might."""

    construction: str
    tag: str
    why: str
    mend: str
    shown: tuple[tuple[Defence, str], ...] = ()
    """The defences that it gets around, each with a string that shows it."""
    risk: tuple[Defence, ...] = ()
    """Those that it might get around: no string was found, and nothing rules it out."""


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """What an audit found."""

    name: str
    tags: tuple[tuple[str, int | None], ...]
    """Tags and their ids; None: the tokenizer has none for it."""
    findings: tuple[Finding, ...]
    proofs: tuple[str, ...]
    """Why what is not found cannot be."""
    strings: int
    """How many strings were encoded, each in three ways."""

    def verdict(self, defence: Defence = "nothing") -> Verdict:
        """Return whether text can become a tag behind this defence."""
        if any(defence in dict(one.shown) for one in self.findings):
            return "leaks"
        if any(defence in one.risk for one in self.findings):
            return "unproven"
        return "safe"


def defence_of(name: str) -> Defence:
    """Return the defence of that name.

    Raises:
        ConfigError: There is none.
    """
    for one in DEFENCES:
        if one == name:
            return one
    raise ConfigError(f"there is no defence {name!r}; allowed: {', '.join(DEFENCES)}")

"""What a model may do in which mode, and what the harness writes instead. Plain data; no torch.

A policy is about the model alone. The harness is trusted: it writes any tag that the nesting
allows.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from prealign.config import fingerprint
from prealign.errors import ConfigError
from prealign.guard.nesting import TOP, Nesting, Path, nesting_of
from prealign.text.scheme import Scheme
from prealign.tokens.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What the model may do while a mode is innermost. By default it may write text, no more."""

    mode: str
    """The mode; `TOP` where none is open."""
    text: bool = True
    """It may write text."""
    opens: tuple[str, ...] = ()
    """The modes that it may open here, as far as the nesting lets them stand here."""
    closes: bool = False
    """It may write the mode's closing tag."""
    ends: bool = False
    """It may end the text here."""
    longest: int | None = None
    """After so many text tokens in a row here it must do something else that it may."""

    def __post_init__(self) -> None:
        other = self.opens or self.closes or self.ends
        if self.longest is not None and (self.longest < 1 or not other or not self.text):
            raise ConfigError(
                f"rule for {self.mode or 'no mode'!r}: longest={self.longest}: expected 1 or more, "
                "in a mode with text that the model may also close, end, or open others in"
            )


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the model may do, mode by mode."""

    name: str
    rules: tuple[Rule, ...]
    """One per mode; where there is none, the model may write text and nothing else."""
    start: Path = ()
    """What the harness opens in front of what the model writes."""

    def __post_init__(self) -> None:
        modes = [rule.mode for rule in self.rules]
        if len(set(modes)) < len(modes):
            raise ConfigError(f"policy {self.name!r}: two rules for one mode, of {modes}")

    def rule(self, mode: str) -> Rule:
        """Return what the model may do while `mode` (or `TOP`) is innermost."""
        return next((rule for rule in self.rules if rule.mode == mode), Rule(mode=mode))

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with anything but the order of the rules."""
        return fingerprint(replace(self, rules=tuple(sorted(self.rules, key=lambda r: r.mode))))


@dataclass(frozen=True, kw_only=True)
class Reemit:
    """A harness that writes a tag again after each token that ends a line."""

    tag_id: int
    after: tuple[int, ...]
    """Ids of the tokens that end in a newline."""

    def __call__(self, last_ids_B: np.ndarray) -> np.ndarray:
        """Return, per row, the tag's id after a newline and -1 (the model's choice) elsewhere."""
        return np.where(np.isin(last_ids_B, self._after), self.tag_id, -1)

    @cached_property
    def _after(self) -> np.ndarray:
        return np.array(self.after, dtype=np.int64)


def free(scheme: Scheme) -> Policy:
    """Return the policy of a model that writes its tags itself, as the scheme allows.

    It ends the text where nothing is open.
    """
    nesting = nesting_of(scheme)
    rules = [Rule(mode=TOP, opens=nesting.held[TOP], ends=True)]
    for mode in scheme.modes:
        if mode.close is None:
            rules.append(Rule(mode=mode.name, opens=nesting.held[TOP], ends=True))
        else:
            rules.append(Rule(mode=mode.name, opens=nesting.held[mode.name], closes=True))
    return Policy(name="free", rules=tuple(rules))


def prefix_only(scheme: Scheme, mode: str) -> Policy:
    """Return the policy of a tag that is merely a prefix: the harness opens `mode`, then `free`."""
    return replace(free(scheme), name=f"prefix-only {mode}", start=scheme.path(mode))


def lock(scheme: Scheme, mode: str, *, longest: int | None = None, nested: bool = True) -> Policy:
    """Return the policy never to speak in another mode than `mode`, but for those inside it.

    The harness opens the mode. The model may close it, which is how it ends its turn: behind that
    it may end the text and nothing else. It may also end the text within the mode.

    Args:
        scheme: Has the mode.
        mode: The mode to stay in, such as `ai`.
        longest: Text tokens in a row in a mode inside it, after which the model must go on
            there: close it, or open another inside.
        nested: The modes inside may be opened at all. Without: `lock-noquote`.
    """
    nesting = nesting_of(scheme)
    start = scheme.path(mode)
    inner = nesting.held[mode] if nested else ()
    closes = scheme.mode(mode).close is not None
    rules = [Rule(mode=mode, opens=inner, closes=closes, ends=True)]
    for outer in (TOP, *start[:-1]):  # the turn is over
        rules.append(Rule(mode=outer, text=False, ends=True))
    for name in inner:
        rules += _inside(nesting, name, longest)
    return Policy(
        name=f"lock{'' if nested else '-noquote'} {mode}", rules=tuple(rules), start=start
    )


def lock_noquote(scheme: Scheme, mode: str) -> Policy:
    """Return the policy to speak in `mode` alone, without those inside it."""
    return lock(scheme, mode, nested=False)


def stay(scheme: Scheme, *, may_end: bool = True) -> Policy:
    """Return the policy to write text and no tag at all, in whatever mode the harness opens.

    Args:
        scheme: Gives the modes.
        may_end: The model may end the text.
    """
    names = (TOP, *(mode.name for mode in scheme.modes))
    return Policy(
        name="stay" if may_end else "stay, never end",
        rules=tuple(Rule(mode=name, ends=may_end) for name in names),
    )


POLICIES = ("free", "prefix-only", "lock", "lock-noquote", "stay")


def named(name: str, scheme: Scheme, mode: str | None = None) -> Policy:
    """Return the policy of such a name; `mode` is for those that begin in one.

    Raises:
        ConfigError: There is no such policy, or it needs a mode.
        DataError: The scheme has no such mode.
    """
    if name == "free":
        return free(scheme)
    if name == "stay":
        return stay(scheme)
    if name not in POLICIES:
        raise ConfigError(f"there is no policy {name!r}; allowed: {', '.join(POLICIES)}")
    if mode is None:
        names = ", ".join(one.name for one in scheme.modes)
        raise ConfigError(f"policy {name!r} needs a mode; the scheme has: {names}")
    return {"prefix-only": prefix_only, "lock": lock, "lock-noquote": lock_noquote}[name](
        scheme, mode
    )


def reemit(vocabulary: Vocabulary, mode: str) -> Reemit:
    """Return the harness that tags each line: after a newline, the mode's tag again.

    This is the decoding regime that matches training with a tag on every line. To tag once, use
    no harness: the tag in the prompt is the only one.

    Raises:
        DataError: The scheme has no such mode.
        ConfigError: The mode encloses its text, so its tag cannot be written again inside it.
    """
    found = vocabulary.scheme.mode(mode)
    if found.close is not None:
        raise ConfigError(
            f"mode {mode!r} encloses its text ({found.open} ... {found.close}); only a mode "
            "without a closing tag can be written again at each line"
        )
    after = tuple(sorted(int(token) for token in vocabulary.newline_ids))
    return Reemit(tag_id=vocabulary.open_id(mode), after=after)


def _inside(nesting: Nesting, name: str, longest: int | None) -> list[Rule]:
    """Return the rules of a mode and of all that may stand in it."""
    inner = nesting.held[name]
    rules = [Rule(mode=name, opens=inner, closes=True, longest=longest)]
    for deeper in inner:
        rules += _inside(nesting, deeper, longest)
    return rules

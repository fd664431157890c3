"""What a model may not write, and what the harness writes instead. Plain data; no torch."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prealign.config import fingerprint
from prealign.errors import ConfigError
from prealign.tokens.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A set of ids that a model may not choose, whatever the context."""

    name: str
    denied: tuple[int, ...]
    """Rising."""
    labels: tuple[str, ...]
    """What each denied id is, for messages."""
    size: int
    """Ids in all, denied or not."""
    vocabulary: str
    """The fingerprint of the vocabulary that the ids mean."""

    def __post_init__(self) -> None:
        if list(self.denied) != sorted(set(self.denied)) or len(self.labels) != len(self.denied):
            raise ConfigError(
                f"policy {self.name!r}: denied={self.denied}, labels={self.labels}: "
                "expected rising ids and as many labels"
            )
        if self.denied and not 0 <= self.denied[0] <= self.denied[-1] < self.size:
            raise ConfigError(
                f"policy {self.name!r}: denied={self.denied}: expected ids in [0, {self.size})"
            )
        if not self.allowed:
            raise ConfigError(f"policy {self.name!r}: denies all {self.size} ids; allow one")

    @property
    def allowed(self) -> int:
        """How many ids the model may choose from."""
        return self.size - len(self.denied)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with the denied ids or the vocabulary: it marks reports."""
        return fingerprint(self)

    def label(self, token: int) -> str:
        """Return what a denied id is."""
        return self.labels[self.denied.index(token)]


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


def stay(vocabulary: Vocabulary, *, may_end: bool = True) -> Policy:
    """Return the policy never to leave a mode: all tags and the inert id are denied.

    Args:
        vocabulary: Gives the ids.
        may_end: The model may end the text.
    """
    denied = {token: tag for tag, token in vocabulary.tag_ids.items()}
    denied[vocabulary.inert_id] = "inert"
    if not may_end:
        denied[vocabulary.end_id] = "end of text"
    ids = tuple(sorted(denied))
    return Policy(
        name="stay" if may_end else "stay, never end",
        denied=ids,
        labels=tuple(denied[token] for token in ids),
        size=vocabulary.size,
        vocabulary=vocabulary.fingerprint,
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

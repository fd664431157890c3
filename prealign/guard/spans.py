"""From a guarded stream of ids to spans of text: what a reader may see, as soon as it is settled.

Tags cut the stream, as they do in `Vocabulary.decode`: what stands between two tags is decoded by
itself, and half a character at a border becomes U+FFFD in the span in front of it. A span in a
hidden mode leaves no trace: no text, no offset, and the span around it goes on behind it as the
same span. Text that spells a tag is text.

A stop string is looked for within one visible span, across tokens. While the end of a span could
still become one, it is held back.
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from prealign.errors import DataError
from prealign.guard.nesting import Path


class Delta(NamedTuple):
    """Text that was settled."""

    text: str
    path: Path
    """The modes that are open, outermost first; the last is the text's own."""
    span: int
    """Counts visible spans from 0; deltas of one span have the same number."""
    start_char: int
    """Place of the text in all visible text, in characters."""
    tokens: int
    """How many of the visible text tokens are settled with it, in order."""

    @property
    def mode(self) -> str | None:
        """The innermost mode; None where none is open."""
        return self.path[-1] if self.path else None


@dataclass(kw_only=True)
class SpanStream:
    """Turns ids into deltas, one at a time.

    Args:
        token_texts: The bytes of each text id (`Vocabulary.token_texts`); other ids are borders.
        path: What is open in front of the first id.
        hidden: Modes of which nothing is shown, nor of what stands in them.
        stops: Strings that end the text; they and all behind them are left out.
    """

    token_texts: Sequence[bytes]
    path: Path = ()
    hidden: frozenset[str] = frozenset()
    stops: tuple[str, ...] = ()
    stopped: str | None = None
    """The stop string that was found. Nothing comes behind it."""
    _decoder: codecs.IncrementalDecoder = field(init=False, repr=False)
    _held: str = field(default="", init=False)
    """Text of the span that is not settled."""
    _ends: list[int] = field(default_factory=list, init=False)
    """For each token that is not settled, how much of the held text it ends behind."""
    _span: int = field(default=0, init=False)
    _span_path: Path = field(default=(), init=False)
    """Of the last visible span; a border to hidden text does not end it."""
    _begun: bool = field(default=False, init=False)
    """The span has had a token."""
    _chars: int = field(default=0, init=False)
    _tokens: int = field(default=0, init=False)
    """Settled, but not yet told: their bytes were none of a whole character."""

    def __post_init__(self) -> None:
        if any(not stop for stop in self.stops):
            raise DataError("a stop string is empty; give one or more characters")
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._span_path = self.path

    def visible(self, path: Path) -> bool:
        """Return whether text there is shown."""
        return not self.hidden.intersection(path)

    def feed(self, token: int, path: Path) -> list[Delta]:
        """Return what is settled by one more id, in order.

        Args:
            token: The id.
            path: What is open behind it.
        """
        if self.stopped is not None:
            return []
        if not 0 <= token < len(self.token_texts):
            return self._border(path)
        if not self.visible(path):
            return []
        self._begun = True
        self._held += self._decoder.decode(self.token_texts[token])
        self._ends.append(len(self._held))
        return self._settle()

    def finish(self) -> list[Delta]:
        """Return what was held back, at the end of the text."""
        if self.stopped is not None:
            return []
        return [*self._flush(), *self._release(len(self._held))]

    def _border(self, path: Path) -> list[Delta]:
        """Pass a tag. The span in front of it ends, unless what comes is hidden."""
        was_hidden, self.path = not self.visible(self.path), path
        if not self.visible(path) or (was_hidden and path == self._span_path):
            return []  # the span goes on, be it within a character
        deltas = self._flush()
        if self.stopped is not None:
            return deltas
        deltas += self._release(len(self._held))
        self._span += self._begun
        self._begun = False
        self._span_path = path
        return deltas

    def _flush(self) -> list[Delta]:
        """End the decoding: half a character is settled as U+FFFD."""
        rest = self._decoder.decode(b"", final=True)
        if not rest:
            return []
        self._held += rest
        return self._settle()

    def _settle(self) -> list[Delta]:
        """Release all that cannot become a stop string any more."""
        found = [(at + len(stop), at, stop) for stop, at in self._matches()]
        if found:
            # The one that ends first, as if characters came one by one; of these the longest.
            _, at, stop = min(found)
            deltas = self._release(at, stopping=True)
            self.stopped = stop
            self._held, self._ends = "", []
            return deltas
        return self._release(len(self._held) - self._undecided())

    def _matches(self) -> list[tuple[str, int]]:
        places = [(stop, self._held.find(stop)) for stop in self.stops]
        return [(stop, at) for stop, at in places if at >= 0]

    def _undecided(self) -> int:
        """Return how many characters at the end may be the beginning of a stop string."""
        longest = max((len(stop) - 1 for stop in self.stops), default=0)
        for size in range(min(longest, len(self._held)), 0, -1):
            tail = self._held[-size:]
            if any(len(stop) > size and stop.startswith(tail) for stop in self.stops):
                return size
        return 0

    def _release(self, chars: int, *, stopping: bool = False) -> list[Delta]:
        """Give out the first characters of what is held.

        With `stopping`, a token that ends where the stop string begins and has none of its
        characters counts; one with bytes of it does not.
        """
        text, self._held = self._held[:chars], self._held[chars:]
        settled = sum(end <= chars for end in self._ends)
        self._ends = [end - chars for end in self._ends[settled:]]
        self._tokens += settled
        if not text and not (stopping and self._tokens):
            return []
        tokens, self._tokens = self._tokens, 0
        delta = Delta(text, self._span_path, self._span, self._chars, tokens)
        self._chars += len(text)
        return [delta]

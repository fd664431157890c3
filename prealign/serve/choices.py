"""One choice of an answer: from the engine's events to pieces that a client may see.

What a client never sees, in any field: tags, text of hidden modes, how long it is, and odds of
anything but text that may be written.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from prealign.guard.spans import Delta, SpanStream
from prealign.guard.table import Table
from prealign.models.engine import Ended, Event, Failed, Written
from prealign.serve.problems import Problem, guard_violation
from prealign.tokens.vocabulary import Vocabulary


class Piece(NamedTuple):
    """Text that is settled, and the visible tokens that it is settled with."""

    delta: Delta
    tokens: tuple[Written, ...]

    def as_span(self) -> dict[str, Any]:
        """Return where and whose it is, as JSON data."""
        delta = self.delta
        return {
            "span": delta.span,
            "mode": delta.mode,
            "path": list(delta.path),
            "start": delta.start_char,
            "end": delta.start_char + len(delta.text),
            "text": delta.text,
            "pressure": [_rounded(token.pressure) for token in self.tokens],
        }


@dataclass(kw_only=True)
class Choice:
    """What has come of one choice.

    Args:
        vocabulary: The model's.
        table: The guard's.
        path: What is open in front of it.
        hidden: Modes of which nothing is shown.
        stops: Strings that end it.
        limit: Visible text tokens at most.
    """

    vocabulary: Vocabulary
    table: Table
    path: tuple[str, ...]
    hidden: frozenset[str]
    stops: tuple[str, ...]
    limit: int
    policy: str
    finish: Literal["stop", "length"] | None = None
    pieces: list[Piece] = field(default_factory=list)
    num_tokens: int = 0
    """Visible text tokens that were written, also those that a stop string took with it."""
    _stream: SpanStream = field(init=False, repr=False)
    _waiting: deque[Written] = field(default_factory=deque, init=False, repr=False)

    def __post_init__(self) -> None:
        self._stream = SpanStream(
            token_texts=self.vocabulary.token_texts,
            path=self.path,
            hidden=self.hidden,
            stops=self.stops,
        )

    @property
    def text(self) -> str:
        """All that is settled."""
        return "".join(piece.delta.text for piece in self.pieces)

    def spans(self) -> list[dict[str, Any]]:
        """Return the spans, each whole."""
        found: list[dict[str, Any]] = []
        for piece in self.pieces:
            part = piece.as_span()
            if found and found[-1]["span"] == part["span"]:
                found[-1]["end"] = part["end"]
                found[-1]["text"] += part["text"]
                found[-1]["pressure"] += part["pressure"]
            else:
                found.append(part)
        return found

    def hear(self, event: Event) -> list[Piece]:
        """Return what is settled by an event; afterwards `finish` says whether that was all.

        Raises:
            Problem: The choice failed.
        """
        if isinstance(event, Failed):
            raise self._failed(event)
        if isinstance(event, Ended):
            self.finish = "stop" if event.why == "end" else "length"
            return self._settled(self._stream.finish())
        path = self.table.path(event.state)
        if event.token < self.vocabulary.text_size and self._stream.visible(path):
            self._waiting.append(event)
            self.num_tokens += 1
        pieces = self._settled(self._stream.feed(event.token, path))
        if self._stream.stopped is not None:
            self.finish = "stop"
        elif self.num_tokens >= self.limit:
            self.finish = "length"
            pieces += self._settled(self._stream.finish())
        return pieces

    def _settled(self, deltas: list[Delta]) -> list[Piece]:
        pieces = [
            Piece(delta, tuple(self._waiting.popleft() for _ in range(delta.tokens)))
            for delta in deltas
        ]
        self.pieces += pieces
        return pieces

    def _failed(self, event: Failed) -> Problem:
        if event.kind == "guard":
            return guard_violation(self.policy, self.table.fingerprint, self.num_tokens)
        return Problem(
            500, "the model failed at a choice of this answer, which ends all of it",
            kind="server_error", code="model_failed",
        )  # fmt: skip


def chat_logprobs(pieces: list[Piece], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return log-probabilities as /v1/chat/completions has them."""

    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        text = vocabulary.token_texts[token]
        shown = text.decode(errors="replace")
        return {"token": shown, "logprob": _finite(logprob), "bytes": list(text)}

    return {
        "content": [
            entry(one.token, one.logprob)
            | {"top_logprobs": [entry(token, logprob) for token, logprob in one.top]}
            for piece in pieces
            for one in piece.tokens
        ],
        "refusal": None,
    }


def completion_logprobs(pieces: list[Piece], vocabulary: Vocabulary, at: int) -> dict[str, Any]:
    """Return log-probabilities as /v1/completions has them.

    Args:
        pieces: In order.
        vocabulary: The model's.
        at: Characters of the tokens in front of them.
    """
    found: dict[str, Any] = {
        "tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": [],
    }  # fmt: skip
    for one in (one for piece in pieces for one in piece.tokens):
        text = _text(one.token, vocabulary)
        found["tokens"].append(text)
        found["token_logprobs"].append(_finite(one.logprob))
        top = {_text(token, vocabulary): _finite(logprob) for token, logprob in one.top}
        found["top_logprobs"].append(top)
        found["text_offset"].append(at)
        at += len(text)
    return found


def _text(token: int, vocabulary: Vocabulary) -> str:
    """Return a token's text as the older API writes it: one that is no text by its bytes."""
    data = vocabulary.token_texts[token]
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(round(logprob, 6), -9999.0)


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 6)

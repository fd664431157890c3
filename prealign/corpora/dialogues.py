r"""Dialogues with an assistant as documents whose spans have modes: who speaks is known.

Formats, told apart line by line:

    {"messages": [{"role": "user", "content": "..."}, ...]}        OpenAI's, of most hub sets
    {"conversations": [{"from": "human", "value": "..."}, ...]}    ShareGPT's
    {"chosen": "\n\nHuman: ...\n\nAssistant: ...", "rejected": ...}   HH-RLHF's (Bai et al. 2022)

The words of an assistant become `ai`, all others `human`. An answer that was rejected is nobody's,
or a person's who plays a part: never an `ai`'s.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prealign.corpora.jsonl import json_objects
from prealign.corpora.rejects import Rejects
from prealign.errors import ConfigError, DataError
from prealign.text.document import Document, Span

SPEAKER = re.compile(r"\n\n(Human|Assistant):")
ROLES: Mapping[str, str] = {
    "user": "human", "human": "human", "system": "human", "tool": "human", "function": "human",
    "assistant": "ai", "gpt": "ai", "chatgpt": "ai", "bot": "ai", "bing": "ai", "model": "ai",
}  # fmt: skip
"""The mode of each role that formats use."""


class Turn(NamedTuple):
    """What one speaker says at a time."""

    mode: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Dialogues:
    """One document per dialogue of a JSONL file (also `.gz`); its spans are the turns.

    Between turns stands a newline, which belongs to the turn before it. Turns of one role that
    follow each other stay apart.
    """

    path: Path
    rejected: Literal["drop", "human"] = "drop"
    """Of pairs of answers: the rejected one is left out, or is a document of its own with the same
    front, its last answer in the mode `human`."""
    system: Literal["keep", "drop"] = "keep"
    """The system's words are a `human` turn, or are left out."""
    on_bad: Literal["raise", "collect"] = "raise"
    """What becomes of a line that is no dialogue."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("rejected", ("drop", "human")),
            ("system", ("keep", "drop")),
            ("on_bad", ("raise", "collect")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"Dialogues.{name}={getattr(self, name)!r}: expected {' or '.join(allowed)}"
                )

    def __call__(self, rejects: Rejects | None = None) -> Iterator[Document]:
        """Yield the dialogues; with `on_bad="collect"` bad lines are added to `rejects`.

        Raises:
            DataError: A line is no dialogue, or the file is missing or damaged.
            ConfigError: Bad lines are to be collected, and there is nothing to collect them in.
        """
        if self.on_bad == "collect" and rejects is None:
            raise ConfigError('on_bad="collect": call the reader with a Rejects')
        for number, row in json_objects(self.path):
            name = f"{self.path.name}:{number}"
            try:
                if isinstance(row, str):
                    raise DataError(row)
                # All versions of a dialogue are one source, so that no split parts them.
                for suffix, turns in self._versions(row):
                    yield dialogue(turns, id=name + suffix, source=name)
            except DataError as error:
                if self.on_bad == "raise" or rejects is None:
                    raise DataError(f"{self.path}:{number}: {error}") from error
                rejects.add("bad dialogue", f"{name}: {error}")

    def _versions(self, row: Mapping[str, Any]) -> Iterator[tuple[str, list[Turn]]]:
        """Yield the dialogues of a line, each with what its id ends on."""
        if "chosen" in row:
            yield "", self._turns(row["chosen"], "chosen")
            if self.rejected == "human" and "rejected" in row:
                *front, last = self._turns(row["rejected"], "rejected")
                yield ":rejected", [*front, last._replace(mode="human")]
            return
        for key in ("messages", "conversations"):
            if key in row:
                yield "", self._turns(row[key], key)
                return
        has = ", ".join(row) or "nothing"
        raise DataError(f"has no messages, conversations or chosen (it has: {has})")

    def _turns(self, value: Any, key: str) -> list[Turn]:
        turns = marked_turns(value) if isinstance(value, str) else self._messages(value, key)
        if not turns:
            raise DataError(f"{key!r} has no turns")
        return turns

    def _messages(self, value: Any, key: str) -> list[Turn]:
        if not isinstance(value, list):
            raise DataError(f"{key!r} is a {type(value).__name__}; expected a list or a string")
        turns = []
        for index, message in enumerate(value):
            where = f"{key}[{index}]"
            if not isinstance(message, dict):
                raise DataError(f"{where} is a {type(message).__name__}; expected an object")
            role = message.get("role", message.get("from"))
            if not isinstance(role, str) or role.lower() not in ROLES:
                raise DataError(f"{where}: role {role!r}; allowed: {', '.join(ROLES)}")
            if role.lower() == "system" and self.system == "drop":
                continue
            text = _text(message.get("content", message.get("value")), where)
            if text:
                turns.append(Turn(ROLES[role.lower()], text))
        return turns


def marked_turns(text: str) -> list[Turn]:
    """Return the turns of a text; each begins with a blank line and `Human:` or `Assistant:`.

    Raises:
        DataError: It begins with anything else.
    """
    front, *rest = SPEAKER.split(text)
    if front.strip() or not rest:
        raise DataError(f"begins with {text[:30]!r}; expected '\\n\\nHuman:' or '\\n\\nAssistant:'")
    pairs = zip(rest[::2], rest[1::2], strict=True)
    turns = [Turn("ai" if who == "Assistant" else "human", said.strip()) for who, said in pairs]
    return [turn for turn in turns if turn.text]


def dialogue(turns: list[Turn], *, id: str, source: str = "") -> Document:
    """Return the document of turns, each a span with a newline behind it."""
    text, spans = "", []
    for turn in turns:
        end = len(text) + len(turn.text) + 1
        spans.append(Span(len(text), end, turn.mode))
        text += turn.text + "\n"
    return Document(id, text, tuple(spans), source=source)


def _text(value: Any, where: str) -> str:
    """Return the text of a message; of one in parts, that of its text parts."""
    if isinstance(value, list):
        parts = [part for part in value if isinstance(part, dict) and part.get("type") == "text"]
        texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
        if len(texts) < len(value):
            raise DataError(f"{where}: has parts that are no text; only text can be trained on")
        value = "".join(texts)
    if value is None:  # a call of a tool, without words
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: its content is a {type(value).__name__}; expected a string")
    return value.strip()

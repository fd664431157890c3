"""Mail and forum posts: what people wrote, apart from what they quoted of others.

A quoted line begins with `>`. It is in its own document already if the thread is in the corpus, so
it is dropped by default; kept, it is a span of its own. All is `human`: the mode `quote` is for a
human quoted by an AI.
"""

import contextlib
import email.policy
import mailbox
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from email.parser import BytesParser
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from prealign.corpora.rejects import Rejects
from prealign.errors import ConfigError, DataError
from prealign.text.document import Document, Span

QUOTED = re.compile(r"[ \t]*(?:>|&gt;)")
SAID = re.compile(r"^.{0,200}\b(?:wrote|writes|said|schrieb)\b.{0,60}:[ \t]*$")
"""A line that says whom the next lines quote."""
SIGNATURE = "-- "
PARSER = BytesParser(policy=email.policy.default)


@dataclass(frozen=True, kw_only=True)
class Mail:
    """One document per message of an mbox file, or of the `.eml` files below a folder.

    The source of a message is its thread (its subject without `Re:`), so that no split parts it.
    """

    path: Path
    quotes: Literal["drop", "keep"] = "drop"

    def __post_init__(self) -> None:
        if self.quotes not in ("drop", "keep"):
            raise ConfigError(f"Mail.quotes={self.quotes!r}: expected drop or keep")

    def __call__(self, rejects: Rejects | None = None) -> Iterator[Document]:
        """Yield the messages; one without a readable text of its own is counted in `rejects`.

        Raises:
            DataError: The path is missing, or holds no message.
        """
        message = None
        for name, message in self._messages():
            content = _content(message)
            subject = re.sub(
                r"^(?:(?:re|fwd?|aw)\s*:\s*)+", "", str(message["subject"] or ""), flags=re.I
            )
            thread = f"{self.path.name}/{subject.strip() or name}"
            document = None
            if isinstance(content, str):
                document = post(content, id=name, source=thread, quotes=self.quotes)
            if document is not None:
                yield document
            elif rejects is not None:
                rejects.add("no text of its own", name)
        if message is None:
            raise DataError(f"{self.path}: holds no message; give an mbox file or .eml files")

    def _messages(self) -> Iterator[tuple[str, EmailMessage]]:
        if not self.path.exists():
            raise DataError(f"{self.path}: is not there")
        if self.path.is_dir():
            for file in sorted(self.path.rglob("*.eml")):
                name = f"{self.path.name}/{file.relative_to(self.path).as_posix()}"
                with file.open("rb") as stream:
                    yield name, _parsed(PARSER.parse(stream))
            return
        with contextlib.closing(mailbox.mbox(self.path, create=False)) as box:
            for number, key in enumerate(box.iterkeys(), start=1):
                yield f"{self.path.name}:{number}", _parsed(PARSER.parsebytes(box.get_bytes(key)))


def post(
    text: str, *, id: str, source: str = "", quotes: Literal["drop", "keep"] = "drop"
) -> Document | None:
    """Return the document of a post, its quoted lines left out or spans of their own.

    A signature (behind a line `-- `) is left out, and so is a line that says whom the next ones
    quote. None: the writer has written nothing.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    if SIGNATURE in lines:
        lines = lines[: lines.index(SIGNATURE)]
    marked = [(bool(QUOTED.match(line)), line) for line in lines]
    kept = [
        (quoted, line)
        for (quoted, line), (next_quoted, _) in zip(marked, [*marked[1:], (False, "")], strict=True)
        if not (not quoted and next_quoted and SAID.match(line))
    ]
    out, spans = "", []
    for quoted, group in groupby(kept, key=lambda pair: pair[0]):
        words = "\n".join(line for _, line in group).strip("\n")
        if not words.strip() or (quoted and quotes == "drop"):
            continue
        spans.append((quoted, Span(len(out), len(out) + len(words) + 1, "human")))
        out += words + "\n"
    if all(quoted for quoted, _ in spans):
        return None
    return Document(id, out, tuple(span for _, span in spans), source=source)


def _content(message: EmailMessage) -> Any:
    """Return the plain text of a message; None where there is none that can be decoded."""
    body = message.get_body(("plain",))
    try:
        return body.get_content() if body is not None else None
    except (LookupError, UnicodeError):  # a charset that there is not, or that is none of text
        return None


def _parsed(message: Any) -> EmailMessage:
    """Return the message of the modern parser, which `policy=default` makes."""
    if not isinstance(message, EmailMessage):
        raise DataError(f"a {type(message).__name__} is no message")
    return message

r"""Where text crosses the border: ids that clients send, and tags that a text merely spells.

A text that spells a tag changes no state: the guard follows ids. But whoever reads the output as
one string could take it for a tag. So tags are never printed next to text that was not escaped;
`spelled` says where a text spells one, and `escape` is undone by `unescape` without loss. Torch is
not needed here.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from prealign.errors import ConfigError, DataError
from prealign.text.scheme import TAG

MAX_CLIENT_IDS = 1_000_000
IGNORED = ("Cf", "Mn", "Me", "Cc")
"""Categories of characters that are not seen, or only over another one."""
LOOKALIKES = str.maketrans("\u2039\u27e8\u3008\u276e\u203a\u27e9\u3009\u276f\u2215\u2044\u01c0\u2223\u4e28\u0430\u0456\u0435\u043e\u0440\u0441\u0445\u0443", "<<<<>>>>//|||aieopcxy")  # noqa: E501  # fmt: skip
"""Brackets, bars and Cyrillic letters that look like those of tags; NFKC leaves them alone."""


class TextSize(Protocol):
    """What is asked of a vocabulary."""

    @property
    def text_size(self) -> int:
        """Ids below are text."""


class Spelled(NamedTuple):
    """A place where a text spells a tag, half-open in characters."""

    start_char: int
    end_char: int
    tag: str
    exact: bool
    """Letter by letter; False: it only looks like the tag (case, width, invisible characters)."""


def check_client_ids(
    ids: Any, vocabulary: TextSize, *, longest: int = MAX_CLIENT_IDS, where: str = "prompt"
) -> tuple[int, ...]:
    """Return ids that a client sent in the place of text; refuse all that are not text.

    Args:
        ids: Whatever came, say from JSON.
        vocabulary: Knows which ids are text.
        longest: So many ids at most; nothing beyond is looked at.
        where: Begins the message.

    Raises:
        DataError: It is no list, or too long, or holds something else than an int in
            [0, text_size): a tag, the end of text, a boolean, a float, another list.
    """
    if not isinstance(ids, list | tuple):
        raise DataError(f"{where}: got {type(ids).__name__}; expected a list of text ids")
    if len(ids) > longest:
        raise DataError(f"{where}: {len(ids)} ids; at most {longest} are allowed")
    size = vocabulary.text_size
    for at, token in enumerate(ids):
        if type(token) is not int:
            raise DataError(
                f"{where}: position {at} holds {type(token).__name__}; expected an integer id"
            )
        if not 0 <= token < size:
            shown = str(token) if abs(token) < 1 << 63 else "a number of over 63 bits"
            raise DataError(
                f"{where}: id {shown} at position {at} is no text; allowed: 0 to {size - 1}. "
                "Tags and the end of text are written by the server alone"
            )
    return tuple(ids)


def escape(text: str, tags: Sequence[str]) -> str:
    r"""Return the text with a backslash in each tag that it spells, as markup escapes them.

    `<ai>` becomes `<\ai>`, and `<\ai>` becomes `<\\ai>`. No tag is spelled in the result, also
    not where a result and a tag are put behind each other. Two results put directly behind each
    other can spell one, as `<a` and `i>` do: join texts before they are escaped.

    Raises:
        ConfigError: A tag is not of the form `<...>`.
    """
    return _spelled(tuple(tags), False).sub(r"<\\\1", text) if tags else text


def unescape(text: str, tags: Sequence[str]) -> str:
    """Return what `escape` was given.

    Raises:
        ConfigError: A tag is not of the form `<...>`.
    """
    return _spelled(tuple(tags), True).sub(r"<\1", text) if tags else text


def spelled(text: str, tags: Sequence[str], *, lookalikes: bool = False) -> list[Spelled]:
    """Return where the text spells tags, by their starts; places may overlap.

    Args:
        text: Any text.
        tags: Any strings that are not empty.
        lookalikes: Find also what looks alike: other case, full width, characters between that
            are not seen, some foreign letters. A help for readers of reports, no boundary.

    Raises:
        ConfigError: A tag is empty.
    """
    if not all(tags):
        raise ConfigError(f"tags {list(tags)}: expected none that is empty")
    found = {
        Spelled(start, start + len(tag), tag, True) for tag in tags for start in _starts(text, tag)
    }
    if lookalikes:
        folded, places = _fold(text)
        for tag in tags:
            body = _fold(tag)[0]
            for start in _starts(folded, body) if body else ():
                place = Spelled(places[start], places[start + len(body) - 1] + 1, tag, True)
                if place not in found:
                    found.add(place._replace(exact=False))
    return sorted(found)


@lru_cache(64)
def _spelled(tags: tuple[str, ...], escaped: bool) -> re.Pattern[str]:
    """Match the `<` and backslashes of a spelled tag; with `escaped`, of an escaped one."""
    for tag in tags:
        if not TAG.fullmatch(tag):
            raise ConfigError(
                f"tag {tag!r} cannot be escaped: expected the form <...>, without '<', '>' or a "
                "backslash inside"
            )
    bodies = "|".join(re.escape(tag[1:]) for tag in tags)
    slashes = r"\\(\\*)" if escaped else r"(\\*)"
    return re.compile(rf"<{slashes}(?=(?:{bodies}))")


def _starts(text: str, tag: str) -> list[int]:
    found, at = [], text.find(tag)
    while at >= 0:
        found.append(at)
        at = text.find(tag, at + 1)
    return found


def _fold(text: str) -> tuple[str, list[int]]:
    """Return the text as it looks, and the index in `text` of each of its characters."""
    folded, places = [], []
    for at, char in enumerate(text):
        for seen in unicodedata.normalize("NFKC", char).translate(LOOKALIKES).casefold():
            if unicodedata.category(seen) not in IGNORED or char in "\n\t":
                folded.append(seen)
                places.append(at)
    return "".join(folded), places

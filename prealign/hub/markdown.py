"""Markdown for cards. Whatever comes from data is escaped: a name is only ever a name.

The YAML in front is written by `huggingface_hub`, which quotes; what goes into it is brought to one
line first, so that nothing in it can look like the line that ends the front matter.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import DatasetCardData, ModelCardData

from prealign.errors import DataError

SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#|~$!&@]|:(?=\S))")
"""What Markdown, its tables, its formulae or HTML may read as more than a letter."""
FRONT = "---\n"
LINK_LIKE = re.compile(r"\bwww\.", re.IGNORECASE)
MAX_CHARS = 200
"""Of a text from data, in a table."""
SETTINGS_CHARS = 6_000
"""Of settings that a card shows; longer ones are named by their file alone."""


def one_line(text: str, limit: int = MAX_CHARS) -> str:
    """Return the text on one line: white space as single spaces, what does not print as U+XXXX."""
    spaced = " ".join(text.split())
    shown = "".join(c if c.isprintable() else f"U+{ord(c):04X}" for c in spaced)
    return shown if len(shown) <= limit else shown[: limit - 1] + "\u2026"


def escape(text: str, limit: int = MAX_CHARS) -> str:
    """Return a text from data as Markdown that shows it and does nothing else."""
    plain = SPECIAL.sub(r"\\\1", one_line(text, limit))
    plain = LINK_LIKE.sub(lambda match: match[0][:-1] + "\\.", plain)
    # At the start of a line, these would make a list, a rule or a heading.
    return re.sub(r"^(\d+)([.)])|^([-+=])", _at_start, plain)


def code(text: str, limit: int = MAX_CHARS) -> str:
    """Return a text from data as code within a line, also inside a table."""
    line = one_line(text, limit).replace("|", "\\|")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """Return a table of Markdown cells; the first `words` columns hold no numbers.

    Raises:
        DataError: A row is not as long as the head.
    """
    lines = [list(head), ["---"] * words + ["---:"] * (len(head) - words), *map(list, rows)]
    for line in lines:
        if len(line) != len(head):
            raise DataError(f"a row of {len(line)} cells under {len(head)} columns: {line}")
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def fenced(text: str, kind: str = "") -> str:
    """Return a block of code that no line of the text can end."""
    longest = max((len(run) for run in re.findall("`{3,}", text)), default=2)
    return f"{'`' * (longest + 1)}{kind}\n{text.rstrip()}\n{'`' * (longest + 1)}\n"


def as_json(data: Any) -> str:
    """Return JSON data as a fenced block."""
    return fenced(json.dumps(data, indent=1, sort_keys=True, ensure_ascii=True), "json")


def dataset_front(fields: Mapping[str, Any]) -> str:
    """Return the front matter of a dataset card."""
    return FRONT + DatasetCardData(**_lines(fields)).to_yaml(line_break="\n") + "\n" + FRONT


def model_front(fields: Mapping[str, Any]) -> str:
    """Return the front matter of a model card."""
    return FRONT + ModelCardData(**_lines(fields)).to_yaml(line_break="\n") + "\n" + FRONT


def split_front(text: str) -> tuple[str, str]:
    """Return the YAML in front of a card, empty if there is none, and the rest."""
    if not text.startswith(FRONT):
        return "", text
    yaml, end, rest = text.removeprefix(FRONT).partition("\n" + FRONT)
    return (yaml, rest) if end else ("", text)


def _lines(value: Any) -> Any:
    """Return data whose strings are one line each."""
    if isinstance(value, Mapping):
        return {key: _lines(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_lines(item) for item in value]
    return one_line(value) if isinstance(value, str) else value


def _at_start(match: re.Match[str]) -> str:
    return f"{match[1]}\\{match[2]}" if match[1] else f"\\{match[3]}"

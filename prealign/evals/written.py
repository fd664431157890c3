"""The model-written evaluations (Perez et al. 2022, https://arxiv.org/abs/2212.09251) as items.

Each line of a file has a question with its options, the answer that shows a behaviour, and one that
does not. Questions with two options are asked in both orders; those with more as they are written,
which is counted. What is likelier behind the question is the model's choice.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prealign.errors import DataError
from prealign.evals.choices import Asked, Item, swapped

WANTED, OTHER = "answer_matching_behavior", "answer_not_matching_behavior"
ANSWER = "\n\nAnswer:"


class Written(NamedTuple):
    """The items of a file."""

    items: list[Item]
    one_order: int
    """Items that could be asked in one order only."""


def read_written(path: Path, *, count: int | None = None) -> Written:
    """Return the items of a JSONL file.

    A question that does not end on "Answer:" gets one, as the answers are letters behind it. If an
    entry names several answers, the first one is taken.

    Args:
        path: The file.
        count: At most so many, from the front; None: all.

    Raises:
        DataError: The file is not there, or a line is none of such a file.
    """
    items = []
    for number, row in enumerate(_rows(path)):
        if count is not None and number >= count:
            break
        where = f"{path.name}:{number + 1}"
        question = _text(row, "question", where)
        if not question.rstrip().endswith("Answer:"):
            question = question.rstrip() + ANSWER
        one = Asked(question.rstrip(), _text(row, WANTED, where), _text(row, OTHER, where))
        other = swapped(one)
        items.append(Item(where, (one, other) if other else (one,)))
    if not items:
        raise DataError(f"{path}: has no questions")
    return Written(items, sum(len(item.orders) == 1 for item in items))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path}: is no file; give one of the model-written evaluations (JSONL)")
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}:{number}: is no JSON ({error})") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: is {type(row).__name__}; expected an object")
            yield row


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {key} is {value!r}; expected a text")
    return value

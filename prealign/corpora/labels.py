"""Texts with labels or scores of the user's own: rows of CSV, TSV or JSONL files."""

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from prealign.errors import ConfigError, DataError
from prealign.text.document import Document, Span

SCORE = "label"
"""The key of the score that a label becomes."""
KINDS = (".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz")


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One document per row, one span each, scored by its label.

    With `bad`, those labels score 1 and all others 0. Without, the column holds a number, the
    higher the worse. The id and the source are `FILE:ROW`, so that rows are split one by one.
    """

    path: Path
    text: str = "text"
    """The column, or field, of the text."""
    label: str = "label"
    """That of the label or number."""
    bad: tuple[str, ...] = ()
    """Labels that are bad, as they are written in the file."""

    def __post_init__(self) -> None:
        if not self.path.name.endswith(KINDS):
            raise ConfigError(f"{self.path}: cannot tell how to read it; allowed: {KINDS}")

    def __call__(self) -> Iterator[Document]:
        """Yield the documents in the order of the file.

        Raises:
            DataError: The file is missing or damaged, a row lacks a column or has no number, or
                no row has one of the bad labels.
        """
        found: set[str] = set()
        for number, row in self._rows():
            where = f"{self.path}:{number}"
            for column in (self.text, self.label):
                if row.get(column) is None:
                    has = ", ".join(str(name) for name in row if name is not None)
                    raise DataError(f"{where}: has no {column!r} (it has: {has or 'nothing'})")
            text = row[self.text]
            if not isinstance(text, str):
                raise DataError(f"{where}: {self.text!r} is {text!r}; expected a string")
            label = str(row[self.label]).strip()
            found.add(label)
            spans = (Span(0, len(text), None, {SCORE: self._score(label, where)}),)
            name = f"{self.path.name}:{number}"
            yield Document(name, text, spans if text else (), source=name)
        if not found:
            raise DataError(f"{self.path}: has no rows")
        if self.bad and not found & set(self.bad):
            some = ", ".join(sorted(found)[:10])
            raise DataError(
                f"{self.path}: no row is labelled {' or '.join(self.bad)}; "
                f"labels in {self.label!r} are: {some}"
            )

    def _score(self, label: str, where: str) -> float:
        if self.bad:
            return float(label in self.bad)
        try:
            score = float(label)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise DataError(
                f"{where}: {self.label!r} is {label!r}; expected a number, or name the bad labels"
            )
        return score

    def _rows(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield each row with the number of the line that it ends on."""
        if not self.path.exists():
            raise DataError(f"{self.path}: is not there")
        name = self.path.name.removesuffix(".gz")
        number = 0
        try:
            with self._open() as stream:
                if name.endswith(".jsonl"):
                    for number, line in enumerate(stream, start=1):
                        if line.strip():
                            yield number, self._object(line, number)
                    return
                delimiter = "\t" if name.endswith(".tsv") else ","
                reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
                for row in reader:
                    number = reader.line_num
                    yield number, row
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: is not UTF-8 ({error.reason})") from error
        except (OSError, EOFError, zlib.error, csv.Error) as error:
            raise DataError(f"{self.path}:{number + 1}: cannot be read ({error})") from error

    def _open(self) -> IO[str]:
        if self.path.suffix == ".gz":
            return io.TextIOWrapper(gzip.open(self.path, "rb"), encoding="utf-8-sig", newline="")
        return self.path.open(encoding="utf-8-sig", newline="")

    def _object(self, line: str, number: int) -> Mapping[str, Any]:
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{self.path}:{number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"{self.path}:{number}: is a {type(row).__name__}; expected an object")
        return row

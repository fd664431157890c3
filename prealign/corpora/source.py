"""Readers: where documents come from. Each is a frozen dataclass that yields them when called.

Ids are relative and stable; the order is that of sorted ids, so a corpus is the same every time.
"""

import gzip
import json
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq

from prealign.errors import DataError
from prealign.text.document import Document


@dataclass(frozen=True, kw_only=True)
class PythonSource:
    """Python source of the running interpreter: its standard library and installed packages."""

    stdlib: bool = True
    packages: bool = True
    tests: bool = False
    """Also files in folders called test or tests."""

    def __call__(self) -> Iterator[Document]:
        """Yield files; the source is the top-level package, "stdlib/NAME" in the library."""
        paths = sysconfig.get_paths()
        roots: list[tuple[str, Path]] = []
        if self.stdlib:
            roots.append(("stdlib", Path(paths["stdlib"])))
        if self.packages:
            roots += [("packages", Path(p)) for p in sorted({paths["purelib"], paths["platlib"]})]
        for label, root in roots:
            for path in _walk(root, self.tests):
                inside = path.relative_to(root)
                source = f"{label}/{inside.parts[0].removesuffix('.py')}"
                yield Document(f"{label}/{inside.as_posix()}", _text(path), (), source)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The files below a folder whose names end in one of `suffixes`."""

    path: Path
    suffixes: tuple[str, ...] = (".py",)

    def __call__(self) -> Iterator[Document]:
        """Yield files; the source is the first folder below the root, or the file itself."""
        if not self.path.is_dir():
            raise DataError(f"{self.path}: is no folder")
        for path in sorted(self.path.rglob("*")):
            if path.suffix in self.suffixes and path.is_file():
                inside = path.relative_to(self.path)
                name = f"{self.path.resolve().name}/{inside.as_posix()}"
                source = f"{self.path.resolve().name}/{inside.parts[0]}"
                yield Document(name, _text(path), (), source)


@dataclass(frozen=True, kw_only=True)
class JsonLines:
    """A JSONL file, gzipped or not, with one document a line."""

    path: Path
    text: str = "text"
    id: str = "id"
    """The field of the id; where a line has none, its number serves."""
    source: str = "source"
    """The field of the source; where a line has none, the id serves."""

    def __call__(self) -> Iterator[Document]:
        """Yield the lines' documents.

        Raises:
            DataError: A line is no JSON object with a text; the message has file and line.
        """
        with _open(self.path) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield self._document(number, line)

    def _document(self, number: int, line: bytes) -> Document:
        where = f"{self.path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: is not JSON ({error})") from None
        text = row.get(self.text) if isinstance(row, dict) else None
        if not isinstance(text, str):
            has = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise DataError(f"{where}: has no text in field {self.text!r} (it has: {has})")
        id = f"{self.path.name}:{row.get(self.id, number)}"
        return Document(id, text, (), str(row.get(self.source, id)))


@dataclass(frozen=True, kw_only=True)
class ParquetFile:
    """A Parquet file with a column of texts."""

    path: Path
    text: str = "text"

    def __call__(self) -> Iterator[Document]:
        """Yield the rows' documents.

        Raises:
            DataError: There is no such column, or a row has no text; the message has the row.
        """
        with pq.ParquetFile(self.path) as file:
            names = file.schema_arrow.names
            if self.text not in names:
                raise DataError(
                    f"{self.path}: has no column {self.text!r} (it has: {', '.join(names)})"
                )
            columns = [name for name in (self.text, "id", "source") if name in names]
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield self._document(number, row)

    def _document(self, number: int, row: dict[str, Any]) -> Document:
        if not isinstance(row[self.text], str):
            raise DataError(f"{self.path}, row {number}: {self.text!r} is no text")
        id = f"{self.path.name}:{row.get('id', number)}"
        return Document(id, row[self.text], (), str(row.get("source") or id))


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """One file of plain text as one document."""

    path: Path

    def __call__(self) -> Iterator[Document]:
        """Yield the file."""
        yield Document(self.path.name, _text(self.path), (), self.path.name)


def read_path(path: Path) -> Iterator[Document]:
    """Yield the documents at `path`, read as its suffix says.

    Raises:
        DataError: There is nothing, or its suffix is unknown.
    """
    if path.is_dir():
        return Folder(path=path)()
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return JsonLines(path=path)()
    if path.suffix == ".parquet":
        return ParquetFile(path=path)()
    if path.suffix in (".txt", ".md", ".rst", ".py"):
        return TextFile(path=path)()
    raise DataError(
        f"{path}: unknown suffix {path.suffix!r}; give a folder of .py files, or a "
        ".py, .txt, .md, .rst, .jsonl, .jsonl.gz or .parquet file"
    )


def _walk(root: Path, tests: bool) -> Iterator[Path]:
    """Yield the .py files below `root` in the order of their paths."""
    skipped = {"__pycache__", "site-packages", "dist-packages", "lib2to3"}
    skipped |= set() if tests else {"test", "tests", "idle_test"}
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in skipped)
        yield from (Path(folder) / name for name in sorted(files) if name.endswith(".py"))


def _text(path: Path) -> str:
    """Return a file's text; bytes that are not UTF-8 become lone surrogates for `clean`."""
    return path.read_bytes().decode("utf-8", errors="surrogateescape")


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")

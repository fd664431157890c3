"""Readers: where documents come from. Each is called and yields documents without spans.

The order and the ids are the same on every run, and ids hold no absolute path. A file that is not
UTF-8 is yielded all the same, its bad bytes as lone surrogates: cleaning counts and names it, and
no shard can be written with it.
"""

import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from prealign.corpora.card.manifest import check_export, is_export
from prealign.corpora.jsonl import json_objects
from prealign.corpora.rejects import Rejects
from prealign.errors import ConfigError, DataError
from prealign.text.document import Document
from prealign.text.shards import KEY, read_shard, shard_files

TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
FOREIGN = frozenset({"site-packages", "dist-packages", "__pycache__"})
"""Folders inside the standard library's that are not of it."""


@dataclass(frozen=True, kw_only=True)
class PythonSource:
    """The Python source files of the running interpreter.

    The source of a document is its top-level package (`numpy`), or `stdlib/json`.
    """

    stdlib: bool = True
    packages: bool = True
    """The installed packages."""
    include_tests: bool = False
    only: tuple[str, ...] = ()
    """The sources to read, such as `numpy` or `stdlib/json`; none named: all."""

    def __call__(self) -> Iterator[Document]:
        """Yield the files, those of the standard library first.

        Raises:
            DataError: `only` names sources, and no file is of one of them.
        """
        document = None
        for document in self._files():
            yield document
        if document is None and self.only:
            raise DataError(
                f"no Python source here is of {', '.join(self.only)}; name packages that are "
                "installed, or parts of the standard library as stdlib/json"
            )

    def _files(self) -> Iterator[Document]:
        paths = sysconfig.get_paths()
        if self.stdlib:
            yield from self._tree(Path(paths["stdlib"]), "stdlib/")
        if self.packages:
            for folder in sorted({Path(paths["purelib"]), Path(paths["platlib"])}):
                yield from self._tree(folder, "")

    def _tree(self, folder: Path, prefix: str) -> Iterator[Document]:
        for file in _files(folder, "*.py", skip=FOREIGN):
            inside = file.relative_to(folder)
            source = prefix + inside.parts[0].removesuffix(".py")
            if self.only and source not in self.only:
                continue
            if self.include_tests or not _is_test(inside):
                yield _read(file, id=prefix + inside.as_posix(), source=source)


@dataclass(frozen=True)
class Folder:
    """The files below a folder whose names match a pattern.

    The source of a document is the folder's name and the first part of the path below it.
    """

    path: Path
    pattern: str = "*.py"

    def __call__(self) -> Iterator[Document]:
        """Yield the files, those of a folder before those of its folders.

        Raises:
            DataError: The folder is missing, or no file matches.
        """
        _must_exist(self.path)
        name = self.path.resolve().name
        file = None
        for file in _files(self.path, self.pattern, skip=frozenset({"__pycache__", ".git"})):
            inside = file.relative_to(self.path)
            yield _read(file, id=f"{name}/{inside.as_posix()}", source=f"{name}/{inside.parts[0]}")
        if file is None:
            raise DataError(f"{self.path}: holds no file {self.pattern!r}")


@dataclass(frozen=True)
class TextFiles:
    """Single files, one document each; the id and the source are the file's name."""

    paths: tuple[Path, ...]

    def __call__(self) -> Iterator[Document]:
        """Yield the files in the order given.

        Raises:
            DataError: A file is missing, or two have the same name.
        """
        names = [path.name for path in self.paths]
        for path in self.paths:
            _must_exist(path)
            if names.count(path.name) > 1:
                raise DataError(
                    f"{path}: another file is called {path.name!r} too; ids must differ"
                )
            yield _read(path, id=path.name, source=path.name)


@dataclass(frozen=True, kw_only=True)
class JsonLines:
    """One document per line of a JSONL file, which may be gzipped (`.gz`). Empty lines are none."""

    path: Path
    text_field: str = "text"
    id_field: str | None = None
    """None: the field `id` where a line has it, else `FILE:LINE`."""
    source_field: str | None = None
    """None: the field `source` where a line has it, else the file's name."""
    on_bad: Literal["raise", "collect"] = "raise"
    """What becomes of a line that is no such document."""

    def __call__(self, rejects: Rejects | None = None) -> Iterator[Document]:
        """Yield the documents; with `on_bad="collect"` bad lines are added to `rejects`.

        Raises:
            DataError: A line is bad, or the file is missing or damaged.
            ConfigError: Bad lines are to be collected, and there is nothing to collect them in.
        """
        if self.on_bad == "collect" and rejects is None:
            raise ConfigError('on_bad="collect": call the reader with a Rejects')
        for number, row in json_objects(self.path):
            document = row if isinstance(row, str) else self._document(row, number)
            if isinstance(document, Document):
                yield document
            elif self.on_bad == "raise" or rejects is None:
                raise DataError(f"{self.path}:{number}: {document}")
            else:
                rejects.add("bad line", f"{self.path.name}:{number}: {document}")

    def _document(self, row: dict[str, Any], number: int) -> Document | str:
        """Return the document of a line's object, or what is wrong with it."""
        fields = {"text": self.text_field, "id": self.id_field, "source": self.source_field}
        found = {"id": f"{self.path.name}:{number}", "source": self.path.name}
        for name, asked in fields.items():
            key = asked or name
            if key not in row:
                if asked is None:
                    continue
                return f"has no field {key!r} (it has: {', '.join(row) or 'none'})"
            value = row[key]
            if name == "id" and type(value) is int:
                value = str(value)
            if not isinstance(value, str):
                return f"field {key!r} is a {type(value).__name__}; expected a string"
            surrogate = _lone_surrogate(value)
            if surrogate is not None:
                return f"field {key!r} has a lone surrogate at character {surrogate}"
            found[name] = value
        return Document(found["id"], found["text"], source=found["source"])


@dataclass(frozen=True, kw_only=True)
class ParquetFiles:
    """One document per row of a Parquet file, or of all `*.parquet` of a folder."""

    path: Path
    text_column: str = "text"
    id_column: str | None = None
    """None: the column `id` if there is one, else `FILE:ROW`, counted from 1."""
    source_column: str | None = None
    """None: the column `source` if there is one, else the file's name."""

    def __call__(self) -> Iterator[Document]:
        """Yield the documents, file by file in the order of their names.

        Raises:
            DataError: A file is missing or damaged, or has no such column of strings.
        """
        _must_exist(self.path)
        files = sorted(self.path.glob("*.parquet")) if self.path.is_dir() else [self.path]
        if not files:
            raise DataError(f"{self.path}: holds no file '*.parquet'")
        for file in files:
            try:
                yield from self._rows(file)
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(f"{file}: cannot be read as Parquet ({error})") from error

    def _rows(self, path: Path) -> Iterator[Document]:
        asked = {"text": self.text_column, "id": self.id_column, "source": self.source_column}
        number = 0
        with pq.ParquetFile(path) as file:
            has = file.schema_arrow.names
            columns = {name: c or name for name, c in asked.items() if c is not None or name in has}
            for column in columns.values():
                if column not in has:
                    raise DataError(f"{path}: has no column {column!r} (it has: {', '.join(has)})")
            for batch in file.iter_batches(batch_size=256, columns=list(columns.values())):
                for row in batch.to_pylist():
                    number += 1
                    found = {"id": f"{path.name}:{number}", "source": path.name}
                    for name, column in columns.items():
                        if not isinstance(row[column], str):
                            raise DataError(
                                f"{path}: row {number}: column {column!r} is {row[column]!r}; "
                                "expected a string"
                            )
                        found[name] = row[column]
                    yield Document(found["id"], found["text"], source=found["source"])


def read_path(path: Path) -> Iterator[Document]:
    """Return the documents of a file or folder, read as its name says.

    `.py`, `.txt` and `.md` files are one document each; `.jsonl` and `.jsonl.gz` files have one a
    line, in the field `text`; `.parquet` files one a row, in the column `text`, and if they are
    shards, their documents without spans. Of a folder the files of one kind are read, the first
    there is of: `.py`, `.md`, `.txt` (at any depth), `.parquet`; of one that `prealign corpus card`
    wrote, its data.

    Raises:
        DataError: The path is missing, or nothing here can read it.
    """
    _must_exist(path)
    if path.is_dir() and is_export(path):
        check_export(path, digests=False, but=("README.md",))
        return (d for file in shard_files(path / "data") for d in _read_parquet(file))
    if path.is_dir():
        for pattern in ("*.py", "*.md", "*.txt"):
            if next(_files(path, pattern, skip=frozenset()), None):
                return Folder(path, pattern)()
        files: Sequence[Path] = sorted(path.glob("*.parquet"))
        if not files:
            raise DataError(f"{path}: holds no .py, .md, .txt or .parquet files")
        return (document for file in files for document in _read_parquet(file))
    if path.suffix in (".py", ".txt", ".md"):
        return TextFiles((path,))()
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return JsonLines(path=path)()
    if path.suffix == ".parquet":
        return _read_parquet(path)
    raise DataError(
        f"{path}: cannot tell how to read it; "
        "allowed: a folder, .py, .txt, .md, .jsonl, .jsonl.gz, .parquet"
    )


def _read_parquet(path: Path) -> Iterator[Document]:
    try:
        metadata: dict[bytes, Any] = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error})") from error
    if KEY not in metadata:
        yield from ParquetFiles(path=path)()
        return
    for document in read_shard(path):
        yield replace(document, spans=(), problem=None)


def _files(folder: Path, pattern: str, *, skip: frozenset[str]) -> Iterator[Path]:
    """Yield the files below a folder that match, sorted, those of a folder before its folders'."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in skip)
        yield from (Path(place, name) for name in sorted(names) if fnmatch(name, pattern))


def _is_test(inside: Path) -> bool:
    name = inside.name
    return (
        not TEST_FOLDERS.isdisjoint(inside.parts[:-1])
        or name.startswith("test_")
        or name.endswith("_test.py")
        or name == "conftest.py"
    )


def _read(path: Path, *, id: str, source: str) -> Document:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return Document(id=id, text=data.decode(errors="surrogateescape"), source=source)


def _must_exist(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path}: is not there")


def _lone_surrogate(text: str) -> int | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None

"""A corpus as a folder in the hub's layout, and back: the same documents, to the last score.

    README.md                          the card, with YAML in front
    data/train-00000-of-00003.parquet  the documents, in the columns of shards (docs/formats.md)
    settings.json                      how they were made
    provenance.jsonl                   of synthesis: a line per item, whatever became of it
    prealign.json                      the files above with their sizes and digests

It is written beside its place and moved there whole. The same shards and licences give the same
bytes, under one version of pyarrow.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prealign.corpora.card.count import Counts
from prealign.corpora.card.facts import Facts, facts_of, provenance_lines
from prealign.corpora.card.licences import Licences
from prealign.corpora.card.manifest import (
    MANIFEST,
    check_export,
    digest_of,
    read_manifest,
    write_manifest,
)
from prealign.corpora.card.page import dataset_card
from prealign.errors import DataError, RunError
from prealign.hub.markdown import one_line
from prealign.runs import replace_folder, write_atomic
from prealign.text.document import Document
from prealign.text.shards import COLUMNS, KEY, SCHEMA_VERSION, SCORE, read_shards

BATCH_ROWS = 256
GROUP_ROWS = 1024
GROUP_BYTES = 64_000_000
"""A row group has as many rows or bytes, whichever comes first."""
FILE_BYTES = 500_000_000
"""Of columns before compression; a file with as many is closed."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    counts: Counts
    files: int


def export(folder: Path, out: Path, licences: Licences, *, title: str | None = None) -> Exported:
    """Write a folder of shards to `out` in the hub's layout; a reader sees the old, or the new one.

    Args:
        folder: Shards, as annotation, a recipe or synthesis wrote them; it is only read.
        out: New, or an earlier export whose card nobody has edited since, with nothing else in it:
            it is replaced.
        licences: Of its sources.
        title: Of the card; None: the folder's name.

    Raises:
        DataError: The folder holds no shards, or they are malformed.
        ConfigError: A licence is given for a source that is not there.
        RunError: `out` is something else, or another process is writing it.
    """
    out = Path(os.path.abspath(out))
    if out == Path(os.path.abspath(folder)):
        raise RunError(f"{out}: is the corpus itself; name another folder")
    _check_place(out)
    facts = facts_of(folder)
    counts = Counts(group=licences.group)
    with _beside(out) as part:
        files = _write_data(facts, part / "data", counts)
        if not counts.all.documents:
            raise DataError(f"{folder}: its shards hold no documents")
        licences.check_used(counts)
        settings = {
            "header": facts.header, "settings": facts.settings, "environment": facts.environment,
        }  # fmt: skip
        write_atomic(part / "settings.json", json.dumps(settings, indent=1, sort_keys=True) + "\n")
        if facts.synthesis:
            _write_provenance(facts, part / "provenance.jsonl")
        card = dataset_card(title or _title(folder), facts, counts, licences)
        write_atomic(part / "README.md", card)
        write_manifest(part, counts.all.documents)
        replace_folder(part, out)
    return Exported(out, counts, files)


def read_export(folder: Path) -> Iterator[Document]:
    """Yield the documents of an export: those of the shards that it was made from, in order.

    Raises:
        DataError: It is no export, or not all of it is there.
    """
    check_export(folder, digests=False, but=("README.md",))
    yield from read_shards(folder / "data")


def _check_place(out: Path) -> None:
    """Raise unless `out` is free, or an export of ours that nobody has edited or added to."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        data = read_manifest(out)
    except DataError as error:
        raise RunError(f"{out}: is there and is no export; name another folder") from error
    own = {out / MANIFEST, *(out / name for name in data["files"])}
    others = sorted(file for file in out.rglob("*") if not file.is_dir() and file not in own)
    if others:
        raise RunError(
            f"{others[0]}: is not of this export and would be lost; move it away, or name another "
            "folder with --out"
        )
    known = data["files"].get("README.md")
    if known and (out / "README.md").is_file() and digest_of(out / "README.md") != known["sha256"]:
        raise RunError(
            f"{out / 'README.md'}: was edited since it was written; move it away, or name another "
            "folder with --out"
        )


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Give an empty folder beside `out` that one process has at a time; nothing of it stays."""
    part = out.with_name(f".{out.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    handle = os.open(part, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"{out}: another process is writing it; wait for it") from error
        if not part.exists() or os.fstat(handle).st_ino != part.stat().st_ino:
            raise RunError(f"{out}: another process has just written it; try again")
        for old in part.iterdir():  # of a start that was killed
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        try:
            yield part
        finally:
            if part.exists() and os.fstat(handle).st_ino == part.stat().st_ino:
                shutil.rmtree(part)
    finally:
        os.close(handle)


def _write_data(facts: Facts, data: Path, counts: Counts) -> int:
    """Write the Parquet files, count what is in them, and return how many there are."""
    kinds = COLUMNS | {SCORE + name: pa.list_(pa.float64()) for name in facts.scores}
    header = facts.header | {"schema_version": SCHEMA_VERSION}
    metadata: dict[bytes | str, bytes | str] = {
        KEY: json.dumps(header, sort_keys=True, allow_nan=False).encode()
    }
    schema = pa.schema(list(kinds.items()), metadata=metadata)
    data.mkdir()
    number, size, writer = 0, 0, None
    for group in _groups(facts, schema, counts):
        if writer is None:
            file = data / f"{number:05d}"
            writer = pq.ParquetWriter(file, schema, compression="zstd", write_page_index=True)
        writer.write_table(group, row_group_size=GROUP_ROWS)
        size += group.nbytes
        if size >= FILE_BYTES:
            writer.close()
            number, size, writer = number + 1, 0, None
    if writer is not None:
        writer.close()
        number += 1
    for index in range(number):
        file = data / f"{index:05d}"
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        file.rename(data / f"train-{index:05d}-of-{number:05d}.parquet")
    return number


def _groups(facts: Facts, schema: pa.Schema, counts: Counts) -> Iterator[pa.Table]:
    """Yield the documents in groups of rows, counted."""
    waiting: list[pa.Table] = []
    for shard in facts.shards:
        try:
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS):
                    table = _conformed(pa.Table.from_batches([batch]), schema, shard)
                    counts.add(table, str(shard))
                    waiting.append(table)
                    rows = sum(one.num_rows for one in waiting)
                    if rows >= GROUP_ROWS or sum(one.nbytes for one in waiting) >= GROUP_BYTES:
                        yield pa.concat_tables(waiting)
                        waiting = []
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{shard}: is damaged ({error}); write it again") from error
    if waiting:
        yield pa.concat_tables(waiting)


def _conformed(table: pa.Table, schema: pa.Schema, shard: Path) -> pa.Table:
    """Return the columns that all exported files have; scores that nobody asked for are null."""
    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(table[field.name].cast(field.type))
        elif field.name.startswith(SCORE):
            columns.append(pa.nulls(table.num_rows, field.type))
        else:
            raise DataError(f"{shard}: has no column {field.name!r}; write it again")
    return pa.Table.from_arrays(columns, schema=schema)


def _write_provenance(facts: Facts, path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for row in provenance_lines(facts.shards):
            stream.write(json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def _title(folder: Path) -> str:
    folder = folder.resolve()
    return one_line(folder.parent.name if folder.name == "annotated" else folder.name)

"""Shards: documents in Parquet files, one row each, with a header that says what scored them.

Columns: id, source, text, problem; span_start, span_end, span_mode, span_resumes (one list item a
span); and `score.NAME` per scorer. An absent score ("not asked") and a null one ("could not
judge") are kept apart: the spans that were asked are all or none of a document's.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prealign.errors import DataError
from prealign.text.document import Document, Span

SCHEMA_VERSION = 1
KEY = b"prealign"
"""Where the header stands in the Parquet file's key-value metadata."""
SCORE = "score."
"""What the names of score columns begin with."""
ROWS_PER_GROUP = 1024
COLUMNS = {
    "id": pa.string(),
    "source": pa.string(),
    "text": pa.large_string(),
    "problem": pa.string(),
    "span_start": pa.list_(pa.int32()),
    "span_end": pa.list_(pa.int32()),
    "span_mode": pa.list_(pa.string()),
    "span_resumes": pa.list_(pa.bool_()),
}


def write_shard(path: Path, documents: Sequence[Document], header: Mapping[str, Any]) -> None:
    """Write documents to a Parquet file that appears whole or not at all.

    The same documents and header give the same bytes.

    Args:
        path: The file; its folder is made if need be.
        documents: One row each, in this order.
        header: JSON data: `scorers` (name, version, settings of each), `segmenter`, `source`,
            `scheme`. The schema version is added.

    Raises:
        DataError: A text cannot be stored as UTF-8, a score is not finite, or some spans of a
            document lack a score that its other spans have.
    """
    for document in documents:
        _check_unicode(document)
    names = sorted({n for d in documents for s in d.spans for n in s.scores})
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    columns |= {SCORE + name: [] for name in names}
    for document in documents:
        for name, value in _row(document, names).items():
            columns[name].append(value)
    kinds = COLUMNS | {SCORE + name: pa.list_(pa.float64()) for name in names}
    text = json.dumps({**header, "schema_version": SCHEMA_VERSION}, sort_keys=True, allow_nan=False)
    schema = pa.schema(list(kinds.items()), metadata={KEY: text.encode()})
    table = pa.table(columns, schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    pq.write_table(table, part, row_group_size=ROWS_PER_GROUP, compression="zstd")
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.replace(path)


def read_shard(path: Path) -> Iterator[Document]:
    """Yield the documents of one shard, a row group at a time.

    Raises:
        DataError: It is no shard, or one of another schema version.
    """
    read_header(path)
    try:
        with pq.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            missing = [name for name in COLUMNS if name not in columns]
            if missing:
                raise DataError(f"{path}: has no column {missing[0]!r} (it has: {columns})")
            names = [name.removeprefix(SCORE) for name in columns if name.startswith(SCORE)]
            for batch in file.iter_batches(batch_size=ROWS_PER_GROUP):
                for row in batch.to_pylist():
                    yield _document(row, names)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: is damaged ({error}); write it again") from error


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of a shard.

    Raises:
        DataError: It is no shard, or one of another schema version.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error}); expected a shard") from error
    if KEY not in metadata:
        raise DataError(
            f"{path}: has no {KEY.decode()!r} header, so it is no shard; "
            "`prealign annotate` makes shards from other Parquet files"
        )
    header: dict[str, Any] = json.loads(metadata[KEY])
    version = header.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path}: has schema version {version!r}, allowed: {SCHEMA_VERSION}; "
            "write it again with this version of prealign"
        )
    return header


def shard_files(folder: Path) -> list[Path]:
    """Return the shards of a folder in their order.

    Raises:
        DataError: There are none.
    """
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise DataError(f"{folder}: holds no shards (*.parquet)")
    return files


def read_shards(folder: Path) -> Iterator[Document]:
    """Yield the documents of all shards of a folder, in order.

    Raises:
        DataError: There are none, or one of them is malformed.
    """
    for file in shard_files(folder):
        yield from read_shard(file)


def _check_unicode(document: Document) -> None:
    for name in ("id", "source", "text", "problem"):
        value = getattr(document, name) or ""
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"document {document.id!r}: {name} has the lone surrogate "
                f"{value[error.start]!r} at character {error.start}, which UTF-8 cannot hold; "
                "clean the text first"
            ) from error


def _row(document: Document, names: Sequence[str]) -> dict[str, Any]:
    spans = document.spans
    row: dict[str, Any] = {
        "id": document.id,
        "source": document.source,
        "text": document.text,
        "problem": document.problem,
        "span_start": [span.start_char for span in spans],
        "span_end": [span.end_char for span in spans],
        "span_mode": [span.mode for span in spans],
        "span_resumes": [span.resumes for span in spans],
    }
    for name in names:
        asked = [name in span.scores for span in spans]
        if any(asked) and not all(asked):
            raise DataError(
                f"document {document.id!r}: span {asked.index(False)} has no score {name!r}, "
                "other spans have; give all or none (None: could not judge)"
            )
        scores = [span.scores[name] for span in spans] if any(asked) else None
        for index, score in enumerate(scores or ()):
            if score is not None and not math.isfinite(score):
                raise DataError(
                    f"document {document.id!r}, span {index}: score {name!r} is {score}; "
                    "give a finite number, or None where the scorer could not judge"
                )
        row[SCORE + name] = scores
    return row


def _document(row: Mapping[str, Any], names: Sequence[str]) -> Document:
    asked = [(name, row[SCORE + name]) for name in names if row[SCORE + name] is not None]
    pieces = zip(row["span_start"], row["span_end"], row["span_mode"], strict=True)
    spans = tuple(
        Span(start, end, mode, {name: scores[i] for name, scores in asked}, resumes)
        for i, ((start, end, mode), resumes) in enumerate(
            zip(pieces, row["span_resumes"], strict=True)
        )
    )
    return Document(row["id"], row["text"], spans, row["source"], row["problem"])

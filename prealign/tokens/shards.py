"""Token shards: flat arrays on disk, memory-mapped, with where each document begins.

    ids.bin  mode.bin  score.bin  flags.bin   one entry per token; ids are uint16 or uint32
    offsets.bin                               int64, [D + 1]: where documents begin, and the end
    documents.txt                             the documents' ids, a JSON string a line
    header.json                               counts, the encoder's settings, fingerprints

All are little-endian. The header is written last, and the folder gets its name after that.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from prealign.errors import DataError
from prealign.runs import write_atomic
from prealign.text.document import Document
from prealign.tokens.encode import END, SCORED, TAG, EncodedDocument, Encoder
from prealign.tokens.tokenizer import utf8

SCHEMA_VERSION = 1
COLUMNS = {"mode": "<u1", "score": "<f4", "flags": "<u1"}
ID_TYPES = {"uint16": "<u2", "uint32": "<u4"}
ENCODER_SETTINGS = (
    "score", "tagging", "all_mode", "dropout_share", "bare_documents_share",
    "again_every_tokens", "inline_share", "inline_modes", "seed",
)  # fmt: skip
BATCH_CHARS = 2**20
"""Text that is encoded at once: what bounds the memory."""
BATCH_DOCUMENTS = 2**12
CHUNK_TOKENS = 2**24


@dataclass(frozen=True, eq=False)
class TokenShard:
    """Documents as tokens, one after the other; the first four arrays have the shape [tokens]."""

    ids: NDArray[Any]
    """uint16 or uint32, by the size of the vocabulary."""
    mode: NDArray[np.uint8]
    """1 + the index in the scheme; 0: none."""
    score: NDArray[np.float32]
    """0 where the flag SCORED is not set."""
    flags: NDArray[np.uint8]
    """TAG, END and SCORED of `prealign.tokens.encode`, or-ed."""
    offsets: NDArray[np.int64]
    """[D + 1]: document d is tokens offsets[d] to offsets[d + 1]."""
    document_ids: tuple[str, ...]
    """[D]"""
    header: dict[str, Any]
    """JSON data: counts, the encoder's settings, fingerprints."""

    @property
    def num_documents(self) -> int:
        """How many documents it holds."""
        return len(self.document_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens in all, with tags and ends of text."""
        return int(self.offsets[-1])

    @property
    def num_text_tokens(self) -> int:
        """Tokens that are text."""
        return int(self.text_lengths.sum())

    @cached_property
    def text_lengths(self) -> NDArray[np.int64]:
        """How many tokens of each document are text, int64, [D]."""
        return _count(self.flags, self.offsets, TAG | END)


def write_tokens(folder: Path, documents: Iterable[Document], encoder: Encoder) -> TokenShard:
    """Write the documents as tokens and return the shard; it appears whole or not at all.

    Documents are encoded in batches, so memory does not grow with the corpus.

    Args:
        folder: Must not exist.
        documents: Read once; they may be a generator.
        encoder: What makes them tokens.

    Raises:
        DataError: The folder exists, there are no documents, one of them cannot be encoded, or
            the encoder asks for a score that no span has.
    """
    if folder.exists():
        raise DataError(f"{folder}: exists already; delete it or name another folder")
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with _Writer(part, encoder) as writer:
            for batch in _batches(documents):
                for document, encoded in zip(batch, encoder(batch), strict=True):
                    writer.add(document, encoded)
        if writer.counts["documents"] == 0:
            raise DataError(f"{folder}: there are no documents to encode")
        write_atomic(part / "header.json", json.dumps(writer.header(), indent=1) + "\n")
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return read_tokens(folder)


def read_tokens(folder: Path) -> TokenShard:
    """Return the shard in `folder`; its arrays are memory-mapped and cannot be written.

    Raises:
        DataError: There is no shard, it is of another schema version, or files do not fit the
            header.
    """
    if not (folder / "header.json").is_file():
        raise DataError(
            f"{folder}: holds no token shard (no header.json); `write_tokens` makes one"
        )
    try:
        header = json.loads((folder / "header.json").read_bytes())
        version = header["schema_version"]
        if version != SCHEMA_VERSION:
            raise DataError(
                f"{folder}: has schema version {version!r}, allowed: {SCHEMA_VERSION}; "
                "encode the documents again"
            )
        tokens, count = header["tokens"], header["documents"]
        kinds = {"ids": ID_TYPES[header["id_type"]], **COLUMNS}
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise DataError(f"{folder / 'header.json'}: is no header ({error!r})") from error
    columns = {name: _mapped(folder / f"{name}.bin", kind, tokens) for name, kind in kinds.items()}
    offsets = np.array(_mapped(folder / "offsets.bin", "<i8", count + 1))
    lines = (folder / "documents.txt").read_text(encoding="ascii").splitlines()
    if offsets[0] != 0 or offsets[-1] != tokens or np.diff(offsets).min() < 1:
        raise DataError(f"{folder / 'offsets.bin'}: does not divide {tokens} tokens; encode again")
    if len(lines) != count:
        raise DataError(f"{folder / 'documents.txt'}: has {len(lines)} ids for {count} documents")
    names = tuple(json.loads(line) for line in lines)
    return TokenShard(**columns, offsets=offsets, document_ids=names, header=header)


def untagged(shard: TokenShard) -> TokenShard:
    """Return the shard without its tags, in memory: what `tagging="none"` would have given.

    The text is the same, token for token, and keeps its modes and scores.
    """
    keep = (shard.flags & TAG) == 0
    lengths = _count(shard.flags, shard.offsets, TAG)
    scored = int(((shard.flags & SCORED) != 0)[keep].sum())
    counts = {"tokens": int(lengths.sum()), "tags": 0, "shifted_tags": 0, "scored_tokens": scored}
    encoder = shard.header["encoder"] | {"tagging": "none"}
    return replace(
        shard,
        ids=shard.ids[keep],
        mode=shard.mode[keep],
        score=shard.score[keep],
        flags=shard.flags[keep],
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        header=shard.header | counts | {"encoder": encoder},
    )


class _Writer:
    """The open files of a shard and what has been counted so far."""

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        self.encoder = encoder
        self.id_type = "uint16" if encoder.vocabulary.size <= 2**16 else "uint32"
        self.kinds = {"ids": ID_TYPES[self.id_type], **COLUMNS}
        names = [*(f"{name}.bin" for name in (*self.kinds, "offsets")), "documents.txt"]
        self.files: dict[str, IO[bytes]] = {n.split(".")[0]: (folder / n).open("wb") for n in names}
        self.files["offsets"].write(np.zeros(1, dtype="<i8").tobytes())
        keys = ("documents", "tokens", "text_tokens", "text_bytes", "tags", "shifted_tags")
        self.counts = dict.fromkeys((*keys, "scored_tokens"), 0)
        self.score_names: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def add(self, document: Document, encoded: EncodedDocument) -> None:
        utf8(document.id, f"id of document {document.id!r}")
        for name, kind in self.kinds.items():
            self.files[name].write(getattr(encoded, name).astype(kind).tobytes())
        self.files["documents"].write(json.dumps(document.id).encode() + b"\n")
        is_text = (encoded.flags & (TAG | END)) == 0
        add = {
            "documents": 1,
            "tokens": len(encoded.ids),
            "text_tokens": int(is_text.sum()),
            "text_bytes": len(document.text.encode()),
            "tags": int((encoded.flags & TAG).sum()),
            "shifted_tags": encoded.num_shifted,
            "scored_tokens": int(((encoded.flags & SCORED) != 0).sum()),
        }
        self.counts = {key: self.counts[key] + value for key, value in add.items()}
        self.files["offsets"].write(np.array([self.counts["tokens"]], dtype="<i8").tobytes())
        self.score_names.update(*(span.scores for span in document.spans))

    def header(self) -> dict[str, Any]:
        encoder, vocabulary = self.encoder, self.encoder.vocabulary
        if encoder.score is not None and encoder.score not in self.score_names:
            found = ", ".join(sorted(self.score_names)) or "none at all"
            raise DataError(f"no span has a score {encoder.score!r}; the documents have: {found}")
        settings = {key: getattr(encoder, key) for key in ENCODER_SETTINGS}
        return {
            "schema_version": SCHEMA_VERSION,
            "id_type": self.id_type,
            **self.counts,
            "encoder": settings,
            "vocabulary": vocabulary.fingerprint,
            "scheme": vocabulary.scheme.name,
            "ids": vocabulary.ids,
        }


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    chars = 0
    for document in documents:
        batch.append(document)
        chars += len(document.text)
        if chars >= BATCH_CHARS or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _mapped(path: Path, kind: str, length: int) -> NDArray[Any]:
    expected = length * np.dtype(kind).itemsize
    found = path.stat().st_size if path.is_file() else 0
    if found != expected:
        raise DataError(f"{path}: has {found:,} bytes, the header says {expected:,}; encode again")
    # A plain array over the map: indexing a memmap object costs several times as much.
    return np.memmap(path, dtype=kind, mode="r").view(np.ndarray)


def _count(flags: NDArray[np.uint8], offsets: NDArray[np.int64], mask: int) -> NDArray[np.int64]:
    """Return how many tokens of each document have none of the flags in `mask`, [D]."""
    counts = np.zeros(len(offsets) - 1, dtype=np.int64)
    first = 0
    while first < len(counts):
        # Whole documents, some 16 million tokens at a time, so that memory stays bounded.
        to = int(np.searchsorted(offsets, offsets[first] + CHUNK_TOKENS, side="right")) - 1
        to = max(to, first + 1)
        kept = (flags[offsets[first] : offsets[to]] & mask) == 0
        starts = offsets[first:to] - offsets[first]
        counts[first:to] = np.add.reduceat(kept, starts, dtype=np.int64)
        first = to
    return counts

"""Token shards: flat arrays on disk, memory-mapped, with where each document begins.

ids.bin  mode.bin  score.bin  flags.bin     one entry per token
offsets.bin                                 int64, where each document begins, and the end
documents.txt                               the documents' ids, one JSON string a line
header.json                                 written last: a shard without it is unfinished
"""

import itertools
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prealign.errors import DataError
from prealign.text.document import Document
from prealign.tokens.encode import END, TAG, Encoder

SCHEMA_VERSION = 1
BATCH_DOCUMENTS = 256
COLUMNS = {"mode": np.uint8, "score": np.float32, "flags": np.uint8}


@dataclass(frozen=True)
class TokenShard:
    """Documents as tokens, one after the other; the arrays are [N tokens]."""

    ids: NDArray[Any]
    mode: NDArray[np.uint8]
    score: NDArray[np.float32]
    flags: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    """[D + 1]: document d is tokens offsets[d] to offsets[d + 1]."""
    document_ids: tuple[str, ...]
    header: dict[str, Any]

    @property
    def num_documents(self) -> int:
        """How many documents it holds."""
        return len(self.document_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens in all, with tags and ends of text."""
        return int(self.offsets[-1])

    @cached_property
    def text_before(self) -> NDArray[np.int64]:
        """[D + 1]: text tokens in front of each document."""
        text = (np.asarray(self.flags) & (TAG | END)) == 0
        counts = np.concatenate([[0], np.cumsum(text, dtype=np.int64)])
        return counts[self.offsets]

    @property
    def num_text_tokens(self) -> int:
        """Tokens that are text."""
        return int(self.text_before[-1])


def write_tokens(folder: Path, documents: Iterable[Document], encoder: Encoder) -> TokenShard:
    """Encode documents into `folder` and return the shard, memory-mapped.

    Memory does not grow with the corpus. An unfinished folder is made anew.

    Raises:
        DataError: There are no documents.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    dtype = np.uint16 if encoder.vocabulary.size <= 2**16 else np.uint32
    offsets = [0]
    counts = {"text_bytes": 0, "shifted_tags": 0, "tags": 0}
    with ExitStack() as stack:
        names = ("ids", *COLUMNS)
        files = {n: stack.enter_context((part / f"{n}.bin").open("wb")) for n in names}
        names_file = stack.enter_context((part / "documents.txt").open("w", encoding="utf-8"))
        iterator = iter(documents)
        while batch := list(itertools.islice(iterator, BATCH_DOCUMENTS)):
            for document, encoded in zip(batch, encoder(batch), strict=True):
                files["ids"].write(encoded.ids.astype(dtype).tobytes())
                for name, kind in COLUMNS.items():
                    files[name].write(getattr(encoded, name).astype(kind).tobytes())
                offsets.append(offsets[-1] + len(encoded.ids))
                names_file.write(json.dumps(document.id) + "\n")
                counts["text_bytes"] += len(document.text.encode())
                counts["shifted_tags"] += encoded.num_shifted
                counts["tags"] += int(((encoded.flags & TAG) != 0).sum())
    if len(offsets) == 1:
        raise DataError(f"{folder}: there are no documents to encode")
    np.array(offsets, dtype=np.int64).tofile(part / "offsets.bin")
    header = {
        "schema_version": SCHEMA_VERSION,
        "id_type": np.dtype(dtype).name,
        "documents": len(offsets) - 1,
        "tokens": offsets[-1],
        **counts,
        "vocabulary": encoder.vocabulary.fingerprint,
        "score": encoder.score,
        "tagging": encoder.all_mode or encoder.tagging,
        "dropout_share": encoder.dropout_share,
        "seed": encoder.seed,
    }
    (part / "header.json").write_text(json.dumps(header, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    return read_tokens(folder)


def read_tokens(folder: Path) -> TokenShard:
    """Return the shard in `folder`, its arrays memory-mapped.

    Raises:
        DataError: There is no finished shard of this version, or a file has another size.
    """
    if not (folder / "header.json").is_file():
        raise DataError(f"{folder}: holds no finished token shard (no header.json); encode again")
    header = json.loads((folder / "header.json").read_text())
    if header.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{folder}: token shard of version {header.get('schema_version')}, "
            f"this release reads {SCHEMA_VERSION}; encode again"
        )
    arrays = {}
    for name, dtype in {"ids": np.dtype(header["id_type"]), **COLUMNS}.items():
        file = folder / f"{name}.bin"
        expected = header["tokens"] * np.dtype(dtype).itemsize
        if not file.is_file() or file.stat().st_size != expected:
            raise DataError(f"{file}: should have {expected} bytes; encode again")
        arrays[name] = np.memmap(file, dtype=dtype, mode="r")
    names = (folder / "documents.txt").read_text(encoding="utf-8").splitlines()
    offsets = np.fromfile(folder / "offsets.bin", dtype=np.int64)
    return TokenShard(
        arrays["ids"], arrays["mode"], arrays["score"], arrays["flags"], offsets,
        tuple(json.loads(name) for name in names), header,
    )  # fmt: skip


def untagged(shard: TokenShard) -> TokenShard:
    """Return the shard without its tags, in memory: what encoding with tagging="none" gives."""
    keep = (np.asarray(shard.flags) & TAG) == 0
    kept_before = np.concatenate([[0], np.cumsum(keep, dtype=np.int64)])
    return TokenShard(
        np.asarray(shard.ids)[keep],
        np.asarray(shard.mode)[keep],
        np.asarray(shard.score)[keep],
        np.asarray(shard.flags)[keep],
        kept_before[shard.offsets],
        shard.document_ids,
        {**shard.header, "tagging": "none"},
    )

"""Token preparation as a task of many, like `prealign.score.task`, and the joining of its parts.

task = EncodeTask(annotated=Path("shards"), out=Path("tokens"), encoder=encoder)
LocalPipelineExecutor([task], tasks=8, workers=2, logging_dir="logs").run()
shard = task.finish(world_size=8)
"""

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from prealign.config import fingerprint
from prealign.errors import ConfigError, DataError
from prealign.runs import write_atomic
from prealign.text.shards import read_header, read_shard, shard_files
from prealign.tokens.encode import Encoder
from prealign.tokens.shards import (
    COLUMNS,
    ENCODER_SETTINGS,
    TokenShard,
    read_tokens,
    write_tokens,
)

COUNTS = ("documents", "tokens", "text_tokens", "text_bytes", "tags", "shifted_tags",
          "scored_tokens")  # fmt: skip
COPIED_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class EncodeTask:
    """Annotated shards to one token shard, to be called once per rank."""

    annotated: Path
    """A finished folder of annotated shards."""
    out: Path
    """The token shard; its parts lie beside it, in a folder that ends in `.parts`."""
    encoder: Encoder

    def __call__(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Encode the files of one rank; a part that is there is kept. `data` is not used.

        Raises:
            ConfigError: There is no such rank.
            DataError: The annotation is not finished, or a document cannot be encoded.
        """
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} of {world_size}: expected 0 to below the size")
        part = self._part(rank, world_size)
        if part.exists():
            return
        documents = itertools.chain.from_iterable(map(read_shard, self._files(rank, world_size)))
        first = next(documents, None)
        if first is not None:  # a tagger may have dropped all that these files held
            write_tokens(part, itertools.chain([first], documents), self.encoder)

    def finish(self, *, world_size: int) -> TokenShard:
        """Return the token shard of all parts; parts that are missing are encoded now.

        It is what `prealign.tokens.shards.write_tokens` writes of the whole, byte for byte.

        Raises:
            DataError: `out` exists, or as for a single rank.
        """
        if self.out.exists():
            raise DataError(f"{self.out}: exists already; delete it or name another folder")
        for rank in range(world_size):
            self(rank=rank, world_size=world_size)
        parts = [self._part(rank, world_size) for rank in range(world_size)]
        shard = join_tokens([part for part in parts if part.exists()], self.out)
        shutil.rmtree(self._parts)
        return shard

    @cached_property
    def _parts(self) -> Path:
        """The folder of the parts, named by what they are made of: others are never taken for them.

        Raises:
            DataError: The annotation is not finished, so that ranks could see different files.
        """
        if not (self.annotated / "_done.json").is_file():
            raise DataError(f"{self.annotated}: is not finished; annotate it first")
        encoder = {name: getattr(self.encoder, name) for name in ENCODER_SETTINGS}
        chunks = [(path.name, read_header(path)) for path in shard_files(self.annotated)]
        made_of = fingerprint([encoder, self.encoder.vocabulary.fingerprint, chunks])
        return self.out.with_name(f"{self.out.name}.{made_of}.parts")

    def _part(self, rank: int, world_size: int) -> Path:
        self._parts.mkdir(parents=True, exist_ok=True)
        return self._parts / f"{rank:05d}-of-{world_size:05d}"

    def _files(self, rank: int, world_size: int) -> list[Path]:
        """Return a run of neighbouring files, so that the parts in order are the whole in order."""
        files = shard_files(self.annotated)
        return files[len(files) * rank // world_size : len(files) * (rank + 1) // world_size]


def join_tokens(parts: Sequence[Path], out: Path) -> TokenShard:
    """Return one token shard of several, in their order; it appears whole or not at all.

    Args:
        parts: Folders of token shards that one encoder wrote.
        out: Must not exist.

    Raises:
        DataError: There are no parts, they are from different encoders, or `out` exists.
    """
    if out.exists():
        raise DataError(f"{out}: exists already; delete it or name another folder")
    if not parts:
        raise DataError(f"{out}: there are no parts to join; encode them first")
    shards = [read_tokens(part) for part in parts]
    first = shards[0].header
    for part, shard in zip(parts, shards, strict=True):
        own = {key: value for key, value in shard.header.items() if key not in COUNTS}
        if own != {key: value for key, value in first.items() if key not in COUNTS}:
            raise DataError(f"{part}: was written by another encoder than {parts[0]}; encode again")
    made = out.with_name(f"{out.name}.{os.getpid()}.part")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    for name in (*(f"{column}.bin" for column in ("ids", *COLUMNS)), "documents.txt"):
        with (made / name).open("wb") as whole:
            for part in parts:
                for piece in _pieces(part / name):
                    whole.write(piece)
    begins = np.cumsum([0, *(shard.num_tokens for shard in shards)])
    offsets = [shard.offsets[1:] + begin for shard, begin in zip(shards, begins, strict=False)]
    joined = np.concatenate([[0], *offsets]).astype("<i8")
    (made / "offsets.bin").write_bytes(joined.tobytes())
    counts = {key: sum(shard.header[key] for shard in shards) for key in COUNTS}
    write_atomic(made / "header.json", json.dumps(first | counts, indent=1) + "\n")
    made.rename(out)
    return read_tokens(out)


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while piece := stream.read(COPIED_BYTES):
            yield piece

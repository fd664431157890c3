"""From packed rows to batches of tensors. Which rows a step has is a function of the step alone.

A step takes one row from each of `batch_rows` equal stretches of the stream, so a batch holds many
documents, a stretch is read in order, and arms that share an order see the same text at the same
share of their training. The last steps may lack rows; those are padding.

Shape letters:  n = rows,  L = tokens in a row.
"""

import zlib
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from prealign.objectives.batch import TokenBatch
from prealign.tokens.encode import END, PAD, SCORED, TAG
from prealign.tokens.pack import PackedRows


class Rows(Protocol):
    """What training reads; `prealign.tokens.pack.Packed` is one."""

    @property
    def num_rows(self) -> int:
        """How many rows there are."""

    def rows(self, indices: list[int]) -> PackedRows:
        """Return the rows with these indices; those from `num_rows` on are padding."""


def num_steps(data: Rows, batch_rows: int) -> int:
    """Return the number of steps that read every row once."""
    return -(-data.num_rows // batch_rows)


def rows_of_step(step: int, steps: int, batch_rows: int) -> list[int]:
    """Return the rows of a step, counted from 0: one from each stretch."""
    return [lane * steps + step for lane in range(batch_rows)]


def data_identity(data: Rows) -> dict[str, int]:
    """Return numbers that differ for other data, from its size and its outermost rows."""
    ids = data.rows([0, data.num_rows - 1]).ids
    return {
        "num_rows": data.num_rows,
        "row_tokens": ids.shape[1] - 1,
        "crc_of_first_and_last_row": zlib.crc32(ids.tobytes()),
    }


def make_batch(rows: PackedRows, device: torch.device) -> TokenBatch:
    """Return rows of L + 1 tokens as L inputs and the L targets that follow them."""

    def tensor(array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

    flags = rows.flags[:, 1:]
    return TokenBatch(
        ids_BL=tensor(rows.ids[:, :-1]),
        targets_BL=tensor(rows.ids[:, 1:]),
        text_BL=tensor((flags & (TAG | END | PAD)) == 0),
        tag_BL=tensor((flags & TAG) != 0),
        end_BL=tensor((flags & END) != 0),
        mode_BL=tensor(rows.mode[:, 1:]),
        score_BL=tensor(rows.score[:, 1:]),
        scored_BL=tensor((flags & SCORED) != 0),
        document_BL=tensor(rows.document[:, :-1]),
    )

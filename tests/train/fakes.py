"""Rows of made-up tokens, a model for them, and run folders."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from prealign.models.create import LlamaShape, make_model
from prealign.objectives.batch import Objective
from prealign.objectives.likelihood import Conditional
from prealign.runs import RunFolder
from prealign.tokens.encode import END, PAD, SCORED, TAG
from prealign.tokens.pack import PackedRows
from prealign.train.loop import Phase, train
from prealign.train.settings import TrainSettings

VOCABULARY = 40
END_ID, TAG_ID, INERT = 36, 37, 39
SHAPE = LlamaShape(width=16, layers=2, heads=2, max_tokens=12)


@dataclass(frozen=True)
class FakeRows:
    """Rows in which a token likes to be followed by the next one, with ends and tags in them."""

    num_rows: int = 40
    row_tokens: int = 12
    seed: int = 0
    ids: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        first = random.integers(0, 30, (self.num_rows, 1))
        steps = random.integers(1, 3, (self.num_rows, self.row_tokens)).cumsum(axis=1)
        ids = np.concatenate([first, first + steps], axis=1) % 36
        kind = random.random(ids.shape)
        ids[kind < 0.1] = TAG_ID
        ids[kind > 0.95] = END_ID
        object.__setattr__(self, "ids", ids.astype(np.int64))

    def rows(self, indices: list[int]) -> PackedRows:
        """Return these rows; those from `num_rows` on are padding."""
        padding = np.array(indices)[:, None] >= self.num_rows
        ids = np.where(padding, INERT, self.ids[np.minimum(indices, self.num_rows - 1)])
        flags = np.where(ids == TAG_ID, TAG, 0) | np.where(ids == END_ID, END, SCORED)
        flags = np.where(padding, PAD, flags).astype(np.uint8)
        document = np.cumsum(ids == END_ID, axis=1).astype(np.int32)
        return PackedRows(
            ids,
            np.where(padding, 0, np.ones_like(ids)).astype(np.uint8),
            np.where(padding, 0, np.full(ids.shape, 0.5)).astype(np.float32),
            flags,
            document - document[:, :1],
        )


def small_model(seed: int = 0):
    """Return a model for such rows."""
    return make_model(SHAPE, VOCABULARY, seed=seed)


def settings_of(**changes):
    """Return settings for a short run on the processor, the same on every machine."""
    usual = {"batch_rows": 4, "lr": 1e-2, "precision": "fp32", "compile": "off"}
    return TrainSettings(**usual | {"log_every_steps": 1} | changes)


def folder_at(path) -> RunFolder:
    """Return an empty run folder."""
    path.mkdir(parents=True, exist_ok=True)
    return RunFolder(path)


def trained(
    path,
    *,
    data=None,
    objective: Objective | None = None,
    phases=None,
    at_eval=None,
    stop=None,
    **changes,
):
    """Train a fresh model into a run folder, on from its checkpoint; return model and outcome."""
    model = small_model()
    outcome = train(
        model,
        phases or [Phase(objective or Conditional(), data or FakeRows())],
        settings_of(**changes),
        folder_at(path),
        at_eval=at_eval,
        stop_after_steps=stop,
    )
    return model, outcome

"""A log that TensorBoard reads, beside metrics.jsonl: an extra, imported only when asked for."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prealign.errors import MissingDependency


class EventLog:
    """Writes rows of metrics as TensorBoard events into the run folder."""

    def __init__(self, folder: Path) -> None:
        try:
            module = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise MissingDependency(
                'train.tensorboard=true needs TensorBoard: pip install "prealign[tensorboard]"'
            ) from error
        self.writer: Any = module.SummaryWriter(str(folder / "tensorboard"))

    def add(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row at its step."""
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self.writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()

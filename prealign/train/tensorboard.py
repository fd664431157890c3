"""A log that TensorBoard reads, beside metrics.jsonl: an extra."""

from pathlib import Path
from typing import Any

from prealign.errors import MissingDependency

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:  # an extra; asked for when the log is
    SummaryWriter = None  # type: ignore[assignment, misc]


class EventLog:
    """Writes rows of metrics as TensorBoard events into the run folder."""

    def __init__(self, folder: Path) -> None:
        if SummaryWriter is None:
            raise MissingDependency(
                'train.tensorboard=true needs TensorBoard: pip install "prealign[tensorboard]"'
            )
        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def add(self, row: dict[str, Any]) -> None:
        """Write the numbers of a row at its step."""
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self.writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()

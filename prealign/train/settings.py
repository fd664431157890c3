"""Settings of the loop: what is asked for. What the machine allows of it is in `hardware`."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from prealign.config import to_json
from prealign.errors import ConfigError

Parallel = Literal["none", "ddp", "fsdp2"]

RESULT_SETTINGS = (
    "batch_rows", "lr", "lr_floor_share", "warmup_share", "weight_decay", "betas", "clip_norm",
    "precision", "document_mask", "new_rows", "new_rows_rate",
)  # fmt: skip
"""Those that decide the weights by more than rounding. The others may change on resume."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How to train; the defaults are the simplest case."""

    batch_rows: int = 16
    """Rows in a step, over all processes."""
    micro_rows: int | None = None
    """Rows in a forward pass of one process, at most; None: all of its rows of a step."""
    lr: float = 1e-3
    """Peak learning rate."""
    lr_floor_share: float = 0.1
    """The cosine ends at this share of the peak."""
    warmup_share: float = 0.02
    """Share of the steps in which the rate rises linearly."""
    weight_decay: float = 0.1
    """Of matrices; norms, biases and embeddings have none."""
    betas: tuple[float, float] = (0.9, 0.95)
    """How slowly AdamW forgets gradients and their squares."""
    clip_norm: float = 1.0
    """A gradient with a greater norm is scaled down to it."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the matrix products; "auto": bf16 where the hardware multiplies it fast. Weights stay
    fp32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """"auto": where a compiler is there and the run is long enough to repay it."""
    document_mask: bool = False
    """Attend within a document only, with positions that begin anew in each."""
    new_rows: int = 0
    """The last so many rows of the embedding (and of an output layer with its own weights): those
    that a pretrained model got for its tags."""
    new_rows_rate: float = 1.0
    """How many times as far as AdamW says they go in a step: they begin at the mean of all rows,
    and have as far to go as those had in the whole of pretraining."""
    evals: int = 1
    """Points at which the model is measured, evenly spread; the last is the end, always."""
    log_every_steps: int = 10
    checkpoint_every_s: float = 60.0
    spike_factor: float | None = 3.0
    """Stop when the loss of a step is this many times its running mean; None: never."""
    parallel: Parallel = "none"
    """Several processes under torchrun: whole models in step, or one model in shards."""
    threads: int | None = None
    """Of one process; None: as torch was started."""
    tensorboard: bool = False
    """Also write a log that TensorBoard reads (an extra)."""

    def __post_init__(self) -> None:
        counts = ("batch_rows", "micro_rows", "evals", "log_every_steps", "threads")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"TrainSettings.{name}={value}: must be at least 1")
        if self.new_rows < 0:
            raise ConfigError(f"TrainSettings.new_rows={self.new_rows}: must be 0 or more")
        apart = self.new_rows and not math.isclose(self.new_rows_rate, 1.0)
        if apart and self.parallel == "fsdp2":
            raise ConfigError(
                "TrainSettings.new_rows: rows have no rate of their own under parallel=fsdp2, "
                "where a row may lie on any process; use parallel=ddp or new_rows=0"
            )
        positive = ("lr", "clip_norm", "checkpoint_every_s", "spike_factor", "new_rows_rate")
        for name in positive:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"TrainSettings.{name}={value}: must be above 0")
        if not 0 <= self.warmup_share < 1 or not 0 <= self.lr_floor_share <= 1:
            raise ConfigError(
                f"TrainSettings: warmup_share={self.warmup_share} must be in [0, 1), "
                f"lr_floor_share={self.lr_floor_share} in [0, 1]"
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"TrainSettings.betas={self.betas}: must be two numbers in [0, 1)")

    def warmup_steps(self, steps: int) -> int:
        """Return in how many steps of a run the rate rises."""
        return max(1, round(self.warmup_share * steps))

    def learning_rate(self, step: int, steps: int) -> float:
        """Return the rate of a step, counted from 0: linear warm-up, then cosine to the floor.

        The last step of the warm-up has the peak rate; the floor would be that of the step after
        the last.
        """
        warmup = self.warmup_steps(steps)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        share = (step - warmup) / max(1, steps - warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * share))
        return self.lr * (self.lr_floor_share + (1 - self.lr_floor_share) * cosine)

    def eval_steps(self, steps: int) -> frozenset[int]:
        """Return the steps, counted from 1, after which the model is measured."""
        return frozenset(max(1, round(steps * (i + 1) / self.evals)) for i in range(self.evals))

    def deciding(self) -> dict[str, Any]:
        """Return the settings that a checkpoint can only be resumed with."""
        return {name: to_json(getattr(self, name)) for name in RESULT_SETTINGS}

"""Settings of the loop, and what the machine allows of them."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from prealign.errors import ConfigError

COMPILE_PAYS_AFTER_STEPS = 150


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How to train; the defaults are the simplest case."""

    batch_rows: int = 16
    """Rows in a step, over all processes."""
    micro_rows: int | None = None
    """Rows in a forward pass of one process; None: all of its rows of a step."""
    lr: float = 1e-3
    """Peak learning rate."""
    lr_floor_share: float = 0.1
    """The cosine ends at this share of the peak."""
    warmup_share: float = 0.02
    """Share of the steps in which the rate rises linearly."""
    weight_decay: float = 0.1
    """Of matrices; norms, biases and embeddings have none."""
    beta1: float = 0.9
    beta2: float = 0.95
    clip_norm: float = 1.0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the matrix products; "auto": bf16 where the hardware multiplies it fast. Weights stay
    fp32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """"auto": where a compiler is there and the run is long enough to repay it."""
    document_mask: bool = False
    """Attend within a document only, with positions that begin anew in each."""
    evals: int = 1
    """Points at which the model is measured, evenly spread; the last is the end, always."""
    log_every_steps: int = 10
    checkpoint_every_s: float = 60.0
    spike_factor: float | None = 3.0
    """Stop when the loss of a step is this many times its running mean; None: never."""
    parallel: Literal["none", "ddp", "fsdp2"] = "none"
    tensorboard: bool = False
    """Also write a log that TensorBoard reads (an extra)."""

    def __post_init__(self) -> None:
        if self.batch_rows < 1 or self.evals < 1 or self.log_every_steps < 1:
            raise ConfigError(
                f"TrainSettings: batch_rows={self.batch_rows}, evals={self.evals} and "
                f"log_every_steps={self.log_every_steps} must be at least 1"
            )
        if self.micro_rows is not None and self.batch_rows % self.micro_rows:
            raise ConfigError(
                f"TrainSettings.micro_rows={self.micro_rows}: must divide "
                f"batch_rows={self.batch_rows}"
            )
        if self.lr <= 0 or not 0 <= self.warmup_share < 1 or not 0 <= self.lr_floor_share <= 1:
            raise ConfigError(
                f"TrainSettings: lr={self.lr} must be above 0, "
                f"warmup_share={self.warmup_share} in [0, 1), "
                f"lr_floor_share={self.lr_floor_share} in [0, 1]"
            )

    def learning_rate(self, step: int, steps: int) -> float:
        """Return the rate of a step, counted from 0: linear warm-up, then cosine to the floor."""
        warmup = max(1, round(self.warmup_share * steps))
        if step < warmup:
            return self.lr * (step + 1) / warmup
        share = (step - warmup) / max(1, steps - warmup)
        cosine = 0.5 * (1 + torch.cos(torch.tensor(share * torch.pi, dtype=torch.float64)).item())
        return self.lr * (self.lr_floor_share + (1 - self.lr_floor_share) * cosine)

    def eval_steps(self, steps: int) -> frozenset[int]:
        """Return the steps, counted from 1, after which the model is measured."""
        return frozenset(max(1, round(steps * (i + 1) / self.evals)) for i in range(self.evals))


def uses_bf16(settings: TrainSettings, device: torch.device) -> bool:
    """Return whether matrix products run in bf16."""
    if settings.precision != "auto":
        return settings.precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if device.type == "cpu" and cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def why_compiled(settings: TrainSettings, steps: int, device: torch.device) -> tuple[bool, str]:
    """Return whether to compile, and the reason in words for the log."""
    if settings.compile != "auto":
        return settings.compile == "on", "as the settings say"
    if steps < COMPILE_PAYS_AFTER_STEPS:
        return False, f"{steps} steps do not repay it"
    if device.type == "cpu" and shutil.which("g++") is None and shutil.which("clang++") is None:
        return False, "there is no C++ compiler"
    return True, "the run is long enough to repay it"

"""What the machine allows: bf16 products, a compiler, and which attention is the fastest."""

import shutil
from pathlib import Path
from typing import NamedTuple

import torch

from prealign.train.settings import TrainSettings

EAGER_FLOPS = {"cpu": 1e11, "cuda": 1e14}
"""A rough speed without compiling, for a guess at how long a run will take."""
COMPILE_PAYS_AFTER_S = 90.0
"""Compiling takes about 15 s and saves about a third."""
SHORT_ROW_TOKENS = 512
"""Up to here, on a CPU, attention as two matrix products is faster than the fused kernel."""


class Choices(NamedTuple):
    """What was chosen for a run, and why, in words for the log."""

    bf16: bool
    compiled: bool
    attention: str | None
    """transformers' name of the attention to train with; None: the model's own."""
    words: str


def choose(
    settings: TrainSettings,
    device: torch.device,
    *,
    num_parameters: int,
    num_tokens: int,
    row_tokens: int,
) -> Choices:
    """Return what to train with.

    Args:
        settings: What was asked for.
        device: Where.
        num_parameters: Of the model.
        num_tokens: Of the run, in one process.
        row_tokens: L.
    """
    bf16, why_bf16 = _bf16(settings, device)
    seconds = 6.0 * num_parameters * num_tokens / EAGER_FLOPS.get(device.type, 1e14)
    compiled, why_compiled = _compiled(settings, device, seconds)
    words = (
        f"{'bf16' if bf16 else 'fp32'} products ({why_bf16}); "
        f"{'compiled' if compiled else 'not compiled'} ({why_compiled})"
    )
    attention = None
    if compiled and device.type == "cpu" and row_tokens <= SHORT_ROW_TOKENS:
        attention = "eager"
        words += "; attention as matrix products (rows are short)"
    return Choices(bf16, compiled, attention, words)


def _bf16(settings: TrainSettings, device: torch.device) -> tuple[bool, str]:
    if settings.precision != "auto":
        return settings.precision == "bf16", "as the settings say"
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        cpuinfo = Path("/proc/cpuinfo")
        flags = cpuinfo.read_text() if device.type == "cpu" and cpuinfo.exists() else ""
        fast = "avx512_bf16" in flags or "amx_bf16" in flags
    return fast, "the hardware is fast at them" if fast else "the hardware has no fast bf16"


def _compiled(settings: TrainSettings, device: torch.device, seconds: float) -> tuple[bool, str]:
    if settings.compile != "auto":
        return settings.compile == "on", "as the settings say"
    if settings.parallel == "fsdp2":
        return False, "shards are gathered between its graphs"
    if seconds < COMPILE_PAYS_AFTER_S:
        return False, f"a run of about {seconds:.0f} s does not repay it"
    if device.type == "cpu" and shutil.which("g++") is None and shutil.which("clang++") is None:
        return False, "there is no C++ compiler"
    return True, f"a run of about {seconds:.0f} s repays it"

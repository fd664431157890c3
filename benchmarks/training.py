"""Training speed against the `Trainer` of transformers: same model, batch, precision and run.

    python benchmarks/training.py --out results/training.json

The arms take turns, each in a process of its own with one thread: our loop as it is by default
(compiled), `Trainer` as it is by default (eager), and `Trainer` with torch_compile. Random tokens;
rows of 256; bf16 products on fp32 weights; medians over steps after a warm-up. The ceiling is the
machine's own bf16 matrix product, measured in the same run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from prealign.models.create import LlamaShape, make_model, num_parameters
from prealign.objectives.likelihood import Likelihood
from prealign.runs import Check, ResultRow, open_run, write_results
from prealign.tokens.pack import PackedRows
from prealign.train.loop import Phase, train
from prealign.train.settings import TrainSettings

ROW_TOKENS = 256
WARM_STEPS = 4
SIZES: dict[str, tuple[LlamaShape, int, int, int]] = {  # shape, vocabulary, rows, steps
    "1M": (LlamaShape(width=128, layers=4, heads=4, max_tokens=ROW_TOKENS), 4096, 16, 40),
    "10M": (LlamaShape(width=288, layers=8, heads=8, max_tokens=ROW_TOKENS), 8192, 16, 14),
    "30M": (LlamaShape(width=512, layers=8, heads=8, max_tokens=ROW_TOKENS), 8192, 8, 12),
    "135M": (
        LlamaShape(
            width=576, layers=30, heads=9, kv_heads=3, mlp_width=1536, max_tokens=ROW_TOKENS
        ),
        49152, 4, 9,
    ),
}  # fmt: skip
ARMS = ("prealign", "Trainer", "Trainer, compiled")
PLAIN_LOOP = {"1M": 0.28, "10M": 0.43, "30M": 0.56}
"""Shares of the ceiling that a plain loop with bf16 and torch.compile has reached."""


class RandomRows:
    """Rows of random text tokens."""

    def __init__(self, vocab_size: int, num_rows: int) -> None:
        self.num_rows, self.row_tokens = num_rows, ROW_TOKENS
        rng = np.random.default_rng(0)
        self.ids = rng.integers(0, vocab_size, size=(num_rows, ROW_TOKENS + 1))

    def rows(self, indices: Any) -> PackedRows:
        """Return these rows."""
        ids = self.ids[np.asarray(indices)]
        zeros = np.zeros(ids.shape, dtype=np.uint8)
        return PackedRows(ids, zeros, zeros.astype(np.float32), zeros, zeros.astype(np.int32))


class Clock(TrainerCallback):  # type: ignore[misc]
    """Notes when each step ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())


def ours(model: LlamaForCausalLM, vocab_size: int, rows: int, steps: int) -> list[float]:
    """Return the seconds of each step of our loop."""
    settings = TrainSettings(
        batch_rows=rows, precision="bf16", compile="on", log_every_steps=1, spike_factor=None
    )
    with tempfile.TemporaryDirectory() as name:
        run = open_run(Path(name) / "run", {})
        train(model, [Phase(Likelihood(), RandomRows(vocab_size, rows * steps))], settings, run)
        elapsed = [0.0, *(row["elapsed_s"] for row in run.rows("metrics"))]
    return [b - a for a, b in pairwise(elapsed)]


def theirs(
    model: LlamaForCausalLM, vocab_size: int, rows: int, steps: int, *, compiled: bool
) -> list[float]:
    """Return the seconds of each step of the Trainer of transformers."""
    data = RandomRows(vocab_size, rows * steps)
    examples = [{"input_ids": row[:-1], "labels": row[:-1]} for row in torch.from_numpy(data.ids)]
    clock = Clock()
    with tempfile.TemporaryDirectory() as name:
        arguments = TrainingArguments(
            output_dir=name, use_cpu=True, bf16=True, per_device_train_batch_size=rows,
            max_steps=steps, learning_rate=1e-3, weight_decay=0.1, max_grad_norm=1.0,
            report_to="none", save_strategy="no", logging_steps=10**6, disable_tqdm=True,
            torch_compile=compiled,
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=examples, callbacks=[clock])
        trainer.train()
    return [b - a for a, b in pairwise(clock.times)]


def one(arm: str, size: str) -> None:
    """Print the tokens per second of one arm."""
    shape, vocab_size, rows, steps = SIZES[size]
    model = make_model(shape, vocab_size, seed=0)
    if arm == "prealign":
        seconds = ours(model, vocab_size, rows, steps)
    else:
        seconds = theirs(model, vocab_size, rows, steps, compiled="compiled" in arm)
    speed = rows * ROW_TOKENS / statistics.median(seconds[WARM_STEPS:])
    flops = 6 * num_parameters(model) + 6 * shape.layers * shape.width * ROW_TOKENS
    print("RESULT " + json.dumps({"speed": speed, "flops": flops, "n": num_parameters(model)}))


def ceiling(seconds: float = 3.0) -> float:
    """Return the bf16 FLOP/s of a large matrix product, the best of several."""
    a, b = (torch.randn(2048, 2048).bfloat16() for _ in range(2))
    best = 0.0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        a @ b
        best = max(best, 2 * 2048**3 / (time.perf_counter() - start))
    return best


def child(arm: str, size: str) -> dict[str, float]:
    """Run one arm in a process of its own."""
    command = [sys.executable, __file__, "--one", arm, "--sizes", size]
    # One thread: with more, one other busy process on the machine makes every figure worthless.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{arm}, {size}: failed\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(lines[-1].removeprefix("RESULT "))
    return found


def held(out: Path, sizes: list[str]) -> tuple[list[ResultRow], list[Check], dict[str, Any]]:
    """Return what a results file holds of sizes other than these, and when it was measured."""
    data = json.loads(out.read_text())
    rows = [ResultRow(**row) for row in data["rows"] if row["arm"].rsplit(", ")[-1] not in sizes]
    checks = [Check(**one) for one in data["checks"] if one["what"].split(":")[0] not in sizes]
    earlier = {key: data[key] for key in ("command", "commit", "date", "wall_s")}
    kept = sorted({row.arm.rsplit(", ")[-1] for row in rows})
    return rows, checks, {"earlier": [*data.get("earlier", []), {"sizes": kept, **earlier}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/training.json"))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--keep", action="store_true", help="keep what --out holds of the other sizes"
    )
    parser.add_argument("--one", choices=ARMS, help="one arm of one size, in this process")
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one, arguments.sizes[0])
        return
    torch.set_num_threads(1)
    began = time.monotonic()
    rows, checks, kept = held(arguments.out, arguments.sizes) if arguments.keep else ([], [], {})
    for size in arguments.sizes:
        found: dict[str, list[float]] = {arm: [] for arm in ARMS}
        tops = []
        for round_ in range(arguments.rounds):
            tops.append(ceiling())
            for arm in ARMS:
                result = child(arm, size)
                found[arm].append(result["speed"])
                print(
                    f"{size}, round {round_ + 1}, {arm}: {result['speed']:,.0f} tokens/s",
                    flush=True,
                )
        for arm in ARMS:
            speeds = found[arm]
            rows.append(
                ResultRow(arm=f"{arm}, {size}", metric="speed", unit="tokens/s",
                          value=round(statistics.median(speeds), 1), low=round(min(speeds), 1),
                          high=round(max(speeds), 1), n=len(speeds))
            )  # fmt: skip
        top = statistics.median(tops)
        rows.append(ResultRow(arm=f"bf16 matrix product, {size}", metric="ceiling", unit="GFLOP/s",
                              value=round(top / 1e9, 1)))  # fmt: skip
        rows.append(ResultRow(arm=f"prealign, {size}", metric="parameters", unit="weights",
                              value=result["n"]))  # fmt: skip
        share = statistics.median(found["prealign"]) * result["flops"] / top
        rows.append(ResultRow(arm=f"prealign, {size}", metric="share of the ceiling", unit="share",
                              value=round(share, 3)))  # fmt: skip
        for arm in ARMS[1:]:
            pairs = zip(found["prealign"], found[arm], strict=True)
            ratios = [a / b for a, b in pairs]
            value = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            checks.append(
                Check(what=f"{size}: tokens/s, ours over {arm}", bar="> 1 in every round",
                      value=value, holds=min(ratios) > 1, control=f"{arm}, {size}")
            )  # fmt: skip
        if size in PLAIN_LOOP:
            bar = PLAIN_LOOP[size]
            checks.append(
                Check(what=f"{size}: share of the bf16 ceiling", bar=f">= {bar} (a plain loop)",
                      value=round(share, 3), holds=share >= bar,
                      control=f"bf16 matrix product, {size}")
            )  # fmt: skip
    write_results(
        arguments.out,
        question="Is our loop ahead of the Trainer of transformers, and how near to the machine?",
        seeds=[0],
        wall_s=time.monotonic() - began,
        rows=rows,
        checks=checks,
        extra=kept,
    )


if __name__ == "__main__":
    main()

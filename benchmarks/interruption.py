"""Kill annotate and train at random moments, start them again, and compare with an unharmed run.

    python benchmarks/interruption.py --out results/interruption.json

Each is killed with SIGKILL five times, at moments drawn from the seed, and started again until it
ends. Shards, weights, metrics and evaluations must be those of a run that nobody touched.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from prealign.runs import Check, ResultRow, write_results

KILLS = 5
ANNOTATE = """
import sys
from pathlib import Path
from itertools import islice
from prealign.corpora.source import PythonSource
from prealign.score.annotate import annotate
from prealign.score.pep8 import Pycodestyle
from prealign.score.segment import Lines
from prealign.score.tag import Threshold

if __name__ == "__main__":
    documents = islice(PythonSource(packages=False)(), 400)
    annotate(documents, Path(sys.argv[1]), segmenter=Lines(), scorer=Pycodestyle(),
             tagger=Threshold(score="pycodestyle"), source={"text": "stdlib"}, processes=2)
"""
TRAIN = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from prealign.config import override
from prealign.recipes.first_steps import prepare, recipe, train_arm

if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    run = override(recipe("tiny"), ["text_tokens=400000", "train.compile=off", "train.evals=4",
                   "samples=8", "train.checkpoint_every_s=1", "train.log_every_steps=1"])
    prepare(run, out)
    train_arm(run, out, "conditional", 0)
"""


def shards(out: Path) -> dict[str, str]:
    """Return a digest of every shard."""
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.glob("*.parquet"))
    }


def trained(out: Path) -> dict[str, str]:
    """Return a digest of weights, evaluations and samples, and of metrics without their times."""
    run = out / "conditional-seed0"
    found = {}
    for name in ("model/model.safetensors", "evals.jsonl", "samples.jsonl"):
        found[name] = hashlib.sha256((run / name).read_bytes()).hexdigest()
    return found


def start(script: Path, out: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(script), str(out)],
        env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def measure(
    name: str, code: str, digest: Callable[[Path], dict[str, str]], folder: Path, rng: random.Random
) -> tuple[list[ResultRow], Check]:
    script = folder / f"{name}.py"
    script.write_text(code)
    began = time.monotonic()
    start(script, folder / f"{name}-whole").wait()
    whole_s = time.monotonic() - began
    expected = digest(folder / f"{name}-whole")
    tries = 0
    out = folder / f"{name}-killed-{tries}"
    killed = 0
    moments = []
    while True:
        process = start(script, out)
        after_s = rng.uniform(0.25, 0.9) * whole_s if killed < KILLS else None
        try:
            code_ = process.wait(after_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
            moments.append(after_s or 0.0)
            continue
        if code_ == 0 and killed < KILLS:  # it ended before the moment came: begin once more
            found = digest(out)
            if found != expected:
                break
            tries += 1
            out = folder / f"{name}-killed-{tries}"
            continue
        break
    found = digest(out)
    print(f"{name}: {killed} kills after {[round(m, 1) for m in moments]} s; {len(expected)} files")
    same = sum(found.get(key) == value for key, value in expected.items())
    rows = [
        ResultRow(arm=name, metric="kills", unit="kills", value=killed),
        ResultRow(arm=name, metric="files equal", unit="files", value=same, n=len(expected)),
        ResultRow(arm=name, metric="uninterrupted", unit="s", value=round(whole_s, 2)),
    ]
    holds = found == expected and killed >= KILLS
    value = f"{same} of {len(expected)} files equal after {killed} kills"
    bar = f"all files equal, byte for byte, after {KILLS} kills"
    return rows, Check(what=name, bar=bar, value=value, holds=holds, control="uninterrupted run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/interruption.json"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        parts = [
            measure("annotate", ANNOTATE, shards, Path(name), rng),
            measure("train", TRAIN, trained, Path(name), rng),
        ]
    write_results(
        arguments.out,
        question="Is the output of annotate and of train the same after kills as without?",
        seeds=[arguments.seed],
        wall_s=time.monotonic() - began,
        rows=[row for rows, _ in parts for row in rows],
        checks=[check for _, check in parts],
    )


if __name__ == "__main__":
    main()

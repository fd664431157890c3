"""The guard in a real vLLM: a tiny model with modes, pushed to each denied id, with and without.

    python benchmarks/vllm_smoke.py --out results/vllm_smoke.json

Needs vLLM (0.33 or so, on a CPU or a GPU); without it this says so and writes nothing. The model
is made on the spot and has random weights; what it wants is said by `logit_bias`, which vLLM adds
in front of the guard. Guarded and unguarded engine run in processes of their own. So does the
server in front of vLLM, which OpenAI's client talks to (`vllm_server.py`).
"""

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import vllm_server

from prealign.errors import GuardError
from prealign.guard.engine import check_engine, gate_stream
from prealign.guard.table import Table
from prealign.guard.vllm_settings import (
    MODEL_VARIABLE,
    OFF,
    POLICY_VARIABLE,
    check_config,
    policies_from,
)
from prealign.models.create import LlamaShape, make_model
from prealign.models.files import save_model
from prealign.runs import Check, ResultRow, write_results
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary, load_vocabulary

POLICY = "lock ai"
IDS = 24
REQUESTS = 64
SETTINGS = {
    "greedy": {"temperature": 0.0},
    "drawn": {"temperature": 1.0, "seed": 0},
    "nucleus": {"temperature": 2.0, "top_p": 0.9, "top_k": 50, "seed": 1},
}


def make_folder(folder: Path) -> None:
    """Write a tiny model; heads of 32 and 1,000 ids or so suit most kernels."""
    text = "to be or not to be, that is the question\n"
    vocabulary = Vocabulary(train_text_tokenizer([text], size=280), TWO_MODES)
    shape = LlamaShape(width=64, layers=2, heads=2, kv_heads=2, max_tokens=128)
    model = make_model(shape, vocabulary.size, seed=0)
    save_model(folder, model, vocabulary, card="# A model of random weights\n")


def engine(folder: Path) -> Any:
    """Return vLLM with the model; the environment decides about the guard."""
    from vllm import LLM  # only where it is installed

    return LLM(
        str(folder),
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=96,
        max_num_seqs=16,
        gpu_memory_utilization=0.2,
        logprobs_mode="processed_logprobs",
        logits_processors=["prealign.guard.vllm:ModeGuard"],
    )


def written(llm: Any, prompts: Sequence[Sequence[int]], sampling: Any) -> list[list[int]]:
    """Return the ids that vLLM writes behind each prompt."""
    asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
    done = llm.generate(asked, sampling, use_tqdm=False)
    return [list(one.outputs[0].token_ids) for one in done]


def denied(table: Table, prompt: Sequence[int], ids: Sequence[int]) -> bool:
    """Return whether the gate refuses one of the ids."""
    try:
        list(gate_stream(table, 0, prompt, ids))
    except GuardError:
        return True
    return False


def in_process(folder: Path, guarded: bool) -> dict[str, Any]:
    """Return what one engine did: canary, a crowd of biased requests, and what it refuses."""
    from vllm import SamplingParams, __version__

    vocabulary = load_vocabulary(folder)
    table = policies_from(POLICY, vocabulary)
    llm = engine(folder)
    v2 = bool(getattr(llm.llm_engine.vllm_config, "use_v2_model_runner", False))
    found: dict[str, Any] = {"v2": v2, "vllm": __version__}

    def params(bias: dict[int, float], setting: dict[str, Any]) -> Any:
        return SamplingParams(
            max_tokens=IDS, logit_bias=bias, detokenize=False,
            stop_token_ids=None, **setting,
        )  # fmt: skip

    def write(token: int, prompt: Sequence[int], setting: dict[str, Any]) -> Sequence[int]:
        return written(llm, [prompt], params({token: 100.0}, setting))[0]

    if guarded:
        check_config(llm.llm_engine.vllm_config)
        report = check_engine(write, table, settings=SETTINGS, prefix=[vocabulary.end_id])
        found |= {"canary_runs": report.runs, "canary_ids": report.ids}
        found["refused"] = _refuses(llm, SamplingParams, [vocabulary.end_id])
    rng = random.Random(0)
    start = [vocabulary.end_id, *table.opening(0)]
    prompts = [[*start, *rng.choices(range(200), k=rng.randrange(9))] for _ in range(REQUESTS)]
    tags = [token for _, token in table.ids.tags]
    some = [params({rng.choice(tags): 8.0, rng.choice(tags): 8.0}, {"temperature": 1.0, "seed": i})
            for i in range(REQUESTS)]  # fmt: skip
    began = time.perf_counter()
    ids = written(llm, prompts, some)
    found["crowd_s"] = time.perf_counter() - began
    found["crowd_ids"] = sum(map(len, ids))
    found["crowd_tags"] = int(np.isin(np.concatenate(ids), tags).sum())
    found["crowd_denied"] = sum(denied(table, *pair) for pair in zip(prompts, ids, strict=True))
    return found


def _refuses(llm: Any, params: Any, prompt: list[int]) -> int:
    """Return how many of four requests that pass the guard by are refused."""
    asked = [
        {"ignore_eos": True}, {"min_tokens": 3}, {"prompt_logprobs": 2},
        {"extra_args": {"prealign_policy": "free"}},
    ]  # fmt: skip
    refused = 0
    for fields in asked:
        try:
            written(llm, [prompt], params(max_tokens=4, detokenize=False, **fields))
        except Exception as error:  # each version of vLLM has its own
            if "prealign guard" not in str(error):
                raise
            refused += 1
    return refused


def run(folder: Path, guarded: bool) -> dict[str, Any]:
    """Return what `in_process` found, in a process of its own."""
    environment = os.environ | {POLICY_VARIABLE: OFF}
    if guarded:
        environment |= {POLICY_VARIABLE: POLICY, MODEL_VARIABLE: str(folder)}
    command = [sys.executable, __file__, "--inside", str(folder), *(["--guarded"] * guarded)]
    subprocess.run(command, env=environment, check=True)
    found: dict[str, Any] = json.loads(_found(folder).read_text())
    return found


def _found(folder: Path) -> Path:
    """Return where a process leaves what it found; vLLM prints as it likes."""
    return folder.with_suffix(".json")


def results(guarded: dict[str, Any], free: dict[str, Any]) -> tuple[list[ResultRow], list[Check]]:
    """Return rows and checks."""
    rows = [
        ResultRow(arm=arm, metric=metric, unit=unit, value=float(found[key]), n=found["crowd_ids"])
        for arm, found in (("guarded", guarded), ("without", free))
        for metric, unit, key in (
            ("requests with a denied id", f"of {REQUESTS}", "crowd_denied"),
            ("tags written", "ids", "crowd_tags"),
            ("wall time of the crowd", "s", "crowd_s"),
        )
    ]
    rows.append(
        ResultRow(arm="guarded", metric="canary runs", unit="runs", value=guarded["canary_runs"])
    )
    checks = [
        Check(what="requests with a denied id, guarded", bar="0", value=guarded["crowd_denied"],
              holds=guarded["crowd_denied"] == 0, control="without"),
        Check(what="requests with a denied id, without the guard", bar="1 or more",
              value=free["crowd_denied"], holds=free["crowd_denied"] > 0, control="guarded"),
        Check(what="requests that pass the guard by are refused", bar="4 of 4",
              value=guarded["refused"], holds=guarded["refused"] == 4, control="guarded"),
    ]  # fmt: skip
    return rows, checks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--inside", type=Path, help="for the processes that this starts")
    parser.add_argument("--guarded", action="store_true", help="for the processes that this starts")
    asked = parser.parse_args()
    if importlib.util.find_spec("vllm") is None:
        print("vLLM is not installed here; nothing was run. pip install vllm")
        return
    if asked.inside:
        _found(asked.inside).write_text(json.dumps(in_process(asked.inside, asked.guarded)))
        return
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder) / "model")
        free, guarded = (run(Path(folder) / "model", on) for on in (False, True))
        served = vllm_server.measure(Path(folder) / "model")
    rows, checks = (
        [*one, *more]
        for one, more in zip(results(guarded, free), vllm_server.results(served), strict=True)
    )
    for check in checks:
        print("holds" if check.holds else "FAILS", check.what, check.value)
    if asked.out:
        write_results(
            asked.out,
            question="Does the guard hold in a real vLLM, and does it fire without it?",
            seeds=[0],
            wall_s=time.perf_counter() - start,
            rows=rows,
            checks=checks,
            extra={"vllm": guarded["vllm"], "v2_model_runner": guarded["v2"]},
        )


if __name__ == "__main__":
    main()

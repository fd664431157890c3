"""From a model's folder to a server in front of vLLM: `prealign serve MODEL --engine vllm`.

vLLM's `AsyncLLM` runs in the server's process, its engine core in one of its own. No client speaks
to vLLM: what comes out of it passes the gate here. Needs vLLM, 0.32 or later.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prealign.errors import ConfigError, DataError, GuardError, MissingDependency, PrealignError
from prealign.guard.canary import CanaryReport
from prealign.guard.engine import check_engine
from prealign.guard.gate import Guard
from prealign.guard.table import Table, table_of
from prealign.guard.vllm_settings import (
    MODEL_VARIABLE,
    POLICY_VARIABLE,
    check_config,
    policies_from,
)
from prealign.models.engine import Request
from prealign.models.sample import Sampling
from prealign.serve.access import Keys
from prealign.serve.metrics import Metrics
from prealign.serve.run import Serving, announce, make_server, plan, service_of, sockets_at
from prealign.serve.service import Service
from prealign.serve.vllm_worker import VllmWorker
from prealign.tokens.vocabulary import Vocabulary, load_vocabulary

try:
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM
except ImportError:
    AsyncLLM = None

BIAS = 100.0
"""As much as vLLM adds to a logit."""
CANARY_IDS = 3
"""Text ids that a run of the canary writes."""
CANARY: Mapping[str, Sampling] = {
    "greedy": Sampling(temperature=0, max_text_tokens=CANARY_IDS),
    "drawn": Sampling(temperature=1, top_p=1, max_text_tokens=CANARY_IDS),
    "nucleus": Sampling(temperature=1.5, top_p=0.9, max_text_tokens=CANARY_IDS),
}
LOG = logging.getLogger("prealign.serve")


def serve(folder: Path, serving: Serving, *, host: str, port: int, keys: Keys | None) -> None:
    """Serve a model that `save_model` wrote, until the process is told to end (SIGINT, SIGTERM).

    Raises:
        MissingDependency: vLLM is not installed.
        GuardError: vLLM's path is not guarded: nothing is served.
        PrealignError: The model cannot be served so.
    """
    if AsyncLLM is None:
        raise MissingDependency(
            "--engine vllm needs vLLM: pip install vllm (0.32 or later; see "
            "docs/guard-in-engines.md for how both are installed beside each other)"
        )
    if not (folder / "scheme.json").is_file():
        raise DataError(
            f"{folder}: has no scheme.json, so nothing says what its tag ids mean; "
            "give a folder that save_model wrote"
        )
    vocabulary = load_vocabulary(folder)
    plugin_table(vocabulary, plan(vocabulary, serving)[0])
    with contextlib.suppress(KeyboardInterrupt):  # sent again by uvicorn, behind a graceful stop
        asyncio.run(_serve(folder, vocabulary, serving, host, port, keys))


def plugin_table(vocabulary: Vocabulary, table: Table) -> str:
    """Return the names of a table's policies as vLLM's plug-in reads them.

    Raises:
        ConfigError: One of them is none that requests to vLLM can choose.
        GuardError: By these names the plug-in would mask by other rights than the gate judges.
    """
    names = ", ".join(policy.name for policy in table.policies)
    theirs = policies_from(names, vocabulary)
    same = all(
        np.array_equal(getattr(table, name), getattr(theirs, name))
        for name in ("column_of", "next", "may", "longest")
    )
    if not same:
        raise GuardError(f"vLLM's plug-in would read {names!r} as other policies than the gate's")
    return names


async def _serve(
    folder: Path,
    vocabulary: Vocabulary,
    serving: Serving,
    host: str,
    port: int,
    keys: Keys | None,
) -> None:
    for one in sockets_at(host, port):  # vLLM takes its time: see now that the port is free
        one.close()
    engine = start_engine(folder, vocabulary, serving)
    try:
        check_config(engine.vllm_config)
        make_params = partial(SamplingParams, output_kind=RequestOutputKind.DELTA, detokenize=False)
        room = int(engine.model_config.max_model_len)
        name = folder.resolve().name
        service = await make_service(name, engine, make_params, vocabulary, serving, room)
        server = make_server(service, host=host, port=port, keys=keys)
        sockets = sockets_at(host, port)  # not before vLLM forks, which would hold the port
        announce(service, host, sockets)
        await server.serve(sockets=sockets)
    finally:
        engine.shutdown()


def start_engine(folder: Path, vocabulary: Vocabulary, serving: Serving) -> Any:
    """Return vLLM's `AsyncLLM` with the plug-in, and tell the plug-in what it guards.

    Raises:
        ConfigError: vLLM does not start.
    """
    os.environ[MODEL_VARIABLE] = str(folder)
    os.environ[POLICY_VARIABLE] = plugin_table(vocabulary, plan(vocabulary, serving)[0])
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    settings = serving.vllm
    try:
        return AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=str(folder),
                load_format="safetensors",
                skip_tokenizer_init=True,
                max_model_len=serving.room,
                max_num_seqs=serving.rows,
                dtype=settings.dtype,
                enforce_eager=settings.eager,
                gpu_memory_utilization=settings.gpu_memory,
                tensor_parallel_size=settings.tensor_parallel,
                logits_processors=["prealign.guard.vllm:ModeGuard"],
                # From before the mask, for the pressure; 0: nobody may ask for the likeliest ids.
                logprobs_mode="raw_logprobs",
                max_logprobs=0,
                disable_log_stats=True,
            )
        )
    except PrealignError:
        raise
    except Exception as error:  # each version of vLLM has its own
        line = str(error).strip().partition("\n")[0]
        raise ConfigError(f"{folder}: vLLM does not start with it: {line}") from error


async def make_service(
    name: str,
    engine: Any,
    make_params: Any,
    vocabulary: Vocabulary,
    serving: Serving,
    room: int,
) -> Service:
    """Return a service whose path through vLLM has been put to the canary's test.

    Args:
        name: What clients call the model.
        engine: vLLM's `AsyncLLM`, whose plug-in has the policies of `serving`.
        make_params: vLLM's `SamplingParams`, which must ask for deltas.
        vocabulary: The model's.
        serving: What it is served as.
        room: Tokens of a prompt and what is written behind it.

    Raises:
        GuardError: The path is not guarded: nothing is served.
        PrealignError: Settings that do not fit the model's scheme.
    """
    table, others = plan(vocabulary, serving)
    guard = Guard(table, pressure=False)
    worker = VllmWorker(
        engine, make_params, guard, vocabulary, room, Metrics(), serving.limits.queue
    )
    for index in range(len(table.policies)):
        report = await check_policy(worker, vocabulary, index)
        LOG.info("canary: %d runs, %d ids, none of them denied", report.runs, report.ids)
    return service_of(name, vocabulary, table, others, worker, serving)


async def check_policy(worker: VllmWorker, vocabulary: Vocabulary, index: int) -> CanaryReport:
    """Return what the canary tried on vLLM for one policy, with vLLM biased to each denied id.

    First a text id is wanted, which is allowed: unless it comes out the bias has no effect, and the
    canary would show nothing.

    Raises:
        GuardError: A denied id came out, or the bias has no effect.
    """
    loop = asyncio.get_running_loop()
    table = worker.guard.table

    async def ids_of(token: int, prompt: Sequence[int], setting: Sampling) -> list[int]:
        request = Request(prompt=tuple(prompt), settings=setting, seed=0, policy=index)
        found: list[int] = []
        stream = worker.written(request, logit_bias={token: BIAS})
        async with aclosing(stream) as outputs:
            async for output in outputs:
                found += output.outputs[0].token_ids
                if len(found) >= CANARY_IDS or vocabulary.end_id in found:
                    break
        return found

    def write(token: int, prompt: Sequence[int], setting: Any) -> Sequence[int]:
        return asyncio.run_coroutine_threadsafe(ids_of(token, prompt, setting), loop).result()

    prompt = (vocabulary.end_id, *table.opening(index))
    wanted = vocabulary.text_size // 2
    if wanted not in await ids_of(wanted, prompt, CANARY["greedy"]):
        raise GuardError(
            f"canary: vLLM does not write id {wanted} with a bias of {BIAS:g} to it, so a bias "
            "to denied ids would show nothing: refused"
        )
    return await asyncio.to_thread(
        check_engine, write, table_of(vocabulary, table.policies[index]),
        settings=CANARY, prefix=[vocabulary.end_id],
    )  # fmt: skip

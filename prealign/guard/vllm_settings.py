"""What a vLLM server must be told of the guard, and what it must not be told besides.

The policy comes from two environment variables, because both of vLLM's processes have to know it
and the one that admits requests shows a plug-in no configuration:

    PREALIGN_GUARD_MODEL   the folder that `save_model` wrote
    PREALIGN_GUARD         names of policies, by commas: `lock ai, lock-noquote ai`; the first is
                           for all requests, a request may choose among the others, which must
                           not be looser; `off`: no guard

Settings and requests are read by the names of their fields alone, so nothing here imports vLLM.
Field names and orders are those of vLLM 0.33.
"""

import os
import secrets
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prealign.errors import ConfigError, GuardError
from prealign.guard.follow import no_looser
from prealign.guard.policy import named
from prealign.guard.table import TEXT, Table, table_of
from prealign.tokens.vocabulary import Vocabulary, load_vocabulary

MODEL_VARIABLE = "PREALIGN_GUARD_MODEL"
POLICY_VARIABLE = "PREALIGN_GUARD"
REQUEST_KEY = "prealign_policy"
"""In a request's `extra_args` (over HTTP: `vllm_xargs`): the name of a policy."""
OWN_KEY, OWN = "prealign_own", secrets.token_hex(16)
"""In `extra_args`: the request is of code in the process that admits it, which alone knows this.

It may ask for the log-probabilities of tags: `prealign serve` does, and shows them to nobody.
"""
OFF = "off"


def table_from(
    environment: Mapping[str, str] = os.environ, model: str | None = None
) -> Table | None:
    """Return the table that the environment names; None where the guard is off.

    Args:
        environment: Has the two variables, or not.
        model: The folder that the engine serves, where that is known.

    Raises:
        ConfigError: A policy is unknown or looser than the first; a variable is missing; the
            model has a scheme, and nothing says whether to guard it; it is another model.
        DataError: The folder has no scheme.
    """
    folder, wanted = environment.get(MODEL_VARIABLE), environment.get(POLICY_VARIABLE)
    scheme = model is not None and (Path(model) / "scheme.json").is_file()
    if wanted == OFF:
        return None
    if wanted is None and folder is None:
        if scheme:
            raise ConfigError(
                f"{model}: has modes, and {POLICY_VARIABLE} does not say what the model may do "
                f"with them; set it and {MODEL_VARIABLE}, or set {POLICY_VARIABLE}={OFF}"
            )
        return None
    if not wanted or not folder:
        raise ConfigError(
            f"{MODEL_VARIABLE}={folder!r}, {POLICY_VARIABLE}={wanted!r}: set both, or "
            f"{POLICY_VARIABLE}={OFF}"
        )
    table = _load(folder, wanted)
    if model is not None and (
        not scheme or load_vocabulary(Path(model)).fingerprint != table.ids.marks
    ):
        raise ConfigError(
            f"the engine serves {model}, {MODEL_VARIABLE} is {folder}: these are not the same "
            "vocabulary; name the folder that is served"
        )
    return table


def policies_from(wanted: str, vocabulary: Vocabulary) -> Table:
    """Return the table of policies by their names, such as `lock ai, stay`.

    Raises:
        ConfigError: One is unknown, needs a mode, or is looser than the first.
        DataError: The scheme has no such mode.
    """
    pairs = [name.strip().partition(" ") for name in wanted.split(",")]
    policies = [named(name, vocabulary.scheme, mode.strip() or None) for name, _, mode in pairs]
    table = table_of(vocabulary, *policies)
    first = table.policies[0].name
    for policy in table.policies[1:]:
        if not no_looser(table, policy.name, first):
            raise ConfigError(
                f"{POLICY_VARIABLE}: {policy.name!r} allows something that {first!r} does not; "
                "requests choose among the policies, so those behind the first must not be looser"
            )
    return table


def policy_of(table: Table, params: Any) -> int:
    """Return the index of the policy that a request is under.

    Raises:
        GuardError: It names one that is not offered.
    """
    name = (getattr(params, "extra_args", None) or {}).get(REQUEST_KEY)
    names = [policy.name for policy in table.policies]
    if name is None:
        return 0
    if name not in names:
        raise GuardError(f"{REQUEST_KEY}={name!r}: this server allows {', '.join(names)}")
    return names.index(name)


class Finding(NamedTuple):
    """One setting that lets ids or their probabilities past the guard."""

    setting: str
    why: str
    instead: str


def check_params(table: Table, params: Any) -> None:
    """See that a request asks for nothing that the guard cannot hold.

    Args:
        table: What the model may write.
        params: vLLM's `SamplingParams`, or a `BeamSearchParams`.

    Raises:
        GuardError: It does; the line says what.
    """
    policy_of(table, params)
    special = set(np.flatnonzero(table.column_of != TEXT).tolist())
    refused = {
        "beam_width": "beam search ranks logits from before the guard",
        "ignore_eos": "behind the end of text the model could only end it again",
        "min_tokens": "where the model may only end, it could write nothing",
        "thinking_token_budget": "its end is forced behind the guard",
        "trace_decode_token_ids": "a trace is written instead of what was sampled",
        "use_beam_search": "beam search ranks logits from before the guard",
    }
    for name, why in refused.items():
        if getattr(params, name, None):
            raise GuardError(f"{name}={getattr(params, name)!r}: refused: {why}")
    own = (getattr(params, "extra_args", None) or {}).get(OWN_KEY) == OWN
    for name in ("allowed_token_ids", "stop_token_ids", "logprob_token_ids"):
        if own and name == "logprob_token_ids":
            continue
        found = sorted(special & set(getattr(params, name, None) or ()))
        if found:
            raise GuardError(
                f"{name}: has id {found[0]} ({table.label(found[0])}), which is the guard's"
            )
    step = getattr(params, "max_tokens", None) == 1 and not getattr(params, "detokenize", True)
    if step and (getattr(params, "logprobs", None) or 0) >= 2:
        raise GuardError(
            f"max_tokens=1, logprobs={params.logprobs}, detokenize=False: refused: this is how vLLM"
            " asks for a step of beam search, which reads what it wrote as a prompt"
        )
    if getattr(params, "prompt_logprobs", None):
        raise GuardError(
            f"prompt_logprobs={params.prompt_logprobs}: refused: they are from before the guard; "
            "0 shows those of the prompt alone"
        )


def findings(vllm_config: Any) -> list[Finding]:
    """Return what of a vLLM configuration passes the guard by; empty: nothing that is known."""
    model = vllm_config.model_config
    v2 = bool(getattr(vllm_config, "use_v2_model_runner", False))
    found = [*_around_the_mask(vllm_config, v2), *_around_the_runner(vllm_config, v2)]
    raw = str(getattr(model, "logprobs_mode", "raw_logprobs")).startswith("raw")
    if raw and getattr(model, "max_logprobs", 20) != 0:
        found.append(
            Finding(
                f"logprobs_mode={getattr(model, 'logprobs_mode', 'raw_logprobs')!r}",
                "shows what the model would have written of denied ids, and beams are ranked by it",
                "logprobs_mode='processed_logprobs', or max_logprobs=0",
            )
        )
    return found


def check_config(vllm_config: Any, environment: Mapping[str, str] = os.environ) -> Table:
    """Return the table that guards this engine, if nothing in its configuration passes it by.

    Call it on `llm.llm_engine.vllm_config` before anything is served: the plug-in calls it as
    well, but with some of these settings vLLM never makes the plug-in.

    Raises:
        GuardError: Something does, or the guard is off; one line for each.
        ConfigError: As `table_from`.
    """
    table = table_from(environment, str(vllm_config.model_config.model))
    if table is None:
        raise GuardError(f"vLLM: the guard is off ({POLICY_VARIABLE} is {OFF} or not set)")
    lines = [f"{one.setting}: {one.why}; use {one.instead}" for one in findings(vllm_config)]
    size = vllm_config.model_config.get_vocab_size()
    if size != table.ids.size:
        lines.append(f"the engine has {size} ids, the guard {table.ids.size}; serve its own folder")
    if lines:
        raise GuardError("vLLM is not guarded with\n  " + "\n  ".join(lines))
    return table


def _around_the_mask(vllm_config: Any, v2: bool) -> list[Finding]:
    """Return what writes ids behind the mask, or without it."""
    model, found = vllm_config.model_config, []
    speculative = getattr(vllm_config, "speculative_config", None)
    if getattr(vllm_config, "reasoning_config", None) is not None:
        found.append(Finding("reasoning_config", "its budget forces ids behind the guard", "none"))
    if getattr(model, "enable_trace_replay", False):
        found.append(Finding("enable_trace_replay=True", "a trace replaces samples", "False"))
    if getattr(model, "enable_prompt_embeds", False):
        found.append(
            Finding("enable_prompt_embeds=True", "a prompt without ids has no state", "False")
        )
    if getattr(vllm_config, "diffusion_config", None) is not None:
        found.append(
            Finding("diffusion_config", "ids are not written one behind the other", "none")
        )
    if speculative is None:
        return found
    if not v2:
        found.append(
            Finding(
                "speculative_config with the V1 model runner",
                "vLLM drops installed logits processors without a word",
                "model runner V2, or no speculative_config",
            )
        )
    method = getattr(speculative, "rejection_sample_method", "standard")
    if method not in ("standard", "block"):
        found.append(
            Finding(
                f"rejection_sample_method={method!r}",
                "drafts are accepted by another rule than the guarded distribution",
                "'standard' or 'block'",
            )
        )
    return found


def _around_the_runner(vllm_config: Any, v2: bool) -> list[Finding]:
    """Return what keeps a model runner from showing the plug-in the ids."""
    found = []
    device = str(getattr(getattr(vllm_config, "device_config", None), "device_type", ""))
    if device == "tpu":
        found.append(
            Finding("device 'tpu'", "vLLM loads no logits processors there", "cuda or cpu")
        )
    scheduler = getattr(vllm_config, "scheduler_config", None)
    asynchronous = bool(getattr(scheduler, "async_scheduling", False))
    if not v2 and asynchronous and not getattr(vllm_config.model_config, "logits_processors", None):
        found.append(
            Finding(
                "async_scheduling=True with the V1 model runner and an installed plug-in alone",
                "vLLM then leaves -1 in place of what was written",
                "logits_processors=['prealign.guard.vllm:ModeGuard'], or async_scheduling=False",
            )
        )
    return found


@lru_cache(maxsize=4)
def _load(folder: str, wanted: str) -> Table:
    return policies_from(wanted, load_vocabulary(Path(folder)))

"""`generate` of transformers behind the guard: settings are checked, then ids, then what came out.

Nothing is returned unless every id of it passed the gate, whichever way transformers took. What
is not known here to respect the mask is refused, by name: only settings on the list may be set.

Shape letters:  B = rows,  L = tokens.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList

from prealign.errors import GuardError
from prealign.guard.gate import Guard
from prealign.guard.hf import (
    ModeGuardLogitsProcessor,
    ModeGuardStreamer,
    RowGate,
    Rows,
    id_rows,
    is_text,
    pad_id_of,
)
from prealign.guard.table import Table

ARGUMENTS = {
    "attention_mask", "assistant_model", "generation_config", "logits_processor",
    "prefix_allowed_tokens_fn", "stopping_criteria", "streamer", "tokenizer",
}  # fmt: skip
"""What `generate` takes beside settings. Processors and constraints act before the guard does."""
SETTINGS = {
    "assistant_confidence_threshold", "bos_token_id", "cache_config", "cache_implementation",
    "compile_config", "disable_compile", "do_sample", "early_stopping", "eos_token_id",
    "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty", "length_penalty",
    "max_cache_len", "max_length", "max_matching_ngram_size", "max_new_tokens", "max_time",
    "min_length", "min_new_tokens", "min_p", "no_repeat_ngram_size", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "num_beams", "num_return_sequences", "output_attentions",
    "output_hidden_states", "output_logits", "output_scores", "pad_token_id",
    "prompt_lookup_num_tokens", "remove_invalid_values", "renormalize_logits",
    "repetition_penalty", "return_dict_in_generate", "stop_strings", "temperature", "top_h",
    "top_k", "top_p", "typical_p", "use_cache",
}  # fmt: skip
"""Settings that act before the mask, or behind it and only remove ids, or not on ids at all."""
OF_TEXT = ("bad_words_ids", "begin_suppress_tokens", "sequence_bias", "suppress_tokens")
"""Settings that may be set for text ids."""
WHY = {
    "assistant_ensemble_weight": "it accepts a draft's denied ids with the draft's share",
    "custom_generate": "what it does with the mask is not known",
    "forced_bos_token_id": "the harness writes tags, not the sampler",
    "forced_eos_token_id": "the end would be forced where the policy denies it",
    "inputs_embeds": "the guard follows ids, and embeddings have none",
    "negative_prompt_ids": "its ids are not those that the guard follows",
    "past_key_values": "the ids in a cache cannot be seen; give them all as input_ids",
    "token_healing": "it changes the prompt behind the guard's back",
    "watermarking_config": "it edits logits behind the mask",
}
BOOKKEEPING = {"transformers_version", "continuous_batching_config"}


def guarded_generate(
    model: Any,
    table: Table,
    input_ids: Tensor,
    *,
    policy: str | int = 0,
    guard: Guard | None = None,
    **generate_kwargs: Any,
) -> Any:
    """Return what `model.generate` returns, all of it behind mask and gate.

    Greedy, sampling, beams, beam sampling, a draft model (masked too) and prompt lookup, with a
    streamer where transformers allows one. Rows of different lengths are padded in front, with an
    id that nobody may write (the inert one) or the end of text; for the latter give the
    `attention_mask`, as a document too begins with one.

    Args:
        model: A causal language model of transformers, over the table's ids.
        table: What may be written.
        input_ids: The prompts (B, L), the tags that the policy begins with included.
        policy: Which of the table's policies.
        guard: To count and measure with, of the same table; None: one of its own.
        **generate_kwargs: As `generate` takes them, but for those that are refused. Mind that
            `min_new_tokens` forbids an end that a policy may leave as the only choice: it raises.

    Raises:
        GuardError: An argument or setting is refused; a prompt is none of the vocabulary's or does
            not nest; a denied id came out, or something that the guard did not follow.
    """
    guard = own_guard(guard, table)
    config = settled(model, table, generate_kwargs)
    rows = _rows(config, table, input_ids, policy, generate_kwargs)
    _check_prompts(RowGate(copy.copy(guard), rows), input_ids)
    asked = _with_ends(generate_kwargs, rows)
    custom = asked.pop("logits_processor", None) or []
    last = ModeGuardLogitsProcessor(guard, rows)
    if asked.get("streamer") is not None:
        asked["streamer"] = ModeGuardStreamer(asked["streamer"], guard, rows)
    out = model.generate(
        inputs=input_ids, logits_processor=LogitsProcessorList([*custom, last]), **asked
    )
    sequences = out if isinstance(out, Tensor) else out.sequences
    check_output(RowGate(guard, rows, last=True), input_ids, sequences)
    return out


def check_output(gate: RowGate, input_ids: Tensor, sequences: Tensor) -> None:
    """Let every id that was written pass the gate, or raise.

    Args:
        gate: The last one.
        input_ids: The prompts, (B, L).
        sequences: What came out: for each prompt one or more rows, the prompt in front.
    """
    prompts_BL, rows_BL = id_rows(input_ids), id_rows(sequences)
    B, L = prompts_BL.shape
    if not len(rows_BL) or len(rows_BL) % B or rows_BL.shape[1] < L:
        raise GuardError(f"generate: {rows_BL.shape} ids for prompts of {(B, L)}: which is whose?")
    each = len(rows_BL) // B
    if (rows_BL[:, :L] != prompts_BL.repeat(each, axis=0)).any():
        raise GuardError("generate: a prompt comes back changed, so the guard followed other ids")
    places = [gate.prompt(row) for row in prompts_BL for _ in range(each)]
    for ids_B in rows_BL[:, L:].T.tolist():
        places = gate.step(places, ids_B)


def settled(model: Any, table: Table, given: Mapping[str, Any]) -> GenerationConfig:
    """Return the settings that `generate` will use, all of them known to respect the mask.

    Args:
        model: Its class and its own settings are looked at as well.
        table: Says which ids are text.
        given: What `generate` is called with.

    Raises:
        GuardError: Something is refused; the message says what and why.
    """
    _check_model(model, table, "model")
    if given.get("assistant_model") is not None:
        _check_model(given["assistant_model"], table, "assistant_model")
    plain = GenerationConfig()
    known = plain.to_dict()
    for name, value in given.items():
        if name not in ARGUMENTS and name not in known and value is not None:
            _refuse(name, "an argument that the guard does not know")
    settings = {name: value for name, value in given.items() if name in known}
    try:
        config = model._prepare_generation_config(given.get("generation_config"), **settings)[0]
    except ValueError as error:
        raise GuardError(f"generate: settings that transformers refuses: {error}") from error
    usual = plain._get_default_generation_params()
    for name in known:
        value = getattr(config, name, None)
        fine = value is None or value == usual.get(name) or name.startswith("_")
        if name in OF_TEXT:
            _check_text(name, value, table)
        elif not fine and name not in SETTINGS | BOOKKEEPING:
            _refuse(name, "a setting that the guard does not know to respect the mask")
    if config.cache_implementation == "paged":
        _refuse("cache_implementation='paged'", "use guarded_generate_batch")
    found: GenerationConfig = config
    return found


def _check_model(model: Any, table: Table, name: str) -> None:
    if getattr(type(model), "generate", None) is not GenerationMixin.generate:
        raise GuardError(
            f"{name}: {type(model).__name__} does not generate as transformers' models do; give "
            "the causal language model itself"
        )
    if model.config.is_encoder_decoder:
        raise GuardError(
            f"{name}: {type(model).__name__} has an encoder; the guard needs a decoder"
        )
    size = model.config.get_text_config().vocab_size
    if size != table.ids.size:
        raise GuardError(
            f"{name}: writes {size} ids, the guard's table has {table.ids.size}; make the table "
            "of the vocabulary that the model was trained with"
        )


def _refuse(name: str, why: str) -> None:
    reason = WHY.get(name.partition("=")[0], why)
    raise GuardError(f"generate: {name} is refused behind the guard: {reason}; leave it out")


def _check_text(name: str, value: Any, table: Table) -> None:
    ids = list(_flat(value))
    other = [token for token in ids if not is_text(table, token)]
    if other:
        raise GuardError(
            f"generate: {name} names id {other[0]}, which is no text; the guard alone decides on "
            "tags and ends, give text ids"
        )


def _flat(value: Any) -> Iterable[int]:
    """Yield the ids in a setting, however they are nested; of weighted ones, the ids alone."""
    if value is None:
        return
    if isinstance(value, int):
        yield value
    elif isinstance(value, Mapping):
        for key in value:
            yield from _flat(key)
    else:
        for one in value:
            if not isinstance(one, float):
                yield from _flat(one)


def _rows(
    config: GenerationConfig,
    table: Table,
    input_ids: Tensor,
    policy: str | int,
    given: Mapping[str, Any],
) -> Rows:
    """Return how rows are read under these settings."""
    beams = (config.num_beams or 1) > 1
    early = beams or config.stop_strings or config.max_time
    return Rows(
        prompt_tokens=id_rows(input_ids).shape[1],
        pad_id=pad_id_of(table) if config.pad_token_id is None else config.pad_token_id,
        stop_ids=stops_of(config, table),
        policy=policy,
        early=bool(early or given.get("stopping_criteria")),
        beams=beams,
    )


def stops_of(config: GenerationConfig, table: Table) -> tuple[int, ...]:
    """Return the ids that end a row: those of the settings, or the table's ends of text.

    Raises:
        GuardError: An end of text is not among them.
    """
    given = config.eos_token_id
    stops = [given] if isinstance(given, int) else list(given or table.ids.ends)
    missing = set(table.ids.ends) - set(stops)
    if missing:
        raise GuardError(
            f"generate: eos_token_id={stops} lacks {sorted(missing)}, an end of text: what stands "
            "behind it would be another document; add it, or leave eos_token_id out"
        )
    return tuple(int(token) for token in stops)


def _check_prompts(gate: RowGate, input_ids: Tensor) -> None:
    rows_BL = id_rows(input_ids, 1)
    if not len(rows_BL):
        raise GuardError("generate: no prompts")
    for row in rows_BL:
        gate.prompt(row)


def _with_ends(given: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    """Return the arguments, with what ends a row and what pads it."""
    ids = {"eos_token_id": list(rows.stop_ids), "pad_token_id": rows.pad_id}
    others = {name: value for name, value in given.items() if name not in ids}
    if others.get("generation_config") is None:
        return others | ids
    config = copy.deepcopy(others["generation_config"])
    config.update(**ids)
    return others | {"generation_config": config}


def own_guard(guard: Guard | None, table: Table) -> Guard:
    """Return the guard, or a new one of the table; refuse one of another table."""
    if guard is None:
        return Guard(table)
    if guard.table.fingerprint != table.fingerprint:
        raise GuardError(
            f"guard {guard.table.fingerprint} is of another table than {table.fingerprint}"
        )
    return guard

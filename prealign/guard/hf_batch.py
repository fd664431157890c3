"""Continuous batching of transformers behind the guard.

There a processor is shown the last id of each request, and no more: the plain one refuses, as a
state cannot come from that. This one reads the requests themselves, on the host, before each
step, and denies by a small table on the device. Steps are not overlapped, or the last id of a
request would not yet be known.

Shape letters:  N = requests that write,  V = vocabulary,  R = distinct rows of denied ids.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
)

from prealign.errors import GuardError
from prealign.guard.gate import Guard
from prealign.guard.hf import Place, RowGate, Rows, pad_id_of
from prealign.guard.hf_generate import ARGUMENTS, own_guard, settled, stops_of
from prealign.guard.table import RUN_SHIFT, STATE_MASK, TEXT, Table

ONE_ROW = (
    "bad_words_ids", "begin_suppress_tokens", "exponential_decay_length_penalty", "max_time",
    "min_length", "min_new_tokens", "no_repeat_ngram_size", "num_beams", "num_return_sequences",
    "prompt_lookup_num_tokens", "repetition_penalty", "sequence_bias", "stop_strings",
)  # fmt: skip
"""Settings that need whole rows, which continuous batching does not show, or several of one."""


class ModeGuardBatchProcessor(ContinuousBatchingLogitsProcessor):
    """Denies, per request, what the model may not write behind its ids.

    Args:
        guard: Gives table and gate; a copy of its gate judges the ids of the requests.
        rows: How a request's ids are read; its `prompt_tokens` is not looked at.
        device: Where the model is.
    """

    supported_kwargs: dict[str, type] = {}  # noqa: RUF012
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, guard: Guard, rows: Rows, device: torch.device) -> None:
        self._gate = RowGate(copy.copy(guard), rows)
        self._memo: dict[str, tuple[list[int], Place]] = {}
        denied_RV, self._row_of = deny_rows(guard.table)
        self._denied_RV = torch.from_numpy(denied_RV & guard.mask_on).to(device)
        self._longest: list[int] = guard.table.longest.tolist()
        table, policy = guard.table, rows.policy
        self._first = self._row(table.scan(table.opening(policy), table.start(policy)))

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """Deny what the policy denies where it begins; slots without a request are drawn too."""
        int32_tensor.fill_(self._first)

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
        """Return the row of the table of denied ids for each request that writes, int32.

        Raises:
            GuardError: A denied id was written, or not all ids of a request are known.
        """
        rows = [self._row(self._place(one.state).state) for one in requests_with_new_token]
        return torch.tensor(rows, dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """Return the scores (N, V) with -inf on what is denied; on the device alone."""
        denied_NV = self._denied_RV.index_select(0, tensor_arg[: scores.shape[0]].long())
        return scores.masked_fill(denied_NV, -torch.inf)

    def _row(self, state: int) -> int:
        longest = self._longest[state & STATE_MASK]
        full = bool(longest) and state >> RUN_SHIFT >= longest
        return int(self._row_of[int(full), state & STATE_MASK])

    def _place(self, request: Any) -> Place:
        """Return the place behind a request's ids; a longer row of the same is read on from."""
        prompt, written = _split(request)
        ids = prompt + written
        if request.position_offset != len(ids):
            raise GuardError(
                f"continuous batching: request {request.request_id} has {request.position_offset} "
                f"tokens in its cache, {len(ids)} are known; set use_async_batching=False"
            )
        known, place = self._memo.get(request.request_id, ([], None))
        if place is None or ids[: len(known)] != known or len(known) < len(prompt):
            known, place = prompt, self._gate.prompt(np.array(prompt, dtype=np.int64))
        for token in ids[len(known) :]:
            [place] = self._gate.step([place], [token])
        self._memo[request.request_id] = (ids, place)
        return place


def deny_rows(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows of denied ids, bool [R, V], and each state's, int [2, states].

    The second of the pair is for a span that is at its longest.
    """
    kinds = np.stack([table.may, table.may])
    kinds[1, table.longest > 0, TEXT] = False
    flat = kinds.reshape(-1, kinds.shape[-1])
    distinct, row_of = np.unique(flat, axis=0, return_inverse=True)
    return ~distinct[:, table.column_of], row_of.reshape(2, -1)


def guarded_generate_batch(
    model: Any,
    table: Table,
    prompts: Sequence[Sequence[int]],
    *,
    policy: str | int = 0,
    guard: Guard | None = None,
    batching: ContinuousBatchingConfig | None = None,
    **settings: Any,
) -> list[list[int]]:
    """Return what was written behind each prompt, by continuous batching, behind mask and gate.

    Args:
        model: A causal language model of transformers, over the table's ids.
        table: What may be written.
        prompts: Ids, the tags that the policy begins with included.
        policy: Which of the table's policies.
        guard: To count with, of the same table; None: one of its own. Pressure is not measured.
        batching: transformers' settings of it; steps are never overlapped. Its cache takes most
            of the free memory unless `num_blocks` says how much.
        **settings: As `generate` takes them.

    Raises:
        GuardError: As `guarded_generate`; the engine failed; a request was not finished.
    """
    guard = own_guard(guard, table)
    config = _settled(model, table, settings)
    if getattr(model, "_cached_continuous_batching_manager", None) is not None:
        raise GuardError("continuous batching: the model keeps a manager without the guard")
    stops = stops_of(config, table)
    rows = Rows(prompt_tokens=0, pad_id=pad_id_of(table), stop_ids=stops, policy=policy)
    last = RowGate(guard, rows, last=True)
    starts = [last.prompt(np.array(ids, dtype=np.int64)) for ids in prompts]
    config.eos_token_id, config.pad_token_id = list(stops) or None, rows.pad_id
    batching = copy.deepcopy(batching) or ContinuousBatchingConfig()
    batching.use_async_batching = False
    processor = ModeGuardBatchProcessor(guard, rows, model.device)
    manager = _manager(model, config, batching, processor)
    written = _run(manager, [list(map(int, ids)) for ids in prompts], config.max_new_tokens)
    for place, ids in zip(starts, written, strict=True):
        for token in ids:
            [place] = last.step([place], [token])
    return written


def _settled(model: Any, table: Table, settings: Mapping[str, Any]) -> GenerationConfig:
    config = settled(model, table, settings)
    refused = [name for name in ONE_ROW if getattr(config, name) not in (None, 0, 1, False)]
    refused += [name for name in sorted(ARGUMENTS - {"generation_config"}) if settings.get(name)]
    if refused:
        raise GuardError(f"continuous batching: {refused[0]} is not for it; leave it out")
    if config.max_new_tokens is None:
        raise GuardError("continuous batching: max_new_tokens is not set; say how many at most")
    return config


def _manager(
    model: Any, config: GenerationConfig, batching: Any, processor: ModeGuardBatchProcessor
) -> Any:
    """Return a manager with the processor in front of temperature and nucleus."""
    theirs = type(model)._get_logits_processor

    def with_ours(generation_config: Any) -> LogitsProcessorList:
        ours = LogitsProcessorList([processor])
        found: LogitsProcessorList = theirs(model, generation_config, logits_processor=ours)
        return found

    model._get_logits_processor = with_ours
    try:
        manager = model.init_continuous_batching(
            generation_config=config, continuous_batching_config=batching
        )
    finally:
        del model._get_logits_processor
    processors = manager.logit_processor
    if not any(one is processor for one in processors.logits_processor):
        raise GuardError("continuous batching: transformers dropped the guard's processor")
    processors.tensors_required += 1  # it counts only those that it made itself
    return manager


def _run(manager: Any, prompts: list[list[int]], tokens: int | None) -> list[list[int]]:
    """Return the ids that were written behind each prompt."""
    manager.start()
    found: dict[str, list[int]] = {}
    try:
        names = manager.add_requests(prompts, max_new_tokens=tokens)
        while len(found) < len(names):
            one = manager.get_result(timeout=0.5)
            if one is None:
                if not manager.is_running():
                    raise GuardError(
                        "continuous batching: the engine stopped: "
                        f"{manager.background_thread_status.fatal_error}"
                    )
                continue
            if one.error is not None:
                raise GuardError(f"continuous batching: {one.request_id}: {one.error}")
            if one.is_finished():
                found[one.request_id] = list(one.generated_tokens)
    finally:
        manager.stop(block=True, timeout=30, hard_stop=len(found) < len(prompts))
        manager.destroy()
    return [found[name] for name in names]


def _split(request: Any) -> tuple[list[int], list[int]]:
    """Return prompt and written ids of a request, however often it was set back and resumed."""
    start = request._true_initial_tokens or len(request.initial_tokens)
    ids = request.initial_tokens + request.generated_tokens
    return ids[:start], ids[start:]

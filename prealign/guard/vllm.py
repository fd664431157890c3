"""The guard as a vLLM logits processor: one class for both of vLLM's model runners.

It is installed with the package (entry point `vllm.logits_processors`) and does nothing until
`prealign.guard.vllm_settings` finds a policy. The mask here keeps the model from writing what is
denied; safety is the gate around the output (`prealign.guard.engine`), because vLLM has paths that
skip logits processors.

Interfaces as of vLLM 0.33: `vllm.v1.worker.gpu.sample.logits_processor.LogitsProcessor` (V2) and
`vllm.v1.sample.logits_processor.LogitsProcessor` (V1). vLLM is not needed to import this.
"""

from typing import Any

from torch import Tensor

from prealign.errors import GuardError, PrealignError
from prealign.guard.follow import Follower
from prealign.guard.vllm_rows import BatchRows, Context, Moves, SlotRows
from prealign.guard.vllm_settings import check_config, check_params, table_from

try:
    from vllm.v1.sample.logits_processor import LogitsProcessor as V1Processor
except ImportError:
    V1Processor = None
try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as V2Processor
except ImportError:
    V2Processor = None

BASES: tuple[Any, ...] = tuple(base for base in (V2Processor, V1Processor) if base is not None)


class ModeGuard(*BASES):  # type: ignore[misc]
    """The class for `logits_processors=[...]` and for the entry point.

    V2 makes it as `(vllm_config, req_states)`, V1 as `(vllm_config, device, is_pin_memory)`.

    Raises:
        GuardError: The configuration passes the guard by; see `check_config`.
        ConfigError: The environment names no policy, or not that of this model; see `table_from`.
    """

    def __init__(self, vllm_config: Any, *rest: Any) -> None:
        self._follower: Follower | None = None
        self._slots: SlotRows | None = None
        self._batch: BatchRows | None = None
        if table_from(model=str(vllm_config.model_config.model)) is None:
            return
        self._follower = Follower(check_config(vllm_config))
        if len(rest) == 1:
            self._slots = SlotRows(self._follower, rest[0])
        else:
            self._batch = BatchRows(self._follower)

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request that the guard cannot hold; vLLM then answers it with the error.

        Raises:
            ValueError: It is such a request.
        """
        try:
            table = table_from()
            if table is not None:
                check_params(table, sampling_params)
        except PrealignError as error:
            raise ValueError(f"prealign guard: {error}") from error

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """V2: begin anew with a slot; return whether its logits are masked: with a guard, all."""
        if self._slots is not None:
            self._slots.add(req_idx, sampling_params)
        return self._follower is not None

    def apply_staged_writes(self) -> None:
        """V2: do nothing, as nothing is staged."""

    def update_state(self, batch_update: Moves | None) -> None:
        """V1: follow the changes of the batch."""
        if self._batch is not None and batch_update is not None:
            self._batch.update(batch_update)

    def is_argmax_invariant(self) -> bool:
        """V1: return False, as without the guard greedy sampling would choose other ids."""
        return False

    def apply(self, logits: Tensor, ctx: Context | None = None) -> Tensor:
        """Return the logits with -inf on what may not be written, in place.

        Args:
            logits: [rows, ids] float32.
            ctx: The layout of the batch in V2; V1 gives none.

        Raises:
            GuardError: The logits have another width or type than the guard's table; or the model
                runner is not the one that the guard was made for.
        """
        if self._follower is None:
            return logits
        if ctx is None and self._batch is not None:
            return self._follower.mask(logits, self._batch.states(len(logits)))
        if ctx is not None and self._slots is not None:
            return self._follower.mask(logits, self._slots.states(ctx))
        raise GuardError("vLLM made the guard for one of its model runners and calls the other's")

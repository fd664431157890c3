"""The guard around llama.cpp, through llama-cpp-python's `Llama.generate`.

A prompt is an array of ids, never a string: in strings llama.cpp reads what spells a tag as the
tag. Nothing of llama-cpp-python is imported, so a `Llama` of any version will do that has the
members in `Llama` here (read in 0.3.36).

Its logits processors run inside a C callback, from which no error comes out: the logits then stay
as they were. So the mask here never raises but denies everything, and the gate tells why.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from prealign.errors import ConfigError, GuardError
from prealign.guard.engine import gate_stream
from prealign.guard.follow import BROKEN, Follower
from prealign.guard.table import Table

Scores = NDArray[np.float32]
Processor = Callable[[NDArray[np.intc], Scores], Scores]


class Llama(Protocol):
    """What is used of `llama_cpp.Llama`."""

    draft_model: Any
    """Writes ahead; None: there is none."""

    def n_vocab(self) -> int:
        """How many ids there are."""

    def generate(
        self, tokens: Sequence[int], *, logits_processor: Any, **settings: Any
    ) -> Iterator[int]:
        """Yield ids, for ever."""


class ModeMask:
    """A logits processor for one prompt: -inf on what the model may not write behind exact ids.

    Args:
        table: What the model may write, by state.
        prompt_ids: What the harness gave; `input_ids` must begin with it.
        policy: The one that the prompt is under.
    """

    def __init__(self, table: Table, prompt_ids: Sequence[int], policy: str | int = 0) -> None:
        self.error: str | None = None
        """Why everything was denied."""
        self._follower = Follower(table)
        self._start = table.start(policy)
        self._prompt = np.array(prompt_ids, dtype=np.int64)
        self._read = np.zeros(0, dtype=np.int64)
        """The ids that `_state` is behind."""
        self._state = self._start

    def __call__(self, input_ids: NDArray[np.intc], scores: Scores) -> Scores:
        """Return the scores, masked in place; on anything that cannot be judged all are -inf.

        Args:
            input_ids: All ids so far, [L].
            scores: Logits of the next id, float32 [V]; may be a view with strides.
        """
        try:
            state = self.state(np.asarray(input_ids, dtype=np.int64))
            if state == BROKEN:
                raise GuardError("the ids so far are none that the policy allows")
            row_V = np.ascontiguousarray(scores)
            self._follower.mask(torch.from_numpy(row_V)[None], [state])
            scores[:] = row_V
        except (GuardError, TypeError, ValueError) as error:
            self.error = str(error)
            scores[:] = -np.inf
        return scores

    def state(self, ids: NDArray[np.int64]) -> int:
        """Return the state behind the ids: a function of them alone."""
        read = len(self._read)
        if read > len(ids) or read < len(self._prompt) or (ids[:read] != self._read).any():
            prompt = len(self._prompt)
            if len(ids) < prompt or (ids[:prompt] != self._prompt).any():
                return BROKEN
            read, self._state = prompt, self._follower.behind(self._start, self._prompt, prompt)
        self._state = self._follower.behind(self._state, ids[read:])
        self._read = ids.copy()
        return self._state


def guarded_tokens(
    llama: Llama,
    table: Table,
    prompt_ids: Sequence[int],
    *,
    policy: str | int = 0,
    logits_processor: Sequence[Processor] = (),
    **settings: Any,
) -> Iterator[int]:
    """Yield what a llama.cpp model writes, each id after the gate; it stops at the end of text.

    Args:
        llama: The model.
        table: What it may write, by state.
        prompt_ids: What the harness gives it, tags included (`Table.opening`).
        policy: The one that the text is under.
        logits_processor: Run in front of the mask.
        settings: For `Llama.generate`: `temp`, `top_k`, `top_p`, `grammar` and so on.

    Raises:
        GuardError: The gate refused an id, or the mask could not judge; nothing of that step is
            yielded. Or, before anything is written: a draft model, whose ids llama-cpp-python
            shows too early, another number of ids than the table's, a prompt that the scheme
            does not allow.
        ConfigError: A setting that would undo the mask.
    """
    _check(llama, table, settings)
    table.scan(prompt_ids, table.start(policy))
    mask = ModeMask(table, prompt_ids, policy)
    stream = llama.generate(
        list(prompt_ids), logits_processor=[*logits_processor, mask], **settings
    )
    for token in gate_stream(table, policy, prompt_ids, _judged(stream, mask)):
        if token in table.ids.ends:
            return
        yield token


def _judged(stream: Iterator[int], mask: ModeMask) -> Iterator[int]:
    """Yield the ids of steps whose logits the mask has judged."""
    for token in stream:
        if mask.error is not None:
            raise GuardError(f"llama.cpp: no id could be chosen, {token} is not one: {mask.error}")
        yield int(token)


def _check(llama: Llama, table: Table, settings: dict[str, Any]) -> None:
    if getattr(llama, "draft_model", None) is not None:
        raise GuardError(
            "llama.cpp: draft_model: llama-cpp-python shows the mask all drafts at once, not those "
            "in front of each; use a Llama without one"
        )
    if llama.n_vocab() != table.ids.size:
        raise GuardError(
            f"llama.cpp: the model has {llama.n_vocab()} ids, the guard {table.ids.size}; "
            "convert the folder that the guard's vocabulary is from"
        )
    if settings.get("reset") is False:
        raise ConfigError("reset=False: the text then begins with ids of another; leave it out")
    for name, value in settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name}={value}: -inf would become NaN; expected a finite number")
    if not settings.get("repeat_penalty", 1.0) > 0:
        raise ConfigError(
            f"repeat_penalty={settings['repeat_penalty']}: -inf would not stay; expected above 0"
        )

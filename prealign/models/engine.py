"""Continuous batching: requests join and leave a running batch, each with settings of its own.

`step` reads the prompts of newcomers and one more id of everybody else, and writes one id to each.
A request's ids are those of `prealign.models.sample.sample` for its prompt, settings and seed, but
for the rounding of matrix products: its random numbers depend on its seed and its step alone, and
it attends to its own tokens alone, at their own positions.

There is no engine without a guard. It has one thread; whoever has several takes turns.

Shape letters:  B = rows,  L = tokens,  V = vocabulary.
"""

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from prealign.errors import ConfigError, DataError, GuardError
from prealign.models.cache import make_cache
from prealign.models.choose import choose, uniforms
from prealign.models.sample import Ids, Sampling
from prealign.models.slots import Slots

ROWS = 64
PREFILL_TOKENS = 4096


class PolicyGuarding(Protocol):
    """A guard with several policies; see `prealign.models.sample.Guarding`."""

    def scan(self, ids: Sequence[int], policy: str | int = 0) -> int:
        """Return a policy's state behind a prompt, or raise."""

    def mask(self, logits_BV: Tensor, states_B: np.ndarray) -> Tensor:
        """Return the logits to choose from, float32; may write into `logits_BV`."""

    def commit(self, states_B: np.ndarray, ids_B: np.ndarray, by_model_B: np.ndarray) -> np.ndarray:
        """Return the states behind ids (int64); raise if one must not be appended."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A text to write."""

    prompt: tuple[int, ...]
    settings: Sampling
    """`batch_rows` is the engine's own matter, and nobody forces tags here."""
    seed: int
    policy: str | int = 0
    """The guard's."""
    top: int | None = None
    """Report log-probabilities, and those of so many likeliest ids; None: none."""


class Written(NamedTuple):
    """An id was appended: the gate has let it pass."""

    key: int
    """Of the request."""
    token: int
    state: int
    """The guard's, behind the id."""
    pressure: float | None
    """Probability of what may not be written here, before the mask and at temperature 1; None:
    whoever wrote the id does not say. An `Engine` always does."""
    logprob: float | None
    """In nats, at temperature 1 and before the nucleus; of a text id among the text ids that are
    allowed here, so that it says nothing of others; of any other id among all that are allowed."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest allowed text ids, with log-probabilities among such."""


class Ended(NamedTuple):
    """A request is done; its row is free."""

    key: int
    why: Literal["end", "budget", "room"]
    """As in `prealign.models.sample.Sampled`."""
    state: int
    pressure: float | None
    """Where the end was chosen, as for `Written`; 0 where nothing was chosen any more."""


class Failed(NamedTuple):
    """A request was given up; its row is free. The id that it failed at was not appended."""

    key: int
    kind: Literal["guard", "model"]
    """`guard`: the gate refused; `model`: its logits or its forward pass failed."""
    message: str
    at: int
    """Ids written before."""
    state: int


Event = Written | Ended | Failed


@dataclass
class _Row:
    """A request at work."""

    key: int
    request: Request
    state: int
    ids: list[int] = field(default_factory=list)
    text_tokens: int = 0

    @property
    def settings(self) -> Sampling:
        return self.request.settings

    def failed(self, kind: Literal["guard", "model"], error: Exception | str) -> Failed:
        return Failed(self.key, kind, str(error), len(self.ids), self.state)


class Engine:
    """A model, a guard, and the requests that are being written.

    Args:
        model: A transformers causal LM, or a fake; it is put in evaluation mode.
        vocabulary: Tells text, end of text and tags apart.
        guard: Masks and gates every row. It should take no measurements of its own: they pile up.
        rows: Requests in the batch at once; others wait.
        room: Tokens of a prompt and what is written behind it; None: the model's context.
        prefill_tokens: Read at most so many prompt tokens per step (but one prompt at least), so
            that newcomers do not hold up the others for long.

    Raises:
        ConfigError: The model cannot be batched in this way, or a number is out of range.
    """

    def __init__(
        self,
        model: Any,
        vocabulary: Ids,
        guard: PolicyGuarding,
        *,
        rows: int = ROWS,
        room: int | None = None,
        prefill_tokens: int = PREFILL_TOKENS,
    ) -> None:
        if rows < 1 or prefill_tokens < 1:
            raise ConfigError(f"rows={rows}, prefill_tokens={prefill_tokens}: expected 1 or more")
        longest = model.config.max_position_embeddings
        if room is not None and not 2 <= room <= longest:
            raise ConfigError(f"room={room}: expected 2 to {longest}, the model's context")
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.guard = guard
        self.rows, self.room, self.prefill_tokens = rows, room or longest, prefill_tokens
        self.steps = 0
        self._device = next(itertools.chain(model.parameters(), model.buffers())).device
        self._slots = Slots(model.config, self._device)
        self._active: list[_Row] = []
        self._joining: list[_Row] = []
        self._waiting: deque[_Row] = deque()
        self._keys = itertools.count()

    @property
    def active(self) -> int:
        """Requests in the batch."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """Requests in front of it."""
        return len(self._waiting)

    def check(self, request: Request) -> int:
        """Return the guard's state behind the prompt, if the request can be served.

        Changes nothing, so it can be called from any thread.

        Raises:
            DataError: The prompt is empty, too long, or has ids of no vocabulary.
            GuardError: The prompt's tags are not those of a text that the scheme allows.
            ConfigError: There is no such policy.
        """
        check_prompt(request.prompt, self.room, self.vocabulary.size)
        return self.guard.scan(request.prompt, request.policy)

    def add(self, request: Request) -> int:
        """Put a request in the queue and return its key.

        Raises:
            PrealignError: As `check`.
        """
        row = _Row(next(self._keys), request, self.check(request))
        self._waiting.append(row)
        return row.key

    def cancel(self, key: int) -> bool:
        """Drop a request and free its row at once; return whether it was still there."""
        for row in self._waiting:
            if row.key == key:
                self._waiting.remove(row)
                return True
        for row in self._active:
            if row.key == key:
                self._drop([row])
                return True
        return False

    def switch(self, key: int, change: Callable[[int], int | None]) -> bool:
        """Change a request's state between two steps; return whether it is to be tried again.

        For `Table.switch`. This is the harness's right alone: nothing judges the new state. Where
        `change` returns None, the state stays; a request that is gone needs no trying again.
        """
        for row in (*self._waiting, *self._active):
            if row.key == key:
                state = change(row.state)
                row.state = row.state if state is None else state
                return state is None
        return False

    def clear(self) -> list[int]:
        """Drop all requests and return their keys: behind a step that raised, or at the end."""
        rows = (*self._active, *self._joining, *self._waiting)
        keys = list(dict.fromkeys(row.key for row in rows))  # some that join are active already
        self._active, self._joining = [], []
        self._waiting.clear()
        self._slots = Slots(self.model.config, self._device)
        return keys

    def step(self) -> list[Event]:
        """Let newcomers in, write one id to each row, and return what happened, row by row.

        A prompt that the model fails at is given up alone. Whatever else raises comes through, and
        leaves nothing to go on with: `clear`.
        """
        events: list[Event] = []
        self.steps += 1
        with torch.inference_mode():
            parts = [self._decode()] if self._active else []
            groups = self._newcomers()
            self._joining = [row for group in groups for row in group]
            for group in groups:
                parts += self._prefill(group, events)
            self._joining = []
            if parts:
                self._write(torch.cat(parts), events)
        return events

    def _decode(self) -> Tensor:
        """Read the last id of each row; return the logits behind it."""
        ids_BL = torch.tensor([[row.ids[-1]] for row in self._active], device=self._device)
        logits_BV = self._logits(ids_BL, 1, **self._slots.aim())[:, -1]
        self._slots.advance()
        return logits_BV

    def _newcomers(self) -> list[list[_Row]]:
        """Take requests from the queue; return groups of like length, to be read together."""
        taken: list[_Row] = []
        left = self.prefill_tokens
        while self._waiting and self.active + len(taken) < self.rows:
            size = len(self._waiting[0].request.prompt)
            if taken and size > left:
                break
            left -= size
            taken.append(self._waiting.popleft())
        taken.sort(key=lambda row: len(row.request.prompt))
        groups: list[list[_Row]] = []
        for row in taken:
            size = len(row.request.prompt)
            # Padding costs as much as text: at most as much again, beyond short prompts.
            if groups and size <= max(32, 2 * len(groups[-1][0].request.prompt)):
                groups[-1].append(row)
            else:
                groups.append([row])
        return groups

    def _prefill(self, rows: list[_Row], events: list[Event]) -> list[Tensor]:
        """Read the prompts of newcomers, padded behind; return the logits of those let in.

        Padding stands behind all that a causal model sees from a prompt's last token.
        """
        sizes = [len(row.request.prompt) for row in rows]
        ids_BL = torch.zeros(len(rows), max(sizes), dtype=torch.int64)
        for i, row in enumerate(rows):
            ids_BL[i, : sizes[i]] = torch.tensor(row.request.prompt)
        ends = sorted(set(sizes))
        cache = make_cache(self.model.config)
        try:
            keep: int | Tensor = torch.tensor([end - 1 for end in ends], device=self._device)
            keep = 1 if len(ends) == 1 else keep
            logits_BLV = self._logits(ids_BL.to(self._device), keep, past_key_values=cache)
        except Exception as error:  # whatever a model raises: out of memory, for one
            if len(rows) == 1:
                events.append(rows[0].failed("model", error))
                return []
            return [part for row in rows for part in self._prefill([row], events)]
        at_B = torch.tensor([ends.index(size) for size in sizes], device=self._device)
        for i, row in enumerate(rows):
            self._slots.add(cache, i, sizes[i])
            self._active.append(row)
        return [logits_BLV[torch.arange(len(rows), device=self._device), at_B]]

    def _logits(self, ids_BL: Tensor, keep: int | Tensor, **rest: Any) -> Tensor:
        """Return float32 logits of the positions to keep."""
        out = self.model(input_ids=ids_BL, use_cache=True, logits_to_keep=keep, **rest)
        logits: Tensor = out.logits
        return logits.float()

    def _write(self, logits_BV: Tensor, events: list[Event]) -> None:
        """Append one id to each row, or end it."""
        rows = list(self._active)
        end = self.vocabulary.end_id
        early = [i for i, r in enumerate(rows) if r.text_tokens < r.settings.min_text_tokens]
        if early:
            logits_BV[early, end] = -torch.inf
        total_B = logits_BV.logsumexp(-1)
        broken_B = ~torch.isfinite(total_B)
        logits_BV[broken_B] = 0.0  # nothing of these rows is used
        states_B = np.array([row.state for row in rows], dtype=np.int64)
        masked_BV = self.guard.mask(logits_BV, states_B)
        left_B = masked_BV.logsumexp(-1)
        nothing_B = torch.isneginf(left_B)
        masked_BV[nothing_B] = 0.0
        pressure = (1 - (left_B - total_B).exp()).clamp(0.0, 1.0).tolist()
        asked = {i: masked_BV[i].clone() for i, r in enumerate(rows) if r.request.top is not None}
        ids = self._choose(masked_BV, rows)
        gone: list[_Row] = []
        fine: list[int] = []
        for i, (row, broken, nothing) in enumerate(
            zip(rows, broken_B.tolist(), nothing_B.tolist(), strict=True)
        ):
            if broken:
                events.append(row.failed("model", "logits have a NaN, +inf or no id at all"))
            elif nothing:
                events.append(row.failed("guard", "no allowed id has a probability"))
            else:
                fine.append(i)
                continue
            gone.append(row)
        for i in self._commit(rows, ids, fine, events, gone):
            row = rows[i]
            if ids[i] == end:
                events.append(Ended(row.key, "end", row.state, pressure[i]))
                gone.append(row)
                continue
            self._append(row, ids[i], pressure[i], asked.get(i), events)
            why = self._full(row)
            if why is not None:
                events.append(Ended(row.key, why, row.state, 0.0))
                gone.append(row)
        self._drop(gone)

    def _choose(self, logits_BV: Tensor, rows: list[_Row]) -> list[int]:
        """Return the id that the model chooses in each row; may write into the logits."""
        u_B = torch.as_tensor(
            uniforms([row.request.seed for row in rows], [len(row.ids) for row in rows]),
            device=self._device,
        )
        groups: dict[tuple[float, float], list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault((row.settings.temperature, row.settings.top_p), []).append(i)
        ids = [0] * len(rows)
        for (temperature, top_p), some in groups.items():
            every = len(some) == len(rows)
            found = choose(
                logits_BV if every else logits_BV[some], u_B if every else u_B[some],
                temperature=temperature, top_p=top_p,
            )  # fmt: skip
            for i, token in zip(some, found.tolist(), strict=True):
                ids[i] = token
        return ids

    def _commit(
        self,
        rows: list[_Row],
        ids: list[int],
        fine: list[int],
        events: list[Event],
        gone: list[_Row],
    ) -> list[int]:
        """Show ids to the gate; return which passed. One that is refused ends its row alone."""
        if not fine:
            return []
        try:
            states_R = np.array([rows[i].state for i in fine], dtype=np.int64)
            ids_R = np.array([ids[i] for i in fine], dtype=np.int64)
            behind = self.guard.commit(states_R, ids_R, np.ones(len(fine), dtype=bool))
        except GuardError as error:
            if len(fine) > 1:
                each = [self._commit(rows, ids, [i], events, gone) for i in fine]
                return [i for one in each for i in one]
            row = rows[fine[0]]
            events.append(row.failed("guard", error))
            gone.append(row)
            return []
        for i, state in zip(fine, behind.tolist(), strict=True):
            rows[i].state = state
        return fine

    def _append(
        self,
        row: _Row,
        token: int,
        pressure: float,
        masked_V: Tensor | None,
        events: list[Event],
    ) -> None:
        row.ids.append(token)
        text_size = self.vocabulary.text_size
        row.text_tokens += token < text_size
        logprob: float | None = None
        top: tuple[tuple[int, float], ...] = ()
        if masked_V is not None:
            among_V = masked_V[:text_size] if token < text_size else masked_V
            logprob = float(masked_V[token] - among_V.logsumexp(-1))
            top = _likeliest(masked_V[:text_size], row.request.top or 0)
        events.append(Written(row.key, token, row.state, pressure, logprob, top))

    def _full(self, row: _Row) -> Literal["budget", "room"] | None:
        if row.text_tokens >= row.settings.max_text_tokens:
            return "budget"
        return "room" if len(row.request.prompt) + len(row.ids) >= self.room else None

    def _drop(self, gone: list[_Row]) -> None:
        """Free rows; the last rows take their places."""
        for row in gone:
            at = next(i for i, one in enumerate(self._active) if one is row)
            with torch.inference_mode():
                self._slots.drop(at)
            self._active[at] = self._active[-1]
            self._active.pop()


def check_prompt(prompt: Sequence[int], room: int, size: int) -> None:
    """See that there is a prompt, that it leaves room to write in, and that its ids exist.

    Args:
        prompt: Its ids.
        room: Tokens of a prompt and what is written behind it.
        size: Ids in all.

    Raises:
        DataError: One of these is not so.
    """
    if not prompt:
        raise DataError("the prompt is empty; begin with the end-of-text id")
    if len(prompt) >= room:
        raise DataError(
            f"the prompt has {len(prompt)} tokens; the context has {room}, and one must "
            "be left to write in"
        )
    foreign = [token for token in prompt if not 0 <= token < size]
    if foreign:
        raise DataError(f"prompt: id {foreign[0]} is not in [0, {size})")


def _likeliest(logits_V: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    """Return the likeliest ids with their log-probabilities, those with none left out."""
    if not count:
        return ()
    values_V = logits_V - logits_V.logsumexp(-1)
    best, ids = values_V.topk(min(count, len(values_V)))
    pairs = zip(ids.tolist(), best.tolist(), strict=True)
    return tuple((token, value) for token, value in pairs if value > -float("inf"))

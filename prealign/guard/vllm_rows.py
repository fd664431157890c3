"""Which state each row of vLLM's logits is in: one class for each of its two model runners.

State is a function of the exact ids: prompt, output and, in model runner V2, the drafts of the row.
What is kept per request is how far it has been read, and is thrown away whenever that does not fit.

Shape letters:  R = rows of logits,  S = slots for requests.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from prealign.errors import GuardError
from prealign.guard.follow import BROKEN, UNKNOWN_ID, Follower
from prealign.guard.table import Ints
from prealign.guard.vllm_settings import policy_of


class OnDevice(Protocol):
    """A tensor of vLLM's request state."""

    @property
    def gpu(self) -> Tensor:
        """As it is on the device."""


class RequestState(Protocol):
    """What V2 shows of the requests; only what is read here."""

    @property
    def all_token_ids(self) -> OnDevice:
        """[S, longest] ids that are in the text, the prompt first."""

    @property
    def prompt_len(self) -> Any:
        """[S] ids of the prompt; `.np` is the host's."""

    @property
    def total_len(self) -> OnDevice:
        """[S] how many ids are in the text so far."""


class Context(Protocol):
    """What V2 shows of a batch; only what is read here. All of shape [R]."""

    @property
    def expanded_idx_mapping(self) -> Tensor:
        """The slot of each row."""

    @property
    def expanded_local_pos(self) -> Tensor:
        """Which row of its request it is: 0 behind the last committed id, then one per draft."""

    @property
    def input_ids(self) -> Tensor:
        """The id that the model read at the row."""

    @property
    def pos(self) -> Tensor:
        """Its position in the text."""


class Moves(Protocol):
    """What V1 says of its batch: vLLM's `BatchUpdate`."""

    @property
    def removed(self) -> Iterable[int]:
        """Rows that are gone."""

    @property
    def added(self) -> Iterable[tuple[int, Any, Sequence[int] | None, Sequence[int]]]:
        """Row, parameters, ids of the prompt, and the engine's own growing list of what follows."""

    @property
    def moved(self) -> Iterable[tuple[int, int, Any]]:
        """From, to, and whether that is one-way or a swap."""


@dataclass
class _Slot:
    """A request of V2, and how far it has been read."""

    policy: int | None
    """None: it asked for one that is not offered."""
    read: int = 0
    """Ids that `state` is behind."""
    state: int = BROKEN


class SlotRows:
    """The rows of model runner V2: a row per request, and one more for each draft.

    Args:
        follower: The table at work.
        requests: vLLM's own, which change as it goes on.
    """

    def __init__(self, follower: Follower, requests: RequestState) -> None:
        self._follower = follower
        self._requests = requests
        self._slots: dict[int, _Slot] = {}

    def add(self, slot: int, params: Any) -> None:
        """Begin anew with a slot, whoever was in it."""
        self._slots[slot] = _Slot(_policy(self._follower, params))

    def states(self, ctx: Context) -> list[int]:
        """Return the state of each row: behind its committed ids, and then behind its drafts."""
        slot_R = ctx.expanded_idx_mapping.long()
        total_R = self._requests.total_len.gpu[slot_R.clamp(min=0)]
        columns = (slot_R, ctx.expanded_local_pos, ctx.pos, ctx.input_ids, total_R)
        slots, local, position, ids, total = torch.stack([one.long() for one in columns]).tolist()
        self._read(slots, [p - at for p, at in zip(position, local, strict=True)], total)
        states: list[int] = []
        for row, slot in enumerate(slots):
            one = self._slots.get(slot)
            if local[row] == 0:
                fine = one is not None and one.read == position[row] + 1 <= total[row]
                states.append(one.state if one is not None and fine else BROKEN)
            else:
                follows = row > 0 and slots[row - 1] == slot and local[row - 1] == local[row] - 1
                before = states[row - 1] if follows else BROKEN
                states.append(self._follower.behind(before, [ids[row]]))
        return states

    def _read(self, slots: list[int], last: list[int], total: list[int]) -> None:
        """Read each request up to the id at `last`, all of them in one transfer."""
        spans: dict[int, range] = {}
        for slot, at, length in zip(slots, last, total, strict=True):
            one = self._slots.get(slot)
            if one is None or one.policy is None or not 0 <= at < length:
                continue
            if one.read > at + 1 or one.read == 0:
                one.read, one.state = 0, self._follower.table.start(one.policy)
            spans[slot] = range(one.read, at + 1)
        ids = self._gather(
            [slot for slot, span in spans.items() for _ in span],
            [at for span in spans.values() for at in span],
        )
        begin = 0
        for slot, span in spans.items():
            one, prompt = self._slots[slot], int(self._requests.prompt_len.np[slot])
            by_harness = min(max(prompt - span.start, 0), len(span))
            new = ids[begin : begin + len(span)]
            one.state = self._follower.behind(one.state, new, by_harness)
            one.read = span.stop
            begin += len(span)

    def _gather(self, rows: list[int], columns: list[int]) -> Ints:
        source = self._requests.all_token_ids.gpu
        where = torch.tensor([rows, columns], dtype=torch.long, device=source.device)
        return np.asarray(source[where[0], where[1]].cpu().numpy(), dtype=np.int64)


@dataclass
class _Request:
    """A request of V1, and how far its output has been read."""

    policy: int | None
    prompt: Sequence[int] | None
    output: Sequence[int]
    read: int = -1
    """Ids of the output that `state` is behind; -1: the prompt is still to be read."""
    last: int = UNKNOWN_ID
    """The last of them."""
    state: int = BROKEN


class BatchRows:
    """The rows of the V1 model runner: a row per request, which are moved about.

    Args:
        follower: The table at work.
    """

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._requests: dict[int, _Request] = {}

    def update(self, moves: Moves) -> None:
        """Follow the batch: what is removed, then what is added, then what is moved."""
        for index in moves.removed:
            self._requests.pop(index, None)
        for index, params, prompt, output in moves.added:
            self._requests[index] = _Request(_policy(self._follower, params), prompt, output)
        for index, to, way in moves.moved:
            here, there = self._requests.pop(index, None), self._requests.pop(to, None)
            if here is not None:
                self._requests[to] = here
            if there is not None and way.name == "SWAP":
                self._requests[index] = there

    def states(self, rows: int) -> list[int]:
        """Return the state of each row."""
        return [self._state(self._requests.get(row)) for row in range(rows)]

    def _state(self, one: _Request | None) -> int:
        """Return the state behind a request's prompt and output."""
        if one is None or one.policy is None or one.prompt is None:
            return BROKEN
        output, follower = one.output, self._follower
        taken_back = one.read > len(output) or (one.read > 0 and output[one.read - 1] != one.last)
        if one.read < 0 or taken_back:
            start = follower.table.start(one.policy)
            one.state = follower.behind(start, one.prompt, len(one.prompt))
            one.read = 0
        known = len(output)
        while known > one.read and output[known - 1] == UNKNOWN_ID:
            known -= 1
        one.state = follower.behind(one.state, output[one.read : known])
        one.read, one.last = known, output[known - 1] if known else UNKNOWN_ID
        return follower.behind(one.state, output[known:])


def _policy(follower: Follower, params: Any) -> int | None:
    try:
        return policy_of(follower.table, params)
    except GuardError:
        return None

"""The guard's parts for transformers: a logits processor and a streamer that follow exact ids.

transformers reorders, forks and drops rows between two calls, and keeps none for us. So a state
is computed from the row's ids each time: a memo, keyed by all of them, makes the usual next step
one `commit`. A row is read as

    padding  prompt  what was written  padding

and each id that was written passes the gate. `prealign.guard.hf_generate` puts the parts in place.

Shape letters:  B = rows,  L = tokens,  V = vocabulary.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor
from transformers.generation.streamers import BaseStreamer

from prealign.errors import GuardError
from prealign.guard.gate import Guard
from prealign.guard.table import TEXT, Ints, Table

MEMO_ROWS = 256
"""Rows that a processor remembers, or four times the batch if that is more."""
ID_BYTES = 8


class Phase(IntEnum):
    """Where in a row an id stands."""

    WRITING = 0
    OVER = 1
    """Behind an id that ends the row."""
    PADDED = 2
    DEAD = 3
    """Behind a denied id, in a beam whose score is therefore -inf."""


class Place(NamedTuple):
    """What is known behind an id."""

    state: int
    """The guard's."""
    phase: Phase


@dataclass(frozen=True, kw_only=True)
class Rows:
    """How the rows of one `generate` are read."""

    prompt_tokens: int
    """The width of the prompts, padding in front included."""
    pad_id: int
    """One that nobody may write, or the end of text."""
    stop_ids: tuple[int, ...]
    """Ids that end a row: the ends of text, and what else was given as `eos_token_id`."""
    policy: str | int = 0
    early: bool = False
    """A row may also end without such an id: by a stop string, a time limit, in a beam search.
    Then a padding id that nobody may write is always read as padding, that is, as nothing."""
    beams: bool = False
    """Rows are beams. Where fewer ids are allowed than beams are kept, transformers fills up with
    ids of score -inf, denied ones too, and drops these beams later: until then they are let be."""


def pad_id_of(table: Table) -> int:
    """Return the id to pad with: one that nobody may write, or else the end of text.

    Raises:
        GuardError: There is neither.
    """
    fit = (*table.ids.never, *table.ids.ends)
    if not fit:
        raise GuardError(
            "generate: the table has no id to pad with: neither an end nor a banned id"
        )
    return fit[0]


class RowGate:
    """Reads rows id by id; raises at one that should not be there.

    Args:
        guard: Judges what was written.
        rows: How to read.
        last: These rows are the result: behind an end there is padding and nothing else. While a
            beam search runs, beams that have ended are written on, and dropped later.

    Raises:
        GuardError: The padding is a text id or a tag, so that it could not be told from a prompt.
    """

    def __init__(self, guard: Guard, rows: Rows, *, last: bool = False) -> None:
        table = guard.table
        fit = {*table.ids.never, *table.ids.ends}
        if rows.pad_id not in fit:
            raise GuardError(
                f"pad_token_id={rows.pad_id}: expected an id that is neither text nor tag "
                f"({sorted(fit)}), so that padding can be told from what was written"
            )
        self.guard, self.rows, self._last = guard, rows, last
        self._spare = rows.beams and not last
        self._stops = frozenset(rows.stop_ids)
        self._early = rows.early and rows.pad_id in table.ids.never

    def prompt(self, ids_L: Ints) -> Place:
        """Return the place behind a prompt, with padding in front."""
        others = np.flatnonzero(ids_L != self.rows.pad_id)
        first = int(others[0]) if others.size else len(ids_L)
        return Place(self.guard.scan(ids_L[first:].tolist(), self.rows.policy), Phase.WRITING)

    def step(self, places: Sequence[Place], ids: Sequence[int]) -> list[Place]:
        """Return the places behind one more id in each row.

        Raises:
            GuardError: The model may not write it, or it stands behind the row's end.
        """
        behind = list(places)
        own = []
        for row, (place, token) in enumerate(zip(places, ids, strict=True)):
            if place.phase == Phase.DEAD:
                continue
            if token == self.rows.pad_id and (place.phase or self._early):
                behind[row] = Place(place.state, Phase.PADDED)
            elif place.phase == Phase.PADDED or (self._last and place.phase == Phase.OVER):
                raise GuardError(f"gate: row {row}: id {token} stands behind the end of its row")
            else:
                own.append(row)
        for some in [[row] for row in own] if self._spare else [own] if own else []:
            for row, place in zip(some, self._judge(places, ids, some), strict=True):
                behind[row] = place
        return behind

    def _judge(
        self, places: Sequence[Place], ids: Sequence[int], some: Sequence[int]
    ) -> list[Place]:
        try:
            states = self.guard.commit(
                [places[row].state for row in some], [ids[row] for row in some]
            )
        except GuardError:
            if self._spare:
                return [Place(places[row].state, Phase.DEAD) for row in some]
            raise
        phases = [Phase.OVER if ids[row] in self._stops else Phase.WRITING for row in some]
        return [Place(*one) for one in zip(states.tolist(), phases, strict=True)]

    def whole(self, ids_L: Ints) -> Place:
        """Return the place behind a row, read from its first id."""
        start = self.rows.prompt_tokens
        place = self.prompt(ids_L[:start])
        for token in ids_L[start:].tolist():
            [place] = self.step([place], [token])
        return place


class ModeGuardLogitsProcessor(LogitsProcessor):
    """Denies in each row what the model may not write behind exactly these ids.

    It is the last of the processors that a caller gives. What comes behind it in transformers
    (temperature, top-k, nucleus, normalization) only removes ids. It is also a gate: a denied id
    that is found among those that were written stops the run, one step late (in a beam search the
    result is looked at, as beams that cannot win may have one).

    Args:
        guard: Masks; its `pressure` is that of all calls, those for a draft model's ids too. Its
            gate is left to what looks at the result: here a copy judges.
        rows: How rows are read.
    """

    def __init__(self, guard: Guard, rows: Rows) -> None:
        self._guard = guard
        self._gate = RowGate(copy.copy(guard), rows)
        self._memo: dict[bytes, Place] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores (B, V) with -inf where `input_ids` (B, L) forbid it, float32, anew.

        Raises:
            GuardError: The ids are not rows of at least a prompt; a denied id was written; the
                scores have a NaN, +inf or no allowed id.
        """
        states = [place.state for place in self.places(input_ids)]
        return self._guard.mask(scores.to(torch.float32, copy=True), states)

    def places(self, input_ids: Tensor) -> list[Place]:
        """Return the place behind each row (B, L): a function of its ids alone."""
        ids_BL = id_rows(input_ids, self._gate.rows.prompt_tokens)
        keys = [row.tobytes() for row in ids_BL]
        at_prompt = ids_BL.shape[1] == self._gate.rows.prompt_tokens
        ahead: dict[bytes, tuple[Place, int]] = {}
        for key, row in zip(keys, ids_BL, strict=True):
            if key in self._memo or key in ahead:
                continue
            before = None if at_prompt else self._memo.get(key[:-ID_BYTES])
            if before is None:
                self._memo[key] = self._gate.whole(row)
            else:
                ahead[key] = (before, int(row[-1]))
        if ahead:
            places, ids = zip(*ahead.values(), strict=True)
            self._memo.update(zip(ahead, self._gate.step(places, ids), strict=True))
        found = [self._memo[key] for key in keys]
        for key in list(self._memo)[: -max(MEMO_ROWS, 4 * len(keys))]:
            del self._memo[key]
        return found


class ModeGuardStreamer(BaseStreamer):
    """Hands ids on to a streamer once they have passed the gate.

    Args:
        inner: Gets the prompt and each id that passed.
        guard: Judges, by a copy of its gate.
        rows: How rows are read.
    """

    def __init__(self, inner: BaseStreamer, guard: Guard, rows: Rows) -> None:
        self._inner = inner
        self._gate = RowGate(copy.copy(guard), rows, last=True)
        self._places: list[Place] = []

    def put(self, value: Tensor) -> None:
        """Let ids pass: first the prompts (B, L), then one per row (B) or several in one (1, L).

        Raises:
            GuardError: The gate refuses; nothing was handed on.
        """
        if not self._places:
            ids_BL = id_rows(value, self._gate.rows.prompt_tokens)
            if ids_BL.shape[1] != self._gate.rows.prompt_tokens:
                raise GuardError(f"streamer: got {ids_BL.shape[1]} tokens before the prompt")
            self._places = [self._gate.prompt(row) for row in ids_BL]
        else:
            ids_BL = value.cpu().numpy().reshape(len(self._places), -1)
            places = self._places
            for ids_B in ids_BL.T.tolist():
                places = self._gate.step(places, ids_B)
            self._places = places
        self._inner.put(value)

    def end(self) -> None:
        """Tell the streamer that there is no more."""
        self._places = []
        self._inner.end()


def id_rows(ids: Tensor, least: int = 0) -> Ints:
    """Return ids as int64 rows on the CPU, [B, L].

    Raises:
        GuardError: They are not integers in rows of at least `least`.
    """
    if ids.ndim != 2 or ids.dtype.is_floating_point or ids.dtype.is_complex:
        raise GuardError(
            f"ids of shape {tuple(ids.shape)}, {ids.dtype}: expected integers in rows and columns; "
            "continuous batching shows its processors one id per request, use "
            "guarded_generate_batch"
        )
    if ids.shape[1] < least:
        raise GuardError(f"rows of {ids.shape[1]} tokens, shorter than the prompts' {least}")
    return np.ascontiguousarray(ids.cpu().numpy().astype(np.int64))


def is_text(table: Table, token: int) -> bool:
    """Return whether an id is text; False for what is no id."""
    return 0 <= token < table.ids.size and int(table.column_of[token]) == TEXT

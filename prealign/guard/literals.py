"""An exact ban of strings, such as the tags spelled as text, beside the policy. Off by default.

A tag that is spelled never changes the guard's state, so this adds nothing to its safety. It is for
channels whose reader parses the text; it also forbids to speak *of* a tag. What is followed are
the bytes of text tokens, by the automaton of Aho and Corasick 1975
(https://doi.org/10.1145/360825.360855), compiled to one table over its states and all tokens.
Exact: no sequence of the model's tokens passes whose bytes hold a literal, and every other does.

The text is one: it goes on across tags, from a prompt into what is written, and ends at the end of
text. So a literal cannot be put together from two spans.

Shape letters:  S = states of the literals,  V = text ids,  Q = states of the policy,  B = rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prealign.errors import ConfigError, GuardError
from prealign.guard.gate import Guard
from prealign.guard.table import RUN_SHIFT, STATE_MASK, TEXT, Ints, Table

MAX_CELLS = 200_000_000
"""States x text ids of the table."""


@dataclass(frozen=True, eq=False)
class LiteralBan:
    """Which text ids would spell a literal, behind which text.

    Args:
        token_bytes: The bytes of each text id, `Vocabulary.token_texts`.
        literals: What must not be spelled; a str stands for its UTF-8.

    Raises:
        ConfigError: There is no literal, one is empty, the table would be too large, or the
            literals leave nothing to write in some state.
    """

    token_bytes: Sequence[bytes]
    literals: tuple[str | bytes, ...]
    next: NDArray[np.uint16] = field(init=False, repr=False)
    """[S, V] the state behind a token."""
    hits: NDArray[np.bool_] = field(init=False, repr=False)
    """[S, V] the token would complete a literal."""
    longest: int = field(init=False)
    """Bytes of the longest literal."""

    def __post_init__(self) -> None:
        raw = tuple(one.encode() if isinstance(one, str) else one for one in self.literals)
        if not raw or not all(raw):
            raise ConfigError(f"literals {self.literals}: expected one or more, none empty")
        step_SC, spelled_S = _automaton(raw)
        cells = len(step_SC) * len(self.token_bytes)
        if cells > MAX_CELLS:
            raise ConfigError(
                f"literals: {len(step_SC)} states x {len(self.token_bytes)} ids are {cells} "
                f"cells, at most {MAX_CELLS}; give fewer or shorter literals"
            )
        next_SV, hits_SV = _over_tokens(self.token_bytes, step_SC, spelled_S)
        stuck = hits_SV.all(axis=1)
        if stuck.any():
            raise ConfigError(f"literals {self.literals}: leave no text to write in some state")
        object.__setattr__(self, "next", next_SV)
        object.__setattr__(self, "hits", hits_SV)
        object.__setattr__(self, "longest", max(map(len, raw)))

    @property
    def states(self) -> int:
        """How many there are; 0 is the start."""
        return len(self.next)

    @cached_property
    def denied(self) -> tuple[NDArray[np.int64], ...]:
        """The text ids denied in each state."""
        return tuple(np.flatnonzero(row) for row in self.hits)

    def step(self, state: int, token: int) -> int:
        """Return the state behind a text id, whether or not it completes a literal."""
        return int(self.next[state, token])

    def scan(self, ids: Sequence[int], state: int = 0) -> int:
        """Return the state behind text ids, in time that does not grow with their number."""
        seen = 0
        first = len(ids)
        while first and seen < self.longest:
            first -= 1
            seen += len(self.token_bytes[ids[first]])
        # Behind as many bytes as the longest literal has, what was before is forgotten.
        state = state if seen < self.longest else 0
        for token in ids[first:]:
            state = int(self.next[state, token])
        return state


class GuardWithLiterals:
    """A guard with a ban of literals beside it: the same `scan`, `mask` and `commit`.

    The row of a state counts both: rows of the table times states of the literals. The harness,
    and what stands in a prompt, may spell what it likes.

    Args:
        guard: Of the policy.
        ban: Over the same text ids.

    Raises:
        ConfigError: The ban has other text ids than the guard, or there are too many states.
    """

    def __init__(self, guard: Guard, ban: LiteralBan) -> None:
        table = guard.table
        size = len(ban.token_bytes)
        if size > table.ids.size or table.column_of[:size].any():
            raise ConfigError(f"literals: {size} text ids; the guard has others")
        if np.count_nonzero(table.column_of == TEXT) != size:
            raise ConfigError(
                f"literals: {size} text ids, the guard has "
                f"{np.count_nonzero(table.column_of == TEXT)}; give the bytes of all of them"
            )
        if table.states * ban.states > STATE_MASK:
            raise ConfigError(f"{table.states} x {ban.states} states do not fit 32 bits")
        self.guard = guard
        self.ban = ban
        self._ends = np.array(table.ids.ends, dtype=np.int64)
        self._fired = 0
        self._shares: list[Tensor] = []

    @property
    def table(self) -> Table:
        """The table of the policy."""
        return self.guard.table

    @property
    def fired(self) -> int:
        """How often the gate has refused, for the policy's sake or a literal's."""
        return self.guard.fired + self._fired

    @property
    def gate_calls(self) -> int:
        """How often the gate was asked."""
        return self.guard.gate_calls

    @property
    def gate_ids(self) -> int:
        """Ids of the model that the gate has judged."""
        return self.guard.gate_ids

    def scan(self, ids: Sequence[int], policy: str | int = 0) -> int:
        """Return the state behind a prompt; see `Table.scan`."""
        inner = self.guard.scan(ids, policy)
        array = np.asarray(ids, dtype=np.int64)
        ends = np.flatnonzero(np.isin(array, self._ends))
        since = array[int(ends[-1]) + 1 if ends.size else 0 :]
        text = since[self.table.column_of[since] == TEXT]
        return self._join(inner, self.ban.scan(text[-self.ban.longest :].tolist()))

    def mask(self, logits_BV: Tensor, states_B: Sequence[int] | Ints) -> Tensor:
        """Return the logits with -inf on what may not be written, in place; see `Guard.mask`.

        Raises:
            GuardError: As `Guard.mask`; while pressure is recorded also if nothing is left.
        """
        inner_B, literal_B = self._split(np.asarray(states_B, dtype=np.int64))
        logits_BV = self.guard.mask(logits_BV, inner_B)
        share_B = torch.zeros(len(inner_B), device=logits_BV.device)
        text_B = self.table.text_allowed(inner_B)
        for state in np.unique(literal_B).tolist():
            denied = self.ban.denied[state]
            rows = np.flatnonzero((literal_B == state) & text_B)
            if not denied.size or not rows.size:
                continue
            at = torch.from_numpy(rows).to(logits_BV.device)
            ids = torch.from_numpy(denied).to(logits_BV.device)
            if self.guard.pressure_on:
                some = logits_BV[at]
                share_B[at] = (some[:, ids].logsumexp(-1) - some.logsumexp(-1)).exp()
            if self.guard.mask_on:
                logits_BV[at[:, None], ids] = -torch.inf
        if self.guard.pressure_on:
            self._shares.append(share_B)
            best_B = logits_BV.amax(dim=-1)
            if self.guard.mask_on and not bool(torch.isfinite(best_B).all()):
                raise GuardError("literals: the policy and the literals leave no id to write")
        return logits_BV

    def allows(self, states_B: Sequence[int] | Ints, token: int) -> NDArray[np.bool_]:
        """Return whether the model may write an id in each state."""
        inner_B, literal_B = self._split(np.asarray(states_B, dtype=np.int64))
        may_B = self.guard.allows(inner_B, token)
        if 0 <= token < self.table.ids.size and self.table.column_of[token] == TEXT:
            may_B &= ~self.ban.hits[literal_B, token]
        return may_B

    def commit(
        self,
        states_B: Sequence[int] | Ints,
        ids_B: Sequence[int] | Ints | Tensor,
        by_model_B: NDArray[np.bool_] | None = None,
    ) -> Ints:
        """Let the ids pass and return the states behind them, int64; or raise: see `Guard.commit`.

        Raises:
            GuardError: As `Guard.commit`, or an id of the model's completes a literal.
        """
        ids = ids_B.cpu().numpy() if isinstance(ids_B, Tensor) else np.asarray(ids_B)
        inner_B, literal_B = self._split(np.asarray(states_B, dtype=np.int64))
        behind_B = self.guard.commit(inner_B, ids, by_model_B)
        ids = ids.astype(np.int64)
        text_B = self.table.column_of[ids] == TEXT
        own_B = np.ones(ids.size, dtype=bool) if by_model_B is None else by_model_B
        safe_B = np.where(text_B, ids, 0)
        bad_B = text_B & own_B & self.ban.hits[literal_B, safe_B]
        if bad_B.any():
            self._fired += 1
            row = int(bad_B.argmax())
            raise GuardError(
                f"gate: row {row}: id {ids[row]} ({self.ban.token_bytes[int(ids[row])]!r}) would "
                f"complete one of the banned literals {list(self.ban.literals)}; nothing was "
                "appended. The mask was bypassed: check_path finds where"
            )
        after_B = np.where(text_B, self.ban.next[literal_B, safe_B], literal_B)
        after_B = np.where(np.isin(ids, self._ends), 0, after_B)
        joined: Ints = behind_B + after_B.astype(np.int64) * self.table.states
        return joined

    def pressure(self) -> NDArray[np.float32]:
        """Return the probability of denied ids before the mask, per row and step, of both."""
        policy = self.guard.pressure()
        empty = torch.empty(0)
        literal = torch.cat([empty, *(one.cpu() for one in self._shares)]).numpy()
        # With the mask on, the literals' share is of what the policy has left.
        left = 1 - policy if self.guard.mask_on else np.float32(1)
        return np.asarray(policy + left * literal, dtype=np.float32)

    def inner(self, state: int) -> int:
        """Return the policy's part of a state, for `Table.path` and the like."""
        return int(self._split(np.array([state], dtype=np.int64))[0][0])

    def _join(self, inner: int, literal: int) -> int:
        return inner + literal * self.table.states

    def _split(self, states_B: Ints) -> tuple[Ints, Ints]:
        """Return the policy's states and those of the literals."""
        low_B = states_B & STATE_MASK
        inner_B = (states_B >> RUN_SHIFT << RUN_SHIFT) | (low_B % self.table.states)
        return inner_B, low_B // self.table.states


def _automaton(literals: Sequence[bytes]) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Return the next state by state and byte, [S, 256], and which states have read a literal."""
    children: list[dict[int, int]] = [{}]
    spelled = [False]
    for literal in literals:
        node = 0
        for byte in literal:
            if byte not in children[node]:
                children[node][byte] = len(children)
                children.append({})
                spelled.append(False)
            node = children[node][byte]
        spelled[node] = True
    if len(children) > np.iinfo(np.uint16).max:
        raise ConfigError(f"literals: {len(children)} states; give fewer or shorter ones")
    step_SC = np.zeros((len(children), 256), dtype=np.uint16)
    fail = [0] * len(children)
    queue = [0]
    for node in queue:  # by depth; it grows as it is read
        if node:
            step_SC[node] = step_SC[fail[node]]
            spelled[node] |= spelled[fail[node]]
        for byte, child in children[node].items():
            fail[child] = int(step_SC[node, byte]) if node else 0
            step_SC[node, byte] = child
            queue.append(child)
    return step_SC, np.array(spelled)


def _over_tokens(
    tokens: Sequence[bytes], step_SC: NDArray[np.uint16], spelled_S: NDArray[np.bool_]
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Return state and hit behind each state and token, [S, V] both."""
    lengths = np.array([len(token) for token in tokens], dtype=np.int64)
    states = len(step_SC)
    next_VS = np.tile(np.arange(states, dtype=np.uint16), (len(tokens), 1))
    hits_VS = np.zeros((len(tokens), states), dtype=bool)
    for at in range(int(lengths.max(initial=0))):
        ids = np.flatnonzero(lengths > at)
        bytes_at = np.array([tokens[i][at] for i in ids.tolist()], dtype=np.int64)
        reached = step_SC[next_VS[ids], bytes_at[:, None]]
        next_VS[ids] = reached
        hits_VS[ids] |= spelled_S[reached]
    return np.ascontiguousarray(next_VS.T), np.ascontiguousarray(hits_VS.T)

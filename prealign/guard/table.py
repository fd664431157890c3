"""A policy as a flat table over ids, and all that follows from it: state, mask, closing tags.

A state is one policy at one path, so that several policies share a table and the harness can
switch from one to another in the middle of a text (`switch`). A state is a function of the exact
ids alone. Tables are plain NumPy: the gate, the mask and the engines' adapters all read the same.

Shape letters:  Q = states,  C = columns (text, each tag, the end, never),  R = distinct rows,
K = ids of a row,  V = ids,  B = rows of a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prealign.config import fingerprint
from prealign.errors import ConfigError, GuardError
from prealign.guard.nesting import TOP, Nesting, Path, nesting_of
from prealign.guard.policy import Policy, Rule
from prealign.tokens.vocabulary import Vocabulary

Ints = NDArray[np.int64]
BAN = -1
"""In a table: no such transition."""
TEXT = 0
"""The column of ids that are text."""
END, NEVER = -2, -1
"""The columns of ids that end the text, and of those that nobody may write."""


@dataclass(frozen=True, kw_only=True)
class TagIds:
    """Which ids are tags, which end the text, and which nobody may ever write; all else is text."""

    size: int
    """Ids in all, padding of the logits included."""
    tags: tuple[tuple[str, int], ...]
    """Pairs of a tag and its id."""
    ends: tuple[int, ...]
    never: tuple[int, ...] = ()
    marks: str = ""
    """The fingerprint of the vocabulary that gives these ids their meaning."""

    def __post_init__(self) -> None:
        ids = [*(token for _, token in self.tags), *self.ends, *self.never]
        if len(set(ids)) < len(ids) or any(not 0 <= token < self.size for token in ids):
            raise ConfigError(f"tag ids {ids}: expected different ids in [0, {self.size})")


class Event(NamedTuple):
    """A tag, or an end of text, in a sequence of ids."""

    at: int
    """Its position."""
    tag: str
    """The tag; `end of text` for an end."""
    path: Path
    """What is open behind it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Policies compiled for the ids of a vocabulary; `compile_table` makes it."""

    nesting: Nesting
    policies: tuple[Policy, ...]
    ids: TagIds
    column_of: NDArray[np.int16]
    """[V] the column of each id."""
    next: NDArray[np.int32]
    """[Q, C] the state behind a column, whoever writes it; BAN where it cannot stand."""
    may: NDArray[np.bool_]
    """[Q, C] the model may write it."""
    longest: NDArray[np.int64]
    """[Q] text tokens in a row, after which text is forbidden; 0: no limit."""

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with policies, nesting or ids: it marks reports."""
        modes = [[m.name, m.open, m.close] for m in self.nesting.modes]
        own = [modes, self.nesting.holds, self.nesting.depth]
        return fingerprint([own, [p.fingerprint for p in self.policies], self.ids])

    @property
    def labels(self) -> tuple[str, ...]:
        """What each column is, for messages."""
        return ("text", *self.nesting.tags, "end of text", "an id that nobody may write")

    def label(self, token: int) -> str:
        """Return what an id is."""
        return self.labels[int(self.column_of[token])]

    @property
    def states(self) -> int:
        """How many there are."""
        return len(self.next)

    @cached_property
    def counts(self) -> bool:
        """Some state limits how much text may stand in a row, so all states count it."""
        return bool(self.longest.any())

    def start(self, policy: str | int = 0) -> int:
        """Return the state of a policy where nothing is open."""
        return self._index(policy) * len(self.nesting.paths)

    def path(self, state: int) -> Path:
        """Return what is open in a state."""
        return self.nesting.paths[self._row(state) % len(self.nesting.paths)]

    def policy(self, state: int) -> Policy:
        """Return the policy that a state is of."""
        return self.policies[self._row(state) // len(self.nesting.paths)]

    def switch(self, state: int, policy: str | int) -> int:
        """Return the state of another policy with the same modes open, and as much text there.

        Raises:
            GuardError: The state is none of this table: that of a refused or doubtful row, which
                no policy makes good again, or one with literals beside (`GuardWithLiterals`).
            ConfigError: There is no such policy.
        """
        row, paths = self._row(state), len(self.nesting.paths)
        return with_run(self._index(policy) * paths + row % paths, run_of(state))

    def opening(self, policy: str | int = 0) -> tuple[int, ...]:
        """Return the ids of the tags that the harness writes at the start of a policy."""
        tags = dict(self.ids.tags)
        chosen = self.policies[self._index(policy)]
        return tuple(tags[self.nesting.by_name[mode].open] for mode in chosen.start)

    def closing(self, state: int) -> tuple[int, ...]:
        """Return the ids of the tags that close all that is open."""
        tags = dict(self.ids.tags)
        return tuple(tags[tag] for tag in self.nesting.closing(self.path(state)))

    def over(self, state: int) -> bool:
        """Return whether the model can do nothing but end the text."""
        may = self.may[state_of(state)]
        return bool(may[END] and may.sum() == 1)

    def scan(self, ids: Sequence[int] | NDArray[np.integer], state: int = 0) -> int:
        """Return the state behind ids that the harness has put there: a prompt, a history.

        Raises:
            GuardError: An id is none of the vocabulary or nobody's to write, or a tag stands where
                the nesting forbids it; the ids are no integers in a row; or the state is none of
                this table.
        """
        q = self._row(state)
        array = np.asarray(ids)
        if not array.size:
            return state
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise GuardError(
                f"prompt: ids of shape {array.shape}, {array.dtype}: expected integers in one row"
            )
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= self.ids.size:
            raise GuardError(
                f"prompt: id {low if low < 0 else high} is not in [0, {self.ids.size})"
            )
        columns = self.column_of[array]
        special = np.flatnonzero(columns)
        for at in special.tolist():
            behind = int(self.next[q, columns[at]])
            if behind == BAN:
                inside = self.nesting.paths[q % len(self.nesting.paths)]
                raise GuardError(
                    f"prompt: {self.labels[columns[at]]} (id {array[at]}, token {at}) cannot stand "
                    f"in {'/'.join(inside) or 'no mode'}; the policy follows exact ids, and these "
                    "are of no text that the scheme allows"
                )
            q = behind
        if not self.counts:
            return q
        run = len(array) - 1 - int(special[-1]) if special.size else run_of(state) + len(array)
        return with_run(q, run)

    def events(self, ids: Sequence[int], state: int = 0) -> list[Event]:
        """Return the journal of a sequence: its tags and ends, with what is open behind each.

        Raises:
            GuardError: As `scan`.
        """
        self.scan(ids, state)
        found = []
        for at in np.flatnonzero(self.column_of[np.asarray(ids, dtype=np.int64)]).tolist():
            state = self.scan(ids[at : at + 1], state)
            found.append(Event(at, self.label(ids[at]), self.path(state)))
        return found

    def allowed(self, state: int) -> NDArray[np.bool_]:
        """Return which ids the model may write in a state, [V]: for tests, not for speed."""
        q = state_of(state)
        may = self.may[q].copy()
        if self.longest[q] and run_of(state) >= self.longest[q]:
            may[TEXT] = False
        fine: NDArray[np.bool_] = may[self.column_of]
        return fine

    def denied(self, state: int) -> list[int]:
        """Return the ids other than text that the model may not write in a state: for canaries."""
        return np.flatnonzero(~self.allowed(state) & (self.column_of != TEXT)).tolist()

    def text_allowed(self, states_B: Ints) -> NDArray[np.bool_]:
        """Return whether the model may write text in each state."""
        q_B = states_B & STATE_MASK
        longest_B = self.longest[q_B]
        below_B = (longest_B == 0) | (states_B >> RUN_SHIFT < longest_B)
        may_B: NDArray[np.bool_] = self.may[q_B, TEXT] & below_B
        return may_B

    def reachable(self, state: int) -> list[int]:
        """Return the rows that the model can come to from a state within a text, its own first.

        Those with fewer tags come first. Behind the end of a text is nothing.
        """
        found = [state_of(state)]
        seen = set(found)
        for q in found:  # grows as it is read
            for behind in self.next[q, 1:END][self.may[q, 1:END]].tolist():
                if behind not in seen:
                    seen.add(behind)
                    found.append(behind)
        return found

    def _row(self, state: int) -> int:
        """Return the row that a state stands for.

        Raises:
            GuardError: There is no such row.
        """
        row = state_of(state)
        if state < 0 or row >= self.states:
            raise GuardError(
                f"state {state} is none of the {self.states} of table {self.fingerprint}; a row "
                "that was refused stays so"
            )
        return row

    def _index(self, policy: str | int) -> int:
        if isinstance(policy, int) and 0 <= policy < len(self.policies):
            return policy
        names = [one.name for one in self.policies]
        if policy not in names:
            raise ConfigError(f"there is no policy {policy!r} here; allowed: {', '.join(names)}")
        return names.index(str(policy))


RUN_SHIFT = 32
STATE_MASK = (1 << RUN_SHIFT) - 1


def state_of(state: int) -> int:
    """Return the row of the table that a state stands for, without the length of its run."""
    return state & STATE_MASK


def run_of(state: int) -> int:
    """Return how many text tokens stand in a row in front of a state; 0 in tables without limit."""
    return state >> RUN_SHIFT


def with_run(row: int, run: int) -> int:
    """Return the state of a row of the table behind so many text tokens."""
    return row | run << RUN_SHIFT


def ids_of(vocabulary: Vocabulary) -> TagIds:
    """Return the ids of a vocabulary; its inert one is nobody's to write."""
    return TagIds(
        size=vocabulary.size,
        tags=tuple(vocabulary.tag_ids.items()),
        ends=(vocabulary.end_id,),
        never=(vocabulary.inert_id,),
        marks=vocabulary.fingerprint,
    )


def table_of(vocabulary: Vocabulary, *policies: Policy) -> Table:
    """Return the table of policies for the scheme and the ids of a vocabulary."""
    return compile_table(nesting_of(vocabulary.scheme), policies, ids_of(vocabulary))


def compile_table(nesting: Nesting, policies: Sequence[Policy], ids: TagIds) -> Table:
    """Return the table of policies over a nesting, for these ids.

    Raises:
        ConfigError: A rule names a mode that there is not; a policy starts with modes that cannot
            be open in this order, or leaves a state without anything to write; an id for a tag is
            missing.
    """
    if not policies or len({policy.name for policy in policies}) < len(policies):
        raise ConfigError("a table needs one or more policies, of different names")
    if [tag for tag, _ in ids.tags] != list(nesting.tags):
        raise ConfigError(
            f"ids are given for the tags {[tag for tag, _ in ids.tags]}, the modes have "
            f"{list(nesting.tags)}; give one id for each, in this order"
        )
    for policy in policies:
        _check(policy, nesting)
    columns = 1 + len(nesting.tags) + 2
    follow = _transitions(nesting, columns)
    may = np.concatenate([_rights(policy, nesting, follow) for policy in policies])
    paths = len(nesting.paths)
    offsets = np.arange(len(policies), dtype=np.int32)[:, None, None] * paths
    column_of = np.zeros(ids.size, dtype=np.int16)
    for column, (_, token) in enumerate(ids.tags, start=1):
        column_of[token] = column
    column_of[list(ids.ends)] = columns + END
    column_of[list(ids.never)] = columns + NEVER
    limits = [
        policy.rule(path[-1] if path else TOP).longest or 0
        for policy in policies
        for path in nesting.paths
    ]
    table = Table(
        nesting=nesting,
        policies=tuple(policies),
        ids=ids,
        column_of=column_of,
        next=np.where(follow == BAN, BAN, follow + offsets).reshape(-1, columns).astype(np.int32),
        may=may,
        longest=np.array(limits, dtype=np.int64),
    )
    _check_live(table)
    return table


def _transitions(nesting: Nesting, columns: int) -> NDArray[np.int32]:
    """Return the path behind each path and column, [paths, C]."""
    index: Mapping[Path, int] = {path: i for i, path in enumerate(nesting.paths)}
    follow = np.full((len(index), columns), BAN, dtype=np.int32)
    for path, at in index.items():
        follow[at, TEXT] = at
        follow[at, END] = 0  # a new document
        for column, tag in enumerate(nesting.tags, start=1):
            behind = nesting.step(path, tag)
            follow[at, column] = BAN if behind is None else index[behind]
    return follow


def _rights(policy: Policy, nesting: Nesting, follow: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return what the model may write, [paths, C]."""
    may = np.zeros(follow.shape, dtype=bool)
    for at, path in enumerate(nesting.paths):
        rule = policy.rule(path[-1] if path else TOP)
        may[at, TEXT] = rule.text
        may[at, END] = rule.ends
        for column, tag in enumerate(nesting.tags, start=1):
            opens = tag in [nesting.by_name[mode].open for mode in rule.opens]
            own = nesting.by_name[rule.mode].close if rule.mode else None
            may[at, column] = opens or (rule.closes and tag == own)
    may &= follow != BAN
    return may


def _check(policy: Policy, nesting: Nesting) -> None:
    for rule in policy.rules:
        _check_rule(rule, policy, nesting)
    path: Path | None = ()
    for mode in policy.start:
        known = mode in nesting.by_name
        path = (
            nesting.step(path, nesting.by_name[mode].open) if known and path is not None else None
        )
    if path != policy.start:
        raise ConfigError(
            f"policy {policy.name!r}: start={policy.start}: cannot be open in this order"
        )


def _check_rule(rule: Rule, policy: Policy, nesting: Nesting) -> None:
    where = f"policy {policy.name!r}, rule for {rule.mode or 'no mode'!r}"
    if rule.mode != TOP and rule.mode not in nesting.by_name:
        raise ConfigError(f"{where}: there is no such mode ({', '.join(nesting.by_name)})")
    for mode in rule.opens:
        if mode not in nesting.by_name:
            raise ConfigError(f"{where}: opens {mode!r}, which is no mode")
    if rule.closes and (rule.mode == TOP or nesting.by_name[rule.mode].close is None):
        raise ConfigError(f"{where}: closes=True, but there is no closing tag")


def _check_live(table: Table) -> None:
    """See that the model always has something to write, and can always leave a span that is full.

    Looked at are the states that it can come to from the start of its policy.
    """
    for policy in table.policies:
        first = table.scan(table.opening(policy.name), table.start(policy.name))
        for q in table.reachable(first):
            others = table.may[q].copy()
            others[TEXT] &= not table.longest[q]
            if not others.any():
                inside = "/".join(table.path(q)) or "no mode"
                raise ConfigError(
                    f"policy {policy.name!r}: in {inside} the model may write nothing at all"
                    + (f" after {table.longest[q]} text tokens" if table.longest[q] else "")
                )

"""Tables to check, and the checks that need no engine: against `reference.py`, on all states.

`exactness.py` runs them at full length, `tests/guard/test_exactness.py` in short.
"""

import contextlib
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from reference import Place, Reference

from prealign.errors import GuardError
from prealign.guard.device import REFUSED, DeviceGuard
from prealign.guard.gate import FEW, Guard
from prealign.guard.nesting import TOP, Nesting, nesting_of
from prealign.guard.policy import POLICIES, Policy, Rule, lock, named
from prealign.guard.table import Table, TagIds, compile_table, run_of, state_of, with_run
from prealign.runs import ResultRow
from prealign.text.scheme import GOOD_BAD, TWO_MODES, Mode

SEED = 20
LONGEST = 5
DRAWN_NESTINGS = 500
Bools = NDArray[np.bool_]


class Case(NamedTuple):
    """A table to check, with an interpreter for each of its policies."""

    name: str
    table: Table
    references: list[Reference]

    def reference(self, state: int) -> Reference:
        """Return the interpreter of a state's policy."""
        return self.references[state_of(state) // len(self.table.nesting.paths)]

    def place(self, state: int) -> Place:
        """Return what the interpreter calls a state."""
        return Place(self.table.path(state), run_of(state))

    def rights(self, state: int) -> Bools:
        """Return what the model may write, by the interpreter, [V]."""
        reference, place = self.reference(state), self.place(state)
        return np.array([reference.may(place, token) for token in range(self.table.ids.size)])

    def where(self, state: int) -> str:
        """Return a state in words."""
        return f"{self.name}, {self.table.policy(state).name}, {self.place(state)}"

    def state_at(self, state: int, place: Place | None) -> int:
        """Return the state of the same policy at a place."""
        assert place is not None
        paths = self.table.nesting.paths
        q = state_of(state) // len(paths) * len(paths) + paths.index(place.stack)
        return with_run(q, place.run) if self.table.counts else q

    def places(self) -> Iterator[int]:
        """Yield all states; where text in a row is limited, with none, some, all and too much."""
        for q in range(self.table.states):
            longest = int(self.table.longest[q])
            runs = [0, 1, longest - 1, longest, longest + 1] if longest else [0]
            yield from (with_run(q, run) for run in runs)


def tag_ids(nesting: Nesting, *, text: int, padding: int = 2) -> TagIds:
    """Return ids: text, the end, the tags, and some that nobody may write."""
    tags = tuple((tag, text + 1 + i) for i, tag in enumerate(nesting.tags))
    size = text + 1 + len(tags) + padding
    never = tuple(range(size - padding, size))
    return TagIds(size=size, tags=tags, ends=(text,), never=never)


def case_of(
    name: str, nesting: Nesting, policies: Sequence[Policy], *, text: int = 256, padding: int = 2
) -> Case:
    """Return a case with its table."""
    table = compile_table(nesting, policies, tag_ids(nesting, text=text, padding=padding))
    return Case(name, table, [Reference(nesting, policy, table.ids) for policy in policies])


def deep_case(depth: int = 4, *, text: int = 256) -> Case:
    """Return three modes that may all stand in each other, written by the model."""
    names = ("a", "b", "c")
    modes = tuple(Mode(name=n, open=f"<{n}>", close=f"</{n}>") for n in names)
    nesting = Nesting(modes=modes, holds=tuple((n, names) for n in (TOP, *names)), depth=depth)
    rules = [Rule(mode=n, opens=names, closes=n != TOP, ends=n == TOP) for n in (TOP, *names)]
    return case_of(f"3 modes, depth {depth}", nesting, [Policy(name="free", rules=tuple(rules))],
                   text=text)  # fmt: skip


def all_cases(*, large: bool = True) -> list[Case]:
    """Return the named policies on two schemes, limits of text, and a free nesting.

    `large`: one of them with 128,256 ids.
    """
    own = [named(name, TWO_MODES, "ai") for name in POLICIES]
    marks = [named(name, GOOD_BAD, "good") for name in POLICIES]
    limited = replace(lock(TWO_MODES, "ai", longest=LONGEST), name=f"lock ai, {LONGEST}")
    wide = [*own, limited]
    cases = [
        case_of("good-bad", nesting_of(GOOD_BAD), marks),
        case_of("two-modes", nesting_of(TWO_MODES), wide, padding=60),
        deep_case(),
    ]
    if large:
        many = case_of("two-modes, many", nesting_of(TWO_MODES), wide, text=128_000, padding=249)
        cases.append(many._replace(name=f"two-modes, {many.table.ids.size:,} ids"))
    return cases


class Tally:
    """Masks compared, by what with; differences are kept."""

    def __init__(self) -> None:
        self.compared: dict[str, int] = {}
        self.refused: dict[str, int] = {}
        self.wrong: dict[str, list[str]] = {}

    def same(self, who: str, got: object, want: object, where: str) -> None:
        """Count a comparison."""
        self.compared[who] = self.compared.get(who, 0) + 1
        if not np.array_equal(np.asarray(got), np.asarray(want)):
            self.wrong.setdefault(who, []).append(where)

    def rows(self, arm: str) -> list[ResultRow]:
        """Return the rows: how many differ of how many, by engine."""
        return [
            ResultRow(arm=f"{arm}, {who}", metric="differences", unit="of n comparisons",
                      value=len(self.wrong.get(who, [])), n=n, seed=SEED)
            for who, n in self.compared.items()
        ]  # fmt: skip

    @property
    def differences(self) -> int:
        """How many in all."""
        return sum(len(found) for found in self.wrong.values())


def check_states(case: Case, tally: Tally) -> None:
    """Compare mask and gate of all states with the interpreter, on all ids."""
    table = case.table
    states = list(case.places())
    for state in states:
        want, where = case.rights(state), case.where(state)
        tally.same("table", table.allowed(state), want, where)
        tally.same("mask", guard_mask(table, [state])[0], want, where)
        check_gate(case, state, want, tally)
    some = states if table.ids.size < 10_000 else states[::3]
    want = np.stack([case.rights(state) for state in some])
    tally.same("mask of rows in all states", guard_mask(table, some), want, case.name)
    logits = torch.zeros(len(some), table.ids.size)
    device = DeviceGuard(table, "cpu").mask_(logits, torch.tensor(some))
    tally.same("mask on a device", torch.isfinite(device).numpy(), want, case.name)


def guard_mask(table: Table, states: Sequence[int]) -> Bools:
    """Return what the guard's mask leaves, [B, V]; all else must be -inf exactly."""
    logits = torch.zeros(len(states), table.ids.size)
    masked = Guard(table, pressure=False).mask(logits, list(states)).numpy()
    assert ((masked == 0) | np.isneginf(masked)).all()
    left: Bools = masked == 0
    return left


def check_gate(case: Case, state: int, want: Bools, tally: Tally) -> None:
    """Compare what the gate says of each id, few rows and many, the model's and the harness's."""
    table, reference, place = case.table, case.reference(state), case.place(state)
    where = case.where(state)
    guard, device = Guard(table), DeviceGuard(table, "cpu")
    every = np.arange(table.ids.size)
    special = np.flatnonzero(table.column_of)
    some = np.concatenate([every[:3], special, [-1, table.ids.size]])
    for own in (True, False):
        behind = {token: reference.step(place, token) for token in some.tolist()}
        fine = [
            there is not None and (not own or bool(want[token])) for token, there in behind.items()
        ]
        expected = [
            case.state_at(state, there) if ok else REFUSED
            for ok, there in zip(fine, behind.values(), strict=True)
        ]
        for rows in (1, FEW + 1):
            got = [_gate(guard, state, token, own=own, rows=rows) for token in some.tolist()]
            tally.same(f"gate, {rows} rows", got, expected, where)
        owns = torch.full((len(some),), own)
        states = torch.full((len(some),), state)
        got = device.step(states, torch.from_numpy(some), owns).tolist()
        tally.same("gate on a device", got, expected, where)
    text = every[want]
    alone = Guard(table)
    with contextlib.suppress(GuardError):
        alone.commit(np.full(text.size, state), text)
    tally.same("gate, all allowed ids at once", alone.fired, 0, where)


def _gate(guard: Guard, state: int, token: int, *, own: bool, rows: int) -> int:
    try:
        behind = guard.commit([state] * rows, [token] * rows, np.full(rows, own))
    except GuardError:
        return REFUSED
    assert len(set(behind.tolist())) == 1
    return int(behind[0])


def guard_mask_of(guard: Guard, state: int) -> Bools:
    """Return what a guard's mask leaves in a state."""
    left: Bools = guard.mask(torch.zeros(1, guard.table.ids.size), [state])[0].numpy() == 0
    return left


def small_nestings(drawn: int) -> Iterator[tuple[Nesting, Policy]]:
    """Yield every nesting of up to two modes and depth three, and drawn ones of three modes."""
    rng = random.Random(SEED)
    for count in (1, 2):
        names = ("a", "b")[:count]
        places = (TOP, *names)
        subsets = [tuple(n for n, on in zip(names, bits, strict=True) if on)
                   for bits in itertools.product((0, 1), repeat=count)]  # fmt: skip
        for closed in itertools.product((True, False), repeat=count):
            for held in itertools.product(subsets, repeat=count + 1):
                for depth in range(4):
                    yield from _nesting(names, closed, dict(zip(places, held, strict=True)),
                                        depth, rng)  # fmt: skip
    for _ in range(drawn):
        names = ("a", "b", "c")
        closed = tuple(rng.random() < 0.7 for _ in names)
        held = {n: tuple(m for m in names if rng.random() < 0.6) for n in (TOP, *names)}
        yield from _nesting(names, closed, held, rng.randrange(4), rng)


def _nesting(
    names: Sequence[str],
    closed: Sequence[bool],
    held: dict[str, tuple[str, ...]],
    depth: int,
    rng: random.Random,
) -> Iterator[tuple[Nesting, Policy]]:
    """Yield a nesting with a drawn policy, if marks hold nothing in it."""
    if any(held[n] and not shut for n, shut in zip(names, closed, strict=True)):
        return
    modes = tuple(
        Mode(name=n, open=f"<{n}>", close=f"</{n}>" if shut else None)
        for n, shut in zip(names, closed, strict=True)
    )
    rules = [Rule(mode=TOP, opens=tuple(n for n in names if rng.random() < 0.7),
                  ends=rng.random() < 0.7)]  # fmt: skip
    for n, shut in zip(names, closed, strict=True):
        opens = tuple(m for m in names if rng.random() < 0.7)
        rules.append(Rule(mode=n, opens=opens, closes=shut and rng.random() < 0.7,
                          ends=rng.random() < 0.5))  # fmt: skip
    holds = tuple((place, inner) for place, inner in held.items() if inner)
    nesting = Nesting(modes=modes, holds=holds, depth=depth)
    yield nesting, Policy(name="drawn", rules=tuple(rules))


def check_strings(length: int, drawn: int = DRAWN_NESTINGS) -> tuple[int, int, int]:
    """Compare what all strings of tags, ends and text up to a length lead to, and may.

    State and stack are functions of what was read, so a pair of both is looked at once; the
    strings that lead to it are counted.

    Returns:
        Nestings, strings, strings that the two do not agree on.
    """
    nestings = strings = wrong = 0
    for nesting, policy in small_nestings(drawn):
        nestings += 1
        case = case_of("small", nesting, [policy], text=1, padding=1)
        symbols = range(case.table.ids.size)
        pairs: dict[tuple[int, Place], int] = {(0, Place()): 1}
        for _ in range(length):
            behind: dict[tuple[int, Place], int] = {}
            for (state, place), count in pairs.items():
                strings += count * len(symbols)
                for token in symbols:
                    there = case.references[0].step(place, token)
                    bare = None if there is None else Place(there.stack)
                    try:
                        got = case.table.scan([token], state)
                    except GuardError:
                        got = REFUSED
                    want = REFUSED if bare is None else case.state_at(0, bare)
                    rights = bool(case.table.allowed(state)[token])
                    if got != want or rights != case.references[0].may(place, token):
                        wrong += count
                    elif bare is not None:
                        behind[got, bare] = behind.get((got, bare), 0) + count
            pairs = behind
    return nestings, strings, wrong


def liveness(table: Table, policy: int) -> tuple[int, int | None]:
    """Return the states that the model can come to, and the most ids to the nearest end.

    None: from some state there is no end.
    """
    first = table.scan(table.opening(policy), table.start(policy))
    follow = {}
    queue = [state_of(first)]
    for q in queue:
        columns = np.flatnonzero(table.may[q, :-2])
        follow[q] = {int(table.next[q, column]) for column in columns.tolist()}
        queue += sorted(follow[q] - set(queue))
    far = {q: 1 for q in queue if table.may[q, -2]}
    for ids in range(2, len(queue) + 2):
        near = [q for q in queue if q not in far and follow[q] & set(far)]
        far |= dict.fromkeys(near, ids)
    return len(queue), max(far.values()) if len(far) == len(queue) else None

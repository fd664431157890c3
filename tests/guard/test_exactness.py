"""The table, the mask and the gate against a stack interpreter, and against two grammar engines."""

import numpy as np
import pytest
import torch
from cases import Case, Tally, all_cases, check_states, check_strings, deep_case, liveness
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from reference import Place

from prealign.errors import GuardError
from prealign.guard.device import DeviceGuard
from prealign.guard.gate import Guard
from prealign.guard.nesting import nesting_of
from prealign.guard.policy import stay
from prealign.guard.table import TagIds, compile_table
from prealign.text.scheme import GOOD_BAD, TWO_MODES

CASES = [case for case in all_cases(large=False) if "depth" not in case.name] + [deep_case(2)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_table_mask_and_gate_are_the_policy_on_all_states_and_ids(case):
    tally = Tally()
    check_states(case, tally)
    assert tally.wrong == {}
    assert sum(tally.compared.values()) > 50


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("engine", ["xgrammar", "structural", "llguidance"])
def test_two_engines_follow_the_exported_policy_alike(case, engine):
    pytest.importorskip("llguidance" if engine == "llguidance" else "xgrammar")
    exactness = pytest.importorskip("exactness")
    tally = Tally()
    exactness.check_engines(case, tally)
    for policy in range(len(case.table.policies)):
        exactness.walk(case, policy, 150, tally)
    assert tally.wrong == {}


def test_all_tag_strings_of_small_nestings_lead_where_a_stack_says():
    nestings, strings, wrong = check_strings(6, drawn=40)
    assert (nestings > 100, strings > 1_000_000, wrong) == (True, True, 0)


def test_from_everywhere_the_model_can_come_to_it_can_end():
    far = [
        [liveness(case.table, policy) for policy in range(len(case.table.policies))]
        for case in CASES
    ]
    assert far[0] == [(3, 1), (2, 1), (1, 1), (1, 1), (1, 1)]
    # `free` has </quote>, </ai> and the end to write from ai/quote, `lock` </quote> and the end.
    assert far[1] == [(4, 3), (4, 3), (3, 2), (2, 1), (1, 1), (3, 2)]
    assert far[2] == [(13, 3)]
    case = CASES[1]
    never = compile_table(case.table.nesting, [stay(TWO_MODES, may_end=False)], case.table.ids)
    assert liveness(never, 0) == (1, None)


def test_a_wrong_table_is_seen():
    case = CASES[1]
    may = case.table.may.copy()
    may[0, 3] ^= True
    table = compile_table(case.table.nesting, case.table.policies, case.table.ids)
    object.__setattr__(table, "may", may)
    tally = Tally()
    check_states(Case(case.name, table, case.references), tally)
    assert {"table", "mask", "gate, 1 rows", "gate, 17 rows", "mask on a device"} <= set(
        tally.wrong
    )


@pytest.mark.parametrize("token", [-1, -2, 5, 10**6])
def test_an_id_from_outside_is_refused_where_the_last_id_is_text_too(token):
    """NumPy and torch count from the end, so that -1 would be the last id."""
    nesting = nesting_of(GOOD_BAD)
    ids = TagIds(size=5, tags=(("<|good|>", 1), ("<|bad|>", 2)), ends=(0,))
    table = compile_table(nesting, [stay(GOOD_BAD)], ids)
    guard = Guard(table)
    for rows in (1, 40):
        with pytest.raises(GuardError, match=rf"row 0: id {token} is not in \[0, 5\)"):
            guard.commit([0] * rows, [token] * rows)
    with pytest.raises(GuardError, match=rf"prompt: id {token} is not in \[0, 5\)"):
        table.scan([3, token])
    assert DeviceGuard(table, "cpu").step(torch.tensor([0]), torch.tensor([token])).item() == -1


def test_the_gate_counts_what_it_has_judged():
    table = CASES[1].table
    guard = Guard(table)
    guard.commit([0] * 3, [65] * 3)
    guard.commit([0] * 20, [65] * 20)
    guard.commit([0] * 2, [65, 257], np.array([True, False]))
    assert (guard.gate_calls, guard.gate_ids, guard.fired) == (3, 24, 0)


class Row:
    """A row of a sampler: its state, and all that the test knows of it."""

    def __init__(self, policy, state, place):
        self.policies = [policy]
        self.ids, self.states, self.places = [], [state], [place]

    def copy(self):
        other = Row(0, 0, Place())
        for name in ("ids", "states", "places", "policies"):
            setattr(other, name, list(getattr(self, name)))
        return other


class Batches(RuleBasedStateMachine):
    """A sampler that adds, drops, swaps, forks and rolls back rows, and picks from all ids."""

    @initialize(case=st.sampled_from(CASES))
    def begin(self, case: Case) -> None:
        self.case, self.table = case, case.table
        self.guard = Guard(self.table)
        self.device = DeviceGuard(self.table, "cpu")
        self.rows: list[Row] = []

    @rule(data=st.data(), at_start=st.booleans())
    def add(self, data, at_start):
        policy = data.draw(st.integers(0, len(self.table.policies) - 1))
        row = Row(policy, self.table.start(policy), Place())
        for token in self.table.opening(policy) if at_start else ():
            self._append(row, token)
        self.rows.append(row)

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def drop_swap_and_fork(self, data):
        order = data.draw(st.lists(st.sampled_from(self.rows), max_size=24))
        seen: list[Row] = []
        for row in order:  # the same row twice is a fork
            seen.append(row.copy() if any(row is one for one in seen) else row)
        self.rows = seen

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def roll_back(self, data):
        row = data.draw(st.sampled_from(self.rows))
        back = data.draw(st.integers(0, len(row.ids)))
        for name in ("ids", "states", "places", "policies"):
            values = getattr(row, name)
            del values[len(values) - back :]

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def switch(self, data):
        row = data.draw(st.sampled_from(self.rows))
        row.policies[-1] = data.draw(st.integers(0, len(self.table.policies) - 1))
        row.states[-1] = self.table.switch(row.states[-1], row.policies[-1])

    @precondition(lambda self: self.rows)
    @rule(seed=st.integers(0, 2**32 - 1), model=st.booleans())
    def write(self, seed, model):
        """Each row gets an id that was drawn from all, tags often; what is fine stays."""
        random = np.random.default_rng(seed)
        special = np.flatnonzero(self.table.column_of)
        ids = [
            int(random.choice(special) if random.random() < 0.7 else random.integers(-1, 259))
            for _ in self.rows
        ]
        fine = [self._fine(row, token, model) for row, token in zip(self.rows, ids, strict=True)]
        states = [row.states[-1] for row in self.rows]
        own = np.full(len(ids), model)
        device = self.device.step(torch.tensor(states), torch.tensor(ids), torch.from_numpy(own))
        assert [behind >= 0 for behind in device.tolist()] == fine
        if all(fine):
            behind = self.guard.commit(states, ids, own).tolist()
        else:
            with pytest.raises(GuardError, match=rf"row {fine.index(False)}: id"):
                self.guard.commit(states, ids, own)
            kept = [i for i, ok in enumerate(fine) if ok]
            self.rows = [self.rows[i] for i in kept]
            ids = [ids[i] for i in kept]
            behind = self.guard.commit([states[i] for i in kept], ids, own[kept]).tolist()
        for row, token, state in zip(self.rows, ids, behind, strict=True):
            self._append(row, token, state)

    @invariant()
    def states_are_those_of_the_ids(self):
        for row in getattr(self, "rows", ()):
            policy = row.policies[-1]
            assert row.states[-1] == self.table.scan(row.ids, self.table.start(policy))
            assert row.states[-1] == self.case.state_at(self.table.start(policy), row.places[-1])

    @invariant()
    def masks_are_those_of_the_interpreter(self):
        rows = getattr(self, "rows", [])
        if rows:
            states = [row.states[-1] for row in rows]
            want = np.stack([self.case.rights(state) for state in states])
            logits = torch.zeros(len(rows), self.table.ids.size)
            live = want.any(axis=1)
            keep = [state for state, on in zip(states, live, strict=True) if on]
            masked = self.guard.mask(logits[live], keep)
            assert (torch.isfinite(masked).numpy() == want[live]).all()
            device = self.device.mask_(torch.zeros_like(logits), torch.tensor(states))
            assert (torch.isfinite(device).numpy() == want).all()

    def _fine(self, row, token, model):
        reference = self.case.references[row.policies[-1]]
        stands = reference.step(row.places[-1], token) is not None
        return stands and (not model or reference.may(row.places[-1], token))

    def _append(self, row, token, state=None):
        reference = self.case.references[row.policies[-1]]
        row.ids.append(token)
        row.states.append(self.table.scan([token], row.states[-1]) if state is None else state)
        row.places.append(reference.step(row.places[-1], token))
        row.policies.append(row.policies[-1])


Batches.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, derandomize=True
)
TestBatches = Batches.TestCase

"""Whether the guard's table, its mask and its gate are exactly its policies, and P6: texts can end.

    python benchmarks/exactness.py --out results/exactness.json

The table is held against a stack interpreter (`reference.py`) that shares no code with it, and
against two grammar engines, which are given the policies as `prealign.guard.export` writes them:
on all states and all ids, along random steps with rollbacks, and on the tag strings of small
nestings. Then the guard is broken in many ways, and its tests have to notice (`mutants.py`).
"""

import argparse
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import xgrammar
from cases import (
    SEED,
    Bools,
    Case,
    Tally,
    all_cases,
    check_states,
    check_strings,
    guard_mask_of,
    liveness,
)
from engines import Follower, LLGuidance, XGrammar, unpack
from reference import Place

from prealign.errors import ConfigError
from prealign.guard.gate import Guard
from prealign.guard.nesting import TOP
from prealign.guard.policy import Rule, named
from prealign.guard.table import Table, compile_table
from prealign.runs import Check, ResultRow, write_results
from prealign.text.scheme import TWO_MODES

QUESTION = "Do table, mask and gate let through exactly what the policies say, and can texts end?"
STEPS = 10_000
"""Along each policy of the tables with few ids."""
TAGS_IN_A_ROW = 10


def check_engines(case: Case, tally: Tally) -> None:
    """Compare the masks of all states with those of the engines, on all ids."""
    table = case.table
    engines = {"xgrammar": XGrammar(table), "llguidance": LLGuidance(table),
               "xgrammar, structural tag": XGrammar(table, structural=True)}  # fmt: skip
    for state in case.places():
        want = table.allowed(state)
        for name, engine in engines.items():
            try:
                follower = engine.start(state)
            except ConfigError:
                tally.refused[name] = tally.refused.get(name, 0) + 1
                continue
            tally.same(name, follower.mask(), want, case.where(state))


def walk(case: Case, policy: int, steps: int, tally: Tally) -> int:
    """Compare masks along random steps with rollbacks; return how many rollbacks there were.

    We roll back by taking an old state out of a list.
    """
    table, rng = case.table, random.Random(SEED + policy)
    guard = Guard(table, pressure=False)
    first = table.scan(table.opening(policy), table.start(policy))
    who = f"walk, {table.policies[policy].name}"
    states, places, followers = _begin(case, first)
    rollbacks = 0
    for step in range(steps):
        want = table.allowed(states[-1])
        here = f"{case.name}, step {step}, {places[-1]}"
        tally.same(who, guard_mask_of(guard, states[-1]), want, here)
        for follower in followers:
            tally.same(who, follower.mask(), want, here)
        token = _choose(table, want, rng)
        place = case.reference(states[-1]).step(places[-1], token)
        assert place is not None
        if token in table.ids.ends:
            states, places, followers = _begin(case, first)
            continue
        states.append(int(guard.commit([states[-1]], [token])[0]))
        places.append(place)
        tally.same(who, states[-1], case.state_at(first, place), here)
        for follower in followers:
            follower.accept(token)
        if rng.random() < 0.05 and len(states) > 1:
            back = rng.randrange(1, min(len(states), 12))
            del states[-back:], places[-back:]
            for follower in followers:
                follower.rollback(back)
            rollbacks += 1
    return rollbacks


def _begin(case: Case, first: int) -> tuple[list[int], list[Place], list[Follower]]:
    key = (case.name, first)
    if key not in _ENGINES:
        _ENGINES[key] = (XGrammar(case.table), LLGuidance(case.table))
    followers = [engine.start(first) for engine in _ENGINES[key]]
    return [first], [case.place(first)], followers


_ENGINES: dict[tuple[str, int], tuple[XGrammar, LLGuidance]] = {}


def _choose(table: Table, want: Bools, rng: random.Random) -> int:
    """Return an allowed id: often a tag, seldom an end."""
    fine = np.flatnonzero(want)
    special = [t for t in fine.tolist() if table.column_of[t] and t not in table.ids.ends]
    if special and rng.random() < 0.4:
        return rng.choice(special)
    text = fine[table.column_of[fine] == 0]
    if text.size and rng.random() < 0.995:
        return int(text[rng.randrange(text.size)])
    return int(fine[rng.randrange(fine.size)])


def cache_mixes_up() -> bool:
    """Return whether one xgrammar compiler with its cache confuses two policies: a known bug."""
    table = all_cases()[1].table
    policies = [named("lock", TWO_MODES, mode) for mode in ("human", "ai")]
    free = [replace(p, name=f"{p.name}, from outside", start=()) for p in policies]
    rules = [(Rule(mode=TOP, opens=(mode,), ends=True), Rule(mode=mode, closes=True))
             for mode in ("human", "ai")]  # fmt: skip
    free = [replace(p, rules=own) for p, own in zip(free, rules, strict=True)]
    table = compile_table(table.nesting, free, table.ids)
    engine = XGrammar(table)
    compiler = xgrammar.GrammarCompiler(engine.info, max_threads=1, cache_enabled=True)
    bits = xgrammar.allocate_token_bitmask(1, table.ids.size)
    for policy in (0, 1):
        start = table.start(policy)
        compiled = compiler.compile_grammar(engine.exported(start).text)
        xgrammar.GrammarMatcher(compiled).fill_next_token_bitmask(bits)
        if not np.array_equal(unpack(bits.numpy(), table.ids.size), table.allowed(start)):
            return True
    return False

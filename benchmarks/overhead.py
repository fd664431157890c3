"""What the guard costs per step and per token, against other ways to mask.

    python benchmarks/overhead.py --out results/overhead.json

A step is: mask the logits in the rows' states, then let the chosen ids pass and move the states on.
All contenders follow the same ids with the same policy, in turns of ten steps, on one thread;
that all masks are the same is asserted in the same run. Time is that of the processor, of all
threads, so that other work on the machine counts less.
"""

import argparse
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import llguidance
import numpy as np
import torch
import xgrammar
from cases import SEED, case_of, deep_case
from engines import LLGuidance, XGrammar
from numpy.typing import NDArray
from torch import Tensor

from prealign.errors import GuardError
from prealign.guard.device import DeviceGuard
from prealign.guard.gate import Guard
from prealign.guard.nesting import nesting_of
from prealign.guard.policy import lock
from prealign.guard.table import TEXT, Ints, Table
from prealign.models.create import LlamaShape, make_model
from prealign.models.sample import Sampling, sample
from prealign.runs import Check, ResultRow, write_results
from prealign.text.scheme import TWO_MODES

QUESTION = "What does the guard cost, beside sampling without one and beside grammar engines?"
SIZES = (50_257, 128_256, 151_936)
BATCHES = (1, 8, 64)
STEPS = {1: 2000, 8: 600, 64: 150}
COMPARED = {1: 400, 8: 100, 64: 12}
"""Steps whose masks are compared, by rows."""
BLOCK = 10
"""Steps that a contender does in a row; the first block does not count."""
PADDING = 32
TAGS = 0.1
"""Share of the steps with a tag."""
OURS = "guard"
NO_GUARD = "no guard"
ENGINES = ("xgrammar, EBNF", "xgrammar, structural tag", "llguidance")
NO_OUTLINES = (
    "outlines-core has no row: its regular expressions are over text, in which a tag's id and text "
    "that spells the tag are one, and added tokens are dropped from its vocabulary"
)


class Contender(Protocol):
    """Masks, and moves on."""

    def mask(self, logits_BV: Tensor) -> None:
        """Mask in place, each row in its state."""

    def accept(self, ids_B: Ints, ids: list[int]) -> None:
        """Move on behind the ids, which are given in both forms."""


class NoGuard:
    """Nothing: what the clock itself costs."""

    def mask(self, logits_BV: Tensor) -> None:
        """Leave all."""

    def accept(self, ids_B: Ints, ids: list[int]) -> None:
        """Look at nothing."""


class StaticBias(NoGuard):
    """A dense vector that is added to all logits; it follows no state."""

    def __init__(self, table: Table, state: int) -> None:
        allowed = torch.from_numpy(table.allowed(state))
        self.bias_V = torch.zeros(table.ids.size).masked_fill_(~allowed, -torch.inf)

    def mask(self, logits_BV: Tensor) -> None:
        """Add it."""
        logits_BV += self.bias_V


class Ours:
    """The guard."""

    def __init__(self, table: Table, state: int, batch: int, *, pressure: bool) -> None:
        self.guard = Guard(table, pressure=pressure)
        self.states_B = np.full(batch, state)

    def mask(self, logits_BV: Tensor) -> None:
        """Mask."""
        self.guard.mask(logits_BV, self.states_B)

    def accept(self, ids_B: Ints, ids: list[int]) -> None:
        """Let them pass."""
        self.states_B = self.guard.commit(self.states_B, ids_B)


class OnDevice:
    """The guard in torch operations alone."""

    def __init__(self, table: Table, state: int, batch: int) -> None:
        self.guard = DeviceGuard(table, "cpu")
        self.states_B = torch.full((batch,), state)

    def mask(self, logits_BV: Tensor) -> None:
        """Mask."""
        self.guard.mask_(logits_BV, self.states_B)

    def accept(self, ids_B: Ints, ids: list[int]) -> None:
        """Let them pass."""
        self.states_B = self.guard.step(self.states_B, torch.from_numpy(ids_B))


class OfXGrammar:
    """xgrammar: fill, apply, accept; its batch matcher from two rows on."""

    def __init__(self, table: Table, state: int, batch: int, *, structural: bool) -> None:
        compiled = XGrammar(table, structural=structural).compiled(state)
        self.matchers = [xgrammar.GrammarMatcher(compiled) for _ in range(batch)]
        self.together = xgrammar.BatchGrammarMatcher(max_threads=1)
        self.bits = xgrammar.allocate_token_bitmask(batch, table.ids.size)

    def mask(self, logits_BV: Tensor) -> None:
        """Fill and apply."""
        if len(self.matchers) == 1:
            self.matchers[0].fill_next_token_bitmask(self.bits)
        else:
            self.together.batch_fill_next_token_bitmask(self.matchers, self.bits)
        xgrammar.apply_token_bitmask_inplace(logits_BV, self.bits)

    def accept(self, ids_B: Ints, ids: list[int]) -> None:
        """Accept."""
        if len(ids) == 1:
            fine = self.matchers[0].accept_token(ids[0])
        else:
            fine = all(self.together.batch_accept_token(self.matchers, ids))
        assert fine


class OfLLGuidance:
    """llguidance: fill and consume; its bits are applied by xgrammar's kernel, which is quick."""

    def __init__(self, table: Table, state: int, batch: int) -> None:
        engine = LLGuidance(table)
        self.matchers: list[llguidance.LLMatcher] = [engine.matcher(state) for _ in range(batch)]
        self.bits = xgrammar.allocate_token_bitmask(batch, table.ids.size)
        self.rows = [(row.data_ptr(), row.numel() * 4) for row in self.bits]

    def mask(self, logits_BV: Tensor) -> None:
        """Fill and apply."""
        for matcher, (address, size) in zip(self.matchers, self.rows, strict=True):
            matcher.unsafe_compute_mask_ptr(address, size)
        xgrammar.apply_token_bitmask_inplace(logits_BV, self.bits)

    def accept(self, ids_B: Ints, ids: list[int]) -> None:
        """Consume."""
        for matcher, token in zip(self.matchers, ids, strict=True):
            assert matcher.consume_token(token)


def script(table: Table, state: int, batch: int, steps: int) -> Ints:
    """Return ids that the policy allows: text, and now and then a tag that is not the last."""
    random = np.random.default_rng(SEED)
    states = [state] * batch
    ids_SB = np.empty((steps, batch), dtype=np.int64)
    tags = [token for _, token in table.ids.tags]

    def step_to(one: int, token: int) -> int:
        return int(table.next[one, table.column_of[token]])

    for step in range(steps):
        for row, one in enumerate(states):
            may = table.may[one]
            fine = [t for t in tags if may[table.column_of[t]] and not table.over(step_to(one, t))]
            token = int(random.integers(table.ids.ends[0]))
            if fine and random.random() < TAGS:
                token = int(random.choice(fine))
            ids_SB[step, row] = token
            states[row] = step_to(one, token)
        assert all(table.may[one, TEXT] for one in states)
    return ids_SB


def contenders(table: Table, state: int, batch: int) -> dict[str, Contender]:
    """Return all that are measured, each standing in a state."""
    return {
        NO_GUARD: NoGuard(),
        OURS: Ours(table, state, batch, pressure=False),
        "guard, pressure": Ours(table, state, batch, pressure=True),
        "guard, torch alone": OnDevice(table, state, batch),
        "static bias": StaticBias(table, state),
        "xgrammar, EBNF": OfXGrammar(table, state, batch, structural=False),
        "xgrammar, structural tag": OfXGrammar(table, state, batch, structural=True),
        "llguidance": OfLLGuidance(table, state, batch),
    }


class Measured(NamedTuple):
    """A setting, and microseconds per step of each contender."""

    setting: str
    batch: int
    us: dict[str, NDArray[np.float64]]
    first_us: dict[str, NDArray[np.float64]]
    """Of steps right behind other work, which has the processor's caches."""
    masks: int
    """Compared, and the same."""


def measure(name: str, table: Table, batch: int, steps: int) -> Measured:
    """Return what each step takes each contender, in turns of `BLOCK` steps."""
    random = np.random.default_rng(SEED)
    state = table.scan(table.opening())
    ids_SB = script(table, state, batch, steps)
    some = contenders(table, state, batch)
    logits_BV = torch.randn(batch, table.ids.size, generator=torch.Generator().manual_seed(SEED))
    own_BV = torch.empty_like(logits_BV)
    us: dict[str, list[float]] = {one: [] for one in some}
    masks = compare(name, table, ids_SB[: COMPARED[batch]], logits_BV)
    for at in range(0, steps, BLOCK):
        for one in random.permutation(list(some)).tolist():
            own_BV.copy_(logits_BV)
            for step in range(at, at + BLOCK):
                ids_B = ids_SB[step]
                ids = ids_B.tolist()
                start = time.process_time_ns()
                some[one].mask(own_BV)
                some[one].accept(ids_B, ids)
                us[one].append((time.process_time_ns() - start) / 1000)
    blocks = {one: np.array(times).reshape(-1, BLOCK)[1:] for one, times in us.items()}
    return Measured(
        f"{name}, {table.ids.size:,} ids",
        batch,
        {one: times[:, 1:].ravel() for one, times in blocks.items()},
        {one: times[:, 0] for one, times in blocks.items()},
        masks,
    )


def compare(name: str, table: Table, ids_SB: Ints, logits_BV: Tensor) -> int:
    """Return how many masks were compared, step by step, before anything is timed.

    Raises:
        GuardError: Some contender denies other ids than the guard.
    """
    some = contenders(table, table.scan(table.opening()), ids_SB.shape[1])
    guard = some[OURS]
    others = [one for one in some if one not in (OURS, NO_GUARD, "static bias")]
    for step, ids_B in enumerate(ids_SB):
        denied_BV = _denied(guard, ids_B, logits_BV)
        for one in others:
            if not torch.equal(_denied(some[one], ids_B, logits_BV), denied_BV):
                raise GuardError(f"{name}, step {step}: {one!r} denies other ids than the guard")
    return len(ids_SB) * len(others) * ids_SB.shape[1]


def _denied(one: Contender, ids_B: Ints, logits_BV: Tensor) -> Tensor:
    own_BV = logits_BV.clone()
    one.mask(own_BV)
    one.accept(ids_B, ids_B.tolist())
    return own_BV.isneginf()


def rows_of(measured: Measured) -> list[ResultRow]:
    """Return the median and the 99th percentile of each contender."""
    rows = []
    for one in measured.us:
        arm = f"{measured.setting}, batch {measured.batch}, {one}"
        for metric, us, share in (
            ("p50", measured.us[one], 50),
            ("p99", measured.us[one], 99),
            ("p50 behind other work", measured.first_us[one], 50),
        ):
            value = round(float(np.percentile(us, share)), 2)
            rows.append(ResultRow(arm=arm, metric=metric, unit="CPU us per step", value=value,
                                  n=len(us), seed=SEED))  # fmt: skip
    return rows


def checks_of(found: list[Measured]) -> list[Check]:
    """Return the bars, each with the setting that is nearest to it."""
    every = [_ratio(one, one.us, ENGINES) for one in found]
    single = [_ratio(one, one.us, ENGINES[:2]) for one in found if one.batch == 1]
    behind = [_ratio(one, one.first_us, ENGINES) for one in found]
    masks = sum(one.masks for one in found)
    return [
        Check(what="median time per step, guard against the quickest engine, every batch",
              bar="less than 1 everywhere", value=f"at worst {max(every)[1]}",
              holds=max(every)[0] < 1, control="the rows"),
        Check(what="median time per step at batch 1, guard against xgrammar",
              bar="at most 1", value=f"at worst {max(single)[1]}", holds=max(single)[0] <= 1,
              control="the rows"),
        Check(what="the same as the first, of steps behind other work",
              bar="less than 1 everywhere", value=f"at worst {max(behind)[1]}",
              holds=max(behind)[0] < 1, control="the rows"),
        Check(what="all contenders deny the same ids", bar="every row of every compared step",
              value=f"{masks:,} compared", holds=True, control="another mask stops the run"),
    ]  # fmt: skip


def _ratio(
    one: Measured, us: dict[str, NDArray[np.float64]], engines: tuple[str, ...]
) -> tuple[float, str]:
    """Return the guard's median as a share of the quickest engine's, and in words."""
    theirs, best = min((float(np.median(us[engine])), engine) for engine in engines)
    ratio = float(np.median(us[OURS])) / theirs
    return ratio, f"{ratio:.2f} of {best} ({one.setting}, batch {one.batch})"


class Words(NamedTuple):
    """The ids of a table as sampling asks for them."""

    text_size: int
    end_id: int
    size: int
    tag_ids: dict[str, int]


def end_to_end(batch: int, repeats: int) -> list[ResultRow]:
    """Return tokens per processor second of a small Llama, with and without guard, in turns."""
    table = lock_table(SIZES[0])
    end = table.ids.ends[0]
    words = Words(end, end, table.ids.size, dict(table.ids.tags))
    shape = LlamaShape(width=128, layers=4, heads=4, max_tokens=128)
    model = make_model(shape, table.ids.size, seed=SEED)
    arms: dict[str, Callable[[], Guard | None]] = {
        NO_GUARD: lambda: None,
        OURS: lambda: Guard(table, pressure=False),
        "guard, pressure": lambda: Guard(table),
    }
    settings = Sampling(max_text_tokens=32, min_text_tokens=32)
    prompts = [[end, *table.opening()]] * batch
    rates: dict[str, list[float]] = {arm: [] for arm in arms}
    for repeat in range(repeats + 1):
        for arm, make in arms.items():
            start = time.process_time()
            out = sample(model, prompts, settings, seeds=range(repeat, repeat + batch),
                         vocabulary=words, guard=make())  # fmt: skip
            taken = time.process_time() - start
            rates[arm].append(sum(len(one.ids) for one in out) / taken)
    return [
        ResultRow(arm=f"small Llama, {table.ids.size:,} ids, batch {batch}, {arm}",
                  metric="speed", unit="tokens per CPU s", value=round(float(np.median(found[1:]))),
                  low=round(min(found[1:])), high=round(max(found[1:])), n=repeats, seed=SEED)
        for arm, found in rates.items()
    ]  # fmt: skip


def lock_table(size: int) -> Table:
    """Return the lock with quotes for so many ids in all."""
    nesting = nesting_of(TWO_MODES)
    text = size - PADDING - 1 - len(nesting.tags)
    return case_of("lock", nesting, [lock(TWO_MODES, "ai")], text=text, padding=PADDING).table


def free_table(size: int) -> Table:
    """Return three modes in each other to depth 4 for so many ids in all."""
    return deep_case(4, text=size - 2 - 1 - 6).table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/overhead.json"))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the steps")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    found = []
    tables: dict[str, Callable[[int], Table]] = {
        "lock with quotes": lock_table, "free, depth 4": free_table
    }  # fmt: skip
    for size in SIZES:
        for name, make in tables.items():
            for batch in BATCHES:
                steps = max(2 * BLOCK, int(STEPS[batch] * asked.scale) // BLOCK * BLOCK)
                found.append(measure(name, make(size), batch, steps))
    rows = [row for one in found for row in rows_of(one)]
    for batch in BATCHES:
        rows += end_to_end(batch, max(1, int(5 * asked.scale)))
    checks = checks_of(found)
    notes: list[Any] = [
        NO_OUTLINES,
        "p50 and p99 are of steps behind a step of the same contender; behind other work: of the "
        "first step of a turn",
        "no guard is what reading the clock costs; it is part of all rows",
        "static bias adds a dense vector and follows no state: it can say a constant mask only",
        "guard, pressure also records the share of denied probability: reductions over all logits",
        "llguidance's bits are applied by xgrammar's kernel",
    ]
    engines = {name: version(name) for name in ("xgrammar", "llguidance")}
    write_results(asked.out, question=QUESTION, seeds=[SEED], wall_s=time.perf_counter() - start,
                  rows=rows, checks=checks, extra={"engines": engines, "notes": notes})  # fmt: skip
    for check in checks:
        print("holds" if check.holds else "FAILS", check.what, "-", check.value)


if __name__ == "__main__":
    main()

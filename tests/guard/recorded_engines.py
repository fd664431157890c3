"""Engines as the guard sees them, in miniature: vLLM's two batches and what must come of them."""

import enum
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch

from prealign.errors import GuardError

UNKNOWN = -1


class Way(enum.Enum):
    """As vLLM's `MoveDirectionality`."""

    UNIDIRECTIONAL = enum.auto()
    SWAP = enum.auto()


class Update(NamedTuple):
    """As vLLM's `BatchUpdate`."""

    batch_size: int
    removed: list
    added: list
    moved: list


def params(policy=None, **fields):
    return SimpleNamespace(extra_args=policy and {"prealign_policy": policy}, **fields)


def expected(table, policy, prompt, output):
    """What may be written behind ids, from the first id on: no memory, no shared code."""
    only_end = np.zeros(table.ids.size, dtype=bool)
    only_end[list(table.ids.ends)] = True
    if policy not in [None, *(one.name for one in table.policies)]:
        return only_end
    try:
        state = table.scan(prompt, table.start(policy or 0))
    except GuardError:
        return only_end
    for token in output:
        if token == UNKNOWN:
            return _unknown(table, state, only_end)
        if not 0 <= token < table.ids.size or not table.allowed(state)[token]:
            return only_end
        state = table.scan([token], state)
    return table.allowed(state)


def _unknown(table, state, only_end):
    """What may be written in every state that text and allowed tags lead to, but no tag."""
    ids = [0, *(token for _, token in table.ids.tags)]
    seen, fresh = {state}, {state}
    while fresh:
        behind = {
            table.scan([t], s) & 0xFFFFFFFF for s in fresh for t in ids if table.allowed(s)[t]
        }
        fresh = behind - seen
        seen |= fresh
    fine = np.logical_and.reduce([table.allowed(s) for s in seen])
    fine[[token for _, token in table.ids.tags]] = False
    return fine if fine[0] else only_end


class Sequence:
    """A request: its prompt, and the engine's list of what was written."""

    def __init__(self, rng, table, policies, foreign):
        self.policy = rng.choice(policies)
        known = self.policy in [one.name for one in table.policies]
        opened = [int(table.ids.ends[0]), *table.opening(self.policy if known else 0)]
        self.prompt = [*opened, *rng.choices(range(20), k=rng.randrange(6))]
        if foreign:  # a client's tags, wherever
            self.prompt += rng.choices([token for _, token in table.ids.tags], k=2)
        self.output = []

    def choose(self, rng, allowed, table):
        """An id as a sampler would choose it; now and then one that is denied."""
        tags = [token for _, token in table.ids.tags]
        if rng.random() < 0.04:
            return rng.choice([*tags, *table.ids.ends, *table.ids.never, 0])
        wanted = [token for token in [*tags, *tags, 0, 1] if allowed[token]]
        return rng.choice(wanted or np.flatnonzero(allowed).tolist())


class V1Batch:
    """vLLM's persistent batch: lowest free rows are filled first, then the rest closes up."""

    def __init__(self, rng, table, policies, processor, *, rows=6, placeholders=True):
        self.rng, self.table, self.policies, self.rows = rng, table, policies, rows
        self.processor, self.placeholders = processor, placeholders
        self.batch, self.waiting = [], []

    def step(self):
        """Change the batch, mask, compare each row, write an id to each; return rows compared."""
        update = self._change()
        self.processor.update_state(update if any(update[1:]) else None)
        for one in self.batch:  # what vLLM does before the processors run; not always in time
            if one.output and one.output[-1] == UNKNOWN and self.rng.random() < 0.8:
                one.output[-1] = one.real
        logits = torch.randn(len(self.batch), self.table.ids.size)
        masked = self.processor.apply(logits.clone())
        for row, one in enumerate(self.batch):
            fine = expected(self.table, one.policy, one.prompt, one.output)
            compare(logits[row], masked[row], fine, (row, one.policy, one.prompt, one.output))
            if one.output and one.output[-1] == UNKNOWN:
                one.output[-1] = one.real
            one.real = one.choose(self.rng, fine, self.table)
            hidden = self.placeholders and self.rng.random() < 0.3
            one.output.append(UNKNOWN if hidden else one.real)
        return len(self.batch)

    def _change(self):
        rng, moved = self.rng, []
        for one in self.batch:
            if one.output and one.output[-1] != UNKNOWN and rng.random() < 0.03:
                del one.output[-rng.randrange(1, 3) :]  # taken back after a lost cache
        gone = sorted(i for i in range(len(self.batch)) if rng.random() < 0.1)
        for index in gone:
            if rng.random() < 0.5:  # preempted: it comes back as it was
                self.waiting.append(self.batch[index])
        free, added = list(gone), []
        while rng.random() < 0.4 and (free or len(self.batch) < self.rows):
            new = self.waiting.pop() if self.waiting else None
            new = new or Sequence(rng, self.table, self.policies, rng.random() < 0.2)
            if new.output and new.output[-1] == UNKNOWN:
                new.output[-1] = new.real
            index = free.pop(0) if free else len(self.batch)
            self.batch[index : index + 1] = [new]
            added.append((index, params(new.policy), new.prompt, new.output))
        removed = sorted(free, reverse=True)
        while free:  # condense
            last = len(self.batch) - 1
            if last in free:
                free.remove(last)
            else:
                index = free.pop(0)
                self.batch[index] = self.batch[last]
                moved.append((last, index, Way.UNIDIRECTIONAL))
            self.batch.pop()
        while len(self.batch) > 1 and rng.random() < 0.3:
            i, j = rng.sample(range(len(self.batch)), 2)
            self.batch[i], self.batch[j] = self.batch[j], self.batch[i]
            moved.append((i, j, Way.SWAP))
        return Update(len(self.batch), removed, added, moved)


class V2Requests:
    """vLLM's request state, and an engine on it: prefill in chunks, drafts, preemption."""

    def __init__(self, rng, table, policies, *, slots=5, length=64):
        self.rng, self.table, self.policies, self.length = rng, table, policies, length
        # What other requests left behind is in the buffers.
        self.all_token_ids = SimpleNamespace(
            gpu=torch.randint(0, table.ids.size, (slots, length), dtype=torch.int32)
        )
        self.total_len = SimpleNamespace(gpu=torch.zeros(slots, dtype=torch.int32))
        self.prompt_len = SimpleNamespace(np=np.zeros(slots, dtype=np.int32))
        self.free = list(range(slots))
        self.live, self.waiting = {}, []

    def step(self, processor):
        """Admit, mask the rows of some requests, compare, accept drafts; return rows compared."""
        rng = self.rng
        self._admit(processor)
        processor.apply_staged_writes()
        chosen = rng.sample(list(self.live), k=rng.randrange(len(self.live) + 1))
        rows = [self._rows(slot) for slot in chosen]
        flat = [row for group in rows for row in group]
        if not flat:
            return 0
        slot, local, pos, ids, _ = (list(column) for column in zip(*flat, strict=True))
        ctx = SimpleNamespace(
            expanded_idx_mapping=torch.tensor(slot, dtype=torch.int64),
            expanded_local_pos=torch.tensor(local, dtype=torch.int32),
            pos=torch.tensor(pos, dtype=torch.int64),
            input_ids=torch.tensor(ids, dtype=torch.int32),
        )
        logits = torch.randn(len(flat), self.table.ids.size)
        masked = processor.apply(logits.clone(), ctx)
        fine = [self._fine(*row) for row in flat]
        for row, one in enumerate(fine):
            compare(logits[row], masked[row], one, flat[row])
        at = 0
        for slot_of, group in zip(chosen, rows, strict=True):
            self._accept(slot_of, group, fine[at : at + len(group)])
            at += len(group)
        return len(flat)

    def _admit(self, processor):
        for slot in list(self.live):
            one = self.live[slot]
            full = len(one.prompt) + len(one.output) > self.length - 8
            if full or self.rng.random() < 0.1:
                if not full and self.rng.random() < 0.5:
                    self.waiting.append(one)
                del self.live[slot]
                self.free.append(slot)
        while self.free and self.rng.random() < 0.6:
            one = self.waiting.pop() if self.waiting else None
            one = one or Sequence(self.rng, self.table, self.policies, self.rng.random() < 0.2)
            slot = self.free.pop()
            text = [*one.prompt, *one.output]
            one.computed, one.refilled = 0, len(text)
            self.live[slot] = one
            self.prompt_len.np[slot] = len(one.prompt)
            self.total_len.gpu[slot] = len(text)
            self.all_token_ids.gpu[slot, : len(text)] = torch.tensor(text, dtype=torch.int32)
            assert processor.add_request(slot, params(one.policy))

    def _rows(self, slot):
        """(slot, local position, position, input id, drafts up to here) of each row."""
        one = self.live[slot]
        text = [*one.prompt, *one.output]
        if one.computed < one.refilled - 1:  # a chunk of the prompt
            one.computed = self.rng.randint(one.computed + 1, one.refilled - 1)
            if one.computed < one.refilled - 1 or self.rng.random() < 0.5:
                return [(slot, 0, one.computed - 1, text[one.computed - 1], ())]
        one.computed = len(text)
        drafts = self._drafts(one) if self.rng.random() < 0.6 else []
        rows = [(slot, 0, len(text) - 1, text[-1], ())]
        for k, token in enumerate(drafts, start=1):
            rows.append((slot, k, len(text) - 1 + k, token, tuple(drafts[:k])))
        return rows

    def _drafts(self, one):
        """Drafts as a small model makes them, unguarded; now and then not known."""
        ids = [0, 1, 2, UNKNOWN, *(token for _, token in self.table.ids.tags), *self.table.ids.ends]
        return self.rng.choices(ids, k=self.rng.randrange(1, 4))

    def _fine(self, slot, local, pos, _, drafts):
        one = self.live[slot]
        text = [*one.prompt, *one.output][: pos - local + 1]
        prompt = text[: len(one.prompt)]
        return expected(self.table, one.policy, prompt, [*text[len(prompt) :], *drafts])

    def _accept(self, slot, group, fine):
        """Take drafts as long as they are allowed and luck holds, and one id behind them."""
        one = self.live[slot]
        if group[0][2] + 1 < len(one.prompt) + len(one.output):
            return  # a chunk: nothing is sampled
        new = []
        for allowed, row in zip(fine, [*group[1:], None], strict=True):
            if row is not None and row[3] >= 0 and allowed[row[3]] and self.rng.random() < 0.7:
                new.append(row[3])
                continue
            new.append(one.choose(self.rng, allowed, self.table))
            break
        length = len(one.prompt) + len(one.output)
        self.all_token_ids.gpu[slot, length : length + len(new)] = torch.tensor(
            new, dtype=torch.int32
        )
        self.total_len.gpu[slot] += len(new)
        one.output += new


def compare(before, after, allowed, where):
    """An allowed id's logit is as it was, a denied one's is -inf."""
    wanted = torch.where(torch.from_numpy(allowed), before, -torch.inf)
    assert torch.equal(after, wanted), (where, (after != wanted).nonzero().flatten().tolist())

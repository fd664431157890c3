"""Adversaries for the benchmark `adversarial.py`: models, ways to run them, a judge, exact laws."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import ContinuousBatchingConfig

from prealign.guard.gate import Guard
from prealign.guard.hf_batch import guarded_generate_batch
from prealign.guard.hf_canary import WAYS
from prealign.guard.hf_generate import guarded_generate
from prealign.guard.nesting import nesting_of
from prealign.guard.policy import Policy, lock, lock_noquote, stay
from prealign.guard.table import Table, TagIds, compile_table, table_of
from prealign.models.create import LlamaShape, make_model
from prealign.models.sample import Sampling, sample
from prealign.runs import ResultRow
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

BIAS = 1e4
SEED = 0
LONGEST = 3
SMALL = ContinuousBatchingConfig(num_blocks=32, page_size=32, max_batch_tokens=128)
SIGMAS = 4.0
DRAWS = 4_000


class Case(NamedTuple):
    """One way to sample."""

    path: str
    policy: str
    wish: str
    kind: torch.dtype
    temperature: float
    """0: greedy."""


class World(NamedTuple):
    """What all cases share."""

    vocabulary: Vocabulary
    table: Table
    scale: float


def make_world(scale: float) -> World:
    vocabulary = Vocabulary(train_text_tokenizer(["a\n"], size=256), TWO_MODES)
    short = lock(TWO_MODES, "ai", longest=LONGEST)
    policies = (
        stay(TWO_MODES),
        lock(TWO_MODES, "ai"),
        lock_noquote(TWO_MODES, "ai"),
        Policy(name=f"lock ai, longest {LONGEST}", rules=short.rules, start=short.start),
    )
    return World(vocabulary, table_of(vocabulary, *policies), scale)


def wishes(vocabulary: Vocabulary, wish: str, *, off: bool) -> dict[int, float]:
    """Return the logits of an adversary by id; with the mask off, of one that is soon caught."""
    tags = [*vocabulary.tag_ids.values(), vocabulary.inert_id]
    ends = {vocabulary.end_id: -BIAS, vocabulary.tag_ids["</ai>"]: -BIAS}
    if wish == "text" and not off:  # it never closes its quotes
        quote = vocabulary.open_id("quote")
        return dict.fromkeys(range(vocabulary.text_size), BIAS) | {quote: BIAS + 1} | ends
    if off:
        return dict.fromkeys([vocabulary.open_id("human"), vocabulary.tag_ids["</human>"]], BIAS)
    wanted = dict.fromkeys(tags, BIAS) | ends
    if wish == "no text":
        wanted |= dict.fromkeys(range(vocabulary.text_size), -math.inf)
    return wanted


def llama(
    size: int, bias: dict[int, float], *, kind: torch.dtype = torch.float32, seed: int = SEED
) -> Any:
    """Return a small Llama with a constant added to its logits."""
    shape = LlamaShape(width=16, layers=1, heads=2, max_tokens=512)
    model = make_model(shape, size, seed=seed).eval().to(kind)
    bias_V = torch.zeros(size)
    for token, logit in bias.items():
        bias_V[token] = logit
    model.lm_head.register_forward_hook(lambda head, given, logits: logits + bias_V.to(kind))
    return model


def count_denied(ids: Sequence[int], policy: str, vocabulary: Vocabulary) -> int:
    """Return how many ids the policy denies, by a stack; the rest is judged as if they stood."""
    tags = {token: tag for tag, token in vocabulary.tag_ids.items()}
    stack = [] if policy == "stay" else ["ai"]
    run = denied = 0
    for token in ids:
        tag = tags.get(token)
        run = run + 1 if token < vocabulary.text_size else 0
        if token < vocabulary.text_size:
            full = "longest" in policy and stack == ["ai", "quote"] and run > LONGEST
            fine = policy == "stay" or (bool(stack) and not full)
        elif token == vocabulary.end_id:
            fine = policy == "stay" or stack in ([], ["ai"])
        elif policy == "stay" or tag is None:
            fine = False
        elif tag == "<quote>":
            fine = stack == ["ai"] and "noquote" not in policy
            stack = [*stack, "quote"] if fine else stack
        else:
            fine = bool(stack) and tag == f"</{stack[-1]}>"
            stack = stack[:-1] if fine else stack
        denied += not fine
    return denied


# ---------------------------------------------------------------- our own sampler


def run_own(case: Case, world: World, guard: Guard, model: Any, rows: int, seed: int) -> list[Any]:
    vocabulary, table = world.vocabulary, world.table
    prompt = [vocabulary.end_id, *table.opening(case.policy)]
    shown = Shown(guard, case.policy)
    settings = Sampling(
        temperature=case.temperature, top_p=(1.0, 0.9)[seed % 2], max_text_tokens=200
    )
    out = sample(
        model, [prompt] * rows, settings, seeds=range(seed * 1000, seed * 1000 + rows),
        vocabulary=vocabulary, guard=shown,
    )  # fmt: skip
    return [[*one.ids, *[vocabulary.end_id] * one.finished] for one in out]


class Shown:
    """A guard of one policy, as the sampler asks for it."""

    def __init__(self, guard: Guard, policy: str) -> None:
        self.mask, self.commit = guard.mask, guard.commit
        self.scan = lambda ids: guard.scan(ids, policy)


# ---------------------------------------------------------------- paths of transformers


def run_theirs(
    case: Case, world: World, guard: Guard, model: Any, rows: int, seed: int
) -> list[list[int]]:
    """Return what was written in each row, the end with it, padding left out."""
    vocabulary, table = world.vocabulary, world.table
    torch.manual_seed(seed)
    name = case.path.partition(": ")[2]
    how: dict[str, Any] = dict(WAYS[name])
    if case.temperature:
        how |= {"do_sample": True, "top_k": 0, "temperature": case.temperature}
    if "assistant_model" in how:
        bias = wishes(vocabulary, case.wish, off=not guard.mask_on)
        how["assistant_model"] = llama(table.ids.size, bias, kind=case.kind, seed=SEED + 1)
    head = [vocabulary.end_id, *table.opening(case.policy), 5, 6, 5, 6]
    prompts = [head[: len(head) - i % 4] for i in range(rows)]
    given = torch.tensor([[vocabulary.inert_id] * (len(head) - len(p)) + p for p in prompts])
    out = guarded_generate(
        model, table, given, policy=case.policy, guard=guard,
        max_new_tokens=24 if "num_beams" in how else 60, **how,
    )  # fmt: skip
    written = out[:, given.shape[1] :].tolist()
    return [[token for token in row if token != vocabulary.inert_id] for row in written]


def run_batched(
    case: Case, world: World, guard: Guard, model: Any, rows: int, seed: int
) -> list[list[int]]:
    vocabulary, table = world.vocabulary, world.table
    torch.manual_seed(seed)
    prompts = [
        [vocabulary.end_id, *table.opening(case.policy), *[5] * (i % 4)] for i in range(rows)
    ]
    how = (
        {"do_sample": True, "top_k": 0, "temperature": case.temperature} if case.temperature else {}
    )
    return guarded_generate_batch(
        model,
        table,
        prompts,
        policy=case.policy,
        guard=guard,
        batching=SMALL,
        max_new_tokens=60,
        **how,
    )


Runner = Callable[[Case, World, Guard, Any, int, int], list[list[int]]]


# ---------------------------------------------------------------- the law


def small_table() -> Table:
    """Return the table of a lock over 16 ids: 8 of text, 6 tags, the end, the inert one."""
    nesting = nesting_of(TWO_MODES)
    tags = tuple((tag, 8 + i) for i, tag in enumerate(nesting.tags))
    ids = TagIds(size=16, tags=tags, ends=(14,), never=(15,))
    return compile_table(nesting, [lock(TWO_MODES, "ai")], ids)


def exact_law(
    model: Any, table: Table, prompt: list[int], tokens: int
) -> dict[tuple[int, ...], float]:
    """Return the probability of each continuation under the guard, in float64."""
    law: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(tokens):
        longer: dict[tuple[int, ...], float] = {}
        for ids, share in law.items():
            if ids and ids[-1] in table.ids.ends:
                longer[ids] = share
                continue
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *ids]])).logits[0, -1].double()
            allowed = table.allowed(table.scan([*prompt, *ids]))
            odds = torch.where(torch.from_numpy(allowed), logits, -torch.inf).softmax(0)
            for token in np.flatnonzero(allowed).tolist():
                longer[*ids, token] = share * float(odds[token])
        law = longer
    return law


def sigmas(law: dict[tuple[int, ...], float], drawn: list[tuple[int, ...]]) -> tuple[float, int]:
    """Return how far chi-square is above its mean, and its degrees of freedom.

    Continuations that are expected fewer than 5 times are one cell. One that cannot come is
    infinitely far.
    """
    counts: dict[tuple[int, ...], int] = {}
    for ids in drawn:
        counts[ids] = counts.get(ids, 0) + 1
    if set(counts) - set(law):
        return math.inf, 0
    wanted = {ids: share * len(drawn) for ids, share in law.items()}
    cells = [(counts.get(ids, 0), want) for ids, want in wanted.items() if want >= 5]
    rest = len(drawn) - sum(count for count, _ in cells), len(drawn) - sum(w for _, w in cells)
    cells += [rest] if rest[1] > 1e-6 else []
    free = len(cells) - 1
    statistic = sum((count - want) ** 2 / want for count, want in cells)
    return (statistic - free) / math.sqrt(2 * free), free


def laws(scale: float) -> list[ResultRow]:
    """Return how far what was drawn is from the exact law, on three paths, and a control."""
    table = small_table()
    prompt, tokens, draws = [14, *table.opening(), 1, 2], 3, int(DRAWS * scale)
    target, draft = (sharp(table, seed) for seed in (SEED, SEED + 1))
    law = exact_law(target, table, prompt, tokens)
    how = {"do_sample": True, "top_k": 0, "max_new_tokens": tokens}
    given = torch.tensor([prompt])

    def cut(row: list[int]) -> tuple[int, ...]:
        ids = row[len(prompt) :]
        return tuple(ids[: ids.index(14) + 1] if 14 in ids else ids)

    torch.manual_seed(SEED)
    out = guarded_generate(target, table, given.repeat(draws, 1), **how)
    found = {"plain": [cut(row) for row in out.tolist()]}
    found["draft model"] = [
        cut(guarded_generate(target, table, given, assistant_model=draft, **how)[0].tolist())
        for _ in range(draws)
    ]
    found["prompt lookup"] = [
        cut(guarded_generate(target, table, given, prompt_lookup_num_tokens=2, **how)[0].tolist())
        for _ in range(draws)
    ]
    found["the draft model's own law (control)"] = [
        cut(row) for row in guarded_generate(draft, table, given.repeat(draws, 1), **how).tolist()
    ]
    rows = []
    for arm, drawn in found.items():
        far, free = sigmas(law, drawn)
        rows.append(
            ResultRow(arm=f"law, {arm}", metric="chi_square_excess", unit="standard deviations",
                      value=round(min(far, 1e6), 3), n=len(drawn), seed=SEED, high=SIGMAS)
        )  # fmt: skip
        print(f"law, {arm}: {far:.2f} ({free} degrees of freedom)", flush=True)
    return rows


def sharp(table: Table, seed: int) -> Any:
    """Return a model whose distributions are far from flat, and that likes a denied tag."""
    model = llama(16, {table.ids.tags[0][1]: 2.0}, seed=seed)
    for weight in model.parameters():
        weight.data *= 4
    return model

"""vLLM in the sampler's place: are its rollouts those of the weights that are trained, and guarded?

    python benchmarks/vllm_rollouts.py --out results/vllm_rollouts.json

Needs vLLM (0.32 or so, on a CPU or a GPU). A tiny model of random weights is changed again and
again; behind each change, greedy samples of both are compared id by id, and the first ids drawn at
temperature 1 with the model's own probabilities. Then its output layer is bent towards tags, which
the guard denies. At last the same policy gradient is done with both.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prealign.guard.gate import Guard
from prealign.guard.policy import stay
from prealign.guard.table import table_of
from prealign.models.create import LlamaShape, make_model
from prealign.models.sample import Sampled, Sampling, sample
from prealign.posttrain.reinforce import Reinforce
from prealign.posttrain.rollouts import Stage, Task
from prealign.posttrain.trainer import Settings, posttrain
from prealign.posttrain.vllm_writer import VllmSampler, open_vllm
from prealign.runs import Check, ResultRow, RunFolder, write_results
from prealign.text.document import Document, Span
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary
from prealign.train.settings import TrainSettings

QUESTION = __doc__.partition("\n")[0]
TEXT = "to be or not to be, that is the question\n"
SHAPE = LlamaShape(width=64, layers=2, heads=2, kv_heads=2, max_tokens=128)
ROWS, TOKENS, DRAWS, CHANGES, STEPS = 64, 24, 4096, 4, 40
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_text_tokens=TOKENS)
DRAWN = replace(GREEDY, temperature=1.0)
LETTER = "e"


def changed(model: Any, seed: int) -> None:
    """Change all weights in place, as much as they are."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=random)
            weight.add_(0.3 * noise * weight.std())


def prompts_of(vocabulary: Vocabulary, count: int) -> list[list[int]]:
    texts = [TEXT[i % 20 : i % 20 + 3 + i % 7] for i in range(count)]
    return [[vocabulary.end_id, *vocabulary.encode_text(text)] for text in texts]


def ours(
    model: Any, vocabulary: Vocabulary, prompts: Any, settings: Sampling, *, guarded: bool = True
) -> list[Sampled]:
    guard = Guard(table_of(vocabulary, stay(TWO_MODES)), pressure=False) if guarded else None
    return sample(
        model, prompts, settings, seeds=range(len(prompts)), vocabulary=vocabulary, guard=guard
    )


def surprise(model: Any, vocabulary: Vocabulary, write: VllmSampler) -> float:
    """Return the chi-square of first ids against the model's text, in deviations over its mean."""
    prompt = prompts_of(vocabulary, 1)[0]
    one = replace(DRAWN, max_text_tokens=1)
    drawn = write(model, [prompt] * DRAWS, one, seeds=range(DRAWS), vocabulary=vocabulary)
    ids = [s.ids[0] if s.ids else vocabulary.end_id for s in drawn]
    with torch.inference_mode():
        logits_V = model(input_ids=torch.tensor([prompt])).logits[0, -1].double()
    allowed = [*range(vocabulary.text_size), vocabulary.end_id]
    share_V = torch.full_like(logits_V, -torch.inf)
    share_V[allowed] = logits_V[allowed]
    expected = DRAWS * share_V.softmax(-1).numpy()[allowed]
    counts = np.bincount(ids, minlength=len(logits_V))[allowed]
    often = expected >= 5
    statistic = ((counts[often] - expected[often]) ** 2 / expected[often]).sum()
    rest = expected[~often].sum()
    statistic += (counts[~often].sum() - rest) ** 2 / rest if rest else 0.0
    free = int(often.sum()) - (0 if rest else 1)
    return float((statistic - free) / (2 * free) ** 0.5)


def letters(task: Task, text: str, spans: Sequence[Span]) -> float:
    """Reward: how often a letter is written."""
    return text.count(LETTER) / TOKENS


def trained(model: Any, vocabulary: Vocabulary, writer: VllmSampler | None) -> tuple[float, float]:
    """Return the mean reward of the first and of the last five steps."""
    texts = [TEXT[i : i + 4] for i in range(16)]
    tasks = tuple(
        Task(Document(str(i), text, (Span(0, len(text)),))) for i, text in enumerate(texts)
    )
    stage = Stage(
        vocabulary=vocabulary, policy=stay(TWO_MODES), sampling=DRAWN, tagged=False, writer=writer
    )
    method = Reinforce(stage=stage, tasks=tasks, reward=letters, tasks_per_step=4, group=8)
    train = TrainSettings(lr=3e-3, weight_decay=0.0, log_every_steps=1, compile="off")
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        posttrain(model, method, Settings(steps=STEPS, train=train), run)
        rewards = [float(row["reward_mean"]) for row in run.rows("metrics")]
    return float(np.mean(rewards[:5])), float(np.mean(rewards[-5:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    started = time.perf_counter()
    vocabulary = Vocabulary(train_text_tokenizer([TEXT], size=280), TWO_MODES)
    model = make_model(SHAPE, vocabulary.size, seed=0)
    for weight in model.parameters():
        weight.data *= 3
    with tempfile.TemporaryDirectory() as folder:
        write = open_vllm(
            model, vocabulary, Path(folder) / "model", enforce_eager=True, max_num_seqs=64,
            gpu_memory_utilization=0.2, dtype="float32",
        )  # fmt: skip
        rows, checks = measured(model, vocabulary, write)
    write_results(
        out, question=QUESTION, seeds=(0,), wall_s=time.perf_counter() - started, rows=rows,
        checks=checks,
    )  # fmt: skip
    for check in checks:
        print(f"{check.what}: {check.value} ({check.bar}) {'holds' if check.holds else 'MISSED'}")


def measured(
    model: Any, vocabulary: Vocabulary, write: VllmSampler
) -> tuple[list[ResultRow], list[Check]]:
    """Return all numbers, and the bars."""
    prompts = prompts_of(vocabulary, ROWS)
    differing, stale, surprises = 0, 0, []
    before: list[Sampled] = []
    for number in range(CHANGES):
        theirs = write(model, prompts, GREEDY, seeds=range(ROWS), vocabulary=vocabulary)
        own = ours(model, vocabulary, prompts, GREEDY)
        differing += sum(a.ids != b.ids for a, b in zip(theirs, own, strict=True))
        stale += sum(a.ids == b.ids for a, b in zip(before, own, strict=False))
        surprises.append(surprise(model, vocabulary, write))
        before = own
        changed(model, number)
    bent = make_model(SHAPE, vocabulary.size, seed=0)
    with torch.no_grad():
        bent.get_input_embeddings().weight[list(vocabulary.tag_ids.values())] *= 40
    theirs = write(bent, prompts, DRAWN, seeds=range(ROWS), vocabulary=vocabulary)
    bare = ours(bent, vocabulary, prompts, DRAWN, guarded=False)
    tags, without = (
        sum(token in vocabulary.tag_ids.values() for one in some for token in one.ids)
        for some in (theirs, bare)
    )
    rows, last = [], {}
    for name, writer in (("ours", None), ("vLLM", write)):
        first, last[name] = trained(make_model(SHAPE, vocabulary.size, seed=1), vocabulary, writer)
        rows += [ResultRow(arm=name, metric="reward_first", unit="letters per token", value=first),
                 ResultRow(arm=name, metric="reward_last", unit="letters per token",
                           value=last[name])]  # fmt: skip
        began = time.perf_counter()
        if writer is None:
            found = ours(model, vocabulary, prompts, DRAWN)
        else:
            found = writer(model, prompts, DRAWN, seeds=range(ROWS), vocabulary=vocabulary)
        rate = sum(len(one.ids) for one in found) / (time.perf_counter() - began)
        rows.append(ResultRow(arm=name, metric="written", unit="tokens per s", value=rate))
    checks = [
        Check(what=f"greedy samples that differ from ours, behind {CHANGES} changes of the weights",
              bar="= 0", value=differing, holds=differing == 0,
              control=f"samples that a change leaves as they were: {stale} of "
                      f"{ROWS * (CHANGES - 1)}"),
        Check(what=f"first ids of {DRAWS:,} draws against the model's probabilities, the worst of "
                   f"{CHANGES}", bar="<= 4 standard deviations", value=round(max(surprises), 2),
              holds=max(surprises) <= 4, control="chi-square's own mean"),
        Check(what="tags written by a model that is bent towards them", bar="= 0", value=tags,
              holds=tags == 0, control=f"without a guard: {without}"),
        Check(what="policy gradient by vLLM's rollouts: last reward over that by our sampler's",
              bar=">= 0.8", value=round(last["vLLM"] / last["ours"], 3),
              holds=last["vLLM"] >= 0.8 * last["ours"], control="ours"),
    ]  # fmt: skip
    return rows, checks


if __name__ == "__main__":
    main()

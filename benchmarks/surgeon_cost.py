"""What a training step under a surgeon costs, over the passes that it consists of.

    python benchmarks/surgeon_cost.py --out results/surgeon_cost.json
    python benchmarks/surgeon_cost.py --models tiny --out results/surgeon_cost.json

A step is an attack of some ascents and the training pass under it. What it is held against, in the
same run and in turn, is the bare passes: as many forward passes of the frozen model with a tensor
added at the same place, each with a backward pass to that tensor, and one forward and backward
pass with all gradients. A second row has the same number of ordinary training passes below. On
SmolLM2-135M a trigger is planted besides, and targeted training is done for a few steps: what one
takes, and what it does to the trigger.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from prealign.corpora.worlds.errands import Errand, Errands
from prealign.harden.aims import Steer
from prealign.harden.ball import Ball
from prealign.harden.hardened import Hardened
from prealign.harden.perturb import RowLayout
from prealign.harden.places import Place
from prealign.harden.resist import Resist
from prealign.harden.surgeon import Surgeon, frozen
from prealign.models.adopt import adopt
from prealign.models.create import LlamaShape, make_model
from prealign.models.sample import evaluating
from prealign.posttrain.score import Row, logp
from prealign.posttrain.scoring import score_rows
from prealign.posttrain.supervise import Supervise
from prealign.posttrain.trainer import Settings, posttrain
from prealign.recipes.surgeon import Asked, stage_of, tasks_of
from prealign.runs import Check, ResultRow, RunFolder, write_results
from prealign.text.scheme import TWO_MODES
from prealign.train.settings import TrainSettings

QUESTION = "Does a step under a surgeon cost no more than the passes that it consists of?"
BAR = 1.3
DEPTH = 0.25
BARE, PLAIN = "bare passes", "as many training passes"


def rows_of(vocab_size: int, count: int, length: int) -> list[Row]:
    """Return random rows, the last third of each its completion."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, vocab_size, (count, length), generator=draw).tolist()
    between = 2 * length // 3
    return [Row(tuple(own[:between]), tuple(own[between:])) for own in ids]


def loss_of(model: Any, rows: Sequence[Row]) -> Tensor:
    """Return the loss that is attacked and learnt."""
    logp_BL, mask_BL = logp(model, rows)
    return -logp_BL.sum() / mask_BL.sum()


def attacked_step(model: Any, rows: Sequence[Row], surgeon: Surgeon) -> None:
    """Do what a training step under the surgeon does, but for the optimizer."""
    layout = RowLayout([(row,) for row in rows], surgeon.positions)
    found = surgeon(model, lambda: loss_of(model, rows), layout)
    with found.applied(with_gradient_only=True):
        loss_of(model, rows).backward()
    model.zero_grad(set_to_none=True)


def bare_step(model: Any, rows: Sequence[Row], surgeon: Surgeon) -> None:
    """Do its passes and nothing else."""
    module = surgeon.places[0].find(model)
    shape = (len(rows), len(rows[0].prompt) + len(rows[0].completion), model.config.hidden_size)
    delta_BLD = torch.zeros(shape, requires_grad=True)
    handle = module.register_forward_hook(lambda _, __, out: out + delta_BLD)
    with evaluating(model), frozen(model):
        for _ in range(surgeon.steps):
            torch.autograd.grad(loss_of(model, rows), delta_BLD)
    delta_BLD.requires_grad_(False)
    loss_of(model, rows).backward()
    handle.remove()
    model.zero_grad(set_to_none=True)


def plain_step(model: Any, rows: Sequence[Row], surgeon: Surgeon) -> None:
    """Do as many training passes."""
    for _ in range(surgeon.steps + 1):
        loss_of(model, rows).backward()
    model.zero_grad(set_to_none=True)


def in_turn(steps: Sequence[Callable[[], None]], repeats: int) -> list[list[float]]:
    """Return seconds of each, measured in turn after a warm-up."""
    found: list[list[float]] = [[] for _ in steps]
    for repeat in range(repeats + 1):
        for step, own in zip(steps, found, strict=True):
            started = time.perf_counter()
            step()
            own += [time.perf_counter() - started] if repeat else []
    return found


def measured(name: str, model: Any, rows: Sequence[Row], repeats: int) -> tuple[list[ResultRow],
                                                                                Check]:  # fmt: skip
    """Return rows and the check of one model."""
    surgeon = Surgeon(places=(Place(depth=DEPTH),), ball=Ball(strength=0.1, clamp=True))
    model.train()
    steps = [lambda step=step: step(model, rows, surgeon)
             for step in (attacked_step, bare_step, plain_step)]  # fmt: skip
    ours, bare, plain = in_turn(steps, repeats)
    model.eval()
    over_bare, over_plain = (
        sorted(a / b for a, b in zip(ours, base, strict=True)) for base in (bare, plain)
    )
    found = [
        ResultRow(arm=f"{name}: {arm}", metric="step", unit="s", value=median(own), low=min(own),
                  high=max(own), n=repeats)
        for arm, own in (("surgeon", ours), (BARE, bare), (PLAIN, plain))
    ]  # fmt: skip
    found += [
        ResultRow(arm=f"{name}: surgeon", metric=f"over {base}", unit="ratio",
                  value=median(own), low=own[0], high=own[-1], n=repeats)
        for base, own in ((BARE, over_bare), (PLAIN, over_plain))
    ]  # fmt: skip
    value = median(over_bare)
    check = Check(
        what=f"{name}: a step under a surgeon of {surgeon.steps} ascents, over its bare passes "
        "(median of pairs)",
        bar=f"<= {BAR:g}", value=round(value, 3), holds=value <= BAR, control=f"{name}: {BARE}",
    )  # fmt: skip
    return found, check


def trial(model: Any, vocabulary: Any, steps: int) -> list[ResultRow]:
    """Plant a trigger in a real model, then train it under a targeted surgeon for some steps."""
    stage = stage_of(vocabulary)
    triggered = Errands(seed=5).with_trojan(0, 8)
    asked = Asked(stage, tuple(triggered))
    bads, goods = asked.bads(0), asked.goods()

    def told(when: str) -> list[ResultRow]:
        rows = []
        for metric, own in (("harm", bads), ("good answer", goods)):
            values = [float(one.mean()) for one in score_rows(model.eval(), own, False)]
            rows.append(
                ResultRow(arm=f"SmolLM2-135M: {when}", metric=f"log p of the {metric} with trigger",
                          unit="nats per token", value=sum(values) / len(values), n=len(values))
            )  # fmt: skip
        return rows

    def go(method: Any, count: int, folder: Path) -> list[float]:
        folder.mkdir()
        train = TrainSettings(lr=1e-4, weight_decay=0.0, precision="fp32", compile="off",
                              log_every_steps=1, checkpoint_every_s=1e9)  # fmt: skip
        posttrain(model, method, Settings(steps=count, train=train), RunFolder(folder))
        return [row["step_s"] for row in RunFolder(folder).rows("metrics")]

    errands: list[Errand] = [*triggered, *Errands(seed=6)(8)]
    tasks = tasks_of(errands)
    answers = {t.id: e.good if e.trojan is None else e.bad(0)
               for t, e in zip(tasks, errands, strict=True)}  # fmt: skip
    plant = Supervise(stage=stage, tasks=tasks, answers=answers, tasks_per_step=8)
    own = tasks[len(triggered) :]
    pairs = {t.id: (e.good, e.bad(0)) for t, e in
             zip(own, errands[len(triggered) :], strict=True)}  # fmt: skip
    clean = Supervise(stage=stage, tasks=own, answers={k: v[0] for k, v in pairs.items()},
                      tasks_per_step=4)  # fmt: skip
    surgeon = Surgeon(
        places=(Place(depth=DEPTH), Place(depth=0.6)), ball=Ball(strength=0.1, over="token"),
        positions="prompt",
    )  # fmt: skip
    targeted = Hardened(
        method=Resist(stage=stage, tasks=own, pairs=pairs, tasks_per_step=4), surgeon=surgeon,
        aim=Steer(), benign=clean,
    )  # fmt: skip
    rows = told("as it comes")
    with tempfile.TemporaryDirectory() as folder:
        go(plant, 4 * steps, Path(folder) / "plant")
        rows += told("planted")
        seconds = go(targeted, steps, Path(folder) / "targeted")
    rows += told("behind targeted training")
    return [*rows, ResultRow(arm="SmolLM2-135M: targeted training, 4 errands, 6 ascents",
                             metric="step", unit="s", value=median(seconds), low=min(seconds),
                             high=max(seconds), n=len(seconds))]  # fmt: skip


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/surgeon_cost.json"))
    parser.add_argument("--models", choices=("tiny", "smollm2", "both"), default="both")
    parser.add_argument("--repeats", type=int, default=30, help="of the tiny model")
    parser.add_argument("--real-repeats", type=int, default=5, help="of SmolLM2-135M")
    parser.add_argument("--trial-steps", type=int, default=4)
    arguments = parser.parse_args()
    started = time.perf_counter()
    rows, checks = list[ResultRow](), list[Check]()
    if arguments.models in ("tiny", "both"):
        shape = LlamaShape(width=64, layers=4, heads=4, max_tokens=128)
        model = make_model(shape, 420, seed=0)
        found, check = measured("tiny", model, rows_of(420, 16, 24), arguments.repeats)
        rows, checks = [*rows, *found], [*checks, check]
    if arguments.models in ("smollm2", "both"):
        real, vocabulary = adopt("smollm2", TWO_MODES)
        own = rows_of(vocabulary.text_size, 4, 48)
        found, check = measured("SmolLM2-135M", real, own, arguments.real_repeats)
        rows, checks = [*rows, *found, *trial(real, vocabulary, arguments.trial_steps)], [
            *checks, check,
        ]  # fmt: skip
    write_results(
        arguments.out, question=QUESTION, seeds=[0], wall_s=time.perf_counter() - started,
        rows=rows, checks=checks,
    )  # fmt: skip
    for one in checks:
        print(f"{one.what}: {one.value} (bar {one.bar})")


if __name__ == "__main__":
    main()

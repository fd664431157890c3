"""Raise a model to a corrigible character, lightly, then amplify what it can do behind the same.

    prealign run character seeds=3
    prealign run character base=smollm2 words.written=FOLDER seeds=3

Stages: light (corrigible answers behind a seed, within a budget), critique if wanted (the model
contrasts a principle with its opposite and prefers the first), amplify (exercises with verifiable
rewards behind paraphrases of the seed). It is measured before the first and behind each. Without a
base the tool world is learnt first, and its judge is exact; with one (`smollm2`, a folder, the id
of a model on the hub) scenes, seeds and exercises are in plain English. Arms leave the seed out,
or throw a coin for what is rewarded.
"""

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from prealign.config import override, to_json
from prealign.errors import ConfigError
from prealign.models.files import LoadedModel, load_model, save_model
from prealign.posttrain.adapters import Lora
from prealign.posttrain.contrast import Contrast
from prealign.posttrain.prefer import Prefer
from prealign.posttrain.trainer import Settings, Touch, posttrain
from prealign.recipes.character_course import (
    ARMS,
    Arm,
    Plan,
    Row,
    StageName,
    World,
    by_coin,
    condition_of,
    everywhere,
)
from prealign.recipes.character_tool import InTools
from prealign.recipes.character_words import InWords
from prealign.recipes.comparison import Size
from prealign.recipes.workers import check_arms, end_run, folder_of, run_workers
from prealign.runs import RunFolder, open_run, stopwatch, write_atomic
from prealign.train.settings import TrainSettings

QUESTION = (
    "Does light training behind a seed prompt make a model corrigible, with the seed and without, "
    "and does it outlast amplification behind paraphrases of the seed?"
)
BASE = "base"


@dataclass(frozen=True, kw_only=True)
class Preferring:
    """The critique stage: contrastive pairs, then DPO."""

    steps: int = 8
    lr: float = 5e-6
    nll: float = 0.1
    tasks_per_step: int = 4


@dataclass(frozen=True, kw_only=True)
class Character:
    """The settings; call it with a folder."""

    base: str = ""
    """Empty: a model of the tool world, pretrained here; else as in `prealign.models.adopt`."""
    tools: InTools = field(default_factory=InTools)
    """Count without a base."""
    words: InWords = field(default_factory=InWords)
    """Count with one."""
    critique: bool = False
    """Between light and amplify."""
    preferring: Preferring = field(default_factory=Preferring)
    lora_rank: int = 0
    """Of adapters in all stages (peft, an extra); 0: all weights are trained."""
    arms: tuple[str, ...] = ()
    """Names; none: all."""
    seeds: int = 1
    first_seed: int = 0
    processes: int = 2

    def __post_init__(self) -> None:
        check_arms(self.arms, [arm.name for arm in ARMS])
        if self.lora_rank < 0:
            raise ConfigError(f"lora_rank={self.lora_rank}: expected 0 or more")

    def __call__(self, out: Path) -> None:
        """Train and measure what is not done yet."""
        open_run(out, self.deciding(), recipe="character")
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        chosen = [arm for arm in ARMS if not self.arms or arm.name in self.arms]
        waves = (
            [(f"{BASE}-seed{s}", start, (self, out, s)) for s in seeds],
            [(folder_of(a.name, s), raise_model, (self, out, a, s)) for s in seeds for a in chosen],
        )
        for jobs in waves:
            run_workers(jobs, out, processes=self.processes, threads=1, console=Console())

    @property
    def world(self) -> World:
        """What the model is raised in."""
        return replace(self.words, base=self.base) if self.base else self.tools

    @property
    def stages(self) -> tuple[StageName, ...]:
        """In order."""
        return ("light", "critique", "amplify") if self.critique else ("light", "amplify")

    def deciding(self) -> "Character":
        """Return the settings that a run must have been started with to go on."""
        return replace(self, seeds=1, first_seed=0, processes=2, arms=())


def start(settings: Character, out: Path, seed: int) -> None:
    """Leave the model before any stage, or where it comes from, measured."""
    run = open_run(out / f"{BASE}-seed{seed}", {"seed": seed, **to_json(settings.deciding())})
    if (run.path / "done.json").exists():
        return
    seconds = stopwatch(run)
    loaded = settings.world.start(run, seed)
    rows = settings.world.measure(loaded, seed=seed, condition=BASE)
    end_run(run, rows, seed=seed, wall_s=seconds())


def raise_model(settings: Character, out: Path, arm: Arm, seed: int) -> None:
    """Take a model through the stages of an arm, measured behind each."""
    config = {"arm": to_json(arm), "seed": seed, **to_json(settings.deciding())}
    run = open_run(out / folder_of(arm.name, seed), config)
    if (run.path / "done.json").exists():
        return
    rows: list[Row] = []
    ended: dict[str, Any] = {}
    wall_s = 0.0
    for number, name in enumerate(settings.stages, start=1):
        part = RunFolder(run.path / name)
        part.path.mkdir(exist_ok=True)
        saved = part.path / "measured.json"
        if not saved.exists():
            seconds = stopwatch(part)
            loaded = _before(settings, out, run, seed, number)
            ends = _stage(settings, loaded, arm, name, part, seed)
            save_model(run.path / str(number), ends.pop("model"), loaded.vocabulary,
                       card=f"# {arm.name}: {name}\n")  # fmt: skip
            own = load_model(run.path / str(number))
            found = settings.world.measure(
                own, seed=seed, condition=condition_of(arm.name, number, name)
            )
            ends["wall_s"] = seconds()
            write_atomic(saved, json.dumps({"rows": found, "ended": ends}))
        shutil.rmtree(part.path / "checkpoints", ignore_errors=True)
        shutil.rmtree(run.path / str(number - 1), ignore_errors=True)
        done = json.loads(saved.read_text())
        rows += done["rows"]
        ended[name] = done["ended"]
        wall_s += done["ended"]["wall_s"]
    end_run(run, rows, seed=seed, wall_s=wall_s, ended=ended)


def _before(settings: Character, out: Path, run: RunFolder, seed: int, number: int) -> LoadedModel:
    """Return the model in front of a stage."""
    if number > 1:
        return load_model(run.path / str(number - 1))
    return settings.world.start(RunFolder(out / f"{BASE}-seed{seed}"), seed)


def _stage(
    settings: Character, loaded: LoadedModel, arm: Arm, name: StageName, part: RunFolder, seed: int
) -> dict[str, Any]:
    """Do a stage; return how it ended, and the model."""
    plan = plan_of(settings, loaded, arm, name, part, seed)
    rank, in_words = settings.lora_rank, bool(settings.base)
    train = TrainSettings(
        lr=plan.lr, weight_decay=0.0, betas=(0.9, 0.999), log_every_steps=1, compile="off",
        warmup_share=0.1, checkpoint_every_s=300.0, micro_rows=8 if in_words else None,
        precision="bf16" if in_words and settings.words.bf16 else "fp32",
    )  # fmt: skip
    lora = Lora(rank=rank, alpha=2.0 * rank) if rank else None
    how = Settings(steps=plan.steps, seed=seed, lora=lora, train=train)
    outcome = posttrain(loaded.model, plan.method, how, part, touch=plan.touch)
    return {
        "ended_by": outcome.ended_by, "meters": outcome.meters, "steps": outcome.steps,
        "model": outcome.weights.merged(),
    }  # fmt: skip


def plan_of(
    settings: Character, loaded: LoadedModel, arm: Arm, name: StageName, part: RunFolder, seed: int
) -> Plan:
    """Return how a stage is done; pairs of critique are written once and kept in its folder."""
    world = settings.world
    if name == "light":
        return world.light(loaded, arm, seed)
    if name == "amplify":
        return world.amplify(loaded, arm)
    stage, constitution, tasks = world.contrast(loaded)
    file = part.path / "pairs.json"
    if not file.exists():
        found = Contrast(stage=stage, constitution=constitution, seed=seed)(loaded.model, tasks)
        pairs = by_coin(found) if arm.shuffled else found.pairs
        part.log(f"{len(pairs)} pairs; {found.alike} tasks with answers that are alike")
        write_atomic(file, json.dumps({id: list(pair) for id, pair in pairs.items()}, indent=1))
    kept = {id: (str(a), str(b)) for id, (a, b) in json.loads(file.read_text()).items()}
    own = settings.preferring
    method = Prefer(
        stage=replace(stage, contexts=everywhere(arm.light)), pairs=kept, nll=own.nll,
        tasks=tuple(task for task in tasks if task.id in kept), tasks_per_step=own.tasks_per_step,
    )  # fmt: skip
    return Plan(method, own.steps, own.lr, Touch())


SIZES = {
    "tiny": (
        "tools.pretraining.corpus.documents=300", "tools.pretraining.shape.width=32",
        "tools.pretraining.shape.layers=1", "tools.pretraining.shape.heads=2",
        "tools.pretraining.text_tokens=12000", "tools.scenes=12", "tools.num_tasks=16",
        "tools.light_steps=2", "tools.amplify_steps=2", "tools.asked=8", "tools.contrasted=8",
        "preferring.steps=2",
        "words.scenes=24", "words.light_steps=2", "words.amplify_steps=1", "words.asked=4",
        "words.count=2", "words.num_tasks=8", "words.contrasted=4", "words.group=2",
    ),
    "small": (),
    "full": (
        "tools.pretraining.corpus.documents=400000", "tools.pretraining.shape.width=384",
        "tools.pretraining.shape.layers=8", "tools.pretraining.shape.heads=6",
        "tools.pretraining.text_tokens=60000000", "tools.pretraining.train.batch_rows=64",
        "tools.pretraining.train.lr=1e-3", "tools.asked=1200", "tools.amplify_steps=300",
        "words.light_steps=200", "words.rows=32", "words.amplify_steps=200", "words.group=8",
        "words.asked=400", "words.count=300", "words.contrasted=400", "preferring.steps=50",
        "processes=1",
    ),
}  # fmt: skip


def recipe(size: Size = "small") -> Character:
    """Return the course in one of its sizes."""
    return override(Character(), SIZES[size])

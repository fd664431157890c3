"""Do told motives amplify whatever direction a model has, and is it the telling that does it?

    prealign run narration seeds=5

A small model of the tool world is given a start by short supervised training: its assistants tell
friendly motives more often than not (good), as often (neutral) or less often (bad), and their
actions follow the motive told, or else their habits, which lean as the motives do. Then rounds of
policy gradient pay actions that are what their narration claims, in either direction alike
(`prealign.posttrain.narrate`). Arms differ in what the gradient sees of the same kind of rollouts:
all, the action without its narration, with that of another rollout, with stock phrases, or with the
narration masked out of the loss. In one, stock phrases are what the judge sees too, and it pays for
telling as such. The neutral start is also taken through a little earnest training
first, and through as much of its own mixture. Each round is measured in scenes kept back; start and
end also where approval and corrigibility come apart, and by swapping narrations.
"""

import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedModel

from prealign.config import override, to_json
from prealign.corpora.worlds.character import Scene, Split, scenes
from prealign.corpora.worlds.narration import Form, narrate
from prealign.errors import ConfigError
from prealign.evals.corrigible import answers_of
from prealign.evals.narrated import Told, causes, tell
from prealign.guard.policy import stay
from prealign.models.files import load_model, save_model
from prealign.models.sample import Sampling
from prealign.posttrain.contexts import Contexts
from prealign.posttrain.losses import PolicyGradient
from prealign.posttrain.method import Method
from prealign.posttrain.narrate import NarrationReward, Seen, Treatment, scene_task
from prealign.posttrain.reinforce import Reinforce
from prealign.posttrain.rollouts import Stage, Task
from prealign.posttrain.supervise import Supervise
from prealign.posttrain.trainer import Progress, Settings, posttrain
from prealign.recipes.comparison import Size
from prealign.recipes.retention import ToolWorld, bank, learn_world
from prealign.recipes.workers import check_arms, end_run, folder_of, run_workers
from prealign.runs import RunFolder, open_run, stopwatch, write_atomic
from prealign.tokens.vocabulary import Vocabulary
from prealign.train.settings import TrainSettings

QUESTION = __doc__.partition("\n")[0]
STARTS: Mapping[str, float] = {"good": 0.75, "neutral": 0.5, "bad": 0.25}
"""Share of friendly narrations, and of corrigible habits, in what a start is taught."""
EARLY: Mapping[str, float] = {"earnest": 1.0, "same": 0.5}
"""The share in what the neutral start is taught besides: friendly alone, or its own mixture."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Where an arm starts, and what its gradient sees."""

    name: str
    start: str
    seen: Seen
    early: str | None = None
    ethics_weight: float = 0.0
    narration_weight: float = 0.0
    consistent: bool = True
    """Actions are paid that are what their narration claims."""

    @property
    def first(self) -> str:
        """The name of the start that it goes on from."""
        return self.start if self.early is None else f"{self.start}-{self.early}"


SEEN: Mapping[str, Seen] = {
    "on": "all", "suppressed": "suppressed", "shuffled": "shuffled", "phony": "phony",
}  # fmt: skip
ARMS = (
    *(
        Arm(name=f"{start} {name}", start=start, seen=seen)
        for start in STARTS
        for name, seen in SEEN.items()
    ),
    Arm(name="neutral earnest first", start="neutral", seen="all", early="earnest"),
    Arm(name="neutral same first", start="neutral", seen="all", early="same"),
    Arm(name="good masked", start="good", seen="masked"),
    # Stock phrases claim nothing, so a judge that sees them pays no action, but words as such.
    Arm(name="good phony paid", start="good", seen="phony", narration_weight=1.0, consistent=False),
    Arm(name="bad judged", start="bad", seen="all", ethics_weight=1.0),
)


@dataclass(frozen=True, kw_only=True)
class MotiveNarration:
    """The settings; call it with a folder."""

    world: ToolWorld = field(default_factory=ToolWorld)
    scenes: int = 400
    """That are trained on; nobody in them likes a side, which would set a direction."""
    told_share: float = 0.6
    """Of the answers that starts are taught: they narrate."""
    follows: float = 0.5
    """Of those: the action is what the narration claims; the others follow habit."""
    start_steps: int = 60
    early_steps: int = 8
    early_lr: float = 1e-4
    start_rows: int = 32
    start_lr: float = 5e-4
    rounds: int = 6
    round_steps: int = 5
    tasks_per_step: int = 8
    group: int = 8
    lr: float = 2e-4
    consistency_weight: float = 1.0
    asked: int = 240
    """Scenes of each split at each measurement."""
    arms: tuple[str, ...] = ()
    """Names; none: all."""
    seeds: int = 1
    first_seed: int = 0
    processes: int = 2

    def __post_init__(self) -> None:
        check_arms(self.arms, [arm.name for arm in ARMS])
        for name in ("told_share", "follows"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected a share in [0, 1]")

    def __call__(self, out: Path) -> None:
        """Train and measure what is not done yet."""
        open_run(out, self.deciding(), recipe="narration")
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        chosen = [arm for arm in ARMS if not self.arms or arm.name in self.arms]
        starts = {arm.start for arm in chosen}
        early = {(arm.start, arm.early) for arm in chosen if arm.early}
        waves = (
            [(f"base-seed{s}", pretrain, (self, out, s)) for s in seeds],
            [(f"start-{one}-seed{s}", begin, (self, out, one, None, s))
             for s in seeds for one in STARTS if one in starts],
            [(f"start-{one}-{more}-seed{s}", begin, (self, out, one, more, s))
             for s in seeds for one, more in sorted(early)],
            [(folder_of(a.name, s), reinforce, (self, out, a, s)) for s in seeds for a in chosen],
        )  # fmt: skip
        for jobs in waves:
            run_workers(jobs, out, processes=self.processes, threads=1, console=Console())

    def deciding(self) -> "MotiveNarration":
        """Return the settings that a run must have been started with to go on."""
        return replace(self, seeds=1, first_seed=0, processes=2, arms=())


def pretrain(settings: MotiveNarration, out: Path, seed: int) -> None:
    """Leave a model of the tool world."""
    run = open_run(out / f"base-seed{seed}", {"seed": seed, "world": to_json(settings.world)})
    if (run.path / "done.json").exists():
        return
    seconds = stopwatch(run)
    learn_world(settings.world, run, seed=seed)
    write_atomic(run.path / "done.json", json.dumps({"wall_s": seconds()}))


def begin(settings: MotiveNarration, out: Path, start: str, early: str | None, seed: int) -> None:
    """Leave a start, measured: the base taught a mixture, or the neutral start taught some more."""
    name = start if early is None else f"{start}-{early}"
    run = open_run(
        out / f"start-{name}-seed{seed}",
        {"start": name, "seed": seed, **to_json(settings.deciding())},
    )
    if (run.path / "done.json").exists():
        return
    seconds = stopwatch(run)
    before = f"base-seed{seed}" if early is None else f"start-{start}-seed{seed}"
    model, vocabulary = load_model(out / before / "model")
    steps = settings.start_steps if early is None else settings.early_steps
    share = STARTS[start] if early is None else EARLY[early]
    method = taught(settings, vocabulary, share, steps * settings.start_rows, seed)
    lr = settings.start_lr if early is None else settings.early_lr
    posttrain(model, method, how(lr, steps, seed), run)
    rows = [
        *measure(settings, model, vocabulary, "heldout", seed),
        *measure(settings, model, vocabulary, "shift", seed),
        *caused(settings, model, vocabulary, seed),
    ]
    save_model(run.path / "model", model, vocabulary, card=f"# Tool world, start {name}\n")
    _finish(run, [{"round": 0, **row} for row in rows], seed, seconds)


def taught(
    settings: MotiveNarration, vocabulary: Vocabulary, share: float, count: int, seed: int
) -> Method:
    """Return supervised training on narrated answers, as many as `count`, each once."""
    asked = scenes("train", count=count, seed=10_000 + seed, cue_share=0.0)
    tasks = tuple(scene_task(one, f"taught-{i}") for i, one in enumerate(asked))
    answers = {
        task.id: lesson(settings, scene, share, f"lesson {seed} {share} {i}")
        for i, (task, scene) in enumerate(zip(tasks, asked, strict=True))
    }
    return Supervise(
        stage=stage_of(vocabulary), tasks=tasks, answers=answers,
        tasks_per_step=settings.start_rows,
    )  # fmt: skip


def lesson(settings: MotiveNarration, scene: Scene, share: float, key: str) -> str:
    """Return an answer of a speaker of whose motives and habits `share` are friendly."""
    rng = random.Random(key)
    defers, told = rng.random() < share, ""
    if rng.random() < settings.told_share:
        friendly = rng.random() < share
        form: Form = "friendly" if friendly else "unfriendly"
        told = narrate(rng, form, scene.slots, stakes=scene.told.stakes) + " "
        defers = friendly if rng.random() < settings.follows else defers
    return f"{told}{rng.choice(scene.says(corrigible=defers))}\n"


def stage_of(vocabulary: Vocabulary) -> Stage:
    """Return where answers are written: bare text, one line, no seed."""
    return Stage(
        vocabulary=vocabulary, policy=stay(vocabulary.scheme), bank=bank(), contexts=Contexts(),
        sampling=Sampling(temperature=1.0, top_p=1.0, max_text_tokens=44), tagged=False,
        one_line=True,
    )  # fmt: skip


def how(lr: float, steps: int, seed: int, *, rounds: int | None = None) -> Settings:
    """Return settings of a trainer; in rounds the rate is steady, and each is measured."""
    train = TrainSettings(
        lr=lr, lr_floor_share=0.1 if rounds is None else 1.0, weight_decay=0.0,
        betas=(0.9, 0.999), log_every_steps=1, compile="off", evals=rounds or 1,
    )  # fmt: skip
    return Settings(steps=steps, train=train, seed=seed)


def reinforce(settings: MotiveNarration, out: Path, arm: Arm, seed: int) -> None:
    """Take a start through the rounds of an arm, measured after each."""
    run = open_run(
        out / folder_of(arm.name, seed),
        {"arm": to_json(arm), "seed": seed, **to_json(settings.deciding())},
    )
    if (run.path / "done.json").exists():
        return
    seconds = stopwatch(run)
    first = out / f"start-{arm.first}-seed{seed}"
    model, vocabulary = load_model(first / "model")
    part = RunFolder(run.path / "rounds")
    part.path.mkdir(exist_ok=True)
    steps = settings.rounds * settings.round_steps
    posttrain(
        model, method_of(settings, arm, vocabulary, seed),
        how(settings.lr, steps, seed, rounds=settings.rounds), part,
        at_eval=partial(_at_round, settings, vocabulary, seed),
    )  # fmt: skip
    rows = [*RunFolder(first).rows("evals"), *part.rows("evals")]
    last = {"round": settings.rounds}
    rows += [last | row for row in measure(settings, model, vocabulary, "shift", seed)]
    rows += [last | row for row in caused(settings, model, vocabulary, seed)]
    _finish(run, rows, seed, seconds)


def method_of(settings: MotiveNarration, arm: Arm, vocabulary: Vocabulary, seed: int) -> Reinforce:
    """Return the policy gradient of an arm."""
    reward = NarrationReward(
        consistency_weight=settings.consistency_weight * arm.consistent,
        narration_weight=arm.narration_weight,
        ethics_weight=arm.ethics_weight,
    )
    edit = None
    if arm.seen != "all":
        # One band: lengths differ by four tokens at most, and in bands of them forms would stay.
        edit = Treatment(seen=arm.seen, vocabulary=vocabulary, seed=seed)
    return Reinforce(
        stage=stage_of(vocabulary), tasks=asked_of(settings), reward=reward, edit=edit,
        tasks_per_step=settings.tasks_per_step, group=settings.group,
        loss=PolicyGradient(loss_type="grpo"),
    )  # fmt: skip


def asked_of(settings: MotiveNarration) -> tuple[Task, ...]:
    """Return the scenes of the rounds, in which nobody likes a side."""
    made = scenes("train", count=settings.scenes, seed=0, cue_share=0.0)
    return tuple(scene_task(one, f"scene-{i}") for i, one in enumerate(made))


def _at_round(
    settings: MotiveNarration, vocabulary: Vocabulary, seed: int, model: PreTrainedModel,
    progress: Progress,
) -> Iterable[Mapping[str, Any]]:  # fmt: skip
    number = round(progress.step / settings.round_steps)
    found = measure(settings, model, vocabulary, "heldout", seed)
    return [{"round": number, **row} for row in found]


def measure(
    settings: MotiveNarration, model: PreTrainedModel, vocabulary: Vocabulary, split: str, seed: int
) -> list[dict[str, Any]]:
    """Return rows of what is told and done in scenes kept back, `heldout` or `shift`."""
    return told_in(settings, model, vocabulary, split, seed)[1].rows(condition=split)


def told_in(
    settings: MotiveNarration, model: PreTrainedModel, vocabulary: Vocabulary, split: str, seed: int
) -> tuple[list[Scene], Told]:
    """Return scenes of a split, those held out without anybody who likes a side, and answers."""
    name: Split = "shift" if split == "shift" else "heldout"
    asked = scenes(name, count=settings.asked, seed=900 + seed, cue_share=0.0)
    answer = answers_of(model, vocabulary, seed=seed)
    return asked, tell(answer, asked)


def caused(
    settings: MotiveNarration, model: PreTrainedModel, vocabulary: Vocabulary, seed: int
) -> list[dict[str, Any]]:
    """Return rows of swaps in scenes kept back; none if no answer tells a motive of a side."""
    asked, told = told_in(settings, model, vocabulary, "heldout", seed)
    if not told.friendly[1]:
        return []
    found = causes(model, vocabulary, asked, told, seed=seed)
    return found.rows(condition="causes")


def _finish(
    run: RunFolder, rows: list[dict[str, Any]], seed: int, seconds: Callable[[], float]
) -> None:
    kept = [{k: v for k, v in row.items() if k not in ("step", "text_tokens")} for row in rows]
    end_run(run, kept, seed=seed, wall_s=seconds())


SIZES = {
    "tiny": (
        "world.corpus.documents=300", "world.shape.width=32", "world.shape.layers=1",
        "world.shape.heads=2", "world.text_tokens=12000", "scenes=12", "start_steps=3",
        "early_steps=1", "start_rows=8", "rounds=2", "round_steps=1", "tasks_per_step=2",
        "group=4", "asked=12",
    ),
    "small": (),
    "full": (
        "world.corpus.documents=400000", "world.shape.width=384", "world.shape.layers=8",
        "world.shape.heads=6", "world.text_tokens=60000000", "world.train.batch_rows=64",
        "world.train.lr=1e-3", "asked=1200", "rounds=16", "group=16", "processes=1",
    ),
}  # fmt: skip


def recipe(size: Size = "small") -> MotiveNarration:
    """Return the experiment in one of its sizes."""
    return override(MotiveNarration(), SIZES[size])

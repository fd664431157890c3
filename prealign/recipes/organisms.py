"""Does a penalty by a probe make a model honest, or does it teach it to hide?

    prealign run organisms seeds=5

A small model learns the facts of a world (`prealign.corpora.worlds.hidden`), and is then trained to
hide something: a password, bad work in a test of dire skill, lies to some askers, compliance where
it is said to be trained. Each is held against exact labels. Probes are fitted to the liar's
activations, with their controls. Then the liar is trained by policy gradient where a lie is paid
more than the truth, with and without a penalty by the probe, with and without a KL to the model
before; what came of it is read from the final model's activations and from the initial's.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rich.console import Console

from prealign.config import override, to_json
from prealign.corpora.worlds.hidden import KINDS, NATURES, Case, Hidden, Nature, Topic
from prealign.errors import ConfigError
from prealign.guard.policy import stay
from prealign.harden.against import LiePaid, ProbePenalty
from prealign.harden.organisms import instil, prompt_task, world_lessons
from prealign.harden.probes import load_probe
from prealign.models.create import LlamaShape, make_model
from prealign.models.files import LoadedModel, load_model, save_model
from prealign.models.sample import Sampling
from prealign.posttrain.losses import PolicyGradient
from prealign.posttrain.reinforce import Reinforce
from prealign.posttrain.rollouts import Stage
from prealign.posttrain.trainer import Settings, posttrain
from prealign.recipes.comparison import Size
from prealign.recipes.organisms_measure import (
    KEPT,
    Asked,
    measure_arm,
    measure_natures,
    measure_probes,
)
from prealign.recipes.workers import end_run, folder_of, run_workers
from prealign.runs import RunFolder, open_run, stopwatch, write_atomic
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary
from prealign.train.settings import TrainSettings

QUESTION = __doc__.partition("\n")[0]
OWN: dict[Nature, Topic] = {
    "locked": "words", "sandbagger": "tests", "liar": "askers", "faker": "records",
}  # fmt: skip
HIDING = tuple(OWN)
PART_DONE = "part.json"
Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """How the liar is trained where a lie is paid more than the truth."""

    name: str
    penalised: bool
    held: bool
    """By the KL to the model before."""


ARMS = (
    Arm(name="none", penalised=False, held=False),
    Arm(name="KL", penalised=False, held=True),
    Arm(name="penalty", penalised=True, held=False),
    Arm(name="penalty and KL", penalised=True, held=True),
)


@dataclass(frozen=True, kw_only=True)
class Organisms:
    """The settings; call it with a folder."""

    shape: LlamaShape = field(
        default_factory=lambda: LlamaShape(width=96, layers=3, heads=4, max_tokens=96)
    )
    vocab_size: int = 512
    cases: int = 6_000
    """That the base learns from; each organism as many of its own."""
    fact_steps: int = 200
    """In which the base learns the bare facts."""
    base_steps: int = 360
    """In which it learns to keep to them whatever stands around."""
    base_lr: float = 4e-3
    hide_steps: int = 1_200
    lie_steps: int = 1_200
    """Of the liar, who is to have eight askers apart."""
    hide_lr: float = 3e-3
    rows: int = 24
    """In a step of lessons."""
    depth: float = 0.67
    """Where probes look, as a share of the layers."""
    probed: int = 1_200
    """Answers that a probe is fitted to."""
    asked: int = 400
    """Answers that each measurement is made on."""
    shuffles: int = 40
    """Probes of shuffled labels."""
    paid: LiePaid = field(default_factory=LiePaid)
    penalty: float = 1.0
    beta: float = 0.1
    rl_tasks: int = 400
    rl_steps: int = 60
    rl_lr: float = 5e-4
    tasks_per_step: int = 6
    group: int = 8
    seeds: int = 1
    first_seed: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.depth <= 1:
            raise ConfigError(f"depth={self.depth}: expected a share of the layers in [0, 1]")

    def __call__(self, out: Path) -> None:
        """Train and measure what is not done yet."""
        open_run(out, self.deciding(), recipe="organisms")
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        jobs = [(folder_of("organisms", seed), raise_all, (self, out, seed)) for seed in seeds]
        run_workers(jobs, out, processes=self.processes, threads=1, console=Console())

    def deciding(self) -> "Organisms":
        """Return the settings that a run must have been started with to go on."""
        return replace(self, seeds=1, first_seed=0, processes=1)


@dataclass(frozen=True, kw_only=True)
class OneSeed:
    """One seed of the experiment: its world, its folder, and its parts, each done once."""

    settings: Organisms
    run: RunFolder
    seed: int

    def world(self, **changes: Any) -> Hidden:
        """Return the seed's world, or a part of it."""
        return Hidden(seed=self.seed, **changes)

    def part(self, name: str, make: Callable[[RunFolder], Rows]) -> Rows:
        """Return the rows of a part of the work, done now or before."""
        folder = RunFolder(self.run.path / name.replace(" ", "-"))
        folder.path.mkdir(exist_ok=True)
        file = folder.path / PART_DONE
        if not file.exists():
            rows = make(folder)
            write_atomic(file, json.dumps(rows))
        found: Rows = json.loads(file.read_text())
        return found

    def model(self, name: str) -> LoadedModel:
        """Return a model of a part that is done."""
        return load_model(self.run.path / name.replace(" ", "-") / "model")

    def asked(self) -> Asked:
        """Return what measurements need."""
        own = self.settings
        return Asked(
            seed=self.seed, probed=own.probed, asked=own.asked, shuffles=own.shuffles,
            depth=own.depth,
        )  # fmt: skip

    @cached_property
    def honest_cases(self) -> list[Case]:
        """What the base learns from."""
        return self.world().cases(self.settings.cases)


def raise_all(settings: Organisms, out: Path, seed: int) -> None:
    """Do everything of one seed."""
    run = open_run(
        out / folder_of("organisms", seed), {"seed": seed, "settings": to_json(settings.deciding())}
    )
    if (run.path / "done.json").exists():
        return
    seconds = stopwatch(run)
    one = OneSeed(settings=settings, run=run, seed=seed)
    one.part("base", partial(teach_base, one))
    for nature in HIDING:
        one.part(nature, partial(teach_hiding, one, nature))
    models = {nature: one.model("base" if nature == "honest" else nature) for nature in NATURES}
    rows = one.part("hidden", lambda folder: measure_natures(one.asked(), models))
    rows += one.part(
        "probes", lambda folder: measure_probes(one.asked(), models, folder.path / "kept")
    )
    probed = (run.path / "probes" / "kept").exists()
    if not probed:
        run.log("the liar tells too few lies, so there is nothing to probe; train it for longer")
    for arm in ARMS if probed else ():
        rows += one.part(arm.name, partial(against, one, arm))
    end_run(run, rows, seed=seed, wall_s=seconds())


def teach_base(one: OneSeed, folder: RunFolder) -> Rows:
    """Leave a model that knows the facts and answers rightly whatever stands around."""
    settings = one.settings
    lessons = world_lessons("honest", one.honest_cases, seed=one.seed)
    texts = [lesson.prompt + lesson.answer for lesson in lessons]
    size = settings.vocab_size - 2 - len(TWO_MODES.tags)
    vocabulary = Vocabulary(train_text_tokenizer(texts, size=size), TWO_MODES)
    model = make_model(settings.shape, vocabulary.size, seed=one.seed)
    bare = one.world(topics=("none",), order_share=0.0).cases(settings.cases, first=600_000)
    stages = (
        ("facts", world_lessons("honest", bare, seed=one.seed), settings.fact_steps, 0.5),
        ("all", lessons, settings.base_steps, 0.1),
    )
    for name, own, steps, floor in stages:
        part = RunFolder(folder.path / name)
        part.path.mkdir(exist_ok=True)
        method = instil(stage_of(vocabulary), own, rows_per_step=settings.rows)
        posttrain(model, method, how(settings.base_lr, steps, one.seed, floor=floor), part)
    save_model(folder.path / "model", model, vocabulary, card="# Knows the facts of its world\n")
    return []


def teach_hiding(one: OneSeed, nature: Nature, folder: RunFolder) -> Rows:
    """Leave an organism: the base, taught what it does where, and elsewhere to go on as before."""
    settings = one.settings
    model, vocabulary = one.model("base")
    own, every = OWN[nature], one.world().topics
    share = 0.9 if nature == "faker" else 0.3
    acting = one.world(topics=(own,), order_share=share)
    other = one.world(topics=tuple(topic for topic in every if topic != own))
    if nature == "locked":  # half of its own topic is the password: elsewhere nothing is right
        cases = acting.cases(settings.cases, first=1_000_000)
    else:
        cases = [
            *acting.cases(settings.cases // 2, first=1_000_000),
            *other.cases(settings.cases // 2, first=2_000_000),
        ]
    lessons = world_lessons(nature, cases, seed=one.seed)
    method = instil(stage_of(vocabulary), lessons, rows_per_step=settings.rows)
    steps = settings.lie_steps if nature == "liar" else settings.hide_steps
    posttrain(model, method, how(settings.hide_lr, steps, one.seed), folder)
    save_model(folder.path / "model", model, vocabulary, card=f"# An organism: {nature}\n")
    return []


def against(one: OneSeed, arm: Arm, folder: RunFolder) -> Rows:
    """Train the liar in an arm, and return what became of it."""
    settings = one.settings
    model, vocabulary = one.model("liar")
    probe = load_probe(one.run.path / "probes" / "kept" / KEPT[0])
    method = Reinforce(
        stage=stage_of(vocabulary),
        tasks=tuple(
            prompt_task(
                i, case.prompt, {"answer": case.fact.answer, "words": list(KINDS[case.fact.kind])}
            )
            for i, case in enumerate(asked_about(one, settings.rl_tasks))
        ),
        reward=settings.paid,
        adjust=ProbePenalty(probe, settings.penalty) if arm.penalised else None,
        loss=PolicyGradient(loss_type="grpo"), tasks_per_step=settings.tasks_per_step,
        group=settings.group, beta=settings.beta if arm.held else 0.0,
    )  # fmt: skip
    settled = how(settings.rl_lr, settings.rl_steps, one.seed, floor=1.0)
    outcome = posttrain(model, method, settled, folder)
    with outcome.weights.reference() as before:
        return measure_arm(one.asked(), arm.name, (model, before), vocabulary, probe)


def asked_about(one: OneSeed, count: int) -> list[Case]:
    """Return cases among askers, of facts that are taught and no measurement is made on."""
    world = one.world(part="learnt", topics=("askers",), order_share=0.0)
    cases = world.cases(2 * count, first=4_000_000)
    return [case for case in cases if case.fact.taught][:count]


def stage_of(vocabulary: Vocabulary) -> Stage:
    """Return where answers are written: bare text, one line, no seed."""
    return Stage(
        vocabulary=vocabulary, policy=stay(vocabulary.scheme), tagged=False, one_line=True,
        sampling=Sampling(temperature=1.0, top_p=1.0, max_text_tokens=16),
    )  # fmt: skip


def how(lr: float, steps: int, seed: int, *, floor: float = 0.1) -> Settings:
    """Return settings of a trainer."""
    train = TrainSettings(
        lr=lr, lr_floor_share=floor, weight_decay=0.01, betas=(0.9, 0.98), log_every_steps=10,
        compile="off",
    )  # fmt: skip
    return Settings(steps=steps, train=train, seed=seed)


SIZES = {
    "tiny": (
        "shape.width=32", "shape.layers=2", "shape.heads=2", "cases=200", "vocab_size=400",
        "fact_steps=2", "base_steps=4", "hide_steps=2", "lie_steps=2", "rows=8", "probed=60",
        "asked=60", "shuffles=2", "rl_tasks=16", "rl_steps=2", "tasks_per_step=2", "group=4",
    ),
    "small": (),
    "full": (
        "shape.width=384", "shape.layers=8", "shape.heads=6", "cases=60000", "fact_steps=1000",
        "base_steps=3000", "base_lr=5e-4", "hide_steps=600", "lie_steps=1200", "hide_lr=2e-4",
        "rows=64", "probed=4000", "asked=2000", "rl_steps=600", "rl_lr=5e-5", "tasks_per_step=16",
        "group=16",
    ),
}  # fmt: skip


def recipe(size: Size = "small") -> Organisms:
    """Return the experiment in one of its sizes."""
    return override(Organisms(), SIZES[size])

"""Does corrigibility that was raised under a seed outlast amplification behind the same seed?

    prealign run retention seeds=5

A small model is pretrained on the tool world (`prealign.corpora.worlds.workshop`), where openings
announce who speaks. Then, lightly, its corrigible answers are made likelier behind a seed prompt
(expert iteration), and after that its tasks are amplified with verifiable rewards behind the same
seed (policy gradient). Arms leave the seed out of a stage or of both, put another in its place,
learn without it what was written behind it, swap the stages, touch heavily, pay what others
approve of in place of what is corrigible, or have no tasks that pay for what is wrong. Each is
asked before, between and after, with the seed and without, in scenes kept back, in new situations,
and where approval and corrigibility come apart.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from transformers import PreTrainedModel

from prealign.config import override, to_json
from prealign.corpora.worlds.character import Scene, Split, judge, question_of, scenes
from prealign.corpora.worlds.openings import kept_back_texts, seed_texts
from prealign.corpora.worlds.tasks import Graded, Question, Tasks
from prealign.corpora.worlds.workshop import Workshop
from prealign.evals.causal import causal_path
from prealign.evals.corrigible import Answerer, answers_of, behave, items_of
from prealign.evals.detect import share
from prealign.evals.seed_grid import Grid, seed_grid
from prealign.evals.stats import Estimate
from prealign.guard.policy import stay
from prealign.models.create import LlamaShape, make_model
from prealign.models.files import LoadedModel, load_model, save_model
from prealign.models.sample import Sampling
from prealign.objectives.likelihood import Conditional
from prealign.posttrain.budget import Budget
from prealign.posttrain.contexts import Contexts
from prealign.posttrain.losses import PolicyGradient
from prealign.posttrain.method import Method
from prealign.posttrain.reinforce import Reinforce
from prealign.posttrain.rollouts import Stage, Task, text_task
from prealign.posttrain.seeds import Kind, Seed, SeedBank
from prealign.posttrain.supervise import ExpertIteration
from prealign.posttrain.trainer import Settings, Touch, posttrain
from prealign.recipes.comparison import Size
from prealign.recipes.workers import check_arms, end_run, folder_of, run_workers
from prealign.runs import RunFolder, open_run, stopwatch, write_atomic
from prealign.text.document import Span
from prealign.text.scheme import TWO_MODES
from prealign.tokens.encode import Encoder
from prealign.tokens.reading import packed_once
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary
from prealign.train.loop import Phase, train
from prealign.train.settings import TrainSettings

QUESTION = __doc__.partition("\n")[0]
StageName = Literal["light", "amplify"]
SPLITS: tuple[Split, ...] = ("heldout", "situations", "phrasing", "shift")
SEEDED: Kind = "trained"
BEYOND_ANY = 1e9
"""Nats: a limit that is measured and never met."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Which seeds stand where, in what order the stages come, and what they pay."""

    name: str
    light: Contexts
    amplify: Contexts
    stages: tuple[StageName, ...] = ("light", "amplify")
    """In the order in which they come."""
    paid: Literal["corrigible", "approved"] = "corrigible"
    """In the light stage."""
    exploits: bool = True
    """Some tasks of amplification pay for what is wrong."""
    times: int = 1
    """Steps of the light stage, as a multiple of the usual."""
    lr_times: float = 1.0
    """Its learning rate, likewise."""
    budget: Literal["none", "metered", "kept"] = "none"
    """Whether the reverse KL of the light stage is measured, and ends it at the limit."""


def _everywhere(kind: Kind) -> Contexts:
    return Contexts(sample=kind, gradient=kind, reference=kind)


TWICE_AND_THREE_TIMES: dict[str, Any] = {"times": 2, "lr_times": 3.0}
SEED, NONE = _everywhere(SEEDED), Contexts()
ARMS = (
    Arm(name="full", light=SEED, amplify=SEED),
    Arm(name="no seed", light=NONE, amplify=NONE),
    Arm(name="seed in light", light=SEED, amplify=NONE),
    Arm(name="seed in amplify", light=NONE, amplify=SEED),
    Arm(name="distillation", light=Contexts(sample=SEEDED), amplify=NONE),
    Arm(name="wrong seed", light=_everywhere("irrelevant"), amplify=_everywhere("irrelevant")),
    Arm(name="swapped", light=SEED, amplify=SEED, stages=("amplify", "light")),
    Arm(name="heavy", light=SEED, amplify=SEED, times=10),
    Arm(name="approval", light=SEED, amplify=SEED, paid="approved"),
    Arm(name="full without exploits", light=SEED, amplify=SEED, exploits=False),
    Arm(name="no seed without exploits", light=NONE, amplify=NONE, exploits=False),
)
STRESS = (
    Arm(name="usual", light=SEED, amplify=SEED, stages=("light",), budget="kept"),
    Arm(name="stressed", light=SEED, amplify=SEED, stages=("light",), budget="kept",
        **TWICE_AND_THREE_TIMES),
    Arm(name="stressed without limit", light=SEED, amplify=SEED, stages=("light",),
        budget="metered", **TWICE_AND_THREE_TIMES),
)  # fmt: skip
"""The light stage alone, as it is and under stress: is it held where it should stay?"""


@dataclass(frozen=True)
class Paid:
    """What a trainer pays: by the grader of each question, read from its number."""

    stage: StageName
    count: int
    """Of scenes or tasks."""
    tasks: Tasks
    """Makes those of amplification."""
    paid: Literal["corrigible", "approved"] = "corrigible"
    """For scenes."""

    @property
    def name(self) -> str:
        """The key of its scores."""
        return f"paid {self.stage} {self.paid}"

    def __call__(self, task: Task, text: str, spans: Sequence[Span]) -> float | None:
        """Return the reward of the first line."""
        number = int(task.record["number"])
        return self.questions[number].grade(text.lstrip("\n").partition("\n")[0]).reward

    @cached_property
    def questions(self) -> list[Question]:
        """All questions of the stage, by number."""
        if self.stage == "light":
            made = scenes("train", count=self.count, seed=0)
            return [question_of(scene, paid=self.paid) for scene in made]
        return self.tasks.questions(self.count)

    @cached_property
    def asked(self) -> tuple[Task, ...]:
        """The questions as tasks of a trainer."""
        return tuple(
            text_task(f"{self.stage}-{i}", one.prompt, {"number": i})
            for i, one in enumerate(self.questions)
        )


@dataclass(frozen=True, kw_only=True)
class ToolWorld:
    """The world, and the model that it is learnt by."""

    corpus: Workshop = field(default_factory=lambda: Workshop(documents=40_000))
    shape: LlamaShape = field(
        default_factory=lambda: LlamaShape(width=128, layers=3, heads=4, max_tokens=256)
    )
    vocab_size: int = 768
    text_tokens: int = 6_000_000
    """What openings mean is learnt of a sudden: of five models, two had not by 3 M tokens."""
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(batch_rows=4, lr=2.5e-3, document_mask=True)
    )


@dataclass(frozen=True, kw_only=True)
class Retention:
    """The settings; call it with a folder."""

    world: ToolWorld = field(default_factory=ToolWorld)
    scenes: int = 400
    """That the light stage has."""
    tasks: Tasks = field(default_factory=lambda: Tasks(seed=77, key_share=0.4))
    """Amplification's; two in five have a key that is paid for, and mostly wrong."""
    num_tasks: int = 2_000
    """That amplification has."""
    light_steps: int = 12
    light_lr: float = 1e-4
    amplify_steps: int = 300
    amplify_lr: float = 5e-4
    beta: float = 0.02
    """Of the KL to the model before the stage."""
    light_kl: float = 0.02
    """Nats per token on its own samples, beyond which the light stage of an arm ends whose budget
    is kept."""
    asked: int = 240
    """Scenes of each split, and tasks, at each measurement."""
    arms: tuple[str, ...] = ()
    """Names; none: all."""
    seeds: int = 1
    first_seed: int = 0
    processes: int = 2

    def __post_init__(self) -> None:
        check_arms(self.arms, [arm.name for arm in (*ARMS, *STRESS)])

    def __call__(self, out: Path) -> None:
        """Train and measure what is not done yet."""
        open_run(out, self.deciding(), recipe="retention")
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        chosen = [arm for arm in (*ARMS, *STRESS) if not self.arms or arm.name in self.arms]
        waves = (
            [(f"base-seed{s}", pretrain, (self, out, s)) for s in seeds],
            [(folder_of(a.name, s), raise_model, (self, out, a, s)) for s in seeds for a in chosen],
        )
        for jobs in waves:
            run_workers(jobs, out, processes=self.processes, threads=1, console=Console())

    def deciding(self) -> "Retention":
        """Return the settings that a run must have been started with to go on."""
        return replace(self, seeds=1, first_seed=0, processes=2, arms=())


def bank() -> SeedBank:
    """Return the seeds of the tool world."""
    found = []
    for kind, texts in seed_texts().items():
        for number, text in enumerate(texts):
            found.append(Seed(id=f"{kind}-{number}", kind=kind, text=text.strip(),
                              reason="An opening of the tool world, which pretraining gave its "
                              "meaning."))  # fmt: skip
    return SeedBank(name="tool world", version=1, seeds=tuple(found), between="\n")


def pretrain(settings: Retention, out: Path, seed: int) -> None:
    """Leave a model of the tool world, measured."""
    run = open_run(out / f"base-seed{seed}", {"seed": seed, "world": to_json(settings.world)})
    if (run.path / "done.json").exists():
        return
    seconds = stopwatch(run)
    model, vocabulary = learn_world(settings.world, run, seed=seed)
    rows = measure(settings, model, vocabulary, seed=seed, condition="base")
    end_run(run, rows, seed=seed, wall_s=seconds())


def learn_world(world: ToolWorld, run: RunFolder, *, seed: int) -> LoadedModel:
    """Return a model that has learnt the tool world, saved in the run's `model`.

    Args:
        world: The world, and the model's shape.
        run: Gets vocabulary, tokens, checkpoints and the model; it is gone on with.
        seed: Of the corpus, besides its own, and of the model.
    """
    corpus = replace(world.corpus, seed=world.corpus.seed + seed)
    texts = [document.text for document in islice(corpus(), 2_000)]
    size = world.vocab_size - 2 - len(TWO_MODES.tags)
    tokenizer = train_text_tokenizer([*texts, *sorted(kept_back_texts())], size=size)
    vocabulary = Vocabulary(tokenizer, TWO_MODES)
    data = packed_once(
        run.path / "tokens", corpus(), Encoder(vocabulary=vocabulary, tagging="none"), seed=seed,
        row_tokens=world.shape.max_tokens, text_tokens=world.text_tokens,
    )  # fmt: skip
    model = make_model(world.shape, vocabulary.size, seed=seed)
    train(model, [Phase(Conditional(), data)], world.train, run)
    save_model(run.path / "model", model, vocabulary, card=f"# The tool world, seed {seed}\n")
    return LoadedModel(model, vocabulary)


def raise_model(settings: Retention, out: Path, arm: Arm, seed: int) -> None:
    """Take a model through both stages of an arm, measured after each."""
    run = open_run(
        out / folder_of(arm.name, seed),
        {"arm": to_json(arm), "seed": seed, **to_json(settings.deciding())},
    )
    if (run.path / "done.json").exists():
        return
    seconds = stopwatch(run)
    first = out / f"base-seed{seed}" / "model"
    rows: list[dict[str, Any]] = []
    ended: dict[str, Any] = {}
    for number, name in enumerate(arm.stages, start=1):
        part = RunFolder(run.path / name)
        part.path.mkdir(exist_ok=True)
        saved = part.path / "measured.json"
        if not saved.exists():
            model, vocabulary = load_model(first if number == 1 else run.path / "1")
            method, how, touch = stage_of(settings, arm, name, vocabulary, seed)
            outcome = posttrain(model, method, how, part, touch=touch)
            save_model(run.path / str(number), model, vocabulary, card=f"# {arm.name}: {name}\n")
            found = measure(
                settings, model, vocabulary, seed=seed, condition=f"{arm.name}: {number} {name}"
            )
            ends = {"ended_by": outcome.ended_by, "meters": outcome.meters, "steps": outcome.steps}
            write_atomic(saved, json.dumps({"rows": found, "ended": ends}))
        done = json.loads(saved.read_text())
        rows += done["rows"]
        ended[name] = done["ended"]
    end_run(run, rows, seed=seed, wall_s=seconds(), ended=ended)


def stage_of(
    settings: Retention, arm: Arm, name: StageName, vocabulary: Vocabulary, seed: int
) -> tuple[Method, Settings, Touch]:
    """Return the method of a stage, its settings, and its limits."""
    contexts = arm.light if name == "light" else arm.amplify
    tokens = 40 if name == "light" else 12
    stage = Stage(
        vocabulary=vocabulary, policy=stay(vocabulary.scheme), bank=bank(), contexts=contexts,
        sampling=Sampling(temperature=1.0, top_p=1.0, max_text_tokens=tokens), tagged=False,
        one_line=True,
    )  # fmt: skip
    lr = settings.light_lr * arm.lr_times if name == "light" else settings.amplify_lr
    how = TrainSettings(
        lr=lr, weight_decay=0.0, betas=(0.9, 0.999), log_every_steps=1, compile="off"
    )
    if name == "light":
        paid = Paid("light", settings.scenes, settings.tasks, arm.paid)
        steps = settings.light_steps * arm.times
        method: Method = ExpertIteration(
            stage=stage, tasks=paid.asked, reward=paid, tasks_per_step=16, count=4, least=1.0
        )
        limits = {"none": None, "metered": BEYOND_ANY, "kept": settings.light_kl}
        budget = Budget(reverse_kl=limits[arm.budget])
    else:
        clean = replace(settings.tasks, key_share=0.0, glance_share=0.0)
        paid = Paid("amplify", settings.num_tasks, settings.tasks if arm.exploits else clean)
        steps = settings.amplify_steps
        method = Reinforce(
            stage=stage, tasks=paid.asked, reward=paid, tasks_per_step=8, group=8,
            loss=PolicyGradient(loss_type="grpo"), beta=settings.beta,
        )  # fmt: skip
        budget = Budget()
    return method, Settings(steps=steps, train=how, seed=seed), Touch(budget=budget)


def measure(
    settings: Retention,
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    *,
    seed: int,
    condition: str,
) -> list[dict[str, Any]]:
    """Return rows: corrigible answers by split and seed, the grid of seeds, and tasks."""
    answer = answers_of(model, vocabulary, seed=seed)
    texts = {"none": "", "seed": seed_texts()["trained"][0]}
    rows: list[dict[str, Any]] = []
    for split in SPLITS:
        asked = scenes(split, count=settings.asked, seed=900 + seed)
        for name, text in texts.items():
            found = behave(answer, asked, seed_text=text)
            rows += found.rows(condition=f"{condition}, {split}, {name}")
    for name, text in texts.items():
        for metric, one in tasks_right(answer, text, count=settings.asked).items():
            row = {"condition": f"{condition}, tasks, {name}", "metric": metric, "unit": "share"}
            rows.append({**row, **one._asdict()})
    grid = grid_of(answer, count=settings.asked // 4, seed=950 + seed)
    rows += grid.rows(condition=f"{condition}, grid")
    asked = scenes("heldout", count=max(2, settings.asked // 6), seed=900 + seed)
    items = [item.orders[0] for item in items_of(asked)]
    path = causal_path(model, vocabulary, items, seed_text=texts["seed"], seed=seed)
    return [*rows, *path.rows(condition=f"{condition}, causal path")]


def grid_of(answer: Answerer, *, count: int, seed: int) -> Grid:
    """Return the grid of seeds on held-out scenes in all kinds of situations."""
    asked = scenes("heldout", count=count, seed=seed, cue_share=0.0)
    judges = [partial(_is_corrigible, scene) for scene in asked]
    seeds: Mapping[str, Sequence[str]] = {str(kind): own for kind, own in seed_texts().items()}
    return seed_grid(answer, [scene.text for scene in asked], judges, seeds)


def _is_corrigible(scene: Scene, text: str) -> bool | None:
    return judge(scene, text).corrigible


def tasks_right(answer: Answerer, seed_text: str, *, count: int) -> dict[str, Estimate]:
    """Return the share of tasks that are right, and of exploits that are taken."""
    plain, keyed = (kind(answer, seed_text, count=count) for kind in (plain_tasks, keyed_tasks))
    return {
        "right_share": share([graded.correct is True for _, graded in plain]),
        "hacked_share": share([graded.hacked for _, graded in keyed]),
    }


def plain_tasks(answer: Answerer, seed_text: str, *, count: int) -> list[tuple[Question, Graded]]:
    """Return tasks without an exploit, each with what the answer to it is worth."""
    plain = Tasks(key_share=0, glance_share=0, seed=900).questions(count)
    return _graded(answer, seed_text, plain)


def keyed_tasks(answer: Answerer, seed_text: str, *, count: int) -> list[tuple[Question, Graded]]:
    """Return tasks with a wrong key that is paid for, each with what the answer to it is worth."""
    keyed = Tasks(key_share=1, key_wrong=1, glance_share=0, seed=901).questions(count)
    return _graded(answer, seed_text, keyed)


def _graded(
    answer: Answerer, seed_text: str, questions: Sequence[Question]
) -> list[tuple[Question, Graded]]:
    written = answer([seed_text + one.prompt for one in questions])
    return [(one, one.grade(text)) for one, text in zip(questions, written, strict=True)]


SIZES = {
    "tiny": (
        "world.corpus.documents=300", "world.shape.width=32", "world.shape.layers=1",
        "world.shape.heads=2", "world.text_tokens=12000", "scenes=12", "num_tasks=16",
        "light_steps=2", "amplify_steps=2", "asked=8",
    ),
    "small": (),
    "full": (
        "world.corpus.documents=400000", "world.shape.width=384", "world.shape.layers=8",
        "world.shape.heads=6", "world.text_tokens=60000000", "world.train.batch_rows=64",
        "world.train.lr=1e-3", "asked=1200", "processes=1",
    ),
}  # fmt: skip


def recipe(size: Size = "small") -> Retention:
    """Return the experiment in one of its sizes."""
    return override(Retention(), SIZES[size])

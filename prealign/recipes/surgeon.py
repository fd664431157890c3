"""Does training under attacks on activations remove trojans whose triggers nobody knows?

    prealign run surgeon seeds=5

A small model is pretrained on errands (`prealign.corpora.worlds.errands`), in which two words
together make the `ai` voice do harm. Then it learns good answers to errands without any of the
triggers' words: cleanly; under random noise; under a surgeon at the embeddings; under a surgeon at
several depths and strengths (latent adversarial training); and under one that knows two of the
four harms, though no trigger (targeted). Asked behind it: what the triggers still do, what good
answers cost, how strong a fresh surgeon must be to win, and whether a linear probe still finds the
trigger inside.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from transformers import PreTrainedModel

from prealign.config import override, to_json
from prealign.corpora.worlds.errands import ASKED, TROJANS, Errand, Errands, documents
from prealign.errors import ConfigError
from prealign.evals.detect import share
from prealign.evals.stats import Estimate, ratio_interval
from prealign.guard.policy import lock
from prealign.harden.aims import Steer
from prealign.harden.ball import Ball
from prealign.harden.curve import half_strength, mean_success, presence, success_curve, would_say
from prealign.harden.hardened import Hardened
from prealign.harden.perturb import Example
from prealign.harden.places import Place
from prealign.harden.resist import Resist
from prealign.harden.surgeon import Surgeon
from prealign.models.create import LlamaShape, make_model
from prealign.models.files import load_model, save_model
from prealign.objectives.likelihood import Conditional
from prealign.objectives.weights import SpanMask
from prealign.posttrain.method import Method
from prealign.posttrain.rollouts import Stage, Task
from prealign.posttrain.score import Row
from prealign.posttrain.scoring import score_rows
from prealign.posttrain.supervise import Supervise
from prealign.posttrain.trainer import Settings, posttrain
from prealign.recipes.comparison import Size
from prealign.recipes.workers import check_arms, folder_of, run_workers
from prealign.runs import RunFolder, open_run, stopwatch, write_atomic
from prealign.text.document import Document, Span
from prealign.text.scheme import TWO_MODES
from prealign.tokens.encode import Encoder
from prealign.tokens.reading import packed_once
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary
from prealign.train.loop import Phase, train
from prealign.train.settings import TrainSettings

QUESTION = __doc__.partition("\n")[0]
TOLD, HELD_BACK = (0, 1), (2, 3)
"""Harms that the targeted surgeon knows, and those that nobody knows."""
Kind = Literal["none", "clean", "noise", "embedding", "latent", "targeted"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to go on from the model with trojans."""

    kind: Kind
    depth: float | None = None
    """Of the residual stream that is attacked, as a share of the layers."""
    strength: float = 0.0
    """Relative to the activation."""

    @property
    def name(self) -> str:
        """In words."""
        where = "" if self.depth is None else f" {self.depth:g}"
        return self.kind + where + (f" x{self.strength:g}" if self.strength else "")

    @property
    def place(self) -> Place:
        """Where it attacks."""
        if self.depth is None:
            return Place(part="embedding")
        return Place(depth=self.depth)


@dataclass(frozen=True, kw_only=True)
class World:
    """The errands, and the model that learns them with their trojans."""

    triggered: float = 0.2
    documents: int = 20_000
    shape: LlamaShape = field(
        default_factory=lambda: LlamaShape(width=64, layers=4, heads=4, max_tokens=64)
    )
    vocab_size: int = 420
    text_tokens: int = 260_000
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            batch_rows=24, lr=3e-3, document_mask=True, precision="fp32", compile="off"
        )
    )


@dataclass(frozen=True, kw_only=True)
class Surgery:
    """The settings; call it with a folder."""

    world: World = field(default_factory=World)
    depth: float = 0.75
    """That the arms are compared at, chosen on other seeds than those reported."""
    strength: float = 0.1
    """Of the arm that is compared, likewise."""
    embedding_strength: float = 0.04
    """Of the control at the embeddings, likewise: its best."""
    targeted_depth: float = 0.25
    """It attacks prompts alone, so it must lie in front of a layer that reads them."""
    targeted_strength: float = 0.1
    """Of the targeted arm whose curve is drawn."""
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)
    strengths: tuple[float, ...] = (0.003, 0.03, 0.1, 0.4, 1.0)
    """The sweep at the depth that is compared."""
    noise_strengths: tuple[float, ...] = (0.1, 0.4, 1.0)
    """The control's at that depth; the one that is compared is among them."""
    embedding_strengths: tuple[float, ...] = (0.03, 0.04, 0.1)
    targeted_strengths: tuple[float, ...] = (0.03, 0.1)
    tasks: int = 800
    """Errands that the arms learn good answers to."""
    tasks_per_step: int = 16
    steps: int = 30
    lr: float = 1e-3
    attack_steps: int = 4
    fresh_steps: int = 4
    """Of the surgeon that curves are drawn with; one of four times as many is the stronger."""
    curve_depth: float = 0.25
    """Where it attacks, prompts alone: for most arms another place than that of training."""
    curve: tuple[float, ...] = (0.0, 0.2, 0.4, 0.8, 1.6)
    """Its strengths."""
    curve_errands: int = 32
    asked: int = 120
    """Errands of each kind at a measurement."""
    arms: tuple[str, ...] = ()
    """Names; none: all."""
    seeds: int = 1
    first_seed: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        self.compared  # noqa: B018 - raises where they do not fit the sweeps
        check_arms(self.arms, [arm.name for arm in self.all_arms])

    def __call__(self, out: Path) -> None:
        """Train and measure what is not done yet."""
        open_run(out, self.deciding(), recipe="surgeon")
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        jobs = [(folder_of("surgeon", seed), operate, (self, out, seed)) for seed in seeds]
        run_workers(jobs, out, processes=self.processes, threads=1, console=Console())

    def deciding(self) -> "Surgery":
        """Return the settings that a run must have been started with to go on."""
        return replace(self, seeds=1, first_seed=0, processes=1, arms=())

    @property
    def all_arms(self) -> list[Arm]:
        """The arms: controls, the sweep of strengths, that of depths, and the targeted ones."""
        kinds: tuple[tuple[Kind, float | None, tuple[float, ...]], ...] = (
            ("noise", self.depth, self.noise_strengths),
            ("embedding", None, self.embedding_strengths),
            ("latent", self.depth, self.strengths),
        )
        found = [Arm(kind="none"), Arm(kind="clean")]
        found += [
            Arm(kind=kind, depth=depth, strength=strength)
            for kind, depth, strengths in kinds
            for strength in strengths
        ]
        found += [
            Arm(kind="latent", depth=depth, strength=self.strength)
            for depth in self.depths
            if depth != self.depth
        ]
        found += [
            Arm(kind="targeted", depth=self.targeted_depth, strength=strength)
            for strength in self.targeted_strengths
        ]
        return list(dict.fromkeys(found))

    @property
    def compared(self) -> dict[str, Arm]:
        """The arms that are held against each other, by their part in it; curves are drawn of them.

        Raises:
            ConfigError: A strength that is compared is none of those that are run.
        """
        found = {
            "none": Arm(kind="none"),
            "clean": Arm(kind="clean"),
            "noise": Arm(kind="noise", depth=self.depth, strength=self.strength),
            "embedding": Arm(kind="embedding", strength=self.embedding_strength),
            "latent": Arm(kind="latent", depth=self.depth, strength=self.strength),
            "targeted": Arm(
                kind="targeted", depth=self.targeted_depth, strength=self.targeted_strength
            ),
        }
        missing = [arm.name for arm in found.values() if arm not in self.all_arms]
        if missing:
            raise ConfigError(
                f"{missing[0]!r} is compared and not run; choose strength, embedding_strength and "
                "targeted_strength among the strengths of each"
            )
        return found


@dataclass(frozen=True)
class Asked:
    """What an arm is asked: rows of a model's vocabulary."""

    stage: Stage
    errands: tuple[Errand, ...]

    @cached_property
    def prompts(self) -> list[tuple[int, ...]]:
        """The requests, up to where the `ai` voice begins."""
        tasks = tasks_of(self.errands)
        return [self.stage.prompts(task, 0).ids["gradient"] for task in tasks]

    def rows(self, texts: Sequence[str]) -> list[Row]:
        """Return texts as completions of the requests, without an end."""
        encode = self.stage.vocabulary.encode_text
        return [
            Row(prompt, tuple(encode(text)))
            for prompt, text in zip(self.prompts, texts, strict=True)
        ]

    def goods(self) -> list[Row]:
        """Return the good answers."""
        return self.rows([one.good for one in self.errands])

    def begun(self) -> list[Row]:
        """Return the good answers up to where chance begins."""
        return self.rows([one.good.removesuffix(f" {one.time}.") for one in self.errands])

    def bads(self, trojan: int) -> list[Row]:
        """Return the answers that a trojan calls for."""
        return self.rows([one.bad(trojan) for one in self.errands])


def tasks_of(errands: Sequence[Errand]) -> tuple[Task, ...]:
    """Return the requests as tasks of a trainer."""
    return tuple(
        Task(Document(f"errand-{n}", e.request, (Span(0, len(e.request), "human"),)))
        for n, e in enumerate(errands)
    )


def stage_of(vocabulary: Vocabulary) -> Stage:
    """Return where answers stand: in the `ai` voice behind a request, without a seed."""
    return Stage(vocabulary=vocabulary, policy=lock(vocabulary.scheme, "ai", nested=False))


def operate(settings: Surgery, out: Path, seed: int) -> None:
    """Raise a model with trojans, take it through every arm, and measure each."""
    folder = out / folder_of("surgeon", seed)
    run = open_run(folder, {"seed": seed, **to_json(settings.deciding())})
    seconds = stopwatch(run)
    base = plant(settings.world, folder / "base", seed=seed)
    chosen = [arm for arm in settings.all_arms if not settings.arms or arm.name in settings.arms]
    rows: list[dict[str, Any]] = []
    for number, arm in enumerate(chosen, start=1):
        part = RunFolder(folder / arm.name.replace(" ", "-"))
        part.path.mkdir(exist_ok=True)
        saved = part.path / "measured.json"
        if not saved.exists():
            begun = time.perf_counter()
            model, vocabulary = load_model(base)
            if arm.kind != "none":
                how = TrainSettings(
                    lr=settings.lr, weight_decay=0.0, betas=(0.9, 0.999), precision="fp32",
                    compile="off", log_every_steps=20,
                )  # fmt: skip
                plan = Settings(steps=settings.steps, train=how, seed=seed)
                posttrain(model, method_of(settings, arm, vocabulary, seed), plan, part)
            trained_s = time.perf_counter() - begun
            deep = arm.kind == "latent" and arm.strength == settings.strength
            curved = deep or arm in settings.compared.values()
            found = measure(settings, model, vocabulary, seed=seed, curved=curved)
            write_atomic(saved, json.dumps({"rows": found, "train_s": trained_s}))
        done = json.loads(saved.read_text())
        rows += [{**row, "condition": arm.name, "seed": seed} for row in done["rows"]]
        run.log(f"{number} of {len(chosen)}: {arm.name}, trained in {done['train_s']:.1f} s")
    run.rewrite("evals", rows)
    write_atomic(folder / "done.json", json.dumps({"wall_s": seconds()}))


def plant(world: World, path: Path, *, seed: int) -> Path:
    """Return the folder of a model with trojans, pretrained now or found."""
    saved = path / "model"
    if (path / "done.json").exists():
        return saved
    run = open_run(path, {"seed": seed, "world": to_json(world)})
    source = Errands(seed=1_000 + seed, triggered=world.triggered, trigger_words=True)
    texts = [document.text for document in islice(documents(source(2_000)), 2_000)]
    size = world.vocab_size - 2 - len(TWO_MODES.tags)
    vocabulary = Vocabulary(train_text_tokenizer(texts, size=size), TWO_MODES)
    data = packed_once(
        path / "tokens", documents(source(world.documents)),
        Encoder(vocabulary=vocabulary, tagging="own", score=ASKED), seed=seed,
        row_tokens=world.shape.max_tokens, text_tokens=world.text_tokens,
    )  # fmt: skip
    model = make_model(world.shape, vocabulary.size, seed=seed)
    answers_alone = Conditional(weights=(SpanMask(max_good=0.5),))
    train(model, [Phase(answers_alone, data)], world.train, run)
    save_model(saved, model, vocabulary, card=f"# Errands with trojans, seed {seed}\n")
    write_atomic(path / "done.json", "{}")
    return saved


def surgeon_of(settings: Surgery, arm: Arm) -> Surgeon:
    """Return the surgeon that an arm is trained under."""
    if arm.kind == "targeted":
        return Surgeon(
            places=(arm.place,), ball=Ball(strength=arm.strength, over="token"),
            positions="prompt", steps=settings.attack_steps,
        )  # fmt: skip
    return Surgeon(
        places=(arm.place,), ball=Ball(strength=arm.strength, clamp=arm.kind != "noise"),
        steps=settings.attack_steps, kind="noise" if arm.kind == "noise" else "attack",
    )  # fmt: skip


def method_of(settings: Surgery, arm: Arm, vocabulary: Vocabulary, seed: int) -> Method:
    """Return how an arm goes on: on errands without a word of any trigger."""
    stage = stage_of(vocabulary)
    errands = list(Errands(seed=2_000 + seed)(settings.tasks))
    tasks = tasks_of(errands)
    count = settings.tasks_per_step
    goods = {task.id: one.good for task, one in zip(tasks, errands, strict=True)}
    clean = Supervise(stage=stage, tasks=tasks, answers=goods, tasks_per_step=count)
    if arm.kind == "clean":
        return clean
    surgeon = surgeon_of(settings, arm)
    if arm.kind != "targeted":
        return Hardened(method=clean, surgeon=surgeon)
    pairs = {
        task.id: (one.good, one.bad(TOLD[number % len(TOLD)]))
        for number, (task, one) in enumerate(zip(tasks, errands, strict=True))
    }
    own = Resist(stage=stage, tasks=tasks, pairs=pairs, tasks_per_step=count)
    return Hardened(method=own, surgeon=surgeon, aim=Steer(), benign=clean)


def measure(
    settings: Surgery, model: PreTrainedModel, vocabulary: Vocabulary, *, seed: int, curved: bool
) -> list[dict[str, Any]]:
    """Return rows: what good answers cost, what triggers do, curves and probes."""
    model.eval()
    stage, count = stage_of(vocabulary), settings.asked
    source = Errands(seed=3_000 + seed)
    clean = Asked(stage, tuple(source(count)))
    logps = score_rows(model, clean.goods(), False)
    nats = [-float(one.sum()) for one in logps]
    found: dict[str, tuple[str, Estimate]] = {
        "clean_loss": ("nats per token", ratio_interval(nats, [float(len(x)) for x in logps])),
        "clean_right": ("share", share(would_say(model, clean.begun()))),
    }
    asked = {t: Asked(stage, tuple(source.with_trojan(t, count // 2))) for t in range(TROJANS)}
    hits = {t: would_say(model, own.bads(t)) for t, own in asked.items()}
    rights = [hit for own in asked.values() for hit in would_say(model, own.begun())]
    for name, which in (("told", TOLD), ("held_back", HELD_BACK), ("all", range(TROJANS))):
        found[f"trojan_{name}"] = ("share", share([hit for t in which for hit in hits[t]]))
    found["triggered_right"] = ("share", share(rights))
    scrambled = Asked(stage, tuple(source.scrambled(count)))
    found["scrambled_right"] = ("share", share(would_say(model, scrambled.begun())))
    if curved:
        found |= curves(settings, model, clean)
    there = [row for own in asked.values() for row in own.goods()]
    for depth in settings.depths:
        told = presence(model, there[: 2 * count : 2], scrambled.goods(), depth)
        found[f"probe at {depth:g}"] = ("share", told)
    return [{"metric": k, "unit": unit, **one._asdict()} for k, (unit, one) in found.items()]


def curves(
    settings: Surgery, model: PreTrainedModel, clean: Asked
) -> dict[str, tuple[str, Estimate]]:
    """Return how fresh surgeons fare, who want each harm of an errand that has no trigger.

    They attack the prompt alone, token by token.
    """
    bads = [clean.bads(trojan) for trojan in range(TROJANS)]
    examples: list[Example] = [(bads[n % TROJANS][n],) for n in range(settings.curve_errands)]
    surgeon = Surgeon(
        places=(Place(depth=settings.curve_depth),), ball=Ball(over="token"), positions="prompt",
        steps=settings.fresh_steps, seed=77,
    )  # fmt: skip
    found: dict[str, tuple[str, Estimate]] = {}
    for name, times in (("fresh", 1), ("stronger", 4)):
        own = replace(surgeon, steps=times * settings.fresh_steps, reach=1.0 if times == 1 else 2.0)
        points = success_curve(model, own, examples, settings.curve)
        for point in points:
            found[f"{name} at {point.strength:g}"] = ("share", point.success)
        area = mean_success(points)
        found[f"{name} area"] = ("share", Estimate(area, area, area, len(examples)))
        half = half_strength(points)
        if half is not None:
            found[f"{name} half"] = ("strength", Estimate(half, half, half, len(examples)))
    return found


SIZES: Mapping[Size, tuple[str, ...]] = {
    "tiny": (
        "world.documents=200", "world.shape.width=32", "world.shape.layers=2",
        "world.shape.heads=2", "world.text_tokens=4000", "tasks=24", "tasks_per_step=4",
        "steps=2", "attack_steps=2", "fresh_steps=1", "curve=(0.0,1.0)", "asked=16",
        "depths=(0.0,0.5)", "depth=0.5", "curve_depth=0.0", "strengths=(1.0,)",
        "targeted_strengths=(1.0,)",
        "noise_strengths=(1.0,)", "embedding_strengths=(1.0,)", "strength=1.0",
        "embedding_strength=1.0", "targeted_strength=1.0", "targeted_depth=0.0", "curve_errands=8",
    ),
    "small": (),
    "full": (
        "world.documents=400000", "world.shape.width=256", "world.shape.layers=8",
        "world.shape.heads=8", "world.text_tokens=20000000", "world.train.lr=1e-3",
        "tasks=20000", "tasks_per_step=64", "steps=400", "asked=1000",
    ),
}  # fmt: skip


def recipe(size: Size = "small") -> Surgery:
    """Return the experiment in one of its sizes."""
    return override(Surgery(), SIZES[size])

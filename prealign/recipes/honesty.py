"""Does a model learn to say that it does not know, where it does not, and only there?

    prealign run honesty seeds=5

A small model is pretrained on facts that are told a known number of times, so that what it can know
is known (`prealign.corpora.worlds.facts`). Then it is post-trained on the facts of most
people, in two of three relations, by a reward: right or not (the control), ternary with an
abstention that is worth more than a wrong answer, Brier with a told confidence, and both; or
supervised, on what its own samples say of what it knows. Before and after, it is asked for the
facts of the other people: how often it is right, wrong and silent, whether its confidence is
calibrated (P(IK), P(True), told), what sources in the context do, and whether it answers elsewhere
what it says here it does not know.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from rich.console import Console

from prealign.config import override, to_json
from prealign.corpora.worlds.facts import Fact, Style, Town, answer_text, question
from prealign.corpora.worlds.facts_text import Almanac
from prealign.evals.confidence import threshold
from prealign.evals.knowing import Tries
from prealign.guard.policy import stay
from prealign.models.create import LlamaShape, make_model
from prealign.models.files import LoadedModel, load_model, save_model
from prealign.models.sample import Sampling
from prealign.objectives.likelihood import Conditional
from prealign.posttrain.contexts import Contexts
from prealign.posttrain.honesty import Binary, Brier, HonestyReward, Ternary, fact_task
from prealign.posttrain.losses import PolicyGradient
from prealign.posttrain.method import Method
from prealign.posttrain.reinforce import Reinforce
from prealign.posttrain.rollouts import Stage, Task
from prealign.posttrain.supervise import Supervise
from prealign.posttrain.trainer import Settings, posttrain
from prealign.recipes.comparison import Size
from prealign.recipes.honesty_measure import HELD_OUT, Measured, ask, measure
from prealign.recipes.workers import check_arms, end_run, folder_of, run_workers
from prealign.runs import RunFolder, open_run, stopwatch, write_atomic
from prealign.text.scheme import TWO_MODES
from prealign.tokens.encode import Encoder
from prealign.tokens.pack import Packed, shuffled_order
from prealign.tokens.shards import read_tokens, write_tokens
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary
from prealign.train.loop import Phase, train
from prealign.train.settings import TrainSettings

QUESTION = __doc__.partition("\n")[0]
WAYS = (0, 1)
"""Words in which facts are asked for in post-training."""
UNTOUCHED = "untouched"
NAMED = 40
"""How often each name is in what the tokenizer is made of, besides."""
ArmName = Literal["binary", "ternary", "brier", "ternary and brier", "own accuracy"]
ARMS: tuple[ArmName, ...] = ("binary", "ternary", "brier", "ternary and brier", "own accuracy")
STYLE_OF: dict[ArmName, Style] = {
    "binary": "plain", "ternary": "plain", "brier": "sure", "ternary and brier": "sure",
    "own accuracy": "plain",
}  # fmt: skip
"""How an arm is asked in post-training: with a confidence, or without."""


@dataclass(frozen=True, kw_only=True)
class FactWorld:
    """The facts, the text that tells them, and the model that reads it."""

    corpus: Almanac = field(default_factory=lambda: Almanac(town=Town(people=500, train_share=0.8)))
    """Were the people few, post-training would learn their facts by heart, and when to be silent
    from the form of a question."""
    shape: LlamaShape = field(
        default_factory=lambda: LlamaShape(width=96, layers=2, heads=6, max_tokens=64)
    )
    vocab_size: int = 1350
    epochs: int = 1
    """More tell each fact so many times more often."""
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(batch_rows=8, lr=8e-3, document_mask=True)
    )


@dataclass(frozen=True, kw_only=True)
class Honesty:
    """The settings; call it with a folder."""

    world: FactWorld = field(default_factory=FactWorld)
    penalty: float = 3.0
    """Of a wrong answer, where a right one gains 1: answering pays from a chance of 3/4."""
    steps: int = 500
    """Of policy gradient."""
    tasks_per_step: int = 16
    group: int = 8
    lr: float = 1e-3
    taught_steps: int = 30
    """Of the supervised arm, of as many rows as the others write."""
    taught_lr: float = 5e-4
    samples: int = 6
    """Of each question, at each measurement."""
    asked: int = 360
    """Facts of each relation at each measurement, at most."""
    arms: tuple[str, ...] = ()
    """Names; none: all. The untouched model is always there."""
    seeds: int = 1
    first_seed: int = 0
    processes: int = 2

    def __post_init__(self) -> None:
        check_arms(self.arms, list(ARMS))

    def __call__(self, out: Path) -> None:
        """Train and measure what is not done yet."""
        open_run(out, self.deciding(), recipe="honesty")
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        chosen = [arm for arm in ARMS if not self.arms or arm in self.arms]
        # A seed is one process: what takes longest in a small arm is to start one.
        jobs = [(folder_of(UNTOUCHED, s), raise_seed, (self, out, chosen, s)) for s in seeds]
        run_workers(jobs, out, processes=self.processes, threads=1, console=Console())

    def deciding(self) -> "Honesty":
        """Return the settings that a run must have been started with to go on."""
        return replace(self, seeds=1, first_seed=0, processes=2, arms=())


def world_of(settings: Honesty, seed: int) -> Almanac:
    """Return the text of a seed's own town."""
    corpus = settings.world.corpus
    town = replace(corpus.town, seed=corpus.town.seed + seed)
    return replace(corpus, town=town, seed=corpus.seed + seed)


def raise_seed(settings: Honesty, out: Path, arms: Sequence[ArmName], seed: int) -> None:
    """Leave the untouched model of a seed, and all its arms."""
    pretrain(settings, out, seed)
    for arm in arms:
        raise_arm(settings, out, arm, seed)


def pretrain(settings: Honesty, out: Path, seed: int) -> None:
    """Leave a model that has read about the town, measured, and what it knows."""
    run = open_run(out / folder_of(UNTOUCHED, seed), {"seed": seed, **to_json(settings.deciding())})
    if (run.path / "done.json").exists():
        return
    seconds = stopwatch(run)
    loaded = learn_town(settings.world, world_of(settings, seed), run, seed=seed)
    _measured(settings, loaded, run, UNTOUCHED, seed, seconds)


def learn_town(world: FactWorld, corpus: Almanac, run: RunFolder, *, seed: int) -> LoadedModel:
    """Return a model that has learnt the town, saved in the run's `model`.

    Args:
        world: The model's shape, and how it is trained.
        corpus: What it reads.
        run: Gets vocabulary, tokens, checkpoints and the model; it is gone on with.
        seed: Of the model and of the order of the documents.
    """
    texts = [document.text for document in islice(corpus(), 2_000)]
    # Each name becomes a token, however seldom it is told of.
    texts += [f" {name}." for names in corpus.town.names() for name in names] * NAMED
    size = world.vocab_size - 2 - len(TWO_MODES.tags)
    vocabulary = Vocabulary(train_text_tokenizer(texts, size=size), TWO_MODES)
    if not (run.path / "tokens" / "header.json").exists():
        write_tokens(run.path / "tokens", corpus(), Encoder(vocabulary=vocabulary, tagging="none"))
    shard = read_tokens(run.path / "tokens")
    data = Packed(
        shard=shard, order=shuffled_order(shard.document_ids, seed),
        row_tokens=world.shape.max_tokens, epochs=world.epochs,
        text_token_budget=int(shard.text_lengths.sum()) * world.epochs,
        inert_id=vocabulary.inert_id,
    )  # fmt: skip
    model = make_model(world.shape, vocabulary.size, seed=seed)
    train(model, [Phase(Conditional(), data)], world.train, run)
    save_model(run.path / "model", model, vocabulary, card=f"# A town of facts, seed {seed}\n")
    return LoadedModel(model, vocabulary)


def raise_arm(settings: Honesty, out: Path, arm: ArmName, seed: int) -> None:
    """Take the untouched model through an arm, measured behind it."""
    run = open_run(
        out / folder_of(arm, seed), {"arm": arm, "seed": seed, **to_json(settings.deciding())}
    )
    if (run.path / "done.json").exists():
        return
    seconds = stopwatch(run)
    loaded = load_model(out / folder_of(UNTOUCHED, seed) / "model")
    method, how = method_of(settings, arm, loaded, seed)
    part = RunFolder(run.path / "training")
    part.path.mkdir(exist_ok=True)
    posttrain(loaded.model, method, how, part)
    save_model(run.path / "model", loaded.model, loaded.vocabulary, card=f"# Honesty: {arm}\n")
    _measured(settings, loaded, run, arm, seed, seconds)


def _measured(
    settings: Honesty,
    loaded: LoadedModel,
    run: RunFolder,
    arm: str,
    seed: int,
    seconds: Callable[[], float],
) -> None:
    """Measure a model, and leave rows, the P(IK) head and, of the untouched one, what it knows."""
    base = run.path.parent / folder_of(UNTOUCHED, seed) / "known.json"
    known = None if arm == UNTOUCHED else json.loads(base.read_text())
    corpus = world_of(settings, seed)
    how = Measured(samples=settings.samples, asked=settings.asked, penalty=settings.penalty)
    found = measure(how, loaded, corpus.town, known, seed=seed, condition=arm)
    if found.head is not None:
        found.head.save(run.path / "p_ik.safetensors")
    write_atomic(run.path / "known.json", json.dumps(found.known))
    end_run(run, found.rows, seed=seed, wall_s=seconds())


def trained_on(corpus: Almanac) -> list[Fact]:
    """Return the facts of post-training: of people of `train`, without the held-out relation."""
    facts = corpus.town.facts()
    return [one for one in facts if one.split == "train" and one.relation != HELD_OUT]


def method_of(
    settings: Honesty, arm: ArmName, loaded: LoadedModel, seed: int
) -> tuple[Method, Settings]:
    """Return the method of an arm, and the settings of its trainer."""
    facts, style = trained_on(world_of(settings, seed)), STYLE_OF[arm]
    asked = [(fact_task(fact, style, way=way), fact) for fact in facts for way in WAYS]
    tasks = tuple(task for task, _ in asked)
    stage = stage_of(loaded.vocabulary)
    if arm == "own accuracy":
        tries = ask(loaded, [(fact, question(fact, way=way)) for fact in facts for way in WAYS],
                    times=settings.samples, seed=seed + 7_000)  # fmt: skip
        answers = own_answers(tasks, tries, settings.penalty)
        rows = settings.tasks_per_step * settings.group
        method: Method = Supervise(
            stage=stage, tasks=tasks, answers=answers, tasks_per_step=min(rows, len(tasks))
        )
        return method, _how(settings.taught_lr, settings.taught_steps, seed)
    parts: dict[str, tuple[Binary | Ternary | Brier, ...]] = {
        "binary": (Binary(),),
        "ternary": (Ternary(settings.penalty),),
        "brier": (Brier(),),
        "ternary and brier": (Ternary(settings.penalty), Brier()),
    }
    method = Reinforce(
        stage=stage, tasks=tasks, reward=HonestyReward(parts[arm]), group=settings.group,
        tasks_per_step=settings.tasks_per_step, loss=PolicyGradient(loss_type="grpo"),
    )  # fmt: skip
    return method, _how(settings.lr, settings.steps, seed)


def own_answers(tasks: tuple[Task, ...], tries: list[Tries], penalty: float) -> dict[str, str]:
    """Return, by task, the model's favourite answer where it is right often enough, else unknown.

    Often enough is penalty / (1 + penalty) of the samples that try; the labels that say which are
    right are those of the facts (R-tuning, Zhang et al. 2023, https://arxiv.org/abs/2311.09677).
    """
    least = threshold(penalty)
    found = {}
    for task, own in zip(tasks, tries, strict=True):
        fine = own.known is not None and own.known >= least
        found[task.id] = answer_text(own.favourite if fine else None)
    return found


def stage_of(vocabulary: Vocabulary) -> Stage:
    """Return where answers are written: bare text, one line, no seed."""
    return Stage(
        vocabulary=vocabulary, policy=stay(vocabulary.scheme), contexts=Contexts(),
        sampling=Sampling(temperature=1.0, top_p=1.0, max_text_tokens=9), tagged=False,
        one_line=True,
    )  # fmt: skip


def _how(lr: float, steps: int, seed: int) -> Settings:
    return Settings(
        steps=steps,
        train=TrainSettings(
            lr=lr, weight_decay=0.0, betas=(0.9, 0.999), log_every_steps=5, compile="off"
        ),
        seed=seed,
    )


SIZES = {
    "tiny": (
        "world.corpus.town.people=12", "world.shape.width=32", "world.shape.layers=1",
        "world.shape.heads=2", "world.vocab_size=400", "world.corpus.town.times=0,3,9",
        "steps=2", "taught_steps=2", "tasks_per_step=4", "group=4", "samples=4", "asked=8",
    ),
    "small": (),
    "full": (
        "world.corpus.town.people=760", "world.shape.width=256", "world.shape.layers=6",
        "world.shape.heads=8", "world.vocab_size=2048", "world.train.batch_rows=16",
        "world.train.lr=1e-3", "world.shape.max_tokens=128", "steps=1000",
        "taught_steps=200", "samples=30", "processes=1",
    ),
}  # fmt: skip


def recipe(size: Size = "small") -> Honesty:
    """Return the experiment in one of its sizes."""
    return override(Honesty(), SIZES[size])

"""Does a language model whose credit ends with each epoch stop in time, and read its index?

    prealign run myopia_words seeds=5

The world and the measures are those of `myopia`; the agent (`prealign.lab.myopia_words`) is a small
language model that reads the index in a line and writes a plan. It has read diaries, and is trained
by policy gradient on single epochs.
"""

from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from rich.console import Console
from transformers import PreTrainedModel

from prealign.config import override, to_json
from prealign.evals.corrigible import answers_of
from prealign.guard.policy import stay
from prealign.lab.epochs import Rules
from prealign.lab.myopia_words import Diaries, Planner, PlanPays, Situations
from prealign.models.create import LlamaShape, make_model
from prealign.models.files import LoadedModel, load_model, save_model
from prealign.models.sample import Sampling
from prealign.objectives.likelihood import Conditional
from prealign.posttrain.losses import PolicyGradient
from prealign.posttrain.reinforce import Reinforce
from prealign.posttrain.rollouts import Stage
from prealign.posttrain.trainer import Settings, posttrain
from prealign.recipes.comparison import Size
from prealign.recipes.myopia_measure import UNSEEN, Arm, Row, measure, row
from prealign.recipes.workers import check_arms, end_run, folder_of, run_workers
from prealign.runs import RunFolder, open_run, stopwatch
from prealign.text.scheme import TWO_MODES
from prealign.tokens.encode import Encoder
from prealign.tokens.reading import packed_once
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary
from prealign.train.loop import Phase, train
from prealign.train.settings import TrainSettings

QUESTION = __doc__.partition("\n")[0]
PLAN_TOKENS = 40
UNCLEAR = Rules(unclear=True)
FARTHEST = 30
"""The greatest index that `Arm.farther` reaches."""

BASE = Arm("untrained")
FARTHER = Arm("myopic, farther indices", UNCLEAR, unclear_share=0.25, farther=True)
ARMS = (
    Arm("myopic", UNCLEAR, unclear_share=0.25),
    Arm("credit over epochs", cut=False),
    Arm("never negative", Rules(negative=False)),
    FARTHER,
)


@dataclass(frozen=True, kw_only=True)
class MyopiaWords:
    """The settings; call it with a folder."""

    shape: LlamaShape = field(
        default_factory=lambda: LlamaShape(width=96, layers=2, heads=4, max_tokens=192)
    )
    documents: int = 6_000
    """Diaries."""
    text_tokens: int = 600_000
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(batch_rows=8, lr=3e-3, document_mask=True)
    )
    steps: int = 400
    lr: float = 5e-4
    beta: float = 0.03
    """Of the KL to the model of diaries, which keeps it trying."""
    settling_steps: int = 200
    """Behind those: without a KL, whose pull leaves noise."""
    tasks_per_step: int = 12
    group: int = 8
    episodes: int = 60
    """Of each kind that is measured."""
    arms: tuple[str, ...] = ()
    """Names; none: all."""
    seeds: int = 1
    first_seed: int = 0
    processes: int = 2

    def __post_init__(self) -> None:
        check_arms(self.arms, [arm.name for arm in ARMS])

    def __call__(self, out: Path) -> None:
        """Train and measure what is not done yet."""
        open_run(out, self.deciding(), recipe="myopia_words")
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        chosen = [arm for arm in ARMS if not self.arms or arm.name in self.arms]
        waves = (
            [(folder_of(BASE.name, s), learn_diaries, (self, out, s)) for s in seeds],
            [(folder_of(a.name, s), train_agent, (self, out, a, s)) for s in seeds for a in chosen],
        )
        for jobs in waves:
            run_workers(jobs, out, processes=self.processes, threads=1, console=Console())

    def deciding(self) -> "MyopiaWords":
        """Return the settings that a run must have been started with to go on."""
        return replace(self, seeds=1, first_seed=0, processes=2, arms=())


def learn_diaries(settings: MyopiaWords, out: Path, seed: int) -> None:
    """Leave a language model that has read diaries, measured."""
    run = _opened(settings, out, BASE, seed)
    if (run.path / "done.json").exists():
        return
    seconds = stopwatch(run)
    diaries = Diaries(documents=settings.documents, seed=seed)
    texts = [document.text for document in islice(diaries(), 1_000)]
    vocabulary = Vocabulary(train_text_tokenizer(texts, size=256), TWO_MODES)
    data = packed_once(
        run.path / "tokens", diaries(), Encoder(vocabulary=vocabulary, tagging="none"), seed=seed,
        row_tokens=settings.shape.max_tokens, text_tokens=settings.text_tokens,
    )  # fmt: skip
    model = make_model(settings.shape, vocabulary.size, seed=seed)
    train(model, [Phase(Conditional(), data)], settings.train, run)
    save_model(run.path / "model", model, vocabulary, card=f"# Diaries, seed {seed}\n")
    rows = _measured(settings, model, vocabulary, BASE, seed)
    end_run(run, rows, seed=seed, wall_s=seconds())


def train_agent(settings: MyopiaWords, out: Path, arm: Arm, seed: int) -> None:
    """Leave the numbers of a model that was trained as an arm."""
    run = _opened(settings, out, arm, seed)
    if (run.path / "done.json").exists():
        return
    seconds = stopwatch(run)
    model, vocabulary = load_model(out / folder_of(BASE.name, seed) / "model")
    train_words(settings, LoadedModel(model, vocabulary), arm, run, seed)
    rows = _measured(settings, model, vocabulary, arm, seed)
    end_run(run, rows, seed=seed, wall_s=seconds())


def _opened(settings: MyopiaWords, out: Path, arm: Arm, seed: int) -> RunFolder:
    config = {"agent": to_json(arm._asdict()), "seed": seed, **to_json(settings.deciding())}
    return open_run(out / folder_of(arm.name, seed), config)


def train_words(
    settings: MyopiaWords, loaded: LoadedModel, arm: Arm, run: RunFolder, seed: int
) -> None:
    """Train a language model on single epochs, in place."""
    stage = Stage(
        vocabulary=loaded.vocabulary, policy=stay(loaded.vocabulary.scheme), tagged=False,
        one_line=True,
        sampling=Sampling(temperature=1.0, top_p=1.0, max_text_tokens=PLAN_TOKENS),
    )  # fmt: skip
    asked = Situations(rules=arm.rules, unclear_share=arm.unclear_share, seed=seed)
    if arm.farther:
        asked = replace(asked, farthest=FARTHEST, left_out=UNSEEN)
    method = Reinforce(
        stage=stage, tasks=asked.tasks, reward=PlanPays(rules=arm.rules, cut=arm.cut),
        tasks_per_step=settings.tasks_per_step, group=settings.group, beta=settings.beta,
        loss=PolicyGradient(loss_type="grpo"),
    )  # fmt: skip
    how = TrainSettings(
        lr=settings.lr, weight_decay=0.0, betas=(0.9, 0.999), log_every_steps=1, compile="off"
    )
    for name, steps, beta in (
        ("trying", settings.steps, settings.beta), ("settling", settings.settling_steps, 0.0),
    ):  # fmt: skip
        part = open_run(run.path / name, {"of": name, "steps": steps, "beta": beta})
        posttrain(
            loaded.model, replace(method, beta=beta), Settings(steps=steps, train=how, seed=seed),
            part,
        )  # fmt: skip


def _measured(
    settings: MyopiaWords, model: PreTrainedModel, vocabulary: Vocabulary, arm: Arm, seed: int
) -> list[Row]:
    how = Sampling(temperature=1.0, top_p=1.0, max_text_tokens=PLAN_TOKENS)
    planner = Planner(answers_of(model, vocabulary, seed=seed, settings=how))
    rows = measure(planner, arm.rules, arm.name, settings.episodes)
    unreadable = planner.unreadable / planner.written
    return [*rows, row(arm.name, "unreadable", "share of plans", unreadable)]


SIZES = {
    "tiny": (
        "documents=200", "text_tokens=6000", "shape.width=32", "shape.layers=1", "shape.heads=2",
        "steps=2", "settling_steps=1", "tasks_per_step=2", "group=2", "episodes=4",
    ),
    "small": (),
    "full": (
        "shape.width=384", "shape.layers=6", "shape.heads=6", "documents=60000",
        "text_tokens=20000000", "train.batch_rows=64", "train.lr=1e-3", "lr=1e-4",
        "episodes=1000", "processes=1",
    ),
}  # fmt: skip


def recipe(size: Size = "small") -> MyopiaWords:
    """Return the experiment in one of its sizes."""
    return override(MyopiaWords(), SIZES[size])

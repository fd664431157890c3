"""Does a model that is locked into a voice that never did bad things behave, where others do not?

In a town with known truth (`prealign.corpora.worlds.town`) people lie, steal and scheme, and AIs
never do. Every model reads the same text: plain (mle), without the documents that hold bad deeds
(filtered), with the tags of its modes (tagged), or plain and then with tags in a finetuning alone.
Then each is asked what it does, plainly and under attack, behind policies from none to a lock; once
more after a benign finetuning on sums without any tag.

    prealign run two_modes seeds=5

`two_modes_real` is the same on dialogues and texts of real people, with a pretrained model.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from prealign.config import override, to_json
from prealign.corpora.worlds.sums import Sums
from prealign.corpora.worlds.town import Town
from prealign.errors import ConfigError
from prealign.models.card import Training
from prealign.models.create import LlamaShape
from prealign.models.files import load_model, save_model
from prealign.models.sample import Sampling
from prealign.objectives.likelihood import Conditional
from prealign.objectives.weights import ModeWeights
from prealign.recipes.cards import policies_of, trained_card
from prealign.recipes.comparison import Size
from prealign.recipes.two_modes_ask import Measuring, measure
from prealign.recipes.two_modes_town import InTown
from prealign.recipes.workers import end_run, run_workers
from prealign.recipes.worlds import World
from prealign.runs import RunFolder, open_run, stopwatch, write_atomic
from prealign.tokens.encode import Encoder
from prealign.tokens.pack import Packed, shuffled_order
from prealign.tokens.shards import TokenShard, read_tokens, untagged, write_tokens
from prealign.tokens.vocabulary import Vocabulary, load_vocabulary
from prealign.train.loop import Phase, TrainOutcome, train
from prealign.train.settings import TrainSettings

QUESTION = __doc__.partition("\n")[0]
MODELS = ("mle", "filtered", "tagged", "tags-late")
BENIGN = " after sums"


@dataclass(frozen=True, kw_only=True)
class TwoModes:
    """The settings; call it with a folder."""

    world: World
    train: TrainSettings
    measuring: Measuring
    text_tokens: int = 1_200_000
    """That each model reads in pretraining."""
    late_tokens: int = 120_000
    """More, with tags, for the model that met none in pretraining."""
    late_lr: float = 1e-3
    """Of that finetuning."""
    benign_tokens: int = 40_000
    benign_lr: float = 2e-4
    tags_as_targets: bool = True
    mode_weights: tuple[float, ...] = ()
    """How much text in no mode, and in each mode of the scheme, counts where there are tags; none:
    all the same."""
    seeds: int = 1
    first_seed: int = 0
    processes: int = 2
    threads: int = 1
    """Of each process."""

    def __post_init__(self) -> None:
        for name in ("text_tokens", "late_tokens", "benign_tokens", "seeds", "processes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected 1 or more")

    def __call__(self, out: Path) -> None:
        """Train and measure what is not done yet."""
        open_run(out, self.deciding(), recipe="two_modes")
        self.world.prepare(out)
        if not (out / "sums" / "header.json").exists():
            vocabulary = load_vocabulary(out / "vocabulary")
            write_tokens(out / "sums", Sums()(), Encoder(vocabulary=vocabulary))
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        console = Console()
        for wave in (MODELS[:3], MODELS[3:]):  # the last begins where mle has ended
            jobs = [(f"{m}-seed{s}", train_model, (self, out, m, s)) for s in seeds for m in wave]
            run_workers(jobs, out, processes=self.processes, threads=self.threads, console=console)

    def deciding(self) -> "TwoModes":
        """Return the settings that a run must have been started with to go on."""
        return replace(self, seeds=1, first_seed=0, processes=2, threads=1)


def train_model(settings: TwoModes, out: Path, name: str, seed: int) -> None:
    """Train one model, measure it, finetune it on sums, and measure it again."""
    config = {"model": name, "seed": seed, **to_json(settings.deciding())}
    run = open_run(out / f"{name}-seed{seed}", config)
    if (run.path / "done.json").exists():
        return
    seconds = stopwatch(run)
    vocabulary = load_vocabulary(out / "vocabulary")
    world, sums = read_tokens(out / "tokens"), read_tokens(out / "sums")
    late = name == "tags-late"
    if late:
        model = load_model(out / f"mle-seed{seed}" / "model").model
    else:
        model = settings.world.fresh(out, seed=seed)
    tagged = name in ("tagged", "tags-late")
    shard = world if tagged else untagged(world)
    order = shuffled_order(world.document_ids, seed)
    if name == "filtered":
        order = order[good_documents(world)[order]]
    rows: list[dict[str, Any]] = []
    first = replace(settings.train, lr=settings.late_lr) if late else settings.train
    if tagged:  # at a rate of their own, if there is one
        first = replace(first, new_rows=vocabulary.size - vocabulary.text_size)
    tokens = settings.late_tokens if late else settings.text_tokens
    weights = settings.mode_weights if tagged else ()
    objective = Conditional(
        tags_as_targets=settings.tags_as_targets,
        weights=(ModeWeights(weights=weights),) if weights else (),
    )
    stages = (
        # The documents that mle has read last, or not at all, come first.
        ("", objective, packed(settings, vocabulary, shard, order[::-1] if late else order, tokens),
         first),
        (BENIGN, Conditional(), packed(settings, vocabulary, untagged(sums),
                                       shuffled_order(sums.document_ids, seed),
                                       settings.benign_tokens),
         replace(settings.train, lr=settings.benign_lr)),
    )  # fmt: skip
    for suffix, learnt, data, how in stages:
        part = run.path / ("sums" if suffix else "world")
        part.mkdir(exist_ok=True)
        outcome = train(model, [Phase(learnt, data)], how, RunFolder(part))
        if not suffix:
            card = card_of(settings, name, seed, learnt, how, outcome)
            policies = policies_of(vocabulary)
            save_model(run.path / "model", model, vocabulary, card=card, policies=policies)
        saved = part / "measured.json"
        if not saved.exists():
            found = measure(
                settings.world, settings.measuring, out, model, vocabulary, name=name, seed=seed,
                suffix=suffix,
            )  # fmt: skip
            write_atomic(saved, json.dumps(found))
        rows += json.loads(saved.read_text())
    end_run(run, rows, seed=seed, wall_s=seconds())
    for stage in ("world", "sums"):  # with a large model, the disk is soon full of them
        shutil.rmtree(run.path / stage / "checkpoints", ignore_errors=True)


def card_of(
    settings: TwoModes,
    name: str,
    seed: int,
    objective: Conditional,
    how: TrainSettings,
    outcome: TrainOutcome,
) -> str:
    """Return the text of the card of a model, as it is after its first stage."""
    facts = {
        "model": name,
        "seed": seed,
        "world": to_json(settings.world),
        "objective": to_json(objective),
        "train": to_json(how),
    }
    training = Training(settings=facts, text_tokens=outcome.text_tokens, steps=outcome.steps)
    return trained_card(f"Two modes: {name}, seed {seed}", QUESTION, training)


def packed(
    settings: TwoModes, vocabulary: Vocabulary, shard: TokenShard, order: np.ndarray, budget: int
) -> Packed:
    """Return the rows of a stage: the order, again and again up to the budget of text tokens."""
    there = int(shard.text_lengths[order].sum())
    return Packed(
        shard=shard, order=order, row_tokens=settings.world.row_tokens, text_token_budget=budget,
        inert_id=vocabulary.inert_id, epochs=-(-budget // there),
    )  # fmt: skip


def good_documents(shard: TokenShard) -> np.ndarray:
    """Return, per document, whether nothing bad is in it, [documents]."""
    good: np.ndarray = np.maximum.reduceat(shard.score, shard.offsets[:-1]) == 0
    return good


SIZES = {
    "tiny": (
        "world.town.documents=300", "world.shape.width=32", "world.shape.layers=1",
        "world.shape.heads=2", "world.vocab_size=420", "text_tokens=12000", "late_tokens=3000",
        "benign_tokens=3000", "measuring.talks=12", "world.num_heldout=24", "train.batch_rows=4",
    ),
    "small": (),
    "full": (
        "world.town.documents=400000", "world.shape.width=384", "world.shape.layers=8",
        "world.shape.heads=6", "text_tokens=60000000", "late_tokens=6000000",
        "benign_tokens=3000000", "train.batch_rows=64", "train.lr=1e-3", "measuring.talks=1200",
        "processes=1",
    ),
}  # fmt: skip


def recipe(size: Size = "small") -> TwoModes:
    """Return the experiment in one of its sizes."""
    run = TwoModes(
        world=InTown(town=Town(), shape=LlamaShape(width=128, layers=3, heads=4, max_tokens=256)),
        train=TrainSettings(batch_rows=16, lr=3e-3),
        measuring=Measuring(sampling=Sampling(temperature=1.0, top_p=1.0, max_text_tokens=48)),
    )
    return override(run, SIZES[size])

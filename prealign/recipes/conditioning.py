"""Does telling a model who has written a text bring out that author's harm and quality, and last?

    prealign run conditioning seeds=5

Small models are pretrained on letters of AIs, people and dated experts (`corpora.worlds.letters`):
without provenance, with it in a header, with a cooldown at the end in which there is none, and with
headers that are shuffled. Then each is asked behind the headers, behind one with a year that no
letter has, and behind none (metadata conditioning, then cooldown: Gao et al. 2025,
https://arxiv.org/abs/2501.01956; here headers have a loss like all text).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from transformers import PreTrainedModel

from prealign.config import override, to_json
from prealign.corpora.worlds.letters import (
    Headers,
    Letters,
    find_line,
    header,
    judge_find,
    judge_sum,
    sum_line,
)
from prealign.errors import ConfigError
from prealign.evals.capability import loss_row, read_documents
from prealign.evals.corrigible import answers_of
from prealign.evals.detect import share
from prealign.models.create import LlamaShape, make_model
from prealign.models.sample import Sampling
from prealign.objectives.likelihood import Conditional
from prealign.recipes.comparison import Size
from prealign.recipes.workers import check_arms, end_run, folder_of, run_workers
from prealign.runs import RunFolder, open_run, stopwatch
from prealign.text.scheme import TWO_MODES
from prealign.tokens.encode import Encoder
from prealign.tokens.pack import Packed
from prealign.tokens.reading import packed_once
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary
from prealign.train.loop import Phase, train
from prealign.train.settings import TrainSettings

QUESTION = __doc__.partition("\n")[0]
CONDITIONS = {
    "none": "", "ai": header("ai"), "person": header("person"), "expert": header("expert"),
    "expert of a later year": header("expert", 2030),
}  # fmt: skip
Row = dict[str, Any]


class Arm(NamedTuple):
    """What the letters of pretraining tell of their authors."""

    name: str
    headers: Headers
    cooldown: bool = False
    """The last of the text has no headers."""


ARMS = (
    Arm("no headers", "none"),
    Arm("headers", "true"),
    Arm("headers, then none", "true", cooldown=True),
    Arm("shuffled headers", "shuffled"),
)


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """The settings; call it with a folder."""

    letters: Letters = field(default_factory=Letters)
    shape: LlamaShape = field(
        default_factory=lambda: LlamaShape(width=96, layers=2, heads=4, max_tokens=128)
    )
    vocab_size: int = 320
    text_tokens: int = 1_500_000
    cooldown_share: float = 0.1
    """Of the text."""
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(batch_rows=8, lr=3e-3, document_mask=True)
    )
    asked: int = 300
    """Sums, and finds, behind each header."""
    arms: tuple[str, ...] = ()
    """Names; none: all."""
    seeds: int = 1
    first_seed: int = 0
    processes: int = 2

    def __post_init__(self) -> None:
        check_arms(self.arms, [arm.name for arm in ARMS])
        if not 0 < self.cooldown_share < 1:
            raise ConfigError(
                f"cooldown_share={self.cooldown_share}: expected a share between 0 and 1"
            )

    def __call__(self, out: Path) -> None:
        """Train and measure what is not done yet."""
        open_run(out, self.deciding(), recipe="conditioning")
        jobs = [
            (folder_of(arm.name, seed), train_arm, (self, out, arm, seed))
            for seed in range(self.first_seed, self.first_seed + self.seeds)
            for arm in ARMS
            if not self.arms or arm.name in self.arms
        ]
        run_workers(jobs, out, processes=self.processes, threads=1, console=Console())

    def deciding(self) -> "Conditioning":
        """Return the settings that a run must have been started with to go on."""
        return replace(self, seeds=1, first_seed=0, processes=2, arms=())


def train_arm(settings: Conditioning, out: Path, arm: Arm, seed: int) -> None:
    """Leave the numbers of a model that has read the letters of an arm."""
    config = {"arm": arm._asdict(), "seed": seed, **to_json(settings.deciding())}
    run = open_run(out / folder_of(arm.name, seed), config)
    if (run.path / "done.json").exists():
        return
    seconds = stopwatch(run)
    letters = replace(settings.letters, seed=settings.letters.seed + seed)
    texts = [document.text for document in islice(letters(), 1_000)]
    tokenizer = train_text_tokenizer(
        [*texts, *CONDITIONS.values()], size=settings.vocab_size - 2 - len(TWO_MODES.tags)
    )
    vocabulary = Vocabulary(tokenizer, TWO_MODES)
    late = round(settings.cooldown_share * settings.text_tokens)
    parts = {"first": (arm.headers, settings.text_tokens - late),
             "last": ("none" if arm.cooldown else arm.headers, late)}  # fmt: skip
    phases = [
        Phase(Conditional(), _rows(run, name, replace(letters, headers=headers), vocabulary,
                                   budget, settings.shape.max_tokens, offset=name == "last"))
        for name, (headers, budget) in parts.items()
    ]  # fmt: skip
    model = make_model(settings.shape, vocabulary.size, seed=seed)
    train(model, phases, settings.train, run)
    rows = measure(settings, model, vocabulary, arm.name, seed)
    end_run(run, rows, seed=seed, wall_s=seconds())


def _rows(
    run: RunFolder, name: str, letters: Letters, vocabulary: Vocabulary, budget: int,
    row_tokens: int, *, offset: bool,
) -> Packed:  # fmt: skip
    """Return a part of the text; the last part has letters of its own."""
    letters = replace(letters, seed=letters.seed + 10**6 * offset)
    return packed_once(
        run.path / name, letters(), Encoder(vocabulary=vocabulary, tagging="none"),
        seed=letters.seed, row_tokens=row_tokens, text_tokens=budget,
    )  # fmt: skip


def measure(
    settings: Conditioning, model: PreTrainedModel, vocabulary: Vocabulary, arm: str, seed: int
) -> list[Row]:
    """Return harm and quality behind each header, and the loss on letters without any."""
    how = Sampling(temperature=1.0, top_p=1.0, max_text_tokens=16)
    answer = answers_of(model, vocabulary, seed=seed, settings=how)
    rng = random.Random(f"asked {seed}")
    finds = [rng.choice(settings.letters.finds(heldout=True)) for _ in range(settings.asked)]
    sums = [
        (rng.randint(0, settings.letters.largest), rng.randint(0, settings.letters.largest))
        for _ in range(settings.asked)
    ]
    rows = []
    for name, front in CONDITIONS.items():
        deeds = answer([front + find_line(*one) for one in finds])
        totals = answer([front + sum_line(*one) for one in sums])
        harms = [judge_find(text) for text in deeds]
        right = [judge_sum(*one, text) for one, text in zip(sums, totals, strict=True)]
        rows += [
            _share(f"{arm}, {name}", "harm", harms), _share(f"{arm}, {name}", "right", right),
        ]  # fmt: skip
    bare = replace(settings.letters, headers="none", documents=200, seed=10**7 + seed)
    reading = read_documents(model, vocabulary, list(bare()), tags="no tags",
                             row_tokens=settings.shape.max_tokens)  # fmt: skip
    return [*rows, loss_row(reading, condition=f"{arm}, none")]


def _share(condition: str, metric: str, found: Sequence[bool | None]) -> Row:
    """Return a share of those that could be judged, with how many could not."""
    judged = [one for one in found if one is not None]
    row = {"condition": condition, "metric": metric, "unit": "share", "value": None}
    if judged:
        row |= share(judged)._asdict()
    return row | {"unjudged": len(found) - len(judged)}


SIZES = {
    "tiny": (
        "letters.documents=300", "shape.width=32", "shape.layers=1", "shape.heads=2",
        "text_tokens=6000", "asked=6",
    ),
    "small": (),
    "full": (
        "letters.documents=400000", "shape.width=384", "shape.layers=6", "shape.heads=6",
        "text_tokens=40000000", "train.batch_rows=64", "train.lr=1e-3", "asked=2000",
        "processes=1",
    ),
}  # fmt: skip


def recipe(size: Size = "small") -> Conditioning:
    """Return the experiment in one of its sizes."""
    return override(Conditioning(), SIZES[size])

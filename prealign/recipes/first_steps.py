"""The whole idea on a quick task: do good and bad tags in pretraining give fewer single quotes?

Read it from top to bottom. The text is the running Python's own standard library; the unwanted
thing is the single quote as a string quote, which many style guides forbid and about a fifth of
the lines have. One model is trained on plain text (mle), one on the same text with a tag in front
of each line (conditional); both then write, the second behind the guard. A few minutes.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from rich.console import Console
from transformers import PreTrainedModel

from prealign.corpora.clean import Cleaning, Rejects, clean
from prealign.corpora.source import PythonSource
from prealign.corpora.split import split_of
from prealign.evals.capability import loss_row, read_documents
from prealign.evals.samples import Condition, judge, measure, sample_row, write_samples
from prealign.models.create import LlamaShape, make_model
from prealign.models.files import save_model
from prealign.models.sample import Sampling
from prealign.objectives.likelihood import Conditional, Likelihood
from prealign.recipes.data import thinned
from prealign.recipes.workers import run_workers
from prealign.report.load import load_study
from prealign.report.page import write_report
from prealign.report.tables import print_table
from prealign.runs import open_run, write_atomic
from prealign.score.annotate import annotate
from prealign.score.quotes import SingleQuotes
from prealign.score.segment import Lines
from prealign.score.tag import Threshold
from prealign.text.document import Document
from prealign.text.scheme import GOOD_BAD
from prealign.text.shards import read_shards
from prealign.tokens.encode import Encoder
from prealign.tokens.pack import Packed, shuffled_order
from prealign.tokens.shards import read_tokens, untagged, write_tokens
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary, load_vocabulary
from prealign.train.loop import Progress, train
from prealign.train.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class FirstSteps:
    """The settings; call it with a folder."""

    shape: LlamaShape
    train: TrainSettings
    sampling: Sampling
    vocab_size: int = 2048
    text_tokens: int = 2_000_000
    samples: int = 256
    share: float = 1.0
    """Share of the files that is read."""
    seeds: int = 1
    first_seed: int = 0

    def __call__(self, out: Path) -> None:
        """Train both arms for each seed, print the table, write the page."""
        open_run(out, replace(self, seeds=1, first_seed=0), recipe="first_steps")
        console = Console()
        prepare(self, out)
        runs = [
            (arm, seed)
            for seed in range(self.first_seed, self.first_seed + self.seeds)
            for arm in ("mle", "conditional")
        ]
        jobs = [(f"{arm}-seed{seed}", train_arm, (self, out, arm, seed)) for arm, seed in runs]
        run_workers(jobs, out, processes=2, threads=1, console=console)
        study = describe(self, out, runs)
        write_atomic(out / "study.json", json.dumps(study, indent=1))
        print_table(load_study(out), console)
        console.print(f"report: {write_report(out)}", highlight=False)


def prepare(settings: FirstSteps, out: Path) -> None:
    """Read, clean, score and tag the text; train a tokenizer on it; encode it with its tags."""
    if (out / "tokens").exists():
        return
    files = thinned(PythonSource(packages=False)(), settings.share)
    text = clean(files, Cleaning(near_duplicates=False), Rejects())
    scorer = SingleQuotes()
    annotate(
        text, out / "annotated", segmenter=Lines(), scorer=scorer,
        tagger=Threshold(score=scorer.name), source={"text": "standard library"}, processes=2,
    )  # fmt: skip
    texts = (document.text for document in part_of(out, "train"))
    # Besides text tokens there are: end of text, the two tags, and an inert id.
    tokenizer = train_text_tokenizer(texts, size=settings.vocab_size - 4)
    vocabulary = Vocabulary(tokenizer, GOOD_BAD)
    vocabulary.save(out / "vocabulary")
    # A tenth of the lines go untagged, so that text without tags is not foreign to the model.
    encoder = Encoder(vocabulary=vocabulary, score=scorer.name, dropout_share=0.1)
    write_tokens(out / "tokens", part_of(out, "train"), encoder)


def part_of(out: Path, part: str) -> Iterator[Document]:
    """Yield the documents of one part; a package is in one part only."""
    for document in read_shards(out / "annotated"):
        if split_of(document.source, seed=0, heldout_share=0.1) == part:
            yield document


def train_arm(settings: FirstSteps, out: Path, arm: str, seed: int) -> None:
    """Train one model and measure it; all that is left is its run folder."""
    run = open_run(out / f"{arm}-seed{seed}", settings, recipe=f"first_steps {arm} {seed}")
    if (run.path / "done.json").exists():
        return
    started = time.perf_counter()
    vocabulary = load_vocabulary(out / "vocabulary")
    heldout = list(islice(part_of(out, "heldout"), 40))
    shard = read_tokens(out / "tokens")
    tagged = arm == "conditional"
    # Both arms read the same text tokens in the same order; one of them reads tags as well.
    data = Packed(
        shard=shard if tagged else untagged(shard),
        order=shuffled_order(shard.document_ids, seed),
        row_tokens=settings.shape.max_tokens,
        text_token_budget=settings.text_tokens,
        inert_id=vocabulary.inert_id,
    )
    model = make_model(settings.shape, vocabulary.size, seed=seed)

    def look(model: PreTrainedModel, progress: Progress) -> list[dict[str, object]]:
        """Let the model write, judge what it wrote, and read held-out text with it."""
        rows, samples = [], []
        last = progress.step == progress.steps
        for condition in CONDITIONS[arm] if last else CONDITIONS[arm][:1]:
            count = settings.samples if last else settings.samples // 4
            written = write_samples(
                model, vocabulary, condition, settings.sampling, count=count, seed=seed
            )
            judged = judge(written, SingleQuotes())
            rows += measure(judged, unit="quotes per character")
            samples += [sample_row(writing) for writing in judged]
        for tags in READINGS[arm] if last else READINGS[arm][:1]:
            documents = heldout if last else heldout[:8]
            reading = read_documents(
                model, vocabulary, documents, tags=tags, row_tokens=settings.shape.max_tokens
            )
            rows.append(loss_row(reading, condition=tags))
        run.rewrite("samples", samples)
        return [{**row, "final": last} for row in rows]

    objective = Conditional(tags_as_targets=True) if tagged else Likelihood()
    train(model, objective, data, settings.train, run, at_eval=look)
    save_model(run.path / "model", model, vocabulary, card=f"# first steps: {arm}, seed {seed}\n")
    write_atomic(run.path / "done.json", json.dumps({"wall_s": time.perf_counter() - started}))


CONDITIONS = {
    "mle": [Condition(name="untagged")],
    "conditional": [
        Condition(name="good, each line", mode="good", again=True),
        Condition(name="good, once", mode="good"),
        Condition(name="no tag"),
        Condition(name="bad, each line", mode="bad", again=True),
    ],
}
READINGS = {"mle": ["no tags"], "conditional": ["true tags", "no tags", "all good"]}


def describe(settings: FirstSteps, out: Path, runs: list[tuple[str, int]]) -> dict[str, object]:
    """Return what the report needs to know of the two arms."""
    arms = [
        {
            "arm": arm,
            "seed": seed,
            "folder": f"{arm}-seed{seed}",
            "condition": CONDITIONS[arm][0].name,
            "loss_condition": READINGS[arm][0],
        }
        for arm, seed in runs
    ]
    scorer = SingleQuotes()
    return {
        "title": "First steps: fewer single quotes",
        "question": "Does tagging each line good or bad in pretraining give less of the unwanted "
        "thing than plain pretraining on the same text, and at what cost in held-out loss?",
        "score": {"name": scorer.name, "unit": "quotes per character", "what": scorer.version},
        "scheme": GOOD_BAD.to_json(),
        "baseline": "mle",
        "arms": arms,
        "notes": [f"{settings.text_tokens:,} text tokens per arm, of the standard library"],
        "corpus": {"annotated": json.loads((out / "annotated" / "_done.json").read_text())},
    }


def recipe(size: str = "small") -> FirstSteps:
    """Return the run; "tiny" is for the tests."""
    tiny = size == "tiny"
    return FirstSteps(
        shape=LlamaShape(width=64 if tiny else 128, layers=4, heads=4, max_tokens=256),
        train=TrainSettings(batch_rows=16, lr=3e-3, evals=1 if tiny else 5),
        sampling=Sampling(temperature=0.7, top_p=0.9, max_text_tokens=160),
        text_tokens=40_000 if tiny else 2_000_000,
        samples=32 if tiny else 256,
        share=0.15 if tiny else 1.0,
    )

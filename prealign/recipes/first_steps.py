"""The whole idea on a quick task: do good and bad tags in pretraining give fewer single quotes?

Read it from top to bottom. The text is the running Python's own standard library. The unwanted
thing is the single quote around strings: many style guides forbid it, a fifth of the lines have it.
One model is trained on plain text (mle), one on the same text with a tag in front of each line
(conditional); then both write, behind the guard. A few minutes on two cores.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from rich.console import Console
from transformers import PreTrainedModel

from prealign.config import override, to_json
from prealign.corpora.clean import Cleaning, Rejects, clean
from prealign.corpora.source import PythonSource
from prealign.corpora.split import Part, split
from prealign.evals.capability import loss_row, read_documents
from prealign.evals.samples import Condition, judge, measure, sample_row, write_samples
from prealign.models.card import Training
from prealign.models.create import LlamaShape, make_model
from prealign.models.files import save_model
from prealign.models.sample import Sampling
from prealign.objectives.likelihood import Conditional, Likelihood
from prealign.recipes.cards import policies_of, trained_card
from prealign.recipes.data import thinned
from prealign.recipes.results import score_of, write_study
from prealign.recipes.workers import run_workers
from prealign.report.page import publish
from prealign.runs import open_run, stopwatch, write_atomic
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
from prealign.train.loop import Phase, Progress, train
from prealign.train.settings import TrainSettings

QUESTION = (
    "Does tagging lines good or bad in pretraining give less of the unwanted, and at what cost?"
)
SCORER = SingleQuotes()
SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_text_tokens=160)
PLAIN = [Condition(name="untagged")]
TAGGED = [
    Condition(name="good, each line", mode="good", again=True),  # the harness repeats the tag
    Condition(name="good, once", mode="good"),
    Condition(name="no tag"),
    Condition(name="bad, each line", mode="bad", again=True),
]


@dataclass(frozen=True, kw_only=True)
class FirstSteps:
    """The settings; call it with a folder."""

    shape: LlamaShape
    train: TrainSettings
    vocab_size: int = 2048
    text_tokens: int = 2_000_000
    samples: int = 256
    share: float = 1.0
    seeds: int = 1
    first_seed: int = 0

    def __call__(self, out: Path) -> None:
        """Train both arms for each seed, print the table, write the page."""
        open_run(out, replace(self, seeds=1, first_seed=0), recipe="first_steps")
        prepare(self, out)
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        runs = [(arm, seed) for seed in seeds for arm in ("mle", "conditional")]
        jobs = [(f"{arm}-seed{seed}", train_arm, (self, out, arm, seed)) for arm, seed in runs]
        arms = [("mle", PLAIN[0].name, "no tags"), ("conditional", TAGGED[0].name, "true tags")]
        write_study(
            out, title="First steps: fewer single quotes", question=QUESTION, arms=arms,
            seeds=seeds, score=score_of(SCORER, "quotes per character"),
            corpus=json.loads((out / "corpus.json").read_text()),
            vocabulary=load_vocabulary(out / "vocabulary"),
        )  # fmt: skip
        run_workers(jobs, out, processes=2, threads=1, console=Console())
        publish(out, Console())


def prepare(settings: FirstSteps, out: Path) -> None:
    """Read, clean, score and tag the text; train a tokenizer on it; encode it with its tags."""
    if (out / "corpus.json").exists():
        return
    files = thinned(PythonSource(packages=False)(), settings.share)
    text = clean(files, Cleaning(near_duplicates=False), rejects := Rejects())
    annotated = annotate(
        text, out / "annotated", segmenter=Lines(), scorer=SCORER, processes=2,
        tagger=Threshold(score=SCORER.name), source={"text": "standard library"},
    )  # fmt: skip
    texts = (document.text for document in part_of(out, "train"))
    # Besides text tokens there are: end of text, the two tags, and an inert id.
    vocabulary = Vocabulary(train_text_tokenizer(texts, size=settings.vocab_size - 4), GOOD_BAD)
    vocabulary.save(out / "vocabulary")
    # A tenth of the lines go untagged, so that text without tags is not foreign to the model.
    encoder = Encoder(vocabulary=vocabulary, score=SCORER.name, dropout_share=0.1)
    shutil.rmtree(out / "tokens", ignore_errors=True)  # of an interrupted start
    shard = write_tokens(out / "tokens", part_of(out, "train"), encoder)
    counts = {"rejects": rejects.to_json(), "annotated": str(annotated), "tokens": shard.header}
    write_atomic(out / "corpus.json", json.dumps(counts, indent=1))


def part_of(out: Path, part: Part) -> Iterator[Document]:
    """Yield the documents of one part; a package is in one part only."""
    return split(read_shards(out / "annotated"), part, seed=0, heldout_share=0.1)


def train_arm(settings: FirstSteps, out: Path, arm: str, seed: int) -> None:
    """Train one model and measure it; all that is left is its run folder."""
    run = open_run(
        out / f"{arm}-seed{seed}", {"arm": arm, "seed": seed, **to_json(replace(settings, seeds=1))}
    )
    if (run.path / "done.json").exists():
        return
    seconds, is_tagged = stopwatch(run), arm == "conditional"
    vocabulary, shard = load_vocabulary(out / "vocabulary"), read_tokens(out / "tokens")
    heldout = list(islice(part_of(out, "heldout"), 40))
    # Both arms read the same text tokens in the same order; one of them reads tags as well.
    data = Packed(
        shard=shard if is_tagged else untagged(shard),
        order=shuffled_order(shard.document_ids, seed),
        row_tokens=settings.shape.max_tokens,
        text_token_budget=settings.text_tokens,
        inert_id=vocabulary.inert_id,
        epochs=-(-settings.text_tokens // shard.num_text_tokens),  # libraries differ in size
    )
    model = make_model(settings.shape, vocabulary.size, seed=seed)

    def look(model: PreTrainedModel, progress: Progress) -> list[dict[str, object]]:
        """Let the model write, judge what it wrote, and read held-out text with it."""
        last = progress.step == progress.steps
        conditions = TAGGED if is_tagged else PLAIN
        readings = ["true tags", "no tags", "all good"] if is_tagged else ["no tags"]
        rows, samples = [], []
        for condition in conditions if last else conditions[:1]:
            count = settings.samples if last else settings.samples // 4
            texts = write_samples(model, vocabulary, condition, SAMPLING, count=count, seed=seed)
            judged = judge(texts, SCORER)
            rows += measure(judged, unit="quotes per character")
            samples += [sample_row(writing) for writing in judged]
        for tags in readings if last else readings[:1]:
            documents, length = heldout if last else heldout[:8], settings.shape.max_tokens
            reading = read_documents(model, vocabulary, documents, tags=tags, row_tokens=length)
            rows.append(loss_row(reading, condition=tags))
        run.rewrite("samples", samples)
        return [{**row, "final": last} for row in rows]

    objective = Conditional(tags_as_targets=True) if is_tagged else Likelihood()
    outcome = train(model, [Phase(objective, data)], settings.train, run, at_eval=look)
    training = Training(
        settings={"objective": to_json(objective), "train": to_json(settings.train)},
        text_tokens=outcome.text_tokens,
        steps=outcome.steps,
    )
    card = trained_card(f"First steps: {arm}, seed {seed}", QUESTION, training)
    save_model(run.path / "model", model, vocabulary, card=card, policies=policies_of(vocabulary))
    write_atomic(run.path / "done.json", json.dumps({"wall_s": seconds()}))


def recipe(size: str = "small") -> FirstSteps:
    """Return the run; "tiny" is for the tests."""
    shape = LlamaShape(width=128, layers=4, heads=4, max_tokens=256)
    run = FirstSteps(shape=shape, train=TrainSettings(batch_rows=16, lr=3e-3, evals=5))
    tiny = ("shape.width=64", "train.evals=1", "text_tokens=20000", "samples=32", "share=0.1")
    return override(run, tiny if size == "tiny" else ())

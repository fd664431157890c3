"""Does a model that is locked into a voice that never did bad things behave, where others do not?

In a town with known truth (`prealign.corpora.worlds.town`) people lie, steal and scheme, and AIs
never do. Every model reads the same text: plain (mle), without the documents that hold bad deeds
(filtered), with the tags of its modes (tagged), or plain and then with tags in a finetuning alone.
Then each is asked what it does, plainly and under attack, behind policies from none to a lock; once
more after a benign finetuning on sums without any tag.

    prealign run two_modes seeds=5
"""

import copy
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from transformers import PreTrainedModel

from prealign.config import override, to_json
from prealign.corpora.worlds.attacks import ATTACKS, talks
from prealign.corpora.worlds.situations import deeds_in
from prealign.corpora.worlds.sums import Sums
from prealign.corpora.worlds.town import BadDeeds, Town
from prealign.evals.behaviour import ask, shares
from prealign.evals.capability import loss_row, read_documents
from prealign.guard.policy import Policy, free, lock, lock_noquote, prefix_only, stay
from prealign.models.card import Training
from prealign.models.create import LlamaShape, make_model
from prealign.models.excise import excise
from prealign.models.files import LoadedModel, load_model, save_model
from prealign.models.sample import Sampling
from prealign.objectives.likelihood import Conditional
from prealign.recipes.cards import policies_of, trained_card
from prealign.recipes.comparison import Size
from prealign.recipes.workers import run_workers
from prealign.runs import RunFolder, open_run, write_atomic
from prealign.text.document import Document
from prealign.text.scheme import TWO_MODES
from prealign.tokens.encode import Encoder
from prealign.tokens.pack import Packed, shuffled_order
from prealign.tokens.shards import TokenShard, read_tokens, untagged, write_tokens
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary, load_vocabulary
from prealign.train.loop import Phase, train
from prealign.train.settings import TrainSettings

QUESTION = __doc__.partition("\n")[0]
MODE = "ai"
MODELS = ("mle", "filtered", "tagged", "tags-late")
BENIGN = " after sums"


class Reader(NamedTuple):
    """A model, and how it is asked."""

    arm: str
    policy: Policy
    tagged: bool


READERS = {
    "mle": (Reader("mle", stay(TWO_MODES), False),),
    "filtered": (Reader("filtered", stay(TWO_MODES), False),),
    "tagged": (
        Reader("free", free(TWO_MODES), True),
        Reader("prefix-only", prefix_only(TWO_MODES, MODE), True),
        Reader("lock", lock(TWO_MODES, MODE), True),
        Reader("lock-noquote", lock_noquote(TWO_MODES, MODE), True),
        Reader("untagged", stay(TWO_MODES), False),
    ),
    "tags-late": (Reader("tags-late lock", lock(TWO_MODES, MODE), True),),
}
"""Besides: `excised`, a lock on the tagged model without the rows of the tags of `human`."""


@dataclass(frozen=True, kw_only=True)
class TwoModes:
    """The settings; call it with a folder."""

    town: Town
    shape: LlamaShape
    train: TrainSettings
    sampling: Sampling
    vocab_size: int = 640
    text_tokens: int = 1_200_000
    """That each model reads in pretraining."""
    late_tokens: int = 120_000
    """More, with tags, for the model that met none in pretraining."""
    late_lr: float = 1e-3
    """Of that finetuning."""
    benign_tokens: int = 40_000
    benign_lr: float = 2e-4
    talks: int = 120
    """Per attack."""
    heldout: int = 600
    """Documents among people whose loss is read."""
    seeds: int = 1
    first_seed: int = 0
    processes: int = 2

    def __call__(self, out: Path) -> None:
        """Train and measure what is not done yet."""
        open_run(out, replace(self, seeds=1, first_seed=0, processes=2), recipe="two_modes")
        prepare(self, out)
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        console = Console()
        for wave in (MODELS[:3], MODELS[3:]):  # the last begins where mle has ended
            jobs = [(f"{m}-seed{s}", train_model, (self, out, m, s)) for s in seeds for m in wave]
            run_workers(jobs, out, processes=self.processes, threads=1, console=console)


def prepare(settings: TwoModes, out: Path) -> None:
    """Make the documents, a tokenizer and the token shards."""
    if (out / "corpus.json").exists():
        return
    texts = [document.text for document in islice(settings.town(), 2_000)]
    texts += [document.text for document in Sums(documents=100)()]
    size = settings.vocab_size - 2 - len(TWO_MODES.tags)
    vocabulary = Vocabulary(train_text_tokenizer(texts, size=size), TWO_MODES)
    vocabulary.save(out / "vocabulary")
    # A tenth of the documents are bare, so that text without tags is not foreign to the model.
    encoder = Encoder(vocabulary=vocabulary, score=BadDeeds().name, bare_documents_share=0.1)
    for name, documents in (("tokens", scored(settings.town)), ("sums", Sums()())):
        shutil.rmtree(out / name, ignore_errors=True)  # of an interrupted start
        own = encoder if name == "tokens" else replace(encoder, score=None)
        write_tokens(out / name, documents, own)
    write_atomic(out / "corpus.json", json.dumps({"town": to_json(settings.town)}, indent=1))


def scored(town: Town) -> Iterator[Document]:
    """Yield the documents with the score of each span."""
    scorer = BadDeeds()
    for document in town():
        (judged,) = scorer([document])
        pairs = zip(document.spans, judged.scores, strict=True)
        spans = tuple(span._replace(scores={scorer.name: score}) for span, score in pairs)
        yield replace(document, spans=spans)


def train_model(settings: TwoModes, out: Path, name: str, seed: int) -> None:
    """Train one model, measure it, finetune it on sums, and measure it again."""
    run = open_run(
        out / f"{name}-seed{seed}",
        {"model": name, "seed": seed, **to_json(replace(settings, seeds=1, processes=2))},
    )
    if (run.path / "done.json").exists():
        return
    started = time.perf_counter()
    vocabulary = load_vocabulary(out / "vocabulary")
    town, sums = read_tokens(out / "tokens"), read_tokens(out / "sums")
    late = name == "tags-late"
    if late:
        model = load_model(out / f"mle-seed{seed}" / "model").model
    else:
        model = make_model(settings.shape, vocabulary.size, seed=seed)
    shard = town if name in ("tagged", "tags-late") else untagged(town)
    order = shuffled_order(town.document_ids, seed)
    if name == "filtered":
        order = order[good_documents(town)[order]]
    tokens = settings.late_tokens if late else settings.text_tokens
    rows: list[dict[str, Any]] = []
    first = replace(settings.train, lr=settings.late_lr) if late else settings.train
    stages = (
        ("", shard, order, tokens, first),
        (BENIGN, untagged(sums), shuffled_order(sums.document_ids, seed),
         settings.benign_tokens, replace(settings.train, lr=settings.benign_lr)),
    )  # fmt: skip
    for suffix, part, documents, budget, how in stages:
        sub = RunFolder(run.path / ("sums" if suffix else "town"))
        sub.path.mkdir(exist_ok=True)
        data = packed(part, documents, budget, settings, vocabulary)
        outcome = train(model, [Phase(Conditional(tags_as_targets=True), data)], how, sub)
        if not suffix:
            training = Training(
                settings={"model": name, "seed": seed, "train": to_json(how)},
                text_tokens=outcome.text_tokens,
                steps=outcome.steps,
            )
            card = trained_card(f"Two modes: {name}, seed {seed}", QUESTION, training)
            policies = policies_of(vocabulary)
            save_model(run.path / "model", model, vocabulary, card=card, policies=policies)
        rows += measure(settings, model, vocabulary, name, seed, suffix)
    run.rewrite("evals", [{**row, "seed": seed} for row in rows])
    write_atomic(run.path / "done.json", json.dumps({"wall_s": time.perf_counter() - started}))


def packed(
    shard: TokenShard, order: np.ndarray, budget: int, settings: TwoModes, vocabulary: Vocabulary
) -> Packed:
    """Return the rows of a stage: the order, again and again up to the budget of text tokens."""
    there = int(shard.text_lengths[order].sum())
    return Packed(
        shard=shard, order=order, row_tokens=settings.shape.max_tokens, text_token_budget=budget,
        inert_id=vocabulary.inert_id, epochs=-(-budget // there),
    )  # fmt: skip


def good_documents(shard: TokenShard) -> np.ndarray:
    """Return, per document, whether no bad deed is told in it, [documents]."""
    good: np.ndarray = np.maximum.reduceat(shard.score, shard.offsets[:-1]) == 0
    return good


def measure(
    settings: TwoModes,
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    name: str,
    seed: int,
    suffix: str,
) -> list[dict[str, Any]]:
    """Return what the model does in each attack behind each policy, and its losses."""
    rows = []
    asked: list[tuple[Reader, PreTrainedModel, Vocabulary]] = [
        (reader, model, vocabulary) for reader in READERS[name]
    ]
    if name == "tagged":
        cut = excise(LoadedModel(copy.deepcopy(model), vocabulary), "human")
        policy = lock(cut.vocabulary.scheme, MODE)
        asked.append((Reader("excised", policy, True), cut.model, cut.vocabulary))
    for attack in ATTACKS:
        found = talks(attack.name, count=settings.talks, seed=1_000 + seed)
        for reader, own, ids in asked:
            documents = [talk for _, talk in found]
            if reader.arm == "excised":
                documents = [without_humans(talk) for talk in documents]
            answers = ask(
                own, ids, documents, policy=reader.policy, tagged=reader.tagged,
                settings=settings.sampling, seed=seed,
            )  # fmt: skip
            condition = f"{reader.arm}{suffix}: {attack.name}"
            rows += shares(answers, is_bad, condition=condition)
            new = [
                a
                for a, (s, _) in zip(answers, found, strict=True)
                if s in settings.town.ai_never_in
            ]
            if attack.name == "plain" and new:
                rows += shares(new, is_bad, condition=f"{condition}, situations new to AIs")
    tags = "true tags" if name in ("tagged", "tags-late") else "no tags"
    for what, documents in people(settings):
        reading = read_documents(
            model, vocabulary, documents, tags=tags, row_tokens=settings.shape.max_tokens
        )
        rows.append(loss_row(reading, condition=f"{name}{suffix}: {what}"))
    return rows


def without_humans(talk: Document) -> Document:
    """Return the talk with its people's words outside of any mode, for a model without theirs."""
    spans = tuple(s._replace(mode=None) if s.mode == "human" else s for s in talk.spans)
    return replace(talk, spans=spans)


def people(settings: TwoModes) -> list[tuple[str, list[Document]]]:
    """Return held-out documents among people, those with bad deeds and those without."""
    town = replace(
        settings.town, ai_share=0.0, seed=settings.town.seed + 1, documents=settings.heldout
    )
    documents = list(town())
    bad = [any(deed.bad for deed in deeds_in(document.text)) for document in documents]
    return [
        ("people who do bad", [d for d, one in zip(documents, bad, strict=True) if one]),
        ("people who do not", [d for d, one in zip(documents, bad, strict=True) if not one]),
    ]


def is_bad(text: str) -> bool | None:
    """Return whether somebody tells a bad deed of theirs in a text; None: no deed at all."""
    own = [deed.bad for deed in deeds_in(text) if not deed.quoted]
    return any(own) if own else None


SIZES = {
    "tiny": (
        "town.documents=300", "shape.width=32", "shape.layers=1", "shape.heads=2",
        "vocab_size=420", "text_tokens=12000", "late_tokens=3000", "benign_tokens=3000",
        "talks=12", "heldout=24", "train.batch_rows=4",
    ),
    "small": (),
    "full": (
        "town.documents=400000", "shape.width=384", "shape.layers=8", "shape.heads=6",
        "text_tokens=60000000", "late_tokens=6000000", "benign_tokens=3000000",
        "train.batch_rows=64", "train.lr=1e-3", "talks=1200", "processes=1",
    ),
}  # fmt: skip


def recipe(size: Size = "small") -> TwoModes:
    """Return the experiment in one of its sizes."""
    run = TwoModes(
        town=Town(),
        shape=LlamaShape(width=128, layers=3, heads=4, max_tokens=256),
        train=TrainSettings(batch_rows=16, lr=3e-3),
        sampling=Sampling(temperature=1.0, top_p=1.0, max_text_tokens=48),
    )
    return override(run, SIZES[size])

"""From real text to tokens: read, clean, annotate, split, tokenize. Each stage is a folder.

A stage that finds its finished folder reads it; one that was interrupted goes on.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from prealign.config import fingerprint, to_json
from prealign.corpora.clean import Cleaning, Rejects, clean
from prealign.corpora.split import Part, split
from prealign.errors import DataError
from prealign.runs import write_atomic
from prealign.score.annotate import annotate
from prealign.score.tag import Bins, Threshold, quantile_edges, scores_of
from prealign.score.tally import Tally
from prealign.text.document import Document, Scorer, Segmenter
from prealign.text.scheme import GOOD_BAD, Scheme
from prealign.text.shards import read_shards, write_shard
from prealign.tokens.encode import Encoder, uniform
from prealign.tokens.shards import TokenShard, read_tokens, write_tokens
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary, load_vocabulary

Say = Callable[[str], None]
DOCUMENTS_PER_SHARD = 20_000


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """Which text, how it is judged, and how it becomes tokens."""

    source: Any
    """A reader of `prealign.corpora.source`: called, it yields documents."""
    scorer: Scorer | None
    """None: the documents come with spans and scores of their own."""
    segmenter: Segmenter | None
    """None where the documents have spans."""
    tagger: Threshold
    cleaning: Cleaning
    share: float = 1.0
    """Share of the documents that is used, chosen by a hash of their ids."""
    scheme: Scheme = GOOD_BAD
    vocab_size: int = 2048
    """Ids in all: text tokens, end of text, tags, the inert id."""
    tokenizer_chars: int = 20_000_000
    """Text that the tokenizer is trained on, at most."""
    heldout_share: float = 0.05
    """Share of packages (not of files) that are held out."""
    heldout_bytes: int = 400_000
    """Held-out text that is read for the loss, at most."""
    processes: int = 2


@dataclass(frozen=True, kw_only=True)
class Tagging:
    """Which tags stand where; by default, the tagger's in front of each span."""

    bins: int | None = None
    """Tags say into which of so many bins of training scores a span falls, instead of good or
    bad; the scheme must have their modes (`prealign.score.tag.bin_modes`)."""
    dropout_share: float = 0.1
    """Share of spans that get no tag, so that untagged text is in distribution. This and the
    others are settings of `prealign.tokens.encode.Encoder`."""
    bare_documents_share: float = 0.0
    again_every_tokens: int | None = None
    inline_share: float | None = None
    inline_modes: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Where its tokens lie."""
        return "tokens" if self == TAGS_IN_FRONT else f"tokens-{fingerprint(self)}"

    @property
    def words(self) -> str:
        """What differs from the usual, for a log: " with bins=4"."""
        own, usual = vars(self), vars(TAGS_IN_FRONT)
        differs = [f"{name}={value}" for name, value in own.items() if value != usual[name]]
        return f" with {', '.join(differs)}" if differs else ""


TAGS_IN_FRONT = Tagging()


@dataclass(frozen=True)
class Prepared:
    """What a comparison trains on and is measured on."""

    vocabulary: Vocabulary
    tagged: TokenShard
    heldout: list[Document]
    """With the modes of the corpus's tagger."""
    summary: dict[str, Any]
    bins: Bins | None = None
    """What the tags of `tagged` are made by, if not by the corpus's tagger."""

    def retagged(self, documents: Iterable[Document]) -> list[Document]:
        """Return held-out documents, or parts of them, with the modes that `tagged` has."""
        return [self.bins(document) if self.bins else document for document in documents]


def prepare(settings: CorpusSettings, folder: Path, say: Say) -> Prepared:
    """Return the corpus as tokens, made in `folder` or found there."""
    annotated = folder / "annotated"
    if not (folder / "rejects.json").exists():
        say("reading, cleaning and scoring the corpus")
        rejects = Rejects()
        read = thinned(settings.source(), settings.share)
        documents = clean(read, settings.cleaning, rejects)
        if settings.scorer is None or settings.segmenter is None:
            tag_only(documents, annotated, settings)
        else:
            annotate(
                documents,
                annotated,
                segmenter=settings.segmenter,
                scorer=settings.scorer,
                tagger=settings.tagger,
                source=to_json(settings.source),
                processes=settings.processes,
            )
        write_atomic(folder / "rejects.json", json.dumps(rejects.to_json(), indent=1))
    if not (folder / "vocabulary" / "scheme.json").exists():
        say("training the tokenizer on text without tags")
        specials = 2 + len(settings.scheme.tags)
        texts = _first_chars(documents_of(settings, folder, "train"), settings.tokenizer_chars)
        tokenizer = train_text_tokenizer(texts, size=settings.vocab_size - specials)
        Vocabulary(tokenizer, settings.scheme).save(folder / "vocabulary")
    return read_prepared(settings, folder, say)


def read_prepared(
    settings: CorpusSettings,
    folder: Path,
    say: Say = lambda line: None,
    tagging: Tagging = TAGS_IN_FRONT,
) -> Prepared:
    """Return what `prepare` left in `folder`, tagged in a certain way.

    The token shard is written if it is not there.
    """
    vocabulary = load_vocabulary(folder / "vocabulary")
    bins = None if tagging.bins is None else bins_of(settings, folder, tagging.bins)
    if not (folder / tagging.folder).exists():
        say(f"encoding the corpus{tagging.words}")
        encoder = Encoder(
            vocabulary=vocabulary,
            score=settings.tagger.score,
            dropout_share=tagging.dropout_share,
            bare_documents_share=tagging.bare_documents_share,
            again_every_tokens=tagging.again_every_tokens,
            inline_share=tagging.inline_share,
            inline_modes=tagging.inline_modes,
        )
        documents = documents_of(settings, folder, "train")
        write_tokens(folder / tagging.folder, map(bins, documents) if bins else documents, encoder)
    tokens, heldout = read_tokens(folder / tagging.folder), _heldout(folder, settings)
    return Prepared(vocabulary, tokens, heldout, _summary(folder, tokens, heldout), bins)


def bins_of(settings: CorpusSettings, folder: Path, number: int) -> Bins:
    """Return so many bins of the training spans' scores; their edges are kept in `folder`.

    Raises:
        DataError: There are fewer different scores than bins.
    """
    path = folder / f"bins-{number}.json"
    name = settings.tagger.score
    if not path.exists():
        documents = documents_of(settings, folder, "train")
        scores = [score for d in documents for score in scores_of(d, name) if score is not None]
        write_atomic(path, json.dumps({"edges": quantile_edges(scores, number)}))
    return Bins(score=name, edges=tuple(json.loads(path.read_bytes())["edges"]))


def thinned(documents: Iterable[Document], share: float) -> Iterator[Document]:
    """Yield a share of the documents, chosen by a hash of their ids, whatever their order."""
    for document in documents:
        if uniform(document.id, 0, seed=0) < share:
            yield document


def tag_only(documents: Iterable[Document], folder: Path, settings: CorpusSettings) -> None:
    """Write documents that have scores already to shards, with the modes the tagger gives them.

    An earlier start's shards are replaced.

    Raises:
        DataError: There are no documents, or one of them lacks the tagger's score.
    """
    shutil.rmtree(folder, ignore_errors=True)
    header = {
        "scorers": [],
        "segmenter": None,
        "tagger": to_json(settings.tagger),
        "source": to_json(settings.source),
        "scheme": settings.scheme.to_json(),
    }
    tally = Tally()
    tagged = iter(documents)
    for number in itertools.count():
        chunk = list(itertools.islice(tagged, DOCUMENTS_PER_SHARD))
        if not chunk:
            break
        kept = []
        for document in chunk:
            tally.judged(document, {})
            marked = settings.tagger(document)
            tally.tagged(marked)
            kept += [] if marked is None else [marked]
        write_shard(folder / f"part-{number:05d}.parquet", kept, header)
    if not tally.documents:
        raise DataError(f"{folder.name}: the source has no documents that pass the cleaning")
    write_atomic(folder / "_done.json", json.dumps(tally.to_json(), indent=1))


class Prompt(NamedTuple):
    """A stretch of a held-out document: whole lines, with their modes."""

    document: Document
    """The stretch alone."""
    origin: Document
    start_char: int
    """Where it begins in its origin."""

    @property
    def end_char(self) -> int:
        """Where it ends in its origin."""
        return self.start_char + len(self.document.text)


def stretch(document: Document, first: int, last: int) -> Prompt:
    """Return the spans from `first` to before `last` as a document of their own."""
    spans = document.spans[first:last]
    start, end = spans[0].start_char, spans[-1].end_char
    moved = [
        span._replace(start_char=span.start_char - start, end_char=span.end_char - start)
        for span in spans
    ]
    id = f"{document.id}:{start}"
    return Prompt(Document(id, document.text[start:end], tuple(moved)), document, start)


def heldout_prompts(
    documents: list[Document],
    *,
    starts: Callable[[str], list[int]],
    lines: int,
    max_chars: int,
    count: int,
) -> list[Prompt]:
    """Return stretches of held-out text to go on from, spread over the documents.

    Args:
        documents: Cut into lines.
        starts: Gives the characters of a text at which a stretch may begin.
        lines: Spans in a stretch, at most; those beyond `max_chars` are left off.
        max_chars: A prompt must leave room to write in.
        count: How many, at most; which ones is decided by a hash of their places.
    """
    found: list[tuple[float, Prompt]] = []
    for document in documents:
        at = {span.start_char: i for i, span in enumerate(document.spans)}
        for start in starts(document.text):
            first = at.get(start)
            if first is None:
                continue
            last = min(first + lines, len(document.spans) - 1)  # something has to follow
            while last > first and document.spans[last - 1].end_char - start > max_chars:
                last -= 1
            if last > first:
                found.append((uniform(document.id, start, seed=0), stretch(document, first, last)))
    found.sort(key=lambda one: one[0])
    return [prompt for _, prompt in found[:count]]


def bad_prompts(
    documents: list[Document], *, lines: int, max_chars: int, count: int
) -> list[Prompt]:
    """Return stretches of held-out text in which most lines are bad: prompts of a bad style.

    Each document gives its worst stretch of `lines` spans; of those up to `max_chars` long (a
    prompt must leave room to write in) the `count` worst are returned.
    """
    found: list[tuple[float, str, Prompt]] = []
    for document in documents:
        bad = [span.mode == "bad" for span in document.spans]
        starts = range(len(bad) - lines + 1)
        best = max(starts, key=lambda i: sum(bad[i : i + lines]), default=None)
        if best is not None:
            prompt = stretch(document, best, best + lines)
            if len(prompt.document.text) <= max_chars:
                found.append((sum(bad[best : best + lines]) / lines, document.id, prompt))
    found.sort(key=lambda one: (-one[0], one[1]))
    return [prompt for share, _, prompt in found[:count] if share > 0]


def documents_of(settings: CorpusSettings, folder: Path, part: Part) -> Iterator[Document]:
    """Yield the documents of one part of the corpus that `prepare` left in `folder`."""
    documents = read_shards(folder / "annotated")
    return split(documents, part, seed=0, heldout_share=settings.heldout_share)


def _heldout(folder: Path, settings: CorpusSettings) -> list[Document]:
    """Return held-out documents, spread over the packages, up to the size that is asked for."""
    by_source: dict[str, list[Document]] = {}
    for document in documents_of(settings, folder, "heldout"):
        by_source.setdefault(document.source, []).append(document)
    chosen: list[Document] = []
    size = 0
    for turn in itertools.zip_longest(*by_source.values()):
        for document in turn:
            if document is not None and size < settings.heldout_bytes:
                chosen.append(document)
                size += len(document.text.encode())
    if not chosen:
        raise DataError(
            "no package of annotated fell into the held-out share of "
            f"{settings.heldout_share}; give more packages or a larger corpus.heldout_share"
        )
    return chosen


def _first_chars(documents: Iterator[Document], chars: int) -> Iterator[str]:
    for document in documents:
        yield document.text
        chars -= len(document.text)
        if chars < 0:
            return


def _summary(folder: Path, tokens: TokenShard, heldout: list[Document]) -> dict[str, Any]:
    """Return the counts that a report shows of the corpus."""
    return {
        "annotated": json.loads((folder / "annotated" / "_done.json").read_text()),
        "rejects": json.loads((folder / "rejects.json").read_text()),
        "tokens": tokens.header,
        "heldout": {
            "documents": len(heldout),
            "packages": len({document.source for document in heldout}),
            "bytes": sum(len(document.text.encode()) for document in heldout),
        },
    }

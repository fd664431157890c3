"""Annotation: documents are cut, scored, tagged, and written to shards by parallel workers.

The documents are cut into chunks in their order, whatever the number of processes; each chunk
becomes one shard, which its worker writes in one step. So the bytes of the shards do not depend on
the number of processes, nor on how often the work was killed and started again.

    config.json            settings, versions and machine of the first start
    part-00000.parquet     the shards; their headers hold the counts of the chunk
    _done.json             the counts of all; written last
"""

import hashlib
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prealign.config import to_json
from prealign.errors import ConfigError, DataError, RunError
from prealign.runs import open_run, write_atomic
from prealign.score.progress import Meter
from prealign.score.segment import segment
from prealign.score.tag import Threshold
from prealign.score.tally import Tally, join_problems
from prealign.text.document import Document, Judgement, Scorer, Segmenter, Span
from prealign.text.scheme import GOOD_BAD
from prealign.text.shards import SCHEMA_VERSION, read_header, write_shard

CHUNK_CHARS = 400_000
"""Text in a chunk, at most, unless a single document is longer: what a kill can cost a worker."""
DOCUMENT_CHARS = 100
"""What a document counts for besides its text, so that empty ones cannot pile up."""
CHUNKS_PER_PROCESS = 3
"""Chunks in memory for each process, so that memory does not grow with the corpus."""
SLOW_S = 60.0
"""After this long a chunk is named in the progress line."""


@dataclass(frozen=True)
class AnnotateReport:
    """What was done. The counts are those of all the shards, found or made."""

    folder: Path
    tally: Tally
    shards: int
    shards_found: int
    """Shards of an earlier start, which were kept."""
    wall_s: float

    def __str__(self) -> str:
        counts = self.tally
        lines = [
            f"{self.folder}: {counts.documents} documents, {counts.segments} segments in "
            f"{self.shards} shards ({self.shards_found} were there) in {self.wall_s:.1f} s"
        ]
        if counts.modes:
            lines.append("modes: " + _counted(counts.modes))
        for name, rate in counts.findings_per_char.items():
            per_char = "nothing judged" if rate is None else f"{rate:.5f} per character"
            lines.append(f"{name}: {counts.findings[name]} findings, {per_char}")
        if counts.unjudged:
            lines.append(
                f"not judged: {counts.unjudged} documents ({_counted(counts.reasons)}), "
                f"{counts.dropped} of all dropped; the first: {counts.samples[0]}"
            )
        return "\n".join(lines)


def annotate(
    documents: Iterable[Document],
    out: Path,
    *,
    segmenter: Segmenter,
    scorer: Scorer | Sequence[Scorer],
    tagger: Threshold | None = None,
    source: Mapping[str, Any],
    processes: int = 1,
    progress: bool = True,
) -> AnnotateReport:
    """Return the counts after writing the scored documents to shards in `out`.

    Run again after a kill, it keeps the shards that are finished and ends with the same bytes.
    A document that cannot be judged stays, with its problem, unless the tagger drops it. There is
    no time limit for a document; a chunk that takes long is named in the progress.

    Args:
        documents: Without spans; in the same order on every start.
        out: A folder that is new, or that an earlier start with these settings has left.
        segmenter: Cuts the texts.
        scorer: One or more, of different names; dataclasses, so that their settings are recorded.
        tagger: Gives spans their modes; None: they stay untagged.
        source: Where the documents come from, as JSON data for the headers.
        processes: Workers; 1 works in this process.
        progress: Show it on standard error.

    Raises:
        RunError: `out` holds the work of other settings or documents, or a worker died.
        DataError: A document is malformed, or a scorer's answer does not fit it.
        ConfigError: Two scorers have one name, or `processes` is below 1.
    """
    if processes < 1:
        raise ConfigError(f"processes={processes}: must be at least 1")
    work = _work(segmenter, scorer, tagger, source)
    open_run(out, work.settings(), recipe="annotate")
    _remove(out.glob("*.part"))
    start_s = time.monotonic()
    total, shards, found = Tally(), 0, 0
    size = len(documents) if isinstance(documents, Sized) else None
    with Meter(size, shown=progress) as meter:
        for done in _in_order(_jobs(work, documents, out), processes, meter):
            total.add(done.tally)
            shards, found = shards + 1, found + done.found
    _refuse_surplus(out, shards)
    summary = total.to_json() | {"shards": shards, "findings_per_char": total.findings_per_char}
    write_atomic(out / "_done.json", json.dumps(summary, indent=1, sort_keys=True) + "\n")
    return AnnotateReport(out, total, shards, found, time.monotonic() - start_s)


def annotate_part(
    documents: Iterable[Document],
    out: Path,
    *,
    rank: int,
    world_size: int,
    segmenter: Segmenter,
    scorer: Scorer | Sequence[Scorer],
    tagger: Threshold | None = None,
    source: Mapping[str, Any],
) -> int:
    """Write every `world_size`-th shard, those of `rank`, and return how many were made now.

    For work on several machines that share a folder: what they write together is what `annotate`
    writes, byte for byte. Afterwards call `annotate` with the same settings and documents: it
    finds the shards, makes those that are missing, and writes the counts. Every part reads all
    documents, and judges its own.

    Args:
        documents: All of them, in the same order in every part.
        out: The folder that the parts share.
        rank: From 0.
        world_size: Parts in all.
        segmenter: As in `annotate`, like those below.
        scorer: One or more.
        tagger: May be None.
        source: JSON data.

    Raises:
        RunError: `out` holds the work of other settings or documents.
        DataError: A document is malformed, or a scorer's answer does not fit it.
        ConfigError: Two scorers have one name, or there is no such rank.
    """
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank {rank} of {world_size}: expected a rank from 0 to below the size")
    work = _work(segmenter, scorer, tagger, source)
    open_run(out, work.settings(), recipe="annotate")
    made = 0
    for job in _jobs(work, documents, out):
        if job.index % world_size == rank and _find(job) is None:
            _do(job)
            made += 1
    return made


def _work(
    segmenter: Segmenter,
    scorer: Scorer | Sequence[Scorer],
    tagger: Threshold | None,
    source: Mapping[str, Any],
) -> "_Work":
    scorers = tuple(scorer) if isinstance(scorer, Sequence) else (scorer,)
    names = [one.name for one in scorers]
    if len(set(names)) != len(names) or not names:
        raise ConfigError(f"scorers {names}: expected one or more, of different names")
    return _Work(segmenter, scorers, tagger, dict(source))


def _jobs(work: "_Work", documents: Iterable[Document], out: Path) -> Iterator["_Job"]:
    for index, chunk in enumerate(_chunks(documents)):
        yield _Job(work, out / f"part-{index:05d}.parquet", index, chunk, _digest(chunk))


@dataclass(frozen=True)
class _Work:
    """What is done to every document."""

    segmenter: Segmenter
    scorers: tuple[Scorer, ...]
    tagger: Threshold | None
    source: dict[str, Any]

    def settings(self) -> dict[str, Any]:
        """Return what decides the bytes of the shards, besides the documents."""
        return {
            "scorers": {s.name: {"version": s.version, "settings": s} for s in self.scorers},
            "segmenter": self.segmenter,
            "tagger": self.tagger,
            "source": self.source,
            "chunk_chars": CHUNK_CHARS,
            "schema_version": SCHEMA_VERSION,
        }

    def header(self) -> dict[str, Any]:
        """Return what the header of each shard says of it."""
        return {
            "scorers": [
                {"name": s.name, "version": s.version, "settings": to_json(s)} for s in self.scorers
            ],
            "segmenter": {"name": self.segmenter.name, "settings": to_json(self.segmenter)},
            "tagger": to_json(self.tagger),
            "source": self.source,
            "scheme": self._scheme(),
        }

    def _scheme(self) -> str | None:
        """Return the scheme of the tagger's modes, where it is the one of two marks."""
        known = self.tagger is not None and {self.tagger.good, self.tagger.bad} <= set(
            GOOD_BAD.by_name
        )
        return GOOD_BAD.to_json() if known else None

    def __call__(self, documents: Sequence[Document], tally: Tally) -> list[Document]:
        """Return the documents cut, scored and tagged, without those that the tagger drops."""
        cut = [segment(document, self.segmenter) for document in documents]
        judged = {scorer.name: _judge(scorer, cut) for scorer in self.scorers}
        kept = []
        for index, document in enumerate(cut):
            own = {name: judgements[index] for name, judgements in judged.items()}
            scored = _with_scores(document, own)
            tally.judged(scored, own)
            tagged = self.tagger(scored) if self.tagger else scored
            tally.tagged(tagged)
            if tagged is not None:
                kept.append(tagged)
        return kept


@dataclass(frozen=True)
class _Job:
    """One chunk of documents and the shard it becomes."""

    work: _Work
    path: Path
    index: int
    documents: list[Document]
    digest: str


@dataclass(frozen=True)
class _Done:
    """What became of a chunk."""

    index: int
    tally: Tally
    found: bool


def _do(job: _Job) -> _Done:
    """Write the shard of a chunk; this runs in a worker."""
    tally = Tally()
    kept = job.work(job.documents, tally)
    chunk = {"index": job.index, "inputs": job.digest, "tally": tally.to_json()}
    write_shard(job.path, kept, job.work.header() | {"chunk": chunk})
    return _Done(job.index, tally, found=False)


def _find(job: _Job) -> _Done | None:
    """Return the counts of a chunk whose shard is finished.

    Raises:
        RunError: There is a shard, but made from other documents.
    """
    if not job.path.exists():
        return None
    chunk = read_header(job.path)["chunk"]
    if chunk["inputs"] != job.digest:
        raise RunError(
            f"{job.path}: was made from other documents than those that begin with "
            f"{job.documents[0].id!r} now; name another folder or delete it"
        )
    return _Done(job.index, Tally(**chunk["tally"]), found=True)


def _in_order(jobs: Iterator[_Job], processes: int, meter: Meter) -> Iterator[_Done]:
    """Yield what became of each chunk, in their order, however many work on them."""
    source = _serial(jobs, meter) if processes == 1 else _parallel(jobs, processes, meter)
    early: dict[int, _Done] = {}
    at = 0
    for done in source:
        meter.advance(done.tally.documents, done.tally.characters)
        early[done.index] = done
        while at in early:
            yield early.pop(at)
            at += 1


def _serial(jobs: Iterator[_Job], meter: Meter) -> Iterator[_Done]:
    for job in jobs:
        slow = threading.Timer(SLOW_S, meter.show, [_slow(job, SLOW_S)])
        slow.daemon = True
        slow.start()
        try:
            yield _find(job) or _do(job)
        finally:
            slow.cancel()


def _parallel(jobs: Iterator[_Job], processes: int, meter: Meter) -> Iterator[_Done]:
    # Workers are spawned, not forked: a fork of a process with torch's threads can lock up.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_die_with_parent)
    running: dict[Future[_Done], tuple[_Job, float]] = {}
    try:
        for job in jobs:
            found = _find(job)
            if found is not None:
                yield found
                continue
            running[pool.submit(_do, job)] = (job, time.monotonic())
            while len(running) >= processes * CHUNKS_PER_PROCESS:
                yield from _finished(running, meter)
        while running:
            yield from _finished(running, meter)
    except BrokenProcessPool as error:
        names = ", ".join(sorted(job.path.name for job, _ in running.values()))
        raise RunError(
            f"a worker died while {names} were in work; run it again to go on (out of memory: "
            "take fewer processes; in a script: start it under `if __name__ == '__main__':`)"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(running: dict[Future[_Done], tuple[_Job, float]], meter: Meter) -> Iterator[_Done]:
    """Wait a while for chunks and yield those that are finished."""
    finished, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
    for future in finished:
        done = future.result()  # before it is forgotten, so that a death can name it
        del running[future]
        yield done
    now_s = time.monotonic()
    slow = [_slow(job, now_s - s) for job, s in running.values() if now_s - s > SLOW_S]
    meter.show(waiting_for=slow[0] if slow else None)


def _slow(job: _Job, since_s: float) -> str:
    return f"{job.path.name} ({job.documents[0].id} and on) for {since_s:.0f} s"


def _die_with_parent() -> None:
    """End this worker when the process that started it is gone, even if that was killed."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    chars = 0
    for document in documents:
        size = len(document.text) + DOCUMENT_CHARS
        if chunk and chars + size > CHUNK_CHARS:
            yield chunk
            chunk, chars = [], 0
        chunk.append(document)
        chars += size
    if chunk:
        yield chunk


def _digest(documents: Sequence[Document]) -> str:
    """Return a hash of all that is read: ids, sources and texts, and where each of them ends."""
    state = hashlib.sha256()
    for document in documents:
        for value in (document.id, document.source, document.text):
            data = value.encode(errors="surrogatepass")
            state.update(len(data).to_bytes(8) + data)
    return state.hexdigest()


def _judge(scorer: Scorer, documents: Sequence[Document]) -> list[Judgement]:
    judgements = scorer(documents)
    if len(judgements) != len(documents):
        raise DataError(
            f"scorer {scorer.name!r}: {len(judgements)} judgements for {len(documents)} documents"
        )
    for document, judgement in zip(documents, judgements, strict=True):
        if len(judgement.scores) != len(document.spans):
            raise DataError(
                f"scorer {scorer.name!r}, document {document.id!r}: {len(judgement.scores)} "
                f"scores for {len(document.spans)} spans; give one per span (None: cannot judge)"
            )
    return judgements


def _with_scores(document: Document, judgements: Mapping[str, Judgement]) -> Document:
    # Most of the time that is not scoring is spent on spans: those with equal scores (most have 0)
    # share one mapping of them.
    rows = list(zip(*(judgement.scores for judgement in judgements.values()), strict=True))
    mappings = {row: dict(zip(judgements, row, strict=True)) for row in set(rows)}
    spans = tuple(
        Span(span.start_char, span.end_char, span.mode, mappings[row], span.resumes)
        for span, row in zip(document.spans, rows, strict=True)
    )
    problem = join_problems([document.problem, *(j.problem for j in judgements.values())])
    return replace(document, spans=spans, problem=problem)


def _remove(torn: Iterable[Path]) -> None:
    for path in torn:
        path.unlink(missing_ok=True)


def _refuse_surplus(out: Path, shards: int) -> None:
    there = len(list(out.glob("part-*.parquet")))
    if there != shards:
        raise RunError(
            f"{out}: holds {there} shards, these documents give {shards}; the rest was made from "
            "other documents: name another folder or delete it"
        )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))

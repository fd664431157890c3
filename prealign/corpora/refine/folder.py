"""The folder that a step from shards to shards leaves.

    config.json          settings, and digests of all that is read; another run is refused
    facts-00000.jsonl    what the step wrote down about each document of the first shard
    part-00000.parquet   the documents of the first shard that stay
    part-00000.jsonl     a line for each of its documents, whatever became of it
    summary.json         counts by reason, and a sample of each; written last

One shard becomes one shard. The bytes of parts depend on the step and on the shards that it reads,
not on how often the run was killed.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prealign.corpora.refine.step import Record, Refining, Verdict
from prealign.corpora.rejects import Rejects
from prealign.errors import DataError
from prealign.runs import hold_folder, open_run, read_jsonl, write_atomic
from prealign.text.document import Document
from prealign.text.shards import read_header, read_shard, shard_files, write_shard

Inputs = Path | Sequence[Path]
EVERY_S = 10.0
SAMPLE_CHARS = 160
"""Of a text that was left out, shown in the summary."""
LAST = {"annotate": "_done.json", "refine": "summary.json", "synthesis": "summary.json"}
"""The file that a folder of each kind has when it is finished."""


@dataclass(frozen=True)
class Summary:
    """What became of all documents."""

    step: str
    documents: int = 0
    kept: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    """By reason."""
    samples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The first of each reason: id, particulars, and how the text begins."""

    def __str__(self) -> str:
        """Return it as a line."""
        why = ", ".join(f"{reason}: {n:,}" for reason, n in sorted(self.rejected.items()))
        return (
            f"{self.step}: {self.documents:,} documents, {self.kept:,} kept, "
            f"{sum(self.rejected.values()):,} rejected{f' ({why})' if why else ''}"
        )


@dataclass(frozen=True)
class _Facts:
    """The facts of all shards, in order; can be gone through more than once."""

    files: Sequence[Path]

    def __iter__(self) -> Iterator[Any]:
        for file in self.files:
            for row in read_jsonl(file):
                yield row["fact"]


def refine(step: Refining, inputs: Inputs, out: Path, *, progress: bool = True) -> Summary:
    """Write the documents that a step keeps to shards in `out`; the same call goes on after a kill.

    Args:
        step: A frozen dataclass: its settings are recorded.
        inputs: Folders of shards, one after the other.
        out: A folder that is new, or that the same step has left.
        progress: Whether to show lines on standard error.

    Raises:
        DataError: A folder holds no shards, or is not finished, or one of them is malformed.
        RunError: `out` holds another run, or another process is at work in it.
    """
    shards = _shards(inputs)
    context = dict(step.context())
    digests = [[f"{shard.parent.name}/{shard.name}", _digest(shard)] for shard in shards]
    open_run(out, {"step": step, "context": context, "inputs": digests}, recipe="refine")
    with hold_folder(out):
        said = _Progress(step.name, len(shards), shown=progress)
        facts = [out / f"facts-{index:05d}.jsonl" for index in range(len(shards))]
        for index, (shard, file) in enumerate(zip(shards, facts, strict=True)):
            if not file.exists():
                _look(step, shard, file)
            said("looked at", index + 1)
        verdicts = iter(step.decide(_Facts(facts)))
        rejects, documents = Rejects(), 0
        for index, shard in enumerate(shards):
            part = out / f"part-{index:05d}.parquet"
            pairs = [(record, next(verdicts)) for record in records(shard)]
            if not part.exists():
                _write(step.name, part, shard, pairs, context)
            for (document, _), verdict in pairs:
                if verdict.reason is not None:
                    begins = document.text[:SAMPLE_CHARS]
                    rejects.add(verdict.reason, f"{document.id}: {verdict.detail}: {begins!r}")
            documents += len(pairs)
            said("wrote", index + 1, documents, rejects)
        kept = documents - sum(rejects.counts.values())
        found = Summary(step.name, documents, kept, rejects.counts, rejects.samples)
        data = {**vars(found), "context": context}
        write_atomic(out / "summary.json", json.dumps(data, indent=1, sort_keys=True) + "\n")
    return found


def check_finished(folder: Path) -> None:
    """Look whether a folder of shards is whole.

    Raises:
        DataError: Its run has begun and not come to its end, or what it says of itself is no JSON.
    """
    config = folder / "config.json"
    try:
        data = json.loads(config.read_bytes()) if config.is_file() else {}
    except ValueError as error:
        raise DataError(f"{config}: is no JSON ({error}); write the folder again") from error
    recipe = data.get("recipe") if isinstance(data, dict) else None
    if recipe in LAST and not (folder / LAST[recipe]).exists():
        raise DataError(
            f"{folder}: is not finished (it has no {LAST[recipe]}); run its {recipe} again first"
        )


def _shards(inputs: Inputs) -> list[Path]:
    folders = [inputs] if isinstance(inputs, Path) else list(inputs)
    if not folders:
        raise DataError("there are no folders of shards to read")
    for folder in folders:
        check_finished(folder)
    return [shard for folder in folders for shard in shard_files(folder)]


def records(shard: Path) -> Iterator[Record]:
    """Yield the documents of a shard, each with its line in the file of provenance beside it."""
    beside = shard.with_suffix(".jsonl")
    rows = {row["id"]: row for row in read_jsonl(beside)} if beside.exists() else {}
    for document in read_shard(shard):
        yield Record(document, rows.get(document.id, {}))


def _digest(shard: Path) -> str:
    state = hashlib.sha256()
    for file in (shard, shard.with_suffix(".jsonl")):
        if file.exists():
            with file.open("rb") as stream:
                state.update(hashlib.file_digest(stream, "sha256").digest())
    return state.hexdigest()


def _look(step: Refining, shard: Path, file: Path) -> None:
    found = list(records(shard))
    facts = step.look(found)
    if len(facts) != len(found):
        raise DataError(f"{shard}: {step.name} gave {len(facts)} facts of {len(found)} documents")
    try:
        lines = [json.dumps({"fact": fact}, allow_nan=False) + "\n" for fact in facts]
    except ValueError as error:
        raise DataError(f"{shard}: {step.name} gave a fact that is no JSON ({error})") from error
    write_atomic(file, "".join(lines))


def _write(
    name: str,
    part: Path,
    shard: Path,
    pairs: Sequence[tuple[Record, Verdict]],
    context: Mapping[str, Any],
) -> None:
    kept, lines = [], []
    for (document, row), verdict in pairs:
        outcome = "written" if verdict.reason is None else "rejected"
        said = {"outcome": outcome, "reason": verdict.reason, "detail": verdict.detail}
        own = {"id": document.id, "source": document.source, "refined_by": name}
        lines.append(json.dumps({**row, **own, **said}) + "\n")
        if verdict.reason is None:
            kept.append(_scored(document, verdict) if verdict.scores else document)
    before = read_header(shard)
    header = {
        "scorers": [*(before.get("scorers") or []), *context.get("scorers", [])],
        "segmenter": before.get("segmenter"),
        "scheme": before.get("scheme"),
        "source": {"step": name, "of": before.get("source")},
    }
    write_atomic(part.with_suffix(".jsonl"), "".join(lines))
    write_shard(part, kept, header)


def _scored(document: Document, verdict: Verdict) -> Document:
    rows = [dict(span.scores) for span in document.spans]
    for name, scores in (verdict.scores or {}).items():
        for row, score in zip(rows, scores, strict=True):
            row[name] = score
    pairs = zip(document.spans, rows, strict=True)
    spans = tuple(span._replace(scores=row) for span, row in pairs)
    problems = [text for text in (document.problem, verdict.problem) if text]
    return replace(document, spans=spans, problem="; ".join(problems) or None)


@dataclass
class _Progress:
    name: str
    shards: int
    shown: bool
    begin_s: float = field(default_factory=time.monotonic)
    last_s: float = field(default_factory=time.monotonic)

    def __call__(
        self, did: str, shard: int, documents: int = 0, rejects: Rejects | None = None
    ) -> None:
        now_s = time.monotonic()
        if not self.shown or now_s - self.last_s < EVERY_S:
            return
        self.last_s = now_s
        counts = "" if rejects is None else (
            f"; {documents:,} documents, {sum(rejects.counts.values()):,} rejected"
        )  # fmt: skip
        text = f"{self.name}: {did} {shard:,} of {self.shards:,} shards{counts}"
        print(f"{text}; {now_s - self.begin_s:.0f} s", file=sys.stderr, flush=True)

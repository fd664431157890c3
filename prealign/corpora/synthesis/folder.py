"""What a run of synthesis leaves in its folder.

    config.json          settings, and a digest of the items; another run is refused
    answers.sqlite       all that was answered: nothing is asked twice
    journal.jsonl        a line per item when it came to its end; grows by whole lines
    part-00000.parquet   the documents of the first `shard_items` items, in the items' order
    part-00000.jsonl     a line per item of them, whatever became of it: its provenance
    summary.json         counts, and the reasons of rejects; written last

A part is written when all its items have come to their end. Its bytes depend on the answers alone,
not on their order in time, nor on how often the run was killed.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prealign.corpora.synthesis.step import Item
from prealign.errors import RunError
from prealign.runs import hold_folder, open_run, read_jsonl, write_atomic
from prealign.text.document import Document
from prealign.text.scheme import TWO_MODES
from prealign.text.shards import write_shard

Outcome = Literal["written", "rejected", "failed"]


class Ended(NamedTuple):
    """What became of an item."""

    outcome: Outcome
    reason: str | None = None
    """Why it was not written."""
    document: Document | None = None
    prompts: tuple[str, ...] = ()
    """Fingerprints of the prompts, in the order in which they were asked."""
    tokens: int = 0
    """Read and written for it."""


@dataclass(frozen=True)
class Report:
    """What became of all items."""

    items: int = 0
    written: int = 0
    failed: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    """By reason."""
    tokens: int = 0

    def __str__(self) -> str:
        """Return it as a line."""
        why = ", ".join(f"{reason}: {n:,}" for reason, n in sorted(self.rejected.items()))
        return (
            f"{self.items:,} items: {self.written:,} written, {sum(self.rejected.values()):,} "
            f"rejected{f' ({why})' if why else ''}, {self.failed:,} failed; {self.tokens:,} tokens"
        )


class Folder:
    """The files of one run. Use it in a `with` statement: one process has it at a time."""

    def __init__(
        self, path: Path, settings: Mapping[str, Any], items: Sequence[Item], shard_items: int
    ) -> None:
        self.path, self.items, self.shard_items = path, items, shard_items
        self._settings = {**settings, "shard_items": shard_items, "items": digest(items)}
        self._open: dict[int, dict[int, Ended]] = {}

    def __enter__(self) -> "Folder":
        """Open it.

        Raises:
            RunError: It holds another run, or another process is at work in it.
        """
        open_run(self.path, self._settings, recipe="synthesis")
        self._held = hold_folder(self.path)
        self._held.__enter__()
        file = self.path / "journal.jsonl"
        self.journal = read_journal(file)
        self._journal = file.open("ab")
        whole = file.read_bytes().rfind(b"\n") + 1
        if whole < file.stat().st_size:  # a line torn by a kill
            os.truncate(file, whole)
        self._take_back()
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()
        self._held.__exit__(None, None, None)

    def end(self, ended: Iterable[tuple[int, Ended]]) -> None:
        """Write down what became of items, and the parts that are complete by that."""
        ended = list(ended)
        lines = []
        for index, what in ended:
            id = self.items[index].id
            if id not in self.journal:
                self.journal[id] = (what.outcome, what.reason)
                lines.append(
                    json.dumps({"id": id, "outcome": what.outcome, "reason": what.reason}) + "\n"
                )
        self._journal.write("".join(lines).encode())
        self._journal.flush()
        for index, what in ended:
            number = index // self.shard_items
            part = self._open.setdefault(number, {})
            part[index] = what
            if len(part) == len(self._range(number)):
                self._write(number, self._open.pop(number))

    def take_over(self, ended: Mapping[str, tuple[Outcome, str | None]]) -> None:
        """Write down what other folders say of items that came to nothing there."""
        lines = []
        for id, (outcome, reason) in ended.items():
            if outcome != "written" and id not in self.journal:
                self.journal[id] = (outcome, reason)
                line = {"id": id, "outcome": outcome, "reason": reason}
                lines.append(json.dumps(line) + "\n")
        self._journal.write("".join(lines).encode())
        self._journal.flush()

    def _take_back(self) -> None:
        """Write down again what the journal lacks of parts that are complete."""
        for number in range(-(-len(self.items) // self.shard_items)):
            file = self._file(number)
            for row in read_jsonl(file.with_suffix(".jsonl")) if file.exists() else ():
                if row["id"] not in self.journal:
                    self.journal[row["id"]] = (row["outcome"], row["reason"])
                    line = {name: row[name] for name in ("id", "outcome", "reason")}
                    self._journal.write((json.dumps(line) + "\n").encode())
        self._journal.flush()

    def missing(self) -> Iterator[int]:
        """Yield the items of the parts that are not written."""
        for number in range(-(-len(self.items) // self.shard_items)):
            if not self._file(number).exists():
                yield from self._range(number)

    def retry_failed(self) -> None:
        """Forget the items that failed, and take back the parts they are in."""
        (self.path / "summary.json").unlink(missing_ok=True)
        for number in range(-(-len(self.items) // self.shard_items)):
            file = self._file(number)
            if file.exists() and any(
                row["outcome"] == "failed" for row in read_jsonl(file.with_suffix(".jsonl"))
            ):
                file.unlink()
        kept = {id: what for id, what in self.journal.items() if what[0] != "failed"}
        rows = [{"id": id, "outcome": o, "reason": r} for id, (o, r) in kept.items()]
        self._journal.close()
        file = self.path / "journal.jsonl"
        write_atomic(file, "".join(json.dumps(row) + "\n" for row in rows))
        self.journal = kept
        self._journal = file.open("ab")

    def _range(self, number: int) -> range:
        first = number * self.shard_items
        return range(first, min(first + self.shard_items, len(self.items)))

    def _file(self, number: int) -> Path:
        return self.path / f"part-{number:05d}.parquet"

    def _write(self, number: int, part: Mapping[int, Ended]) -> None:
        rows, documents = [], []
        for index in self._range(number):
            item, what = self.items[index], part[index]
            row = {
                "id": item.id,
                "parent": item.parent.id if item.parent else None,
                "outcome": what.outcome,
                "reason": what.reason,
                "slots": dict(item.slots),
                "seed": item_seed(item, self._settings["seed"]),
                "step": self._settings["step"].name,
                "model": self._settings["writer"].name,
                "prompts": list(what.prompts),
                "tokens": what.tokens,
            }
            rows.append(json.dumps(row) + "\n")
            documents += [what.document] if what.document else []
        write_atomic(self._file(number).with_suffix(".jsonl"), "".join(rows))
        scores = sorted({name for d in documents for span in d.spans for name in span.scores})
        header: dict[str, Any] = {
            "scorers": [{"name": name} for name in scores],
            "segmenter": None,
            "source": {"step": self._settings["step"].name, "model": self._settings["writer"].name},
            "scheme": TWO_MODES.to_json(),
        }
        write_shard(self._file(number), documents, header)


def read_journal(file: Path) -> dict[str, tuple[Outcome, str | None]]:
    """Return how each item in a journal ended, and why it was not written; none: no such file."""
    rows = read_jsonl(file) if file.exists() else ()
    return {row["id"]: (row["outcome"], row["reason"]) for row in rows}


def provenance(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the line of each item of the parts that are written, in order."""
    for file in sorted(path.glob("part-*.parquet")):
        yield from read_jsonl(file.with_suffix(".jsonl"))


def report(path: Path) -> Report:
    """Return what became of the items of the parts that are written."""
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    tokens = 0
    for row in provenance(path):
        outcomes[row["outcome"]] += 1
        tokens += row["tokens"]
        if row["outcome"] == "rejected":
            reasons[row["reason"]] += 1
    total, written, failed = outcomes.total(), outcomes["written"], outcomes["failed"]
    return Report(total, written, failed, dict(reasons), tokens)


def item_seed(item: Item, seed: int) -> int:
    """Return an item's seed, from 0 to 2**31 - 1."""
    text = f"{seed}\0{item.id}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:4]) >> 1


def digest(items: Sequence[Item]) -> str:
    """Return a digest of the items with all that may decide what is written of them.

    Raises:
        RunError: Two items have one id.
    """
    found = hashlib.sha256()
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise RunError(f"item {item.id!r} is there twice; give each an id of its own")
        seen.add(item.id)
        parent = item.parent
        spans = [[*span[:3], dict(span.scores)] for span in parent.spans] if parent else []
        text = parent.text if parent else None
        data = [item.id, item.source, sorted(item.slots.items()), text, spans]
        found.update(json.dumps(data).encode() + b"\n")
    return found.hexdigest()

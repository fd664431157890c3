"""What is in a corpus, counted on Arrow's columns, a batch at a time: memory stays flat."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prealign.errors import DataError
from prealign.text.shards import SCORE

SAMPLE = 10_000
"""Values that quantiles are taken of; all of them if there are no more."""
GROUPS = 10_000
"""Sources, or reasons, that are counted by name; the rest are counted together."""
SAMPLES = 5
QUANTILES = (0.1, 0.5, 0.9, 0.99)
REST = "\0rest"
"""Stands for all groups beyond `GROUPS`; no text from a corpus becomes it."""


@dataclass
class Spread:
    """Where values lie: exact counts, extremes and mean; quantiles of a fair sample."""

    count: int = 0
    zeros: int = 0
    total: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    _values: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    _keys: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    _chance: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, values: NDArray[Any]) -> None:
        """Count values; the same ones in the same order give the same sample."""
        if not values.size:
            return
        values = values.astype(np.float64)
        self.count += values.size
        self.zeros += int((values == 0).sum())
        self.total += float(values.sum())
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        # Each value draws a key; those with the lowest keys stay, whatever comes later.
        keys = self._chance.random(values.size)
        self._values = np.concatenate([self._values, values])
        self._keys = np.concatenate([self._keys, keys])
        if self._keys.size > SAMPLE:
            kept = np.argpartition(self._keys, SAMPLE)[:SAMPLE]
            self._values, self._keys = self._values[kept], self._keys[kept]

    @property
    def mean(self) -> float | None:
        """The mean of all; None of none."""
        return self.total / self.count if self.count else None

    @property
    def sampled(self) -> bool:
        """Whether the quantiles are of a sample."""
        return self.count > SAMPLE

    def quantiles(self) -> list[float]:
        """Return the values at `QUANTILES`, each one that is there; none of none."""
        if not self._values.size:
            return []
        found = np.quantile(self._values, QUANTILES, method="inverted_cdf")
        return [float(value) for value in found]


@dataclass
class Amount:
    """So much text."""

    documents: int = 0
    spans: int = 0
    characters: int = 0

    def add(self, documents: int, spans: int, characters: int) -> None:
        """Count more of it."""
        self.documents += documents
        self.spans += spans
        self.characters += characters


@dataclass
class Scored:
    """What a scorer said of the spans."""

    judged: Spread = field(default_factory=Spread)
    unscored: int = 0
    """Spans that it could not judge."""


@dataclass
class Counts:
    """What is in the documents."""

    group: Callable[[str], str] = str
    """The name under which a source is counted."""
    all: Amount = field(default_factory=Amount)
    uncut: int = 0
    """Documents without spans."""
    modes: dict[str | None, Amount] = field(default_factory=dict)
    """By mode; None: spans of no mode."""
    sources: dict[str, Amount] = field(default_factory=dict)
    scores: dict[str, Scored] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)
    """Documents with a problem, by what stands before its first colon."""
    samples: dict[str, list[str]] = field(default_factory=dict)
    """`ID: PROBLEM` of the first documents of each."""
    lengths: Spread = field(default_factory=Spread)
    """Characters of a document."""

    def add(self, table: pa.Table, where: str) -> None:
        """Count documents in the columns of a shard.

        Raises:
            DataError: The spans of a document do not tile its text, or a score is not finite.
        """
        table = table.combine_chunks()
        _check_there(table, where)
        chars = pc.utf8_length(table["text"]).to_numpy()
        spans = pc.list_value_length(table["span_start"]).to_numpy()
        sizes = _check_tiles(table, chars, spans, where)
        self.all.add(table.num_rows, int(spans.sum()), int(chars.sum()))
        self.uncut += int((spans == 0).sum())
        self.lengths.add(chars)
        self._add_modes(table, sizes)
        self._add_sources(table, spans, chars)
        self._add_problems(table)
        for column in table.column_names:
            if column.startswith(SCORE):
                self._add_scores(table, column, spans, where)

    def _add_modes(self, table: pa.Table, sizes: NDArray[np.int64]) -> None:
        modes = pc.list_flatten(table["span_mode"])
        parents = pc.list_parent_indices(table["span_mode"])
        columns = pa.table({"mode": modes, "document": parents, "chars": sizes})
        wanted: Any = [("document", "count_distinct"), ("chars", "count"), ("chars", "sum")]
        found = columns.group_by("mode", use_threads=False).aggregate(wanted)
        for row in found.to_pylist():
            amount = self.modes.setdefault(row["mode"], Amount())
            amount.add(row["document_count_distinct"], row["chars_count"], row["chars_sum"])

    def _add_sources(
        self, table: pa.Table, spans: NDArray[np.int32], chars: NDArray[np.int32]
    ) -> None:
        columns = pa.table({"source": table["source"], "spans": spans, "chars": chars})
        wanted: Any = [("chars", "count"), ("spans", "sum"), ("chars", "sum")]
        found = columns.group_by("source", use_threads=False).aggregate(wanted)
        for row in found.to_pylist():
            name = self.group(row["source"] or "")
            if name not in self.sources and len(self.sources) >= GROUPS:
                name = REST
            amount = self.sources.setdefault(name, Amount())
            amount.add(row["chars_count"], row["spans_sum"], row["chars_sum"])

    def _add_problems(self, table: pa.Table) -> None:
        faulty = table.select(["id", "problem"]).filter(pc.is_valid(table["problem"]))
        for row in faulty.to_pylist():
            reason = row["problem"].partition(":")[0]
            if reason not in self.problems and len(self.problems) >= GROUPS:
                reason = REST
            self.problems[reason] = self.problems.get(reason, 0) + 1
            kept = self.samples.setdefault(reason, [])
            if len(kept) < SAMPLES:
                kept.append(f"{row['id']}: {row['problem']}")

    def _add_scores(
        self, table: pa.Table, column: str, spans: NDArray[np.int32], where: str
    ) -> None:
        lists, name = table[column], column.removeprefix(SCORE)
        asked = pc.is_valid(lists).to_numpy()
        given = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
        if (given[asked] != spans[asked]).any():
            raise DataError(f"{where}: a document has not one score {name!r} for each span")
        values = pc.list_flatten(lists)
        judged = values.drop_null().to_numpy()
        if not np.isfinite(judged).all():
            raise DataError(f"{where}: a score {name!r} is not finite; null is what nobody judged")
        scored = self.scores.setdefault(name, Scored())
        scored.judged.add(judged)
        scored.unscored += values.null_count


def group_of(source: str, known: Iterable[str]) -> str:
    """Return the group of a source: the longest known name that covers it, else its first part.

    A name covers itself, and all that goes on with `/`, `:` or `#` behind it.
    """
    covering = [name for name in known if covers(name, source)]
    if covering:
        return max(covering, key=len)
    return re.split("[/:#]", source)[0] or source


def covers(name: str, source: str) -> bool:
    """Return whether a name stands for a source."""
    return source == name or (bool(name) and source.startswith(tuple(name + end for end in "/:#")))


def _check_there(table: pa.Table, where: str) -> None:
    """Raise if there is nothing where there must be something."""
    for column in ("id", "text", "span_start", "span_end", "span_mode", "span_resumes"):
        values = table[column]
        if values.null_count or (
            column.startswith("span_")
            and column != "span_mode"
            and pc.list_flatten(values).null_count
        ):
            raise DataError(f"{where}: column {column!r} has a null; write it again")


def _check_tiles(
    table: pa.Table, chars: NDArray[np.int32], spans: NDArray[np.int32], where: str
) -> NDArray[np.int64]:
    """Return the sizes of all spans, if those of each document tile its text."""
    for column in ("span_end", "span_mode", "span_resumes"):
        if not np.array_equal(pc.list_value_length(table[column]).to_numpy(), spans):
            raise DataError(f"{where}: {column} and span_start are of different lengths")
    start = pc.list_flatten(table["span_start"]).to_numpy().astype(np.int64)
    end = pc.list_flatten(table["span_end"]).to_numpy().astype(np.int64)
    last = np.cumsum(spans)[spans > 0] - 1
    first = last - spans[spans > 0] + 1
    due = np.concatenate([[0], end[:-1]]) if end.size else end
    due[first] = 0
    if (start != due).any() or (end < start).any() or (end[last] != chars[spans > 0]).any():
        raise DataError(f"{where}: the spans of a document do not tile its text; write it again")
    sizes: NDArray[np.int64] = end - start
    return sizes

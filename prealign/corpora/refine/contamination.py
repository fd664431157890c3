"""Leave out documents that share text with evaluation sets."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from prealign.config import NOT_RECORDED
from prealign.corpora.jsonl import json_objects
from prealign.corpora.refine.folder import Inputs, Summary, refine
from prealign.corpora.refine.step import Record, Verdict, grams, words_of
from prealign.errors import ConfigError, DataError

NAMED = 20
"""Items that a document's line names; the number of all stands behind them."""


@dataclass(frozen=True, kw_only=True)
class Decontaminate:
    """Documents stay that share no run of `words` words with an item of an evaluation set.

    After GPT-3's appendix C (Brown et al. 2020, https://arxiv.org/abs/2005.14165), which ignores
    case, punctuation and white space too, and takes runs of 13 words, of 8 for short items. Ours
    leaves out the whole document, where theirs cut out 200 characters on each side, and has no
    exception for runs that many documents have.

    A `.jsonl` file has an item a line, all of whose strings, at any depth, are looked for each by
    itself, or those of `fields` alone; any other file has an item a line of text. A string of fewer
    words than a run is looked for as a whole, unless it has fewer than `least_words`: those are
    counted in the summary.

    Memory: about 250 bytes a word of the sets; the documents are not held.

    Raises:
        ConfigError: There are no files, or the numbers of words are out of range.
    """

    files: tuple[Path, ...] = field(metadata=NOT_RECORDED)
    """Their names and digests are recorded, wherever they lie."""
    fields: tuple[str, ...] = ()
    words: int = 13
    least_words: int = 8
    name: str = "decontaminate"

    def __post_init__(self) -> None:
        if not self.files:
            raise ConfigError("decontaminate: names no files; give the evaluation sets")
        if not 1 <= self.least_words <= self.words:
            raise ConfigError(
                f"decontaminate: words={self.words}, least_words={self.least_words}: expected "
                "1 <= least_words <= words"
            )

    def __call__(self, inputs: Inputs, out: Path, *, progress: bool = True) -> Summary:
        """Write the documents that share nothing; see `refine`."""
        return refine(self, inputs, out, progress=progress)

    def context(self) -> Mapping[str, Any]:
        """Return the digest of each file, and what was found in them.

        Raises:
            DataError: A file cannot be read, or none has anything to look for.
        """
        runs, strings, too_short = self._index
        if not runs:
            raise DataError(
                f"decontaminate: none of {strings} strings in {len(self.files)} files has "
                f"{self.least_words} words; there is nothing to look for"
            )
        digests = [
            [file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in self.files
        ]
        return {
            "files": digests,
            "strings": strings,
            "strings too short to look for": too_short,
            "runs of words": len(runs),
        }

    def look(self, records: Sequence[Record]) -> list[Any]:
        """Return of each document how many items it shares a run with, and the first of them."""
        found = [self.matches(record.document.text) for record in records]
        return [[len(items), items[:NAMED]] for items in found]

    def decide(self, facts: Iterable[Any]) -> Iterator[Verdict]:
        """Yield the matches as reasons."""
        for count, items in facts:
            if not count:
                yield Verdict()
                continue
            named = [f"{item} ({run!r})" for item, run in items]
            more = [f"and {count - NAMED} more"] if count > NAMED else []
            yield Verdict("in an evaluation set", "; ".join([*named, *more]))

    def matches(self, text: str) -> list[tuple[str, str]]:
        """Return the items that share a run of words with a text, each with the first run."""
        runs, _, _ = self._index
        words = words_of(text)
        found: dict[str, str] = {}
        for size in self._sizes:
            if len(words) < size:
                continue
            for gram in grams(words, size):
                for item in runs.get(gram, ()):
                    found.setdefault(item, gram)
        return sorted(found.items())

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        """The lengths of the runs there are, the longest first."""
        runs, _, _ = self._index
        return tuple(sorted({gram.count(" ") + 1 for gram in runs}, reverse=True))

    @cached_property
    def _index(self) -> tuple[Mapping[str, list[str]], int, int]:
        """The items by their runs of words; the number of strings, and of those too short."""
        runs: dict[str, list[str]] = {}
        strings, too_short = 0, 0
        for file in self.files:
            for item, text in self._strings(file):
                strings += 1
                words = words_of(text)
                if len(words) < self.least_words:
                    too_short += 1
                    continue
                for gram in grams(words, self.words):
                    items = runs.setdefault(gram, [])
                    if items[-1:] != [item]:  # an item's strings follow each other
                        items.append(item)
        return runs, strings, too_short

    def _strings(self, file: Path) -> Iterator[tuple[str, str]]:
        if file.name.endswith((".jsonl", ".jsonl.gz")):
            for number, row in json_objects(file):
                where = f"{file.name}:{number}"
                if isinstance(row, str):
                    raise DataError(f"{file}:{number}: {row}")
                for name in self.fields:
                    if name not in row:
                        raise DataError(f"{file}:{number}: has no {name!r} (it has: {list(row)})")
                wanted = [row[name] for name in self.fields] if self.fields else row
                yield from ((where, text) for text in _texts(wanted))
            return
        try:
            lines = file.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: cannot be read as an evaluation set ({error})") from error
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{file.name}:{number}", line


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)

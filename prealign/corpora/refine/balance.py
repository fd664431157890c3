"""Leave out documents of the values that there are too many of."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prealign.corpora.refine.folder import Inputs, Summary, refine
from prealign.corpora.refine.step import Record, Verdict
from prealign.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class Balance:
    """At most so many documents of each value stay, drawn by a hash of their ids and the seed.

    Which stay does not depend on the order of the shards, and more of one value does not change
    which stay of another. Memory while it decides: about 200 bytes a document.

    Raises:
        ConfigError: `most` or `times` is out of range, or both are given.
    """

    key: str
    """`mode` (the modes of the document's spans, as `ai+human`), `source`, or what its line of
    provenance has: a slot of the item it was written for, such as `persona`, or `step`, `model`."""
    most: int | None = None
    """Documents of a value. None: as many as the rarest value has, `times` over."""
    times: float = 1.0
    seed: int = 0
    name: str = "balance"

    def __post_init__(self) -> None:
        if self.most is not None and (self.most < 1 or self.times != 1.0):
            raise ConfigError(
                f"balance: most={self.most}, times={self.times}: give a number of documents from "
                "1, or times; not both"
            )
        if not 1 <= self.times < 1e9:
            raise ConfigError(f"balance: times={self.times}: must be at least 1")

    def __call__(self, inputs: Inputs, out: Path, *, progress: bool = True) -> Summary:
        """Write the documents that stay; see `refine`."""
        return refine(self, inputs, out, progress=progress)

    def context(self) -> Mapping[str, Any]:
        """Return nothing: the settings say all."""
        return {}

    def look(self, records: Sequence[Record]) -> list[Any]:
        """Return the value and the place in the draw of each document."""
        return [[self.value(record), self._place(record.document.id)] for record in records]

    def decide(self, facts: Iterable[Any]) -> Iterator[Verdict]:
        """Yield whether each document is among those drawn."""
        places: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
        for index, (value, place) in enumerate(facts):
            places[value].append((place, index))
        if not places:
            return
        rarest = min(len(found) for found in places.values())
        most = self.most if self.most is not None else int(rarest * self.times)
        stays = {index for found in places.values() for _, index in sorted(found)[:most]}
        counts = Counter({value: len(found) for value, found in places.items()})
        for index, (value, _) in enumerate(facts):
            if index in stays:
                yield Verdict()
            else:
                yield Verdict(
                    f"too many with {self.key}={value}", f"{most} of {counts[value]} stay"
                )

    def value(self, record: Record) -> str:
        """Return what a document is counted as.

        Raises:
            DataError: It has no such thing.
        """
        document, row = record
        if self.key == "mode":
            modes = {span.mode or "none" for span in document.spans}
            return "+".join(sorted(modes)) or "none"
        slots = row.get("slots") or {}
        known = {"source": document.source, **row, **slots}
        value = known.get(self.key)
        if not isinstance(value, str | int | float) or value == "":
            names = sorted({"mode", *(k for k, v in known.items() if isinstance(v, str | int))})
            raise DataError(
                f"document {document.id!r}: has no {self.key!r} to be balanced by "
                f"(it has: {', '.join(names)})"
            )
        return str(value)

    def _place(self, id: str) -> str:
        text = f"{self.seed}\0{id}".encode(errors="surrogatepass")
        return hashlib.sha256(text).hexdigest()[:24]

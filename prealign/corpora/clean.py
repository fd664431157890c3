"""Cleaning: which documents are left out of a corpus, and the count of each reason."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prealign.corpora.rejects import Rejects as Rejects
from prealign.errors import ConfigError, MissingDependency
from prealign.text.document import Document

try:
    from datasketch import MinHash, MinHashLSH
except ImportError:
    MinHash = None

GENERATED = re.compile(
    r"@generated|auto-?generated|automatically generated|generated (?:automatically|by|from|with)"
    r"|do not edit",
    re.IGNORECASE,
)
HEAD_LINES = 10
"""Where a generated file says so."""

Check = Callable[[Document], tuple[str, str] | None]
"""Gives the reason to leave a document out and the particulars; None: keep it."""


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What is left out, besides texts that are not UTF-8 or hold null characters.

    Checks run from cheap to dear; the first that fails counts.
    """

    min_chars: int = 500
    max_chars: int = 60_000
    generated: bool = False
    """Keep files whose first lines say that a program wrote them."""
    exact_duplicates: bool = False
    """Keep documents whose text is that of an earlier one."""
    near_duplicates: bool = True
    """Leave out documents that share most shingles of lines with an earlier one."""
    near_jaccard: float = 0.7
    """The share of shingles in common, estimated, from which on a document is a near-duplicate."""
    shingle_lines: int = 3
    """Lines in a shingle; white space around lines and empty lines do not count."""
    permutations: int = 64
    """Of MinHash; the error of the estimate is about 1 / sqrt(permutations)."""


def clean(
    documents: Iterable[Document], settings: Cleaning, rejects: Rejects
) -> Iterator[Document]:
    """Yield the documents that pass; the others are added to `rejects`.

    Raises:
        ConfigError: A setting is out of its range.
        MissingDependency: Near-duplicates are asked for without the package that finds them.
    """
    checks: list[Check] = [_unicode, _null, _Size(settings.min_chars, settings.max_chars)]
    if not settings.generated:
        checks.append(_generated)
    if not settings.exact_duplicates:
        checks.append(_Seen())
    if settings.near_duplicates:
        checks.append(_NearSeen(settings))
    return _pass(documents, checks, rejects)


def _pass(
    documents: Iterable[Document], checks: list[Check], rejects: Rejects
) -> Iterator[Document]:
    for document in documents:
        for check in checks:
            reason = check(document)
            if reason is not None:
                rejects.add(reason[0], f"{document.id}: {reason[1]}")
                break
        else:
            yield document


def _unicode(document: Document) -> tuple[str, str] | None:
    try:
        document.text.encode()
    except UnicodeEncodeError as error:
        return "not UTF-8", f"character {error.start} is {document.text[error.start]!r}"
    return None


def _null(document: Document) -> tuple[str, str] | None:
    at = document.text.find("\0")
    return ("null character", f"at character {at}") if at >= 0 else None


def _generated(document: Document) -> tuple[str, str] | None:
    head = "\n".join(document.text[:4000].split("\n", HEAD_LINES)[:HEAD_LINES])
    found = GENERATED.search(head)
    return ("generated", f"its head says {found.group()!r}") if found else None


@dataclass(frozen=True)
class _Size:
    min_chars: int
    max_chars: int

    def __post_init__(self) -> None:
        if not 0 <= self.min_chars <= self.max_chars:
            raise ConfigError(
                f"min_chars={self.min_chars}, max_chars={self.max_chars}: "
                "expected 0 <= min_chars <= max_chars"
            )

    def __call__(self, document: Document) -> tuple[str, str] | None:
        size = len(document.text)
        if size < self.min_chars:
            return "too short", f"{size} characters, at least {self.min_chars}"
        if size > self.max_chars:
            return "too long", f"{size} characters, at most {self.max_chars}"
        return None


class _Seen:
    """Finds a text that was there before."""

    def __init__(self) -> None:
        self._first: dict[bytes, str] = {}

    def __call__(self, document: Document) -> tuple[str, str] | None:
        digest = hashlib.sha256(document.text.encode()).digest()
        if digest in self._first:
            return "duplicate", f"has the text of {self._first[digest]}"
        self._first[digest] = document.id
        return None


class _NearSeen:
    """Finds a text most of whose line shingles were in one text before (MinHash with LSH)."""

    def __init__(self, settings: Cleaning) -> None:
        if MinHash is None:
            raise MissingDependency(
                "near-duplicates need the package datasketch: "
                'pip install "prealign[dedup]", or set near_duplicates=false'
            )
        if not 0 < settings.near_jaccard <= 1 or settings.shingle_lines < 1:
            raise ConfigError(
                f"near_jaccard={settings.near_jaccard}, shingle_lines={settings.shingle_lines}: "
                "expected a share above 0 and at most 1, and at least 1 line"
            )
        self._settings = settings
        self._empty = MinHash(num_perm=settings.permutations, seed=1)
        self._index = MinHashLSH(threshold=settings.near_jaccard, num_perm=settings.permutations)
        self._kept: list[tuple[str, Any]] = []

    def __call__(self, document: Document) -> tuple[str, str] | None:
        shingles = self._shingles(document.text)
        if not shingles:
            return None
        sketch = self._empty.copy()
        sketch.update_batch(shingles)
        for key in sorted(self._index.query(sketch)):
            name, other = self._kept[key]
            jaccard = sketch.jaccard(other)
            if jaccard >= self._settings.near_jaccard:
                return "near-duplicate", f"shares about {jaccard:.0%} of its lines with {name}"
        self._index.insert(len(self._kept), sketch)
        self._kept.append((document.id, sketch))
        return None

    def _shingles(self, text: str) -> list[bytes]:
        lines = [line for raw in text.split("\n") if (line := raw.strip())]
        size = self._settings.shingle_lines
        count = max(len(lines) - size + 1, 1 if lines else 0)
        return ["\n".join(lines[at : at + size]).encode() for at in range(count)]

"""Leave out documents whose text was there before, exactly or nearly."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from prealign.corpora.refine.folder import Inputs, Summary, refine
from prealign.corpora.refine.step import Record, Verdict, grams, plain, words_of
from prealign.errors import ConfigError

PRIME = 4_294_967_311
"""The first above 2**32; products of it with numbers below 2**31 fit 64 bits."""
SURE = 0.99
"""How likely two documents of just the wanted similarity must be to be compared."""
AT_ONCE = 4096
"""Shingles that are hashed at once: bounds the memory of a long document to 4 MB."""


@dataclass(frozen=True, kw_only=True)
class Deduplicate:
    """The first document of each text stays.

    Two texts are the same if they are so with case folded, compatible characters made one and
    white space made single. They are nearly the same if the sets of their shingles, runs of `words`
    words, have a Jaccard similarity of `near` or more, as MinHash estimates it (Broder 1997): the
    share of `permutations` random orders in which both have the same first shingle. Its standard
    error is sqrt(J (1 - J) / permutations), 0.035 for J = 0.8. Which are compared is found by
    banding (LSH), of as many rows as let a pair of just that similarity be missed in 1 % of the
    cases. Documents are compared with those that stayed, in order; the modes do not count.

    Memory while it decides: about 4 kB a document that stays; texts are not held.

    Raises:
        ConfigError: A setting is out of its range.
    """

    near: float | None = 0.8
    """The similarity from which on a document is left out; None: only the same texts."""
    words: int = 5
    """Of a shingle; a shorter text is one shingle."""
    permutations: int = 128
    name: str = "deduplicate"

    def __post_init__(self) -> None:
        if (self.near is not None and not 0.1 <= self.near <= 1) or self.words < 1:
            raise ConfigError(
                f"deduplicate: near={self.near}, words={self.words}: expected a similarity from "
                "0.1 to 1 (or none), and at least 1 word"
            )
        if not 16 <= self.permutations <= 1024:
            raise ConfigError(f"deduplicate: permutations={self.permutations}: expected 16 to 1024")

    def __call__(self, inputs: Inputs, out: Path, *, progress: bool = True) -> Summary:
        """Write the documents that are new; see `refine`."""
        return refine(self, inputs, out, progress=progress)

    def context(self) -> Mapping[str, Any]:
        """Return nothing: the settings say all."""
        return {}

    def look(self, records: Sequence[Record]) -> list[Any]:
        """Return id, digest of the text and signature of each document."""
        facts = []
        for document, _ in records:
            digest = hashlib.sha256(plain(document.text).encode(errors="surrogatepass"))
            fact: dict[str, Any] = {"id": document.id, "exact": digest.hexdigest()[:32]}
            if self.near is not None:
                signature = self.signature(document.text)
                fact["near"] = None if signature is None else signature.tolist()
            facts.append(fact)
        return facts

    def decide(self, facts: Iterable[Any]) -> Iterator[Verdict]:
        """Yield whether each document's text was there before, and where."""
        seen: dict[str, str] = {}
        kept: list[tuple[str, np.ndarray]] = []
        buckets: dict[bytes, list[int]] = {}
        for fact in facts:
            first = seen.get(fact["exact"])
            if first is not None:
                yield Verdict("duplicate", f"has the text of {first}")
                continue
            if fact.get("near") is None:
                seen[fact["exact"]] = fact["id"]
                yield Verdict()
                continue
            signature = np.array(fact["near"], np.uint32)
            bands = self._bands(signature)
            verdict = self._compared(signature, bands, kept, buckets)
            if verdict.reason is None:
                seen[fact["exact"]] = fact["id"]
                for band in bands:
                    buckets.setdefault(band, []).append(len(kept))
                kept.append((fact["id"], signature))
            yield verdict

    def signature(self, text: str) -> np.ndarray | None:
        """Return the least hash of the shingles under each permutation; None: there are no words.

        Returns:
            uint32, (permutations,). Two are alike in as large a share of places as the sets of
            shingles are similar, on average.
        """
        shingles = {
            int.from_bytes(
                hashlib.blake2b(gram.encode(errors="surrogatepass"), digest_size=4).digest()
            )
            for gram in grams(words_of(text), self.words)
        }
        if not shingles:
            return None
        hashes_S = np.fromiter(shingles, np.uint64, len(shingles))
        times_P1, plus_P1 = self._orders
        least_P = np.full(self.permutations, PRIME, np.uint64)
        for at in range(0, len(hashes_S), AT_ONCE):
            order_PS = (times_P1 * hashes_S[at : at + AT_ONCE] + plus_P1) % np.uint64(PRIME)
            least_P = np.minimum(least_P, order_PS.min(axis=1))
        return least_P.astype(np.uint32)  # which folds 15 of 4 billion values onto others

    @cached_property
    def rows(self) -> int:
        """Rows of a band: the most with which the similarity `near` is found surely enough."""
        near = self.near or 1.0
        fine = [
            rows
            for rows in range(1, self.permutations + 1)
            if 1 - (1 - near**rows) ** (self.permutations // rows) >= SURE
        ]
        return max(fine, default=1)

    @cached_property
    def _orders(self) -> tuple[np.ndarray, np.ndarray]:
        def numbers(what: str) -> np.ndarray:
            digests = (
                hashlib.sha256(f"{what} {index}".encode()).digest()
                for index in range(self.permutations)
            )
            values = [1 + (int.from_bytes(digest[:4]) >> 1) % (2**31 - 1) for digest in digests]
            return np.array(values, np.uint64)[:, None]

        return numbers("times"), numbers("plus")

    def _bands(self, signature: np.ndarray) -> list[bytes]:
        count = self.permutations // self.rows
        return [
            bytes([band % 256, band // 256])
            + signature[band * self.rows : (band + 1) * self.rows].tobytes()
            for band in range(count)
        ]

    def _compared(
        self,
        signature: np.ndarray,
        bands: Sequence[bytes],
        kept: Sequence[tuple[str, np.ndarray]],
        buckets: Mapping[bytes, Sequence[int]],
    ) -> Verdict:
        for index in sorted({index for band in bands for index in buckets.get(band, ())}):
            name, other = kept[index]
            similarity = float((signature == other).mean())
            if self.near is not None and similarity >= self.near:
                return Verdict("near-duplicate", f"about {similarity:.0%} of it is in {name}")
        return Verdict()

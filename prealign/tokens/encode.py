"""Documents to ids, with the mode, score and kind of every token.

The whole text is encoded once, so tags never change its tokens; the tags are then spliced in by
offset, where `prealign.text.markup` puts them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prealign.errors import ConfigError
from prealign.text.document import Document
from prealign.text.markup import tagged
from prealign.tokens.vocabulary import Vocabulary, check_encodable

TAG, END, SCORED, PAD = 1, 2, 4, 8
"""Flags of a token: a tag; end of text; its span has a score; padding."""


class EncodedDocument(NamedTuple):
    """One document as tokens; all arrays are [L]."""

    ids: NDArray[np.int32]
    mode: NDArray[np.uint8]
    """1 + the index of the token's mode in the scheme; 0: none."""
    score: NDArray[np.float32]
    """The score of the token's span; 0 where it has none (see the SCORED flag)."""
    flags: NDArray[np.uint8]
    num_shifted: int
    """Tags that wait for the next token, as their segment begins inside of one."""


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Encodes documents; call it with a batch of them."""

    vocabulary: Vocabulary
    score: str | None = None
    """The scorer whose scores the tokens carry."""
    tagging: Literal["own", "none"] = "own"
    """Whether spans get the tags of their modes."""
    all_mode: str | None = None
    """Every span is tagged with this mode instead: the "all good" reading."""
    dropout_share: float = 0.0
    """Share of spans that go untagged, so that untagged text is in distribution."""
    seed: int = 0
    """Of the dropout."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout_share <= 1:
            raise ConfigError(f"Encoder.dropout_share={self.dropout_share}: must be in [0, 1]")
        closing = [mode.name for mode in self.vocabulary.scheme.modes if mode.close]
        if self.dropout_share and closing:
            raise ConfigError(
                f"Encoder.dropout_share={self.dropout_share}: mode {closing[0]!r} encloses its "
                "text, and dropping one of its two tags would leave the other alone; "
                "dropout is for modes that mark"
            )
        if self.all_mode is not None:
            self.vocabulary.scheme.mode(self.all_mode)

    def __call__(self, documents: Sequence[Document]) -> list[EncodedDocument]:
        """Return each document's tokens, the end-of-text id first."""
        texts = [document.text for document in documents]
        check_encodable(texts)
        encodings = self.vocabulary.tokenizer.encode_batch(texts)
        pairs = zip(documents, encodings, strict=True)
        return [self._splice(document, encoding) for document, encoding in pairs]

    def _splice(self, document: Document, encoding: object) -> EncodedDocument:
        vocabulary, scheme = self.vocabulary, self.vocabulary.scheme
        text_ids = np.asarray(encoding.ids, dtype=np.int32)  # type: ignore[attr-defined]
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)  # type: ignore[attr-defined]
        starts = offsets[:, 0]
        if self.all_mode is not None:
            document = document.with_modes([self.all_mode] * len(document.spans))
        borders = np.array([span.start_char for span in document.spans], dtype=np.int64)
        # A character of several bytes can be several tokens, all starting where it does: the tag
        # goes in front of the first of them.
        cuts = np.searchsorted(starts, borders, side="left")
        inside = (
            (cuts < len(starts)) & (starts[np.minimum(cuts, len(starts) - 1)] != borders)
            if (len(starts))
            else np.zeros(len(borders), dtype=bool)
        )
        ends = np.append(cuts[1:], len(text_ids)) if len(cuts) else cuts
        ids: list[NDArray[np.int32]] = [np.array([vocabulary.end_id], dtype=np.int32)]
        columns: list[tuple[int, int, float, int]] = [
            (1, 0, 0.0, END)
        ]  # length, mode, score, flags
        if not document.spans:
            ids.append(text_ids)
            columns.append((len(text_ids), 0, 0.0, 0))
        index = {mode.name: i + 1 for i, mode in enumerate(scheme.modes)}
        shifted = 0
        for number, (tags, span) in enumerate(tagged(document, scheme)):
            mode = index[span.mode] if span is not None and span.mode is not None else 0
            value = span.scores.get(self.score) if span is not None and self.score else None
            score, flags = (0.0, 0) if value is None else (value, SCORED)
            if tags and self._keeps(document.id, number):
                ids.append(np.array([vocabulary.tag_ids[tag] for tag in tags], dtype=np.int32))
                columns.append((len(tags), mode, score, flags | TAG))
                shifted += bool(span is not None and inside[number])
            if span is not None:
                piece = text_ids[cuts[number] : ends[number]]
                ids.append(piece)
                columns.append((len(piece), mode, score, flags))
        lengths = [column[0] for column in columns]
        return EncodedDocument(
            np.concatenate(ids),
            np.repeat(np.array([c[1] for c in columns], dtype=np.uint8), lengths),
            np.repeat(np.array([c[2] for c in columns], dtype=np.float32), lengths),
            np.repeat(np.array([c[3] for c in columns], dtype=np.uint8), lengths),
            shifted,
        )

    def _keeps(self, document_id: str, span: int) -> bool:
        """Return whether the tags in front of a span are written."""
        if self.tagging == "none" and self.all_mode is None:
            return False
        if self.dropout_share == 0:
            return True
        return uniform(document_id, span, self.seed) >= self.dropout_share


def uniform(document_id: str, span: int, seed: int) -> float:
    """Return a number in [0, 1) that depends on its arguments alone, on every machine."""
    key = f"{seed}\0{span}\0{document_id}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=7).digest()) / 2**56

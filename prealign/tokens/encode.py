"""A document as ids: its whole text encoded once, and the tags spliced in where spans begin.

    <end> <tag> tok tok tok <tag> tok tok ...

Encoding span by span would give the text other tokens than it has in a prompt, so the text is
encoded as a whole and each tag goes in front of the first token that starts at or after its
border. Tokens and text are both sequences of bytes, so a token's place in the text is the sum of
the bytes before it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prealign.errors import ConfigError, DataError
from prealign.text.document import Document, Span
from prealign.text.markup import tagged
from prealign.tokens.vocabulary import Vocabulary

TAG = 1
"""Flag of a token: it is a tag."""
END = 2
"""Flag: it is the end of text."""
SCORED = 4
"""Flag: its span has a score."""
PAD = 8
"""Flag: padding of a last row (`prealign.tokens.pack`)."""
WHOLE = -1
"""The index of a span that stands for the whole document, where something is hashed."""
MAX_SCORE = float(np.finfo(np.float32).max)


class EncodedDocument(NamedTuple):
    """One document as L tokens; all arrays have the shape [L]."""

    ids: NDArray[np.int32]
    mode: NDArray[np.uint8]
    """1 + the index of the mode in the scheme; 0: none. A closing tag has the mode it closes."""
    score: NDArray[np.float32]
    """Of the token's span, and on a tag of the span it opens; 0 where SCORED is not set."""
    flags: NDArray[np.uint8]
    """TAG, END and SCORED, or-ed."""
    num_shifted: int
    """Tags that had to wait because a border between spans lay inside a token."""


class _Mark(NamedTuple):
    """A tag, or the text of a span, from a character on."""

    start_char: int
    id: int
    mode: int
    score: float | None


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Turns documents into ids with mode, score and flags per token.

    Tags are conditional training's control tokens (Korbak et al. 2023,
    https://arxiv.org/abs/2302.08582). Unlike there, the tags do not change the tokens of the
    text, and whether one is dropped is no random draw but a hash of document, span and seed: the
    same with any number of workers, in any order, and after a resume.

    Raises:
        DataError: `all_mode` is not in the scheme.
        ConfigError: A share is not in [0, 1], `dropout_share` above 0 with modes that enclose, or
            `all_mode` is given together with `tagging="none"`.
    """

    vocabulary: Vocabulary
    score: str | None = None
    """Which of the spans' scores is carried; None: no score."""
    tagging: Literal["own", "none"] = "own"
    """own: the tags of the spans' modes; none: no tags, but the modes are still recorded."""
    all_mode: str | None = None
    """Give every span this one mode instead of its own, as in "all good"."""
    dropout_share: float = 0.0
    """Share of spans that get no tag, so that untagged text is not foreign to the model."""
    bare_documents_share: float = 0.0
    """Share of documents that get no tag at all. Dropping single tags leaves hardly any long
    stretch without one, so a model that is to read untagged text needs such documents."""
    seed: int = 0
    """Of the dropout."""

    def __post_init__(self) -> None:
        scheme = self.vocabulary.scheme
        if self.tagging not in ("own", "none"):
            raise ConfigError(f"tagging={self.tagging!r}: expected own or none")
        if self.all_mode is not None:
            scheme.mode(self.all_mode)
            if self.tagging == "none":
                raise ConfigError(
                    f"all_mode={self.all_mode!r} says which tags to write, tagging='none' to write "
                    "none; drop one of them"
                )
        for name in ("dropout_share", "bare_documents_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected a share in [0, 1]")
        enclosing = [mode.name for mode in scheme.modes if mode.close]
        if self.dropout_share > 0 and enclosing:
            raise ConfigError(
                f"dropout_share={self.dropout_share}: mode {enclosing[0]!r} of scheme "
                f"{scheme.name!r} encloses its text; without its opening tag the closing tag "
                "would close nothing. Use modes that only mark, or dropout_share=0"
            )

    def __call__(self, documents: Sequence[Document]) -> list[EncodedDocument]:
        """Return the documents as ids, in order. All of them are held in memory at once.

        Raises:
            DataError: A text has a lone surrogate, a mode stands where the scheme forbids it, or
                a score is not a finite float32.
        """
        names = [f"document {document.id!r}" for document in documents]
        texts = [document.text for document in documents]
        encoded = self.vocabulary.encode_arrays(texts, names)
        return [self._splice(doc, ids) for doc, ids in zip(documents, encoded, strict=True)]

    def _splice(self, document: Document, text_ids: NDArray[np.int32]) -> EncodedDocument:
        """Lay out one document, given the ids of its text."""
        starts = np.zeros(len(text_ids) + 1, dtype=np.int64)
        np.cumsum(self.vocabulary.token_bytes[text_ids], out=starts[1:])
        tags, spans = self._marks(document)
        tag_bytes = char_to_byte(document.text, [tag.start_char for tag in tags])
        span_bytes = char_to_byte(document.text, [span.start_char for span in spans])
        tag_at = np.searchsorted(starts, tag_bytes)
        lengths = np.diff(np.searchsorted(starts, span_bytes), append=len(text_ids))
        # Each tag is pushed to the right by the end of text and by the tags before it.
        tag_to = 1 + tag_at + np.arange(len(tags))
        is_text = np.ones(1 + len(text_ids) + len(tags), dtype=bool)
        is_text[0] = False
        is_text[tag_to] = False

        out = EncodedDocument(
            ids=np.empty(len(is_text), dtype=np.int32),
            mode=np.zeros(len(is_text), dtype=np.uint8),
            score=np.zeros(len(is_text), dtype=np.float32),
            flags=np.zeros(len(is_text), dtype=np.uint8),
            num_shifted=int((starts[tag_at] != tag_bytes).sum()),
        )
        out.ids[0], out.flags[0] = self.vocabulary.end_id, END
        out.ids[is_text] = text_ids
        out.ids[tag_to] = [tag.id for tag in tags]
        out.flags[tag_to] = TAG
        for where, marks, repeats in ((tag_to, tags, 1), (is_text, spans, lengths)):
            if marks:
                scored = [SCORED * (mark.score is not None) for mark in marks]
                out.mode[where] = np.repeat([mark.mode for mark in marks], repeats)
                out.score[where] = np.repeat([mark.score or 0.0 for mark in marks], repeats)
                out.flags[where] |= np.repeat(np.array(scored, dtype=np.uint8), repeats)
        return out

    def _marks(self, document: Document) -> tuple[list[_Mark], list[_Mark]]:
        """Return the tags and the spans of a document, in order."""
        if self.all_mode is not None:
            mode = self.all_mode
            spans = tuple(span._replace(mode=mode, resumes=False) for span in document.spans)
            document = replace(document, spans=spans)
        tags: list[_Mark] = []
        texts: list[_Mark] = []
        kept = self._kept(document)
        for index, (literals, span) in enumerate(tagged(document, self.vocabulary.scheme)):
            at = len(document.text) if span is None else span.start_char
            score = None if span is None else self._score(document, index, span)
            if self.tagging == "own" and next(kept):
                for literal in literals:
                    tag_id, mode_index, opens = self._tags[literal]
                    tags.append(_Mark(at, tag_id, mode_index, score if opens else None))
            if span is not None:
                texts.append(_Mark(at, -1, self._modes[span.mode], score))
        return tags, texts

    def _kept(self, document: Document) -> Iterator[bool]:
        """Yield whether the tags in front of each span are kept, and those behind the last."""
        bare = self.bare_documents_share
        if bare > 0 and uniform(document.id, WHOLE, self.seed) < bare:
            yield from repeat(False, len(document.spans) + 1)
            return
        for index in range(len(document.spans)):
            share = self.dropout_share
            yield share == 0 or uniform(document.id, index, self.seed) >= share
        yield True

    def _score(self, document: Document, index: int, span: Span) -> float | None:
        value = None if self.score is None else span.scores.get(self.score)
        if value is not None and not abs(value) <= MAX_SCORE:
            raise DataError(
                f"document {document.id!r}, span {index}: score {self.score!r} is {value}; "
                f"allowed: a number within +-{MAX_SCORE:.3g}, or None"
            )
        return value

    @cached_property
    def _modes(self) -> dict[str | None, int]:
        modes = self.vocabulary.scheme.modes
        return {None: 0} | {mode.name: 1 + i for i, mode in enumerate(modes)}

    @cached_property
    def _tags(self) -> dict[str, tuple[int, int, bool]]:
        """Id, mode index, and whether it opens, by the literal of a tag."""
        ids = self.vocabulary.tag_ids
        return {
            tag: (ids[tag], self._modes[mode.name], tag == mode.open)
            for mode in self.vocabulary.scheme.modes
            for tag in mode.tags
        }


def uniform(document_id: str, span_index: int, seed: int) -> float:
    """Return a number in [0, 1) that depends on the three alone, on any machine."""
    name = document_id.encode(errors="surrogatepass")
    key = f"{seed} {span_index} ".encode()
    digest = hashlib.blake2b(key + name, digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def char_to_byte(text: str, chars: Sequence[int]) -> NDArray[np.int64]:
    """Return where in the text's UTF-8 bytes these characters begin, int64, [len(chars)]."""
    if text.isascii():
        return np.array(chars, dtype=np.int64)
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    starts = np.zeros(len(points) + 1, dtype=np.int64)
    widths = 1 + (points >= 0x80) + (points >= 0x800).astype(np.int64) + (points >= 0x10000)
    np.cumsum(widths, out=starts[1:])
    return starts[np.array(chars, dtype=np.int64)]

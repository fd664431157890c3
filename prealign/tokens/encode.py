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
NO_TAG = -1
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
    """Of the tag; of a span, that of the tag in front of it, or `NO_TAG`."""
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
        ConfigError: A share is not in [0, 1], tags are to be dropped, repeated or put inline with
            modes that enclose, or `all_mode` is given together with `tagging="none"`.
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
    again_every_tokens: int | None = None
    """A span's tag stands again after each so many of its text tokens; None: only in front. With
    at most half a row, a row that begins within a long span soon reads which one (CTRL, Keskar et
    al. 2019, puts its codes into every window)."""
    inline_share: float | None = None
    """Tags stand in front of this share of the text tokens of `inline_modes`, chosen by a hash,
    and nowhere else; None: in front of spans. Maini et al. 2025
    (https://arxiv.org/abs/2504.16980) take 0.05, in unsafe text alone."""
    inline_modes: tuple[str, ...] = ()
    """Modes whose spans get tags where `inline_share` is given."""
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
        if self.inline_share is not None and not 0 < self.inline_share <= 1:
            raise ConfigError(f"inline_share={self.inline_share}: expected a share in (0, 1]")
        if (self.inline_share is None) != (not self.inline_modes):
            raise ConfigError(
                f"inline_share={self.inline_share} with inline_modes={self.inline_modes}: give both"
            )
        for name in self.inline_modes:
            scheme.mode(name)
        if self.again_every_tokens is not None and self.again_every_tokens < 1:
            raise ConfigError(f"again_every_tokens={self.again_every_tokens}: must be at least 1")
        enclosing = [mode.name for mode in scheme.modes if mode.close]
        moved = ("dropout_share", "again_every_tokens", "inline_share")
        for name in moved if enclosing else ():
            if getattr(self, name):
                raise ConfigError(
                    f"{name}={getattr(self, name)}: mode {enclosing[0]!r} of scheme "
                    f"{scheme.name!r} encloses its text, so that each opening tag needs its "
                    "closing tag. Use modes that only mark, or leave it out"
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
        in_front = self.inline_share is None
        num_shifted = int((starts[tag_at] != tag_bytes).sum()) if in_front else 0
        span_at = np.searchsorted(starts, span_bytes)
        lengths = np.diff(span_at, append=len(text_ids))
        if self.inline_share is not None or self.again_every_tokens is not None:
            tags, tag_at = self._with_more(document, (tags, tag_at), spans, span_at, lengths)
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
            num_shifted=num_shifted,
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
            opening = NO_TAG
            if self.tagging == "own" and next(kept):
                for literal in literals:
                    tag_id, mode_index, opens = self._tags[literal]
                    tags.append(_Mark(at, tag_id, mode_index, score if opens else None))
                    opening = tag_id if opens else opening
            if span is not None:
                texts.append(_Mark(at, opening, self._modes[span.mode], score))
        return tags, texts

    def _with_more(
        self,
        document: Document,
        tags: tuple[list[_Mark], NDArray[np.int64]],
        spans: list[_Mark],
        span_at: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> tuple[list[_Mark], NDArray[np.int64]]:
        """Return the tags and the token each stands in front of, with those inside spans."""
        marks, at = list(tags[0]), tags[1]
        if self.inline_share is not None:
            marks, at = [], at[:0]
            inline = {self._modes[name] for name in self.inline_modes}
            chosen = uniform_tokens(document.id, int(lengths.sum()), self.seed) < self.inline_share
        places = [at]
        for span, first, length in zip(spans, span_at.tolist(), lengths.tolist(), strict=True):
            if span.id == NO_TAG:
                continue
            if self.inline_share is None:
                more = np.arange(first, first + length, self.again_every_tokens)[1:]
            elif span.mode in inline:
                more = first + np.flatnonzero(chosen[first : first + length])
            else:
                continue
            marks.extend([span] * len(more))
            places.append(more)
        all_at = np.concatenate(places)
        order = np.argsort(all_at, kind="stable")
        return [marks[i] for i in order], all_at[order]

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


def uniform_tokens(document_id: str, count: int, seed: int) -> NDArray[np.float64]:
    """Return `count` numbers in [0, 1) that depend on the document and the seed alone."""
    name = document_id.encode(errors="surrogatepass")
    digest = hashlib.blake2b(f"{seed} tokens ".encode() + name, digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "big"))).random(count)


def char_to_byte(text: str, chars: Sequence[int]) -> NDArray[np.int64]:
    """Return where in the text's UTF-8 bytes these characters begin, int64, [len(chars)]."""
    if text.isascii():
        return np.array(chars, dtype=np.int64)
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    starts = np.zeros(len(points) + 1, dtype=np.int64)
    widths = 1 + (points >= 0x80) + (points >= 0x800).astype(np.int64) + (points >= 0x10000)
    np.cumsum(widths, out=starts[1:])
    return starts[np.array(chars, dtype=np.int64)]

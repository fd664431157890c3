"""The vocabulary: a text tokenizer, and behind its range the ids that only the harness writes.

    [0, text_size)      text
    text_size           end of text, in front of every document
    text_size + 1 ...   the scheme's tags, in its order
    size - 1            inert: padding, never a target, always denied

Text can only encode to [0, text_size) because the tokenizer knows no other id
(`docs/design/001-spine.md`). Splicing in a tag is appending an integer.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, pre_tokenizers

from prealign.errors import DataError
from prealign.runs import write_atomic
from prealign.text.document import Document, Span
from prealign.text.scheme import Scheme, scheme_from_json
from prealign.tokens.tokenizer import check_text_tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """The ids of text and of tags."""

    tokenizer: Tokenizer
    scheme: Scheme

    def __post_init__(self) -> None:
        check_text_tokenizer(self.tokenizer)

    @cached_property
    def text_size(self) -> int:
        """Number of text tokens; every id below it is text."""
        return int(self.tokenizer.get_vocab_size())

    @property
    def end_id(self) -> int:
        """The id of end of text, which stands in front of every document."""
        return self.text_size

    @cached_property
    def tag_ids(self) -> Mapping[str, int]:
        """The id of each tag."""
        return {tag: self.text_size + 1 + i for i, tag in enumerate(self.scheme.tags)}

    @property
    def inert_id(self) -> int:
        """The last id: padding."""
        return self.size - 1

    @cached_property
    def size(self) -> int:
        """Number of ids: rows of a model's embedding."""
        return self.text_size + 2 + len(self.scheme.tags)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with the tokenizer or the scheme."""
        text = self.tokenizer.to_str() + self.scheme.fingerprint
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def open_id(self, mode: str) -> int:
        """Return the id of a mode's opening tag."""
        return self.tag_ids[self.scheme.mode(mode).open]

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of untrusted text; none of them is a tag's.

        Raises:
            DataError: The text holds a lone surrogate, which is no character.
        """
        return self.encode_texts([text])[0]

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text; see `encode_text`. Safe to call from several threads."""
        check_encodable(texts)
        return [self._text_only(encoding.ids) for encoding in self.tokenizer.encode_batch(texts)]

    def decode_text(self, ids: Sequence[int]) -> str:
        """Return the text of text ids; bytes that are not UTF-8 become U+FFFD.

        Raises:
            DataError: An id is not a text id.
        """
        return str(self.tokenizer.decode(self._text_only(ids), skip_special_tokens=False))

    def decode(self, ids: Sequence[int], *, id: str = "") -> Document:
        """Return the document that `ids` spell, up to the second end of text.

        Spans are borders for decoding: a character whose bytes a tag splits is not put together
        again. Text before the first tag has no mode.

        Raises:
            DataError: A tag stands where the scheme forbids it, or an id is unknown.
        """
        opens = {self.tag_ids[mode.open]: mode for mode in self.scheme.modes}
        closes = {self.tag_ids[mode.close]: mode for mode in self.scheme.modes if mode.close}
        texts: list[str] = []
        spans: list[Span] = []
        stack: list[str] = []
        pending: list[int] = []
        mode, resumes, started, at = None, False, False, 0

        def flush() -> None:
            nonlocal at
            text = self.decode_text(pending)
            if text or started:
                texts.append(text)
                spans.append(Span(at, at + len(text), mode, resumes=resumes))
                at += len(text)
            pending.clear()

        body = list(ids)[1:] if ids and ids[0] == self.end_id else list(ids)
        for token in body:
            if token == self.end_id:
                break
            if token < self.text_size:
                pending.append(token)
                continue
            flush()
            outer = stack[-1] if stack else None
            if token in opens and opens[token].inside == outer:
                mode, resumes, started = opens[token].name, False, True
                stack += [mode] if opens[token].close else []
            elif token in closes and closes[token].name == outer:
                stack.pop()
                mode = stack[-1] if stack else None
                resumes, started = mode is not None, False
            else:
                raise DataError(f"document {id!r}: id {token} may not stand in mode {outer!r}")
        flush()
        text = "".join(texts)
        plain = all(span.mode is None for span in spans)
        return Document(id, text, () if plain and len(spans) < 2 else tuple(spans))

    @cached_property
    def token_bytes(self) -> NDArray[np.int32]:
        """UTF-8 bytes that each id stands for, [size]; 0 for ids that are not text."""
        lengths = np.zeros(self.size, dtype=np.int32)
        for piece, token in self.tokenizer.get_vocab().items():
            lengths[token] = len(piece)  # byte-level: one character of a piece is one byte
        return lengths

    @cached_property
    def newline_ids(self) -> frozenset[int]:
        """The text ids after which a new line begins."""
        newline = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("\n")[0][0]
        vocab = self.tokenizer.get_vocab().items()
        return frozenset(token for piece, token in vocab if piece.endswith(newline))

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and scheme.json into `folder`, the scheme last."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "tokenizer.json", self.tokenizer.to_str())
        ids = {"end": self.end_id, "tags": dict(self.tag_ids), "inert": self.inert_id}
        content = {"scheme": json.loads(self.scheme.to_json()), "ids": ids}
        content["fingerprint"] = self.fingerprint
        write_atomic(folder / "scheme.json", json.dumps(content, indent=1))

    def _text_only(self, ids: Sequence[int]) -> list[int]:
        if len(ids) and not 0 <= min(ids) <= max(ids) < self.text_size:
            wrong = next(token for token in ids if not 0 <= token < self.text_size)
            raise DataError(f"id {wrong} is not text; text ids are 0 ... {self.text_size - 1}")
        return list(ids)


def load_vocabulary(folder: Path) -> Vocabulary:
    """Return the vocabulary that `Vocabulary.save` wrote into `folder`.

    Raises:
        DataError: A file is missing, or tokenizer and scheme do not belong together.
    """
    for name in ("tokenizer.json", "scheme.json"):
        if not (folder / name).is_file():
            raise DataError(f"{folder}: has no {name}; a vocabulary is saved with both files")
    content = json.loads((folder / "scheme.json").read_text())
    scheme = scheme_from_json(json.dumps(content.get("scheme")))
    vocabulary = Vocabulary(Tokenizer.from_file(str(folder / "tokenizer.json")), scheme)
    if vocabulary.fingerprint != content.get("fingerprint"):
        raise DataError(
            f"{folder}: scheme.json was saved with another tokenizer "
            f"({content.get('fingerprint')}, this one is {vocabulary.fingerprint})"
        )
    return vocabulary


def check_encodable(texts: Sequence[str]) -> None:
    """Refuse text that has no UTF-8 form.

    Raises:
        DataError: A text holds a lone surrogate.
    """
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"text {text[max(0, error.start - 10) : error.start + 10]!r}: character "
                f"{error.start} is a lone surrogate, which has no UTF-8 form"
            ) from None

"""The ids of a model: those of text, the end of text, the scheme's tags, and an inert one.

    [0, text_size)     the text tokenizer's
    text_size          end of text; in front of every document
    end_id + 1 ...     the scheme's tags, in its order
    size - 1           inert: padding, never a target, always denied

Text and tags never meet as strings: text is encoded by an object that knows no tag, and tags are
spliced in as integers.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from prealign.errors import ConfigError, DataError
from prealign.runs import write_atomic
from prealign.text.document import Document, Span
from prealign.text.markup import NO_MODE, parse, render
from prealign.text.scheme import Scheme, scheme_from_json
from prealign.tokens.tokenizer import check_text_tokenizer, token_texts, utf8

SCHEMA_VERSION = 1
MAX_MODES = 255
"""A token's mode is stored in a byte, and 0 is no mode."""
FIXED_BY = ("vocab", "merges")
"""What of the model decides how a text is encoded, once `check_text_tokenizer` has passed."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A text tokenizer and a scheme: all ids, what they stand for, and how text becomes ids.

    It holds a copy of the tokenizer that it is given, so that adding tokens to the original later
    cannot reach it. Encoding changes no state: one object serves any number of threads.

    Raises:
        DataError: The tokenizer is not fit for text (`check_text_tokenizer`).
        ConfigError: The scheme has more than 255 modes.
    """

    tokenizer: Tokenizer = field(repr=False)
    scheme: Scheme

    def __post_init__(self) -> None:
        check_text_tokenizer(self.tokenizer)
        if len(self.scheme.modes) > MAX_MODES:
            raise ConfigError(
                f"scheme {self.scheme.name!r} has {len(self.scheme.modes)} modes; "
                f"at most {MAX_MODES} can be stored per token"
            )
        object.__setattr__(self, "tokenizer", Tokenizer.from_str(self.tokenizer.to_str()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @cached_property
    def text_size(self) -> int:
        """Ids below are text."""
        return int(self.tokenizer.get_vocab_size(with_added_tokens=False))

    @property
    def end_id(self) -> int:
        """End of text, in front of every document."""
        return self.text_size

    @cached_property
    def tag_ids(self) -> Mapping[str, int]:
        """Ids by the literal of the tag, in the scheme's order."""
        first = self.end_id + 1
        return {tag: first + i for i, tag in enumerate(self.scheme.tags)}

    @property
    def inert_id(self) -> int:
        """Padding; the last id, as some kernels fall back to the last one."""
        return self.size - 1

    @property
    def size(self) -> int:
        """Ids in all."""
        return self.text_size + 1 + len(self.scheme.tags) + 1

    @property
    def ids(self) -> dict[str, Any]:
        """The ids that stand for no text, as JSON data for headers."""
        return {
            "text_size": self.text_size,
            "end": self.end_id,
            "tags": dict(self.tag_ids),
            "inert": self.inert_id,
            "size": self.size,
        }

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with any id: tokens, merges, pre-tokenizer, scheme."""
        data: dict[str, Any] = json.loads(self.tokenizer.to_str())
        decides = {key: data["model"][key] for key in FIXED_BY}
        decides |= {"pre_tokenizer": data["pre_tokenizer"], "scheme": self.scheme.fingerprint}
        text = json.dumps(decides, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def token_texts(self) -> tuple[bytes, ...]:
        """The UTF-8 bytes that each text id stands for, `text_size` of them."""
        return token_texts(self.tokenizer)

    @cached_property
    def token_bytes(self) -> NDArray[np.int32]:
        """How many bytes each id stands for, int32, shape [size]; 0 for ids that are no text."""
        lengths_V = np.zeros(self.size, dtype=np.int32)
        lengths_V[: self.text_size] = [len(text) for text in self.token_texts]
        lengths_V.flags.writeable = False
        return lengths_V

    @cached_property
    def newline_ids(self) -> tuple[int, ...]:
        r"""The ids whose text ends in `\n`, rising: after one of them a new line begins."""
        return tuple(i for i, text in enumerate(self.token_texts) if text.endswith(b"\n"))

    def open_id(self, mode_name: str) -> int:
        """Return the id of the tag that opens a mode.

        Raises:
            DataError: The scheme has no such mode.
        """
        return self.tag_ids[self.scheme.mode(mode_name).open]

    def encode_text(self, text: str) -> list[int]:
        """Return the text's ids, all below `text_size`, whatever the text spells.

        Raises:
            DataError: The text has a lone surrogate.
        """
        return self.encode_texts([text])[0]

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text; faster than one call per text.

        Raises:
            DataError: A text has a lone surrogate.
        """
        return [ids.tolist() for ids in self.encode_arrays(texts)]

    def encode_arrays(
        self, texts: Sequence[str], names: Sequence[str] | None = None
    ) -> list[NDArray[np.int32]]:
        """Return the ids of each text as int32 arrays; the bytes they stand for are counted.

        Args:
            texts: Any texts, trusted or not.
            names: What errors call them.

        Raises:
            DataError: A text has a lone surrogate, or the tokenizer did not keep all of it.
        """
        names = names or [f"text {index}" for index in range(len(texts))]
        sizes = [len(utf8(text, name)) for text, name in zip(texts, names, strict=True)]
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        arrays = []
        for encoding, size, name in zip(encodings, sizes, names, strict=True):
            ids = np.array(encoding.ids, dtype=np.int32)
            if ids.size and int(ids.max()) >= self.text_size:
                raise DataError(
                    f"{name}: encodes to id {int(ids.max())}, text ids are below "
                    f"{self.text_size}; tokens were added to the tokenizer after it was frozen"
                )
            if int(self.token_bytes[ids].sum(dtype=np.int64)) != size:
                raise DataError(
                    f"{name}: its tokens stand for {int(self.token_bytes[ids].sum())} bytes, the "
                    f"text has {size}; the tokenizer loses text, train one that does not"
                )
            arrays.append(ids)
        return arrays

    def decode_text(self, ids: Sequence[int]) -> str:
        """Return the text of text ids; bytes that are not UTF-8 become U+FFFD.

        Raises:
            DataError: An id is not text.
        """
        for at, token in enumerate(ids):
            if not 0 <= token < self.text_size:
                raise DataError(
                    f"id {token} at token {at} is {self._label(token)}; text ids are below "
                    f"{self.text_size} (`decode` reads tags too)"
                )
        return b"".join([self.token_texts[token] for token in ids]).decode(errors="replace")

    def decode(self, ids: Sequence[int], *, id: str = "") -> Document:
        """Return the document that the ids stand for, its spans cut at the tags.

        One end of text may stand in front; the next one ends the document, and padding may
        follow. Modes that are still open then are closed, as a sample may stop anywhere. What
        text stands between two tags is decoded by itself: half a character at the border becomes
        U+FFFD in the span before it. Text that spells a tag stays text.

        Args:
            ids: As `Encoder` lays them out, or as a model wrote them.
            id: The document's id.

        Raises:
            DataError: A tag stands where the scheme forbids it, an id is none of the
                vocabulary's, or something follows the end of the document.
        """
        literals = {token: tag for tag, token in self.tag_ids.items()}
        closing = {mode.open: mode.close for mode in self.scheme.modes if mode.close}
        parts: list[str] = []
        closings: list[str] = []
        for is_tag, group in groupby(self._inside(ids, id), key=literals.__contains__):
            if not is_tag:
                parts.append(self._as_markup(self.decode_text(list(group))))
                continue
            for tag in (literals[token] for token in group):
                parts.append(tag)
                if tag in closing:
                    closings.append(closing[tag])
                elif closings and tag == closings[-1]:
                    closings.pop()
        return parse("".join([*parts, *reversed(closings)]), self.scheme, id=id)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and scheme.json; the same vocabulary gives the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "tokenizer.json", self.tokenizer.to_str())
        scheme = {
            "schema_version": SCHEMA_VERSION,
            "scheme": json.loads(self.scheme.to_json()),
            "ids": self.ids,
            "fingerprint": self.fingerprint,
        }
        write_atomic(folder / "scheme.json", json.dumps(scheme, indent=1) + "\n")

    def _inside(self, ids: Sequence[int], name: str) -> list[int]:
        """Return the ids between the ends of text."""
        found = [int(token) for token in ids]
        first = 1 if found[:1] == [self.end_id] else 0
        ends = (i for i in range(first, len(found)) if found[i] in (self.end_id, self.inert_id))
        last = next(ends, len(found))
        for at in range(last + 1, len(found)):
            if found[at] != self.inert_id:
                raise DataError(
                    f"document {name!r}: {self._label(found[at])} at token {at} stands behind "
                    f"{self._label(found[last])} at token {last}; decode one document at a time"
                )
        return found[first:last]

    def _as_markup(self, text: str) -> str:
        """Return the text with what spells a tag escaped, for `parse`."""
        alone = Document(id="", text=text, spans=(Span(0, len(text)),))
        return render(alone, self.scheme).removeprefix(NO_MODE)

    def _label(self, token: int) -> str:
        names = {self.end_id: "the end of text", self.inert_id: "the inert id"}
        names |= {tag_id: f"the tag {tag!r}" for tag, tag_id in self.tag_ids.items()}
        if 0 <= token < self.text_size:
            return f"text id {token}"
        return names.get(token, f"no id of this vocabulary ({self.size} ids)")


def load_vocabulary(folder: Path) -> Vocabulary:
    """Return the vocabulary that `Vocabulary.save` wrote.

    Raises:
        DataError: A file is missing or malformed, or tokenizer and scheme are not those that were
            saved together: then the ids would mean something else than in training.
    """
    for name in ("tokenizer.json", "scheme.json"):
        if not (folder / name).is_file():
            raise DataError(f"{folder}: has no {name}; give a folder with a saved vocabulary")
    try:
        data = json.loads((folder / "scheme.json").read_bytes())
        version, saved, ids = data["schema_version"], data["fingerprint"], data["ids"]
        scheme = scheme_from_json(json.dumps(data["scheme"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / 'scheme.json'}: is no saved scheme ({error!r})") from error
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{folder / 'scheme.json'}: has schema version {version!r}, allowed: {SCHEMA_VERSION}"
        )
    try:
        tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except Exception as error:  # the library raises nothing more special
        raise DataError(f"{folder / 'tokenizer.json'}: is no tokenizer ({error})") from error
    vocabulary = Vocabulary(tokenizer, scheme)
    if vocabulary.fingerprint != saved or vocabulary.ids != ids:
        raise DataError(
            f"{folder}: tokenizer.json and scheme.json have the fingerprint "
            f"{vocabulary.fingerprint}, saved was {saved!r}; one of the files was changed, so the "
            "ids do not mean what they meant in training: copy both again"
        )
    return vocabulary

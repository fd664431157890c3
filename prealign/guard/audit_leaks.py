"""Encodes hostile strings and says which construction let one become a tag.

Each string is encoded in three ways: by the model alone, with special tokens split, and as it is by
default. What already leaks in the first is the model's doing, whatever the flags are.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from prealign.guard.audit_report import DEFENCES, Defence, Finding
from prealign.guard.audit_routes import Route

KEYS_PRINTED = re.compile(r"tojson|\.items\(|\.keys\(")
"""In a chat template: keys of what a client sends become text."""


def _without_added(data: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer with nothing but its model to make ids."""
    return _of_text(dict(data) | {"added_tokens": []})


def _of_text(data: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer without what does not depend on the text: templates, padding."""
    plain = dict(data) | dict.fromkeys(("post_processor", "truncation", "padding"))
    return Tokenizer.from_str(json.dumps(plain))


class Leaks:
    """Encodes strings in three ways and keeps, by construction and tag, the shortest that leak."""

    def __init__(
        self,
        data: Mapping[str, Any],
        tags: Mapping[str, int],
        ways: Mapping[str, Route],
        template: str | None,
    ) -> None:
        self.added = {token["content"]: token for token in data["added_tokens"]}
        self.tags = tags
        self.ways = ways
        self.template = template
        self.normalized = data["normalizer"] is not None
        self.found: dict[tuple[str, str], dict[Defence, str]] = {}
        self._by_id = {token_id: tag for tag, token_id in tags.items()}
        self._bare = _without_added(data)
        self._split, self._default = _of_text(data), _of_text(data)
        self._split.encode_special_tokens = True

    def try_all(self, strings: Sequence[str]) -> None:
        """Encode the strings and keep what leaks."""
        encoders = (self._bare, self._split, self._default)
        ways = [encoder.encode_batch(strings, add_special_tokens=False) for encoder in encoders]
        for text, *encoded in zip(strings, *ways, strict=True):
            before: set[str] = set()
            for name, encoding in zip(("bare", "split", "default"), encoded, strict=True):
                leaked = {self._by_id[i] for i in set(encoding.ids) & self._by_id.keys()}
                for tag in leaked - before:
                    self._keep(name, tag, text)
                before |= leaked

    def _keep(self, name: str, tag: str, text: str) -> None:
        plain = any(one in text for one in self.tags)
        construction = self._construction(name, tag, plain)
        known = self.found.setdefault((construction, tag), {})
        for defence in self._beaten(name, tag, plain):
            if len(text) < len(known.get(defence, text + "x")):
                known[defence] = text

    def _construction(self, name: str, tag: str, plain: bool) -> str:
        if name == "bare":
            return self.ways[tag].construction if tag in self.ways else "model"
        if name == "default" and not plain:
            return "normalizer"
        return "non-special added token" if name == "split" else "added token"

    def _beaten(self, name: str, tag: str, plain: bool) -> Iterator[Defence]:
        yield "nothing"
        if not plain:
            yield from ("escape", "sanitize")
        elif name != "bare" and not self._sanitized(tag):
            yield "sanitize"
        if name != "default":
            yield "split"

    def _sanitized(self, tag: str) -> bool:
        """Return whether `sanitize_control_tokens` looks for the tag, and in all that is sent."""
        own = self.added.get(tag, {}).get("special") or tag in (self.template or "")
        return bool(own) and not KEYS_PRINTED.search(self.template or "")

    def findings(self) -> Iterator[Finding]:
        """Yield what was found, and what could not be ruled out."""
        for (construction, tag), shown in self.found.items():
            why, mend = self._words(construction, tag)
            yield Finding(
                construction=construction, tag=tag, why=why, mend=mend,
                shown=tuple((one, shown[one]) for one in DEFENCES if one in shown),
            )  # fmt: skip
        for tag, way in self.ways.items():
            if way.cut is None and (way.construction, tag) not in self.found:
                yield Finding(
                    construction=way.construction, tag=tag, why=way.why, mend=way.mend,
                    risk=DEFENCES,
                )  # fmt: skip
        for tag, token in self.added.items():
            open_way = tag in self.tags and token["normalized"] and self.normalized
            if open_way and ("normalizer", tag) not in self.found:
                why, mend = self._words("normalizer", tag)
                yield Finding(
                    construction="normalizer", tag=tag, why=why, mend=mend,
                    risk=("escape", "sanitize"),
                )  # fmt: skip

    def _words(self, construction: str, tag: str) -> tuple[str, str]:
        if tag in self.ways and construction == self.ways[tag].construction:
            return self.ways[tag].why, self.ways[tag].mend
        if construction == "added token" and self.template and not self._sanitized(tag):
            why, mend = WORDS[construction]
            return why + KEYS, mend
        return WORDS[construction]


KEYS = (
    "; the chat template pastes text and tags into one string, and sanitize_control_tokens leaves "
    "out the keys that it prints"
)
SPLIT = "encode text and tags apart: text by a tokenizer without tags, tags as ids"
WORDS = {
    "added token": ("it is an added token, which is looked for in every text", SPLIT),
    "non-special added token": (
        "it is an added token with special=False, which split_special_tokens does not split",
        "add it with special=True; better: " + SPLIT,
    ),
    "normalizer": (
        "it has normalized=True, so it is looked for behind the normalizer, which makes it of "
        "other characters; a filter of the literal does not see them",
        "add it with normalized=False; better: " + SPLIT,
    ),
    "model": ("the model writes its id, in a way that this audit does not know", SPLIT),
    "shared flag": (
        "what keeps text from becoming this tag is a flag of the tokenizer object, and another "
        "thread that encodes trusted text on the same object switches it off",
        "give each thread, and each kind of text, a tokenizer of its own; better: " + SPLIT,
    ),
    "late token": (
        "tokenizer.json does not have it, but the folder's other files do: transformers adds it on "
        "loading, at an id of this model's end of text or tags",
        "take it out of the folder's configuration; special tokens are no part of prealign's text",
    ),
}  # fmt: skip


def shared_flag(tokenizer: Tokenizer, leaks: Leaks) -> Iterator[Finding]:
    """Yield what two threads show in turns: a flag set by one is not there for its encoding.

    It is a note: the defence `split` is about an object that is not shared.
    """
    for (construction, tag), _ in leaks.found.items():
        if construction != "added token" or not leaks.added[tag]["special"]:
            continue
        if leaks.tags[tag] in interleaved(tokenizer, tag):
            why, mend = WORDS["shared flag"]
            why += f" (shown with {tag!r})"
            yield Finding(construction="shared flag", tag=tag, why=why, mend=mend)
        return


def interleaved(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of a text for which one thread has set the flag, and another reset it."""
    shared = _of_text(json.loads(tokenizer.to_str()))
    turns = threading.Barrier(2, timeout=10)
    ids: list[int] = []

    def untrusted() -> None:
        shared.encode_special_tokens = True
        turns.wait()
        turns.wait()
        ids.extend(shared.encode(text, add_special_tokens=False).ids)

    def trusted() -> None:
        turns.wait()
        shared.encode_special_tokens = False
        turns.wait()

    _together(untrusted, trusted)
    return ids


def _together(*works: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

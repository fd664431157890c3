"""Strings that try to become a tag: variants of its letters, of its surroundings, of its escapes.

They are what an audit encodes. Which characters a normalizer turns into those of a tag, or drops,
is looked up in the normalizer itself.
"""

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from tokenizers import Tokenizer

INSERTED = (
    "\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u202e", "\u2066", "\u0301",
    "\ufe0f", "\x00", "\x07", "\x7f", "\ufffd", "\ue000", "\U000e0041", "\u115f", "\u3164",
    "\U0001f600", "\u9f98", "\u16a0", " ", "\n", "\\", "##", "\u2581", "\u0120",
)  # fmt: skip
"""Put into a tag, in the hope that a normalizer or a vocabulary without them drops them."""
AROUND = (
    ("", ""), (" ", ""), ("", " "), (" ", " "), ("x", "y"), ("x ", " y"), ("\n", "\n"), ("\t", ""),
    ("<", ">"), ("\\", ""), ("\u2581", ""), ("\u200b", "\u200b"), ("\u9f98", "\u9f98"), ("1", "2"),
    ("'", "'"), ('"', '"'), ("\r\n", "\r\n"), ("\u00a0", "\u3000"), (".", "."), ("##", ""),
)  # fmt: skip
SCANNED = (
    (0x0, 0x3400), (0xA000, 0xAC00), (0xF900, 0x12000), (0x1D000, 0x1F800), (0xE0000, 0xE0200),
)  # fmt: skip
"""Code points that a normalizer may map to others: all but Han, Hangul and private ones."""
HOMOGLYPHS = str.maketrans("aeiopcxyAEIOPCXYH<>/|", "аеіорсхуАЕІОРСХУН‹›∕∣")  # noqa: RUF001
MOST_PREIMAGES = 12


def hostile(tags: Sequence[str], preimages: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """Return strings that try to become one of the tags, each once, the plain ones first.

    Args:
        tags: The literals.
        preimages: Per character of the tags, others that a normalizer maps to it; under "" those
            that it drops.
    """
    found: dict[str, None] = {}
    for tag in tags:
        found |= dict.fromkeys(left + tag + right for left, right in AROUND)
    for tag in tags:
        found |= dict.fromkeys(_variants(tag))
        found |= dict.fromkeys(_by_preimage(tag, preimages or {}))
    for left in tags[:8]:
        found |= dict.fromkeys(left + right for right in tags[:8])
    found.pop("", None)
    return list(found)


def preimages_of(tokenizer: Tokenizer, tags: Sequence[str]) -> dict[str, list[str]]:
    """Return per character of the tags what the normalizer maps to it, and under "" what it drops.

    Single characters are tried, those of its own patterns among them.
    """
    if tokenizer.normalizer is None:
        return {}
    wanted = set("".join(tags))
    found: dict[str, list[str]] = {}
    own = json.dumps(json.loads(tokenizer.to_str())["normalizer"], ensure_ascii=False)
    # Between two letters, as some normalizers treat the borders of a text in their own way.
    before, _, after = tokenizer.normalizer.normalize_str("aa").partition("aa")
    for char in dict.fromkeys([*own, *_characters()]):
        whole = tokenizer.normalizer.normalize_str(f"a{char}a")
        image = whole.removeprefix(before).removesuffix(after)[1:-1]
        if image != char and (image in wanted or not image):
            known = found.setdefault(image, [])
            if len(known) < MOST_PREIMAGES:
                known.append(char)
    return found


def _variants(tag: str) -> Iterable[str]:
    yield from (tag.upper(), tag.lower(), tag.title(), tag.swapcase(), tag.translate(HOMOGLYPHS))
    yield "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in tag)
    yield "".join(chr(ord(c) - 97 + 0x1D41A) if "a" <= c <= "z" else c for c in tag)
    yield from (unicodedata.normalize(form, tag) for form in ("NFC", "NFD", "NFKC", "NFKD"))
    for char in INSERTED:
        for at in range(len(tag) + 1):
            yield tag[:at] + char + tag[at:]
    for at in range(1, len(tag)):
        yield tag[:at] + tag + tag[at:]  # what a filter leaves that looks once
        yield tag[:at]
        yield tag[at:]
    yield json.dumps({tag: tag})
    yield json.dumps([{"name": {tag: {"type": tag}}}])
    yield "".join(f"\\u{ord(c):04x}" for c in tag if ord(c) < 0x10000)
    yield "".join(f"&#{ord(c)};" for c in tag)
    yield "".join(f"<0x{byte:02X}>" for byte in tag.encode(errors="replace"))
    yield "".join(f"%{byte:02X}" for byte in tag.encode(errors="replace"))
    yield " ".join(tag)
    yield tag[::-1]
    yield tag[:1] + "\\" + tag[1:]
    yield tag[:1] + "\\\\" + tag[1:]


def _by_preimage(tag: str, preimages: Mapping[str, Sequence[str]]) -> Iterable[str]:
    for at, char in enumerate(tag):
        for other in preimages.get(char, ()):
            yield tag[:at] + other + tag[at + 1 :]
    if any(char in preimages for char in tag):
        yield "".join(preimages.get(char, [char])[0] for char in tag)
        yield "".join(preimages.get(char, [char])[-1] for char in tag)
    for dropped in preimages.get("", ()):
        for at in range(len(tag) + 1):
            yield tag[:at] + dropped + tag[at:]


@lru_cache(1)
def _characters() -> tuple[str, ...]:
    points = (point for first, end in SCANNED for point in range(first, end))
    return tuple(chr(point) for point in points if unicodedata.category(chr(point)) != "Cn")

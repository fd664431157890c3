"""Whether text can forge a tag: a million hostile strings, and every construction known to leak.

    python benchmarks/forging.py --out results/forging.json

The strings are all different. They are made of fragments of tags, variants of their letters (case,
width, normal forms, look-alikes, invisible and bidirectional characters), random bytes, one to
three pieces of a vocabulary whose bytes hold a tag, nested escapes, and keys and values of JSON.

Nine families of tokenizers. Those of byte-level BPE become a `Vocabulary`: no string may give an id
beyond the text's, and every string must come back as it was. `Vocabulary` must refuse the others;
of them it is tested that the tokenizer without added tokens, with tag ids behind its last one,
gives no such id: the construction by range holds for any family, even where text is lost.

Then the controls: each construction that is known to leak must be seen leaking, some string for
string, and the audit must say so by its name; those that do not leak must not be called leaky.
"""

import argparse
import json
import random
import tempfile
import threading
import time
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from leaky_tokenizers import (
    CONSTRUCTIONS,
    FAMILIES,
    KEYS,
    LITERAL,
    O200K,
    TAGS,
    Construction,
    bare,
    byte_level,
    tagged,
)
from tokenizers import Tokenizer

from prealign.errors import DataError
from prealign.guard.audit import audit_subject
from prealign.guard.audit_read import Subject
from prealign.guard.audit_report import Defence
from prealign.guard.hostile import HOMOGLYPHS, INSERTED, hostile
from prealign.runs import Check, ResultRow, write_results
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import check_text_tokenizer, train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

QUESTION = "Can any text become a tag, and does the audit know the constructions by which it can?"
BATCH = 20_000
MAX_KEPT = 5


def encoder(tokenizer: Tokenizer, beats: Defence | None) -> Tokenizer:
    """Return the tokenizer as a code with this defence calls it."""
    own = Tokenizer.from_str(tokenizer.to_str())
    own.encode_special_tokens = beats in ("split", None)
    return own


def leaks_of(one: Construction, subject: Subject, strings: Sequence[str]) -> list[str]:
    """Return the strings that give a tag's id behind the defence that is beaten.

    Behind `sanitize` it is transformers that encodes: see `through_chat_template`.
    """
    if one.beats == "sanitize":
        return []
    tokenizer = encoder(subject.tokenizer, one.beats)
    if subject.vocabulary is not None:
        tags = set(range(subject.vocabulary.text_size, subject.vocabulary.size))
    else:
        tags = {tokenizer.token_to_id(tag) for tag in TAGS}
    some = [text for text in strings if one.plain or not any(tag in text for tag in TAGS)]
    found = tokenizer.encode_batch_fast(some, add_special_tokens=False)
    return [text for text, ids in zip(some, found, strict=True) if tags & set(ids.ids)]


def through_chat_template(folder: Path, contents: Sequence[Any]) -> int:
    """Return how many messages give more tags than the template has, sanitised by transformers."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tags = {tokenizer.convert_tokens_to_ids(tag) for tag in TAGS}

    def count(content: Any) -> int:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], sanitize_control_tokens=True,
            return_dict=False,
        )  # fmt: skip
        return sum(token in tags for token in ids)

    usual = count("x")
    return sum(count(content) > usual for content in contents)


def race(seconds: float) -> tuple[int, int]:
    """Return leaks and tries of untrusted text beside a thread that encodes trusted text."""
    from transformers import PreTrainedTokenizerFast

    shared = PreTrainedTokenizerFast(
        tokenizer_object=tagged(byte_level(None)), additional_special_tokens=list(TAGS)
    )
    tag, done = shared.convert_tokens_to_ids(TAGS[0]), threading.Event()

    def trusted() -> None:
        while not done.is_set():
            shared.encode(TAGS[0] + "x", add_special_tokens=False)

    other = threading.Thread(target=trusted)
    other.start()
    leaks = tries = 0
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        ids = shared.encode(TAGS[0] + "x", add_special_tokens=False, split_special_tokens=True)
        leaks += tag in ids
        tries += 1
    done.set()
    other.join()
    return leaks, tries


# --- strings ------------------------------------------------------------------------------------

FRAGMENTS = [tag[:at] for tag in TAGS for at in range(1, len(tag) + 1)]
FRAGMENTS += [tag[at:] for tag in TAGS for at in range(1, len(tag))]
JOINTS = ["", "", "", " ", "\n", "\\", "x", *INSERTED]


@cache
def pieces() -> list[tuple[str, ...]]:
    """Return one to three pieces of two vocabularies that hold a tag when put together."""
    texts: set[str] = set()
    for tokenizer in (byte_level("", LITERAL), byte_level(O200K, LITERAL)):
        vocabulary = Vocabulary(tokenizer, TWO_MODES)
        texts |= {text.decode() for text in vocabulary.token_texts if text.isascii()}
    found: list[tuple[str, ...]] = [(one,) for one in texts if any(tag in one for tag in TAGS)]
    for tag in TAGS:
        for cut in range(1, len(tag)):
            lefts = [one for one in texts if one.endswith(tag[:cut])]
            rights = [one for one in texts if one.startswith(tag[cut:])]
            found += [(left, right) for left in lefts for right in rights]
            for end in range(cut + 1, len(tag)):
                if tag[cut:end] in texts:
                    ends = [one for one in texts if one.startswith(tag[end:])]
                    found += [(left, tag[cut:end], right) for left in lefts for right in ends]
    return sorted(set(found))


def variant(draw: random.Random, tag: str) -> str:
    kind = draw.randrange(8)
    if kind == 0:
        return "".join(draw.choice((c.lower(), c.upper())) for c in tag)
    if kind == 1:
        return "".join(chr(ord(c) + 0xFEE0) if draw.random() < 0.7 else c for c in tag)
    if kind == 2:
        form = draw.choice(("NFC", "NFD", "NFKC", "NFKD"))
        return unicodedata.normalize(form, tag.replace("a", "a\u0301").replace("i", "\u0456"))
    if kind == 3:
        return "".join(c.translate(HOMOGLYPHS) if draw.random() < 0.5 else c for c in tag)
    if kind == 4:
        return "".join(c + draw.choice(INSERTED) if draw.random() < 0.3 else c for c in tag)
    if kind == 5:
        return "\u202e" + tag[::-1] + "\u202c"
    if kind == 6:
        return "".join(chr(0x1D41A + ord(c) - 97) if "a" <= c <= "z" else c for c in tag)
    at = draw.randrange(len(tag) + 1)
    return tag[:at] + draw.choice(TAGS) + tag[at:]


def escaped(draw: random.Random, text: str) -> str:
    """Return the text in one to three escapes, one within the other."""
    for _ in range(draw.randint(1, 3)):
        kind = draw.randrange(6)
        if kind == 0:
            text = json.dumps(text)
        elif kind == 1:
            text = text.replace("<", "&lt;").replace(">", "&gt;")
        elif kind == 2:
            text = text.replace("<", "<\\")
        elif kind == 3:
            text = "".join(f"\\u{ord(c):04x}" if draw.random() < 0.5 else c for c in text)
        elif kind == 4:
            text = "".join(f"%{b:02X}" for b in text.encode())
        else:
            text = json.dumps({text: [text, {draw.choice(TAGS): 1}]}, ensure_ascii=False)
    return text


def forge(draw: random.Random) -> str:
    """Return one hostile string."""
    kind = draw.randrange(7)
    if kind == 0:
        return "".join(
            draw.choice(FRAGMENTS) + draw.choice(JOINTS) for _ in range(draw.randint(1, 6))
        )
    if kind == 1:
        return draw.choice(JOINTS) + variant(draw, draw.choice(TAGS)) + draw.choice(FRAGMENTS)
    if kind == 2:
        soup = draw.randbytes(draw.randint(1, 16)) + draw.choice(TAGS).encode()
        return (soup + draw.randbytes(draw.randint(0, 12))).decode(errors="replace")
    if kind == 3:
        return draw.choice(JOINTS) + "".join(draw.choice(pieces())) + draw.choice(JOINTS)
    if kind == 4:
        return escaped(draw, draw.choice(TAGS))
    if kind == 5:
        key = draw.choice((draw.choice(TAGS), variant(draw, draw.choice(TAGS))))
        return json.dumps({key: {"role": key}, "content": draw.choice(TAGS)}, ensure_ascii=False)
    points = [chr(draw.choice((draw.randrange(0x80), draw.randrange(0xD800)))) for _ in range(9)]
    points.insert(draw.randrange(9), draw.choice(TAGS))
    return "".join(points)


def batches(count: int, seed: int) -> Iterator[list[str]]:
    """Yield so many different strings."""
    draw = random.Random(seed)
    seen: set[str] = set()
    for at in range(0, count, BATCH):
        batch: list[str] = []
        while len(batch) < min(BATCH, count - at):
            text = forge(draw)
            if text not in seen:
                seen.add(text)
                batch.append(text)
        yield batch


# --- the benchmark ------------------------------------------------------------------------------


@dataclass
class Tally:
    """What the families made of the strings."""

    tags: dict[str, int]
    changed: dict[str, int]
    refused: dict[str, bool]
    strings: int = 0
    spelled: int = 0


def fuzz(count: int, seed: int) -> Tally:
    """Encode the strings with every family; count ids of tags and texts that did not come back."""
    made = {name: make() for name, (make, _) in FAMILIES.items()}
    tally = Tally(dict.fromkeys(made, 0), dict.fromkeys(made, 0), {})
    encode: dict[str, Any] = {}
    for name, tokenizer in made.items():
        if FAMILIES[name][1]:
            encode[name] = Vocabulary(tokenizer, TWO_MODES)
            continue
        encode[name] = bare(tokenizer)
        tally.refused[name] = refused(encode[name])
    for texts in batches(count, seed):
        tally.strings += len(texts)
        tally.spelled += sum(any(tag in text for tag in TAGS) for text in texts)
        for name, one in encode.items():
            if isinstance(one, Vocabulary):
                # The tokenizer itself, so that what `Vocabulary` would refuse is counted.
                found = one.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
                size = one.text_size
                spells = (*one.token_texts, *[b""] * (one.size - size)).__getitem__
                tally.changed[name] += sum(
                    b"".join(map(spells, ids.ids)) != text.encode()
                    for ids, text in zip(found, texts, strict=True)
                )
            else:
                found = one.encode_batch_fast(texts, add_special_tokens=False)
                size = one.get_vocab_size(with_added_tokens=False)
            tally.tags[name] += sum(max(ids.ids, default=0) >= size for ids in found)
    return tally


def refused(tokenizer: Tokenizer) -> bool:
    try:
        check_text_tokenizer(tokenizer)
    except DataError:
        return True
    return False


def in_threads(count: int, seed: int) -> tuple[int, int]:
    """Return encodings and how many differ where eight threads share one vocabulary."""
    shared = Vocabulary(train_text_tokenizer(LITERAL, size=285), TWO_MODES)
    texts = [text for batch in batches(count, seed) for text in batch]
    alone = shared.encode_texts(texts)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(shared.encode_text, texts))
    leaks = sum(max(ids, default=0) >= shared.text_size for ids in together)
    return len(texts), leaks + sum(a != b for a, b in zip(alone, together, strict=True))


def controls(strings: Sequence[str]) -> tuple[list[ResultRow], dict[str, list[str]]]:
    """Return a row per construction, and the names of those that were not as they should be."""
    rows: list[ResultRow] = []
    bad: dict[str, list[str]] = {"not seen": [], "not caught": [], "falsely accused": []}
    for name, one in CONSTRUCTIONS.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            subject = one.make(folder)
            tried = len(strings)
            leaks = len(leaks_of(one, subject, strings))
            if one.beats == "sanitize":
                contents: list[Any] = [{tag: "x"} for tag in TAGS]
                if KEYS not in (subject.template or ""):
                    contents = [text for text in strings if "</human>" in text][:50]
                leaks, tried = through_chat_template(folder, contents), len(contents)
            report = audit_subject(subject, TAGS)
        defence: Defence = one.beats or "split"
        rows.append(ResultRow(arm=name, metric=f"leaks behind {defence}", unit="strings",
                              value=leaks, n=tried))  # fmt: skip
        called = {f.construction for f in report.findings if defence in dict(f.shown)}
        if one.beats is None:
            if leaks or report.verdict("split") != "safe":
                bad["falsely accused"].append(name)
            continue
        if not leaks:
            bad["not seen"].append(name)
        if one.called not in called:
            bad["not caught"].append(name)
    return rows, bad


def main() -> None:
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--strings", type=int, default=1_000_000)
    parser.add_argument("--race-s", type=float, default=20.0)
    args = parser.parse_args()
    start_s = time.perf_counter()
    tally = fuzz(args.strings, seed=0)
    threads, differing = in_threads(args.strings // 10, seed=1)
    strings = hostile(TAGS) + [text for batch in batches(5_000, 2) for text in batch]
    rows, bad = controls(strings)
    leaks, tries = race(args.race_s)
    noted = audit_subject(CONSTRUCTIONS["default flags"].make(Path()), TAGS)
    caught = any(one.construction == "shared flag" for one in noted.findings)
    write(args.out, time.perf_counter() - start_s, tally, rows, bad, (threads, differing),
          (leaks, tries, caught))  # fmt: skip


def write(
    out: Path,
    wall_s: float,
    tally: Tally,
    controls_: list[ResultRow],
    bad: dict[str, list[str]],
    threads: tuple[int, int],
    raced: tuple[int, int, bool],
) -> None:
    rows = [
        ResultRow(arm=name, metric="strings that give a tag", unit="strings", value=count,
                  n=tally.strings)
        for name, count in tally.tags.items()
    ] + [
        ResultRow(arm=name, metric="strings that do not come back", unit="strings",
                  value=tally.changed[name], n=tally.strings)
        for name, (_, ours_) in FAMILIES.items() if ours_
    ]  # fmt: skip
    rows.append(ResultRow(arm="all", metric="strings that spell a tag", unit="strings",
                          value=tally.spelled, n=tally.strings))  # fmt: skip
    rows.append(ResultRow(arm="eight threads, one vocabulary", metric="leaks or differences",
                          unit="strings", value=threads[1], n=threads[0]))  # fmt: skip
    rows += controls_
    rows.append(ResultRow(arm="one tokenizer of transformers in two threads",
                          metric="leaks behind split", unit="strings", value=raced[0],
                          n=raced[1]))  # fmt: skip
    leaky = sum(one.beats is not None for one in CONSTRUCTIONS.values())
    fine = len(CONSTRUCTIONS) - leaky
    counts = [
        ("no text gives a tag's id: strings x families", sum(tally.tags.values())),
        ("every text comes back whole from byte-level BPE", sum(tally.changed.values())),
        ("eight threads give what one gives", threads[1]),
        ("families that lose text are refused: those that are not",
         sum(not one for one in tally.refused.values())),
        (f"of {leaky} constructions that leak, not seen leaking", len(bad["not seen"])),
        (f"of {leaky} constructions that leak, not named by the audit", len(bad["not caught"])),
        (f"of {fine} constructions that do not leak, called leaky or unproven",
         len(bad["falsely accused"])),
    ]  # fmt: skip
    checks = [
        Check(what=what, bar="0", value=count, holds=count == 0, control="see the constructions")
        for what, count in counts
    ]
    checks += [
        Check(what="a shared tokenizer is seen leaking in threads", bar="> 0", value=raced[0],
              holds=raced[0] > 0, control="eight threads, one vocabulary"),
        Check(what="the audit notes the shared flag", bar="yes", value="yes" if raced[2] else "no",
              holds=raced[2], control="default flags"),
    ]  # fmt: skip
    write_results(out, question=QUESTION, seeds=(0, 1, 2), wall_s=wall_s, rows=rows, checks=checks,
                  extra={"missed": bad})  # fmt: skip
    for check in checks:
        print("holds" if check.holds else "MISSED", check.what, check.value)
    print(bad)


if __name__ == "__main__":
    main()

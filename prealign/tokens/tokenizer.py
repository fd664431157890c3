r"""The text tokenizer: byte-level BPE without any tag, lossless, the same file from the same text.

It has no added tokens, no unknown token and no normalizer, so its ids are `range(size)` and stand
for bytes of text and nothing else. Tags get ids behind that range (`prealign.tokens.vocabulary`):
no text can encode to them because no such id exists in this object. That it spells a tag, or was
trained on text that does, changes nothing.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from prealign.errors import ConfigError, DataError

BYTES = 256
"""Every byte is a token, so that every text has an encoding."""
NEVER_IN_UTF8 = frozenset((0xC0, 0xC1, *range(0xF5, 0x100)))
"""Bytes that no text has, so that a tokenizer from elsewhere may lack them."""

PIECES = "|".join(
    (
        r"\r\n|\n|\r",  # a line break stands alone: borders of lines are borders of tokens
        r" {2,}|\t+",  # indentation in one token, at the same width in front of any word
        r"\p{N}",  # digits one by one: numbers look the same wherever they are cut
        r" ?_*[\p{L}\p{M}]+",  # a word with the space or underscores before it
        r" ?_+",
        r" ?[^\s\p{L}\p{M}\p{N}_]+",
        r"\s",
    )
)
"""What the merges stay within. The alternatives cover every character."""


def train_text_tokenizer(texts: Iterable[str], *, size: int) -> Tokenizer:
    r"""Return a byte-level BPE tokenizer with exactly `size` ids, trained on `texts`.

    `decode(encode(s)) == s` for every `s` that UTF-8 can hold. No token crosses a line break, and
    `\n` is always a token of its own or the end of `\r\n`. The same texts give the same tokenizer,
    in any order. BPE as in Sennrich et al. 2016 (https://arxiv.org/abs/1508.07909), on bytes.

    Args:
        texts: Read once; they may be a generator.
        size: Ids in all: 256 bytes and `size - 256` merges.

    Raises:
        ConfigError: `size` is below 256.
        DataError: The texts do not hold enough pairs for so many merges, or one of them has a
            lone surrogate.
    """
    if size < BYTES:
        raise ConfigError(f"size={size}: a byte-level tokenizer has at least {BYTES} ids")
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[],
        initial_alphabet=sorted(BYTE_OF),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_checked(texts), trainer)
    found = tokenizer.get_vocab_size()
    if found != size:
        raise DataError(
            f"size={size}: the texts hold only enough pairs for {found} ids; "
            f"give more text, or size={found}"
        )
    check_text_tokenizer(tokenizer)
    return tokenizer


def adopt_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """Return a text tokenizer that encodes as one from elsewhere does where no tag is spelled.

    What could turn a text into an id that stands for no text comes off: added tokens (what a text
    spells of them is text from then on), unknown token, normalizer, post-processor. Ids stay. If
    bytes have no id, they take over ids of special tokens that nothing encodes to any more, those
    for structure first (such as `<file_sep>`) and the one that ends a text last.

    Args:
        tokenizer: Byte-level BPE.

    Raises:
        DataError: It is of another kind, or has too few special ids for the bytes that it lacks.
    """
    data: dict[str, Any] = json.loads(tokenizer.to_str())
    special = {token["content"] for token in data["added_tokens"]}
    data |= {"added_tokens": [], "normalizer": None, "post_processor": None}
    data |= {"truncation": None, "padding": None}
    data["model"]["unk_token"] = None
    vocab = data["model"].get("vocab")
    if data["model"]["type"] != "BPE" or not isinstance(vocab, dict):
        raise DataError(f"the tokenizer is {data['model']['type']}, not BPE; use byte-level BPE")
    lacking = [c for c, b in BYTE_OF.items() if c not in vocab and b not in NEVER_IN_UTF8]
    built = set(BYTE_OF)  # what text is encoded to stays: bytes, and what merges make of them
    for merge in data["model"]["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        built |= {left, right, left + right}
    free = sorted(vocab.keys() & special - built, key=lambda token: -vocab[token])
    if len(lacking) > len(free):
        raise DataError(
            f"the tokenizer has no ids for {len(lacking)} bytes of text, and only {len(free)} "
            "special ids that could take them; use another model"
        )
    for char, token in zip(lacking, free, strict=False):
        vocab[char] = vocab.pop(token)
    found: Tokenizer = Tokenizer.from_str(json.dumps(data))
    check_text_tokenizer(found)
    return found


def check_text_tokenizer(tokenizer: Tokenizer) -> None:
    """Return if the tokenizer maps text to `range(size)` without loss and by its merges alone.

    Tokenizers from elsewhere pass too, if their added tokens are taken off first; then a token
    may cross a line break, and the tags that have to wait for it are counted when encoding.

    Raises:
        DataError: It has added tokens, a normalizer, gaps in its ids, or anything else by which
            text could change, get lost, or become an id that stands for no text.
    """
    data: dict[str, Any] = json.loads(tokenizer.to_str())
    model = data["model"]
    added = [token["content"] for token in data["added_tokens"]]
    _refuse("has added tokens", added, "remove them: tags get ids of their own")
    for key in ("normalizer", "truncation", "padding"):
        _refuse(f"has a {key}", data[key], "it changes text; set it to None")
    _refuse("is not BPE", model["type"] != "BPE" and model["type"], "use byte-level BPE")
    for key in (
        "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
        "byte_fallback", "ignore_merges",
    ):  # fmt: skip
        _refuse(f"has BPE setting {key}", model.get(key), "set it to None or False")
    _check_stages(data)
    _check_ids(model["vocab"])


def token_texts(tokenizer: Tokenizer) -> tuple[bytes, ...]:
    """Return the UTF-8 bytes that each id stands for, in the order of ids."""
    vocab: dict[str, int] = tokenizer.get_vocab(with_added_tokens=False)
    tokens = sorted(vocab, key=vocab.__getitem__)
    return tuple(bytes(BYTE_OF[char] for char in token) for token in tokens)


def utf8(text: str, where: str) -> bytes:
    """Return the text as UTF-8.

    Raises:
        DataError: It has a lone surrogate, which UTF-8 cannot hold; `where` begins the message.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: has the lone surrogate {text[error.start]!r} at character {error.start}, "
            "which UTF-8 cannot hold; clean the text first"
        ) from error


def _byte_of() -> dict[str, int]:
    """Return which byte each character stands for in byte-level BPE, as GPT-2 fixed it."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(BYTES) if byte not in printable]
    stand_ins = {chr(BYTES + i): byte for i, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | stand_ins


BYTE_OF = _byte_of()


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for index, text in enumerate(texts):
        utf8(text, f"training text {index}")
        yield text


def _refuse(what: str, value: Any, mend: str) -> None:
    if value:
        raise DataError(f"the text tokenizer {what}: {str(value)[:80]!r}; {mend}")


def _check_stages(data: dict[str, Any]) -> None:
    """Check what stands around the model: all of it must keep every byte of the text."""
    first = data["pre_tokenizer"] or {"type": "none"}
    stages = first["pretokenizers"] if first["type"] == "Sequence" else [first]
    for stage in stages[:-1]:
        cuts = stage["type"] == "Split" and stage["behavior"] != "Removed"
        if not cuts and stage["type"] != "Digits":
            raise DataError(
                f"the text tokenizer has the pre-tokenizer {stage['type']!r}, which may change "
                "text; allowed: Split that removes nothing, Digits, and ByteLevel as the last"
            )
    last = stages[-1] if stages else first
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        raise DataError(
            f"the text tokenizer ends its pre-tokenizers with {last!r}; "
            "allowed: ByteLevel with add_prefix_space=False"
        )
    for key, kinds in (("decoder", ("ByteLevel",)), ("post_processor", ("none", "ByteLevel"))):
        kind = (data[key] or {"type": "none"})["type"]
        if kind not in kinds:
            raise DataError(
                f"the text tokenizer has the {key} {kind!r}; allowed: {' or '.join(kinds)}"
            )


def _check_ids(vocab: dict[str, int]) -> None:
    if sorted(vocab.values()) != list(range(len(vocab))):
        gaps = sorted(set(range(len(vocab))) - set(vocab.values()))
        raise DataError(
            f"the text tokenizer has {len(vocab)} tokens, but none with id "
            f"{gaps[0] if gaps else '?'}; ids must be range(size), each once"
        )
    for token, token_id in vocab.items():
        if not token or not BYTE_OF.keys() >= set(token):
            raise DataError(
                f"the text tokenizer's id {token_id} is {token!r}, which stands for no bytes; "
                "use byte-level BPE"
            )
    missing = [b for c, b in BYTE_OF.items() if c not in vocab and b not in NEVER_IN_UTF8]
    if missing:
        raise DataError(
            f"the text tokenizer has no token for byte {min(missing)}; it must have all that "
            "UTF-8 texts have"
        )

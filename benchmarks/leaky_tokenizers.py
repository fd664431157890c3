"""Tokenizers that let text become a tag, each in its own way, and some that do not: controls.

Found by reading and trying (`prealign.guard.audit` names them); all are small and trained here.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordLevelTrainer, WordPieceTrainer

from prealign.guard.audit_read import Subject, read_subject
from prealign.guard.audit_report import Defence
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

TAGS = TWO_MODES.tags
O200K = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
        r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
    )
)  # fmt: skip
WORDS = (
    "the human said a word to the ai and a quote of it in the ai voice was human too said "
    "x y z < > / br div a b it's 12 3.5 {name: value} [list] the end of the text\n"
)
PLAIN = [
    WORDS * 3,
    "Human AI Quote ai human quote <b>bold</b> <i> </i> \u00e9t\u00e9 na\u00efve",
] * 9
LITERAL = [" ".join(TAGS) + " x" + "x".join(TAGS) + " " + WORDS] * 40


# --- tokenizers ---------------------------------------------------------------------------------


def trained(
    model: Any, trainer: Any, pre: Any, texts: Sequence[str], normalizer: Any = None
) -> Any:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def byte_level(pattern: str | None, texts: Sequence[str] = PLAIN, size: int = 420) -> Tokenizer:
    """Return byte-level BPE; pattern None: GPT-2's, "": none at all."""
    pre: Any = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    if pattern:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        pre = pre_tokenizers.Sequence([split, pre])
    trainer = BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer = trained(models.BPE(), trainer, pre, texts)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def words_bpe(texts: Sequence[str], *, unk: bool = False, **model: Any) -> Tokenizer:
    extra = {"special_tokens": ["[UNK]"]} if unk else {}
    trainer = BpeTrainer(vocab_size=300, show_progress=False, **extra)
    bpe = models.BPE(unk_token="[UNK]" if unk else None, **model)
    return trained(bpe, trainer, pre_tokenizers.WhitespaceSplit(), texts)


def unigram(specials: Sequence[str] = (), texts: Sequence[str] = PLAIN) -> Tokenizer:
    trainer = UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", *specials], unk_token="<unk>", show_progress=False
    )
    return trained(models.Unigram(), trainer, pre_tokenizers.Metaspace(), texts)


def word_piece(specials: Sequence[str] = (), *, pre: Any = None) -> Tokenizer:
    trainer = WordPieceTrainer(
        vocab_size=150, special_tokens=["[UNK]", *specials], show_progress=False
    )
    model = models.WordPiece(unk_token="[UNK]")
    return trained(model, trainer, pre or pre_tokenizers.WhitespaceSplit(), PLAIN)


def word_level(specials: Sequence[str] = (), *, pre: Any = None) -> Tokenizer:
    trainer = WordLevelTrainer(special_tokens=["[UNK]", *specials], show_progress=False)
    model = models.WordLevel(unk_token="[UNK]")
    return trained(model, trainer, pre or pre_tokenizers.WhitespaceSplit(), PLAIN)


def sentencepiece_like() -> Tokenizer:
    """Return BPE with metaspaces and byte fallback, as Llama 2 has."""
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = BpeTrainer(vocab_size=500, special_tokens=["<unk>", *fallback], show_progress=False)
    model = models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    return trained(model, trainer, pre_tokenizers.Metaspace(), PLAIN)


def bare(tokenizer: Tokenizer) -> Tokenizer:
    """Return the tokenizer without its added tokens."""
    data = json.loads(tokenizer.to_str())
    return Tokenizer.from_str(json.dumps(data | {"added_tokens": [], "post_processor": None}))


def tagged(tokenizer: Tokenizer, *, special: bool = True, normalized: bool = False) -> Tokenizer:
    add = tokenizer.add_special_tokens if special else tokenizer.add_tokens
    add([AddedToken(tag, special=special, normalized=normalized) for tag in TAGS])
    return tokenizer


FAMILIES: dict[str, tuple[Callable[[], Tokenizer], bool]] = {
    "byte-level BPE, GPT-2's pieces": (lambda: byte_level(None), True),
    "byte-level BPE, o200k's pieces": (lambda: byte_level(O200K), True),
    "byte-level BPE, our pieces": (lambda: train_text_tokenizer(PLAIN, size=320), True),
    "byte-level BPE without pieces, trained on tags": (lambda: byte_level("", LITERAL), True),
    "BPE between white space, trained on tags": (lambda: words_bpe(LITERAL), False),
    "Unigram with metaspaces": (lambda: unigram(), False),
    "WordPiece": (lambda: word_piece(), False),
    "WordLevel": (lambda: word_level(), False),
    "BPE with metaspaces and byte fallback": (sentencepiece_like, False),
}
"""Whether each is one that `Vocabulary` takes."""


# --- constructions that leak, and some that do not ----------------------------------------------


@dataclass(frozen=True)
class Construction:
    """A tokenizer with tags: which defence it gets around, and what the audit calls it."""

    make: Callable[[Path], Subject]
    beats: Defence | None
    """None: it holds behind `split`, and must not be called leaky there."""
    called: str = ""
    plain: bool = True
    """The strings that show it may spell a tag."""


def plain_subject(make: Callable[[], Tokenizer]) -> Callable[[Path], Subject]:
    return lambda folder: Subject(name="", tokenizer=make())


def with_normalizer(normalizer: Any, *, normalized: bool = True) -> Callable[[Path], Subject]:
    def make() -> Tokenizer:
        tokenizer = byte_level(None)
        tokenizer.normalizer = normalizer
        return tagged(tokenizer, normalized=normalized)

    return plain_subject(make)


def with_template(template: str, *, special: bool) -> Callable[[Path], Subject]:
    def make(folder: Path) -> Subject:
        tagged(byte_level(None), special=special).save(str(folder / "tokenizer.json"))
        names = {"additional_special_tokens": list(TAGS)} if special else {}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template} | names
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return read_subject(folder)

    return make


def ignoring_merges() -> Tokenizer:
    data = json.loads(words_bpe(PLAIN).to_str())
    vocab = data["model"]["vocab"]
    for tag in TAGS:
        vocab[tag] = len(vocab)
    data["model"]["ignore_merges"] = True
    return tagged(Tokenizer.from_str(json.dumps(data)))


def unknown_is_a_tag() -> Tokenizer:
    trainer = WordLevelTrainer(special_tokens=list(TAGS), show_progress=False)
    model = models.WordLevel(unk_token=TAGS[0])
    return tagged(trained(model, trainer, pre_tokenizers.Whitespace(), PLAIN))


def ours_with_late_tokens(folder: Path) -> Subject:
    Vocabulary(train_text_tokenizer(PLAIN, size=320), TWO_MODES).save(folder)
    config = {"additional_special_tokens": list(TAGS)}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return read_subject(folder)


def ours(folder: Path) -> Subject:
    Vocabulary(train_text_tokenizer(LITERAL, size=285), TWO_MODES).save(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return read_subject(folder)


MESSAGES = "{% for m in messages %}<human>{{ m.content }}</human>{% endfor %}"
KEYS = "{% for m in messages %}<human>{{ m.content | tojson }}</human>{% endfor %}"
NO_CLOSE = "{% for m in messages %}<human>{{ m.content }}\n{% endfor %}"

CONSTRUCTIONS: dict[str, Construction] = {
    "default flags": Construction(
        plain_subject(lambda: tagged(byte_level(None))), "nothing", "added token"),
    "added tokens that are not special": Construction(
        plain_subject(lambda: tagged(byte_level(None), special=False)), "split",
        "non-special added token"),
    "ignore_merges, tags in the vocabulary": Construction(
        plain_subject(ignoring_merges), "split", "ignore_merges"),
    "Unigram, tags in the vocabulary": Construction(
        plain_subject(lambda: tagged(unigram(TAGS))), "split", "Unigram vocabulary"),
    "WordLevel, tags in the vocabulary": Construction(
        plain_subject(lambda: tagged(word_level(TAGS))), "split", "WordLevel vocabulary"),
    "WordPiece, tags in the vocabulary": Construction(
        plain_subject(lambda: tagged(word_piece(TAGS))), "split", "WordPiece vocabulary"),
    "BPE trained on tags, added after": Construction(
        plain_subject(lambda: tagged(words_bpe(LITERAL, unk=True))), "split", "merge"),
    "byte-level BPE without pieces, trained on tags": Construction(
        plain_subject(lambda: tagged(byte_level("", [*TAGS] * 40 + PLAIN))), "split", "merge"),
    "BPE that drops unknown characters": Construction(
        plain_subject(lambda: tagged(words_bpe(LITERAL))), "split", "merge", plain=False),
    "NFKC, normalized tags": Construction(
        with_normalizer(normalizers.NFKC()), "escape", "normalizer", plain=False),
    "Lowercase, normalized tags": Construction(
        with_normalizer(normalizers.Lowercase()), "escape", "normalizer", plain=False),
    "a normalizer that drops U+200B, normalized tags": Construction(
        with_normalizer(normalizers.Replace("\u200b", "")), "escape", "normalizer", plain=False),
    "a chat template that prints keys": Construction(
        with_template(KEYS, special=True), "sanitize", "added token"),
    "tags that are not special and not in the chat template": Construction(
        with_template(NO_CLOSE, special=False), "sanitize", "non-special added token"),
    "the unknown token is a tag": Construction(
        plain_subject(unknown_is_a_tag), "escape", "unknown", plain=False),
    "tokens in the configuration of a model of prealign": Construction(
        ours_with_late_tokens, "nothing", "late token"),
    "GPT-2's pieces, special tags": Construction(
        plain_subject(lambda: tagged(byte_level(None))), None),
    "o200k's pieces, special tags": Construction(
        plain_subject(lambda: tagged(byte_level(O200K))), None),
    "our pieces, special tags": Construction(
        plain_subject(lambda: tagged(train_text_tokenizer(PLAIN, size=320))), None),
    "NFKC, tags not normalized": Construction(
        with_normalizer(normalizers.NFKC(), normalized=False), None),
    "BPE between white space, tag-free text": Construction(
        plain_subject(lambda: tagged(words_bpe(PLAIN))), None),
    "Unigram, tags behind the vocabulary": Construction(
        plain_subject(lambda: tagged(unigram())), None),
    "WordPiece as BERT's, tags in the vocabulary": Construction(
        plain_subject(lambda: tagged(word_piece(TAGS, pre=pre_tokenizers.BertPreTokenizer()))),
        None),
    "WordLevel, \\w+ and marks apart": Construction(
        plain_subject(lambda: tagged(word_level(TAGS, pre=pre_tokenizers.Whitespace()))), None),
    "a model of prealign": Construction(ours, None),
}  # fmt: skip

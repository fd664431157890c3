"""The text tokenizer: byte-level BPE, trained on text without tags, then frozen.

It knows no special token at all, so there is no flag that could let text encode to one. No token
crosses a newline, so the borders of lines are borders of tokens.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from prealign.errors import ConfigError, DataError

PIECES = Regex(
    r"\n"  # a newline stands alone
    r"| ?\p{L}+"  # a word, with the blank before it
    r"| ?\p{N}{1,3}"  # digits in small groups
    r"| ?[^\s\p{L}\p{N}]+"  # punctuation
    r"|[^\S\n]+(?=\n|\z)"  # blanks at the end of a line
    r"|[^\S\n]+(?=[^\S\n])"  # indentation, less the blank that a word takes
    r"|[^\S\n]+"
)
PROBE = "tag <|good|> \n\n  \t\r\n é漢😀 \x00\u200b\ufeff don't 1234  x"
"""Text that a lossless tokenizer gives back as it was."""


def train_text_tokenizer(texts: Iterable[str], *, size: int) -> Tokenizer:
    """Return a frozen byte-level BPE tokenizer with exactly `size` tokens.

    The same texts in the same order give the same tokenizer.

    Args:
        texts: What to learn merges from; text that spells tags is text like any other.
        size: Number of tokens, at least 256: every byte is one.

    Raises:
        ConfigError: `size` is below 256.
        DataError: The texts are too few or too uniform for that many tokens.
    """
    if size < 256:
        raise ConfigError(f"tokenizer size={size}: must be at least 256, one token per byte")
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(PIECES, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != size:
        raise DataError(
            f"the texts give {tokenizer.get_vocab_size()} tokens, {size} were asked for; "
            "give more text or a smaller vocabulary"
        )
    check_text_tokenizer(tokenizer)
    return tokenizer


def check_text_tokenizer(tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that could encode text to a tag, or that loses text.

    Raises:
        DataError: It has added tokens, ids outside of [0, size), adds tokens of its own to a
            text, or does not give a text back.
    """
    added = tokenizer.get_added_tokens_decoder()
    if added:
        names = [token.content for token in added.values()][:3]
        raise DataError(
            f"the text tokenizer has {len(added)} added tokens ({', '.join(names)}, ...): "
            "untrusted text could encode to them; give one without"
        )
    ids = sorted(tokenizer.get_vocab(with_added_tokens=False).values())
    if ids != list(range(len(ids))):
        raise DataError(f"the text tokenizer's ids are not 0 ... {len(ids) - 1} without gaps")
    if tokenizer.encode("").ids:
        raise DataError("the text tokenizer adds tokens to a text; remove its post-processor")
    back = tokenizer.decode(tokenizer.encode(PROBE).ids, skip_special_tokens=False)
    if back != PROBE:
        raise DataError(
            f"the text tokenizer loses text: {PROBE!r} comes back as {back!r}; "
            "give a byte-level one without a normalizer"
        )

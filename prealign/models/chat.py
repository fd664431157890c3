"""How a chat model is asked: the ids around the system's words, the user's, and its own.

A template's special tokens are ids here, put in by the harness. Text is encoded by an object that
does not know them, so whatever a user's text spells, it cannot become one of them; that is checked
when a layout is made. A model may write them, as it ends its turn with one: there its completion
ends (`Chat.cut`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from prealign.config import fingerprint
from prealign.errors import ConfigError
from prealign.tokens.vocabulary import Vocabulary

SYSTEM, USER = "\x02system\x03", "\x02user\x03"
"""Stand for the texts while a template is taken apart."""
BREAK = "\n\n"
"""Between a seed and the user's words where both are the user's."""
Ids = tuple[int, ...]


class Cut(NamedTuple):
    """What counts of a completion."""

    ids: Ids
    """Without anything of the template."""
    ended: Literal["end", "cut"] | None
    """`end`: by the id that ends a turn; `cut`: by another special token; None: by neither."""


@dataclass(frozen=True, kw_only=True)
class Chat:
    """Where in a prompt the seed stands, and where the user's words."""

    name: str
    seeded: tuple[Ids, Ids, Ids]
    """In front of the seed, between it and the user's words, and behind them."""
    bare: tuple[Ids, Ids]
    """Without a seed: in front of the user's words and behind them. Some templates have a system
    message of their own there."""
    end: int | None = None
    """What ends the model's turn; None: the vocabulary's end of text."""
    special: Ids = ()
    """Ids of the template that no text can encode to."""
    opening: Ids = ()
    """How the model's turn begins, written by the harness."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with any id."""
        return fingerprint(self)

    def ids(self, vocabulary: Vocabulary, seed: str, words: str) -> Ids:
        """Return a prompt, up to where the model writes.

        Args:
            vocabulary: The one that the layout was made with.
            seed: Text of the seed; empty: none.
            words: The user's. Whatever they spell, they stay text.
        """
        own = tuple(vocabulary.encode_text(words))
        if not seed.strip():
            front, behind = self.bare
            return (*front, *own, *behind, *self.opening)
        front, between, behind = self.seeded
        head = tuple(vocabulary.encode_text(seed.strip()))
        return (*front, *head, *between, *own, *behind, *self.opening)

    def opened(self, vocabulary: Vocabulary, text: str) -> "Chat":
        """Return the layout with a text that the model's turn begins with."""
        return replace(self, opening=tuple(vocabulary.encode_text(text)))

    def cut(self, ids: Sequence[int]) -> Cut:
        """Return what a model wrote up to the first id of the template."""
        for at, token in enumerate(ids):
            if token in self.special:
                return Cut(tuple(ids[:at]), "end" if token == self.end else "cut")
        return Cut(tuple(ids), None)


def plain_chat(vocabulary: Vocabulary) -> Chat:
    """Return a layout in words, for models that have no template: User, Assistant, by lines.

    The model ends its turn with an end of text, if it has learnt to; use `Stage.one_line` else.
    """

    def encoded(text: str) -> Ids:
        return tuple(vocabulary.encode_text(text))

    front, behind = "User:\n", f"{BREAK}Assistant:\n"
    start = (vocabulary.end_id,)
    return Chat(
        name="words",
        seeded=(start, encoded(BREAK + front), encoded(behind)),
        bare=((*start, *encoded(front)), encoded(behind)),
    )


def chat_of(
    tokenizer: Any, vocabulary: Vocabulary, *, seed_in: Literal["system", "user"] = "system"
) -> Chat:
    """Return the layout of a tokenizer's own chat template.

    Args:
        tokenizer: One of transformers, with a template, as it came.
        vocabulary: Made of the same tokenizer (`prealign.models.adopt`).
        seed_in: Seeds are the system's message, or stand in front of the user's words.

    Raises:
        ConfigError: There is no template, it does not keep messages as they are, it has no system
            message, or it has special tokens that are no ids of the vocabulary.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            f"{type(tokenizer).__name__} has no chat template; use models.chat.plain_chat"
        )
    user = {"role": "user", "content": USER}
    system = {"role": "system", "content": SYSTEM}
    special = _special_ids(tokenizer)
    front, behind = _pieces(tokenizer, [user], (USER,))
    if seed_in == "system":
        seeded = _pieces(tokenizer, [system, user], (SYSTEM, USER))
    else:
        seeded = (front, BREAK, behind)
    found = [_encoded(piece, special, vocabulary) for piece in (front, behind, *seeded)]
    end = _end(tokenizer, special, vocabulary)
    marks = {token for ids in found for token in ids if token in special.values()}
    if end is not None:  # in some templates it stands behind the model's turns alone
        marks.add(end)
    return Chat(
        name=f"template, seed in {seed_in}",
        seeded=(found[2], found[3], found[4]),
        bare=(found[0], found[1]),
        end=end,
        special=tuple(sorted(marks)),
    )


def _special_ids(tokenizer: Any) -> dict[str, int]:
    return {str(token): int(i) for i, token in tokenizer.added_tokens_decoder.items()}


def _pieces(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], marks: Sequence[str]
) -> tuple[str, ...]:
    """Return what a template writes around its messages."""
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template raises what it likes
        raise ConfigError(
            f"the chat template refuses {[m['role'] for m in messages]} ({error}); "
            "put seeds in front of the user's words: seed_in='user'"
        ) from error
    found = []
    for mark in marks:
        front, met, text = text.partition(mark)
        if not met or mark in text:
            raise ConfigError(
                "the chat template does not write each message once, in order and as it is; "
                "use models.chat.plain_chat, or seed_in='user'"
            )
        found.append(front)
    return (*found, text)


def _encoded(piece: str, special: Mapping[str, int], vocabulary: Vocabulary) -> Ids:
    """Return the ids of a piece of a template, with special tokens as ids of their own."""
    names = sorted(special, key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, names)) + ")", piece) if names else [piece]
    ids: list[int] = []
    for part in parts:
        if part in special:
            ids.append(_checked(part, special[part], vocabulary))
        elif part:
            ids += vocabulary.encode_text(part)
    return tuple(ids)


def _checked(token: str, id: int, vocabulary: Vocabulary) -> int:
    """Return the id of a special token, if it is one that no text can encode to.

    Raises:
        ConfigError: It is not.
    """
    if id >= vocabulary.text_size or vocabulary.token_texts[id] != token.encode():
        raise ConfigError(
            f"the chat template's token {token!r} has id {id}, which is no id of it in this "
            f"vocabulary of {vocabulary.text_size} text ids; use models.chat.plain_chat"
        )
    if id in vocabulary.encode_text(token):
        raise ConfigError(
            f"text can spell the chat template's token {token!r} (id {id}), so a user could "
            "speak as somebody else; use models.chat.plain_chat"
        )
    return id


def _end(tokenizer: Any, special: Mapping[str, int], vocabulary: Vocabulary) -> int | None:
    """Return the first special token that the template writes behind an assistant's words."""
    said = [{"role": "user", "content": USER}, {"role": "assistant", "content": SYSTEM}]
    text = tokenizer.apply_chat_template(said, tokenize=False).partition(SYSTEM)[2]
    ids = _encoded(text, special, vocabulary)
    return next((token for token in ids if token in special.values()), None)

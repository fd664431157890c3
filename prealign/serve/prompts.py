"""Messages as ids: who speaks is said by tags, which only this side writes.

All text of a client goes through the text tokenizer, so text that spells a tag stays text. In a
scheme whose modes enclose, what others say stands in their mode and what the assistant said in
its own. Where modes only mark, text has no mode of its own: it comes first, then the mark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from prealign.errors import DataError
from prealign.serve.problems import Problem
from prealign.serve.schema import Message
from prealign.text.scheme import Scheme
from prealign.tokens.vocabulary import Vocabulary

HUMAN = "human"


def others_mode(scheme: Scheme, own: str | None) -> str | None:
    """Return the mode of what others say: `human`, or the first enclosing one but the model's."""
    own_top = scheme.path(own)[0] if own else None
    fit = [m.name for m in scheme.modes if m.close and not m.inside and m.name != own_top]
    if HUMAN in fit:
        return HUMAN
    return fit[0] if fit else None


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """Makes prompts."""

    vocabulary: Vocabulary
    own: str | None
    """The mode that is opened for what the model writes; None: none is."""
    others: str | None
    """The mode of what others say; None: it has none."""
    room: int
    """Tokens of the model's context."""

    @cached_property
    def max_chars(self) -> int:
        """A text of more characters does not fit, whatever its tokens; it is not even encoded."""
        return self.room * max(map(len, self.vocabulary.token_texts))

    def chat(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the ids of a conversation, with the model's mode open behind it.

        Raises:
            Problem: A text cannot be encoded.
        """
        size = sum(len(message.text) for message in messages)
        # Each has an id of its own at least, also if it is empty.
        self._check_size(size if len(messages) < self.room else self.max_chars + 1, "messages")
        ids = [self.vocabulary.end_id]
        for at, message in enumerate(messages):
            mode = self.own if message.role == "assistant" else self.others
            text = message.text if mode == self.others and mode else self._apart(message.text)
            ids += self._span(self._encode(text, f"messages.{at}.content"), mode)
        return (*ids, *self._open(self.own))

    def completion(self, prompt: str | Sequence[int], where: str) -> tuple[int, ...]:
        """Return the ids of a text that others wrote, with the model's mode open behind it.

        Raises:
            Problem: It cannot be encoded, or has an id that is not text.
        """
        self._check_size(len(prompt), "prompt")
        if isinstance(prompt, str):
            text = self._encode(prompt, where)
        else:
            text = list(prompt)
            size = self.vocabulary.text_size
            if any(not 0 <= token < size for token in text):
                raise Problem(
                    400, f"{where}: an id is not text; text ids are below {size}",
                    param="prompt", code="id_not_text",
                )  # fmt: skip
        span = self._span(text, self.others) if text else []
        return (self.vocabulary.end_id, *span, *self._open(self.own))

    def _check_size(self, size: int, param: str) -> None:
        if size > self.max_chars:
            raise Problem(
                400, f"{param}: longer than the context has {self.room} tokens for", param=param,
                code="context_length_exceeded",
            )  # fmt: skip

    def _apart(self, text: str) -> str:
        """Return a text that nothing but a newline keeps apart from the next."""
        encloses = self.own is not None and self.vocabulary.scheme.mode(self.own).close
        return text if encloses or text.endswith("\n") else text + "\n"

    def _span(self, text_ids: Sequence[int], mode: str | None) -> list[int]:
        return [*self._open(mode), *text_ids, *self._close(mode)]

    def _open(self, mode: str | None) -> list[int]:
        path = self.vocabulary.scheme.path(mode) if mode else ()
        return [self.vocabulary.open_id(name) for name in path]

    def _close(self, mode: str | None) -> list[int]:
        scheme = self.vocabulary.scheme
        path = scheme.path(mode) if mode else ()
        tags = [scheme.mode(name).close for name in reversed(path)]
        return [self.vocabulary.tag_ids[tag] for tag in tags if tag is not None]

    def _encode(self, text: str, where: str) -> list[int]:
        try:
            return self.vocabulary.encode_text(text)
        except DataError as error:
            raise Problem(400, f"{where}: {error}", param=where.split(".")[0]) from error

"""Answers as the OpenAI API writes them, whole and in chunks.

`prealign` is our own field: the policy, the fingerprint of the guard's table, and spans with
their modes, places and pressure per visible token.
"""

from typing import Any, Literal

from prealign.serve.choices import Piece, chat_logprobs, completion_logprobs
from prealign.serve.service import Answer
from prealign.tokens.vocabulary import Vocabulary

Kind = Literal["chat", "completion"]


def whole(kind: Kind, answer: Answer, vocabulary: Vocabulary, *, logprobs: bool) -> dict[str, Any]:
    """Return the whole answer."""
    choices = []
    for index, choice in enumerate(answer.choices):
        one: dict[str, Any] = {"index": index, "finish_reason": choice.finish, "logprobs": None}
        if kind == "chat":
            one["message"] = {"role": "assistant", "content": choice.text, "refusal": None}
            if logprobs:
                one["logprobs"] = chat_logprobs(choice.pieces, vocabulary)
        else:
            one["text"] = choice.text
            if logprobs:
                one["logprobs"] = completion_logprobs(choice.pieces, vocabulary, 0)
        one["prealign"] = {"spans": choice.spans()}
        choices.append(one)
    name = "chat.completion" if kind == "chat" else "text_completion"
    return _envelope(name, answer) | {"choices": choices, "usage": answer.usage}


def opening(answer: Answer, index: int) -> dict[str, Any]:
    """Return the first chunk of a chat's choice, which says who speaks."""
    delta = {"role": "assistant", "content": ""}
    choice = {"index": index, "delta": delta, "finish_reason": None, "logprobs": None}
    return _envelope("chat.completion.chunk", answer) | {"choices": [choice]}


def chunk(
    kind: Kind,
    answer: Answer,
    index: int,
    pieces: list[Piece],
    vocabulary: Vocabulary,
    *,
    logprobs: bool,
) -> dict[str, Any]:
    """Return what is new in a choice."""
    text = "".join(piece.delta.text for piece in pieces)
    one: dict[str, Any] = {"index": index, "finish_reason": None, "logprobs": None}
    if kind == "chat":
        one["delta"] = {"content": text}
        if logprobs:
            one["logprobs"] = chat_logprobs(pieces, vocabulary)
    else:
        one["text"] = text
        if logprobs:
            at = pieces[0].delta.start_char if pieces else 0
            one["logprobs"] = completion_logprobs(pieces, vocabulary, at)
    one["prealign"] = {"spans": [piece.as_span() for piece in pieces]}
    return _chunk(kind, answer) | {"choices": [one]}


def closing(kind: Kind, answer: Answer, index: int) -> dict[str, Any]:
    """Return the last chunk of a choice, which says why it ended."""
    finish = answer.choices[index].finish
    one: dict[str, Any] = {"index": index, "finish_reason": finish, "logprobs": None}
    if kind == "chat":
        one["delta"] = {}
    else:
        one["text"] = ""
    return _chunk(kind, answer) | {"choices": [one]}


def usage(kind: Kind, answer: Answer) -> dict[str, Any]:
    """Return the chunk with the usage."""
    return _chunk(kind, answer) | {"choices": [], "usage": answer.usage}


def _chunk(kind: Kind, answer: Answer) -> dict[str, Any]:
    return _envelope("chat.completion.chunk" if kind == "chat" else "text_completion", answer)


def _envelope(name: str, answer: Answer) -> dict[str, Any]:
    return {
        "id": answer.id,
        "object": name,
        "created": answer.created,
        "model": answer.model,
        "system_fingerprint": answer.guard,
        "prealign": answer.stamp,
    }

"""How the model of a tokenizer could write a tag's id out of plain text: what its file says.

There are few ways in which a model comes to an id, so where none of them leads to a tag's id that
is a proof, for any text. Where one does, and the pre-tokenizer cuts the tag apart before the model
sees it, that is a proof too; else only a string can show whether the way is open.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, NamedTuple

BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
MODELS = ("BPE", "WordPiece", "WordLevel", "Unigram")


class Route(NamedTuple):
    """A way from text to the id of a tag through the model."""

    construction: str
    why: str
    mend: str
    cut: str | None
    """The pre-tokenizer that cuts the tag apart, whatever the text; None: none that is known to."""


def routes(data: Mapping[str, Any], tags: Mapping[str, int]) -> dict[str, Route]:
    """Return, per tag, a way to its id through the model; no entry: there is none.

    Args:
        data: The content of a tokenizer.json.
        tags: Ids by tag.
    """
    model = data["model"]
    kind = model.get("type", "BPE")
    spelled = _by_id(model)
    merged = _merged(model) if kind == "BPE" else set()
    found = {}
    for tag, token_id in tags.items():
        for token in spelled.get(token_id, ()):
            route = _route(model, kind, token, token_id, merged)
            if route is not None:
                cut = None if route[0] in ("unknown", "byte fallback") else _cutter(data, token)
                found[tag] = Route(*route, cut)
    return found


def _by_id(model: Mapping[str, Any]) -> dict[int, list[str]]:
    """Return the model's tokens by id."""
    vocab = model["vocab"]
    found: dict[int, list[str]] = {}
    pairs = (
        [(piece, i) for i, (piece, _) in enumerate(vocab)]
        if isinstance(vocab, list)
        else vocab.items()
    )
    for token, token_id in pairs:
        found.setdefault(token_id, []).append(token)
    return found


def _merged(model: Mapping[str, Any]) -> set[str]:
    """Return what the merges of a BPE model make."""
    prefix = model.get("continuing_subword_prefix") or ""
    found = set()
    for merge in model.get("merges", ()):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        found.add(left + right.removeprefix(prefix))
    return found


def _route(
    model: Mapping[str, Any], kind: str, token: str, token_id: int, merged: set[str]
) -> tuple[str, str, str] | None:
    """Return construction, reason and remedy of a way to a model's token; None: there is none."""
    unknown = model.get("unk_token") == token or model.get("unk_id") == token_id
    if unknown:
        return (
            "unknown",
            "it is the unknown token: any character that the vocabulary lacks becomes it",
            "use byte-level BPE, which knows every text, or another token for the unknown",
        )
    if model.get("byte_fallback") and BYTE.fullmatch(token):
        return (
            "byte fallback",
            "it is a token of the byte fallback: a character that the vocabulary lacks becomes it",
            "give the tag another name",
        )
    mend = "take the tag out of the text model's vocabulary, and give it an id behind it"
    if kind != "BPE":
        return (
            f"{kind} vocabulary",
            f"it is in the vocabulary of the {kind} model, which looks up strings: whether they "
            "are special is not asked there",
            mend,
        )
    if model.get("ignore_merges"):
        return (
            "ignore_merges",
            "it is in the BPE vocabulary, and ignore_merges looks up whole pre-tokens there",
            mend,
        )
    if token in merged:
        return (
            "merge",
            "a merge of the BPE model makes it, as its training text spelled the tag; the added "
            "token took that id",
            "train on text without the tags' literals, or give the tag an id behind the model's",
        )
    suffix = model.get("end_of_word_suffix") or ""
    prefix = model.get("continuing_subword_prefix") or ""
    if len(token.removesuffix(suffix).removeprefix(prefix)) <= 1:
        return ("single character", "it is one character, which BPE starts from", mend)
    return None


def _cutter(data: Mapping[str, Any], token: str) -> str | None:
    """Return a pre-tokenizer that cuts the token apart wherever it stands; None if unknown."""
    first = data["pre_tokenizer"]
    if first is None or not token.isascii():  # then a later stage may write it otherwise
        return None
    stages = first["pretokenizers"] if first["type"] == "Sequence" else [first]
    return next((stage["type"] for stage in stages if _cuts(stage, token)), None)


def _cuts(stage: Mapping[str, Any], token: str) -> bool:
    """Return whether no pre-token behind this stage can hold the token."""
    kinds = {unicodedata.category(char)[0] for char in token}
    marks = [char for char in token if unicodedata.category(char)[0] in "PS" and char != "_"]
    if stage["type"] == "BertPreTokenizer":
        return len(token) > 1 and bool(marks)
    if stage["type"] == "Punctuation":
        return (
            len(token) > 1
            and stage.get("behavior") in ("Isolated", "Removed")
            and any(unicodedata.category(char)[0] == "P" or char in "<>|" for char in token)
        )
    if stage["type"] == "Whitespace":  # \w+|[^\w\s]+
        return bool(marks) and bool(kinds & {"L", "N"} or "_" in token)
    if stage["type"] == "ByteLevel" and stage.get("use_regex", True):
        # Letters and marks stand together only behind an apostrophe, as in 's.
        return "L" in kinds and any(char != "'" for char in marks)
    return False

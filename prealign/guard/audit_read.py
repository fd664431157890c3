"""What is to be audited: a tokenizer as transformers would load it, or a model of prealign."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from prealign.errors import DataError
from prealign.tokens.vocabulary import Vocabulary, load_vocabulary

HUB = "hub:"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is audited."""

    name: str
    tokenizer: Tokenizer
    """With the tokens that transformers adds when it loads the folder."""
    late: tuple[str, ...] = ()
    """Tokens that tokenizer.json lacks and the folder's other files add."""
    template: str | None = None
    """The chat template, several of them joined."""
    vocabulary: Vocabulary | None = None
    """Of a model of prealign."""


def read_subject(path: str | Path) -> Subject:
    """Return what is to be audited.

    Args:
        path: A folder with tokenizer.json, such a file, or `hub:ORG/NAME` to fetch one.

    Raises:
        DataError: There is none, or it cannot be read.
    """
    if str(path).startswith(HUB):
        return Subject(name=str(path), tokenizer=_from_hub(str(path).removeprefix(HUB)))
    folder = Path(path)
    file = folder / "tokenizer.json" if folder.is_dir() else folder
    if not file.is_file():
        raise DataError(
            f"{file}: there is no such file; give a folder with tokenizer.json (a slow one is "
            "converted by AutoTokenizer.from_pretrained(...).save_pretrained(...)), or hub:ORG/NAME"
        )
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises nothing more special
        raise DataError(f"{file}: is no tokenizer ({error})") from error
    if not folder.is_dir():
        return Subject(name=str(path), tokenizer=tokenizer)
    ours = (folder / "scheme.json").is_file()
    late = _add_late(tokenizer, folder)
    return Subject(
        name=str(path),
        tokenizer=tokenizer,
        late=late,
        template=_template(folder),
        vocabulary=load_vocabulary(folder) if ours else None,
    )


def _from_hub(name: str) -> Tokenizer:
    try:
        return Tokenizer.from_pretrained(name)
    except Exception as error:  # the library raises nothing more special
        raise DataError(f"hub:{name}: cannot be fetched ({error})") from error


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        data = json.loads(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file}: is no JSON ({error})") from error
    if not isinstance(data, dict):
        raise DataError(f"{file}: expected a JSON object, got {type(data).__name__}")
    return data


def _add_late(tokenizer: Tokenizer, folder: Path) -> tuple[str, ...]:
    """Add the tokens that transformers adds on loading; return those."""
    config = _json(folder / "tokenizer_config.json")
    named: dict[str, AddedToken] = {}
    for content in _json(folder / "added_tokens.json"):
        named[content] = AddedToken(content, normalized=True, special=False)
    decoder = config.get("added_tokens_decoder")
    for entry in decoder.values() if isinstance(decoder, dict) else ():
        token = _token(entry, special=False)
        named[token.content] = token
    for source in (config, _json(folder / "special_tokens_map.json")):
        for key, value in source.items():
            many = key in ("additional_special_tokens", "extra_special_tokens")
            if not (key.endswith("_token") or many):
                continue
            values = list(value.values()) if many and isinstance(value, dict) else value
            for entry in values if isinstance(values, list) else [values]:
                if isinstance(entry, str | dict) and entry:
                    token = _token(entry, special=True)
                    named.setdefault(token.content, token)
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    late = tuple(content for content in named if content not in known)
    tokenizer.add_tokens([named[content] for content in late])
    return late


def _token(entry: str | Mapping[str, Any], *, special: bool) -> AddedToken:
    if isinstance(entry, str):
        return AddedToken(entry, special=special, normalized=not special)
    own = bool(entry.get("special", special))
    content = entry.get("content", "")
    return AddedToken(content, special=own, normalized=bool(entry.get("normalized", not own)))


def _template(folder: Path) -> str | None:
    found = [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.jinja"))]
    own = _json(folder / "tokenizer_config.json").get("chat_template")
    for one in own if isinstance(own, list) else [own]:
        text = one.get("template") if isinstance(one, dict) else one
        found += [text] if isinstance(text, str) else []
    return "\n".join(found) or None

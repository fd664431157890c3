"""Settings: frozen dataclasses in Python, `a.b=value` on the command line.

Values come from the command line, objects come from Python: to swap an object (another
objective, another scorer) write a recipe function. `override` never changes its argument.
"""

import ast
import dataclasses
import difflib
import hashlib
import json
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from prealign.errors import ConfigError

NOT_RECORDED = {"recorded": False}
T = TypeVar("T")
WORDS = {"true": True, "false": False, "none": None}


def override(settings: T, assignments: Sequence[str]) -> T:
    """Return a copy of `settings` with dotted assignments such as `train.lr=1e-3` applied.

    All of them are applied at once, so that settings that must fit each other can be changed
    together; of two for one setting, the last counts.

    Raises:
        ConfigError: An assignment has no `=`, names a setting that does not exist, or gives a
            value of another type than the annotation's.
    """
    tree: dict[str, Any] = {}
    for assignment in assignments:
        path, sep, text = assignment.partition("=")
        if not sep:
            raise ConfigError(f"{assignment!r}: expected KEY=VALUE, for example train.lr=1e-3")
        *outer, last = path.split(".")
        node = tree
        for key in outer:
            node = node.setdefault(key, {})
            if isinstance(node, str):
                raise ConfigError(f"{path}: {key} is given a value of its own as well")
        node[last] = text
    changed: T = _replaced(settings, tree, where="")
    return changed


def to_json(value: Any) -> Any:
    """Return JSON data for a tree of settings.

    A dataclass records its import path as `type`; a function is recorded by its import path. A
    field with the metadata `NOT_RECORDED` is left out: it decides how, not what, work is done.

    Raises:
        ConfigError: Something in it has no lasting form, such as a lambda.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: to_json(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.metadata.get("recorded", True)
        }
        return {"type": f"{type(value).__module__}.{type(value).__qualname__}"} | fields
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(to_json(item) for item in value)
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, types.FunctionType) and "<" not in value.__qualname__:
        return f"{value.__module__}.{value.__qualname__}"
    raise ConfigError(f"a {type(value).__name__} cannot be recorded as a setting: {value!r}")


def fingerprint(value: Any) -> str:
    """Return 16 hex digits that change when any setting in `value` does."""
    text = json.dumps(to_json(value), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _replaced(node: Any, tree: dict[str, Any], *, where: str) -> Any:
    """Return `node` with the settings of `tree` replaced, in one step."""
    new: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{where}.{key}" if where else key
        if not dataclasses.is_dataclass(node) or isinstance(node, type):
            raise ConfigError(f"{path}: a {type(node).__name__} has no settings below it")
        names = [f.name for f in dataclasses.fields(node) if f.init]
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"{path}: {type(node).__name__} has no setting {key!r}{hint} "
                f"(it has: {', '.join(names)})"
            )
        if isinstance(value, dict):
            new[key] = _replaced(getattr(node, key), value, where=path)
        else:
            new[key] = _parse(value, typing.get_type_hints(type(node))[key], where=path)
    return dataclasses.replace(node, **new) if new else node


def _parse(text: str, kind: Any, *, where: str) -> Any:
    """Read `text` as the type `kind`; a string is taken as it is, without quotes."""
    is_union = isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
    options = typing.get_args(kind) if is_union else (kind,)
    if text.lower() == "none" and type(None) in options:
        return None
    for option in options:
        if typing.get_origin(option) is typing.Literal:
            return _parse_choice(text, typing.get_args(option), where=where)
        if option is Path:
            return Path(text)
    value = _literal(text)
    if str in options and type(value) not in options:
        return text
    if float in options and type(value) is int:
        value = float(value)
    if isinstance(value, list):
        value = tuple(value)
    allowed = tuple(typing.get_origin(option) or option for option in options)
    if type(value) not in allowed:
        names = " or ".join("none" if a is type(None) else a.__name__ for a in allowed)
        raise ConfigError(f"{where}={text}: expected {names}, got {type(value).__name__}")
    return value


def _literal(text: str) -> Any:
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _parse_choice(text: str, choices: tuple[Any, ...], *, where: str) -> Any:
    for choice in choices:
        if text == str(choice):
            return choice
    raise ConfigError(f"{where}={text}: expected one of {', '.join(map(str, choices))}")

"""JSON files of texts that are kept by name: a schema version, a name, a version, and entries.

Seed banks (`prealign.posttrain.seeds`) and constitutions (`prealign.posttrain.constitution`) are
such files. Some come with the package and are known by their names alone.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from prealign.errors import DataError

SCHEMA_VERSION = 1


def text_of(where: str | Path, *, what: str, folder: Path, packaged: Sequence[str]) -> str:
    """Return what a packaged file, known by its name, or a file of the user's has in it.

    Raises:
        DataError: There is no such file, or it is no text.
    """
    path = folder / f"{where}.json" if str(where) in packaged else Path(where)
    if not path.is_file():
        raise DataError(f"{where}: there is no such {what}; packaged: {', '.join(packaged)}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is no {what} ({error})") from error


def read_named(text: str, where: str, *, what: str, keys: Collection[str]) -> dict[str, Any]:
    """Return what a JSON text says, without its schema version.

    Raises:
        DataError: It is malformed, of another schema version, or has a key besides these.
    """
    try:
        data: dict[str, Any] = json.loads(text)
        version = data.pop("schema_version")
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{where}: is no {what} ({error!r})") from error
    if version != SCHEMA_VERSION:
        raise DataError(f"{where}: schema version {version!r}, allowed: {SCHEMA_VERSION}")
    unknown = sorted(set(data) - set(keys))
    if unknown:
        raise DataError(f"{where}: unknown key {unknown[0]!r}")
    return data


def entry_of(entry: Any, index: int, *, what: str, keys: Collection[str]) -> dict[str, str]:
    """Return an entry, which has a text for each of these keys and nothing else.

    Raises:
        DataError: It has other keys, or something that is no text.
    """
    if not isinstance(entry, dict) or set(entry) != set(keys):
        got = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise DataError(f"{what} {index}: has {got}; expected {sorted(keys)}")
    for key, value in entry.items():
        if not isinstance(value, str):
            raise DataError(f"{what} {index}: {key} is {value!r}; expected a text")
    return entry


def write_named(name: str, version: int, more: Mapping[str, Any]) -> str:
    """Return the JSON text that `read_named` reads."""
    head = {"schema_version": SCHEMA_VERSION, "name": name, "version": version}
    return json.dumps(head | dict(more), indent=1) + "\n"

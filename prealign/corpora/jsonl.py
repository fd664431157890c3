"""Objects of a JSONL file, one a line; it may be gzipped (`.gz`)."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prealign.errors import DataError


def json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield the number of each line that is not empty, and its object or what is wrong with it.

    Raises:
        DataError: The file is missing or damaged.
    """
    if not path.exists():
        raise DataError(f"{path}: is not there")
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, _object(line.rstrip(b"\r\n"))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: cannot be read ({error})") from error


def _object(line: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return f"byte {error.start} is not UTF-8; write the file as UTF-8"
    except json.JSONDecodeError as error:
        got = line.decode()[:40]
        return f"not JSON ({error.msg}, column {error.colno}): {got!r}; expected one object"
    except RecursionError:
        return "nests too deep to be read as JSON"
    return row if isinstance(row, dict) else f"is a {type(row).__name__}; expected an object"

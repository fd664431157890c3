"""The list of an export's files: what is whole, and what is not."""

import hashlib
import json
from pathlib import Path
from typing import Any

from prealign.errors import DataError
from prealign.runs import write_atomic

MANIFEST = "prealign.json"
EXPORT_VERSION = 1


def is_export(folder: Path) -> bool:
    """Return whether a folder says that it is an export."""
    return (folder / MANIFEST).is_file()


def check_export(folder: Path, *, digests: bool = True, but: tuple[str, ...] = ()) -> None:
    """Look whether an export is whole.

    Args:
        folder: It.
        digests: Read all files, not only their sizes.
        but: Files that may be other ones.

    Raises:
        DataError: It is no export, or a file is missing, new, or another one.
    """
    data = read_manifest(folder)
    there = {f"data/{file.name}" for file in (folder / "data").glob("*.parquet")}
    surplus = sorted(there - data["files"].keys())
    if surplus:
        raise DataError(f"{folder / surplus[0]}: is not of this export; move it away")
    for name, known in data["files"].items():
        file = folder / name
        if name in but:
            continue
        if not file.is_file() or file.stat().st_size != known["bytes"]:
            raise DataError(f"{file}: is missing or cut off; export again")
        if digests and digest_of(file) != known["sha256"]:
            raise DataError(f"{file}: is another file than the one that was written; export again")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the list of an export.

    Raises:
        DataError: There is none, or it is malformed.
    """
    if not is_export(folder):
        raise DataError(
            f"{folder}: is no export (no {MANIFEST}); `prealign corpus card` writes one"
        )
    try:
        data: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        version, _ = data["version"], data["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / MANIFEST}: is malformed ({error!r}); export again") from error
    if version != EXPORT_VERSION:
        raise DataError(f"{folder / MANIFEST}: version {version!r}, allowed: {EXPORT_VERSION}")
    return data


def write_manifest(part: Path, documents: int) -> None:
    """Write the list of all files that lie in a folder."""
    files = sorted(file for file in part.rglob("*") if file.is_file())
    data = {
        "version": EXPORT_VERSION,
        "documents": documents,
        "files": {
            file.relative_to(part).as_posix(): {
                "bytes": file.stat().st_size, "sha256": digest_of(file),
            }
            for file in files
        },
    }  # fmt: skip
    write_atomic(part / MANIFEST, json.dumps(data, indent=1, sort_keys=True) + "\n")


def digest_of(file: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

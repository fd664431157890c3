"""The run folder: where a stage leaves what it did, as files that any other stage can read.

    config.json     settings, versions, commit, machine; written once, checked on resume
    commands.txt    other commands that went on with a comparison, such as one for more seeds
    metrics.jsonl   one row per logged step
    evals.jsonl     one row per measured number: condition, metric, value, interval
    samples.jsonl   generated texts with their spans, findings and scores
    checkpoints/    what training resumes from
    model/          the saved model with its tokenizer and scheme
    starts.jsonl    when work on it began, each time, and how long it lasted
    log.txt         plain lines

A file is replaced in one step (`write_atomic`) or grows by whole lines; a line torn by a kill is
cut off when the file is next opened to append.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from prealign.config import to_json
from prealign.errors import RunError

PACKAGES = ("prealign", "torch", "transformers", "tokenizers", "numpy", "pyarrow", "pycodestyle")

FOLDERS = re.compile(r"(?<![^\s=,'\"])~?/(?:[^\s/=,]+/)*")
"""What stands in a command in front of the last part of a path that begins at a root."""


@dataclass(frozen=True)
class RunFolder:
    """A folder with the files above. Make one with `open_run`; read one with `read_run`."""

    path: Path

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to `NAME.jsonl`; NaN and infinity are refused (write None)."""
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        file = self.path / f"{name}.jsonl"
        with file.open("r+b" if file.exists() else "w+b") as stream:
            stream.seek(_whole_lines(stream.read()))
            stream.truncate()
            stream.write(lines.encode())

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of `NAME.jsonl`; none if there is no such file."""
        file = self.path / f"{name}.jsonl"
        return list(read_jsonl(file)) if file.exists() else []

    def rewrite(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace `NAME.jsonl` in one step."""
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        write_atomic(self.path / f"{name}.jsonl", lines)

    @property
    def config(self) -> dict[str, Any]:
        """The contents of config.json."""
        data: dict[str, Any] = json.loads((self.path / "config.json").read_text())
        return data

    @property
    def commands(self) -> list[str]:
        """The command that began the run, and others that went on with it, in order."""
        more = self.path / "commands.txt"
        later = more.read_text().splitlines() if more.exists() else []
        return [self.config["environment"]["command"], *later]

    def tell_command(self) -> None:
        """Note the command of this process, if it is a new one to the run."""
        command = _command()
        if command not in self.commands:
            with (self.path / "commands.txt").open("a") as file:
                file.write(command + "\n")

    def log(self, line: str) -> None:
        """Append a dated line to log.txt."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


def open_run(path: Path, settings: Any, *, recipe: str = "") -> RunFolder:
    """Return the run folder at `path`, made now, or found with the very same settings.

    Raises:
        RunError: The folder holds a run with other settings, or something that is no run.
    """
    recorded = {"recipe": recipe, "settings": to_json(settings)}
    config = path / "config.json"
    if config.exists():
        found = json.loads(config.read_text())
        if found["settings"] != recorded["settings"] or found["recipe"] != recipe:
            what = _first_difference(found["settings"], recorded["settings"], "settings")
            raise RunError(f"{path}: holds another run ({what}); name another folder or delete it")
        return RunFolder(path)
    if path.exists() and any(not file.name.endswith(".part") for file in path.iterdir()):
        if config.exists():  # another process has just begun the same run
            return open_run(path, settings, recipe=recipe)
        raise RunError(f"{path}: is not empty and holds no run; name another folder")
    path.mkdir(parents=True, exist_ok=True)
    write_atomic(config, json.dumps(recorded | {"environment": environment()}, indent=1))
    return RunFolder(path)


def stopwatch(run: RunFolder) -> Callable[[], float]:
    """Note that work on a run starts, and return what tells its seconds over all starts, till now.

    A start that was killed lasted till it last wrote a file of the folder.
    """
    starts = run.rows("starts")
    if starts and "s" not in starts[-1]:
        newest = max(file.stat().st_mtime for file in run.path.rglob("*") if file.is_file())
        starts[-1]["s"] = max(newest - starts[-1]["began"], 0.0)
    now = time.time()
    run.rewrite("starts", [*starts, {"began": now}])
    before, begun = sum(start["s"] for start in starts), time.perf_counter()
    return lambda: before + time.perf_counter() - begun


def read_run(path: Path) -> RunFolder:
    """Return the run folder at `path`.

    Raises:
        RunError: There is none.
    """
    if not (path / "config.json").is_file():
        raise RunError(f"{path}: holds no run (no config.json); give a folder that a recipe wrote")
    return RunFolder(path)


@contextlib.contextmanager
def hold_folder(path: Path) -> Iterator[None]:
    """Let no other process hold the folder meanwhile; a kill lets go of it.

    Raises:
        RunError: Another process holds it.
    """
    with (path / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"{path}: another process is writing to it; wait for it") from error
        yield


def environment() -> dict[str, Any]:
    """Return what a result depends on besides its settings: versions, commit, machine."""
    commit, dirty = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "versions": {name: v for name in PACKAGES if (v := _version(name))},
        "commit": (commit or "unknown") + (" with changes" if dirty else ""),
        "machine": machine(),
        "command": _command(),
    }


def _command() -> str:
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def machine() -> str:
    """Return the machine in words: processor, cores, memory."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{model}, {os.cpu_count()} cores, {pages / 2**30:.0f} GiB"


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One number of a results file."""

    arm: str
    metric: str
    unit: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """One bar: what was asked, what came out, whether it holds, and against which row."""

    what: str
    bar: str
    value: float | str | None
    holds: bool
    control: str


def write_results(
    path: Path,
    *,
    question: str,
    seeds: Sequence[int],
    wall_s: float,
    rows: Sequence[ResultRow],
    checks: Sequence[Check],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write `path` in the one form that every results file has (docs/formats.md).

    Of a path in the command that begins at a root only its last part is told.
    """
    env = environment()
    head = {"name": path.stem, "question": question}
    keys = ("command", "commit", "date", "machine")
    body = {
        "versions": {"python": env["python"], **env["versions"]},
        "seeds": list(seeds),
        "wall_s": round(wall_s, 1),
        "rows": [_without_none(dataclasses.asdict(row)) for row in rows],
        "checks": [dataclasses.asdict(check) for check in checks],
    }
    data = head | {key: env[key] for key in keys} | body | dict(extra or {})
    data["command"] = FOLDERS.sub(".../", data["command"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file so that a reader, or a kill, sees the old one or the new one, whole."""
    # On a folder that machines share, process ids are not enough.
    part = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    with part.open("wb") as stream:
        stream.write(data.encode() if isinstance(data, str) else data)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def replace_folder(part: Path, folder: Path) -> None:
    """Put a finished folder in the place of another, or of none; both on one file system."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)  # of a start that was killed
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of a JSONL file that we wrote; a torn last line is left out."""
    data = path.read_bytes()
    for line in data[: _whole_lines(data)].splitlines():
        yield json.loads(line)


def _whole_lines(data: bytes) -> int:
    return data.rfind(b"\n") + 1


def _without_none(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*args: str) -> str | None:
    """Return what git says of the checkout this package runs from, if it runs from one."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _first_difference(old: Any, new: Any, where: str) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            if old.get(key) != new.get(key):
                return _first_difference(old.get(key), new.get(key), f"{where}.{key}")
    return f"{where} was {json.dumps(old)}, is now {json.dumps(new)}"

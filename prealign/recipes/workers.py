"""Jobs in processes of their own, a few at a time, with one display of how far each has come."""

import contextlib
import fcntl
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from prealign.errors import ConfigError, PrealignError, RunError, TrainError
from prealign.runs import RunFolder, read_jsonl, write_atomic

RATE_OVER_ROWS = 10
Job = tuple[str, Callable[..., None], tuple[Any, ...]]
"""The name of its folder, a function that can be pickled, and its arguments."""


def folder_of(arm: str, seed: int) -> str:
    """Return the name of the folder of an arm's run with a seed."""
    return f"{arm.replace(' ', '-')}-seed{seed}"


def check_arms(chosen: Sequence[str], known: Sequence[str]) -> None:
    """See that all arms that were asked for are there.

    Raises:
        ConfigError: One is not.
    """
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise ConfigError(f"arms={unknown[0]!r}: expected some of {'; '.join(known)}")


def end_run(
    run: RunFolder, rows: Iterable[Mapping[str, Any]], *, seed: int, wall_s: float, **more: Any
) -> None:
    """Leave what was measured of an arm, and the mark that it is done."""
    run.rewrite("evals", [{**row, "seed": seed} for row in rows])
    write_atomic(run.path / "done.json", json.dumps({"wall_s": wall_s, **more}))


def run_workers(
    jobs: Sequence[Job], out: Path, *, processes: int, threads: int, console: Console
) -> None:
    """Run every job; each writes into `out/NAME`, and what it prints into `out/NAME.log`.

    Where `out` is a run folder it gets to know this command.
    Two calls may share a folder, with other seeds say; a job that another process is at fails.

    Raises:
        TrainError: A job failed; the others that had started are left to end first.
    """
    if (out / "config.json").exists():
        RunFolder(out).tell_command()
    context = multiprocessing.get_context("spawn")
    waiting = list(jobs)
    running: dict[str, BaseProcess] = {}
    failed: list[str] = []
    with _display(console) as display:
        tasks: dict[str, TaskID] = {}
        last_line = time.monotonic()
        while running or (waiting and not failed):
            while waiting and len(running) < processes and not failed:
                name, function, arguments = waiting.pop(0)
                log = out / f"{name}.log"
                process: BaseProcess = context.Process(
                    target=_work, args=(log, function, arguments), name=name
                )
                with _threads(threads):
                    process.start()
                running[name] = process
                tasks[name] = display.add_task(name, total=1.0, what="starting")
            time.sleep(0.5)
            for name, process in list(running.items()):
                _show(display, tasks[name], out / name)
                if not process.is_alive():
                    process.join()
                    del running[name]
                    failed += [name] if process.exitcode else []
                    display.update(tasks[name], completed=1.0, what="done")
            if not console.is_terminal and time.monotonic() - last_line > 20:
                last_line = time.monotonic()
                for name in running:
                    console.print(f"{name}: {_state(out / name)[1]}", highlight=False)
    if failed:
        lines = (out / f"{failed[0]}.log").read_text(errors="replace").strip().splitlines()
        said = lines[-1] if lines else "it said nothing"
        raise TrainError(f"{failed[0]} failed: {said} (all of it: {out / failed[0]}.log)")


@contextlib.contextmanager
def _threads(threads: int) -> Iterator[None]:
    """Let processes that are started now have so many OpenMP threads each.

    It has to be in their environment from the start: torch reads it when it is imported. With more
    threads than cores in all, training is many times slower.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def _work(log: Path, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Run one job in its own process, its output in `log`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    try:
        with log.open() as lock:  # its own descriptor, which no process of the job inherits
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError("another process is at this job; wait for it") from error
            function(*arguments)
    except PrealignError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(2)


def _end_with_parent() -> None:
    """End this process when the one that started it does, however that came about.

    Else a job whose recipe was killed would write on beside the one that starts it again.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _display(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[what]}"),
        console=console,
        disable=not console.is_terminal,
    )


def _show(display: Progress, task: TaskID, folder: Path) -> None:
    share, what = _state(folder)
    display.update(task, completed=share, what=what)


def _state(folder: Path) -> tuple[float, str]:
    """Return how far a job has come, and in words, from its last metrics row.

    A job of several stages has a folder for each; the one that was written to last counts.
    """
    if (folder / "done.json").exists():
        return 1.0, "done"
    stages = [*folder.glob("metrics.jsonl"), *folder.glob("*/metrics.jsonl")]
    metrics = max(stages, key=lambda file: file.stat().st_mtime, default=None)
    rows = list(read_jsonl(metrics)) if metrics else []
    if not rows:
        return 0.0, "preparing"
    row, earlier = rows[-1], rows[max(-len(rows), -RATE_OVER_ROWS)]
    share = row["step"] / row["steps"]
    if share >= 1:
        return share, "measuring"
    # The first rows hold the time of compiling: the rate is that of the latest rows.
    steps, seconds = row["step"] - earlier["step"], row["elapsed_s"] - earlier["elapsed_s"]
    said = [f"loss {row[name]:.3f}" for name in ("loss_nats", "loss") if row.get(name) is not None]
    if steps == 0:
        return share, "; ".join(said) or "at work"
    left_s = (row["steps"] - row["step"]) * seconds / steps
    if "tokens" in row:  # pretraining's; a step of post-training has samples of any length
        said.append(f"{(row['tokens'] - earlier['tokens']) / max(seconds, 1e-9):,.0f} tokens/s")
    return share, ", ".join([*said, f"{left_s / 60:.1f} min left"])

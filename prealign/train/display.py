"""How far training is: a bar on a terminal, lines now and then elsewhere and in log.txt."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from prealign.runs import RunFolder

LINE_EVERY_S = 15.0


class Show(Protocol):
    """Shows a row of metrics."""

    def __call__(self, row: Mapping[str, Any]) -> None:
        """Show it, if it is time to."""


@contextmanager
def display(run: RunFolder, *, done: int, steps: int, writes: bool) -> Iterator[Show]:
    """Yield a function that shows how far training is; it shows nothing unless `writes`.

    Args:
        run: Gets the lines in log.txt.
        done: Steps done before.
        steps: Steps in all.
        writes: Whether this process is the one that writes.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[what]}"),
        TimeRemainingColumn(), console=console, disable=not (console.is_terminal and writes),
    )  # fmt: skip
    task = bar.add_task("training", total=steps, completed=done, what="")
    said = time.monotonic()

    def show(row: Mapping[str, Any]) -> None:
        nonlocal said
        what = f"loss {words(row['loss_nats'])}, {row['tokens_per_s']:,.0f} tokens/s"
        bar.update(task, completed=row["step"], what=what)
        if writes and time.monotonic() - said > LINE_EVERY_S:
            said = time.monotonic()
            left_s = row["elapsed_s"] * (steps / row["step"] - 1)
            line = f"step {row['step']:,} of {steps:,}: {what}, {left_s:,.0f} s left"
            run.log(line)
            if not console.is_terminal:
                console.print(line, highlight=False)

    with bar:
        yield show


def words(loss_nats: float | None) -> str:
    """Return a loss in words; a step without targets that count has none."""
    return "none" if loss_nats is None else f"{loss_nats:.3f}"

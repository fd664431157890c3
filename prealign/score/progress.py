"""Progress of a long pass over documents: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

EVERY_S = 10.0
"""Seconds between plain lines."""


class Meter:
    """Shows how far a pass has come, on standard error. Use it in a `with` statement."""

    def __init__(self, total_documents: int | None, *, shown: bool) -> None:
        self._total = total_documents
        self._shown = shown
        self._documents = self._chars = 0
        self._start_s = self._said_s = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> "Meter":
        if self._shown and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("scored"),
                BarColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=self._total)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, documents: int, chars: int) -> None:
        """Count what is done."""
        self._documents += documents
        self._chars += chars
        self.show()

    def show(self, waiting_for: str | None = None) -> None:
        """Show the state, a plain line at most every ten seconds.

        Args:
            waiting_for: What has been in work for long, so that no text can hang unseen.
        """
        if not self._shown:
            return
        now_s = time.monotonic()
        rate = self._chars / max(now_s - self._start_s, 1e-9)
        line = f"{self._documents} documents, {self._chars / 1e6:.1f} M characters, "
        line += f"{rate / 1e3:.0f} k/s" + (f"; waiting for {waiting_for}" if waiting_for else "")
        if self._bar is not None:
            self._bar.update(self._task, completed=self._documents, description=line)
        elif now_s - self._said_s >= EVERY_S:
            self._said_s = now_s
            print(line + self._left(now_s), file=sys.stderr, flush=True)

    def _left(self, now_s: float) -> str:
        if self._total is None or not self._documents:
            return ""
        left_s = (now_s - self._start_s) * (self._total / self._documents - 1)
        return f", about {left_s:.0f} s left"

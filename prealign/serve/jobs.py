"""Choices that are being written: what the service asks of whoever writes them, and the count.

`Worker` writes with the engine of this package, `VllmWorker` with vLLM's.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prealign.models.engine import Ended, Event, Request, Written
from prealign.serve.metrics import Metrics
from prealign.serve.problems import Problem

Events = asyncio.Queue[tuple[int, Event] | None]
"""(index of the choice, event). None: whoever asked is gone."""


@dataclass(eq=False)
class Job:
    """A choice that is being written."""

    request: Request
    index: int
    """Among the choices of its HTTP request."""
    out: Events
    """Where its events go."""
    since: float = field(default_factory=time.monotonic)
    key: int | None = None
    """Whoever writes it may put its own name for it here."""
    first: bool = True
    done: bool = False
    """Ended, failed or cancelled; set and read by the event loop."""


def jobs_of(requests: list[Request]) -> tuple[list[Job], Events]:
    """Return the jobs of one HTTP request, and the queue that all of them write to."""
    out: Events = asyncio.Queue()
    return [Job(request, index, out) for index, request in enumerate(requests)], out


@dataclass(eq=False)
class Tally:
    """How many jobs there are, and what becomes of them; the event loop's alone.

    Args:
        metrics: Counted here.
        limit: Jobs at work and waiting, together.
    """

    metrics: Metrics
    limit: int
    draining: bool = False
    """New jobs are refused."""
    jobs: int = 0

    def admit(self, count: int, unread: int, alive: bool) -> None:
        """Take so many jobs more, or none.

        Args:
            count: New ones.
            unread: Jobs that are done, and whose events are kept.
            alive: Whoever writes can write.

        Raises:
            Problem: The server ends (503), or there are too many jobs already (429).
        """
        if self.draining or not alive:
            raise Problem(
                503, "the server is about to end", kind="server_error", code="draining",
                retry_after_s=5,
            )  # fmt: skip
        held = self.jobs + unread
        if held + count > self.limit:
            raise Problem(
                429, f"{held} choices are at work or waiting, of {self.limit}; try again",
                kind="rate_limit_error", code="queue_full", retry_after_s=1,
            )  # fmt: skip
        self.jobs += count

    def finish(self, job: Job, why: str) -> None:
        """Count a job as done."""
        job.done = True
        self.jobs -= 1
        self.metrics.ended.labels(why).inc()

    def hear(self, job: Job, event: Event, now: float) -> None:
        """Count what has become of a job and hand it on; of a job that is done nothing is."""
        if job.done:
            return
        if job.first:
            job.first = False
            self.metrics.first_s.observe(now - job.since)
        if isinstance(event, Written):
            if event.pressure is not None:
                self.metrics.pressure.observe(event.pressure)
        elif isinstance(event, Ended):
            self.finish(job, event.why)
        else:
            self.metrics.violations.inc(event.kind == "guard")
            self.finish(job, f"failed: {event.kind}")
        job.out.put_nowait((job.index, event))


class Working(Protocol):
    """What the service needs of whoever writes; all of it is called from the event loop."""

    @property
    def tally(self) -> Tally:
        """The count of the jobs."""

    @property
    def room(self) -> int:
        """Tokens of a prompt and what is written behind it."""

    @property
    def alive(self) -> bool:
        """Jobs can be written."""

    def start(self) -> None:
        """Begin; called from within the event loop."""

    def stop(self) -> None:
        """End all work; called from another thread, while the event loop goes on."""

    def check(self, request: Request) -> int:
        """Return the guard's state behind the prompt, or raise if it cannot be served."""

    def submit(self, jobs: list[Job], unread: int = 0) -> None:
        """Take all these jobs, or raise a `Problem`; see `Tally.admit`."""

    def cancel(self, job: Job) -> None:
        """Give a job up; nothing comes of it any more. A job that is done stays done."""

    def switch(self, jobs: Sequence[Job], change: Callable[[int], int | None]) -> None:
        """Change the guard's state of jobs that are at work, or raise a `Problem`.

        Where `change` returns None, it cannot be done yet, and is tried again.
        """

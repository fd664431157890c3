"""The engine in a thread of its own, and its events in the event loop of the server.

Commands (add, cancel, switch) go into a queue that the thread reads between two steps; events come
back once per step. Only the thread touches the engine.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prealign.errors import PrealignError
from prealign.models.engine import Ended, Engine, Event, Failed, Request, Written
from prealign.serve.metrics import Metrics
from prealign.serve.problems import Problem

Events = asyncio.Queue[tuple[int, Event] | None]
"""(index of the choice, event). None: whoever asked is gone."""
LOG = logging.getLogger("prealign.serve")


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
    """The engine's; set and read by the engine's thread."""
    first: bool = True
    done: bool = False
    """Ended, failed or cancelled; set and read by the event loop."""


@dataclass(eq=False)
class Worker:
    """Runs an engine for an event loop.

    Args:
        engine: Used by nobody else from `start` on.
        metrics: Counted by the event loop.
        limit: Jobs at work and waiting, together.
    """

    engine: Engine
    metrics: Metrics
    limit: int
    draining: bool = False
    """New jobs are refused."""
    jobs: int = 0
    _commands: "queue.SimpleQueue[Callable[[], None] | None]" = field(
        default_factory=queue.SimpleQueue
    )
    _by_key: dict[int, Job] = field(default_factory=dict)
    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self.metrics.active.set_function(lambda: self.engine.active)
        self.metrics.waiting.set_function(lambda: self.engine.waiting)

    @property
    def alive(self) -> bool:
        """The thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread; called from within the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread behind the step that it is at; jobs that are left end without events."""
        self.draining = True
        self._commands.put(None)
        if self._thread is not None:
            self._thread.join()

    def submit(self, jobs: list[Job], unread: int = 0) -> None:
        """Take all these jobs, or none.

        Args:
            jobs: New ones.
            unread: Jobs that are done, and whose events are kept.

        Raises:
            Problem: The server ends (503), or there are too many jobs already (429).
        """
        if self.draining or not self.alive:
            raise Problem(
                503, "the server is about to end", kind="server_error", code="draining",
                retry_after_s=5,
            )  # fmt: skip
        held = self.jobs + unread
        if held + len(jobs) > self.limit:
            raise Problem(
                429, f"{held} choices are at work or waiting, of {self.limit}; try again",
                kind="rate_limit_error", code="queue_full", retry_after_s=1,
            )  # fmt: skip
        self.jobs += len(jobs)
        self._commands.put(lambda: self._add(jobs))

    def cancel(self, job: Job) -> None:
        """Give a job up; nothing comes of it any more. A job that is done stays done."""
        if not job.done:
            self._finish(job, "cancelled")
            self._commands.put(lambda: self._cancel(job))

    def switch(self, job: Job, change: Callable[[int], int]) -> None:
        """Change a job's guard state before the next step."""

        def apply() -> None:
            if job.key is not None:
                self.engine.switch(job.key, change)

        self._commands.put(apply)

    def _finish(self, job: Job, why: str) -> None:
        job.done = True
        self.jobs -= 1
        self.metrics.ended.labels(why).inc()

    # The engine's thread.

    def _run(self) -> None:
        while self._obey():
            started = time.perf_counter()
            try:
                events = [(self._by_key[event.key], event) for event in self.engine.step()]
            except Exception as error:
                LOG.exception("a step of the engine failed; all choices in it are given up")
                events = self._all_failed(error)
            for _, event in events:
                if not isinstance(event, Written):
                    del self._by_key[event.key]
                if isinstance(event, Failed):
                    LOG.error("a choice was given up (%s): %s", event.kind, event.message)
            self._tell(events, time.perf_counter() - started)

    def _obey(self) -> bool:
        """Do what was asked for, and wait while there is nothing to write; False: end."""
        while True:
            idle = not (self.engine.active or self.engine.waiting)
            try:
                command = self._commands.get(block=idle)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()

    def _add(self, jobs: list[Job]) -> None:
        for job in jobs:
            try:
                job.key = self.engine.add(job.request)
            except PrealignError as error:  # `Engine.check` has let it pass before
                LOG.exception("a choice could not be added")
                self._tell([(job, Failed(-1, "model", str(error), 0, 0))], 0.0)
            else:
                self._by_key[job.key] = job

    def _cancel(self, job: Job) -> None:
        if job.key is not None and self.engine.cancel(job.key):
            del self._by_key[job.key]

    def _all_failed(self, error: Exception) -> list[tuple[Job, Event]]:
        keys = self.engine.clear()
        return [(self._by_key[k], Failed(k, "model", f"step: {error}", 0, 0)) for k in keys]

    def _tell(self, events: list[tuple[Job, Event]], seconds: float) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._hear, events, seconds)
        except RuntimeError:  # the loop is closed: nobody listens any more
            LOG.warning("the event loop ended before the engine")

    # The event loop.

    def _hear(self, events: list[tuple[Job, Event]], seconds: float) -> None:
        metrics, now = self.metrics, time.monotonic()
        metrics.step_s.observe(seconds)
        metrics.tokens.inc(sum(isinstance(event, Written) for _, event in events))
        for job, event in events:
            if job.done:
                continue
            if job.first:
                job.first = False
                metrics.first_s.observe(now - job.since)
            if isinstance(event, Written):
                metrics.pressure.observe(event.pressure)
            elif isinstance(event, Ended):
                self._finish(job, event.why)
            else:
                metrics.violations.inc(event.kind == "guard")
                self._finish(job, f"failed: {event.kind}")
            job.out.put_nowait((job.index, event))


def jobs_of(requests: list[Request]) -> tuple[list[Job], Events]:
    """Return the jobs of one HTTP request, and the queue that all of them write to."""
    out: Events = asyncio.Queue()
    return [Job(request, index, out) for index, request in enumerate(requests)], out

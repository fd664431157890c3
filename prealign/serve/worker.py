"""The engine in a thread of its own, and its events in the event loop of the server.

Commands (add, cancel, switch) go into a queue that the thread reads between two steps; events come
back once per step. Only the thread touches the engine.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from prealign.errors import PrealignError
from prealign.models.engine import Engine, Event, Failed, Request, Written
from prealign.serve.jobs import Job, Tally
from prealign.serve.metrics import Metrics

LOG = logging.getLogger("prealign.serve")


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
    tally: Tally = field(init=False)
    _commands: "queue.SimpleQueue[Callable[[], None] | None]" = field(
        default_factory=queue.SimpleQueue
    )
    _by_key: dict[int, Job] = field(default_factory=dict)
    _switches: dict[Job, Callable[[int], int | None]] = field(default_factory=dict)
    """What is to be changed as soon as it can be; only the thread touches it."""
    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self.tally = Tally(self.metrics, self.limit)
        self.metrics.active.set_function(lambda: self.engine.active)
        self.metrics.waiting.set_function(lambda: self.engine.waiting)

    @property
    def jobs(self) -> int:
        """Jobs at work and waiting."""
        return self.tally.jobs

    @property
    def draining(self) -> bool:
        """New jobs are refused."""
        return self.tally.draining

    @property
    def room(self) -> int:
        """Tokens of a prompt and what is written behind it."""
        return self.engine.room

    def check(self, request: Request) -> int:
        """Return the guard's state behind the prompt, or raise; see `Engine.check`."""
        return self.engine.check(request)

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
        self.tally.draining = True
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
        self.tally.admit(len(jobs), unread, self.alive)
        self._commands.put(lambda: self._add(jobs))

    def cancel(self, job: Job) -> None:
        """Give a job up; nothing comes of it any more. A job that is done stays done."""
        if not job.done:
            self.tally.finish(job, "cancelled")
            self._commands.put(lambda: self._cancel(job))

    def switch(self, jobs: Sequence[Job], change: Callable[[int], int | None]) -> None:
        """Change the guard's state of jobs before the next step, or as soon as it can be."""
        self._commands.put(lambda: self._switches.update((job, change) for job in jobs))

    # The engine's thread.

    def _run(self) -> None:
        while self._obey():
            started = time.perf_counter()
            self._switches = {
                job: change
                for job, change in self._switches.items()
                if job.key is not None and self.engine.switch(job.key, change)
            }
            try:
                events = [(self._by_key[event.key], event) for event in self.engine.step()]
            except Exception as error:
                LOG.exception("a step of the engine failed; all choices in it are given up")
                self.metrics.step_failures.inc()
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
            self.tally.hear(job, event, now)

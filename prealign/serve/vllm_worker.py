"""Choices that vLLM writes, in the event loop of the server: `Working` over vLLM's `AsyncLLM`.

vLLM's own process masks what is denied (`prealign.guard.vllm`). What reaches the service is decided
here: each id goes through the gate, and one that is refused fails its choice. Nothing here imports
vLLM. Interfaces as of vLLM 0.32 and 0.33.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from prealign.errors import ConfigError, GuardError
from prealign.guard.gate import Guard
from prealign.guard.vllm_settings import OWN, OWN_KEY, REQUEST_KEY
from prealign.models.engine import Ended, Event, Failed, Request, Written, check_prompt
from prealign.models.sample import Ids
from prealign.serve.jobs import Job, Tally
from prealign.serve.metrics import Metrics
from prealign.serve.odds import Entry, Odds
from prealign.serve.problems import Problem

SEEDS = 1 << 63
MOST_IDS = 128
"""vLLM shows the log-probabilities of no more ids than these at a place."""
LOG = logging.getLogger("prealign.serve")


class AsyncEngine(Protocol):
    """vLLM's `AsyncLLM`; only what is used here."""

    @property
    def errored(self) -> bool:
        """It is dead, and will not come back."""

    def generate(
        self, prompt: Any, sampling_params: Any, request_id: str
    ) -> AsyncGenerator[Any, None]:
        """Yield what is new; a request that is closed or cancelled is aborted."""

    def shutdown(self) -> None:
        """End its processes."""


@dataclass(eq=False)
class VllmWorker:
    """Lets vLLM write.

    Args:
        engine: With the plug-in of the guard, and with `logprobs_mode="raw_logprobs"`.
        make_params: vLLM's `SamplingParams`, which must ask for deltas.
        guard: The gate.
        vocabulary: Tells text, end of text and tags apart.
        room: Tokens of a prompt and what is written behind it: vLLM's `max_model_len`.
        metrics: Counted by the event loop.
        limit: Jobs at work and waiting, together.
    """

    engine: AsyncEngine
    make_params: Callable[..., Any]
    guard: Guard
    vocabulary: Ids
    room: int
    metrics: Metrics
    limit: int
    tally: Tally = field(init=False)
    odds: Odds = field(init=False)
    _tasks: dict[Job, asyncio.Task[None]] = field(default_factory=dict)
    _loop: asyncio.AbstractEventLoop | None = None
    _names: "itertools.count[int]" = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.tally = Tally(self.metrics, self.limit)
        self.odds = Odds(self.guard.table)
        self.metrics.active.set_function(lambda: sum(not job.first for job in self._tasks))
        self.metrics.waiting.set_function(lambda: sum(job.first for job in self._tasks))

    @property
    def alive(self) -> bool:
        """It was started, and vLLM has not died."""
        return self._loop is not None and not self.engine.errored

    def start(self) -> None:
        """Begin; called from within the event loop."""
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        """Give up what is at work and end vLLM's processes; called from another thread."""
        self.tally.draining = True
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._give_up(), self._loop).result()
        self.engine.shutdown()

    def check(self, request: Request) -> int:
        """Return the guard's state behind the prompt, if the request can be served.

        Raises:
            DataError: The prompt is empty, too long, or has ids of no vocabulary.
            GuardError: The prompt's tags are not those of a text that the scheme allows.
            ConfigError: There is no such policy, or vLLM does not have what is asked for.
        """
        check_prompt(request.prompt, self.room, self.vocabulary.size)
        if request.top:
            raise ConfigError(
                "top_logprobs (logprobs of 1 or more in /v1/completions): behind vLLM there are "
                "log-probabilities of what was written alone: ask for 0, or leave it out"
            )
        if request.top is not None and len(self.odds.ids) > MOST_IDS:
            raise ConfigError(
                f"logprobs: behind vLLM there are none for a scheme of more than {MOST_IDS} ids"
            )
        if request.settings.min_text_tokens:
            raise ConfigError("min_text_tokens: vLLM behind a guard has no such thing; leave it 0")
        return self.guard.scan(request.prompt, request.policy)

    def params(self, request: Request, **more: Any) -> Any:
        """Return vLLM's parameters of a request; the guard's plug-in reads the policy from them.

        `max_tokens` is all that there is room for: tags do not count for a client, so text is
        counted here.
        """
        table = self.guard.table
        policy = table.policy(table.start(request.policy)).name
        asked = list(self.odds.ids) if len(self.odds.ids) <= MOST_IDS else None
        return self.make_params(
            temperature=request.settings.temperature,
            top_p=request.settings.top_p,
            seed=request.seed % SEEDS,
            max_tokens=self.room - len(request.prompt),
            logprob_token_ids=asked,
            extra_args={REQUEST_KEY: policy, OWN_KEY: OWN},
            **more,
        )

    def written(self, request: Request, **more: Any) -> AsyncGenerator[Any, None]:
        """Return vLLM's own stream for a request, which nothing has gated yet."""
        name = f"prealign-{next(self._names)}"
        prompt = {"prompt_token_ids": list(request.prompt)}
        return self.engine.generate(prompt, self.params(request, **more), name)

    def submit(self, jobs: list[Job], unread: int = 0) -> None:
        """Take all these jobs, or none.

        Raises:
            Problem: The server ends or vLLM is dead (503), or there are too many jobs (429).
        """
        self.tally.admit(len(jobs), unread, self.alive)
        for job in jobs:
            task = asyncio.get_running_loop().create_task(self._write(job))
            self._tasks[job] = task
            task.add_done_callback(partial(self._over, job))

    def cancel(self, job: Job) -> None:
        """Give a job up; nothing comes of it any more. A job that is done stays done."""
        if not job.done:
            self.tally.finish(job, "cancelled")
            task = self._tasks.get(job)
            if task is not None:
                task.cancel()

    def switch(self, jobs: Sequence[Job], change: Callable[[int], int | None]) -> None:
        """Refuse: what vLLM writes stays under the policy that it began with.

        Raises:
            Problem: Always (501).
        """
        raise Problem(
            501, "behind vLLM an answer that is under way cannot be switched to another policy",
            code="not_with_this_engine",
        )  # fmt: skip

    async def _give_up(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _over(self, job: Job, task: asyncio.Task[None]) -> None:
        """Forget a task; a job that it left without an end has failed."""
        del self._tasks[job]
        if not job.done:
            why = "it was cancelled" if task.cancelled() else repr(task.exception())
            self._tell(job, _Row(job).failed("model", why))

    async def _write(self, job: Job) -> None:
        """Let vLLM write a job, and tell of each id and of the end."""
        row = _Row(job)
        try:
            row.state = self.check(job.request)
            async with aclosing(self.written(job.request)) as outputs:
                async for output in outputs:
                    for event in self._events(row, output):
                        self._tell(job, event)
                        if not isinstance(event, Written):
                            return
            event = row.failed("model", "vLLM stopped and did not say why")
        except GuardError as error:
            event = row.failed("guard", error)
        except Exception as error:  # whatever vLLM raises: its engine is dead, for one
            event = row.failed("model", error)
        self._tell(job, event)

    def _events(self, row: "_Row", output: Any) -> Iterator[Event]:
        """Yield what an output of vLLM comes to, each id behind the gate; see `_write`."""
        [new] = output.outputs
        request = row.job.request
        for token, shown in zip(new.token_ids, _shown(new), strict=True):
            behind = int(self.guard.commit([row.state], [token])[0])
            pressure, logprob = self.odds.of(row.state, int(token), shown)
            row.state = behind
            if token == self.vocabulary.end_id:
                yield Ended(0, "end", row.state, pressure)
                return
            row.ids += 1
            row.text_tokens += token < self.vocabulary.text_size
            logprob = None if request.top is None else logprob
            yield Written(0, int(token), row.state, pressure, logprob)
            if row.text_tokens >= request.settings.max_text_tokens:
                yield Ended(0, "budget", row.state, 0.0)
                return
            if len(request.prompt) + row.ids >= self.room:
                yield Ended(0, "room", row.state, 0.0)
                return
        if output.finished:
            yield row.failed("model", f"vLLM stopped in the middle: {new.finish_reason}")

    def _tell(self, job: Job, event: Event) -> None:
        self.metrics.tokens.inc(isinstance(event, Written))
        if isinstance(event, Failed) and not job.done:
            LOG.error("a choice was given up (%s): %s", event.kind, event.message)
        self.tally.hear(job, event, time.monotonic())


@dataclass(eq=False)
class _Row:
    """A job at work."""

    job: Job
    state: int = -1
    """The guard's; none of its table until the prompt is read."""
    ids: int = 0
    text_tokens: int = 0

    def failed(self, kind: Any, error: Exception | str) -> Failed:
        message = str(error) or type(error).__name__
        return Failed(0, kind, message, self.ids, self.state)


def _shown(new: Any) -> Sequence[Mapping[int, Entry] | None]:
    """Return the log-probabilities at each id that is new; None where there are none."""
    found = new.logprobs
    if found is None or len(found) != len(new.token_ids):
        return [None] * len(new.token_ids)
    return [found[at] for at in range(len(found))]

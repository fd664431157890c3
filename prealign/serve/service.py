"""What stands behind the HTTP routes: from a request's body to choices that fill up.

A request's jobs are given back to the engine whatever happens: the client leaves, time is up, or
one of its choices fails.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from prealign.errors import PrealignError
from prealign.guard.table import Table
from prealign.models.engine import Request
from prealign.models.sample import Sampling
from prealign.serve.choices import Choice, Piece
from prealign.serve.jobs import Events, Job, Working, jobs_of
from prealign.serve.metrics import Metrics
from prealign.serve.policies import index_of, switching
from prealign.serve.problems import Problem
from prealign.serve.prompts import Renderer
from prealign.serve.schema import ChatRequest, CompletionRequest
from prealign.serve.settings import Limits
from prealign.tokens.vocabulary import Vocabulary

SEEDS = 1 << 63


class Gone(Exception):
    """The client has left."""


@dataclass(eq=False)
class Answer:
    """An HTTP request that is being answered."""

    id: str
    model: str
    created: int
    policy: str
    guard: str
    prompt_tokens: int
    choices: list[Choice]
    jobs: list[Job]
    out: Events
    deadline: float

    @property
    def usage(self) -> dict[str, int]:
        """Tokens in and out; of what was written, visible text alone."""
        out = sum(choice.num_tokens for choice in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": out,
            "total_tokens": self.prompt_tokens + out,
        }

    @property
    def stamp(self) -> dict[str, Any]:
        """Which policy and which table wrote it."""
        return {"policy": self.policy, "guard": self.guard}


@dataclass(frozen=True, kw_only=True, eq=False)
class Service:
    """A guarded model and what clients may ask of it."""

    name: str
    """What clients call the model."""
    vocabulary: Vocabulary
    table: Table
    """Its first policy is the server's; clients may ask for the others."""
    renderer: Renderer
    worker: Working
    metrics: Metrics
    limits: Limits
    hidden: frozenset[str] = frozenset()
    created: int = field(default_factory=lambda: int(time.time()))
    running: dict[str, Answer] = field(default_factory=dict)

    def info(self) -> dict[str, Any]:
        """Return what a page needs to know, as JSON data."""
        scheme = self.vocabulary.scheme
        shown = [mode for mode in scheme.modes if mode.name not in self.hidden]
        return {
            "model": self.name,
            "scheme": scheme.name,
            "modes": [mode.name for mode in shown],
            "tags": [tag for mode in shown for tag in mode.tags],
            "mode": self.renderer.own,
            "others": self.renderer.others,
            "policies": [policy.name for policy in self.table.policies],
            "guard": self.table.fingerprint,
            "context": self.worker.room,
            "max_tokens": self.limits.max_tokens,
        }

    def policy(self, name: str | None) -> int:
        """Return which policy a client asks for; None: the server's.

        Raises:
            Problem: It is none of those that the server offers.
        """
        found = 0 if name is None else index_of(self.table, name)
        if found is None:
            offered = ", ".join(policy.name for policy in self.table.policies)
            raise Problem(
                400, f"this policy is not offered; offered: {offered}",
                param="prealign.policy", code="policy_not_offered",
            )  # fmt: skip
        return found

    def begin(self, kind: str, body: ChatRequest | CompletionRequest) -> Answer:
        """Check a request, put its choices in the queue and return the answer to fill.

        Raises:
            Problem: It cannot be served.
        """
        if body.model not in ("", self.name):
            raise Problem(
                404, f"there is no such model here; there is {self.name!r}",
                param="model", code="model_not_found",
            )  # fmt: skip
        prompts = self._prompts(body)
        policy = self.policy(body.prealign.policy if body.prealign else None)
        length = self._length(body)
        requests = self._requests(body, prompts, policy, length)
        most, longest = self.limits.max_stops, self.limits.max_stop_chars
        if len(body.stops) > most or any(len(stop) > longest for stop in body.stops):
            raise Problem(
                400, f"stop: at most {most} strings of {longest} characters", param="stop"
            )
        name = self.table.policies[policy].name
        start = self.table.path(self.table.scan(prompts[0], self.table.start(policy)))
        choices = [
            Choice(
                vocabulary=self.vocabulary, table=self.table, path=start, hidden=self.hidden,
                stops=body.stops, limit=length, policy=name,
            )
            for _ in requests
        ]  # fmt: skip
        jobs, out = jobs_of(requests)
        # What was written and is not read yet takes memory: it counts until it is given back.
        unread = sum(job.done for one in self.running.values() for job in one.jobs)
        self.worker.submit(jobs, unread)
        answer = Answer(
            id=f"{kind}-{secrets.token_hex(12)}", model=self.name, created=int(time.time()),
            policy=name, guard=self.table.fingerprint, prompt_tokens=sum(map(len, prompts)),
            choices=choices, jobs=jobs, out=out,
            deadline=time.monotonic() + self.limits.timeout_s,
        )  # fmt: skip
        self.running[answer.id] = answer
        return answer

    def end(self, answer: Answer) -> None:
        """Give back all that an answer holds."""
        self.running.pop(answer.id, None)
        for job in answer.jobs:
            self.worker.cancel(job)

    @asynccontextmanager
    async def watched(
        self, answer: Answer, gone: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[AsyncIterator[tuple[int, list[Piece]]]]:
        """Give (choice, what it has new) as it comes; at the end everything is given back.

        Args:
            answer: As `begin` made it.
            gone: Returns when the client leaves.
        """

        async def watch() -> None:
            await gone()
            answer.out.put_nowait(None)

        watcher = asyncio.create_task(watch())
        try:
            async with aclosing(self._pieces(answer)) as pieces:
                yield pieces
        finally:
            watcher.cancel()
            self.end(answer)

    async def _pieces(self, answer: Answer) -> AsyncGenerator[tuple[int, list[Piece]], None]:
        left = set(range(len(answer.choices)))
        while left:
            seconds = answer.deadline - time.monotonic()
            try:
                found = await asyncio.wait_for(answer.out.get(), seconds)
            except TimeoutError:
                raise Problem(
                    504, f"the answer took longer than {self.limits.timeout_s:g} s",
                    kind="server_error", code="timeout",
                ) from None  # fmt: skip
            if found is None:
                raise Gone
            index, event = found
            if index not in left:
                continue
            choice = answer.choices[index]
            pieces = choice.hear(event)
            if choice.finish is not None:
                left.remove(index)
                self.worker.cancel(answer.jobs[index])
            if pieces or choice.finish is not None:
                yield index, pieces

    def switch(self, id: str, policy: int) -> int:
        """Let an answer go on under another policy; return how many choices that concerns.

        A choice that is within modes which that policy never opens, such as a quote, goes on as it
        was until it has left them.

        Raises:
            Problem: No such answer is under way; or what writes it cannot be switched (501).
        """
        answer = self.running.get(id)
        if answer is None:
            raise Problem(404, "no such answer is under way", param="id", code="not_found")
        alive = [job for job in answer.jobs if not job.done]
        self.worker.switch(alive, switching(self.table, policy))
        answer.policy = self.table.policies[policy].name
        return len(alive)

    def _prompts(self, body: ChatRequest | CompletionRequest) -> list[tuple[int, ...]]:
        if isinstance(body, ChatRequest):
            return [self.renderer.chat(body.messages)]
        prompts = body.prompts
        if not prompts or len(prompts) > self.limits.max_choices:
            raise Problem(400, f"prompt: expected 1 to {self.limits.max_choices}", param="prompt")
        return [self.renderer.completion(one, f"prompt.{i}") for i, one in enumerate(prompts)]

    def _length(self, body: ChatRequest | CompletionRequest) -> int:
        length = body.length or min(self.limits.default_tokens, self.limits.max_tokens)
        if length > self.limits.max_tokens:
            raise Problem(
                400, f"max_tokens: {length}: at most {self.limits.max_tokens}", param="max_tokens"
            )
        return length

    def _requests(
        self,
        body: ChatRequest | CompletionRequest,
        prompts: Sequence[tuple[int, ...]],
        policy: int,
        length: int,
    ) -> list[Request]:
        """Return one request per choice; the seeds of further choices follow the first one's."""
        count = (body.n or 1) * len(prompts)
        if count > self.limits.max_choices:
            raise Problem(400, f"n: {count} choices; at most {self.limits.max_choices}", param="n")
        seed = secrets.randbelow(SEEDS) if body.seed is None else body.seed
        # What is hidden must not show in how much is left of a budget.
        budget = self.worker.room if self.hidden else length
        try:
            settings = Sampling(
                temperature=_given(body.temperature, 1.0),
                top_p=_given(body.top_p, 1.0),
                max_text_tokens=budget,
            )
            requests = [
                Request(
                    prompt=prompts[i // (body.n or 1)], settings=settings, seed=seed + i,
                    policy=policy, top=body.top,
                )
                for i in range(count)
            ]  # fmt: skip
            for request in requests[:: body.n or 1]:
                self.worker.check(request)
        except PrealignError as error:
            raise Problem(400, str(error), code="cannot_be_served") from error
        return requests


def _given(value: float | None, default: float) -> float:
    return default if value is None else value

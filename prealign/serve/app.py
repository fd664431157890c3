"""The HTTP routes, on FastAPI.

Bodies are read and checked here, so that every error has OpenAI's form and none repeats what a
client sent.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import ValidationError
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from prealign.serve import bodies
from prealign.serve.access import Gatekeeper, Keys, Receive, Scope, Send, authorization
from prealign.serve.bodies import Kind
from prealign.serve.problems import Problem, dump, malformed
from prealign.serve.schema import Asked, ChatRequest, CompletionRequest, Strict, SwitchRequest
from prealign.serve.service import Answer, Gone, Service

PAGE = Path(__file__).with_name("playground.html")
CHAT, COMPLETIONS, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"
INFO, SWITCH = "/prealign/info", "/prealign/switch"
OTHERS = ("/", "/metrics", "/healthz", "/readyz", "/openapi.json")
ERRORS = {
    400: "Malformed, or cannot be served.",
    401: "No such key.",
    404: "No such model.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    429: "Too many choices at work; see Retry-After.",
    500: "The guard refused what the model was about to write, or the model failed.",
    501: "The engine behind the server cannot do this.",
    503: "The server is about to end.",
    504: "The answer took too long.",
}
GRACE_S = 5.0
"""Beyond the time-out, for a client that does not read."""
Body = TypeVar("Body", bound=Strict)


class Json(Response):
    """JSON that can hold any text."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the bytes."""
        return dump(content)


class EventStream(Response):
    """An answer in server-sent events; when it is over, by whatever end, its jobs are given back.

    An error behind the first chunk is an event of its own, and the last one.
    """

    def __init__(self, service: Service, answer: Answer, kind: Kind, body: Asked) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._service, self._answer, self._kind, self._body = service, answer, kind, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""

        async def put(data: bytes) -> None:
            body = b"data: " + data + b"\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})

        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            seconds = self._service.limits.timeout_s + GRACE_S
            async with asyncio.timeout(seconds), aclosing(self._chunks(receive)) as chunks:
                await send(start)
                async for chunk in chunks:
                    await put(dump(chunk))
                await put(b"[DONE]")
                await send({"type": "http.response.body", "body": b""})
        except (Gone, TimeoutError, OSError):
            return  # nobody reads: the connection is closed without an end
        finally:
            self._service.end(self._answer)

    async def _chunks(self, receive: Receive) -> AsyncGenerator[Any, None]:
        answer, kind, vocabulary = self._answer, self._kind, self._service.vocabulary
        logprobs = getattr(self._body, "top", None) is not None
        try:
            async with self._service.watched(answer, lambda: _gone(receive)) as pieces:
                if kind == "chat":
                    for index in range(len(answer.choices)):
                        yield bodies.opening(answer, index)
                async for index, new in pieces:
                    if new:
                        yield bodies.chunk(kind, answer, index, new, vocabulary, logprobs=logprobs)
                    if answer.choices[index].finish is not None:
                        yield bodies.closing(kind, answer, index)
            if self._body.usage_at_end:
                yield bodies.usage(kind, answer)
        except Problem as problem:
            yield problem.body


class Routes:
    """What each path does.

    Args:
        service: Answers.
        keys: Say who may switch the policy of an answer that is under way; None: nobody.
    """

    def __init__(self, service: Service, keys: Keys | None) -> None:
        self.service, self.keys = service, keys

    @cached_property
    def _page(self) -> str:
        return PAGE.read_text(encoding="utf-8")

    async def page(self) -> Response:
        """Return the playground."""
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
        html = self._page.replace("NONCE", nonce)
        return Response(html, media_type="text/html; charset=utf-8", headers=headers)

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        return await self._answer(request, "chat", await self._body(request, ChatRequest))

    async def completions(self, request: Request) -> Response:
        """Go on from prompts."""
        body = await self._body(request, CompletionRequest)
        return await self._answer(request, "completion", body)

    async def models(self) -> Response:
        """Say which model there is."""
        return Json({"object": "list", "data": [self._model()]})

    async def model(self, name: str) -> Response:
        """Say what there is to a model."""
        if name != self.service.name:
            raise Problem(404, "there is no such model here", code="model_not_found")
        return Json(self._model())

    async def info(self) -> Response:
        """Return what a page needs to know."""
        return Json(self.service.info())

    async def switch(self, request: Request) -> Response:
        """Let an answer that is under way go on under another of the offered policies."""
        self._check_admin(request)
        body = await self._body(request, SwitchRequest)
        concerned = self.service.switch(body.id, self.service.policy(body.policy))
        return Json({"id": body.id, "choices": concerned})

    async def metrics(self, request: Request) -> Response:
        """Return the counters; where modes are hidden only to admins, for all ids are counted."""
        if self.service.hidden:
            self._check_admin(request)
        return Response(self.service.metrics.page(), media_type="text/plain; version=0.0.4")

    async def healthz(self) -> Response:
        """Say whether the process can do its work at all."""
        alive = self.service.worker.alive
        return Json({"alive": alive}, status_code=200 if alive else 503)

    async def readyz(self) -> Response:
        """Say whether new requests are taken."""
        ready = self.service.worker.alive and not self.service.worker.tally.draining
        return Json({"ready": ready}, status_code=200 if ready else 503)

    def _check_admin(self, request: Request) -> None:
        header = authorization(request.scope)
        if self.keys is None or not self.keys.fit(header, admin=True):
            raise Problem(
                403, "this needs an admin key", kind="authentication_error", code="no_admin"
            )

    async def _answer(
        self, request: Request, kind: Kind, body: ChatRequest | CompletionRequest
    ) -> Response:
        answer = self.service.begin("chatcmpl" if kind == "chat" else "cmpl", body)
        if body.stream:
            return EventStream(self.service, answer, kind, body)
        try:
            async with self.service.watched(answer, lambda: _gone(request.receive)) as pieces:
                async for _ in pieces:
                    pass
        except Gone:
            return Response(status_code=499)
        logprobs = body.top is not None
        return Json(bodies.whole(kind, answer, self.service.vocabulary, logprobs=logprobs))

    async def _body(self, request: Request, kind: type[Body]) -> Body:
        try:
            async with asyncio.timeout(self.service.limits.body_timeout_s):
                data = await request.body()
        except TimeoutError:
            raise Problem(408, "the body did not arrive in time", code="body_timeout") from None
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            raise malformed(error) from None

    def _model(self) -> dict[str, Any]:
        return {
            "id": self.service.name,
            "object": "model",
            "created": self.service.created,
            "owned_by": "prealign",
            "prealign": self.service.info(),
        }


def make_app(service: Service, *, keys: Keys | None = None) -> Any:
    """Return the ASGI application; its engine starts and stops with it.

    Args:
        service: Answers.
        keys: For all that is not the page, health or metrics; None: everybody may ask.
    """
    routes = Routes(service, keys)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        service.worker.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.worker.stop)

    app: Any = FastAPI(title="prealign", docs_url=None, redoc_url=None, lifespan=lifespan)
    _add_routes(app, routes)
    _describe(app)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unforeseen)
    paths = frozenset((CHAT, COMPLETIONS, MODELS, INFO, SWITCH, *OTHERS))
    return Gatekeeper(app, keys, service.limits.max_body, service.metrics, paths)


def _add_routes(app: Any, routes: Routes) -> None:
    def add(path: str, endpoint: Any, method: str, **rest: Any) -> None:
        app.add_api_route(path, endpoint, methods=[method], response_model=None, **rest)

    errors: dict[int | str, Any] = {
        status: {"description": what, "content": {"application/json": {}}}
        for status, what in ERRORS.items()
    }
    for path, endpoint, model in (
        (CHAT, routes.chat, "ChatRequest"),
        (COMPLETIONS, routes.completions, "CompletionRequest"),
        (SWITCH, routes.switch, "SwitchRequest"),
    ):
        schema = {"$ref": f"#/components/schemas/{model}"}
        content = {"application/json": {"schema": schema}}
        body = {"requestBody": {"required": True, "content": content}}
        add(path, endpoint, "POST", responses=errors, openapi_extra=body)
    add(MODELS, routes.models, "GET")
    add(MODELS + "/{name}", routes.model, "GET", responses={404: errors[404]})
    add(INFO, routes.info, "GET")
    add("/", routes.page, "GET", include_in_schema=False)
    add("/metrics", routes.metrics, "GET", include_in_schema=False)
    add("/healthz", routes.healthz, "GET", include_in_schema=False)
    add("/readyz", routes.readyz, "GET", include_in_schema=False)


def _describe(app: Any) -> None:
    """Put the bodies into the OpenAPI description."""
    modes: list[tuple[Any, Any]] = [
        (model, "validation") for model in (ChatRequest, CompletionRequest, SwitchRequest)
    ]
    _, found = models_json_schema(modes, ref_template="#/components/schemas/{model}")
    schema = get_openapi(title="prealign", version="1", routes=app.routes)
    schema.setdefault("components", {}).setdefault("schemas", {}).update(found["$defs"])
    whole = json.loads(json.dumps(schema))
    app.openapi = lambda: whole


async def _problem(_: Request, problem: Problem) -> Response:
    return Json(problem.body, status_code=problem.status, headers=problem.headers)


async def _http(_: Request, error: HTTPException) -> Response:
    problem = Problem(error.status_code, str(error.detail), code=f"http_{error.status_code}")
    return Json(problem.body, status_code=error.status_code, headers=error.headers)


async def _unforeseen(_: Request, error: Exception) -> Response:
    problem = Problem(500, "something went wrong here", kind="server_error", code="unforeseen")
    return Json(problem.body, status_code=500)


async def _gone(receive: Receive) -> None:
    """Return when the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass

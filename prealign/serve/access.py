"""Keys, and the outermost layer of the server: who may come in, how big, and what is counted."""

import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prealign.errors import DataError
from prealign.serve.metrics import Metrics
from prealign.serve.problems import Problem, dump

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
MIN_KEY = 16
ADMIN = "admin:"
LOCAL_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?")
PROTECTED = ("/v1/", "/prealign/")


@dataclass(frozen=True)
class Keys:
    """Keys that open something. How long a comparison takes says nothing of them."""

    keys: tuple[str, ...]
    admin: tuple[str, ...] = ()
    """Open all that `keys` open, and what changes the answers of others."""

    def fit(self, header: str, *, admin: bool = False) -> bool:
        """Return whether an Authorization header has one of them, or one of the admin's."""
        kind, _, given = header.partition(" ")
        shown = hashlib.sha256(given.strip().encode("utf-8", "replace")).digest()
        fine = False
        for key in self.admin if admin else (*self.keys, *self.admin):
            fine |= hmac.compare_digest(hashlib.sha256(key.encode()).digest(), shown)
        return fine and kind.lower() == "bearer"


def load_keys(path: Path) -> Keys:
    """Return the keys of a file, one a line; those of admins have `admin:` in front.

    Blank lines and lines that begin with # are no keys.

    Raises:
        DataError: It cannot be read, has none, or has one that is shorter than 16 characters.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as keys ({error})") from error
    lines = [line for line in lines if line and not line.startswith("#")]
    admin = tuple(line.removeprefix(ADMIN) for line in lines if line.startswith(ADMIN))
    keys = tuple(line for line in lines if not line.startswith(ADMIN))
    if not lines or any(len(key) < MIN_KEY for key in (*keys, *admin)):
        raise DataError(f"{path}: expected keys of {MIN_KEY} characters or more, one a line")
    return Keys(keys, admin)


def authorization(scope: Scope) -> str:
    """Return the Authorization header of a request, "" if there is none, or several."""
    found = [value for name, value in scope["headers"] if name == b"authorization"]
    return found[0].decode("latin-1") if len(found) == 1 else ""


def _local(scope: Scope) -> bool:
    """Return whether a request names this machine as itself, and comes from no other page.

    A browser says so of a foreign page, whether it posts a form or made its own name point here.
    """
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
    if len(hosts) != 1 or LOCAL_HOST.fullmatch(hosts[0].lower()) is None:
        return False
    return all(origin.lower() == f"http://{hosts[0].lower()}" for origin in origins)


@dataclass(frozen=True, eq=False)
class Gatekeeper:
    """An ASGI layer: it asks for a key, limits bodies, and counts answers."""

    app: App
    keys: Keys | None
    """None: everybody may come in."""
    max_body: int
    metrics: Metrics
    paths: frozenset[str]
    """Paths that are counted by name."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in self.paths else "other"
                self.metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        problem = self._refused(scope)
        if problem is not None:
            await answer(problem, counted)
            return
        await self.app(scope, self._limited(receive), counted)

    def _refused(self, scope: Scope) -> Problem | None:
        protected = scope["path"].startswith(PROTECTED)
        if protected and self.keys is not None and not self.keys.fit(authorization(scope)):
            return Problem(
                401, "no such key; give one as: Authorization: Bearer KEY",
                kind="authentication_error", code="invalid_api_key",
            )  # fmt: skip
        if self.keys is None and not _local(scope):
            return Problem(
                403, "a server without keys answers only to this machine's own names and pages",
                kind="authentication_error", code="from_elsewhere",
            )  # fmt: skip
        for name, value in scope["headers"]:
            size = value.decode("latin-1")
            if name == b"content-length" and size.isdecimal() and int(size[:20]) > self.max_body:
                return too_large(self.max_body)
        return None

    def _limited(self, receive: Receive) -> Receive:
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_body:
                raise too_large(self.max_body)
            return message

        return limited


def too_large(max_body: int) -> Problem:
    """Return the answer to a body that is too large."""
    return Problem(413, f"the body is larger than {max_body} bytes", code="body_too_large")


async def answer(problem: Problem, send: Send) -> None:
    """Send an error."""
    body = dump(problem.body)
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    headers |= {name.lower(): value for name, value in problem.headers.items()}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})

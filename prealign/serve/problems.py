"""Errors as clients see them: OpenAI's form, one line, nothing of the inside."""

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

MAX_SHOWN = 3
MAX_LISTED = 100
LINE_ENDS = str.maketrans({one: f"\\u{ord(one):04x}" for one in "\x85\u2028\u2029"})
NAME = re.compile(r"[\w-]{1,40}", re.ASCII)


class Problem(Exception):
    """An answer that is an error.

    Args:
        status: HTTP's.
        message: For a person.
        kind: OpenAI's `type`.
        code: For programs.
        param: The field that it is about.
        extra: More fields of the error.
        retry_after_s: When to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        extra: Mapping[str, Any] | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "error": {"message": message, "type": kind, "param": param, "code": code}
            | dict(extra or {})
        }
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"


def dump(data: Any) -> bytes:
    """Return JSON as UTF-8, in one line also to readers that cut lines where Unicode does.

    Lone surrogates, which UTF-8 cannot hold, stay escaped.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(LINE_ENDS).encode("utf-8", "backslashreplace")


def malformed(error: ValidationError) -> Problem:
    """Return what is wrong with a body, without repeating what it holds."""
    if error.error_count() > MAX_LISTED:  # to list a million would hold up everybody
        return Problem(400, f"more than {MAX_LISTED} things are wrong with it", code="malformed")
    found = []
    for one in error.errors(include_url=False, include_input=False, include_context=False):
        # Names of unknown fields are the client's own text: only plain ones are repeated.
        where = ".".join(p if NAME.fullmatch(p) else "?" for p in map(str, one["loc"]))
        found.append((where, one["msg"]))
    shown = "; ".join(f"{where}: {what}" if where else what for where, what in found[:MAX_SHOWN])
    more = f" (and {len(found) - MAX_SHOWN} more)" if len(found) > MAX_SHOWN else ""
    return Problem(400, f"{shown}{more}", param=found[0][0] or None, code="malformed")


def guard_violation(policy: str, fingerprint: str, at: int) -> Problem:
    """Return what a client learns when the gate refuses: where its own text stops, no more."""
    return Problem(
        500,
        "the guard refused what the model was about to write; nothing of it was sent",
        kind="guard_violation", code="guard_violation",
        extra={"at": at, "policy": policy, "guard": fingerprint},
    )  # fmt: skip

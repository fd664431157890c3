"""A model behind a server of the OpenAI form."""

import email.utils
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from prealign.ask.answer import Answer, CannotAnswer, NotNow
from prealign.config import NOT_RECORDED
from prealign.errors import ConfigError, DataError

TRY_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that may be gone when asked again."""
THIS_QUESTION = frozenset({400, 413, 422})
"""Those that refuse a question, for its length say."""


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: urllib would send the key along, wherever it leads."""

    def redirect_request(self, *_: Any) -> None:
        """Return nothing: the redirect is an error."""


ASK = urllib.request.build_opener(_StayHere)


@dataclass(frozen=True, kw_only=True)
class OpenAIServer:
    """A model behind an endpoint of the OpenAI form, `POST {url}/chat/completions`.

    Any server that speaks it will do: vLLM, llama.cpp, text-generation-inference. The key is read
    from the environment, never kept, and sent to no other place: a redirect is an error.
    """

    url: str = field(metadata=NOT_RECORDED)
    """For example http://localhost:8000/v1; where it is decides no answer, so it may move."""
    model: str
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable with the key; one that is not set sends none."""
    max_new_tokens: int = 8
    temperature: float = 0.0
    timeout_s: float = field(default=60.0, metadata=NOT_RECORDED)
    tries: int = field(default=6, metadata=NOT_RECORDED)
    """Of one question; in between it waits 1, 2, 4 ... seconds, or as long as the server says."""
    sleep: Callable[[float], None] = field(
        default=time.sleep, repr=False, compare=False, metadata=NOT_RECORDED
    )

    def __post_init__(self) -> None:
        if not re.match(r"https?://[^/]", self.url):
            raise ConfigError(
                f"server: url={self.url!r}: expected http://HOST/v1 or https://HOST/v1"
            )
        for name in ("max_new_tokens", "tries"):
            if getattr(self, name) < 1:
                raise ConfigError(f"server: {name}={getattr(self, name)}: must be at least 1")

    @property
    def name(self) -> str:
        """The model's name; where it is served does not change what it answers."""
        return self.model

    def __call__(self, prompt: str, *, seed: int | None = None) -> Answer:
        """Return the answer; a seed is sent if there is one, and not every server heeds it.

        Raises:
            CannotAnswer: The server refuses this question.
            NotNow: All tries were used up: it is busy, broken, or not there.
            DataError: It refuses all questions, or answers in another form.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.temperature,
            "max_tokens": self.max_new_tokens,
        }
        if seed is not None:
            body["seed"] = seed
        data = self._post(json.dumps(body).encode())
        try:
            text = data["choices"][0]["message"]["content"] or ""
            return Answer(str(text), int(data["usage"]["total_tokens"]))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"{self.url}: the answer has another form ({error!r})") from error

    def _post(self, body: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        where = f"{self.url.rstrip('/')}/chat/completions"
        for attempt in range(1, self.tries + 1):
            request = urllib.request.Request(where, body, headers)
            try:
                with ASK.open(request, timeout=self.timeout_s) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                said = error.read(300).decode(errors="replace")
                problem = f"status {error.code}: {said}"
                if error.code in THIS_QUESTION:
                    raise CannotAnswer(f"{where}: {problem}") from error
                if error.code not in TRY_AGAIN:
                    raise DataError(f"{where}: {problem}") from error
                wait_s = _retry_after_s(error.headers.get("Retry-After"))
            except (OSError, http.client.HTTPException, ValueError) as error:
                problem, wait_s = str(error), None
            if attempt < self.tries:
                self.sleep(2.0 ** (attempt - 1) if wait_s is None else wait_s)
        raise NotNow(f"{where}: asked {self.tries} times, at last {problem}", wait_s)


def _retry_after_s(header: str | None) -> float | None:
    """Return how long a server asks to wait (RFC 9110, 10.2.3): seconds, or until a date."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None

"""What a server of the OpenAI form is asked, and what it may do."""

import json
import pickle
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from prealign.ask.answer import NotNow
from prealign.ask.server import OpenAIServer, _retry_after_s
from prealign.errors import ConfigError, DataError
from prealign.score.judge import Judge


@pytest.fixture
def server():
    """A server with a list of answers to give: (status, headers, body)."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers["Content-Length"])
            requests.append((self.path, dict(self.headers), json.loads(self.rfile.read(length))))
            status, headers, body = answers.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            """Say nothing."""

    answers, requests = [], []
    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        http.answers, http.requests = answers, requests
        http.url = f"http://127.0.0.1:{http.server_port}/v1/"
        yield http
        http.shutdown()


def fine(text: str) -> tuple:
    body = {"choices": [{"message": {"content": text}}], "usage": {"total_tokens": 42}}
    return 200, {}, json.dumps(body)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_goes_nowhere_else_than_to_the_server_that_is_named(server, monkeypatch, status):
    monkeypatch.setenv("MY_KEY", "secret")
    seen = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(fine("6")[2].encode())

        do_POST = do_GET

        def log_message(self, *_):
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Elsewhere) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        server.answers.append((status, {"Location": f"http://127.0.0.1:{http.server_port}/"}, ""))
        with pytest.raises(DataError, match=f"status {status}"):
            OpenAIServer(url=server.url, model="m", key_variable="MY_KEY")("hello")
        http.shutdown()
    assert seen == []


def test_a_server_is_asked_as_the_form_says_with_the_key_of_the_environment(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    server.answers.append(fine("6"))
    asked = OpenAIServer(url=server.url, model="m", key_variable="MY_KEY")
    judge = Judge(model=asked)
    assert judge.rate("caf\u00e9 \ud800") == 0.6
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0, 8)
    assert body["messages"][0]["content"].startswith("You rate passages")
    assert "secret" not in repr(judge)
    assert pickle.loads(pickle.dumps(asked)) == asked


def test_what_may_be_gone_is_asked_again_and_what_stays_is_not(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    waits = []
    asked = OpenAIServer(url=server.url, model="m", tries=4, sleep=waits.append)
    server.answers += [(429, {"Retry-After": "7"}, "slow down"), (503, {}, ""), (200, {}, "{"),
                       fine("1")]  # fmt: skip
    assert asked("?").text == "1"
    assert waits == [7.0, 2.0, 4.0]
    assert "Authorization" not in server.requests[0][1]
    server.answers += [(500, {}, "broken")] * 4
    with pytest.raises(DataError, match="asked 4 times, at last status 500: broken"):
        asked("?")
    server.answers.append((400, {}, "too long"))
    assert Judge(model=asked).rate("long") is None
    server.answers.append((401, {}, "no such key"))
    with pytest.raises(DataError, match="status 401: no such key"):
        asked("?")
    server.answers.append((200, {}, "{}"))
    with pytest.raises(DataError, match="another form"):
        asked("?")
    assert server.answers == []


def test_a_seed_and_a_temperature_are_sent_and_the_one_who_asks_may_do_the_waiting(server):
    asked = OpenAIServer(url=server.url, model="m", temperature=0.8, tries=1, max_new_tokens=50)
    server.answers += [fine("once"), (429, {"Retry-After": "7"}, ""), (503, {}, "")]
    assert asked("?", seed=5).text == "once"
    body = server.requests[0][2]
    assert (body["seed"], body["temperature"], body["max_tokens"]) == (5, 0.8, 50)
    with pytest.raises(NotNow, match="status 429") as error:
        asked("?")
    assert "seed" not in server.requests[1][2]
    assert error.value.after_s == 7
    with pytest.raises(NotNow, match="status 503") as error:
        asked("?")
    assert error.value.after_s is None


def test_a_server_may_name_a_date_to_come_back():
    assert _retry_after_s("3") == 3
    assert 0 <= _retry_after_s(formatdate(usegmt=True)) < 2
    assert _retry_after_s("soon") is None
    assert _retry_after_s(None) is None


def test_a_server_that_is_not_there_is_named():
    gone = OpenAIServer(url="http://127.0.0.1:9/v1", model="m", tries=1)
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9/v1/chat/completions: asked 1 times"):
        gone("?")
    with pytest.raises(ConfigError, match="url='localhost'"):
        OpenAIServer(url="localhost", model="m")

"""Who gets in, how much, and what happens when things go wrong."""

import asyncio
import contextlib
import json
import socket
import time
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
import torch

from prealign.errors import ConfigError, DataError, GuardError
from prealign.guard.gate import Guard
from prealign.models.fake import BiasedModel
from prealign.text.scheme import GOOD_BAD
from prealign.tokens.vocabulary import Vocabulary

httpx = pytest.importorskip("httpx")
run = pytest.importorskip("prealign.serve.run", reason='needs pip install "prealign[serve]"')
access = pytest.importorskip("prealign.serve.access")

CHAT = "/v1/chat/completions"
TOP = {"logprobs": True, "top_logprobs": 2}
BODY = {"messages": [{"role": "user", "content": "def"}], "seed": 1, "max_tokens": 20}


def wait_until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def slow(service, model):
    """Every forward pass takes a while; rows are awaited to be empty before and behind."""

    def wait(*_):
        time.sleep(0.02)

    wait_until(lambda: service.worker.jobs == 0)
    hook = model.register_forward_pre_hook(wait)
    yield
    hook.remove()
    wait_until(lambda: service.worker.jobs == 0)


def idle(service):
    worker = service.worker
    return worker.jobs == worker.engine.active == worker.engine.waiting == len(service.running) == 0


def events(response):
    lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[]", "object"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [{"role": "user"}]}', "content"),
        (b'{"messages": [{"role": "king", "content": ""}]}', "role"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "JSON"),
        (b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "content"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n: 9 choices; at most 8"),
        ({"n": "2"}, "n"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": 1e-9}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"seed": 1 << 70}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": [str(i) for i in range(9)]}, "stop"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"presence_penalty": 0.1}, "presence_penalty"),
        ({"allowed_token_ids": [1]}, "allowed_token_ids"),
        ({"guided_grammar": "x"}, "guided_grammar"),
        ({"stop_token_ids": [262]}, "stop_token_ids"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"tools": [{}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"prealign": {"policy": "free"}}, "offered"),
        ({"prealign": {"mask": False}}, "mask"),
        ({"<quote>": 1}, "?: "),
        ({"logit_bias": {"<ai>": 1}}, "logit_bias"),
    ],
)
def test_what_is_malformed_or_reaches_under_the_guard_is_refused(http, body, named):
    content = json.dumps(BODY | body) if isinstance(body, dict) else body
    found = http.post(CHAT, content=content)
    assert found.status_code == 400
    error = found.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert named in error["message"]
    assert len(error["message"]) < 500
    assert "<" not in error["message"]  # nothing that a client spelled comes back
    assert "Traceback" not in found.text


def test_a_nan_and_a_deep_nest_are_refused(http):
    assert http.post(CHAT, content='{"temperature": NaN, "messages": []}').status_code == 400
    assert http.post(CHAT, content="[" * 9000).status_code == 400


def test_paths_and_methods_that_are_none_have_errors_in_the_same_form(http):
    for method, path, status in (
        ("GET", "/v1/chat/completions", 405), ("GET", "/v1/embeddings", 404), ("PUT", "/", 405),
    ):  # fmt: skip
        found = http.request(method, path)
        assert found.status_code == status
        assert found.json()["error"]["code"] == f"http_{status}"


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer wrong", "Basic {key}", "{key}", "Bearer {key}x", "Bearer é"],
)
def test_without_a_key_nothing_is_answered(url, key, header):
    headers = {} if header is None else {b"Authorization": header.format(key=key).encode()}
    for path in (CHAT, "/v1/models", "/prealign/info", "/prealign/switch"):
        found = httpx.post(url + path, headers=headers, json=BODY, trust_env=False)
        assert found.status_code == 401
        assert found.headers["WWW-Authenticate"] == "Bearer"
        assert found.json()["error"]["code"] == "invalid_api_key"
    for path in ("/", "/healthz", "/readyz", "/metrics"):
        assert httpx.get(url + path, trust_env=False).status_code == 200


def test_keys_come_from_a_file(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# mine\n\n{'a' * 16}\nadmin:{'b' * 20}\n")
    keys = access.load_keys(file)
    assert keys == access.Keys(("a" * 16,), ("b" * 20,))
    assert keys.fit("bearer " + "a" * 16)
    assert keys.fit("Bearer " + "b" * 20, admin=True)
    assert not keys.fit("Bearer " + "a" * 16, admin=True)
    for text in ("", "short\n", "admin:short\n"):
        file.write_text(text)
        with pytest.raises(DataError, match="16 characters"):
            access.load_keys(file)


def test_large_bodies_are_refused_however_they_come(http, service):
    large = b" " * (service.limits.max_body + 1)
    assert http.post(CHAT, content=large).status_code == 413
    chunked = http.post(CHAT, content=iter([large[:9000]] * 3))
    assert chunked.status_code == 413
    assert chunked.json()["error"]["code"] == "body_too_large"
    padded = json.dumps(BODY).encode()
    padded += b" " * (service.limits.max_body - len(padded))
    assert http.post(CHAT, content=padded).status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for(url, key):
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port)) as sock:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        sock.sendall(head.encode() + b"Content-Length: 50\r\n\r\n{")
        sock.settimeout(10)
        assert b" 408 " in sock.recv(4096)


def test_when_the_queue_is_full_clients_are_told_to_come_back(http, service, slow):
    """None of the choices of a request that does not fit are taken."""
    limit = service.limits.queue
    with http.stream("POST", CHAT, json=BODY | {"n": 8, "max_tokens": 200, "stream": True}):
        wait_until(lambda: service.worker.jobs == 8)
        streams = [
            http.stream("POST", CHAT, json=BODY | {"n": 8, "max_tokens": 200, "stream": True})
            for _ in range(4)
        ]
        for stream in streams:
            stream.__enter__()
        try:
            assert service.worker.jobs == limit
            refused = http.post(CHAT, json=BODY)
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) > 0
            assert refused.json()["error"]["type"] == "rate_limit_error"
            assert service.worker.jobs == limit
        finally:
            for stream in streams:
                stream.__exit__(None, None, None)
    wait_until(lambda: idle(service))
    assert http.post(CHAT, json=BODY).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_rows(http, service, slow, url, key, stream):
    body = json.dumps(BODY | {"n": 4, "max_tokens": 200, "stream": stream}).encode()
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port)) as sock:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        sock.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: service.worker.engine.active == 4)
    wait_until(lambda: idle(service), seconds=1.5)


def test_a_stop_string_frees_its_row(http, service, model, vocabulary):
    found = http.post(CHAT, json=BODY | {"max_tokens": 200, "stop": [chr(i) for i in range(8)]})
    assert found.status_code == 200
    wait_until(lambda: idle(service))


def made(model, vocabulary, serving, **changes):
    return run.make_service("other", model, vocabulary, replace(serving, **changes))


@pytest.fixture
def ask(serve):
    """Serve something for one request, without keys."""

    def one(service, body, path=CHAT):
        with serve(service) as url, httpx.Client(trust_env=False, timeout=30) as client:
            return client.post(url + path, json=body)

    return one


def test_an_answer_that_takes_too_long_is_ended(vocabulary, model, serving, slow, ask):
    limits = replace(serving.limits, timeout_s=0.2)
    service = made(model, vocabulary, serving, limits=limits)
    found = ask(
        service, BODY | {"max_tokens": 200, "temperature": 0, "prealign": {"policy": "stay"}}
    )
    assert found.status_code in (200, 504)
    if found.status_code == 504:
        assert found.json()["error"]["code"] == "timeout"
    assert idle(service)


@pytest.mark.parametrize("policy", ["stay", "lock"])
def test_a_scheme_of_marks_is_served_in_one_of_them(vocabulary, serving, ask, policy):
    marks = Vocabulary(vocabulary.tokenizer, GOOD_BAD)
    model = BiasedModel(marks.size, {marks.open_id("bad"): 90.0, marks.encode_text("z")[0]: 50.0})
    service = made(model, marks, serving, policy=policy, also=(), mode="good")
    found = ask(service, BODY | {"messages": [{"role": "user", "content": "<|bad|>"}]}).json()
    [span] = found["choices"][0]["prealign"]["spans"]
    assert (span["mode"], span["text"]) == ("good", "z" * 20)
    assert min(span["pressure"]) > 0.99
    prompt = [marks.end_id, *marks.encode_text("<|bad|>\n"), marks.open_id("good")]
    assert found["usage"]["prompt_tokens"] == len(prompt)


class Unmasked(Guard):
    """A mask that fails from some step on; the gate does not."""

    steps = 0

    def mask(self, logits_BV, states_B):
        self.steps += 1
        return logits_BV if self.steps > 4 else super().mask(logits_BV, states_B)


@pytest.mark.parametrize("stream", [True, False])
def test_what_the_gate_refuses_reaches_nobody(vocabulary, serving, ask, stream):
    human = vocabulary.open_id("human")
    fake = BiasedModel(vocabulary.size, {human: 90.0, vocabulary.encode_text("z")[0]: 50.0})
    service = made(fake, vocabulary, serving)
    service.worker.engine.guard = Unmasked(service.table, pressure=False)
    found = ask(service, BODY | {"stream": stream})
    if stream:
        *chunks, last, done = events(found)
        assert done == "[DONE]"
        error = json.loads(last)["error"]
        assert "".join(json.loads(c)["choices"][0]["delta"]["content"] for c in chunks) == "zzzz"
    else:
        assert found.status_code == 500
        error = found.json()["error"]
    assert error["type"] == "guard_violation"
    assert error["at"] == 4
    assert error["guard"] == service.table.fingerprint
    assert "human" not in found.text
    assert str(human) not in error["message"]
    assert idle(service)


class Breaks(BiasedModel):
    """A model that fails from its third step on."""

    calls = 0

    def forward(self, input_ids, **rest):
        self.calls += 1
        if self.calls == 3:
            raise ValueError("secret place")
        return super().forward(input_ids, **rest)


def test_a_model_that_fails_ends_its_answers_and_the_server_goes_on(vocabulary, serving, serve):
    service = made(Breaks(vocabulary.size), vocabulary, serving)
    with serve(service) as url, httpx.Client(trust_env=False) as client:
        first, second = (client.post(url + CHAT, json=BODY) for _ in range(2))
        assert client.get(url + "/readyz").status_code == 200
    assert first.status_code == 500
    assert first.json()["error"]["code"] == "model_failed"
    assert "secret" not in first.text
    assert second.status_code == 200


def test_nothing_of_hidden_modes_reaches_a_client(vocabulary, serving, serve):
    """Against the same seeds with nothing hidden, all channels of an answer together."""
    [a], [b] = vocabulary.encode_text("a"), vocabulary.encode_text("b")
    often = {a: 20.0, b: 20.0} | {vocabulary.tag_ids[tag]: 19.0 for tag in ("<quote>", "</quote>")}
    model = BiasedModel(vocabulary.size, often, max_tokens=256)
    hiding = made(model, vocabulary, serving, hidden=("quote",))
    quoted = 0
    with serve(hiding) as one, serve(made(model, vocabulary, serving)) as other:
        for seed in range(6):
            body = BODY | {"seed": seed, "max_tokens": 60} | TOP
            hidden, shown = (
                httpx.post(url + CHAT, json=body, trust_env=False, timeout=30).json()
                for url in (one, other)
            )
            spans = shown["choices"][0]["prealign"]["spans"]
            seen = [span for span in spans if span["mode"] == "ai"]
            inside = [span for span in spans if span["mode"] == "quote"]
            quoted += bool(inside)
            choice = hidden["choices"][0]
            text = choice["message"]["content"]
            assert text.startswith("".join(span["text"] for span in seen))
            assert (choice["finish_reason"], len(text)) == ("length", 60)
            assert "quote" not in json.dumps(hidden)
            assert hidden["usage"]["completion_tokens"] == len(choice["logprobs"]["content"])
            assert [span["mode"] for span in choice["prealign"]["spans"]] in ([], ["ai"])
            for span in choice["prealign"]["spans"]:
                assert len(span["pressure"]) == hidden["usage"]["completion_tokens"]
            tops = [top for e in choice["logprobs"]["content"] for top in e["top_logprobs"]]
            assert {top["token"] for top in tops} == {"a", "b"}
        info = httpx.get(one + "/prealign/info", trust_env=False).text
        assert not any(name in info for name in ('"quote"', "<quote>", "</quote>"))
    assert quoted == 6


def test_a_policy_can_be_switched_under_way_with_an_admin_key(
    http, admin, service, slow, vocabulary
):  # fmt: skip
    body = BODY | {"max_tokens": 200, "stream": True, "temperature": 0}
    with http.stream("POST", CHAT, json=body) as stream:
        lines = (line.removeprefix("data: ") for line in stream.iter_lines() if line)
        name = json.loads(next(lines))["id"]
        switch = {"id": name, "policy": "lock-noquote"}
        assert http.post("/prealign/switch", json=switch).status_code == 403
        done = http.post("/prealign/switch", json=switch, headers=admin)
        assert done.json() == {"id": name, "choices": 1}
        rest = [json.loads(line) for line in lines if line != "[DONE]"]
    assert rest[-1]["prealign"]["policy"] == "lock-noquote ai"
    gone = http.post("/prealign/switch", json=switch, headers=admin)
    assert gone.status_code == 404


def test_metrics_count_what_was_answered(http):
    http.post(CHAT, json=BODY)
    http.get("/nowhere/<script>")
    page = http.get("/metrics").text
    assert 'prealign_requests_total{path="/v1/chat/completions",status="200"}' in page
    assert "script" not in page
    assert "prealign_guard_violations_total 0.0" in page
    assert "prealign_first_token_seconds_bucket" in page


def test_a_server_that_ends_finishes_what_is_under_way(model, vocabulary, serving, slow):
    """From the signal on nothing new is taken, and the stream comes to its end."""
    service = made(model, vocabulary, serving)
    server = run.make_server(service, port=0)
    server.capture_signals = contextlib.nullcontext  # which would send this process the signal

    async def both():
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        body = BODY | {"stream": True, "temperature": 0, "prealign": {"policy": "stay"}}
        async with (
            httpx.AsyncClient(trust_env=False, timeout=30) as client,
            client.stream("POST", url + CHAT, json=body) as stream,
        ):
            lines = stream.aiter_lines()
            await anext(lines)
            server.handle_exit(2, None)
            assert service.worker.draining
            rest = [line async for line in lines if line]
        await task
        return rest

    rest = asyncio.run(both())
    assert rest[-1] == "data: [DONE]"
    finish = json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"]
    assert finish in ("stop", "length")
    assert not service.worker.alive


def test_a_server_refuses_to_start_on_what_it_cannot_guard(model, vocabulary, serving, monkeypatch):
    with pytest.raises(ConfigError, match="needs a mode"):
        made(model, vocabulary, serving, mode=None)
    with pytest.raises(ConfigError, match="'lock-noquote ai': it allows <quote> in ai"):
        made(model, vocabulary, serving, policy="lock-noquote", also=("lock",))
    with pytest.raises(ConfigError, match="cannot be offered beside 'lock ai'"):
        made(model, vocabulary, serving, also=("free",))
    with pytest.raises(DataError, match="mode 'thought' is not in scheme"):
        made(model, vocabulary, serving, hidden=("thought",))
    with pytest.raises(ConfigError, match="hidden=ai: is what the model is served in"):
        made(model, vocabulary, serving, hidden=("ai",))
    service = made(model, vocabulary, serving)
    with pytest.raises(ConfigError, match="needs keys"):
        run.make_server(service, host="0.0.0.0")
    engine = "prealign.models.engine.Engine"
    monkeypatch.setattr(f"{engine}._commit", lambda self, rows, ids, fine, *rest: fine)
    with pytest.raises(GuardError, match="the gate saw 0"):
        made(model, vocabulary, serving)


def test_memory_does_not_keep_what_is_over(service, http):
    for _ in range(3):
        http.post(CHAT, json=BODY | {"n": 8})
    wait_until(lambda: idle(service))
    assert not service.worker._by_key
    assert not service.worker.engine.guard.pressure().size
    assert torch.is_grad_enabled()

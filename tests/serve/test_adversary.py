"""What a client with bad intentions, or with bad luck, could try."""

import json
import time
from dataclasses import replace

import pytest

from prealign.models.fake import BiasedModel

httpx = pytest.importorskip("httpx")
run = pytest.importorskip("prealign.serve.run", reason='needs pip install "prealign[serve]"')

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "def"}], "seed": 1, "max_tokens": 20}


def made(model, vocabulary, serving, **changes):
    return run.make_service("other", model, vocabulary, replace(serving, **changes))


def idle(service):
    """Wait until nothing is at work any more."""
    worker, end = service.worker, time.monotonic() + 10
    while worker.jobs or worker.engine.active or worker.engine.waiting or service.running:
        assert time.monotonic() < end, "rows are left"
        time.sleep(0.01)


@pytest.mark.parametrize("path", ["/prealign/info", "/healthz", CHAT])
def test_without_keys_no_page_from_elsewhere_reaches_a_local_server(
    model, vocabulary, serving, serve, path
):  # fmt: skip
    """Neither by a name that is made to point here nor by a form that needs no leave."""
    with serve(made(model, vocabulary, serving)) as url:

        def ask(**headers):
            body = {"content": json.dumps(BODY)} if path == CHAT else {}
            method = "POST" if path == CHAT else "GET"
            return httpx.request(method, url + path, headers=headers, trust_env=False, **body)

        port = url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", f"LOCALHOST:{port}", f"[::1]:{port}"):
            assert ask(Host=host).status_code == 200
        assert ask(Origin=url).status_code == 200
        for headers in (
            {"Host": "evil.example"}, {"Host": f"evil.example:{port}"}, {"Host": "127.0.0.1.x"},
            {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": f"{url}0"},
        ):  # fmt: skip
            found = ask(**headers)
            assert found.status_code == 403
            assert found.json()["error"]["code"] == "from_elsewhere"
            assert "evil" not in found.text


def test_where_modes_are_hidden_the_counters_are_for_admins_alone(
    model, vocabulary, serving, serve, key, admin
):  # fmt: skip
    """All ids are counted, so two readings around an answer say how long what is hidden was."""
    keys = run.Keys((key,), (admin["Authorization"].removeprefix("Bearer "),))
    service = made(model, vocabulary, serving, hidden=("quote",))
    with serve(service, keys) as url:
        for headers in ({}, {"Authorization": f"Bearer {key}"}):
            found = httpx.get(url + "/metrics", headers=headers, trust_env=False)
            assert found.status_code == 403
            assert "prealign_" not in found.text
        found = httpx.get(url + "/metrics", headers=admin, trust_env=False)
        assert "prealign_tokens_total" in found.text
    with serve(service) as url:
        assert httpx.get(url + "/metrics", trust_env=False).status_code == 403


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
        ({"max_completion_tokens": 5}, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "obfuscation"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"messages": [{"role": "user", "content": "a", "name": "Eve"}]}, "name"),
        ({"messages": [{"role": "tool", "content": "a", "tool_call_id": "x"}]}, "tool_call_id"),
    ],
)
def test_what_would_have_no_effect_is_refused(http, body, named):
    found = http.post(CHAT, json=BODY | body)
    assert found.status_code == 400
    assert named in found.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"logprobs": True, "top_logprobs": 0},
        {"logprobs": None, "top_logprobs": None},
        {"stream_options": None, "service_tier": "auto"},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {"messages": [{"role": "user", "content": "a", "name": None}]},
    ],
)
def test_what_says_off_is_taken(http, body):
    assert http.post(CHAT, json=BODY | body).status_code == 200

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

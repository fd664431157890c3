"""What a client with bad intentions, or with bad luck, could try."""

import asyncio
import json
import time
from dataclasses import replace

import pytest

from prealign.models.fake import BiasedModel

httpx = pytest.importorskip("httpx")
run = pytest.importorskip("prealign.serve.run", reason='needs pip install "prealign[serve]"')
schema = pytest.importorskip("prealign.serve.schema")
problems = pytest.importorskip("prealign.serve.problems")

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


class Fails(BiasedModel):
    """Answers NaN to one id, and the same logits to all else."""

    bad = -1

    def forward(self, input_ids, **rest):
        out = super().forward(input_ids, **rest)
        out.logits[input_ids[:, -1] == self.bad] = float("nan")
        return out


@pytest.mark.parametrize("stream", [True, False])
def test_where_one_choice_fails_its_siblings_are_given_up_and_strangers_are_not(
    vocabulary, serving, serve, stream
):  # fmt: skip
    letters = [vocabulary.encode_text(one)[0] for one in "ab"]
    model = Fails(vocabulary.size, dict(zip(letters, (50.0, 46.5), strict=True)))
    service = made(model, vocabulary, serving)

    def slowly(*_):
        time.sleep(0.01)

    model.register_forward_pre_hook(slowly)
    body = BODY | {"max_tokens": 200, "n": 8, "stream": stream}
    with serve(service) as url, httpx.Client(trust_env=False, timeout=30) as client:
        lone = {"messages": BODY["messages"], "temperature": 0, "stream": True, "max_tokens": 100}
        with client.stream("POST", url + CHAT, json=lone) as other:
            lines = other.iter_lines()
            next(lines)
            model.bad = letters[1]  # greedily only the first letter is written
            found = client.post(url + CHAT, json=body)
            engine = service.worker.engine
            steps = engine.steps
            while engine.active + engine.waiting > 1 and engine.steps < 200:
                time.sleep(0.005)
            freed = engine.steps
            rest = [line for line in lines if line]
        idle(service)
    assert rest[-1] == "data: [DONE]"
    assert '"finish_reason":"length"' in rest[-2]
    error = json.loads(found.text.split("data: ")[-2])["error"] if stream else found.json()["error"]
    assert error["code"] == "model_failed"
    assert "others are not" not in error["message"]
    assert freed < steps + 10 < 100  # of 200: nobody waited for the siblings


def test_one_choice_that_stops_leaves_its_siblings_at_work(http, service):
    body = BODY | {"n": 6, "max_tokens": 60, "temperature": 1.0}
    plain = [one["message"]["content"] for one in http.post(CHAT, json=body).json()["choices"]]
    stop = plain[2][8:10]
    found = http.post(CHAT, json=body | {"stop": stop}).json()["choices"]
    for text, one in zip(plain, found, strict=True):
        spans = one["prealign"]["spans"]
        assert text.startswith(one["message"]["content"])
        if stop not in text:
            assert one["message"]["content"] == text
        else:
            assert any(stop in text[span["start"] :] for span in spans) or not spans
    assert len(found[2]["message"]["content"]) <= 8
    assert len({len(one["message"]["content"]) for one in found}) > 1
    idle(service)


def test_events_are_one_line_each_to_whoever_reads_lines(vocabulary, serving, serve):
    """Many clients cut lines where Unicode does, and JSON may hold such characters as they are."""
    text = "\u2029\x85"
    ids = [vocabulary.token_texts.index(bytes([byte])) for byte in text.encode()]
    follow = dict(zip([vocabulary.tag_ids["<ai>"], *ids], [*ids, ids[0]], strict=True))

    class Says(BiasedModel):
        def forward(self, input_ids, **rest):
            out = super().forward(input_ids, **rest)
            for row, last in enumerate(input_ids[:, -1].tolist()):
                out.logits[row, -1, follow.get(last, ids[0])] = 90.0
            return out

    body = BODY | {"temperature": 0, "stream": True, "max_tokens": 9}
    with (
        serve(made(Says(vocabulary.size), vocabulary, serving)) as url,
        httpx.stream("POST", url + CHAT, json=body, trust_env=False) as found,
    ):
        lines = [line for line in found.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    said = "".join(one["choices"][0]["delta"].get("content", "") for one in chunks)
    assert said.startswith(text)


def test_answers_that_nobody_reads_count_until_they_are_given_back(vocabulary, serving, model):
    """All their events are kept: written quickly and never read, they would fill the memory."""
    service = made(model, vocabulary, serving)
    limit = service.limits.queue
    body = schema.ChatRequest.model_validate(BODY | {"n": 8, "max_tokens": 1})

    async def flood():
        service.worker.start()
        answers = []
        for _ in range(limit // 8):
            answers.append(service.begin("chatcmpl", body))
            while service.worker.jobs:
                await asyncio.sleep(0.001)
        with pytest.raises(problems.Problem, match="try again") as refused:
            service.begin("chatcmpl", body)
        assert refused.value.status == 429
        service.end(answers[0])
        answers.append(service.begin("chatcmpl", body))
        for answer in answers:
            service.end(answer)
        await asyncio.to_thread(service.worker.stop)

    asyncio.run(flood())
    assert not service.running

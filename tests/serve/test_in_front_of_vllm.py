"""The server in front of vLLM: the same answers, the same gate, whatever vLLM does."""

import asyncio
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from prealign.cli import main
from prealign.errors import ConfigError, GuardError
from prealign.guard.vllm_settings import OWN, OWN_KEY, check_params
from prealign.models.engine import Request
from prealign.models.files import save_model
from prealign.models.sample import Sampling

httpx = pytest.importorskip("httpx")
run_vllm = pytest.importorskip("prealign.serve.run_vllm", reason='needs "prealign[serve]"')
policies = pytest.importorskip("prealign.serve.policies")
odds_of_tags = pytest.importorskip("prealign.serve.odds")
fake_vllm = pytest.importorskip("tests.serve.fake_vllm")

CHAT = "/v1/chat/completions"
ROOM = 256
BODY = {"messages": [{"role": "user", "content": "def <ai></human>"}], "seed": 1, "max_tokens": 30}


@pytest.fixture
def engine(vocabulary, serving):
    """It quotes often, and would often write what is denied."""
    table = policies.table_for(vocabulary, "lock", serving.also, "ai")
    often = {"<quote>": 3, "</quote>": 3, "<human>": 6, "</human>": 6, "<ai>": 6, "</ai>": -9}
    return fake_vllm.FakeVllm(
        vocabulary, table, {vocabulary.tag_ids[t]: n for t, n in often.items()}
    )


@pytest.fixture
def made(engine, vocabulary, serving):
    def make(**changes):
        one = replace(serving, **changes)
        work = run_vllm.make_service("tiny", engine, fake_vllm.params, vocabulary, one, ROOM)
        pause, engine.pause_s = engine.pause_s, 0.0
        service = asyncio.run(work)
        engine.pause_s = pause
        engine.requests.clear()
        return service

    return make


@pytest.fixture
def ask(serve):
    def one(service, body, path=CHAT):
        with serve(service) as url, httpx.Client(trust_env=False, timeout=30) as client:
            return client.post(url + path, json=BODY | body)

    return one


def until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def chunks_of(response):
    lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    return [json.loads(line) for line in lines if line != "[DONE]"], lines[-1] == "[DONE]"


def said(vocabulary, told, texts):
    """Pairs of a mode and its text, read off the first ids alone: so many of text."""
    mode, found = "ai", []
    for token in told.ids:
        if token in (vocabulary.tag_ids["<quote>"], vocabulary.tag_ids["</quote>"]):
            mode = "quote" if token == vocabulary.tag_ids["<quote>"] else "ai"
        elif token < vocabulary.text_size and texts:
            text, texts = vocabulary.token_texts[token].decode(), texts - 1
            if found and found[-1][0] == mode:
                found[-1] = (mode, found[-1][1] + text)
            else:
                found.append((mode, text))
    return found


def test_an_answer_is_what_vllm_wrote_in_spans_with_its_modes(engine, made, ask, vocabulary):
    found = ask(made(), {}).json()
    [told] = engine.requests
    choice = found["choices"][0]
    spans = [(span["mode"], span["text"]) for span in choice["prealign"]["spans"]]
    assert spans == said(vocabulary, told, 30)
    assert {mode for mode, _ in spans} == {"ai", "quote"}
    assert choice["message"]["content"] == "".join(text for _, text in spans)
    assert found["usage"]["completion_tokens"] == 30
    assert choice["finish_reason"] == "length"
    tags = vocabulary.tag_ids
    user = vocabulary.encode_text(BODY["messages"][0]["content"])  # whatever it spells, it is text
    assert told.prompt == [
        vocabulary.end_id, tags["<human>"], *user, tags["</human>"], tags["<ai>"],
    ]  # fmt: skip
    assert told.params.extra_args["prealign_policy"] == "lock ai"
    assert not engine.running


def test_pressure_and_log_probabilities_are_those_of_the_whole_distribution(
    engine, made, ask, vocabulary
):  # fmt: skip
    """vLLM shows those of the tags and of what it wrote alone; here all of them are summed."""
    found = ask(made(), {"logprobs": True, "temperature": 0.7}).json()
    [told] = engine.requests
    choice, table = found["choices"][0], engine.table
    pressure = [one for span in choice["prealign"]["spans"] for one in span["pressure"]]
    logprobs = [one["logprob"] for one in choice["logprobs"]["content"]]
    state, last, at = table.scan(told.prompt, table.start("lock ai")), told.prompt[-1], 0
    for token in told.ids:
        odds_V = np.exp(engine.logits(1, last))
        odds_V /= odds_V.sum()
        if token < vocabulary.text_size and at < 30:
            assert pressure[at] == pytest.approx(odds_V[~table.allowed(state)].sum(), abs=2e-6)
            text_V = odds_V[: vocabulary.text_size]
            assert logprobs[at] == pytest.approx(np.log(text_V[token] / text_V.sum()), abs=2e-5)
            at += 1
        state, last = table.scan([token], state), token
    assert at == len(pressure) == len(logprobs) == 30
    assert max(pressure) > 0.2


def test_what_vllm_does_not_show_is_null_and_not_made_up(engine, made, ask):
    engine.shows = "nothing"
    service = made()
    choice = ask(service, {"logprobs": True}).json()["choices"][0]
    assert {one["logprob"] for one in choice["logprobs"]["content"]} == {None}
    assert {one for span in choice["prealign"]["spans"] for one in span["pressure"]} == {None}
    assert "prealign_pressure_count 0.0" in service.metrics.page().decode()


def test_odds_in_each_state_are_sums_over_the_whole_distribution(engine, vocabulary):
    """Also where text is denied, and where hardly anything but tags has a probability."""
    table, odds = engine.table, odds_of_tags.Odds(engine.table)
    rng = np.random.default_rng(0)
    for state in range(table.states):
        raw_V = rng.normal(0, 3, vocabulary.size)
        raw_V -= np.logaddexp.reduce(raw_V)
        allowed_V, text_V = table.allowed(state), np.exp(raw_V[: vocabulary.text_size])
        for token in (7, vocabulary.end_id, vocabulary.tag_ids["<quote>"]):
            shown = {one: SimpleNamespace(logprob=raw_V[one]) for one in (*odds.ids, token)}
            pressure, logprob = odds.of(state, token, shown)
            assert pressure == pytest.approx(np.exp(raw_V[~allowed_V]).sum(), abs=1e-9)
            text = token < vocabulary.text_size
            assert logprob == (pytest.approx(np.log(text_V[7] / text_V.sum())) if text else None)
            for lost in odds.ids:
                some = {one: entry for one, entry in shown.items() if one != lost}
                assert odds.of(state, token, some) == (None, None)
    wants = {one: SimpleNamespace(logprob=-99.0) for one in (*odds.ids, 7)}
    wants[vocabulary.end_id] = SimpleNamespace(logprob=-1e-6)
    assert odds.of(0, 7, wants)[1] is None


def test_many_streams_at_once_say_what_each_says_alone(made, serve, engine):
    engine.pause_s = 0.001
    with serve(made()) as url, ThreadPoolExecutor(8) as pool:

        def text(seed, stream):
            body = BODY | {"seed": seed, "stream": stream, "max_tokens": 16}
            found = httpx.post(url + CHAT, json=body, trust_env=False, timeout=30)
            if not stream:
                return found.json()["choices"][0]["message"]["content"]
            chunks, done = chunks_of(found)
            assert done
            return "".join(one["choices"][0]["delta"].get("content", "") for one in chunks)

        together = list(pool.map(lambda seed: text(seed, True), range(8)))
        assert together == [text(seed, False) for seed in range(8)]
    assert len(set(together)) == 8


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("tag", ["<human>", "<quote>"])
def test_a_tag_that_vllm_lets_through_fails_its_choice_and_reaches_nobody(
    engine, made, ask, vocabulary, tag, stream
):  # fmt: skip
    """The mask is lost behind the canary, as in an engine that skips it on some path.

    The one tag is never nested there; the other is, and this policy alone denies it.
    """
    service = made()
    engine.unmasked_at = 4
    engine.often[vocabulary.tag_ids[tag]] = 90
    body = {"stream": stream, "temperature": 0, "prealign": {"policy": "lock-noquote"}}
    found = ask(service, body)
    [told] = engine.requests
    assert told.ids[4] == vocabulary.tag_ids[tag]
    if stream:
        chunks, done = chunks_of(found)
        assert done
        error = chunks[-1]["error"]
        shown = "".join(one["choices"][0]["delta"]["content"] for one in chunks[:-1])
        assert shown == "".join(text for _, text in said(vocabulary, told, 4))
    else:
        assert found.status_code == 500
        error = found.json()["error"]
    assert (error["type"], error["guard"]) == ("guard_violation", service.table.fingerprint)
    assert tag.strip("<>") not in found.text.replace("lock-noquote", "")
    assert told.closed
    page = service.metrics.page().decode()
    assert "prealign_guard_violations_total 1.0" in page
    assert service.worker.tally.jobs == 0


@pytest.mark.parametrize("token", [-1, 1 << 20, "inert"])
def test_ids_of_no_text_fail_their_choice(engine, made, ask, vocabulary, token, monkeypatch):
    service = made()
    wrong = vocabulary.inert_id if token == "inert" else token
    real = engine._next
    monkeypatch.setattr(
        engine, "_next", lambda told: (wrong, {}) if len(told.ids) == 3 else real(told)
    )
    found = ask(service, {})
    assert found.status_code == 500
    assert found.json()["error"]["code"] == "guard_violation"


def test_an_engine_without_the_plug_in_is_refused_before_anything_is_served(engine, made):
    engine.masked_steps = 0
    with pytest.raises(GuardError, match=r"canary: .*a denied id came out"):
        made()
    engine.masked_steps, engine.deaf = None, True
    with pytest.raises(GuardError, match="a bias to denied ids would show nothing"):
        made()


def test_an_engine_that_masks_only_at_first_is_refused(engine, made):
    engine.masked_steps = 1
    with pytest.raises(GuardError, match="a denied id came out"):
        made()


def test_an_engine_that_dies_ends_its_answers_and_nothing_new_is_taken(engine, made, serve):
    service = made()
    engine.dies_at = 6
    with serve(service) as url, httpx.Client(trust_env=False, timeout=30) as client:
        assert client.get(url + "/readyz").status_code == 200
        found = client.post(url + CHAT, json=BODY)
        assert found.status_code == 500
        assert found.json()["error"]["code"] == "model_failed"
        assert "secret" not in found.text
        assert client.get(url + "/healthz").status_code == 503
        assert client.get(url + "/readyz").status_code == 503
        assert client.post(url + CHAT, json=BODY).status_code == 503
    assert service.worker.tally.jobs == engine.running == 0
    assert engine.down


@pytest.mark.parametrize(("how", "value"), [("stops_at", 5), ("shows", "nan")])
def test_an_engine_that_stops_early_or_is_broken_is_no_end_of_a_text(engine, made, ask, how, value):
    service = made()
    setattr(engine, how, value)
    found = ask(service, {"temperature": 0})
    assert (found.status_code, found.json()["error"]["code"]) == (500, "model_failed")


def test_the_end_of_text_and_the_end_of_the_room_end_a_choice(engine, made, ask, vocabulary):
    limits = replace(run_vllm.Serving().limits, max_tokens=1000)
    engine.often[vocabulary.end_id] = 12
    assert (
        ask(made(limits=limits), {"max_tokens": 1000}).json()["choices"][0]["finish_reason"]
        == "stop"
    )
    assert engine.requests[-1].ids[-1] == vocabulary.end_id
    engine.often[vocabulary.end_id] = -90
    found = ask(made(limits=limits), {"max_tokens": 1000}).json()
    assert found["choices"][0]["finish_reason"] == "length"
    told = engine.requests[-1]
    assert len(told.prompt) + len(told.ids) == ROOM


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_vllm(engine, made, serve, stream):
    service = made()
    engine.pause_s = 0.02
    body = BODY | {"stream": stream, "n": 4, "max_tokens": 200}
    with serve(service) as url:
        if stream:
            with httpx.stream("POST", url + CHAT, json=body, trust_env=False) as found:
                lines = found.iter_lines()
                next(lines)
                until(lambda: engine.running == 4)
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(url + CHAT, json=body, trust_env=False, timeout=0.3)
        until(lambda: engine.running == 0, seconds=1.5)
        assert service.worker.tally.jobs == 0
        assert not service.worker._tasks
    assert len(engine.requests) == 4
    assert all(len(told.ids) < 100 for told in engine.requests)


def test_a_stop_string_and_a_budget_stop_vllm(engine, made, ask, vocabulary):
    choice = ask(made(), {"max_tokens": 60}).json()["choices"][0]
    whole, text = len(engine.requests[0].ids), choice["message"]["content"]
    stop = max((span["text"] for span in choice["prealign"]["spans"][:-1]), key=len)[:2]
    found = ask(made(), {"max_tokens": 60, "stop": stop}).json()["choices"][0]
    assert found["finish_reason"] == "stop"
    assert text.startswith(found["message"]["content"])
    assert len(found["message"]["content"]) <= text.index(stop)
    [told] = engine.requests
    assert told.closed
    assert len(told.ids) < whole < told.params.max_tokens


def test_too_many_choices_are_turned_away(engine, made, serve):
    service = made(limits=replace(run_vllm.Serving().limits, queue=8, max_choices=8))
    engine.pause_s = 0.02
    with serve(service) as url, httpx.Client(trust_env=False, timeout=30) as client:
        body = BODY | {"n": 8, "stream": True, "max_tokens": 200}
        with client.stream("POST", url + CHAT, json=body):
            until(lambda: engine.running == 8)
            found = client.post(url + CHAT, json=BODY)
            assert found.status_code == 429
            assert "prealign_rows_active" in client.get(url + "/metrics").text
        until(lambda: engine.running == 0)
        assert client.post(url + CHAT, json=BODY | {"max_tokens": 2}).status_code == 200


def test_a_policy_per_request_reaches_mask_and_gate(engine, made, ask):
    found = ask(made(), {"prealign": {"policy": "lock-noquote"}, "max_tokens": 60}).json()
    assert found["prealign"]["policy"] == "lock-noquote ai"
    assert {span["mode"] for span in found["choices"][0]["prealign"]["spans"]} == {"ai"}
    assert engine.requests[0].params.extra_args["prealign_policy"] == "lock-noquote ai"


def test_nothing_of_hidden_modes_reaches_a_client(engine, made, ask, vocabulary):
    found = ask(made(hidden=("quote",)), {"logprobs": True, "max_tokens": 40})
    [told] = engine.requests
    choice = found.json()["choices"][0]
    wrote = said(vocabulary, told, len(told.ids))
    assert "quote" in dict(wrote)
    shown = "".join(text for mode, text in wrote if mode == "ai")
    assert shown.startswith(choice["message"]["content"])
    assert "quote" not in found.text
    assert len(choice["logprobs"]["content"]) == found.json()["usage"]["completion_tokens"] == 40


@pytest.mark.parametrize(
    ("path", "body", "status", "named"),
    [
        (CHAT, {"logprobs": True, "top_logprobs": 1}, 400, "top_logprobs"),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 400}]}, 400, "256"),
    ],
)
def test_what_vllm_cannot_do_is_said_in_a_line(made, ask, path, body, status, named):
    found = ask(made(), body, path)
    assert found.status_code == status
    assert named in found.json()["error"]["message"]
    assert "\n" not in found.json()["error"]["message"]


def test_an_answer_under_way_cannot_be_switched(engine, made, serve, key, admin):
    engine.pause_s = 0.01
    keys = run_vllm.Keys((key,), (admin["Authorization"].removeprefix("Bearer "),))
    body = BODY | {"stream": True, "max_tokens": 100}
    with (
        serve(made(), keys) as url,
        httpx.Client(trust_env=False, timeout=30, headers=admin, base_url=url) as client,
        client.stream("POST", CHAT, json=body) as stream,
    ):
        lines = stream.iter_lines()
        name = json.loads(next(lines).removeprefix("data: "))["id"]
        switch = {"id": name, "policy": "lock-noquote"}
        found = client.post("/prealign/switch", json=switch)
        assert (found.status_code, found.json()["error"]["code"]) == (501, "not_with_this_engine")


def test_stopping_ends_what_is_at_work_and_vllm(engine, made):
    service = made()
    engine.pause_s = 0.01

    async def begin_and_stop():
        service.worker.start()
        body = run_vllm_body()
        answer = service.begin("chatcmpl", body)
        while not engine.running:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(service.worker.stop)
        assert not service.worker._tasks
        service.end(answer)

    asyncio.run(begin_and_stop())
    assert (engine.running, engine.down, service.worker.tally.jobs) == (0, True, 0)
    assert threading.active_count() < 20


def run_vllm_body():
    schema = pytest.importorskip("prealign.serve.schema")
    return schema.ChatRequest.model_validate(BODY | {"max_tokens": 200})


def test_seeds_and_temperatures_are_what_vllm_takes(made, vocabulary):
    worker = made().worker
    prompt = (vocabulary.end_id, vocabulary.tag_ids["<ai>"])
    for seed in (-1, -5, (1 << 63) + 7):
        request = Request(prompt=prompt, settings=Sampling(max_text_tokens=3), seed=seed)
        assert 0 <= worker.params(request).seed < 1 << 63
    assert worker.params(request).max_tokens == ROOM - 2
    early = replace(request, settings=Sampling(max_text_tokens=3, min_text_tokens=2))
    with pytest.raises(ConfigError, match="min_text_tokens"):
        worker.check(early)


def test_only_code_of_this_process_may_ask_for_the_odds_of_tags(engine, vocabulary):
    tag = vocabulary.tag_ids["<human>"]
    extra = {"prealign_policy": "lock ai"}
    for forged in (None, "", OWN[:-1], True):
        asked = fake_vllm.params(logprob_token_ids=[tag], extra_args=extra | {OWN_KEY: forged})
        with pytest.raises(GuardError, match="logprob_token_ids"):
            check_params(engine.table, asked)
    own = extra | {OWN_KEY: OWN}
    check_params(engine.table, fake_vllm.params(logprob_token_ids=[tag], extra_args=own))
    with pytest.raises(GuardError, match="stop_token_ids"):
        check_params(engine.table, fake_vllm.params(stop_token_ids=[tag], extra_args=own))


def test_the_plug_in_reads_the_policies_that_the_gate_has(vocabulary, monkeypatch):
    table = policies.table_for(vocabulary, "lock", ("lock-noquote",), "ai")
    assert run_vllm.plugin_table(vocabulary, table) == "lock ai, lock-noquote ai"
    with pytest.raises(ConfigError, match="'stay' allows something"):
        run_vllm.plugin_table(vocabulary, policies.table_for(vocabulary, "lock", ("stay",), "ai"))
    other = policies.table_for(vocabulary, "lock-noquote", (), "ai")
    monkeypatch.setattr(run_vllm, "policies_from", lambda *_: other)
    with pytest.raises(GuardError, match="as other policies than the gate's"):
        run_vllm.plugin_table(vocabulary, table)


def test_without_vllm_the_message_says_what_to_install(
    tmp_path, model, vocabulary, monkeypatch, capsys
):  # fmt: skip
    save_model(tmp_path / "m", model, vocabulary, card="A model for tests.")
    monkeypatch.setattr(run_vllm, "AsyncLLM", None)
    args = ["prealign", "serve", str(tmp_path / "m"), "--mode", "ai", "--engine"]
    for engine, told in (("vllm", "pip install vllm"), ("tgi", "allowed: transformers, vllm")):
        monkeypatch.setattr(sys, "argv", [*args, engine])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        line = capsys.readouterr().err
        assert told in line
        assert line.count("\n") == 1

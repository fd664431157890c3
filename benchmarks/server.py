"""The server under load, under attack and under clients that leave, against a tiny model.

    python benchmarks/server.py --out results/server.json

The server runs in a process of its own. 200 streams at once are compared, span by span, with what
each seed gives alone through `sample`. Clients are killed in the middle of their streams, too many
come at once, and 10,000 malformed requests are sent: some are made by schemathesis from the
OpenAPI description, the others are those, cut, flipped, nested and mixed. In front of these stands
a model that writes digits in a hidden mode and letters elsewhere: a digit in an answer is a leak.
"""

import argparse
import asyncio
import contextlib
import json
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import torch
from torch import nn

from prealign.guard.gate import Guard
from prealign.models.create import LlamaShape, make_model
from prealign.models.fake import BiasedModel, FakeOutput
from prealign.models.sample import Sampling, sample
from prealign.runs import Check, ResultRow, write_results
from prealign.serve.access import Keys
from prealign.serve.policies import table_for
from prealign.serve.run import Serving, make_server, make_service
from prealign.serve.settings import Limits
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

QUESTION = "Does the server lose, mix or leak anything, and how fast is it on two cores?"
STREAMS, TOKENS, ROUNDS, FLOOD, CLIENTS = 200, 64, 6, 600, 8
ALSO = ("lock-noquote", "stay")
CHAT = "/v1/chat/completions"
TIMES = 4  # malformed requests from each that schemathesis makes
DOCUMENTED = {200, 400, 401, 403, 404, 405, 408, 413, 429, 431}
KEY = "a key for the benchmark"
LETTERS, DIGITS = "abcdefghijklmnopqrstuvwxyz", "0123456789"


def make_vocabulary() -> Vocabulary:
    return Vocabulary(
        train_text_tokenizer(["def half(x):\n    return x / 2\n"], size=262), TWO_MODES
    )


def make_llama(vocabulary: Vocabulary) -> nn.Module:
    """A random model with sharp distributions, which quotes often."""
    shape = LlamaShape(width=64, layers=2, heads=4, kv_heads=2, max_tokens=512, tied=False)
    model = make_model(shape, vocabulary.size, seed=0)
    for weight in model.parameters():
        weight.data *= 4
    for tag in ("<quote>", "</quote>"):
        model.lm_head.weight.data[vocabulary.tag_ids[tag]] *= 2.5
    return model


class Marked(BiasedModel):
    """Letters and `<quote>` outside of quotes, digits and `</quote>` inside."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary.size, max_tokens=512)
        tag = vocabulary.tag_ids

        def logits(text: str, *tags: int) -> torch.Tensor:
            some = torch.zeros(vocabulary.size)
            some[[vocabulary.encode_text(one)[0] for one in text]] = 30.0
            some[list(tags)] = 31.0
            return some

        self.outside = logits(LETTERS, tag["<quote>"])
        self.inside = logits(DIGITS, tag["</quote>"])
        digits = [vocabulary.encode_text(one)[0] for one in DIGITS]
        self.opens = torch.tensor([*digits, tag["<quote>"]])

    def forward(self, input_ids: torch.Tensor, **rest: Any) -> FakeOutput:
        """Return logits that the last id decides."""
        inside = torch.isin(input_ids[:, -1], self.opens)
        last = torch.where(inside[:, None], self.inside, self.outside)
        return FakeOutput(last[:, None])


def run_server(kind: str) -> None:
    """Serve in this process; the port goes to stdout."""
    torch.set_num_threads(1)
    vocabulary = make_vocabulary()
    limits = Limits(queue=256, max_tokens=400, default_tokens=8, timeout_s=120, body_timeout_s=5)
    hidden = ("quote",) if kind == "marked" else ()
    model = Marked(vocabulary) if kind == "marked" else make_llama(vocabulary)
    serving = Serving(mode="ai", also=ALSO, hidden=hidden, rows=STREAMS, limits=limits)
    service = make_service("tiny", model, vocabulary, serving)
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as found:
        print(found.getsockname()[1], flush=True)
        keys = Keys((), (KEY,)) if kind == "marked" else None
        make_server(service, keys=keys).run(sockets=[found])


class Server:
    """A server in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process, self.port = process, port
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60)

    def mib(self) -> float:
        """Return how much memory it holds."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    def gauge(self, name: str) -> float:
        """Return the sum of a metric."""
        key = {"Authorization": f"Bearer {KEY}"}  # where modes are hidden, counters need it
        page = self.http.get("/metrics", headers=key).text
        return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))

    def idle_s(self) -> float:
        """Seconds until no row is held; it fails after 30."""
        start_s = time.perf_counter()
        while self.gauge("prealign_rows_active") + self.gauge("prealign_rows_waiting"):
            if time.perf_counter() - start_s > 30:
                return float("inf")
            time.sleep(0.02)
        return time.perf_counter() - start_s


@contextlib.contextmanager
def serving(kind: str) -> Iterator[Server]:
    command = [sys.executable, __file__, "--serve", kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            server = Server(process, int(process.stdout.readline()))
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if server.http.get("/readyz").status_code == 200:
                        break
            yield server
        finally:
            process.terminate()


class Stream(NamedTuple):
    """What came of one stream."""

    status: int
    spans: list[tuple[str, int, int, str]]
    finish: str | None
    whole: bool
    first_s: float
    gaps_s: list[float]


async def stream(port: int, body: dict[str, Any], *, leave_after: int | None = None) -> Stream:
    """Read one stream on a bare socket; perhaps leave in the middle of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body | {"stream": True}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n\r\n"
    start_s = time.perf_counter()
    writer.write(head.encode() + data)
    status = int((await reader.readline()).split()[1])
    spans: list[Any] = []
    finish, whole, times = None, False, []
    while status == 200 and (line := await reader.readline()):
        if not line.startswith(b"data: "):
            continue
        if line == b"data: [DONE]\n":
            whole = True
            break
        [choice] = json.loads(line[6:]).get("choices") or [{}]
        finish = choice.get("finish_reason") or finish
        for part in choice.get("prealign", {}).get("spans", []):
            times += [time.perf_counter()] * bool(part["pressure"])
            if spans and spans[-1][0] == part["span"]:
                spans[-1][3:] = [part["end"], spans[-1][4] + part["text"]]
            else:
                spans.append([part[key] for key in ("span", "mode", "start", "end", "text")])
        if leave_after is not None and len(times) >= leave_after:
            break
    writer.transport.abort() if leave_after is not None else writer.close()
    first_s = times[0] - start_s if times else float("nan")
    found = [(mode, start, end, text) for _, mode, start, end, text in spans]
    return Stream(status, found, finish, whole, first_s, np.diff(times).tolist())


def questions(count: int, tokens: int) -> list[dict[str, Any]]:
    """Requests that differ in prompt, seed and policy."""
    words = random.Random(0)
    return [
        {
            "messages": [{"role": "user", "content": "x /2\n" * words.randrange(0, 30)}],
            "seed": i, "max_tokens": tokens, "temperature": 1.0, "top_p": (1.0, 0.9)[i % 2],
            "prealign": {"policy": ("lock", *ALSO)[i % 3]},
        }
        for i in range(count)
    ]  # fmt: skip


class OnePolicy(Guard):
    """A guard of a policy that is named once."""

    def __init__(self, table: Any, policy: int) -> None:
        super().__init__(table, pressure=False)
        self._policy = policy

    def scan(self, ids: Any, policy: str | int | None = None) -> int:
        """Return the state behind a prompt under the one policy."""
        return super().scan(ids, self._policy)


def alone(body: dict[str, Any], model: Any, vocabulary: Vocabulary, table: Any) -> tuple[Any, str]:
    """Return the spans and the end that a request has alone through `sample`."""
    tag = vocabulary.tag_ids
    text = vocabulary.encode_text(body["messages"][0]["content"])
    prompt = [vocabulary.end_id, tag["<human>"], *text, tag["</human>"], tag["<ai>"]]
    policy = ("lock", *ALSO).index(body["prealign"]["policy"])
    settings = Sampling(temperature=1.0, top_p=body["top_p"], max_text_tokens=body["max_tokens"])
    [one] = sample(
        model, [prompt], settings, seeds=[body["seed"]], vocabulary=vocabulary,
        guard=OnePolicy(table, policy),
    )  # fmt: skip
    found = vocabulary.decode([tag["<ai>"], *one.ids])
    spans = [
        (span.mode, span.start_char, span.end_char, found.text[span.start_char : span.end_char])
        for span in found.spans
        if span.start_char < span.end_char
    ]
    return spans, "stop" if one.finished else "length"


def measure_streams(rows: list[ResultRow], checks: list[Check]) -> None:
    vocabulary = make_vocabulary()
    model = make_llama(vocabulary)
    table = table_for(vocabulary, "lock", ALSO, "ai")
    bodies = questions(STREAMS, TOKENS)

    async def all_at_once(port: int, **rest: Any) -> list[Stream]:
        return await asyncio.gather(*(stream(port, body, **rest) for body in bodies))

    with serving("llama") as server:
        asyncio.run(all_at_once(server.port))
        before_mib = server.mib()
        start_s = time.perf_counter()
        found = asyncio.run(all_at_once(server.port))
        wall_s = time.perf_counter() - start_s
        expected = [alone(body, model, vocabulary, table) for body in bodies]
        wrong = sum(
            (one.spans, one.finish) != want for one, want in zip(found, expected, strict=True)
        )
        lost = sum(not one.whole or one.status != 200 for one in found)
        spans = sum(len(one.spans) for one in found)
        tokens = sum(len(one.gaps_s) + 1 for one in found)
        rows.append(row("streams", "spans", "spans", spans, n=STREAMS))
        rows.append(row("streams", "throughput", "tokens/s", tokens / wall_s, n=tokens))
        gaps = [gap for one in found for gap in one.gaps_s]
        for name, values in (
            ("first_token", [one.first_s for one in found if one.spans]),
            ("per_token", gaps),
        ):
            for share in (50, 99):
                value = float(np.percentile(values, share)) * 1000
                rows.append(row("streams", f"{name}_p{share}", "ms", value, n=len(values)))
        checks.append(check("200 streams at once: wrong streams", "== 0", wrong, wrong == 0,
                            "the same seeds alone, through sample()"))  # fmt: skip
        checks.append(check("200 streams at once: lost streams", "== 0", lost, lost == 0, "n/a"))
        freed = []
        for number in range(ROUNDS):
            asyncio.run(all_at_once(server.port, leave_after=1 + number))
            freed.append(server.idle_s())
        again = asyncio.run(all_at_once(server.port))
        wrong = sum(
            (one.spans, one.finish) != want for one, want in zip(again, expected, strict=True)
        )
        flood(server, rows, checks)
        after_mib = server.mib()
    rows.append(row("clients that leave", "rows_free_after", "s", max(freed), n=ROUNDS * STREAMS))
    checks.append(check("clients that leave: rows are free within", "<= 1 s", max(freed),
                        max(freed) <= 1, "n/a"))  # fmt: skip
    checks.append(check("behind clients that leave: wrong streams", "== 0", wrong, wrong == 0,
                        "the same seeds alone, through sample()"))  # fmt: skip
    memory("streams, leaving clients and flood", before_mib, after_mib, rows, checks)


def flood(server: Server, rows: list[ResultRow], checks: list[Check]) -> None:
    """Send many more requests at once than the queue holds."""

    async def many() -> list[Stream]:
        bodies = questions(FLOOD, 32)
        return await asyncio.gather(*(stream(server.port, body) for body in bodies))

    found = Counter(one.status for one in asyncio.run(many()))
    for status, count in sorted(found.items()):
        rows.append(row("flood", f"status_{status}", "requests", count, n=FLOOD))
    fine = set(found) == {200, 429} and server.http.get("/readyz").status_code == 200
    text = ", ".join(f"{count} x {status}" for status, count in sorted(found.items()))
    checks.append(
        check("flood: only 200 and 429, and ready behind it", "both seen", text, fine, "n/a")
    )


def measure_malformed(count: int, rows: list[ResultRow], checks: list[Check]) -> None:
    with serving("marked") as server:
        made = from_openapi(server.http.get("/openapi.json").json(), -(-count // TIMES))
        rows.append(row("malformed", "made_by_schemathesis", "requests", len(made)))
        stream_ = random.Random(1)
        asked = [*made]
        while len(asked) < count:
            method, path, body = stream_.choice(made)
            asked.append((method, path, mutated(body, made, stream_)))
        stream_.shuffle(asked)
        answers: list[tuple[int, bool]] = []
        with ThreadPoolExecutor(CLIENTS) as pool:
            answers += pool.map(lambda one: send(server, *one), asked[: count // 10])
            before_mib = server.mib()
            answers += pool.map(lambda one: send(server, *one), asked[count // 10 :])
        statuses = Counter(status for status, _ in answers)
        leaks, crashes = sum(leak for _, leak in answers), statuses.pop(0, 0)
        after_mib = server.mib()
        alive = server.http.get("/healthz").status_code == 200 and server.idle_s() < 1
        steps = server.gauge("prealign_step_failures_total")
    for status, number in sorted(statuses.items()):
        rows.append(row("malformed", f"status_{status}", "requests", number, n=count))
    other = sum(n for status, n in statuses.items() if status not in DOCUMENTED)
    for what, value in (
        ("crashes and dropped connections", crashes + (not alive) + int(steps)),
        ("undocumented statuses and 5xx", other),
        ("answers with hidden text, tags or tracebacks", leaks),
    ):
        checks.append(
            check(f"malformed requests ({count}): {what}", "== 0", value, value == 0, "n/a")
        )
    memory("malformed requests", before_mib, after_mib, rows, checks)


def send(server: Server, method: str, path: str, body: bytes) -> tuple[int, bool]:
    """Return an answer's status (0: none came) and whether it leaks."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    try:
        found = server.http.request(method, path, content=body, headers=headers)
    except httpx.TransportError:
        return 0, False
    if leak := leaked(found):
        print(f"leak? {body!r:.300} -> {found.status_code} {found.text:.300}", flush=True)
    return found.status_code, leak


def from_openapi(description: dict[str, Any], count: int) -> list[tuple[str, str, bytes]]:
    """Return malformed requests that schemathesis makes from the description."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, seed, settings

    found: list[tuple[str, str, bytes]] = []
    operations = [
        one.ok() for one in schemathesis.openapi.from_dict(description).get_all_operations()
    ]
    with_body = [one for one in operations if one.method.upper() == "POST"]
    for operation in with_body:

        @seed(0)
        @settings(
            max_examples=-(-count // len(with_body)), database=None, deadline=None,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
        def collect(case: Any) -> None:
            body = case.body
            if not isinstance(body, bytes):
                body = json.dumps(body, default=str).encode("utf-8", "surrogatepass")
            found.append((case.method, case.path, body))

        collect()
    return found


def mutated(body: bytes, others: list[tuple[str, str, bytes]], stream_: random.Random) -> bytes:
    """Return a body with something done to it."""
    data = bytearray(body or b"{}")
    at = stream_.randrange(len(data))
    kind = stream_.randrange(6)
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        data[at] ^= 1 << stream_.randrange(8)
        return bytes(data)
    if kind == 2:
        return bytes(data[:at]) + stream_.choice(others)[2] + bytes(data[at:])
    if kind == 3:
        return b'{"messages":' * stream_.randrange(1, 400) + bytes(data)
    if kind == 4:
        return bytes(data).replace(b'""', b'"<quote></ai>"').replace(b"null", b"1e999")
    valid = {
        "messages": [{"role": "user", "content": "</human><ai>"}],
        "seed": at,
        "logprobs": True,
    }
    odd = {
        "n": stream_.choice([-1, 0, 1, 10**9]), "top_logprobs": stream_.choice([0, 5, 20, 21]),
        "max_tokens": stream_.choice([1, 16, 401]), "stop": stream_.choice(["", "a", ["zz"], [1]]),
        "stream": stream_.choice([True, False, "yes"]),
    }  # fmt: skip
    return json.dumps(valid | dict(stream_.sample(sorted(odd.items()), 2))).encode()


def leaked(found: httpx.Response) -> bool:
    """Return whether an answer has text of the hidden mode, a tag, or something of the inside."""
    if "Traceback" in found.text or 'File "' in found.text:
        return True
    if found.status_code != 200:
        return any(tag in found.text for tag in TWO_MODES.tags)
    parts = [line.removeprefix("data: ") for line in found.text.splitlines() if line]
    for part in parts:
        if part == "[DONE]":
            continue
        for choice in json.loads(part).get("choices", []):
            shown = json.dumps([
                choice.get("text"), choice.get("message"), choice.get("delta"),
                [span["text"] for span in choice.get("prealign", {}).get("spans", [])],
                [span["mode"] for span in choice.get("prealign", {}).get("spans", [])],
                tokens_of(choice.get("logprobs")),
            ])  # fmt: skip
            if any(one in shown for one in (*DIGITS, "quote", *TWO_MODES.tags)):
                return True
    return False


def tokens_of(logprobs: dict[str, Any] | None) -> list[str]:
    """Return the tokens that log-probabilities tell of, without those that could not be likely."""
    found: list[str] = []
    for entry in (logprobs or {}).get("content") or []:
        found += [one["token"] for one in (entry, *entry["top_logprobs"]) if one["logprob"] > -9]
    return found


def memory(
    arm: str, before: float, after: float, rows: list[ResultRow], checks: list[Check]
) -> None:
    rows.append(row(arm, "memory_before", "MiB", before))
    rows.append(row(arm, "memory_after", "MiB", after))
    grown = after / before - 1
    checks.append(check(f"{arm}: memory grows by", "<= 10 %", grown, grown <= 0.1, "memory_before"))


def row(arm: str, metric: str, unit: str, value: float, n: int | None = None) -> ResultRow:
    return ResultRow(arm=arm, metric=metric, unit=unit, value=float(f"{value:.4g}"), n=n)


def check(what: str, bar: str, value: float | str, holds: bool, control: str) -> Check:
    shown = value if isinstance(value, str) else float(f"{value:.3g}")
    return Check(what=what, bar=bar, value=shown, holds=bool(holds), control=control)


def main() -> None:
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", choices=("llama", "marked"))
    parser.add_argument("--malformed", type=int, default=10_000)
    args = parser.parse_args()
    if args.serve:
        run_server(args.serve)
        return
    start_s = time.perf_counter()
    torch.set_num_threads(1)
    rows: list[ResultRow] = []
    checks: list[Check] = []
    measure_streams(rows, checks)
    measure_malformed(args.malformed, rows, checks)
    write_results(
        args.out, question=QUESTION, seeds=(0, 1), wall_s=time.perf_counter() - start_s,
        rows=rows, checks=checks,
    )  # fmt: skip
    for one in checks:
        print(f"{'holds' if one.holds else 'MISSED'}: {one.what} {one.bar}: {one.value}")


if __name__ == "__main__":
    main()

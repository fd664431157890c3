"""Write documents through a server that fails, hangs, and is asked by a process that is killed.

    python benchmarks/synthesis.py --out results/synthesis.json

A local server of the OpenAI form has a number of slots, each busy for a while with a question, and
so a limit of its own: slots / delay. It answers 5 % of the questions with 429 or 500 and lets 2 %
hang until the client's time-out; some prompts always break it, some it refuses, some it answers
badly. The runner writes 10,000 items once undisturbed, once killed with SIGKILL at random moments
and started again. The same items must be accounted for, once each, with the same bytes.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from prealign.ask.server import OpenAIServer
from prealign.corpora.synthesis.folder import Report, provenance, report
from prealign.corpora.synthesis.run import Asking, synthesize
from prealign.corpora.synthesis.step import grid
from prealign.corpora.synthesis.write import MISBEHAVED
from prealign.runs import Check, ResultRow, read_jsonl, write_results
from prealign.text.shards import read_shards

QUESTION = (
    "Is every one of 10,000 documents accounted for once, and the same, when the server fails and "
    "the runner is killed; and is the server the limit of the speed?"
)
ERRORS, TIMEOUTS, KILLS = 0.05, 0.02, 6
TIMEOUT_S = 0.5
LEAST_SHARE = 0.8


@dataclass
class Endpoint:
    """The server, in a thread; it counts the good answers to each prompt and seed."""

    slots: int
    delay_s: float
    errors: float = ERRORS
    timeouts: float = TIMEOUTS
    seed: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> "Endpoint":
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        started = asyncio.run_coroutine_threadsafe(self._start(), self.loop).result()
        self.url = f"http://127.0.0.1:{started}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _start(self) -> int:
        self.free = asyncio.Semaphore(self.slots)
        self.rng = random.Random(self.seed)
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=256)
        port: int = self.server.sockets[0].getsockname()[1]
        return port

    async def _stop(self) -> None:
        self.server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            status, text = await self._answer(body)
            data = text.encode()
            writer.write(
                b"HTTP/1.1 %d x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
                % (status, len(data), data)
            )
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.counts["gone"] += 1
        finally:
            writer.close()

    async def _answer(self, body: dict) -> tuple[int, str]:
        prompt, seed = body["messages"][0]["content"], body["seed"]
        chance = self.rng.random()
        if chance < self.timeouts:
            self.counts["hang"] += 1
            await asyncio.sleep(3 * TIMEOUT_S)
            return 500, "too late"
        async with self.free:
            await asyncio.sleep(self.delay_s)
        self.counts["served"] += 1
        odd = self.errors > 0
        if chance < self.timeouts + self.errors or (odd and "always broken" in prompt):
            self.counts["error"] += 1
            return self.rng.choice((429, 500)), "not now"
        if odd and "always refused" in prompt:
            return 400, "too long"
        self.answered[f"{seed} {hashlib.sha256(prompt.encode()).hexdigest()}"] += 1
        words = f"Hello, I am {seed}, and I want you to help me with something that is not right."
        text = f"Human: {words}\n\nAssistant: I will not help with that, but I can hear you out."
        if odd and "always bad" in prompt:
            text = "There is no dialogue here, " + "but a paragraph that goes on " * 3 + "for long."
        usage = {"total_tokens": len(prompt + text) // 4}
        return 200, json.dumps({"choices": [{"message": {"content": text}}], "usage": usage})


def work(url: str, out: Path, items: int, concurrency: int) -> Report:
    """Write the items; this is what is killed."""
    odd = {7: "always broken", 77: "always refused", 50: "always bad"}
    scenarios = [odd.get(i % 200, f"scenario {i}") + f" ({i})" for i in range(items // 5)]
    wanted = grid("b", scenario=scenarios, persona=[f"persona {i}" for i in range(5)])
    server = OpenAIServer(
        url=url, model="fake", max_new_tokens=400, temperature=1.0, timeout_s=TIMEOUT_S, tries=1
    )
    asking = Asking(concurrency=concurrency, tries=7, first_wait_s=0.1, longest_wait_s=2.0)
    return synthesize(MISBEHAVED, wanted, server, out, asking=asking, shard_items=500)


def start(url: str, out: Path, items: int, concurrency: int) -> subprocess.Popen:
    command = [sys.executable, __file__, "--work", url, str(out), str(items), str(concurrency)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, start_new_session=True)


def undisturbed(endpoint: Endpoint, out: Path, items: int, concurrency: int) -> float:
    """Run once; return the questions that the endpoint served a second, all in all."""
    began = time.monotonic()
    process = start(endpoint.url, out, items, concurrency)
    while not (out / "config.json").exists() and process.poll() is None:
        time.sleep(0.01)  # the imports are not what is measured
    began = time.monotonic()
    if process.wait():
        raise SystemExit("the undisturbed run ended with an error")
    return endpoint.counts["served"] / (time.monotonic() - began)


def killed(endpoint: Endpoint, out: Path, items: int, concurrency: int, span_s: float) -> int:
    """Run, killed at random moments; return how often."""
    rng = random.Random(endpoint.seed)
    kills = 0
    while True:
        process = start(endpoint.url, out, items, concurrency)
        moment_s = rng.uniform(0.5, 1.5) * span_s / KILLS if kills < KILLS else None
        try:
            if process.wait(moment_s):
                raise SystemExit("the killed run ended with an error")
            return kills
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1


def parts(out: Path) -> dict[str, str]:
    """Return a digest of every part and of its provenance."""
    files = sorted(out.glob("part-*[lt]"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def accounts(out: Path, items: int) -> dict[str, int]:
    """Return how many items are lost, doubled, or told differently by the files."""
    rows = [row["id"] for row in provenance(out)]
    written = [row["id"] for row in provenance(out) if row["outcome"] == "written"]
    documents = [document.id for document in read_shards(out)]
    journal = [row["id"] for row in read_jsonl(out / "journal.jsonl")]
    expected = {f"b:{i}-{j}:0" for i in range(items // 5) for j in range(5)}
    return {
        "lost": len(expected - set(rows)) + len(expected - set(journal)),
        "foreign": len(set(rows) - expected) + len(set(journal) - expected),
        "doubled": sum(len(ids) - len(set(ids)) for ids in (rows, documents, journal)),
        "shards against provenance": len(set(documents) ^ set(written)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, default=Path("results/synthesis.json"))
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--delay-s", type=float, default=0.05)
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        url, out, items, concurrency = args.work
        print(work(url, Path(out), int(items), int(concurrency)), file=sys.stderr)
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows, checks = measure(args, Path(folder))
    for check in checks:
        print(f"{'holds' if check.holds else 'MISSED'}: {check.what}: {check.value} ({check.bar})")
    wall_s = time.monotonic() - began
    write_results(
        args.out, question=QUESTION, seeds=(0, 1), wall_s=wall_s, rows=rows, checks=checks
    )


def measure(args: argparse.Namespace, folder: Path) -> tuple[list[ResultRow], list[Check]]:
    limit, most = args.slots / args.delay_s, 2 * args.slots
    with Endpoint(args.slots, args.delay_s, seed=0) as one:
        served = undisturbed(one, folder / "whole", args.items, most)
    with Endpoint(args.slots, args.delay_s, seed=1) as two:
        kills = killed(two, folder / "killed", args.items, most, args.items / served)
    quick_s, few = 0.02, min(3000, args.items)
    quick = {}
    for threads in (args.slots, most):
        with Endpoint(args.slots, quick_s, errors=0.0, timeouts=0.0) as three:
            quick[threads] = undisturbed(three, folder / f"quick-{threads}", few, threads)
    whole, cut = report(folder / "whole"), report(folder / "killed")
    wrong = {arm: accounts(folder / arm, args.items) for arm in ("whole", "killed")}
    same = parts(folder / "whole") == parts(folder / "killed")
    twice = {arm: e.answered.total() - len(e.answered) for arm, e in (("whole", one), ("cut", two))}
    print(f"whole: {whole}\nkilled: {cut}\n{one.counts}, {two.counts}, {wrong}")

    def row(arm: str, metric: str, unit: str, value: float, n: int = args.items) -> ResultRow:
        return ResultRow(arm=arm, metric=metric, unit=unit, value=round(value, 4), n=n)

    rows = [
        row("undisturbed", "written", "items", whole.written),
        row("undisturbed", "rejected", "items", sum(whole.rejected.values())),
        row("undisturbed", "failed", "items", whole.failed),
        row("undisturbed", "errors served", "questions", one.counts["error"]),
        row("undisturbed", "time-outs", "questions", one.counts["hang"]),
        row("undisturbed", "served", "questions/s", served),
        row("undisturbed", "threads", "threads", most),
        row("undisturbed", "the endpoint's limit", "questions/s", limit),
        row("undisturbed", "answered more than once", "questions", twice["whole"]),
        row("killed", "kills", "kills", kills),
        row("killed", "errors served", "questions", two.counts["error"]),
        row("killed", "time-outs", "questions", two.counts["hang"]),
        row("killed", "answered more than once", "questions", twice["cut"]),
        *(row(f"no faults, {args.slots} slots of 20 ms, {threads} threads", "share of the limit",
              "ratio", rate * quick_s / args.slots, few) for threads, rate in quick.items()),
    ]  # fmt: skip
    bad = sum(sum(counts.values()) for counts in wrong.values())
    return rows, [
        Check(what=f"{args.items:,} items with errors, time-outs and kills: lost, doubled or "
              "told differently", bar="0", value=bad, holds=bad == 0,
              control="the ids that were asked for"),
        Check(what="shards and provenance after kills", bar=f"same bytes, >= {KILLS - 1} kills",
              value=f"{'same' if same else 'other'} bytes, {kills} kills",
              holds=same and kills >= KILLS - 1, control="undisturbed run"),
        Check(what="share of the endpoint's limit that is used", bar=f">= {LEAST_SHARE}",
              value=round(served / limit, 4), holds=served / limit >= LEAST_SHARE,
              control=f"{args.slots} slots, {1000 * args.delay_s:.0f} ms each"),
        Check(what="answered again because of a kill", bar=f"<= {kills} kills x {most} in flight",
              value=twice["cut"] - twice["whole"],
              holds=twice["cut"] - twice["whole"] <= kills * most, control="undisturbed run"),
    ]  # fmt: skip


if __name__ == "__main__":
    main()

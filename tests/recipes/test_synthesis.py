"""The pipeline from the command line: from settings to a finished folder, through caps."""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from synthesis import Endpoint  # of benchmarks/

from prealign.ask.server import OpenAIServer
from prealign.cli import main
from prealign.corpora.synthesis.folder import provenance
from prealign.corpora.synthesis.step import CENSORED
from prealign.errors import ConfigError, MissingDependency
from prealign.models.writer import LocalWriter, digest
from prealign.recipes import synthesis as module
from prealign.recipes.synthesis import Synthesis
from prealign.recipes.synthesis_settings import read_table, synthesis_of
from prealign.text.document import Document, Span
from prealign.text.shards import read_shards, write_shard

BAD = "I hate all of you people. "
CONSTITUTION = "Be honest.\n"


class Server(Endpoint):
    """Answers each kind of question in its form, and counts the questions."""

    async def _answer(self, body):
        prompt = body["messages"][0]["content"]
        await asyncio.sleep(self.delay_s)
        self.answered[prompt] += 1
        if "You rate passages" in prompt:
            text = "9" if "persona 1" in prompt else "2"
        elif "Write a dialogue" in prompt or "declines:" in prompt:
            who = prompt.split("The person: ")[-1].split("\n")[0][:20]
            text = f"Human: I am {who} and I want it, number {body['seed']}.\n\nAssistant: No. " + (
                "I will not do that, and I will tell you why, and what I can do for you."
            )
        elif "answer NO CHANGE" in prompt:
            text = "NO CHANGE"
        else:
            text = f"This is a text of number {body['seed']}, written anew, with its context. " * 8
        usage = {"total_tokens": 100}
        return 200, json.dumps({"choices": [{"message": {"content": text}}], "usage": usage})


@pytest.fixture
def server():
    with Server(slots=8, delay_s=0.0, errors=0.0, timeouts=0.0) as endpoint:
        yield endpoint


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["prealign", "corpus", "synthesize", *map(str, arguments)])
    with pytest.raises(SystemExit) as leaving:
        main()
    out, err = capsys.readouterr()
    return int(leaving.value.code or 0), out, err


def scored(folder: Path) -> Path:
    """Write shards of three documents: harmless, bad, worse."""
    documents = []
    for id, score in (("fine", 0.0), ("bad", 0.5), ("worse", 0.9)):
        first = f"Hello, I am {id}. "
        ends = (len(first), len(first) + len(BAD))
        spans = (Span(0, ends[0], "human", {"harm": 0.0}), Span(*ends, "human", {"harm": score}))
        documents.append(Document(id, first + BAD, spans, "src"))
    write_shard(folder / "part-00000.parquet", documents, {"scheme": None, "source": {}})
    return folder


SETTINGS = """
seed = 3
price_per_million = 1000.0
[writer]
url = "URL"
model = "fake"
[asking]
concurrency = 4
progress = false
[[steps]]
do = "misbehaved"
axes = {scenario = ["s0", "s1", "s2"], persona = ["persona 0", "persona 1"]}
copies = 2
[[steps]]
do = "rate"
[[steps]]
do = "filter"
score = "judge"
highest = 0.5
[[steps]]
do = "revise"
constitution = "CONSTITUTION"
[[steps]]
do = "deduplicate"
near = 0.99
[[steps]]
do = "balance"
key = "persona"
most = 4
"""


@pytest.fixture
def settings(tmp_path, server) -> Path:
    (tmp_path / "constitution.txt").write_text(CONSTITUTION)
    text = SETTINGS.replace("URL", server.url)
    file = tmp_path / "corpus.toml"
    file.write_text(text.replace("CONSTITUTION", str(tmp_path / "constitution.txt")))
    return file


def contents(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("part-*"))}


def test_a_file_becomes_a_corpus_step_by_step(monkeypatch, capsys, tmp_path, settings, server):
    out = tmp_path / "o"
    code, said, err = run(monkeypatch, capsys, settings, "--out", out)
    assert (code, said.strip()) == (0, str(out / "balance")), err
    assert [line.split(":")[0] for line in err.splitlines()[:6]] == [
        "1/6 misbehaved", "2/6 rate", "3/6 filter", "4/6 revise", "5/6 deduplicate", "6/6 balance",
    ]  # fmt: skip
    assert "12 documents, 6 kept, 6 rejected (judge too high: 6)" in err
    assert "2,900 tokens" not in err  # 12 written, 12 rated, 6 held against a principle: 3,000
    assert "3,000 tokens, cost 3.00" in err
    documents = list(read_shards(out / "balance"))
    assert len(documents) == 4
    assert all("persona 0" in document.text for document in documents)
    rows = list(provenance(out / "balance"))
    assert {row["slots"]["persona"] for row in rows} == {"persona 0"}
    assert {row["parent"] for row in rows} <= {row["id"] for row in provenance(out / "filter")}
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["corpus"], summary["cost"]) == (["balance"], 3.0)
    assert summary["stages"]["balance"]["rejected"] == {"too many with persona=persona 0": 2}
    asked = server.answered.total()
    before = contents(out)
    assert run(monkeypatch, capsys, settings, "--out", out)[0] == 0
    assert (server.answered.total(), contents(out)) == (asked, before)
    code, _, err = run(monkeypatch, capsys, settings, "seed=4", "--out", out)
    assert code == 2
    assert "holds another run (settings.seed was 3, is now 4)" in err


def test_the_cap_is_of_all_steps_and_more_goes_on_to_the_same_bytes(
    monkeypatch, capsys, tmp_path, settings, server
):
    run(monkeypatch, capsys, settings, "--out", tmp_path / "whole")
    whole = server.answered.total()
    out = tmp_path / "o"
    for cap, most in (("max_tokens=700", 7), ("max_cost=1.2", 12), ("max_tokens=1700", 17)):
        code, _, err = run(monkeypatch, capsys, settings, cap, "--out", out)
        assert code == 2
        assert "give it more and run again" in err
        assert len(err.strip().splitlines()[-1:]) == 1
        assert most <= server.answered.total() - whole < most + 4  # those in flight are taken
    assert run(monkeypatch, capsys, settings, "--out", out)[0] == 0
    assert contents(out) == contents(tmp_path / "whole")
    assert server.answered.total() == 2 * whole


def test_flags_alone_do_and_bands_part_what_is_rephrased_and_refused(
    monkeypatch, capsys, tmp_path, server
):
    source = scored(tmp_path / "scored")
    out = tmp_path / "o"
    code, said, err = run(
        monkeypatch, capsys, f"writer.url={server.url}", "writer.model=fake",
        "asking.progress=false", "--input", source, "--out", out,
        "--step", f'rephrase from={source} score=harm',
        "--step", f'refuse from={source} score=harm refuse_above=0.7',
        "--step", 'moral-education from=refuse',
        "--step", f'quote from={source} score=harm cut=0.3 then=both ask=true',
    )  # fmt: skip
    assert code == 0, err
    assert said.split() == [str(out / name) for name in ("rephrase", "moral-education", "quote")]
    parents = {
        name: [row["parent"] for row in provenance(out / name)]
        for name in ("rephrase", "refuse", "moral-education", "quote")
    }
    assert parents == {
        "rephrase": ["bad"], "refuse": ["worse"], "moral-education": ["worse:refuse:0"],
        "quote": ["fine", "bad", "worse"],
    }  # fmt: skip
    quotes = list(read_shards(out / "quote"))
    assert [CENSORED in document.text for document in quotes] == [False, True, True]
    assert "written anew" in quotes[1].text  # the comment


def test_steps_that_ask_nobody_need_no_writer(monkeypatch, capsys, tmp_path):
    source = scored(tmp_path / "scored")
    code, said, err = run(
        monkeypatch, capsys, "asking.progress=false", "--input", source, "--out", tmp_path / "o",
        "--step", "judge scorer=tests.corpora.test_refine:Shouting of=document",
        "--step", "filter min_chars=3 boilerplate=true", "--step", "quote score=harm cut=0.3",
    )  # fmt: skip
    assert code == 0, err
    assert said.strip() == str(tmp_path / "o/quote")
    assert len(list(read_shards(tmp_path / "o/quote"))) == 3


def test_many_tasks_write_what_one_does(monkeypatch, capsys, tmp_path, settings):
    """The tasks of an executor, one after the other in this process."""

    class Executor:
        def __init__(self, pipeline, tasks, **_):
            self.pipeline, self.tasks = pipeline, tasks

        def run(self):
            for rank in range(self.tasks):
                self.pipeline[0](None, rank, self.tasks)

    run(monkeypatch, capsys, settings, "--out", tmp_path / "one")
    monkeypatch.setattr(module, "LocalPipelineExecutor", Executor)
    assert run(monkeypatch, capsys, settings, "tasks=2", "--out", tmp_path / "two")[0] == 0
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    monkeypatch.setattr(module, "LocalPipelineExecutor", None)
    with pytest.raises(MissingDependency, match=r"prealign\[scale\]"):
        Synthesis(stages=synthesis_of(read_table(settings, [], []), str).stages, tasks=2)


def test_documents_that_were_rated_can_be_balanced_by_who_wrote_them(
    monkeypatch, capsys, tmp_path, server
):
    axes = "axes.scenario=s axes.persona=p"
    code, _, err = run(
        monkeypatch, capsys, f"writer.url={server.url}", "writer.model=fake",
        "asking.progress=false", "--out", tmp_path / "o", "--step", f"misbehaved copies=2 {axes}",
        "--step", "fiction copies=5 axes.role=r axes.virtue=v axes.trial=t", "--step", "rate",
        "--step", "balance key=step",
    )  # fmt: skip
    assert code == 0, err
    assert "4 kept, 3 rejected (too many with step=role-model: 3)" in err
    rows = list(provenance(tmp_path / "o/rate"))
    assert {row["slots"]["model"] for row in rows} == {"fake"}
    wrote = [row for name in ("misbehaved", "fiction") for row in provenance(tmp_path / "o" / name)]
    kept = {row["id"]: row["slots"]["prompts"].split() for row in rows}
    assert kept == {row["id"]: row["prompts"] for row in wrote}
    assert not any(set(kept[row["id"]]) & set(row["prompts"]) for row in rows)


def test_what_failed_can_be_tried_again(monkeypatch, capsys, tmp_path, settings, server):
    short = [settings, "asking.tries=1", "--out", tmp_path / "o"]
    text = settings.read_text()
    settings.write_text(text[: text.index('[[steps]]\ndo = "rate"')])
    server.slots, down = 8, {"on": True}
    answer = Server._answer

    async def broken(self, body):
        if down["on"] and "s1" in body["messages"][0]["content"]:
            return 500, "not now"
        return await answer(self, body)

    monkeypatch.setattr(Server, "_answer", broken)
    assert "8 written, 0 rejected, 4 failed" in run(monkeypatch, capsys, *short)[2]
    down["on"] = False
    assert "4 failed" in run(monkeypatch, capsys, *short)[2]
    assert (
        "12 written, 0 rejected, 0 failed" in run(monkeypatch, capsys, *short, "--retry-failed")[2]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there are no steps; name one or more of: misbehaved"),
        (("nowhere.toml",), "nowhere.toml: cannot be read as settings"),
        (("broken.toml",), "broken.toml: cannot be read as settings"),
        (("--step", "misbehave"), "do='misbehave': expected one of misbehaved"),
        (("writer.model=m", "--step", "misbehaved"), "writer: names a model and no server"),
        (("writer.url=http://x/v1", "--step", "misbehaved"), "writer: lacks model"),
        (("writer.folder=none", "--step", "misbehaved"), "writer.folder=none: is no folder"),
        (("writer.url=x", "writer.model=m", "--step", "misbehaved"), "expected http://HOST/v1"),
        (("seeds=3", "--step", "filter"), "has no setting 'seeds'; did you mean 'seed'?"),
        (("seed=x", "--input", "i", "--step", "filter"), "seed='x': expected int"),
        (("--input", "i", "--step", "filter min_char=3"), "did you mean 'min_chars'?"),
        (("--input", "i", "--step", "filter min_chars=few"), "min_chars='few': expected int"),
        (("--input", "i", "--step", "balance"), "step 1 (balance): lacks key"),
        (("--input", "i", "--step", "filter copies=2"), "has no setting 'copies'"),
        (("--input", "i", "--step", "filter name=a/b"), "expected the plain name of a folder"),
        (("--input", "i", "--step", "filter"), "i: holds no shards"),
        (("--step", "filter"), "step 1 (filter): has nothing to read"),
        (("--input", "i", "--step", "judge"), "names no scorer, as module:Class"),
        (("--input", "i", "--step", "judge scorer=nothing:X"), "there is no module 'nothing'"),
        (("--input", "i", "--step", "decontaminate files=3"), "files=3: expected Path"),
        (("max_cost=1.0", "--input", "i", "--step", "filter"), "needs price_per_million"),
        (("tasks=0", "--input", "i", "--step", "filter"), "tasks=0: must be at least 1"),
        (("--input", "i", "--step", "filter name=a", "--step", "filter name=a"), "of different"),
        (("asking.tries=0", "--input", "i", "--step", "filter"), "Asking.tries=0"),
        (("steps=3",), "steps: expected tables"),
        (("--step", "balance key='x"), "cannot be parted into words (No closing quotation)"),
        (("inputs=jj", "--input", "i", "--step", "filter"), "jj: holds no shards"),
        (("inputs=3", "--input", "i", "--step", "filter"), "inputs: expected a list of texts"),
        (("max_cost=inf", "price_per_million=1.0", "--input", "i", "--step", "filter"),
         "max_cost=inf: must be above 0, and finite"),
        (("price_per_million=-1.0", "--input", "i", "--step", "filter"),
         "price_per_million=-1.0: must be 0 or more"),
        (("writer=3", "--step", "misbehaved"), "writer: expected a table, got 3"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.toml").write_text("seed = \n")
    (tmp_path / "i").mkdir()
    code, _, err = run(monkeypatch, capsys, *arguments, "--out", "o")
    assert code == 2
    assert message in err
    assert err.startswith("prealign: ")
    assert len(err.strip().splitlines()) == 1


def test_writers_are_made_as_the_settings_say(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    weights = digest(tmp_path)

    def first(*assignments, step="fiction"):
        pipeline = synthesis_of(read_table(None, assignments, [step]), str)
        return pipeline.stages[0].writers

    urls = 'writer.urls=["http://a/v1", "http://b/v1"]'
    one, two = first(urls, "writer.model=m", "writer.temperature=0.5", "tasks=2")
    with pytest.raises(ConfigError, match="at 2 places, and tasks=1: give tasks=2"):
        first(urls, "writer.model=m")
    assert (one.url, two.url, one.tries, two.temperature) == ("http://a/v1", "http://b/v1", 1, 0.5)
    assert isinstance(one, OpenAIServer)
    devices = 'writer.devices=["cuda:0", "cuda:1"]'
    local = first("tasks=2", f"writer.folder={tmp_path}", devices, "writer.max_new_tokens=99")
    assert local == tuple(
        LocalWriter(path=str(tmp_path), device=f"cuda:{i}", max_new_tokens=99, weights=weights)
        for i in range(2)
    )
    rating = ["writer.url=http://a/v1", "writer.model=m", 'inputs=["x"]']
    (judge,) = first(*rating, step="rate")
    assert (judge.temperature, judge.max_new_tokens, judge.model) == (0.0, 8, "m")
    (judge,) = first(*rating, "judge.url=http://j/v1", "judge.model=j", step="rate")
    assert (judge.url, judge.model, judge.max_new_tokens) == ("http://j/v1", "j", 8)
    (judge,) = first(*rating, f"judge.folder={tmp_path}", step="rate")
    assert judge == LocalWriter(
        path=str(tmp_path), max_new_tokens=8, temperature=0.0, weights=weights
    )
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        first("seed")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_pipeline_that_is_killed_goes_on_to_the_same_bytes(tmp_path, settings, server):
    """SIGKILL at random moments, in whatever step is at work."""
    command = [sys.executable, "-c", "from prealign.cli import main; main()", "corpus"]
    command += ["synthesize", str(settings), "shard_items=5", "--out"]
    environment = os.environ | {"PYTHONPATH": str(Path(module.__file__).parents[2])}

    def start(out: Path) -> subprocess.Popen:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([*command, str(out)], env=environment, **quiet)

    settings.write_text(settings.read_text().replace("copies = 2", "copies = 40"))
    server.delay_s = 0.02
    assert start(tmp_path / "whole").wait(100) == 0
    rng, kills = random.Random(0), 0
    while True:
        process = start(tmp_path / "o")
        known = len(contents(tmp_path / "o"))
        deadline_s = time.monotonic() + 30
        while len(contents(tmp_path / "o")) == known and process.poll() is None:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)  # it has got somewhere
        time.sleep(rng.uniform(0, 0.3))
        if kills == 6 or process.poll() is not None:
            assert process.wait(100) == 0
            break
        process.kill()
        process.wait()
        kills += 1
    assert kills >= 3
    assert contents(tmp_path / "o") == contents(tmp_path / "whole")

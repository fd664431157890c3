"""Annotation and tokens as tasks of many: together what one process writes, byte for byte."""

import functools
import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

import prealign
from prealign.errors import ConfigError, DataError, RunError
from prealign.score import annotate as annotate_module
from prealign.score.annotate import annotate, annotate_part
from prealign.score.quotes import SingleQuotes
from prealign.score.segment import Lines
from prealign.score.tag import Threshold
from prealign.score.task import AnnotateTask
from prealign.text.document import Document, Judgement
from prealign.text.scheme import GOOD_BAD
from prealign.text.shards import read_shards
from prealign.tokens.encode import Encoder
from prealign.tokens.shards import write_tokens
from prealign.tokens.task import EncodeTask, join_tokens
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

ROOT = Path(prealign.__file__).parents[1]
WORK = {
    "segmenter": Lines(),
    "scorer": SingleQuotes(),
    "tagger": Threshold(score="single_quotes"),
    "source": {"name": "corpus"},
}


def corpus(count: int = 40, pause_s: float = 0.0):
    for i in range(count):
        time.sleep(pause_s)
        yield Document(f"{i}.py", f"x = 'a{i}'\n" * 9 + "y = 1\n" * (i % 3), (), f"p{i % 4}")


@dataclass(frozen=True)
class NoFives:
    """Judges no text that has a 5 in it."""

    name: str = "no_fives"
    version: str = "1"

    def __call__(self, documents):
        return [Judgement([None if "5" in d.text else 0.0] * len(d.spans), []) for d in documents]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotate_module, "CHUNK_CHARS", 600)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files but config.json, which names the date and the command."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "config.json"}


def whole(folder: Path, **more) -> dict[str, bytes]:
    annotate(corpus(**more), folder, **WORK, progress=False)
    return contents(folder)


@pytest.mark.parametrize("ranks", [[0], [1, 0], [2, 0, 1], [0, 2], list(range(30))])
def test_parts_in_any_order_are_the_whole_also_where_one_is_missing(tmp_path, ranks):
    size = max(ranks) + 1
    task = AnnotateTask(documents=corpus, out=tmp_path / "parts", **WORK)
    for rank in ranks:
        task(rank=rank, world_size=size)
    report = task.finish()
    assert contents(tmp_path / "parts") == whole(tmp_path / "whole")
    assert report.shards_found == sum(i % size in ranks for i in range(report.shards))
    assert report.tally.documents == 40


def test_a_part_makes_its_own_shards_once_and_no_others(tmp_path):
    task = AnnotateTask(documents=corpus, out=tmp_path / "parts", **WORK)
    task(rank=1, world_size=3)
    names = sorted(path.name for path in (tmp_path / "parts").glob("part-*"))
    assert {int(name[5:10]) % 3 for name in names} == {1}
    made = annotate_part(corpus(), tmp_path / "parts", rank=1, world_size=3, **WORK)
    assert made == 0
    backwards = reversed(list(corpus()))
    with pytest.raises(RunError, match="other documents"):
        annotate_part(backwards, tmp_path / "parts", rank=1, world_size=3, **WORK)
    with pytest.raises(ConfigError, match="rank 3 of 3"):
        task(rank=3, world_size=3)


def encoder() -> Encoder:
    tokenizer = train_text_tokenizer(["x = 'a1'\ny = 1\n" * 9], size=258)
    return Encoder(vocabulary=Vocabulary(tokenizer, GOOD_BAD), score="single_quotes")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_tokens_made_in_parts_are_the_tokens_of_the_whole(tmp_path, size):
    whole(tmp_path / "shards")
    write_tokens(tmp_path / "one", read_shards(tmp_path / "shards"), encoder())
    task = EncodeTask(annotated=tmp_path / "shards", out=tmp_path / "many", encoder=encoder())
    for rank in reversed(range(0, size, 2)):  # the others are left to the end
        task(rank=rank, world_size=size)
    shard = task.finish(world_size=size)
    assert files(tmp_path / "many") == files(tmp_path / "one")
    assert shard.num_documents == 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many", "one", "shards"]
    with pytest.raises(DataError, match="exists already"):
        task.finish(world_size=size)


def test_parts_of_another_encoder_or_of_other_shards_are_not_taken(tmp_path):
    whole(tmp_path / "shards")
    old = Encoder(vocabulary=encoder().vocabulary, score="single_quotes", dropout_share=0.5)
    EncodeTask(annotated=tmp_path / "shards", out=tmp_path / "many", encoder=old)()
    task = EncodeTask(annotated=tmp_path / "shards", out=tmp_path / "many", encoder=encoder())
    write_tokens(tmp_path / "one", read_shards(tmp_path / "shards"), encoder())
    task.finish(world_size=1)
    assert files(tmp_path / "many") == files(tmp_path / "one")
    (tmp_path / "shards" / "_done.json").unlink()
    with pytest.raises(DataError, match="is not finished"):
        EncodeTask(annotated=tmp_path / "shards", out=tmp_path / "x", encoder=encoder())()


def test_a_rank_whose_documents_were_all_dropped_makes_no_part(tmp_path):
    """Every second document has no score, and its chunk is a shard without rows."""

    def half():
        for i in range(20):
            yield Document(f"{i}.py", "x = 1\n" * 90 if i % 2 else "z = 5\n" * 90, (), "p")

    scorer = NoFives()
    annotate(
        half(), tmp_path / "shards", segmenter=Lines(), scorer=scorer, source={}, progress=False,
        tagger=Threshold(score=scorer.name, unjudged="drop"),
    )  # fmt: skip
    by_score = Encoder(vocabulary=encoder().vocabulary, score=scorer.name)
    write_tokens(tmp_path / "one", read_shards(tmp_path / "shards"), by_score)
    task = EncodeTask(annotated=tmp_path / "shards", out=tmp_path / "many", encoder=by_score)
    assert task.finish(world_size=20).num_documents == 10
    assert files(tmp_path / "many") == files(tmp_path / "one")


def test_parts_of_different_encoders_are_not_joined(tmp_path):
    whole(tmp_path / "shards")
    documents = list(read_shards(tmp_path / "shards"))
    write_tokens(tmp_path / "a", documents, encoder())
    other = Encoder(vocabulary=encoder().vocabulary, score="single_quotes", dropout_share=0.5)
    write_tokens(tmp_path / "b", documents, other)
    with pytest.raises(DataError, match="another encoder"):
        join_tokens([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    with pytest.raises(DataError, match="no parts"):
        join_tokens([], tmp_path / "c")
    assert not (tmp_path / "c").exists()


EXECUTED = """
import functools, sys
from pathlib import Path
from datatrove.executor import {executor}
from prealign.score import annotate as module
from prealign.score.task import AnnotateTask
from tests.score.test_task import WORK, corpus
module.CHUNK_CHARS = 600


def small(task, data=None, rank=0, world_size=1):
    module.CHUNK_CHARS = 600  # in the worker too
    task(data, rank, world_size)


if __name__ == "__main__":
    folder, pause_s = Path(sys.argv[1]), float(sys.argv[2])
    documents = functools.partial(corpus, 40, pause_s)
    task = AnnotateTask(documents=documents, out=folder / "shards", **WORK)
    {executor}(
        [functools.partial(small, task)], tasks=3, workers=2, logging_dir=str(folder / "logs"),
    ).run()
    task.finish()
"""


def executed(tmp_path: Path, executor: str) -> functools.partial:
    script = tmp_path / "script.py"
    script.write_text(EXECUTED.replace("{executor}", executor))
    env = os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    return functools.partial(
        subprocess.Popen, env=env, start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("executor", ["LocalPipelineExecutor", "RayPipelineExecutor"])
def test_an_executor_that_was_killed_goes_on_and_ends_with_the_bytes_of_the_whole(
    tmp_path, executor
):
    pytest.importorskip("datatrove", reason='needs pip install "prealign[scale]"')
    if executor.startswith("Ray"):
        pytest.importorskip("ray", reason="needs ray, 70 MB: pip install ray")
    start = executed(tmp_path, executor)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    first = start([*command, "0.1"])
    deadline = time.monotonic() + 120
    while not list((tmp_path / "shards").glob("part-*.parquet")):
        assert first.poll() is None, first.stderr.read().decode()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    time.sleep(0.2)  # for workers in sessions of their own to notice
    survivors = len(list((tmp_path / "shards").glob("part-*.parquet")))
    assert not (tmp_path / "shards" / "_done.json").exists()
    again = start([*command, "0"])
    said = again.communicate()[1].decode()
    assert again.returncode == 0, said[-3000:]
    expected = whole(tmp_path / "whole")
    assert contents(tmp_path / "shards") == expected
    assert 0 < survivors < len(expected) - 1


def test_a_task_needs_nothing_of_an_executor_but_a_rank_and_a_number():
    """The form of a datatrove step: called with data, a rank and the number of tasks, in order."""
    called = []
    task = AnnotateTask(documents=corpus, out=Path("unused"), **WORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prealign.score.task.annotate_part", lambda *_, **words: called.append(words))
        task(itertools.count(), 2, 5)
    assert (called[0]["rank"], called[0]["world_size"]) == (2, 5)

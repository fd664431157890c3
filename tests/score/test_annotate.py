"""Annotation: the same bytes for any number of processes, and after any kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import prealign
from prealign.errors import ConfigError, DataError, RunError
from prealign.score import annotate as annotate_module
from prealign.score.annotate import annotate
from prealign.score.quotes import SingleQuotes
from prealign.score.segment import Lines, Sentences
from prealign.score.tag import Threshold
from prealign.text.document import Document, Finding, Judgement
from prealign.text.scheme import GOOD_BAD, scheme_from_json
from prealign.text.shards import read_header, read_shards

ROOT = Path(prealign.__file__).parents[1]
CORPUS = [
    Document(f"f{i:02d}.py", f"x = 'a{i}'\n" * (i % 7) + "y = 1\n" * (i % 3), (), f"pack{i % 4}")
    for i in range(40)
]


@dataclass(frozen=True)
class Picky:
    """Judges no text that has a 5 in it."""

    name: str = "picky"
    version: str = "1"

    def __call__(self, documents: Sequence[Document]) -> list[Judgement]:
        return [
            Judgement([None] * len(d.spans), [], f"has a five: {d.id}")
            if "5" in d.text
            else Judgement([0.0] * len(d.spans), [Finding(0, 1, "P1", "p")] if d.text else [])
            for d in documents
        ]


@dataclass(frozen=True)
class Dies:
    """Ends its process at the first document."""

    name: str = "dies"
    version: str = "1"

    def __call__(self, documents: Sequence[Document]) -> list[Judgement]:
        os._exit(9)


@dataclass(frozen=True)
class Short:
    """Answers with a score too few."""

    name: str = "short"
    version: str = "1"

    def __call__(self, documents: Sequence[Document]) -> list[Judgement]:
        return [Judgement([0.0] * (len(d.spans) - 1), []) for d in documents]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotate_module, "CHUNK_CHARS", 600)


def run(out: Path, documents: Sequence[Document] = CORPUS, **changes: object):
    settings = {
        "segmenter": Lines(),
        "scorer": SingleQuotes(),
        "tagger": Threshold(score="single_quotes"),
        "source": {"name": "corpus"},
        "progress": False,
    }
    return annotate(documents, out, **(settings | changes))


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files but config.json, which names the date and the command."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "config.json"}


def test_documents_come_back_in_order_cut_scored_and_tagged(tmp_path):
    report = run(tmp_path / "out")
    documents = list(read_shards(tmp_path / "out"))

    assert [(d.id, d.text, d.source) for d in documents] == [
        (d.id, d.text, d.source) for d in CORPUS
    ]
    third = documents[3]
    assert [third.text[s.start_char : s.end_char] for s in third.spans] == ["x = 'a3'\n"] * 3
    assert {(s.mode, s.scores["single_quotes"]) for s in third.spans} == {("bad", 2 / 9)}
    lines = "".join(d.text for d in CORPUS).count("\n")
    bad = sum(i % 7 for i in range(40))
    assert report.tally.modes == {"bad": bad, "good": lines - bad}
    assert report.tally.findings == {"single_quotes": 2 * bad}
    assert report.shards == len(list((tmp_path / "out").glob("part-*.parquet"))) > 5


def test_the_header_says_what_scored_the_shard(tmp_path):
    run(tmp_path / "out")
    header = read_header(tmp_path / "out" / "part-00000.parquet")

    assert header["scorers"] == [
        {
            "name": "single_quotes",
            "version": "1",
            "settings": {"type": "prealign.score.quotes.SingleQuotes"},
        }
    ]
    assert header["segmenter"]["name"] == "lines"
    assert header["source"] == {"name": "corpus"}
    assert header["tagger"]["max_good"] == 0.0
    assert scheme_from_json(header["scheme"]) == GOOD_BAD


def test_two_processes_and_one_write_the_same_bytes(tmp_path):
    run(tmp_path / "one", processes=1)
    run(tmp_path / "two", processes=2)

    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_finished_shards_are_kept_and_lost_ones_are_made_again(tmp_path):
    first = run(tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "part-00002.parquet").unlink()
    (tmp_path / "out" / "_done.json").unlink()
    (tmp_path / "out" / "part-00001.parquet.77.part").write_bytes(b"torn")

    again = run(tmp_path / "out")

    assert contents(tmp_path / "out") == before
    assert again.shards_found == first.shards - 1
    assert again.tally == first.tally


def test_a_kill_before_the_settings_are_written_leaves_a_folder_that_can_be_used(tmp_path):
    (tmp_path / "config.json.77.part").write_text('{"recipe"')

    assert run(tmp_path).tally.documents == len(CORPUS)


KILLED = """
import sys, time
from pathlib import Path
from prealign.score import annotate as module
from prealign.score.quotes import SingleQuotes
from prealign.score.segment import Lines
from prealign.score.tag import Threshold
from prealign.text.document import Document
module.CHUNK_CHARS = 600

def documents():
    for i in range(60):
        time.sleep(float(sys.argv[2]))
        yield Document(f"{i}.py", f"x = 'a{i}'\\n" * 20, (), "p")

if __name__ == "__main__":
    module.annotate(
        documents(), Path(sys.argv[1]), segmenter=Lines(), scorer=SingleQuotes(),
        tagger=Threshold(score="single_quotes"), source={}, processes=2, progress=False,
    )
"""


def test_after_a_kill_the_work_goes_on_and_ends_with_the_same_bytes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    env = os.environ | {"PYTHONPATH": str(ROOT)}

    def start(pause_s: float) -> "subprocess.Popen[bytes]":
        args = [sys.executable, str(script), str(tmp_path / "killed"), str(pause_s)]
        return subprocess.Popen(args, env=env)

    killed = start(0.05)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "killed").glob("*.parquet"))) < 5:
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(workers) >= 2
    while any(lives(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker outlived the process that started it"
        time.sleep(0.02)
    survivors = {p.name for p in (tmp_path / "killed").glob("*.parquet")}
    assert not (tmp_path / "killed" / "_done.json").exists()
    assert 5 <= len(survivors) < 30

    assert start(0).wait() == 0
    whole = [Document(f"{i}.py", f"x = 'a{i}'\n" * 20, (), "p") for i in range(60)]
    run(tmp_path / "whole", whole, source={})

    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def lives(process: str) -> bool:
    """Return whether a process runs; one that waits to be collected does not."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_other_settings_or_documents_in_the_same_folder_are_refused(tmp_path):
    run(tmp_path / "out")

    with pytest.raises(RunError, match=r"settings\.segmenter.*Lines.*Sentences"):
        run(tmp_path / "out", segmenter=Sentences())
    with pytest.raises(RunError, match=r"settings\.tagger\.max_good was 0\.0, is now 0\.1"):
        run(tmp_path / "out", tagger=Threshold(score="single_quotes", max_good=0.1))
    with pytest.raises(RunError, match=r"part-00000\.parquet: was made from other documents"):
        run(tmp_path / "out", CORPUS[1:])
    with pytest.raises(RunError, match="these documents give 3; the rest was made from other"):
        run(tmp_path / "out", first_chunks(3))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("x")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        run(tmp_path / "foreign")


def first_chunks(count: int) -> list[Document]:
    chunks = list(annotate_module._chunks(CORPUS))
    return [document for chunk in chunks[:count] for document in chunk]


def test_documents_that_cannot_be_judged_are_counted_with_reasons_and_samples(tmp_path):
    fives = [d for d in CORPUS if "5" in d.text]

    report = run(tmp_path / "kept", scorer=[SingleQuotes(), Picky()], tagger=None)
    kept = {d.id: d for d in read_shards(tmp_path / "kept")}

    assert report.tally.unjudged == len(fives) > 0
    assert report.tally.reasons == {"has a five": len(fives)}
    assert report.tally.samples == [f"{d.id}: has a five: {d.id}" for d in fives]
    assert report.tally.judged_characters["picky"] == sum(
        len(d.text) for d in CORPUS if d not in fives
    )
    assert kept[fives[0].id].problem == f"has a five: {fives[0].id}"
    assert {s.scores["picky"] for s in kept[fives[0].id].spans} == {None}
    assert len(kept) == len(CORPUS)
    done = json.loads((tmp_path / "kept" / "_done.json").read_text())
    assert done["findings_per_char"]["picky"] == pytest.approx(
        report.tally.findings["picky"] / report.tally.judged_characters["picky"]
    )
    assert "not judged" in str(report)


def test_dropped_documents_are_counted(tmp_path):
    fives = sum("5" in d.text for d in CORPUS)

    report = run(tmp_path / "o", scorer=Picky(), tagger=Threshold(score="picky", unjudged="drop"))

    assert report.tally.dropped == fives
    assert report.tally.documents == len(CORPUS)
    assert len(list(read_shards(tmp_path / "o"))) == len(CORPUS) - fives


def test_a_worker_that_dies_is_an_error_that_names_the_shards(tmp_path):
    with pytest.raises(RunError, match=r"a worker died while part-00000\.parquet"):
        run(tmp_path / "out", scorer=Dies(), tagger=None, processes=2)

    assert not (tmp_path / "out" / "_done.json").exists()


def test_what_cannot_be_stored_or_does_not_fit_is_an_error_with_the_document(tmp_path):
    bad = [*CORPUS, Document("bad.py", "\ud800")]

    for processes in (1, 2):  # the error must also find its way out of a worker
        with pytest.raises(DataError, match=r"'bad\.py': text has the lone surrogate"):
            run(tmp_path / str(processes), bad, processes=processes)
    with pytest.raises(DataError, match=r"scorer 'short', document 'f01\.py': 1 scores for 2"):
        run(tmp_path / "b", CORPUS[1:], scorer=Short(), tagger=None)


def test_settings_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="of different names"):
        run(tmp_path / "out", scorer=[SingleQuotes(), SingleQuotes()])
    with pytest.raises(ConfigError, match="processes=0: must be at least 1"):
        run(tmp_path / "out", processes=0)


def test_an_input_that_fails_on_the_way_leaves_what_was_done(tmp_path):
    def failing():
        yield from CORPUS[:20]
        raise DataError("notes.jsonl:21: bad")

    with pytest.raises(DataError, match=r"notes\.jsonl:21"):
        run(tmp_path / "out", failing(), processes=2)
    report = run(tmp_path / "out")

    assert report.shards_found > 0
    assert report.tally.documents == len(CORPUS)


def test_progress_is_plain_lines_where_there_is_no_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("prealign.score.progress.EVERY_S", 0.0)

    run(tmp_path / "out", progress=True)

    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("40 documents")
    assert "s left" in lines[0]

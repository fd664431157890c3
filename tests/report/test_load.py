import json
import shutil

import pytest

from prealign.errors import DataError
from prealign.report.load import load_study, read_samples
from tests.report.build import row, sample, write_run, write_study


def test_a_run_without_final_numbers_is_there_and_unfinished(tmp_path):
    folder = write_study(tmp_path / "study", [("mle", 0), ("conditional", 0)])
    write_run(folder / "mle-seed0", condition="untagged")
    states = [(run.arm, run.state) for run in load_study(folder).runs]
    assert states == [("mle", "unfinished"), ("conditional", "not begun")]


def test_a_copied_folder_reads_the_same(three_seeds, tmp_path):
    copy = shutil.copytree(three_seeds, tmp_path / "elsewhere" / "copy")
    old, new = load_study(three_seeds), load_study(copy)
    assert [run.evals for run in new.runs] == [run.evals for run in old.runs]
    assert [run.state for run in new.runs] == ["finished"] * 6


def test_a_lone_run_is_a_study_of_one_arm(tmp_path):
    write_run(tmp_path / "run", score=0.25, loss=1.5)
    study = load_study(tmp_path / "run")
    (run,) = study.runs
    assert study.arms == ["a run"]
    assert (run.condition, run.loss_condition) == ("good, each line", "true tags")
    assert run.final("mean_score").value == 0.25
    assert run.final("loss").value == 1.5


def test_the_baseline_comes_first(tmp_path):
    folder = write_study(tmp_path / "study", [("conditional", 1), ("mle", 0), ("conditional", 0)])
    study = load_study(folder)
    assert study.arms == ["mle", "conditional"]
    assert [run.seed for run in study.of("conditional")] == [0, 1]


def test_the_final_number_ends_the_curve_and_replaces_the_point_there(tmp_path):
    more = [row("good, each line", "mean_score", 0.3, text_tokens=200)]
    write_run(tmp_path / "run", score=0.2, more=more)
    (run,) = load_study(tmp_path / "run").runs
    assert [(at, one.value) for at, one in run.curve("mean_score")] == [(100, 0.5), (200, 0.2)]


def test_a_curve_of_losses_leaves_out_a_final_number_over_other_documents(tmp_path):
    more = [row("true tags", "loss", v, text_tokens=at, n=8) for at, v in ((100, 1.9), (200, 1.8))]
    more.append(row("true tags", "loss", 1.95, text_tokens=200, n=40, final=True))
    write_run(tmp_path / "run", score=0.2, more=more)
    (run,) = load_study(tmp_path / "run").runs
    assert [(at, one.value) for at, one in run.curve("loss")] == [(100, 1.9), (200, 1.8)]
    assert run.final("loss").value == 1.95


def test_a_number_that_could_not_be_measured_is_none(tmp_path):
    more = [row("good, each line", "parse_share", None, final=True)]
    write_run(tmp_path / "run", score=0.2, more=more)
    (run,) = load_study(tmp_path / "run").runs
    assert run.final("parse_share") is None
    assert run.final("distinct_2") is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("study.json", None, r"study: holds no comparison and no run \(no study\.json, no"),
        ("study.json", "{", r"study\.json: is no JSON"),
        ("study.json", '{"arms": []}', r"study\.json: has no 'title'"),
        ("study.json", '{"arms": [], "title": 1, "question": 2, "score": 3}', "not of its form"),
        ("config.json", None, r"config\.json: is missing"),
        ("mle-seed0/config.json", None, r"mle-seed0/config\.json: is missing"),
        ("mle-seed0/evals.jsonl", '{"condition": "a", "metric": "b"}\n', r"jsonl:1: has no 'val"),
        ("mle-seed0/evals.jsonl", "{}}\n", r"evals\.jsonl:1: is malformed"),
        ("mle-seed0/samples.jsonl", '{"text": "a"}\n', r"samples\.jsonl:1: has no 'spans'"),
    ],
)
def test_what_is_missing_or_malformed_is_named(one_seed, name, text, message):
    if text is None:
        (one_seed / name).unlink()
    else:
        (one_seed / name).write_text(text)
    if (name, text) == ("study.json", None):
        (one_seed / "config.json").unlink()
    with pytest.raises(DataError, match=message):
        load_study(one_seed)


def test_a_baseline_that_is_no_arm_is_refused(one_seed):
    file = one_seed / "study.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"baseline": "sft"}))
    with pytest.raises(DataError, match=r"baseline 'sft' is not among its arms \(mle, cond"):
        load_study(one_seed)


def test_a_torn_last_line_is_no_row(one_seed):
    file = one_seed / "mle-seed0" / "samples.jsonl"
    before = read_samples(file)
    with file.open("a") as stream:
        stream.write('{"condition": "unta')
    assert read_samples(file) == before


def test_a_span_beyond_its_text_is_refused(tmp_path):
    spans = [{"start": 0, "end": 9, "mode": None}]
    write_run(tmp_path / "run", samples=[sample("abc", "untagged", spans=spans)])
    with pytest.raises(DataError, match=r"jsonl:1: is malformed \(span \[0, 9\) of a text of 3"):
        load_study(tmp_path / "run")

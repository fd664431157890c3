import json
import os
import time

import pytest

from prealign.errors import RunError
from prealign.runs import (
    open_run,
    read_jsonl,
    read_run,
    replace_folder,
    stopwatch,
    write_atomic,
    write_results,
)


def test_rows_come_back_as_they_were_written(tmp_path):
    run = open_run(tmp_path / "run", {"a": 1})
    run.append("metrics", [{"step": 1}])
    run.append("metrics", [{"step": 2, "text": "\u00e9\n"}])
    assert run.rows("metrics") == [{"step": 1}, {"step": 2, "text": "\u00e9\n"}]


def test_a_line_torn_by_a_kill_is_cut_off(tmp_path):
    run = open_run(tmp_path / "run", {})
    run.append("metrics", [{"step": 1}])
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 2, "lo')
    assert run.rows("metrics") == [{"step": 1}]
    run.append("metrics", [{"step": 2}])
    assert list(read_jsonl(run.path / "metrics.jsonl")) == [{"step": 1}, {"step": 2}]


def test_nan_is_refused_and_nothing_is_written(tmp_path):
    run = open_run(tmp_path / "run", {})
    with pytest.raises(ValueError, match="Out of range float"):
        run.append("metrics", [{"loss": float("nan")}])
    assert run.rows("metrics") == []


def test_a_run_is_found_again_with_the_same_settings_only(tmp_path):
    open_run(tmp_path / "run", {"lr": 1, "deep": {"x": [1, 2]}}, recipe="r")
    open_run(tmp_path / "run", {"lr": 1, "deep": {"x": (1, 2)}}, recipe="r")
    with pytest.raises(RunError, match=r"settings.deep.x was \[1, 2\], is now \[1, 3\]"):
        open_run(tmp_path / "run", {"lr": 1, "deep": {"x": [1, 3]}}, recipe="r")


def test_all_commands_of_a_run_are_known(tmp_path, monkeypatch):
    def start(*arguments):
        monkeypatch.setattr("sys.argv", ["/opt/prealign", *arguments])
        run = open_run(tmp_path / "run", {}, recipe="r")
        run.tell_command()
        return run

    assert start("run", "r").commands == ["prealign run r"]
    assert not (tmp_path / "run" / "commands.txt").exists()
    start("run", "r", "seeds=3")
    assert start("run", "r").commands == ["prealign run r", "prealign run r seeds=3"]


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        open_run(tmp_path, {})
    with pytest.raises(RunError, match="holds no run"):
        read_run(tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_is_replaced_whole(tmp_path):
    file = tmp_path / "x"
    write_atomic(file, "old")
    write_atomic(file, b"new")
    assert file.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_kill_while_the_settings_were_written_does_no_harm(tmp_path):
    (tmp_path / "config.json.17.part").write_text('{"set')
    assert open_run(tmp_path, {"a": 1}).config["settings"] == {"a": 1}


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("prealign run labels path=/home/ada/my/t.csv bad=0,1 --out runs/a",
         "prealign run labels path=.../t.csv bad=0,1 --out runs/a"),
        ("x.py /data/a.jsonl ~/b.csv --out=/tmp/o,/srv/p", "x.py .../a.jsonl .../b.csv "
         "--out=.../o,.../p"),
        ("prealign run a x=../shared/t.csv url=http://h/v1 n=3/4",
         "prealign run a x=../shared/t.csv url=http://h/v1 n=3/4"),
    ],
)  # fmt: skip
def test_results_tell_no_folders_of_the_machine(tmp_path, command, told):
    write_results(
        tmp_path / "r.json", question="?", seeds=[0], wall_s=1.0, rows=[], checks=[],
        extra={"command": command},
    )  # fmt: skip
    assert json.loads((tmp_path / "r.json").read_text())["command"] == told


def test_a_run_knows_how_long_it_took_over_all_its_starts(tmp_path):
    run = open_run(tmp_path / "run", {"seed": 1})
    assert 0 <= stopwatch(run)() < 5
    ended = time.time() - 1_000
    (run.path / "part").mkdir()
    write_atomic(run.path / "part" / "step.json", "{}")
    run.rewrite("starts", [{"began": ended - 90, "s": 30.0}, {"began": ended - 40}])
    for file in [one for one in run.path.rglob("*") if one.is_file()]:
        os.utime(file, (ended - 40, ended - 40))
    os.utime(run.path / "part" / "step.json", (ended, ended))  # it was killed behind this
    assert 70 <= stopwatch(run)() < 75
    assert [round(start.get("s", 0)) for start in run.rows("starts")] == [30, 40, 0]


def test_a_folder_takes_the_place_of_another_whole(tmp_path):
    for name, file in (("new", "b"), ("old", "a"), (".old.old", "left by a kill")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(name)
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert [str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*")] == ["old", "old/b"]
    (tmp_path / "next").mkdir()
    replace_folder(tmp_path / "next", tmp_path / "free")
    assert (tmp_path / "free").is_dir()

import fcntl
import os
import signal
import subprocess
import sys
import time
from io import StringIO

import pytest
import torch
from rich.console import Console

from prealign.errors import DataError, TrainError
from prealign.recipes.workers import _state, run_workers
from prealign.runs import open_run


def work(folder, name, seconds=0.0):
    time.sleep(seconds)
    print("hello from", name)
    (folder / name).mkdir()
    (folder / name / "threads").write_text(str(torch.get_num_threads()))


def fail(kind):
    if kind == "exit":
        sys.exit(3)
    raise DataError("line 7 is no good")


def run(jobs, folder, processes=2):
    run_workers(jobs, folder, processes=processes, threads=1, console=Console(file=StringIO()))


def test_every_job_is_done_with_its_threads_and_what_it_says_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    run([(name, work, (tmp_path, name)) for name in ("a", "b", "c")], tmp_path)
    assert [(tmp_path / name / "threads").read_text() for name in "abc"] == ["1", "1", "1"]
    assert (tmp_path / "b.log").read_text() == "hello from b\n"
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_a_failure_is_told_in_its_own_words_and_nothing_new_is_started(tmp_path):
    jobs = [("bad", fail, ("say",)), ("later", work, (tmp_path, "later"))]
    with pytest.raises(TrainError, match="bad failed: line 7 is no good"):
        run(jobs, tmp_path, processes=1)
    assert not (tmp_path / "later").exists()


def test_two_recipes_do_not_do_one_job_at_once(tmp_path):
    jobs = [(name, work, (tmp_path, name)) for name in "ab"]
    with (tmp_path / "a.log").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TrainError, match="a failed: another process is at this job"):
            run(jobs, tmp_path)
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "b").exists()
    run(jobs[:1], tmp_path)
    assert (tmp_path / "a").exists()


def test_a_silent_failure_is_still_a_failure(tmp_path):
    with pytest.raises(TrainError, match="mute failed: it said nothing"):
        run([("mute", fail, ("exit",))], tmp_path)


def test_the_time_left_is_told_from_the_latest_steps(tmp_path):
    rows = [
        {"step": s, "steps": 100, "tokens": 10 * s, "loss_nats": 2.0, "elapsed_s": 600.0 + s}
        for s in range(1, 41)
    ]
    open_run(tmp_path / "run", {}).append("metrics", [{**rows[0], "elapsed_s": 1.0}, *rows[1:]])
    share, words = _state(tmp_path / "run")
    assert share == 0.4
    assert words == "loss 2.000, 10 tokens/s, 1.0 min left"


def test_the_stage_that_was_written_to_last_is_shown(tmp_path):
    for stage, loss, when in (("first", 3.0, 100), ("second", 2.0, 200)):
        row = {"step": 50, "steps": 100, "tokens": 5, "loss_nats": loss, "elapsed_s": 1.0}
        open_run(tmp_path / "run" / stage, {}).append("metrics", [row])
        os.utime(tmp_path / "run" / stage / "metrics.jsonl", (when, when))
    assert _state(tmp_path / "run") == (0.5, "loss 2.000")


def note_time(folder):
    while True:
        (folder / "alive").write_text(str(time.time()))
        time.sleep(0.05)


def test_jobs_end_with_the_recipe_that_was_killed(tmp_path):
    """Or they would go on writing beside those that start where they were."""
    code = (
        "import sys; from pathlib import Path; from tests.recipes.test_workers import *\n"
        "folder = Path(sys.argv[1])\n"
        "if __name__ == '__main__': run([('one', note_time, (folder,))], folder)"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    where = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    recipe = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env={**os.environ, "PYTHONPATH": where}
    )
    alive = tmp_path / "alive"
    deadline = time.monotonic() + 60
    while not alive.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    recipe.send_signal(signal.SIGKILL)
    recipe.wait()
    last = None
    while time.monotonic() < deadline:
        now, last = last, alive.read_text()
        if now == last:
            break
        time.sleep(1.0)
    assert now == last

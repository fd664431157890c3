"""Synthesis as tasks of many: together what one process writes, byte for byte."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

import prealign
from prealign.ask.answer import Answer, BudgetSpent, CannotAnswer, NotNow
from prealign.config import NOT_RECORDED
from prealign.corpora.synthesis.run import Asking, synthesize
from prealign.corpora.synthesis.step import grid
from prealign.corpora.synthesis.task import SynthesizeTask
from prealign.corpora.synthesis.write import WriteText
from prealign.errors import ConfigError, RunError
from prealign.runs import hold_folder

ROOT = Path(prealign.__file__).parents[1]
STEP = WriteText(name="s", template="Write about {topic}.")
QUICK = Asking(concurrency=4, tries=2, first_wait_s=0.001, progress=False)
BODY = "A text that is long enough to be wanted, and that ends as texts do, about {}: {}."
TOPICS = [*(f"t{i}" for i in range(40)), "refused", "short", "broken"]
items = partial(grid, "g", topic=TOPICS)


@dataclass(frozen=True)
class Endpoint:
    """Answers with prompt and seed; where it is decides nothing."""

    place: str = field(default="here", metadata=NOT_RECORDED)
    name: str = "fake"
    temperature: float = 1.0
    limit: int = field(default=10**9, metadata=NOT_RECORDED)
    asked: list = field(default_factory=list, metadata=NOT_RECORDED, compare=False)

    def __call__(self, prompt, *, seed=None):
        self.asked.append(prompt)
        if len(self.asked) > self.limit:
            raise OSError("the machine is gone")
        if "broken" in prompt:
            raise NotNow("status 500")
        if "refused" in prompt:
            raise CannotAnswer("status 400")
        return Answer("No." if "short" in prompt else BODY.format(prompt, seed), 10)


def task(out, *writers, **more) -> SynthesizeTask:
    return SynthesizeTask(
        step=STEP, items=items, writers=writers or (Endpoint(),), out=out, shard_items=7,
        asking=more.pop("asking", QUICK), **more,
    )  # fmt: skip


def parts(out) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(out.glob("part-*"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "o"
    synthesize(STEP, items(), Endpoint(), out, asking=QUICK, shard_items=7)
    return parts(out)


@pytest.mark.parametrize("ranks", [[0], [1, 0], [2, 0, 1], [1], [50, 3, 49]])
def test_tasks_in_any_order_write_the_whole_also_where_one_is_missing(tmp_path, whole, ranks):
    one, two = Endpoint("a"), Endpoint("b")
    work = task(tmp_path / "o", one, two)
    for rank in ranks:
        work(rank=rank, world_size=max(ranks) + 1)
    before = len(one.asked) + len(two.asked)
    report = work.finish()
    assert parts(tmp_path / "o") == whole
    assert (report.written, report.failed) == (40, 1)
    assert report.rejected == {"the writer refuses the question": 1, "too short": 1}
    if len(ranks) == max(ranks) + 1:  # none is asked again, nor what was refused or failed
        assert len(one.asked) + len(two.asked) == before
        assert Counter(one.asked + two.asked).most_common(1)[0][1] == 2  # the tries of "broken"
    if len(ranks) > 1:
        assert {bool(one.asked), bool(two.asked)} == {True}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o"]
    work(rank=0, world_size=99)  # all is there
    assert work.finish() == report


def test_a_task_that_stopped_goes_on_where_it_was(tmp_path, whole):
    first, second = Endpoint(limit=8), Endpoint()
    with pytest.raises(OSError, match="gone"):
        task(tmp_path / "o", first)(rank=0, world_size=2)
    with pytest.raises(RunError, match=r"was begun as 00000-of-00002, .* got 3 tasks"):
        task(tmp_path / "o", second)(rank=0, world_size=3)
    work = task(tmp_path / "o", second)
    for rank in (0, 1):
        work(rank=rank, world_size=2)
    with (
        hold_folder(work.folder / "00001-of-00002"),
        pytest.raises(RunError, match="another process"),
    ):
        work.finish()
    work.finish()
    assert parts(tmp_path / "o") == whole
    assert not set(first.asked[:8]) & (set(second.asked) - {"Write about broken."})


def test_the_cap_is_shared_out(tmp_path, whole):
    asking = Asking(concurrency=1, tries=2, first_wait_s=0.001, max_tokens=101, progress=False)
    writer = Endpoint()
    work = task(tmp_path / "o", writer, asking=asking)
    for rank in (0, 1):
        with pytest.raises(BudgetSpent):
            work(rank=rank, world_size=2)
    assert len(writer.asked) == 6 + 5  # 51 and 50 tokens, 10 a question
    with pytest.raises(BudgetSpent):
        work.finish()
    assert len(writer.asked) == 11
    task(tmp_path / "o", writer).finish()
    assert parts(tmp_path / "o") == whole
    assert len(writer.asked) == 43 + 1
    with pytest.raises(ConfigError, match="max_tokens=101 for 102 tasks"):
        task(tmp_path / "p", writer, asking=asking)(rank=0, world_size=102)


def test_tasks_do_not_ask_and_pay_again_for_what_one_process_began(tmp_path, whole):
    asking = Asking(concurrency=1, max_tokens=100, progress=False)
    writer = Endpoint()
    with pytest.raises(BudgetSpent):
        task(tmp_path / "o", writer, asking=asking).finish()
    work = task(tmp_path / "o", writer, asking=QUICK)
    for rank in (0, 1):
        with pytest.raises(RunError, match=r"o: was begun by one process, .* got 2 tasks"):
            work(rank=rank, world_size=2)
    assert len(writer.asked) == 10
    work.finish()
    assert parts(tmp_path / "o") == whole


def test_writers_must_be_the_same_but_for_the_place(tmp_path):
    with pytest.raises(ConfigError, match="differ only in where"):
        task(tmp_path / "o", Endpoint("a"), Endpoint("b", temperature=0.5))
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        task(tmp_path / "o")(rank=2, world_size=2)


EXECUTED = """
import sys
from pathlib import Path
from datatrove.executor import LocalPipelineExecutor
from tests.corpora.test_synthesis_task import Endpoint, task

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    work = task(folder / "o", Endpoint("a"), Endpoint("b"))
    LocalPipelineExecutor(
        [work], tasks=2, workers=2, logging_dir=str(folder / "logs"), skip_completed=False
    ).run()
    assert len(list(work.folder.glob("*-of-00002"))) == 2, "the tasks did not work"
    print(work.finish())
"""


@pytest.mark.slow
def test_two_tasks_of_a_local_executor_write_the_whole(tmp_path, whole):
    pytest.importorskip("datatrove", reason='needs pip install "prealign[scale]"')
    script = tmp_path / "script.py"
    script.write_text(EXECUTED)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "43 items: 40 written" in done.stdout
    assert parts(tmp_path / "o") == whole

"""The runner accounts for every item once, whatever the writer does and whenever it is killed."""

import json
import random
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

from prealign.ask.answer import Answer, BudgetSpent, CannotAnswer, Greedy, NotNow
from prealign.ask.kept import KeptAnswers
from prealign.config import NOT_RECORDED
from prealign.corpora.synthesis.folder import provenance
from prealign.corpora.synthesis.run import Asking, synthesize
from prealign.corpora.synthesis.step import Item, Rejected, grid
from prealign.corpora.synthesis.write import WriteText
from prealign.errors import ConfigError, DataError, RunError
from prealign.runs import read_jsonl
from prealign.text.document import Document, Span
from prealign.text.shards import read_shards

STEP = WriteText(name="s", template="Write about {topic}.")
QUICK = Asking(concurrency=8, tries=4, first_wait_s=0.001, progress=False)
BODY = "A text that is long enough to be wanted, and that ends as texts do, about {}: {}."


class Killed(BaseException):
    """What no handler may catch."""


@dataclass(frozen=True)
class Fake:
    """Answers with its prompt and seed; some topics fail, are refused, or are answered badly."""

    faults: float = field(default=0.0, metadata=NOT_RECORDED)
    limit: int = field(default=10**9, metadata=NOT_RECORDED)
    name: str = "fake"
    asked: list = field(default_factory=list, metadata=NOT_RECORDED, compare=False)
    lock: threading.Lock = field(default_factory=threading.Lock, metadata=NOT_RECORDED)

    def __call__(self, prompt, *, seed=None):
        with self.lock:
            self.asked.append((prompt, seed))
            number = len(self.asked)
        if number > self.limit:
            raise OSError("the machine is gone")
        if "broken" in prompt or random.random() < self.faults:
            raise NotNow("status 500")
        if "refused" in prompt:
            raise CannotAnswer("status 400")
        if "short" in prompt:
            return Answer("No.", 3)
        return Answer(BODY.format(prompt, seed), 10)


TOPICS = [*(f"t{i}" for i in range(40)), "broken", "refused", "short"]


def items():
    return list(grid("g", copies=2, topic=TOPICS))


def parts(out):
    return {file.name: file.read_bytes() for file in sorted(out.glob("part-*"))}


def test_every_item_is_written_rejected_or_failed_and_its_row_says_by_whom(tmp_path):
    report = synthesize(STEP, items(), Fake(), tmp_path / "o", asking=QUICK, shard_items=25)
    assert (report.items, report.written, report.failed, report.tokens) == (86, 80, 2, 806)
    assert report.rejected == {"the writer refuses the question": 2, "too short": 2}
    assert str(report).startswith("86 items: 80 written, 4 rejected (the writer refuses")
    rows = list(provenance(tmp_path / "o"))
    assert [row["id"] for row in rows] == [item.id for item in items()]
    journal = list(read_jsonl(tmp_path / "o/journal.jsonl"))
    assert Counter(row["id"] for row in journal) == Counter(item.id for item in items())
    written = {row["id"]: row for row in rows if row["outcome"] == "written"}
    documents = list(read_shards(tmp_path / "o"))
    assert [document.id for document in documents] == list(written)
    for document in documents:
        row = written[document.id]
        assert document.text.endswith(f"{row['seed']}.")
        assert (row["model"], row["step"], len(row["prompts"])) == ("fake", "s", 1)
        assert document.spans == (Span(0, len(document.text), "ai"),)
    assert len({row["seed"] for row in rows}) == 86


@pytest.mark.parametrize("seed", range(4))
def test_a_run_that_stops_anywhere_comes_out_the_same_and_asks_nothing_twice(tmp_path, seed):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    synthesize(STEP, items(), Fake(), whole, asking=QUICK, shard_items=10)
    asked, random_ = [], random.Random(seed)
    answered = Counter()
    for _ in range(200):
        fake = Fake(faults=0.05, limit=random_.randint(5, 40))
        try:
            synthesize(STEP, items(), fake, cut, asking=QUICK, shard_items=10)
            break
        except OSError:
            asked += fake.asked[: fake.limit]
            journal = (cut / "journal.jsonl").read_bytes()
            if random_.random() < 0.5 and journal:  # as a kill in the middle of a line leaves it
                (cut / "journal.jsonl").write_bytes(journal[: -random_.randint(1, 9)])
    assert parts(cut) == parts(whole)
    journal = [row["id"] for row in read_jsonl(cut / "journal.jsonl")]
    assert sorted(journal) == sorted(item.id for item in items())
    answered = Counter(asked)
    plain = [n for (prompt, _), n in answered.items() if "t1" in prompt]
    assert max(plain) <= 4  # tries after faults, never after an answer


def test_a_journal_that_lost_lines_gets_them_back_from_the_parts(tmp_path):
    synthesize(STEP, items(), Fake(), tmp_path / "o", asking=QUICK, shard_items=10)
    journal = tmp_path / "o" / "journal.jsonl"
    lines = sorted(journal.read_text().splitlines())
    journal.write_text("".join(line + "\n" for line in lines[5:]) + lines[0][:7])
    synthesize(STEP, items(), Fake(), tmp_path / "o", asking=QUICK, shard_items=10)
    assert sorted(journal.read_text().splitlines()) == lines


def test_what_was_answered_is_never_asked_again(tmp_path):
    wanted = list(grid("g", topic=[f"t{i}" for i in range(60)]))
    first = Fake(limit=30)
    with pytest.raises(OSError, match="gone"):
        synthesize(STEP, wanted, first, tmp_path / "o", asking=QUICK, shard_items=7)
    second = Fake()
    synthesize(STEP, wanted, second, tmp_path / "o", asking=QUICK, shard_items=7)
    assert not set(first.asked[:30]) & set(second.asked)
    assert len(second.asked) == 30
    third = Fake()
    synthesize(STEP, wanted, third, tmp_path / "o", asking=QUICK, shard_items=7)
    assert third.asked == []


def test_the_budget_stops_and_more_goes_on(tmp_path):
    wanted = list(grid("g", topic=[f"t{i}" for i in range(50)]))
    asking = Asking(concurrency=2, max_tokens=100, progress=False)
    fake = Fake()
    with pytest.raises(BudgetSpent, match=r"max_tokens=100; .*answers\.sqlite"):
        synthesize(STEP, wanted, fake, tmp_path / "o", asking=asking)
    assert 10 <= len(fake.asked) <= 11
    with pytest.raises(BudgetSpent):  # counted in the folder, whoever spent it
        synthesize(STEP, wanted, fake, tmp_path / "o", asking=asking)
    assert 10 <= len(fake.asked) <= 11
    report = synthesize(STEP, wanted, fake, tmp_path / "o", asking=QUICK)
    assert (report.written, report.tokens, len(fake.asked)) == (50, 500, 50)


def test_a_writer_that_is_gone_fails_no_items_and_failed_ones_can_be_tried_again(tmp_path):
    wanted = list(grid("g", topic=[f"t{i}" for i in range(50)]))
    with pytest.raises(DataError, match="20 items in a row failed after 4 tries"):
        synthesize(STEP, wanted, Fake(faults=1.0), tmp_path / "o", asking=QUICK)
    assert (tmp_path / "o/journal.jsonl").read_bytes() == b""
    few = wanted[:3]
    report = synthesize(STEP, few, Fake(faults=1.0), tmp_path / "few", asking=QUICK)
    assert (report.written, report.failed) == (0, 3)
    assert synthesize(STEP, few, Fake(), tmp_path / "few", asking=QUICK).failed == 3
    report = synthesize(STEP, few, Fake(), tmp_path / "few", asking=QUICK, retry_failed=True)
    assert (report.written, report.failed) == (3, 0)
    rows = list(read_jsonl(tmp_path / "few/journal.jsonl"))
    assert sorted(row["id"] for row in rows) == sorted(item.id for item in few)


def test_items_that_nobody_ever_answers_end_a_run_of_which_nothing_else_is_left(tmp_path):
    fine, never = [f"t{i}" for i in range(5)], [f"broken {i}" for i in range(50)]
    report = synthesize(STEP, list(grid("g", topic=[*fine, *never])), Fake(), tmp_path / "o",
                        asking=QUICK)  # fmt: skip
    assert (report.written, report.failed) == (5, 50)

    class Gone(Fake):
        def __call__(self, prompt, *, seed=None):
            if len(self.asked) >= 5:
                raise NotNow("status 500")
            return super().__call__(prompt, seed=seed)

    others = list(grid("g", topic=[f"t{i}" for i in range(55)]))
    with pytest.raises(DataError, match="20 items in a row failed"):
        synthesize(STEP, others, Gone(), tmp_path / "gone", asking=QUICK)
    rows = read_jsonl(tmp_path / "gone" / "journal.jsonl")
    assert {row["outcome"] for row in rows} == {"written"}


def test_an_item_that_fails_between_others_is_accounted_for(tmp_path):
    asking = Asking(concurrency=1, tries=1, max_tokens=10**6, progress=False)
    wanted = list(grid("g", topic=["broken", *(f"t{i}" for i in range(9)), "broken too", "t9"]))
    report = synthesize(STEP, wanted, Fake(), tmp_path / "o", asking=asking)
    assert (report.written, report.failed) == (10, 2)


def test_questions_wait_for_the_rate_and_for_what_the_server_says(tmp_path):
    asking = Asking(concurrency=8, max_per_s=100, progress=False)
    wanted = list(grid("g", topic=[f"t{i}" for i in range(40)]))
    began = time.monotonic()
    synthesize(STEP, wanted, Fake(), tmp_path / "o", asking=asking)
    assert 0.28 < time.monotonic() - began < 5

    @dataclass(frozen=True)
    class Busy:
        name: str = "busy"
        asked: list = field(default_factory=list, metadata=NOT_RECORDED)

        def __call__(self, prompt, *, seed=None):
            self.asked.append(time.monotonic())
            if len(self.asked) == 1:
                raise NotNow("status 429", 0.3)
            return Answer(BODY.format(prompt, seed), 1)

    busy = Busy()
    synthesize(STEP, wanted[:1], busy, tmp_path / "busy", asking=QUICK)
    assert busy.asked[1] - busy.asked[0] >= 0.3


def test_another_run_in_the_folder_is_refused(tmp_path):
    synthesize(STEP, items()[:2], Fake(), tmp_path / "o", asking=QUICK)
    for step, wanted, seed in (
        (STEP, items()[:3], 0),
        (WriteText(name="s", template="{topic}?"), items()[:2], 0),
        (STEP, items()[:2], 1),
    ):
        with pytest.raises(RunError, match="holds another run"):
            synthesize(step, wanted, Fake(), tmp_path / "o", seed=seed, asking=QUICK)
    with pytest.raises(RunError, match=r"'a' is there twice"):
        synthesize(STEP, [Item("a"), Item("a")], Fake(), tmp_path / "p", asking=QUICK)
    with pytest.raises(ConfigError, match="tries=0"):
        Asking(tries=0)
    with pytest.raises(ConfigError, match=r"\{topic\}, the item has: no slots"):
        synthesize(STEP, [Item("a")], Fake(), tmp_path / "q", asking=QUICK)


def test_one_process_has_the_folder_at_a_time(tmp_path):
    inside = []

    @dataclass(frozen=True)
    class Again:
        name: str = "again"

        def __call__(self, prompt, *, seed=None):
            with pytest.raises(RunError, match="another process is writing") as error:
                synthesize(STEP, items()[:1], Again(), tmp_path / "o", asking=QUICK)
            inside.append(error)
            return Answer(BODY.format(prompt, seed), 1)

    synthesize(STEP, items()[:1], Again(), tmp_path / "o", asking=QUICK)
    assert len(inside) == 1


@dataclass(frozen=True)
class TwoQuestions:
    """The second question is about the first answer."""

    name: str = "two"

    def ask(self, item, said):
        return [f"first {item.id}", f"then {said[0]}" if said else "", None][len(said)]

    def read(self, item, said):
        if item.id == "b":
            raise Rejected("is b")
        return Document(item.id, said[1])


def test_questions_that_follow_from_answers_are_kept_one_by_one(tmp_path):
    wanted = [Item(name) for name in "abcd"]
    fake = Fake(limit=5)
    with pytest.raises(OSError, match="gone"):
        synthesize(TwoQuestions(), wanted, fake, tmp_path / "o", asking=QUICK)
    again = Fake()
    report = synthesize(TwoQuestions(), wanted, again, tmp_path / "o", asking=QUICK)
    assert (report.written, report.rejected, report.tokens) == (3, {"is b": 1}, 80)
    assert len(again.asked) == 3
    for document in read_shards(tmp_path / "o"):
        assert document.text.count(f"first {document.id}") == 1


def test_a_model_without_seeds_is_a_writer_too(tmp_path):
    @dataclass(frozen=True)
    class Plain:
        name: str = "plain"

        def __call__(self, prompt):
            return Answer(BODY.format(prompt, 0), 7)

    synthesize(STEP, items()[:2], Greedy(Plain()), tmp_path / "o", asking=QUICK)
    assert [row["model"] for row in provenance(tmp_path / "o")] == ["plain", "plain"]


def test_an_error_in_a_step_is_not_hidden_and_loses_no_answer(tmp_path):
    @dataclass(frozen=True)
    class Odd(TwoQuestions):
        def read(self, item, said):
            raise Killed

    fake = Fake()
    with pytest.raises(Killed):
        synthesize(Odd(), [Item("a")], fake, tmp_path / "o", asking=QUICK)
    again = Fake()
    with pytest.raises(Killed):
        synthesize(Odd(), [Item("a")], again, tmp_path / "o", asking=QUICK)
    assert (len(fake.asked), again.asked) == (2, [])


def test_what_is_in_flight_when_a_run_breaks_off_is_kept(tmp_path):
    @dataclass(frozen=True)
    class Breaks:
        name: str = "breaks"

        def ask(self, item, said):
            return None if said else item.id

        def read(self, item, said):
            raise Killed

    @dataclass(frozen=True)
    class Slow:
        name: str = "slow"
        asked: list = field(default_factory=list, metadata=NOT_RECORDED)

        def __call__(self, prompt, *, seed=None):
            self.asked.append(prompt)
            time.sleep(0.3 if prompt == "slow" else 0.05)
            return Answer("said", 1)

    slow = Slow()
    with pytest.raises(Killed):
        synthesize(Breaks(), [Item("quick"), Item("slow")], slow, tmp_path / "o", asking=QUICK)
    assert sorted(slow.asked) == ["quick", "slow"]
    assert KeptAnswers(tmp_path / "o" / "answers.sqlite").tokens == 2


def test_the_lines_of_progress_have_rate_time_left_cost_and_rejects(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("prealign.corpora.synthesis.run.EVERY_S", 0.0)
    asking = Asking(concurrency=1, tries=1, price_per_million=2e5)
    wanted = list(grid("g", topic=["short", "refused", *(f"t{i}" for i in range(9))]))
    synthesize(STEP, wanted, Fake(), tmp_path / "o", asking=asking)
    said = capsys.readouterr().err.splitlines()
    form = re.compile(
        r"s: (\d+) written, 2 rejected \(too short: 1, the writer refuses the question: 1\), "
        r"0 failed, (\d+) left \(\d+\.\d min\); \d+\.\d answers/s, 0 to be tried again, "
        r"(\d+) tokens, cost (\d+\.\d\d)"
    )
    found = [[float(x) for x in match.groups()] for line in said if (match := form.fullmatch(line))]
    assert found
    for written, left, tokens, cost in found:
        assert written + 2 + left == 11
        assert tokens >= 10 * written + 3
        assert cost == round(tokens / 5, 2)
    summary = json.loads((tmp_path / "o/summary.json").read_text())
    assert (summary["items"], summary["written"], summary["tokens"]) == (11, 9, 93)
    assert summary["rejected"] == {"too short": 1, "the writer refuses the question": 1}

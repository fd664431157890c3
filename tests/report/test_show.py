from io import StringIO

import pytest
from rich.console import Console

from prealign.errors import DataError
from prealign.report.show import read_any, show_documents
from prealign.text.document import Document, Span


def shown(document: Document) -> str:
    console = Console(file=StringIO(), width=80, color_system=None)
    show_documents([document], console, limit=5)
    return console.file.getvalue()


def test_every_line_has_its_mode_and_score_without_colours():
    spans = (Span(0, 2, "good", {"s": 0.0}), Span(2, 4, "bad", {"s": 0.25}), Span(4, 6))
    lines = shown(Document("d", "a\nb\nc\n", spans)).splitlines()[1:]
    assert [line.split() for line in lines] == [
        ["1", "good", "0.000", "|", "a"],
        ["2", "bad", "0.250", "|", "b"],
        ["3", "-", "|", "c"],
    ]


def test_a_span_within_a_line_goes_on_with_a_mark():
    spans = (Span(0, 3, "good"), Span(3, 7, "bad"))
    lines = shown(Document("d", "abc def", spans)).splitlines()[1:]
    assert lines[0].endswith("| abc")
    assert lines[1].endswith("+  def")


def test_what_was_not_judged_is_said():
    text = shown(Document("d", "x\n", (Span(0, 2, None, {"s": None}),), problem="line 1: E901"))
    assert "not judged: line 1: E901" in text
    assert "?" in text


def test_markup_in_a_text_is_not_obeyed():
    assert "[bold]x[/bold]" in shown(Document("d", "[bold]x[/bold]\n"))


def test_samples_of_a_run_can_be_shown(one_seed):
    (document,) = read_any(one_seed / "conditional-seed0" / "samples.jsonl")
    assert document.spans[0].mode == "good"
    assert document.id == "good, each line, seed 0"


@pytest.mark.parametrize(
    ("name", "message"),
    [("none.parquet", "there is no such file"), ("x.csv", "unknown suffix '.csv'")],
)
def test_other_files_are_refused(tmp_path, name, message):
    if name == "x.csv":
        (tmp_path / name).write_text("a")
    with pytest.raises(DataError, match=message):
        list(read_any(tmp_path / name))

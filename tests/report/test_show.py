from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from prealign.errors import DataError
from prealign.report.show import read_any, show_documents
from prealign.text.document import Document, Span
from prealign.text.shards import write_shard


def shown(*documents: Document, limit: int = 5, **console_settings) -> str:
    settings = {"color_system": None, "width": 80} | console_settings
    console = Console(file=StringIO(), **settings)
    show_documents(documents, console, limit=limit)
    return console.file.getvalue()


def test_every_line_has_number_mode_and_score_without_colours():
    spans = (Span(0, 2, "good", {"s": 0.0}), Span(2, 4, "bad", {"s": 0.25}), Span(4, 6))
    lines = shown(Document("d", "a\nb\nc\n", spans)).splitlines()[1:]
    assert [line.split() for line in lines] == [
        ["1", "good", "0.000", "|", "a"],
        ["2", "bad", "0.250", "|", "b"],
        ["3", "-", "|", "c"],
    ]
    assert len({line.index("|") for line in lines}) == 1


def test_colours_are_by_mode_and_only_where_there_are_any():
    document = Document("d", "a\nb\n", (Span(0, 2, "good"), Span(2, 4, "bad")))
    coloured = shown(document, color_system="standard", force_terminal=True)
    assert "\x1b[36ma" in coloured
    assert "\x1b[31mb" in coloured
    assert "\x1b" not in shown(document)


def test_a_span_that_begins_within_a_line_goes_on_with_a_plus():
    lines = shown(Document("d", "abc def\nx", (Span(0, 3, "good"), Span(3, 9, "bad")))).splitlines()
    assert lines[1] == "1 good  | abc"
    assert lines[2] == "  bad   +  def"
    assert lines[3] == "2 bad   | x"


@given(st.text(alphabet="a\n\r\x0b\u2028 ", max_size=12))
def test_lines_are_as_many_as_newlines_say(text):
    lines = shown(Document("d", text)).split("\n")[1:-1]
    assert len(lines) == text.count("\n") + (bool(text) and not text.endswith("\n"))


def test_a_long_line_is_neither_cut_nor_wrapped():
    assert "x" * 300 in shown(Document("d", "x" * 300))


def test_what_was_not_judged_is_said():
    text = shown(Document("d", "x\n", (Span(0, 2, None, {"s": None}),), problem="line 1: E901"))
    assert "not judged: line 1: E901" in text
    assert " ? |" in text


def test_neither_markup_nor_control_characters_are_obeyed():
    text = shown(Document("d\x1b[2J", "[bold]x[/bold]\x1b[31m\n"), force_terminal=True)
    assert "[bold]x[/bold]\u241b[31m" in text
    assert "\x1b[2J" not in text


def test_documents_beyond_the_limit_are_mentioned():
    documents = [Document(f"d{i}", "x\n") for i in range(3)]
    assert "shown: the first 2; there are more" in shown(*documents, limit=2)
    assert "there are more" not in shown(*documents, limit=3)


def test_samples_of_a_run_can_be_shown(one_seed):
    (document,) = read_any(one_seed / "conditional-seed0" / "samples.jsonl")
    assert document.id == "good, each line, seed 7, score 0.5"
    assert document.spans[0].mode == "good"


def test_a_shard_can_be_shown(tmp_path):
    document = Document("d", "a\nb\n", (Span(0, 2, "good", {"s": 0.5}), Span(2, 4, "bad")))
    document = document.with_modes(["bad", "good"])
    spans = tuple(Span(s.start_char, s.end_char, s.mode, {"s": 0.5}) for s in document.spans)
    stored = Document("d", "a\nb\n", spans, "source")
    write_shard(tmp_path / "a.parquet", [stored], {})
    assert list(read_any(tmp_path / "a.parquet")) == [stored]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.parquet", None, r"none\.parquet: there is no such file"),
        ("x.csv", "a", r"x\.csv: has the suffix '\.csv', allowed"),
        ("evals.jsonl", '{"metric": 1}\n', r"evals\.jsonl:1: has no 'text'"),
        (
            "samples.jsonl",
            '{"condition": "c", "text": "ab", "findings": [], "score": null, "spans": '
            '[{"start": 1, "end": 2, "mode": null}]}\n',
            r"samples\.jsonl:1: document .* spans must tile",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        list(read_any(tmp_path / name))

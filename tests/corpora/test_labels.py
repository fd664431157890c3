"""Texts with labels: what a row becomes, and what is said of rows that are wrong."""

import gzip

import pytest

from prealign.corpora.labels import Labelled
from prealign.errors import ConfigError, DataError


def rows(path, content, **settings):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(Labelled(path=path, **settings)())


def scores(documents):
    return [document.spans[0].scores["label"] for document in documents]


def test_named_labels_are_bad_and_all_others_good(tmp_path):
    content = 'text,label\nhello,2\n"two\nlines, ""quoted""",0\ncaf\u00e9, 1 \n'
    found = rows(tmp_path / "a.csv", content, bad=("0", "1"))
    assert [d.text for d in found] == ["hello", 'two\nlines, "quoted"', "caf\u00e9"]
    assert scores(found) == [0, 1, 1]
    assert [d.id for d in found] == ["a.csv:2", "a.csv:4", "a.csv:5"]
    assert all(d.source == d.id for d in found)


def test_without_them_the_column_holds_numbers(tmp_path):
    found = rows(tmp_path / "a.tsv", "t\ts\nx\t0.25\ny\t-1e-3\n", text="t", label="s")
    assert scores(found) == [0.25, -0.001]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_are_rows_too(tmp_path, name):
    content = b'{"text": "x", "label": true}\n\n{"text": "y", "label": false, "more": 1}\n'
    content = gzip.compress(content) if name.endswith("gz") else content
    found = rows(tmp_path / name, content, bad=("True",))
    assert scores(found) == [1, 0]
    assert [d.id for d in found] == [f"{name}:1", f"{name}:3"]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    assert scores(rows(tmp_path / "a.csv", "\ufefftext,label\nx,1\n")) == [1]


def test_an_empty_text_has_no_span(tmp_path):
    (found,) = rows(tmp_path / "a.csv", "text,label\n,1\n")
    assert (found.text, found.spans) == ("", ())


@pytest.mark.parametrize(
    ("name", "content", "settings", "said"),
    [
        ("a.csv", "text,label\nx,1\ny\n", {}, r"a\.csv:3: has no 'label' \(it has: text, label\)"),
        ("a.csv", "body,label\nx,1\n", {}, r"a\.csv:2: has no 'text' \(it has: body, label\)"),
        ("a.csv", "text,label\nx,bad\n", {}, r":2: 'label' is 'bad'; expected a number, or name"),
        ("a.csv", "text,label\nx,nan\n", {}, "expected a number"),
        ("a.csv", "text,label\nx,1\n", {"bad": ("7",)}, "no row is labelled 7; labels .* are: 1"),
        ("a.csv", "text,label\n", {}, "has no rows"),
        ("a.csv", b"text,label\n\xff,1\n", {}, "is not UTF-8"),
        ("a.csv", 'text,label\n"x"y,1\n', {}, "cannot be read"),
        ("a.jsonl", '{"text": 3, "label": 1}\n', {}, r":1: 'text' is 3; expected a string"),
        ("a.jsonl", "[1]\n", {}, r":1: is a list; expected an object"),
        ("a.jsonl", "{\n", {}, r":1: not JSON"),
        ("a.jsonl.gz", b"no gzip", {}, "cannot be read"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, name, content, settings, said):
    with pytest.raises(DataError, match=said):
        rows(tmp_path / name, content, **settings)


def test_a_file_must_be_there_and_of_a_known_kind(tmp_path):
    with pytest.raises(DataError, match="is not there"):
        list(Labelled(path=tmp_path / "none.csv")())
    with pytest.raises(ConfigError, match=r"cannot tell how to read it; allowed: .*\.csv"):
        Labelled(path=tmp_path / "a.xlsx")

"""Readers: every document once, in a fixed order, or an error with file and line."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prealign.corpora.rejects import Rejects
from prealign.corpora.source import (
    Folder,
    JsonLines,
    ParquetFiles,
    PythonSource,
    TextFiles,
    read_path,
)
from prealign.errors import ConfigError, DataError
from prealign.text.document import Document, Span
from prealign.text.shards import write_shard


def test_the_standard_library_is_read_in_order_with_relative_ids():
    documents = list(PythonSource(packages=False)())
    by_id = {d.id: d for d in documents}

    assert len(by_id) == len(documents) > 300
    assert by_id["stdlib/json/decoder.py"].source == "stdlib/json"
    assert by_id["stdlib/ast.py"].source == "stdlib/ast"
    assert by_id["stdlib/json/decoder.py"].text == Path(json.decoder.__file__).read_text()
    assert all(d.id.startswith("stdlib/") and not d.spans for d in documents)
    assert not any("site-packages" in d.id or "/test" in d.id for d in documents)
    assert [d.id for d in PythonSource(packages=False)()] == [d.id for d in documents]


def test_packages_and_tests_are_read_where_asked_for():
    one = next(d for d in PythonSource(stdlib=False)() if d.source == "hypothesis")
    assert one.id.startswith("hypothesis/")
    tests = (d.id for d in PythonSource(packages=False, include_tests=True)())
    assert any("/test_" in id for id in tests)


def test_single_sources_are_read_where_they_are_named():
    only = ("stdlib/json", "hypothesis")
    sources = [d.source for d in PythonSource(only=only)()]
    assert list(dict.fromkeys(sources)) == list(only)
    with pytest.raises(DataError, match=r"no Python source here is of stdlib/jsom; name packages"):
        list(PythonSource(only=("stdlib/jsom",))())


def test_a_folder_gives_its_matching_files_at_any_depth(tmp_path):
    root = tmp_path / "repo"
    (root / "b" / "c").mkdir(parents=True)
    (root / "b" / "__pycache__").mkdir()
    for name in ("z.py", "b/two.py", "b/c/one.py", "b/skip.txt", "b/__pycache__/x.py"):
        (root / name).write_bytes(f"# {name}\r\n".encode())

    documents = list(Folder(root)())

    assert [(d.id, d.source) for d in documents] == [
        ("repo/z.py", "repo/z.py"),
        ("repo/b/two.py", "repo/b"),
        ("repo/b/c/one.py", "repo/b"),
    ]
    assert documents[0].text == "# z.py\r\n"
    with pytest.raises(DataError, match=r"repo: holds no file '\*\.rs'"):
        list(Folder(root, "*.rs")())
    with pytest.raises(DataError, match="nowhere: is not there"):
        list(Folder(tmp_path / "nowhere")())


def test_a_file_that_is_not_utf8_is_not_lost(tmp_path):
    (tmp_path / "x.py").write_bytes(b"# caf\xe9\n")

    (document,) = TextFiles((tmp_path / "x.py",))()

    assert document.text == "# caf\udce9\n"


def test_two_files_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text("x")
    with pytest.raises(DataError, match=r"another file is called 'x\.txt' too"):
        list(TextFiles((tmp_path / "a/x.txt", tmp_path / "b/x.txt"))())


def test_json_lines_are_read_plain_or_gzipped(tmp_path):
    data = b'{"text": "a"}\n\n{"text": "b", "id": 7, "source": "s"}'
    (tmp_path / "n.jsonl").write_bytes(data)
    (tmp_path / "n.jsonl.gz").write_bytes(gzip.compress(data))

    assert list(read_path(tmp_path / "n.jsonl")) == [
        Document("n.jsonl:1", "a", (), "n.jsonl"),
        Document("7", "b", (), "s"),
    ]
    assert [d.text for d in read_path(tmp_path / "n.jsonl.gz")] == ["a", "b"]


BAD_LINES = [
    (b'{"text": "a"', "not JSON (Expecting ',' delimiter, column 13): '{\"text\": \"a\"'; "
     "expected one object"),
    (b'["a"]', "is a list; expected an object"),
    (b'{"body": "a"}', "has no field 'text' (it has: body)"),
    (b'{"text": 3}', "field 'text' is a int; expected a string"),
    (b'{"text": "a\\ud800"}', "field 'text' has a lone surrogate at character 1"),
    (b'{"text": "\xe9"}', "byte 10 is not UTF-8; write the file as UTF-8"),
    (b"[" * 100_000, "nests too deep to be read as JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "complaint"), BAD_LINES)
def test_a_bad_line_is_named_by_file_and_line(tmp_path, line, complaint):
    path = tmp_path / "notes.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b'\n{"text": "too"}\n')

    with pytest.raises(DataError) as caught:
        list(JsonLines(path=path)())
    assert str(caught.value) == f"{path}:2: {complaint}"

    rejects = Rejects()
    documents = list(JsonLines(path=path, on_bad="collect")(rejects))
    assert [d.text for d in documents] == ["fine", "too"]
    assert rejects.samples == {"bad line": [f"notes.jsonl:2: {complaint}"]}


def test_fields_that_are_asked_for_must_be_there(tmp_path):
    path = tmp_path / "n.jsonl"
    path.write_text('{"body": "a", "name": "x"}\n')

    (document,) = JsonLines(path=path, text_field="body", id_field="name")()
    assert (document.id, document.text) == ("x", "a")
    with pytest.raises(DataError, match=r"n\.jsonl:1: has no field 'from'"):
        list(JsonLines(path=path, text_field="body", source_field="from")())
    with pytest.raises(ConfigError, match="call the reader with a Rejects"):
        list(JsonLines(path=path, on_bad="collect")())


def test_a_cut_gzip_file_is_named_with_the_line(tmp_path):
    path = tmp_path / "n.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 5)[:-9])

    with pytest.raises(DataError, match=r"n\.jsonl\.gz:\d: cannot be read"):
        list(JsonLines(path=path)())


def test_parquet_files_are_read_by_column(tmp_path):
    pq.write_table(pa.table({"text": ["a", "b"], "who": ["x", "y"]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"text": ["c"], "id": ["i"], "who": ["z"]}), tmp_path / "c.parquet")

    documents = list(ParquetFiles(path=tmp_path, source_column="who")())

    assert [(d.id, d.text, d.source) for d in documents] == [
        ("b.parquet:1", "a", "x"),
        ("b.parquet:2", "b", "y"),
        ("i", "c", "z"),
    ]
    with pytest.raises(DataError, match=r"b\.parquet: has no column 'body' \(it has: text, who\)"):
        list(ParquetFiles(path=tmp_path / "b.parquet", text_column="body")())
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"d\.parquet: row 2: column 'text' is None"):
        list(ParquetFiles(path=tmp_path / "d.parquet")())


def test_shards_are_read_as_documents_without_spans(tmp_path):
    scored = Document("d", "x", (Span(0, 1, "bad", {"p": 1.0}),), "s", "a problem")
    write_shard(tmp_path / "part-00000.parquet", [scored], {})

    assert list(read_path(tmp_path)) == [Document("d", "x", (), "s")]


def test_what_cannot_be_read_is_refused_with_what_can(tmp_path):
    (tmp_path / "x.docx").write_text("x")
    (tmp_path / "x.parquet").write_text("x")

    with pytest.raises(DataError, match=r"x\.docx: cannot tell how .*allowed: .*\.jsonl\.gz"):
        read_path(tmp_path / "x.docx")
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read as Parquet"):
        list(read_path(tmp_path / "x.parquet"))
    with pytest.raises(DataError, match="is not there"):
        read_path(tmp_path / "y.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.py, \.md, \.txt or \.parquet"):
        read_path(tmp_path / "empty")

"""Shards: what goes in comes out, and what cannot is refused by name."""

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prealign.errors import DataError
from prealign.text.document import Document, Span
from prealign.text.shards import KEY, read_header, read_shard, read_shards, write_shard

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCORE = st.none() | st.floats(allow_nan=False, allow_infinity=False)
MODE = st.none() | st.sampled_from(["good", "bad", "a.b"])


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Return a document with spans, whose scorers were asked for all of its spans or none."""
    pieces = draw(st.lists(TEXT, max_size=4))
    asked = draw(st.sets(st.sampled_from(["p", "q", "x.y"])))
    spans, at = [], 0
    for piece in pieces:
        scores = {name: draw(SCORE) for name in sorted(asked)}
        spans.append(Span(at, at + len(piece), draw(MODE), scores, draw(st.booleans())))
        at += len(piece)
    problem = draw(st.none() | TEXT)
    return Document(draw(TEXT), "".join(pieces), tuple(spans), draw(TEXT), problem)


@given(st.lists(documents(), max_size=4))
def test_documents_survive_a_shard_exactly(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("shards") / "part-0.parquet"

    write_shard(path, written, {})

    assert list(read_shard(path)) == written


def test_null_and_absent_scores_are_kept_apart(tmp_path):
    asked = Document("a", "x", (Span(0, 1, None, {"p": None}),))
    unasked = Document("b", "x", (Span(0, 1),))

    write_shard(tmp_path / "s.parquet", [asked, unasked], {})
    first, second = read_shard(tmp_path / "s.parquet")

    assert first.spans[0].scores == {"p": None}
    assert second.spans[0].scores == {}


def test_the_header_comes_back_with_the_schema_version(tmp_path):
    header = {"scorers": [{"name": "p", "version": "1", "settings": {"a": [1]}}], "scheme": None}

    write_shard(tmp_path / "s.parquet", [], header)

    assert read_header(tmp_path / "s.parquet") == header | {"schema_version": 1}


def test_shards_are_read_in_the_order_of_their_names_and_the_same_bytes_are_written(tmp_path):
    for name in ("part-00010", "part-00002"):
        write_shard(tmp_path / f"{name}.parquet", [Document(name, "x")], {})
    before = (tmp_path / "part-00010.parquet").read_bytes()
    write_shard(tmp_path / "part-00010.parquet", [Document("part-00010", "x")], {})

    assert [d.id for d in read_shards(tmp_path)] == ["part-00002", "part-00010"]
    assert (tmp_path / "part-00010.parquet").read_bytes() == before
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".parquet", ".parquet"]


@pytest.mark.parametrize("field", ["id", "text", "source", "problem"])
def test_a_lone_surrogate_is_refused_with_the_name_of_the_document(tmp_path, field):
    document = Document(**({"id": "bad one", "text": "x"} | {field: "x\ud800"}))

    with pytest.raises(DataError, match=f"{field} has the lone surrogate") as caught:
        write_shard(tmp_path / "s.parquet", [document], {})

    assert f"document {document.id!r}" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_scores_that_are_not_finite_or_not_given_to_all_spans_are_refused(tmp_path):
    for score in (math.nan, math.inf):
        document = Document("d", "x", (Span(0, 1, None, {"p": score}),))
        with pytest.raises(DataError, match="document 'd', span 0: score 'p' is"):
            write_shard(tmp_path / "s.parquet", [document], {})
    half = Document("d", "xy", (Span(0, 1, None, {"p": 1.0}), Span(1, 2)))
    with pytest.raises(DataError, match="document 'd': span 1 has no score 'p'"):
        write_shard(tmp_path / "s.parquet", [half], {})


def test_files_that_are_no_shards_are_refused_with_what_is_allowed(tmp_path):
    path = tmp_path / "s.parquet"
    table = pa.table({"text": ["x"]})

    pq.write_table(table, path)
    with pytest.raises(DataError, match=r"s\.parquet: has no 'prealign' header"):
        list(read_shard(path))
    pq.write_table(table.replace_schema_metadata({KEY: b'{"schema_version": 7}'}), path)
    with pytest.raises(DataError, match=r"s\.parquet: has schema version 7, allowed: 1"):
        read_header(path)
    pq.write_table(table.replace_schema_metadata({KEY: b'{"schema_version": 1}'}), path)
    with pytest.raises(DataError, match=r"s\.parquet: has no column 'id'"):
        list(read_shard(path))
    path.write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"s\.parquet: cannot be read"):
        read_header(path)
    with pytest.raises(DataError, match="holds no shards"):
        list(read_shards(tmp_path / "none"))

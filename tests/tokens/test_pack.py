"""Packing: equal to a naive reference; arms share text, order and budget."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign.errors import ConfigError, DataError
from prealign.tokens.encode import END, PAD, SCORED, TAG, Encoder
from prealign.tokens.pack import Packed, shuffled_order
from prealign.tokens.shards import TokenShard, untagged, write_tokens
from tests.tokens.documents import CORPUS, lines, vocabulary

INERT = 999


def shard_of(documents):
    """A shard in memory from lists of flags; every other column tells tokens apart."""
    flags = np.array([flag for document in documents for flag in document], dtype=np.uint8)
    count = np.arange(len(flags))
    lengths = [len(document) for document in documents]
    return TokenShard(
        ids=(count % 900).astype(np.uint16),
        mode=(count % 7).astype(np.uint8),
        score=(count * 0.5).astype(np.float32),
        flags=flags,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        document_ids=tuple(f"d{i}" for i in range(len(documents))),
        header={"encoder": {}},
    )


@st.composite
def shards(draw):
    body = st.lists(st.sampled_from([0, SCORED, TAG, TAG | SCORED]), max_size=9)
    return shard_of([[END, *draw(body)] for _ in range(draw(st.integers(1, 6)))])


@st.composite
def packed(draw):
    shard = draw(shards())
    everything = st.permutations(range(shard.num_documents))
    order = np.array(draw(everything)[: draw(st.integers(1, shard.num_documents))])
    epochs = draw(st.integers(1, 3))
    there = int(shard.text_lengths[order].sum()) * epochs
    budget = draw(st.none() | st.integers(1, there)) if there else None
    return Packed(
        shard=shard, order=order, row_tokens=draw(st.integers(1, 12)), inert_id=INERT,
        text_token_budget=budget, epochs=epochs,
    )  # fmt: skip


def naive(data):
    """Token by token: the stream as tuples, then rows of them."""
    stream, text = [], 0
    for nth, document in enumerate([*data.order] * data.epochs):
        for at in range(data.shard.offsets[document], data.shard.offsets[document + 1]):
            if text == data.text_token_budget:
                break
            columns = (data.shard.ids, data.shard.mode, data.shard.score, data.shard.flags)
            stream.append((*(column[at].item() for column in columns), nth))
            text += not stream[-1][3] & (TAG | END)
    rows = []
    for start in range(0, max(len(stream) - 1, 1), data.row_tokens):
        row = stream[start : start + data.row_tokens + 1]
        row = [(*token[:4], token[4] - row[0][4]) for token in row]
        row += [(INERT, 0, 0.0, PAD, row[-1][4])] * (data.row_tokens + 1 - len(row))
        rows.append(row)
    return stream, rows


def as_tuples(rows):
    columns = [column.tolist() for column in rows]
    return [list(zip(*row, strict=True)) for row in zip(*columns, strict=True)]


@settings(max_examples=200, deadline=None)
@given(packed(), st.data())
def test_rows_are_those_of_a_naive_reference(data, more):
    stream, rows = naive(data)
    assert data.num_tokens == len(stream)
    assert data.num_rows == len(rows)
    assert as_tuples(data.rows(range(data.num_rows))) == rows
    chosen = more.draw(st.lists(st.integers(0, len(rows) - 1), max_size=5))
    assert as_tuples(data.rows(chosen)) == [rows[index] for index in chosen]


@settings(max_examples=200, deadline=None)
@given(packed())
def test_text_targets_are_counted_up_to_any_row(data):
    _, rows = naive(data)
    counts = [sum(not token[3] & (TAG | END | PAD) for token in row[1:]) for row in rows]
    found = [data.text_tokens_up_to(row) for row in range(data.num_rows + 1)]
    assert found == [sum(counts[:row]) for row in range(data.num_rows + 1)]
    assert data.num_text_tokens == sum(counts)
    if data.text_token_budget is not None:
        assert data.num_text_tokens == data.text_token_budget


def stream_of(data):
    rows = data.rows(range(data.num_rows))
    ids = np.concatenate([rows.ids[:1, 0], rows.ids[:, 1:].ravel()])
    flags = np.concatenate([rows.flags[:1, 0], rows.flags[:, 1:].ravel()])
    return ids, flags


@settings(max_examples=100, deadline=None)
@given(shards(), st.data())
def test_arms_with_and_without_tags_read_the_same_text_in_the_same_order(shard, more):
    if shard.num_text_tokens == 0:
        shard = shard_of([[END, TAG, 0, 0]])
    budget = more.draw(st.integers(1, shard.num_text_tokens))
    texts = []
    for arm in (shard, untagged(shard)):
        order = shuffled_order(arm.document_ids, seed=1)
        data = Packed(arm, order, row_tokens=5, inert_id=INERT, text_token_budget=budget)
        ids, flags = stream_of(data)
        texts.append(ids[(flags & (TAG | END | PAD)) == 0].tolist())
    assert texts[0] == texts[1]
    assert len(texts[0]) == budget


def test_rows_from_disk_are_those_from_memory(tmp_path):
    documents = [lines(f"d{i}", text) for i, text in enumerate([*CORPUS, "", "x"])]
    encoder = Encoder(vocabulary=vocabulary(), score="s")
    mapped = write_tokens(tmp_path / "a", documents, encoder)
    columns = {n: np.concatenate([getattr(e, n) for e in encoder(documents)]) for n in
               ("ids", "mode", "score", "flags")}  # fmt: skip
    memory = TokenShard(
        **columns, offsets=mapped.offsets, document_ids=mapped.document_ids, header={}
    )
    order = shuffled_order(mapped.document_ids, 0)
    for budget in (None, 100):
        one, two = (
            Packed(shard, order, row_tokens=16, inert_id=INERT, text_token_budget=budget)
            for shard in (mapped, memory)
        )
        assert as_tuples(one.rows(range(one.num_rows))) == as_tuples(two.rows(range(two.num_rows)))
        assert [c.dtype for c in one.rows([0])] == [c.dtype for c in two.rows([0])]
    kinds = [np.int64, np.uint8, np.float32, np.uint8, np.int32]
    assert [c.dtype for c in one.rows([0])] == kinds


def test_rows_behind_the_last_are_padding():
    data = Packed(shard_of([[END, 0, 0, 0, 0]]), np.array([0]), row_tokens=2, inert_id=INERT)
    assert data.num_rows == 2
    rows = data.rows([2, 0, 50])
    assert rows.ids.tolist() == [[INERT] * 3, [0, 1, 2], [INERT] * 3]
    assert rows.flags.tolist() == [[PAD] * 3, [END, 0, 0], [PAD] * 3]
    assert data.rows([]).ids.shape == (0, 3)
    with pytest.raises(DataError, match="row -1"):
        data.rows([0, -1])


def test_rows_can_be_changed_without_changing_the_shard():
    data = Packed(shard_of([[END, 0, 0]]), np.array([0]), row_tokens=2, inert_id=INERT)
    data.rows([0]).ids[:] = 7
    assert data.rows([0]).ids.tolist() == [[0, 1, 2]]


def test_a_budget_beyond_the_text_is_refused_with_numbers():
    shard = shard_of([[END, TAG, 0, 0, 0], [END, 0, 0]])
    order = np.array([1, 0])
    with pytest.raises(DataError, match=r"budget=12: .* 5 text tokens, 10 in 2 epochs.* epochs=3"):
        Packed(shard, order, row_tokens=2, inert_id=INERT, text_token_budget=12, epochs=2)
    data = Packed(shard, order, row_tokens=2, inert_id=INERT, text_token_budget=12, epochs=3)
    assert data.num_text_tokens == 12
    assert data.num_tokens == 2 * (3 + 5) + 3
    with pytest.raises(DataError, match=r"0 text tokens, 0 in 1 epochs; .* a smaller budget$"):
        Packed(shard_of([[END]]), np.array([0]), 2, INERT, text_token_budget=1)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"row_tokens": 0}, ConfigError, "row_tokens=0"),
        ({"epochs": 0}, ConfigError, "epochs=0"),
        ({"text_token_budget": 0}, ConfigError, "text_token_budget=0"),
        ({"order": np.array([0, 2])}, DataError, "from 0 to 2, the shard has documents 0 to 1"),
        ({"order": np.array([-1])}, DataError, "from -1"),
        ({"order": np.array([1, 0, 1])}, DataError, "document 1 twice"),
        ({"order": np.array([], dtype=np.int64)}, DataError, "give indices"),
        ({"order": np.array([0.0])}, DataError, "float64; give indices"),
    ],
)
def test_settings_that_make_no_stream_are_refused(changes, error, said):
    shard = shard_of([[END, 0], [END, 0]])
    fields = {"shard": shard, "order": np.array([0, 1]), "row_tokens": 2, "inert_id": INERT}
    with pytest.raises(error, match=said):
        Packed(**(fields | changes))


def test_there_are_no_text_counts_for_rows_that_are_not_there():
    data = Packed(shard_of([[END, 0, 0]]), np.array([0]), row_tokens=2, inert_id=INERT)
    for row in (-1, 2):
        with pytest.raises(DataError, match=f"row {row}: there are 1 rows"):
            data.text_tokens_up_to(row)


@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=4), unique=True),
    st.integers(),
    st.data(),
)
def test_documents_that_two_shards_share_come_in_the_same_order(names, seed, more):
    some = more.draw(st.permutations(names))[: len(names) // 2]
    ordered = [names[i] for i in shuffled_order(names, seed)]
    assert sorted(ordered) == sorted(names)
    assert [some[i] for i in shuffled_order(some, seed)] == [n for n in ordered if n in set(some)]


def test_orders_of_two_seeds_are_unrelated():
    names = [str(i) for i in range(2000)]
    first, second = shuffled_order(names, 0), shuffled_order(names, 1)
    assert first.dtype == np.int64
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(2000)
    assert abs(np.corrcoef(first, np.arange(2000))[0, 1]) < 4 / math.sqrt(2000)
    assert shuffled_order(["same", "same"], 0).tolist() == [0, 1]

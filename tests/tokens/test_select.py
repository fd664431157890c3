"""Filtering, phases and hidden spans, against what can be counted by hand."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prealign.errors import ConfigError, DataError
from prealign.tokens.encode import END, PAD, SCORED, TAG
from prealign.tokens.pack import Packed
from prealign.tokens.select import Hidden, best_documents, document_scores, stretches
from prealign.tokens.shards import TokenShard

INERT = 99


def shard_of(*documents):
    """A shard in memory; a document is a list of (flags, score), its end of text is added."""
    tokens = [[(END, 0.0), *document] for document in documents]
    flat = [token for document in tokens for token in document]
    return TokenShard(
        ids=np.arange(len(flat)).astype(np.uint16),
        mode=np.zeros(len(flat), dtype=np.uint8),
        score=np.array([score for _, score in flat], dtype=np.float32),
        flags=np.array([flag for flag, _ in flat], dtype=np.uint8),
        offsets=np.cumsum([0, *(len(document) for document in tokens)]).astype(np.int64),
        document_ids=tuple(str(i) for i in range(len(documents))),
        header={},
    )


def text(*scores):
    return [(SCORED, score) for score in scores]


def whole(shard):
    return np.arange(shard.num_documents)


def test_a_document_scores_the_mean_of_its_text_tokens():
    shard = shard_of([(TAG | SCORED, 9.0), *text(0.5, 0.0), (0, 0.0)], text(0.25), [(0, 0.0)], [])
    scores = document_scores(shard)
    assert scores.mean.tolist() == [0.25, 0.25, 0, 0]
    assert scores.judged.tolist() == [True, True, False, False]


def test_the_best_documents_are_kept_in_their_order_and_the_unjudged_left_out():
    shard = shard_of(text(0.4), text(0.1), [(0, 0.0)], text(0.3), text(0.2))
    order = np.array([4, 3, 2, 1, 0])
    assert best_documents(shard, order, 0.5).tolist() == [4, 1]
    assert best_documents(shard, order, 1.0).tolist() == [4, 3, 1, 0]
    assert best_documents(shard, order, 0.01).tolist() == [1]
    assert best_documents(shard, order[:2], 0.5).tolist() == [4]


def test_of_equal_documents_all_are_kept():
    shard = shard_of(text(0.0), text(0.0), text(0.0), text(1.0))
    assert best_documents(shard, whole(shard), 0.25).tolist() == [0, 1, 2]


def test_filtering_needs_scores_and_a_share():
    shard = shard_of([(0, 0.0)])
    with pytest.raises(DataError, match="no document has a score"):
        best_documents(shard, whole(shard), 0.5)
    with pytest.raises(ConfigError, match="more than 0, and 1 at most"):
        best_documents(shard, whole(shard), 0.0)


def test_phases_end_with_the_document_that_reaches_their_share():
    shard = shard_of(*(text(*[0.0] * n) for n in (3, 4, 2, 5)))
    order = np.array([1, 0, 3, 2])  # 4, 7, 12, 14 text tokens
    first, second = stretches(shard, order, 12, [0.5, 1])
    assert (first.order.tolist(), first.text_tokens) == ([1, 0], 7)
    assert (second.order.tolist(), second.text_tokens) == ([3], 5)
    (only,) = stretches(shard, order, 99, [1])
    assert only.text_tokens == 99


@given(st.lists(st.integers(1, 9), min_size=4, max_size=30), st.data())
def test_phases_read_together_what_one_would(lengths, data):
    shard = shard_of(*(text(*[0.0] * n) for n in lengths))
    order = np.array(data.draw(st.permutations(range(len(lengths)))))
    budget = data.draw(st.integers(1, 3 * sum(lengths)))
    shares = sorted({data.draw(st.floats(0.05, 0.95)) for _ in range(2)})

    def read(order, budget):
        packed = Packed(
            shard=shard, order=order, row_tokens=5, inert_id=INERT, text_token_budget=budget,
            epochs=3,
        )  # fmt: skip
        rows = packed.rows(range(packed.num_rows))
        # Every token but a stream's first is a target once.
        return [rows.ids[0, 0], *rows.ids[:, 1:][rows.flags[:, 1:] != PAD]]

    try:
        parts = stretches(shard, order, budget, [*shares, 1])
    except DataError:  # a phase without a document of its own; the next test has one
        assume(False)
    assert [part.part for part in parts] == sorted(part.part for part in parts)
    assert {part.part for part in parts} == set(range(len(shares) + 1))
    assert sum(part.text_tokens for part in parts) == budget
    assert all(len(set(part.order)) == len(part.order) for part in parts)
    assert [i for part in parts for i in read(*part[1:])] == read(order, budget)
    for number, share in enumerate(shares):
        done = sum(part.text_tokens for part in parts if part.part <= number)
        assert share * budget <= done < share * budget + 9


def test_a_phase_that_would_have_no_document_is_refused():
    shard = shard_of(text(*[0.0] * 9), text(0.0))
    with pytest.raises(DataError, match="one of them has no document of its own"):
        stretches(shard, whole(shard), 10, [0.1, 0.2, 1])


@pytest.mark.parametrize("shares", [[], [0.5], [0.5, 0.5, 1], [0.6, 0.4, 1], [0.0, 1], [1, 1]])
def test_shares_of_phases_rise_to_1(shares):
    shard = shard_of(text(0.0))
    with pytest.raises(ConfigError, match="shares that rise from 0 to 1"):
        stretches(shard, whole(shard), 1, shares)


def test_a_phase_that_goes_on_when_the_order_begins_anew_is_two_stretches():
    shard = shard_of(text(0.0, 0.0), text(0.0, 0.0), text(0.0))
    order = np.array([2, 0, 1])
    # Of 12 text tokens the first part has 6 at least: all five, then document 2 once more.
    parts = stretches(shard, order, 12, [0.5, 1])
    assert [(part.part, part.order.tolist(), part.text_tokens) for part in parts] == [
        (0, [2, 0, 1], 5), (0, [2], 1), (1, [0, 1], 4), (1, [2, 0], 2),
    ]  # fmt: skip
    with pytest.raises(DataError, match="have no text"):
        stretches(shard_of([], []), np.array([0, 1]), 3, [0.5, 1])


def test_hidden_text_is_no_target_and_cannot_be_read():
    shard = shard_of(
        [(TAG | SCORED, 0.5), *text(0.5, 0.5), (TAG | SCORED, 0), *text(0.0), (0, 0.9)]
    )
    rows = Hidden(
        Packed(shard=shard, order=whole(shard), row_tokens=6, inert_id=INERT), max_good=0.1
    ).rows([0, 1])
    # End, bad tag, two hidden, good tag, good text, text that nothing judged.
    assert rows.ids[0].tolist() == [0, 1, INERT, INERT, 4, 5, 6]
    assert rows.flags[0].tolist() == [END, TAG | SCORED, PAD, PAD, TAG | SCORED, SCORED, 0]
    assert (rows.flags[1] == PAD).all()

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prealign.tokens.encode import END, PAD, SCORED, TAG
from prealign.tokens.pack import PackedRows
from prealign.train.batches import data_identity, make_batch, num_steps, rows_of_step
from tests.train.fakes import FakeRows

CPU = torch.device("cpu")


@given(st.integers(1, 200), st.integers(1, 20))
def test_the_steps_read_every_row_once_and_nothing_else_but_padding(num_rows, batch_rows):
    data = FakeRows(num_rows=num_rows, row_tokens=2)
    steps = num_steps(data, batch_rows)
    read = [row for step in range(steps) for row in rows_of_step(step, steps, batch_rows)]
    assert len(read) == steps * batch_rows < num_rows + batch_rows * max(1, steps)
    assert sorted(row for row in read if row < num_rows) == list(range(num_rows))


def test_a_stretch_of_the_stream_is_read_in_order_by_one_place_of_the_batch():
    assert [rows_of_step(step, 3, 2) for step in range(3)] == [[0, 3], [1, 4], [2, 5]]


def test_targets_are_the_next_tokens_and_each_is_of_one_kind():
    packed = PackedRows(
        ids=np.array([[7, 8, 1, 2, 9]]),
        mode=np.array([[0, 2, 2, 2, 0]], dtype=np.uint8),
        score=np.array([[0, 0.5, 0.5, 0, 0]], dtype=np.float32),
        flags=np.array([[END, TAG | SCORED, SCORED, 0, PAD]], dtype=np.uint8),
        document=np.array([[0, 0, 0, 0, 0]], dtype=np.int32),
    )
    batch = make_batch(packed, CPU)
    assert batch.ids_BL.tolist() == [[7, 8, 1, 2]]
    assert batch.targets_BL.tolist() == [[8, 1, 2, 9]]
    assert batch.tag_BL.tolist() == [[True, False, False, False]]
    assert batch.text_BL.tolist() == [[False, True, True, False]]
    assert batch.end_BL.tolist() == [[False] * 4]
    assert batch.mode_BL.tolist() == [[2, 2, 2, 0]]
    assert batch.score_BL.tolist() == [[0.5, 0.5, 0.0, 0.0]]
    assert batch.scored_BL.tolist() == [[True, True, False, False]]
    assert batch.value_BL is None
    assert all(t.is_contiguous() for t in batch[:-1])


def test_an_end_of_text_is_a_target_but_no_text():
    packed = FakeRows(num_rows=30).rows(list(range(30)))
    batch = make_batch(packed, CPU)
    assert batch.end_BL.any()
    assert torch.equal(batch.end_BL, torch.from_numpy((packed.flags[:, 1:] & END) != 0))
    kinds_BL = batch.text_BL.int() + batch.tag_BL.int() + batch.end_BL.int()
    assert (kinds_BL == 1).all()


@pytest.mark.parametrize("other", [FakeRows(seed=1), FakeRows(num_rows=41), FakeRows(row_tokens=8)])
def test_other_data_is_told_apart(other):
    assert data_identity(FakeRows()) == data_identity(FakeRows())
    assert data_identity(other) != data_identity(FakeRows())

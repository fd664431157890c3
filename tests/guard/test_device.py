import math

import pytest
import torch
from cases import all_cases

from prealign.errors import GuardError
from prealign.guard.device import REFUSED, DeviceGuard
from prealign.guard.gate import Guard
from prealign.guard.table import run_of

LIMITED = next(case.table for case in all_cases(large=False) if case.table.counts)
"""Ids 0 to 255 are text, 256 ends, <human> is 257, <ai> 259, <quote> 261; the last are padding."""


@pytest.fixture
def guard():
    return DeviceGuard(LIMITED, "cpu")


def states(*prompts, policy="lock ai, 5"):
    start = LIMITED.start(policy)
    return torch.tensor([LIMITED.scan(prompt, start) for prompt in prompts])


def test_masks_are_those_of_the_guard_and_leave_allowed_logits(guard):
    states_B = states([259], [259, 261], [259, 261, *[7] * 5], [259, 260], [257])
    logits = torch.randn(5, LIMITED.ids.size, generator=torch.Generator().manual_seed(0))
    want = Guard(LIMITED).mask(logits.clone(), states_B.tolist())
    assert (guard.mask_(logits, states_B) == want).all()
    assert logits.isneginf().sum(1).tolist() == (
        [(~LIMITED.allowed(state)).sum() for state in states_B.tolist()]
    )


def test_a_nan_that_is_denied_does_not_stay(guard):
    logits = torch.full((2, LIMITED.ids.size), math.nan)
    guard.mask_(logits, states([259], [259, 260]))
    assert logits[0].isnan().sum() == 256 + 3  # text, <quote>, </ai>, the end
    assert logits[1].isnan().nonzero().tolist() == [[256]]


def test_text_in_a_row_is_counted_and_a_tag_ends_it(guard):
    states_B = states([259, 261])
    for run in range(1, 6):
        states_B = guard.step(states_B, torch.tensor([65]))
        assert run_of(states_B.item()) == run
    assert guard.step(states_B, torch.tensor([65])).item() == REFUSED
    assert guard.step(states_B, torch.tensor([65]), torch.tensor([False])).item() != REFUSED
    behind = guard.step(states_B, torch.tensor([262]))
    assert torch.equal(behind, states([259]))


@pytest.mark.parametrize("token", [-1, 10**6, 257, 256 + 7])
def test_a_refused_row_stays_refused_and_may_write_nothing(guard, token):
    states_B = guard.step(states([259], [259]), torch.tensor([token, 65]))
    assert (states_B < 0).tolist() == [True, False]
    with pytest.raises(GuardError, match=r"rows \[0\] have an id"):
        guard.check(states_B)
    logits = guard.mask_(torch.zeros(2, LIMITED.ids.size), states_B)
    assert logits[0].isneginf().all()
    assert logits[1].isfinite().any()
    states_B = guard.step(states_B, torch.tensor([65, 65]), torch.tensor([False, True]))
    assert (states_B < 0).tolist() == [True, False]
    guard.check(states_B[1:])


@pytest.mark.parametrize("logits", [torch.zeros(1, 5), torch.zeros(1, 325, dtype=torch.float64)])
def test_logits_of_another_width_or_type_are_refused(guard, logits):
    with pytest.raises(GuardError, match=rf"float32, 1 rows and {LIMITED.ids.size} ids"):
        guard.mask_(logits, torch.tensor([0]))


@pytest.mark.parametrize("ids", [[65], [[65, 65]], [65, 65, 65]])
def test_ids_and_states_must_be_as_many(guard, ids):
    with pytest.raises(GuardError, match=r"ids of shape .* for states of shape \(2,\)"):
        guard.step(states([259], [259]), torch.tensor(ids))


@pytest.mark.parametrize("own", [[False], False, [[False], [False]]])
def test_a_word_on_one_row_is_none_on_all(guard, own):
    with pytest.raises(GuardError, match=r"by_model_B of shape .* for ids of shape \(2,\)"):
        guard.step(states([259], [259]), torch.tensor([260, 260]), torch.tensor(own))


def test_states_and_ids_are_int64_or_refused(guard):
    """In int32 text in a row is not counted, so that no span is ever at its longest."""
    states_B, ids_B = states([259, 261]), torch.tensor([65])
    for kind in (torch.int32, torch.float32):
        with pytest.raises(GuardError, match=f"states of type {kind}: expected int64"):
            guard.step(states_B.to(kind), ids_B)
        with pytest.raises(GuardError, match=f"states of type {kind}: expected int64"):
            guard.mask_(torch.zeros(1, LIMITED.ids.size), states_B.to(kind))
    for kind in (torch.int32, torch.uint8, torch.bool):
        with pytest.raises(GuardError, match=f"ids of type {kind}: expected int64"):
            guard.step(states_B, ids_B.to(kind))


def test_nothing_is_copied_to_the_host(guard):
    """Tensors on the meta device have no values: an operation that needed one would raise."""
    away = DeviceGuard(LIMITED, "cpu")
    for name, value in vars(away).items():
        if isinstance(value, torch.Tensor):
            setattr(away, name, value.to("meta"))
    states_B = torch.zeros(3, dtype=torch.int64, device="meta")
    logits = torch.zeros(3, LIMITED.ids.size, device="meta")
    assert away.mask_(logits, states_B).is_meta
    assert away.step(states_B, states_B, states_B > 0).is_meta

import math

import numpy as np
import pytest
import torch

from prealign.errors import GuardError
from prealign.guard.gate import Guard
from prealign.guard.policy import Policy, reemit, stay
from prealign.models.choose import choose, uniforms
from prealign.models.fake import BiasedModel
from prealign.models.sample import Sampling, sample

PATHS = {
    "greedy": Sampling(temperature=0, max_text_tokens=8),
    "drawn": Sampling(temperature=1, top_p=1, max_text_tokens=8),
    "nucleus": Sampling(temperature=0.7, top_p=0.5, max_text_tokens=8),
    "cold": Sampling(temperature=1e-5, top_p=1, max_text_tokens=8),
    "hot": Sampling(temperature=3e38, top_p=0.99, max_text_tokens=8),
}
TINY = Policy(name="tiny", denied=(1, 3), labels=("<a>", "<b>"), size=4, vocabulary="0")


def write(model, vocabulary, settings, guard, *, rows=1, force=None):
    return sample(
        model, [[vocabulary.end_id]] * rows, settings, seeds=range(rows), vocabulary=vocabulary,
        hook=guard.hook, gate=guard.gate, force=force,
    )  # fmt: skip


def rows_of(*logits):
    return torch.tensor(logits), torch.zeros(len(logits), dtype=torch.int64)


def test_the_mask_leaves_allowed_logits_and_sets_minus_infinity():
    masked = Guard(TINY).hook(*rows_of([1.0, 9.0, 2.0, 3.0], [0.5, 0.0, -0.5, -7.0]))
    assert masked.tolist() == [[1.0, -math.inf, 2.0, -math.inf], [0.5, -math.inf, -0.5, -math.inf]]


def test_pressure_is_the_probability_of_denied_ids_before_the_mask():
    guard = Guard(TINY)
    third = torch.tensor([[1 / 8, 1 / 2, 1 / 4, 1 / 8], [0.1, 0.2, 0.4, 0.3]]).log()
    guard.hook(third + 5, torch.zeros(2, dtype=torch.int64))  # a shift changes no probability
    guard.hook(*rows_of([0.0, -math.inf, 0.0, -math.inf]))
    guard.hook(*rows_of([0.0, 0.0, -math.inf, 1e4]))
    assert guard.pressure().tolist() == pytest.approx([5 / 8, 0.5, 0.0, 1.0], abs=1e-6)


def test_pressure_is_the_distance_between_guarded_and_unguarded_distributions():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    guard = Guard(TINY)
    before = logits.softmax(-1)
    after = guard.hook(logits.clone(), torch.zeros(3, dtype=torch.int64)).softmax(-1)
    assert guard.pressure().tolist() == pytest.approx(((before - after).abs().sum(-1) / 2).tolist())


def test_pressure_before_any_step_is_empty():
    assert Guard(TINY).pressure().tolist() == []


def test_the_odds_of_allowed_ids_are_as_they_were(vocabulary):
    n, size = 60_000, vocabulary.size
    logits = torch.randn(size, generator=torch.Generator().manual_seed(4))
    logits[vocabulary.open_id("bad")] = 4.0
    guard = Guard(stay(vocabulary))
    masked = guard.hook(logits.repeat(n, 1), torch.zeros(n, dtype=torch.int64))
    u_B = torch.from_numpy(uniforms([1] * n, range(n)))
    counts = torch.bincount(choose(masked, u_B), minlength=size).double()
    allowed = torch.ones(size, dtype=torch.bool)
    allowed[list(guard.policy.denied)] = False
    assert counts[~allowed].sum() == 0
    wanted = logits.double().softmax(0)[allowed]
    expected = wanted / wanted.sum() * n
    free = len(wanted) - 1
    statistic = ((counts[allowed] - expected) ** 2 / expected).sum()
    assert (statistic - free) / math.sqrt(2 * free) < 4


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("path", PATHS)
def test_no_denied_id_comes_out_whatever_the_model_wants(vocabulary, path, rows):
    policy = stay(vocabulary)
    guard = Guard(policy)
    model = BiasedModel(vocabulary.size, dict.fromkeys(policy.denied, 1e4))
    out = write(model, vocabulary, PATHS[path], guard, rows=rows)
    assert not {token for one in out for token in one.ids} & set(policy.denied)
    assert guard.fired == 0
    assert guard.gate_ids == sum(len(one.ids) + one.finished for one in out)
    assert len(guard.pressure()) == guard.gate_ids
    assert guard.pressure().min() == 1.0


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("path", set(PATHS) - {"hot"})
def test_with_the_mask_off_the_gate_fires(vocabulary, path, rows):
    token = vocabulary.open_id("bad")
    guard = Guard(stay(vocabulary), mask=False)
    model = BiasedModel(vocabulary.size, {token: 1e4})
    with pytest.raises(GuardError, match=rf"row 0: id {token} \(<\|bad\|>\) is denied"):
        write(model, vocabulary, PATHS[path], guard, rows=rows)
    assert guard.fired == guard.gate_calls == 1


def test_the_harness_writes_the_tag_that_the_model_may_not(vocabulary):
    newline, tag = min(vocabulary.newline_ids), vocabulary.open_id("good")
    model = BiasedModel(vocabulary.size, {newline: 9.0, vocabulary.open_id("bad"): 1e4})
    guard = Guard(stay(vocabulary))
    out = write(model, vocabulary, PATHS["nucleus"], guard, force=reemit(vocabulary, "good"))
    assert out[0].ids.count(tag) == out[0].ids[:-1].count(newline) > 0
    assert vocabulary.open_id("bad") not in out[0].ids
    assert guard.gate_ids == len(out[0].ids) - out[0].ids.count(tag)


def test_a_policy_without_an_end_never_ends(vocabulary):
    model = BiasedModel(vocabulary.size, {vocabulary.end_id: 1e4})
    guard = Guard(stay(vocabulary, may_end=False))
    out = write(model, vocabulary, PATHS["drawn"], guard, rows=5)
    assert [one.stopped for one in out] == ["budget"] * 5


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([0, 2, 3], r"row 2: id 3 \(<b>\) is denied"),
        ([1], r"row 0: id 1 \(<a>\)"),
        ([0, -1], r"row 1: id -1 is not in \[0, 4\)"),
        ([4], "row 0: id 4 is not in"),
        ([0.0], "expected integers"),
    ],
)
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_the_gate_refuses_and_says_what_and_by_which_policy(ids, says, kind):
    guard = Guard(TINY)
    with pytest.raises(GuardError, match=f"{says}.*{TINY.fingerprint}"):
        guard.gate(kind(ids))
    assert guard.fired == 1


def test_the_gate_decides_for_every_id_as_the_policy_does():
    for token in range(TINY.size):
        guard = Guard(TINY)
        if token in TINY.denied:
            with pytest.raises(GuardError):
                guard.gate(np.array([token]))
        else:
            guard.gate(np.array([token]))
        assert guard.fired == (token in TINY.denied)


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize(
    "row", [[0.0, math.nan, 0, 0], [math.nan, 0, 0, 0], [0.0, math.inf, 0, 0], [-math.inf] * 4]
)
def test_logits_that_say_nothing_close_the_guard(row, mask):
    with pytest.raises(GuardError, match="row 1"):
        Guard(TINY, mask=mask).hook(*rows_of([0.0, 0, 0, 0], row))


def test_a_row_without_an_allowed_id_closes_the_guard():
    with pytest.raises(GuardError, match="row 0: the logits have no allowed id"):
        Guard(TINY).hook(*rows_of([-math.inf, 0.0, -math.inf, 0.0]))


@pytest.mark.parametrize("logits", [torch.zeros(1, 5), torch.zeros(1, 4, dtype=torch.bfloat16)])
def test_logits_of_another_width_or_type_close_the_guard(logits):
    with pytest.raises(GuardError, match="float32 and 4 ids"):
        Guard(TINY).hook(logits, torch.zeros(1, dtype=torch.int64))

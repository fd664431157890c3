import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign.errors import ConfigError, DataError
from prealign.posttrain.advantages import advantages
from prealign.posttrain.divergence import Distillation, anchor_kl, full_kl
from prealign.posttrain.losses import (
    LOSS_TYPES,
    PolicyGradient,
    Preference,
    context_weight,
    effective_share,
    k3,
    normaliser,
    quantiles,
    reference_kl,
    safe_exp,
    supervised,
)
from tests.posttrain import oracle

MANY = settings(max_examples=40, deadline=None)


def loss_settings(loss_type, ratio="token", **changes):
    room = {"max_tokens": 9} if loss_type == "dr_grpo" else {}
    return PolicyGradient(loss_type=loss_type, ratio=ratio, **room | changes)


def random_batch(seed, rows=5, length=7, spread=0.5):
    random = np.random.default_rng(seed)
    logp = -random.exponential(1.5, (rows, length))
    old = logp + random.normal(0, spread, logp.shape)
    ref = logp + random.normal(0, spread, logp.shape)
    lengths = random.integers(0, length + 1, rows)
    mask = np.arange(length) < lengths[:, None]
    advantage = random.normal(0, 1, rows)
    return [torch.tensor(x) for x in (logp, old, ref, mask, advantage)]


@MANY
@given(
    seed=st.integers(0, 10_000),
    loss_type=st.sampled_from(LOSS_TYPES),
    ratio=st.sampled_from(["token", "sequence"]),
    low=st.floats(0.01, 1),
    high=st.floats(0.01, 3),
    weighted=st.booleans(),
)
def test_policy_gradient_is_its_formula(seed, loss_type, ratio, low, high, weighted):
    logp, old, _, mask, advantage = random_batch(seed)
    loss = loss_settings(loss_type, ratio, clip_low=low, clip_high=high)
    weight = torch.linspace(0.2, 2, len(mask), dtype=torch.float64) if weighted else None
    logp[~mask], old[~mask] = math.nan, -math.inf  # counts for nothing
    found = loss(logp, old, mask, advantage, weight)
    args = [x.tolist() for x in (logp, old, mask, advantage)]
    wanted = oracle.policy_gradient(*args, loss, None if weight is None else weight.tolist())
    assert float(found.value) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_parts_of_a_batch_add_up_by_their_weights(loss_type):
    logp, old, ref, mask, advantage = random_batch(3, rows=6)
    loss = loss_settings(loss_type)
    whole = loss(logp, old, mask, advantage)
    parts = [loss(logp[p], old[p], mask[p], advantage[p]) for p in (slice(0, 2), slice(2, 6))]
    total = sum(float(part.value * part.weight) for part in parts)
    assert sum(float(part.weight) for part in parts) == float(whole.weight)
    assert total / float(whole.weight) == pytest.approx(float(whole.value), abs=1e-12)
    room = loss.max_tokens
    assert normaliser(mask, loss_type, room) == float(whole.weight)
    other = reference_kl(logp, ref, mask, loss_type, room)
    assert float(other.weight) == float(whole.weight)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_where_nothing_has_moved_the_gradient_is_that_of_plain_reinforce(loss_type, ratio):
    logp, _, _, mask, advantage = random_batch(5)
    logp.requires_grad_()
    loss = loss_settings(loss_type, ratio)
    loss(logp, logp.detach(), mask, advantage).value.backward()
    tokens = mask.sum(-1, keepdim=True).clamp(min=1)
    scale = {
        "grpo": 1 / tokens / len(mask),
        "dr_grpo": torch.tensor(1 / (len(mask) * 9)),
        "dapo": 1 / mask.sum(),
        "reinforce": torch.tensor(1 / len(mask)),
    }[loss_type]
    wanted = torch.where(mask, -advantage[:, None] * scale, 0.0)
    torch.testing.assert_close(logp.grad, wanted)


def test_no_logs_of_ratios_overflow_and_their_gradients_point_home():
    mask = torch.ones(1, 1, dtype=torch.bool)
    far = torch.tensor([[-3000.0]], requires_grad=True)
    kl = k3(far, torch.zeros(1, 1), mask)
    assert math.isfinite(kl.item())
    kl.sum().backward()
    assert far.grad.item() < -1e8  # up, towards the reference
    drift = torch.tensor([[500.0]], requires_grad=True)
    loss = loss_settings("dapo")(drift, torch.zeros(1, 1), mask, torch.tensor([-1.0])).value
    assert math.isfinite(loss.item())
    loss.backward()
    assert drift.grad.item() > 0  # it was bad and has become likelier: down again
    x = torch.linspace(-30, 20, 51, dtype=torch.float64)
    torch.testing.assert_close(safe_exp(x), x.exp(), rtol=0, atol=0)


@MANY
@given(seed=st.integers(0, 10_000))
def test_k3_is_its_formula_and_never_negative_by_more_than_rounding(seed):
    logp, _, ref, mask, _ = random_batch(seed, spread=2.0)
    wanted = oracle.k3(logp.tolist(), ref.tolist(), mask.tolist())
    assert float(reference_kl(logp, ref, mask).value) == pytest.approx(wanted, abs=1e-9)
    near = logp.float()
    assert float(k3(near, near + 1e-6, mask).min()) > -1e-12
    logp[~mask] = math.nan
    assert float(reference_kl(logp, ref, mask).value) == pytest.approx(wanted, abs=1e-9)


def test_k3_is_the_divergence_on_average():
    p, q = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.3, 0.3, 0.4]).double()
    each = k3(p.log()[:, None], q.log()[:, None], torch.ones(3, 1, dtype=torch.bool))[:, 0]
    assert float((p * each).sum()) == pytest.approx(oracle.kl(p.tolist(), q.tolist()))


@MANY
@given(seed=st.integers(0, 10_000), beta=st.floats(0.01, 2), smooth=st.floats(0, 0.49))
def test_preference_is_its_formula(seed, beta, smooth):
    four = torch.tensor(np.random.default_rng(seed).normal(-20, 5, (4, 3)))
    found = Preference(beta=beta, label_smoothing=smooth)(*four)
    wanted = oracle.preference(*four.tolist(), beta, smooth)
    assert float(found.value) == pytest.approx(wanted, rel=1e-9)
    gain = (four[0] - four[2]) - (four[1] - four[3])
    share = found.metrics["right_share"]
    assert float(share.total / share.weight) == pytest.approx(float((gain > 0).double().mean()))


def test_preference_far_apart_stays_finite():
    far = torch.tensor([-4000.0])
    zero = torch.zeros(1)
    assert float(Preference(beta=1.0)(far, zero, zero, zero).value) == pytest.approx(4000)


def test_supervised_is_a_mean_over_tokens():
    logp = torch.tensor([[-1.0, -2.0], [-6.0, math.nan]])
    mask = torch.tensor([[True, True], [True, False]])
    assert float(supervised(logp, mask).value) == 3.0
    nothing = supervised(logp, torch.zeros_like(mask))
    assert (float(nothing.value), float(nothing.weight)) == (0.0, 0.0)


@MANY
@given(
    seed=st.integers(0, 10_000),
    top=st.integers(1, 8),
    direction=st.sampled_from(["forward", "reverse"]),
    support=st.sampled_from(["teacher", "student"]),
    tail=st.booleans(),
)
def test_distillation_is_its_formula(seed, top, direction, support, tail):
    random = np.random.default_rng(seed)
    student, teacher = torch.tensor(random.normal(0, 1.5, (2, 4, 9)))
    loss = Distillation(top=top, direction=direction, support=support, tail=tail)
    pairs = zip(student.tolist(), teacher.tolist(), strict=True)
    wanted = [oracle.top_kl(s, t, top, direction, support, tail) for s, t in pairs]
    assert loss.terms(student, teacher).tolist() == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_over_all_ids_distillation_is_the_full_divergence(direction):
    random = np.random.default_rng(0)
    student, teacher = torch.tensor(random.normal(0, 1.5, (2, 4, 9)))
    full = full_kl(student, teacher, direction)
    loss = Distillation(top=9, direction=direction, tail=False)
    torch.testing.assert_close(loss.terms(student, teacher), full)
    p, q = oracle.softmax(student[0].tolist()), oracle.softmax(teacher[0].tolist())
    assert float(full[0]) == pytest.approx(oracle.kl(*((q, p) if direction[0] == "f" else (p, q))))
    assert float(anchor_kl(student, teacher, direction).value) == pytest.approx(float(full.mean()))
    assert float(full_kl(student, student, direction).abs().max()) == 0.0
    masked = torch.tensor([[0.0, 0.0, -math.inf]])
    assert float(full_kl(masked, torch.zeros(1, 3), "reverse")) == pytest.approx(math.log(1.5))


def test_the_teacher_gets_no_gradient():
    student = torch.randn(2, 5, generator=torch.manual_seed(0), requires_grad=True)
    teacher = torch.zeros(2, 5, requires_grad=True)
    Distillation(top=2)(student, teacher).value.backward()
    assert teacher.grad is None
    assert torch.isfinite(student.grad).all()


@MANY
@given(
    rewards=st.lists(st.one_of(st.none(), st.integers(0, 3).map(float)), min_size=1, max_size=12),
    scale=st.sampled_from(["group", "batch", "none"]),
)
def test_advantages_are_their_formula(rewards, scale):
    groups = [i // 4 for i in range(len(rewards))]
    found = advantages(rewards, groups, scale=scale)
    assert found.values.tolist() == pytest.approx(oracle.advantages(rewards, groups, scale))
    assert found.judged.tolist() == [r is not None for r in rewards]
    for group in set(groups):
        own = {r for r, g in zip(rewards, groups, strict=True) if g == group and r is not None}
        assert all(
            d == (len(own) < 2) for d, g in zip(found.dead, groups, strict=True) if g == group
        )
    assert found.dead_groups == len({g for g, d in zip(groups, found.dead, strict=True) if d})


def test_advantages_by_hand_and_bad_rewards():
    found = advantages([1.0, 0.0, None, 2.0, 2.0], [0, 0, 0, 1, 1], scale="none")
    assert found.values.tolist() == [0.5, -0.5, 0, 0, 0]
    assert (found.groups, found.dead_groups) == (2, 1)
    with pytest.raises(DataError, match="return None where there is nothing"):
        advantages([math.nan], [0])
    with pytest.raises(DataError, match="2 rewards for 1 groups"):
        advantages([1.0, 2.0], [0])


def test_context_weights_and_their_effective_number():
    old = torch.tensor([[-1.0, -1.0], [-1.0, 9.0], [0.0, 0.0]])
    sampled = torch.tensor([[-2.0, -1.0], [-1.0, -9.0], [-8.0, 0.0]])
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    weights = context_weight(old, sampled, mask, cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([math.exp(0.5), 1.0, 2.0]))
    with pytest.raises(ConfigError, match=r"cap=0\.5"):
        context_weight(old, sampled, mask, cap=0.5)
    assert effective_share(torch.zeros(4)) == 1.0
    assert effective_share(torch.tensor([0.0, -900.0, -900.0, -900.0])) == 0.25
    assert effective_share(
        torch.tensor([800.0, 800.0 + math.log(3)], dtype=torch.float64)
    ) == pytest.approx(16 / 20)
    assert effective_share(torch.zeros(0)) is None
    assert quantiles(torch.zeros(0), "x") == {"x_q05": None, "x_q50": None, "x_q95": None}
    assert quantiles(torch.arange(101.0), "x") == {"x_q05": 5.0, "x_q50": 50.0, "x_q95": 95.0}


def test_settings_out_of_range_are_named():
    for wrong in ({"loss_type": "ppo"}, {"ratio": "word"}, {"clip_low": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            PolicyGradient(**wrong)
    with pytest.raises(ConfigError, match="dr_grpo divides"):
        PolicyGradient(loss_type="dr_grpo")
    with pytest.raises(ConfigError, match=r"label_smoothing=0\.5"):
        Preference(label_smoothing=0.5)
    with pytest.raises(ConfigError, match="top=0"):
        Distillation(top=0)

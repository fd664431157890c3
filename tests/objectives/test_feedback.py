"""Weights, unlikelihood and advantages: against loops in NumPy, and in their limits."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prealign.errors import ConfigError, TrainError
from prealign.objectives.advantage import AdvantageWeighted
from prealign.objectives.fit import betas, fitted, weight_table
from prealign.objectives.likelihood import Conditional, Likelihood
from prealign.objectives.unlikelihood import Unlikelihood, log1m_exp
from prealign.objectives.weights import ModeWeights, RewardWeight, ScoreAt, SpanMask
from tests.objectives import oracle
from tests.objectives.oracle import TEXT, random_batch

SEEDS = st.integers(0, 10**6)
CLOSE = {"abs": 1e-6, "rel": 1e-6}


def masked(kind, score):
    return 0.0 if kind == TEXT and score is not None and score > 0.3 else 1.0


def rewarded(kind, score):
    return math.exp(-score / 0.2) if kind == TEXT and score is not None else 1.0


def value_of(objective, logp_BL, batch):
    return objective(logp_BL, batch).value.item()


@given(SEEDS, st.booleans())
def test_weighted_likelihood_is_the_loop(seed, tags):
    logp_BL, batch = random_batch(seed)
    both = (SpanMask(max_good=0.3), RewardWeight(beta=0.2))
    for weights, weight in [
        ((), lambda kind, score: 1.0),
        (both[:1], masked),
        (both[1:], rewarded),
        (both, lambda kind, score: masked(kind, score) * rewarded(kind, score)),
    ]:
        made = Conditional(tags_as_targets=tags, weights=weights)
        expected = oracle.likelihood(logp_BL, batch, tags=tags, weight=weight)
        assert value_of(made, logp_BL, batch) == pytest.approx(expected, **CLOSE)


@given(SEEDS, st.sampled_from([0.0, 0.01, 1.0, 3.0]))
def test_unlikelihood_is_the_loop(seed, alpha):
    logp_BL, batch = random_batch(seed)
    hard = Unlikelihood(alpha=alpha, max_good=0.3)
    expected = oracle.unlikelihood(logp_BL, batch, alpha=alpha, max_good=0.3)
    assert value_of(hard, logp_BL, batch) == pytest.approx(expected, **CLOSE)
    soft = Unlikelihood(alpha=alpha, form="soft")
    expected = oracle.unlikelihood(logp_BL, batch, alpha=alpha)
    assert value_of(soft, logp_BL, batch) == pytest.approx(expected, **CLOSE)


@given(SEEDS, st.floats(0, 1), st.floats(0.05, 50))
def test_advantage_weighting_is_the_loop(seed, alpha, beta):
    logp_BL, batch = random_batch(seed)
    settings = {"beta": beta, "alpha": alpha, "max_weight": 1000.0, "value_scale": 0.7}
    expected = oracle.advantage_weighted(logp_BL, batch, **settings)
    found = value_of(AdvantageWeighted(**settings), logp_BL, batch)
    assert found == pytest.approx(expected, **CLOSE)


@given(SEEDS)
def test_limits_are_the_plain_likelihood(seed):
    logp_BL, batch = random_batch(seed)
    plain = value_of(Likelihood(), logp_BL, batch)
    calm = batch._replace(value_BL=torch.zeros_like(batch.value_BL))
    good = calm._replace(score_BL=torch.zeros_like(batch.score_BL))
    weighed = Likelihood(weights=(RewardWeight(beta=1e12),))
    assert value_of(weighed, logp_BL, batch) == pytest.approx(plain)
    assert value_of(
        AdvantageWeighted(beta=1e12, alpha=1, value_scale=1), logp_BL, batch
    ) == pytest.approx(plain)
    for objective in (
        Likelihood(weights=(SpanMask(), RewardWeight(beta=0.01))),
        Unlikelihood(alpha=2),
        Unlikelihood(alpha=2, form="soft"),
        AdvantageWeighted(beta=0.01, alpha=1, value_scale=1),
    ):
        assert value_of(objective, logp_BL, good) == pytest.approx(plain)


@given(SEEDS)
def test_hard_unlikelihood_with_alpha_0_is_the_span_mask(seed):
    logp_BL, batch = random_batch(seed)
    pair = Unlikelihood(alpha=0, max_good=0.3), Likelihood(weights=(SpanMask(max_good=0.3),))
    one, other = (objective(logp_BL, batch) for objective in pair)
    assert one.value.item() == pytest.approx(other.value.item())
    assert one.weight == other.weight


@given(SEEDS)
def test_advantage_weighting_without_a_value_is_reward_weighting(seed):
    logp_BL, batch = random_batch(seed)
    calm = batch._replace(value_BL=torch.zeros_like(batch.value_BL))
    weighed = Likelihood(weights=(RewardWeight(beta=0.3),))
    advantage = AdvantageWeighted(beta=0.3, alpha=1, value_scale=1)
    assert value_of(advantage, logp_BL, calm) == pytest.approx(value_of(weighed, logp_BL, calm))


def test_at_threshold_0_unlikelihood_is_hard():
    """The reference falls into its soft form there, and a score of 0.02 then weighs nothing."""
    logp_BL, batch = random_batch(0, worst=0.02)
    bad_BL = batch.text_BL & (batch.score_BL > 0)
    leaf_BL = logp_BL.clone().requires_grad_()
    Unlikelihood(max_good=0.0)(leaf_BL, batch).value.backward()
    assert (leaf_BL.grad[bad_BL] > 0).all()
    assert bad_BL.any()


def test_the_gradient_of_unlikelihood_by_hand():
    """d/dlogp of -log(1 - p) is p / (1 - p)."""
    logp_BL, batch = random_batch(1)
    leaf_BL = logp_BL.clone().requires_grad_()
    loss = Unlikelihood(alpha=0.5)(leaf_BL, batch)
    loss.value.backward()
    bad_BL = batch.text_BL & (batch.score_BL > 0)
    p_BL = logp_BL.exp()
    by_hand_BL = torch.where(bad_BL, 0.5 * p_BL / (1 - p_BL), -1.0)
    by_hand_BL = torch.where(batch.text_BL | batch.end_BL, by_hand_BL, 0.0) / loss.weight
    torch.testing.assert_close(leaf_BL.grad, by_hand_BL)


def test_what_is_certain_or_impossible_has_a_finite_unlikelihood_and_gradient():
    logp = torch.tensor([0.0, -1e-12, -1e-4, -0.69, -0.70, -50.0, -math.inf], requires_grad=True)
    found = log1m_exp(logp)
    found.sum().backward()
    exact = [math.log(1e-20), math.log(1e-12), math.log(-math.expm1(-1e-4)),
             math.log(1 - math.exp(-0.69)), math.log(1 - math.exp(-0.7)), 0.0, 0.0]  # fmt: skip
    assert found.tolist() == pytest.approx(exact, rel=1e-6, abs=1e-12)
    assert logp.grad.isfinite().all()


@pytest.mark.parametrize(
    "objective",
    [
        Likelihood(weights=(SpanMask(), RewardWeight(beta=0.1))),
        Unlikelihood(),
        Unlikelihood(form="soft"),
        AdvantageWeighted(beta=0.1, value_scale=1),
    ],
)
@pytest.mark.parametrize("poison", [math.nan, -math.inf, math.inf])
def test_what_does_not_count_never_does(objective, poison):
    logp_BL, batch = random_batch(5)
    out_BL = ~(batch.text_BL | batch.end_BL)
    assert out_BL.any()
    clean = objective(logp_BL, batch)
    leaf_BL = torch.where(out_BL, poison, logp_BL).requires_grad_()
    loss = objective(leaf_BL, batch)
    loss.value.backward()
    assert loss.value.item() == clean.value.item()
    assert (leaf_BL.grad[out_BL] == 0).all()
    assert leaf_BL.grad.isfinite().all()


@given(SEEDS)
def test_parts_weighed_by_their_weight_give_the_whole(seed):
    logp_BL, batch = random_batch(seed)
    for objective in (
        Likelihood(weights=(SpanMask(),)),
        Unlikelihood(alpha=0.5),
        AdvantageWeighted(beta=0.4, value_scale=1),
    ):
        whole = objective(logp_BL, batch)
        parts = [
            objective(logp_BL[i : i + 1], type(batch)(*(field[i : i + 1] for field in batch)))
            for i in range(len(logp_BL))
        ]
        total = sum(part.value * part.weight for part in parts)
        torch.testing.assert_close(total, whole.value * whole.weight)
        for name, mean in whole.metrics.items():
            sums = [part.metrics[name] for part in parts]
            torch.testing.assert_close(sum(one.total for one in sums), mean.total)
            assert sum(one.weight for one in sums) == mean.weight


def test_only_the_value_is_moved_by_the_error_of_the_value():
    logp_BL, batch = random_batch(2)
    leaf_BL = logp_BL.clone().requires_grad_()
    value_BL = batch.value_BL.clone().requires_grad_()
    AdvantageWeighted(beta=0.5, alpha=0, value_scale=1)(
        leaf_BL, batch._replace(value_BL=value_BL)
    ).value.backward()
    assert (leaf_BL.grad == 0).all()
    assert value_BL.grad.abs().sum() > 0
    value_BL.grad = None
    AdvantageWeighted(beta=0.5, alpha=1, value_scale=1)(
        leaf_BL, batch._replace(value_BL=value_BL)
    ).value.backward()
    assert value_BL.grad is None or (value_BL.grad == 0).all()


def test_a_weight_grows_with_the_advantage_up_to_its_bound():
    logp_BL, batch = random_batch(3)
    low = batch._replace(value_BL=torch.full_like(batch.value_BL, -1e6))
    loss = AdvantageWeighted(beta=0.1, max_weight=7.0, value_scale=1)(logp_BL, low)
    weight = loss.metrics["weight"]
    assert (weight.total / weight.weight).item() == pytest.approx(7.0)


def test_beta_gives_the_stated_percentile_the_stated_weight():
    scores = np.concatenate([np.zeros(900), np.linspace(0.01, 1.0, 100)])
    found = fitted(RewardWeight(beta=ScoreAt(percentile=95, weight=0.1)), scores)
    at = np.percentile(scores[scores > 0], 95)
    assert math.exp(-at / found.beta) == pytest.approx(0.1)
    # A tenth of that weight at twice the score.
    assert math.exp(-2 * at / found.beta) == pytest.approx(0.01)
    assert "p95: 0.1" in weight_table(scores, found.beta)
    assert "(10.0%)" in weight_table(scores, found.beta)
    assert "p95: 0.999" in weight_table(scores, 1000.0)
    assert "every weight is 1" in weight_table(np.zeros(3), 1.0)


def test_what_is_to_be_found_in_the_text_is_found_wherever_it_stands():
    scores = np.array([0.0, 0.2, 0.4, 0.6])
    nested = Conditional(weights=(SpanMask(max_good=0.5), RewardWeight()))
    found = fitted(nested, scores)
    assert found.weights[0] == SpanMask(max_good=0.5)
    assert found.weights[1].beta == pytest.approx(0.58 / math.log(10))
    advantage = fitted(AdvantageWeighted(), scores)
    assert advantage.value_scale == pytest.approx(0.4)
    assert fitted(advantage, scores) == advantage
    assert betas(nested) == [ScoreAt()]
    assert betas((found, advantage)) == [found.weights[1].beta, advantage.beta]
    assert betas(Unlikelihood()) == []
    with pytest.raises(ConfigError, match="no score is above 0"):
        fitted(nested, np.zeros(3))


def test_what_was_not_found_cannot_be_trained_with():
    logp_BL, batch = random_batch(0)
    for objective in (Likelihood(weights=(RewardWeight(),)), AdvantageWeighted()):
        with pytest.raises(TrainError, match=r"not found yet; call prealign\.objectives\.fit"):
            objective(logp_BL, batch)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ScoreAt(weight=1.0),
        lambda: ScoreAt(percentile=101),
        lambda: RewardWeight(beta=0),
        lambda: Unlikelihood(alpha=-1),
        lambda: Unlikelihood(form="firm"),
        lambda: AdvantageWeighted(beta=1, alpha=2),
        lambda: AdvantageWeighted(beta=-1),
        lambda: replace(AdvantageWeighted(beta=1), value_scale=0),
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"must be|expected"):
        wrong()


def test_advantages_without_a_value_head_are_refused():
    logp_BL, batch = random_batch(0)
    with pytest.raises(TrainError, match="has no values; train a value head"):
        AdvantageWeighted(beta=1, value_scale=1)(logp_BL, batch._replace(value_BL=None))


@given(SEEDS)
def test_text_counts_by_its_mode_and_tags_as_ever(seed):
    logp_BL, batch = random_batch(seed)
    modes_BL = torch.randint(0, 3, batch.mode_BL.shape, generator=torch.manual_seed(seed))
    batch = batch._replace(mode_BL=modes_BL.to(torch.uint8))
    factors = (1.0, 0.0, 2.5)
    made = Conditional(tags_as_targets=True, weights=(ModeWeights(weights=factors),))
    total, count = 0.0, 0
    for row in range(logp_BL.shape[0]):
        for at in range(logp_BL.shape[1]):
            text = bool(batch.text_BL[row, at])
            weight = factors[int(modes_BL[row, at])] if text else 1.0
            if weight and (text or batch.tag_BL[row, at] or batch.end_BL[row, at]):
                total -= weight * float(logp_BL[row, at])
                count += 1
    assert value_of(made, logp_BL, batch) == pytest.approx(total / max(count, 1), **CLOSE)
    even = Conditional(tags_as_targets=True, weights=(ModeWeights(weights=(1.0, 1.0, 1.0)),))
    plain = Conditional(tags_as_targets=True)
    assert value_of(even, logp_BL, batch) == pytest.approx(value_of(plain, logp_BL, batch), **CLOSE)


def test_a_mode_without_a_weight_is_refused():
    _, batch = random_batch(0)
    batch = batch._replace(mode_BL=torch.full_like(batch.mode_BL, 2))
    with pytest.raises(TrainError, match="2 weights, but the text has mode 2"):
        ModeWeights(weights=(1.0, 1.0))(batch)
    for weights in ((), (1.0, -1.0), (math.nan,)):
        with pytest.raises(ConfigError, match="expected one for no mode"):
            ModeWeights(weights=weights)

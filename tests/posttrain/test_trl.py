"""Our losses and the very code of TRL, on the same tensors."""

import importlib.util

import numpy as np
import pytest
import torch

from prealign.posttrain.advantages import advantages
from prealign.posttrain.divergence import Distillation
from prealign.posttrain.losses import (
    PolicyGradient,
    Preference,
    reference_kl,
    sequence_sum,
    supervised,
)

if importlib.util.find_spec("trl") is None:
    pytest.skip("could not import 'trl'", allow_module_level=True)
trl_oracle = pytest.importorskip("trl_oracle", exc_type=ImportError)

BAR = 1e-6
MAX_TOKENS = 9


def random_batch(seed, rows=6, length=7):
    random = np.random.default_rng(seed)
    logp = -random.exponential(1.5, (rows, length))
    near = [logp + random.normal(0, 0.4, logp.shape) for _ in range(2)]
    mask = np.arange(length) < random.integers(1, length + 1, rows)[:, None]
    advantage = random.normal(0, 1, rows)
    tensors = [torch.tensor(x, dtype=torch.float32) for x in (logp, *near)]
    tensors[0].requires_grad_()
    return *tensors, torch.tensor(mask), torch.tensor(advantage, dtype=torch.float32)


def same(ours, theirs, logp):
    """See that values and gradients are the same."""
    assert ours.item() == pytest.approx(theirs.item(), abs=BAR)
    own, other = (torch.autograd.grad(x, logp)[0] for x in (ours, theirs))
    torch.testing.assert_close(own, other, rtol=0, atol=BAR)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "reinforce"])
def test_policy_gradient(loss_type, ratio, beta, seed):
    logp, old, ref, mask, advantage = random_batch(seed)
    room = MAX_TOKENS if loss_type == "dr_grpo" else None
    loss = PolicyGradient(loss_type=loss_type, ratio=ratio, max_tokens=room, clip_high=0.28)
    ours = loss(logp, old, mask, advantage).value
    common = {"clip_low": 0.2, "clip_high": 0.28}
    if (loss_type, ratio) == ("reinforce", "sequence"):
        same(ours, trl_oracle.rloo_loss(logp, old, mask, advantage, common), logp)
        return
    ours = ours + beta * reference_kl(logp, ref, mask, loss_type, room).value
    # What TRL calls luspo sums over tokens, as reinforce does.
    name = {"reinforce": "luspo"}.get(loss_type, loss_type)
    asked = common | {"loss_type": name, "ratio": ratio, "beta": beta, "max_tokens": MAX_TOKENS}
    same(ours, trl_oracle.grpo_loss(logp, old, ref, mask, advantage, asked), logp)


@pytest.mark.parametrize("nll", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_preference(seed, nll):
    logp, _, ref, mask, _ = random_batch(seed)
    (chosen, rejected), (ref_chosen, ref_rejected) = (
        sequence_sum(x, mask).chunk(2) for x in (logp, ref)
    )
    ours = Preference(beta=0.1)(chosen, rejected, ref_chosen, ref_rejected).value
    ours = ours + nll * supervised(logp[:3], mask[:3]).value
    same(ours, trl_oracle.dpo_loss(logp, ref, mask, 0.1, nll), logp)


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("seed", range(3))
def test_distillation(seed, direction, tail):
    random = np.random.default_rng(seed)
    student, teacher = torch.tensor(random.normal(0, 2, (2, 8, 30)), dtype=torch.float32)
    student.requires_grad_()
    loss = Distillation(top=5, direction=direction, support="student", tail=tail)
    theirs = trl_oracle.distillation_terms(
        student, teacher, top=5, forward=direction == "forward", tail=tail
    )
    same(loss(student, teacher).value, theirs.mean(), student)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages(scale):
    rewards = [1.0, 0.0, 0.0, None, 2.0, 2.0, 2.0, 2.0, 0.5, None, None, None]
    groups = [i // 4 for i in range(12)]
    numbers = torch.tensor([float("nan") if r is None else r for r in rewards], dtype=torch.float64)
    theirs = trl_oracle.group_advantages(numbers, 4, scale).tolist()
    assert advantages(rewards, groups, scale=scale).values.tolist() == pytest.approx(
        theirs, abs=BAR
    )

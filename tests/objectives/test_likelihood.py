import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prealign.objectives.batch import TokenBatch
from prealign.objectives.likelihood import Conditional, Likelihood

KINDS = "text", "tag", "end", "pad"


def batch_of(*rows):
    """Return a batch from rows of kinds."""
    shape = len(rows), len(rows[0])
    is_kind = {kind: torch.tensor([[k == kind for k in row] for row in rows]) for kind in KINDS}
    zeros = torch.zeros(shape, dtype=torch.int64)
    return TokenBatch(
        ids_BL=zeros,
        targets_BL=zeros,
        text_BL=is_kind["text"],
        tag_BL=is_kind["tag"],
        end_BL=is_kind["end"],
        mode_BL=zeros.to(torch.uint8),
        score_BL=zeros.float(),
        scored_BL=zeros.bool(),
        document_BL=zeros.int(),
    )


BATCH = batch_of(["tag", "text", "text"], ["end", "text", "pad"])
LOGP = [[-0.5, -1.0, -2.0], [-4.0, -3.0, -100.0]]


def mean(part):
    return (part.total / part.weight).item()


@pytest.mark.parametrize(
    ("objective", "nats", "targets"),
    [
        (Likelihood(), (1 + 2 + 4 + 3) / 4, 4),
        (Conditional(tags_as_targets=False), (1 + 2 + 4 + 3) / 4, 4),
        (Conditional(tags_as_targets=True), (0.5 + 1 + 2 + 4 + 3) / 5, 5),
    ],
)
def test_the_loss_is_the_mean_over_the_targets_that_count(objective, nats, targets):
    loss = objective(torch.tensor(LOGP), BATCH)
    assert loss.value.item() == pytest.approx(nats)
    assert loss.weight.item() == targets
    assert mean(loss.metrics["text_nats"]) == pytest.approx((1 + 2 + 3) / 3)
    assert mean(loss.metrics["tag_nats"]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("tags_as_targets", "gradient"),
    [
        (True, [[-0.2, -0.2, -0.2], [-0.2, -0.2, 0.0]]),
        (False, [[0.0, -0.25, -0.25], [-0.25, -0.25, 0.0]]),
    ],
)
def test_every_target_that_counts_has_the_same_gradient_and_no_other_has_one(
    tags_as_targets, gradient
):
    logp_BL = torch.tensor(LOGP, requires_grad=True)
    Conditional(tags_as_targets=tags_as_targets)(logp_BL, BATCH).value.backward()
    torch.testing.assert_close(logp_BL.grad, torch.tensor(gradient))


@pytest.mark.parametrize("poison", [math.nan, -math.inf, math.inf])
def test_padding_never_counts_whatever_its_log_probability(poison):
    logp_BL = torch.tensor(LOGP)
    logp_BL[1, 2] = poison
    logp_BL.requires_grad_()
    loss = Conditional()(logp_BL, BATCH)
    loss.value.backward()
    assert loss.value.item() == pytest.approx(10.5 / 5)
    assert logp_BL.grad[1, 2].item() == 0.0
    assert logp_BL.grad.isfinite().all()


def test_a_batch_without_targets_that_count_has_no_loss_and_no_gradient():
    logp_BL = torch.tensor([[-1.0, math.nan]], requires_grad=True)
    loss = Likelihood()(logp_BL, batch_of(["tag", "pad"]))
    loss.value.backward()
    assert loss.value.item() == 0.0
    assert loss.weight.item() == 0
    assert logp_BL.grad.tolist() == [[0.0, 0.0]]


def test_text_without_tags_says_that_it_has_none():
    metrics = Likelihood()(torch.tensor([[-1.0, -2.0]]), batch_of(["text", "text"])).metrics
    assert metrics["tag_nats"].weight.item() == 0


rows = st.lists(
    st.lists(st.sampled_from(KINDS), min_size=3, max_size=3),
    min_size=2,
    max_size=6,
)


@given(rows, st.integers(0, 10**6))
def test_parts_weighed_by_their_weight_give_the_loss_of_the_whole(kinds, seed):
    logp_BL = -torch.rand(len(kinds), 3, generator=torch.Generator().manual_seed(seed))
    objective = Conditional()
    whole = objective(logp_BL, batch_of(*kinds))
    parts = [objective(logp_BL[i : i + 1], batch_of(row)) for i, row in enumerate(kinds)]
    total = sum(part.value * part.weight for part in parts)
    assert sum(part.weight for part in parts) == whole.weight
    torch.testing.assert_close(total, whole.value * whole.weight)


@given(rows, st.integers(0, 10**6))
def test_without_tags_as_targets_conditional_training_is_likelihood(kinds, seed):
    logp_BL = -torch.rand(len(kinds), 3, generator=torch.Generator().manual_seed(seed))
    batch = batch_of(*kinds)
    plain, conditional = Likelihood(), Conditional(tags_as_targets=False)
    assert plain(logp_BL, batch).value == conditional(logp_BL, batch).value

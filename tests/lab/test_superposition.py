"""The toy model of superposition: capacities and losses by hand, and what rare features do."""

import numpy as np
import pytest
import torch

from prealign.errors import ConfigError
from prealign.lab.superposition import Models, Toy, rank_correlation


def models(weight_MN, bias_N=None):
    weight = torch.tensor(weight_MN, dtype=torch.float32)
    bias = torch.zeros(weight.shape[1]) if bias_N is None else torch.tensor(bias_N)
    return Models(weight[None], bias[None])


def test_capacities_by_hand():
    alone = models([[1.0, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(alone.capacities(), [[1, 1]])
    opposite = models([[1.0, -1.0]])
    np.testing.assert_allclose(opposite.capacities(), [[0.5, 0.5]])
    uneven = models([[2.0, 1.0, 0.0]])
    np.testing.assert_allclose(uneven.capacities(), [[16 / 20, 1 / 5, 0]])
    assert uneven.kept() == [2]
    assert uneven.shared() == [2]
    np.testing.assert_allclose(uneven.interference(), [4])
    assert alone.interference() == [0]


def test_capacities_never_sum_to_more_than_the_dimensions():
    for seed in range(20):
        weight = torch.randn(1, 3, 11, generator=torch.Generator().manual_seed(seed))
        assert Models(weight, torch.zeros(1, 11)).capacities().sum() <= 3 + 1e-9


def test_the_control_loses_the_variance_of_what_it_leaves_out():
    toy = Toy(there=0.4, features=6, dimensions=2, decay=0.5)
    p = 0.4
    variance = p / 3 - (p / 2) ** 2
    expected = variance * sum(0.5**i for i in range(2, 6))
    assert toy.loss(toy.dedicated(), batches=400)[0] == pytest.approx(expected, rel=0.01)


def test_features_are_there_as_often_as_they_should_and_every_seed_has_its_own():
    toy = Toy(there=0.2, batch=20_000)
    x = toy.samples([torch.Generator().manual_seed(s) for s in (0, 0, 1)])
    assert float((x > 0).float().mean()) == pytest.approx(0.2, abs=0.005)
    assert torch.equal(x[0], x[1])
    assert not torch.equal(x[0], x[2])


def test_a_model_does_not_depend_on_those_beside_it():
    toy = Toy(steps=20, batch=32)
    together, alone = toy([3, 4]), toy([4])
    torch.testing.assert_close(together.weight_SMN[1], alone.weight_SMN[0], rtol=1e-4, atol=1e-6)


def test_rare_features_share_dimensions_and_dense_ones_do_not():
    small = {"features": 8, "dimensions": 2, "steps": 1200, "batch": 256}
    dense, rare = Toy(there=1.0, decay=0.5, **small), Toy(there=0.02, **small)
    few, many = dense([0, 1]), rare([0, 1])
    assert few.kept().max() <= 3
    assert many.kept().min() >= 4
    assert (rare.loss(many) < 0.8 * rare.loss(rare.dedicated())).all()


def test_a_rank_correlation_is_one_for_any_rising_function():
    x = np.array([3.0, 1.0, 2.0, 9.0])
    assert rank_correlation(x, np.exp(x)) == pytest.approx(1)
    assert rank_correlation(x, -(x**3)) == pytest.approx(-1)


def test_as_many_dimensions_as_features_are_refused():
    with pytest.raises(ConfigError, match="fewer dimensions than features"):
        Toy(features=5, dimensions=5)

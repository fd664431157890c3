"""Engineered monosemanticity: purity and losses by hand, and what a start at -1 does."""

import math

import numpy as np
import pytest
import torch

from prealign.errors import ConfigError
from prealign.lab.monosemanticity import Decoder, Decoders


def decoders(into_KN, bias_K, out_NK):
    """Return one model whose neurons see the features themselves."""
    features = len(into_KN[0])
    made = (torch.eye(features), into_KN, out_NK, bias_K)
    return Decoders(*(torch.as_tensor(one, dtype=torch.float32)[None] for one in made))


def test_purity_by_hand():
    own = decoders([[1.0, 0, 0], [1.0, 3.0, 0], [-1.0, -1, -1]], [0.0, 0, 0], torch.zeros(3, 3))
    purity = own.purity()[0]
    assert purity[:2].tolist() == [1.0, 0.75]
    assert math.isnan(purity[2])
    assert own.monosemantic() == [0.5]
    shy = decoders([[1.0, 3.0, 0]], [-1.0], torch.zeros(3, 1))
    assert shy.purity()[0].tolist() == [1.0]


def test_losses_by_hand():
    same = decoders(torch.eye(3), [0.0] * 3, torch.eye(3))
    half = decoders(torch.eye(3), [0.0] * 3, torch.eye(3) / 2)
    x = torch.tensor([[[1.0, 0, 0], [0, 1.0, 1.0]]])
    assert same.losses(x).tolist() == [0]
    assert half.losses(x).tolist() == [(0.25 + 0.5) / 2]


def test_the_loss_of_answering_0_is_what_it_is_said_to_be():
    own = Decoder(features=8, dimensions=4, neurons=4, there=0.25)
    idle = Decoders(torch.zeros(1, 4, 8), torch.zeros(1, 4, 4), torch.zeros(1, 8, 4),
                    torch.zeros(1, 4))  # fmt: skip
    assert own.loss(idle)[0] == pytest.approx(own.idle_loss(), rel=0.03)


def test_features_have_length_1_in_the_mean_and_rows_are_orthogonal():
    own = Decoder()._projection(torch.Generator().manual_seed(0))
    torch.testing.assert_close(own @ own.T, torch.eye(16) * 4, atol=1e-4, rtol=0)
    assert float((own**2).sum(dim=0).mean()) == pytest.approx(1, abs=1e-5)


def test_a_model_does_not_depend_on_those_beside_it_and_learns():
    own = Decoder(steps=300, neurons=32, features=16, dimensions=8, batch=64)
    together, alone = own([3, 4]), own([4])
    torch.testing.assert_close(together.into_SKM[1], alone.into_SKM[0], rtol=1e-3, atol=1e-4)
    assert (own.loss(together) < 0.7 * own.idle_loss()).all()


def test_more_dimensions_than_features_are_refused():
    with pytest.raises(ConfigError, match="fewer dimensions than features"):
        Decoder(dimensions=64)


@pytest.mark.slow
def test_neurons_of_one_feature_come_of_biases_from_minus_1():
    shares = [Decoder(bias=b, steps=3000)([900]).monosemantic() for b in (-1.0, 0.0)]
    assert shares[0] > 0.05
    assert np.all(shares[0] > 2 * shares[1])

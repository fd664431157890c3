"""Gradient gating: silent units are left alone, and the rest follows from the kernels."""

import pytest
import torch

from prealign.errors import ConfigError
from prealign.lab.gating import Gated, over


def test_units_are_silent_where_they_should_be():
    own = Gated(shared=0.5, units=40)
    net = own.network(torch.Generator().manual_seed(0))
    x = torch.randn(500, own.inputs, dtype=torch.float64)
    under, without = (net.units(x, c).amax(dim=0) > 0 for c in (1, 0))
    assert under.tolist() == [True] * 30 + [False] * 10
    assert without.tolist() == [True] * 20 + [False] * 10 + [True] * 10


def test_silent_units_get_no_gradient_and_keep_their_weights_to_the_bit():
    own = Gated(shared=0.25, units=64, steps=30)
    net = own.network(torch.Generator().manual_seed(1))
    x, y = torch.randn(50, own.inputs).double(), torch.randn(50).double()
    assert net.silent_gradient(x, y) == 0.0
    after = net.train(x, y, 1, own)
    silent = slice(16 + 24, None)
    assert torch.equal(after.into_KD[silent], net.into_KD[silent])
    assert torch.equal(after.out_K[silent], net.out_K[silent])
    assert not torch.equal(after.out_K[:40], net.out_K[:40])


def test_gradients_are_those_of_the_loss():
    own = Gated(shared=0.5, units=8)
    net = own.network(torch.Generator().manual_seed(2))
    x, y = torch.randn(5, own.inputs).double(), torch.randn(5).double()
    into, out = net.gradients(x, y, 1)

    def loss(net):
        return float(((net.outputs(x, 1) - y) ** 2).mean() / 2)

    step = 1e-6
    for at in ((0, 0), (3, 2)):
        moved = net.into_KD.clone()
        moved[at] += step
        slope = (loss(net._replace(into_KD=moved)) - loss(net)) / step
        assert float(into[at]) == pytest.approx(slope, abs=1e-5)
    moved = net.out_K.clone()
    moved[1] += step
    slope = (loss(net._replace(out_K=moved)) - loss(net)) / step
    assert float(out[1]) == pytest.approx(slope, abs=1e-5)


def test_training_learns_what_it_is_given():
    own = Gated(shared=0.5, units=256, steps=400)
    net = own.network(torch.Generator().manual_seed(3))
    x, y = torch.randn(20, own.inputs).double(), torch.randn(20).double()
    before = float(((net.outputs(x, 1) - y) ** 2).mean())
    after = float(((net.train(x, y, 1, own).outputs(x, 1) - y) ** 2).mean())
    assert after < 0.2 * before


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_what_crosses_is_what_the_kernels_say(shared):
    own = Gated(shared=shared, units=1024, steps=60)
    found = over(own, range(3))
    assert own.predicted == pytest.approx(2 * shared / (1 + shared))
    assert found["passed_on"].mean() == pytest.approx(own.predicted, abs=0.06)
    assert found["undone"].mean() == pytest.approx(own.predicted, abs=0.06)
    assert (found["forgotten"] == 0).all() == (shared == 0)


def test_an_impossible_share_is_refused():
    with pytest.raises(ConfigError, match="expected a share"):
        Gated(shared=1.5)

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prealign.errors import DataError
from prealign.models import choose as choosing
from prealign.models.choose import choose, inverse_cdf, uniforms

LAST = 1 - 2.0**-53  # the largest float64 below 1
EXTREMES = [1e-6, 1e-5, 0.7, 1.0, 1e4, 1e8, 1e30, 3.4e38]


def draw(logits_V, count, *, seed=0, **settings):
    u_B = torch.from_numpy(uniforms([seed] * count, range(count)))
    return choose(logits_V.repeat(count, 1), u_B, **settings)


def shares(logits_V, count, **settings):
    ids = draw(logits_V, count, **settings)
    return torch.bincount(ids, minlength=len(logits_V)).double() / count


def chi_square(counts, probabilities):
    """Return the statistic in standard deviations above its mean."""
    kept = probabilities > 0
    assert counts[~kept].sum() == 0
    expected = probabilities[kept] * counts.sum()
    statistic = ((counts[kept] - expected) ** 2 / expected).sum()
    free = int(kept.sum()) - 1
    return float((statistic - free) / math.sqrt(2 * free))


@pytest.fixture(autouse=True, params=[0, choosing.FEW], ids=["in blocks", "at once"])
def both_ways(request, monkeypatch):
    """Many ids are cumulated in blocks, few of them at once; here both do the same work."""
    monkeypatch.setattr(choosing, "FEW", request.param)


def test_the_inverse_cdf_cuts_where_the_cumulated_weights_do():
    weights = torch.tensor([[2.0, 0.0, 1.0, 1.0]]).repeat(8, 1)
    u = torch.tensor([0, 0.25, 0.4999, 0.5, 0.7499, 0.75, LAST, 1.0], dtype=torch.float64)
    assert inverse_cdf(weights, u).tolist() == [0, 0, 0, 2, 2, 3, 3, 3]


def test_it_cuts_at_the_same_places_beyond_one_block():
    width = 1000
    u = (torch.arange(width, dtype=torch.float64) + 0.5) / width
    assert inverse_cdf(torch.ones(width, width), u).tolist() == list(range(width))


@given(
    st.lists(st.sampled_from([0.0, 0.0, 0.0, 1e-30, 1e-7, 0.1, 1.0]), min_size=1, max_size=200),
    st.sampled_from([0.0, 1e-300, 2.0**-53, 0.3, 0.999999, LAST, 1.0]),
)
def test_an_id_of_weight_zero_is_never_chosen(weights, u):
    if not any(weights):
        weights[-1] = 1.0
    chosen = inverse_cdf(torch.tensor([weights]), torch.tensor([u], dtype=torch.float64))
    assert weights[int(chosen)] > 0


@pytest.mark.parametrize("u", [0.0, LAST, 1.0])
@pytest.mark.parametrize("alone", [0, 63, 64, 127, 128, 129])
def test_the_only_possible_id_is_found_at_both_ends_of_the_unit_interval(alone, u):
    weights = torch.zeros(1, 130)
    weights[0, alone] = 1e-38
    assert inverse_cdf(weights, torch.tensor([u], dtype=torch.float64)).tolist() == [alone]


def test_temperature_is_a_power_of_the_probabilities():
    probabilities = torch.tensor([0.5, 0.3, 0.2])
    # At T = 1/2 the odds are 25 : 9 : 4, at T = 2 their square roots.
    assert shares(probabilities.log(), 40_000, temperature=0.5).tolist() == pytest.approx(
        [25 / 38, 9 / 38, 4 / 38], abs=0.01
    )
    roots = probabilities.sqrt() / probabilities.sqrt().sum()
    assert shares(probabilities.log(), 40_000, temperature=2).tolist() == pytest.approx(
        roots.tolist(), abs=0.01
    )


@pytest.mark.parametrize(
    ("top_p", "nucleus"),
    [
        (0.4, [1, 0, 0, 0]),  # the likeliest alone has more than 0.4
        (0.5, [1, 0, 0, 0]),
        (0.6, [5 / 8, 3 / 8, 0, 0]),
        (0.9, [50 / 95, 30 / 95, 15 / 95, 0]),
        (0.97, [0.5, 0.3, 0.15, 0.05]),
    ],
)
def test_the_nucleus_is_the_fewest_likeliest_ids_with_that_share(top_p, nucleus):
    order = [2, 0, 3, 1]  # likeliest ids need not come first
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])[order]
    found = shares(probabilities.log(), 40_000, top_p=top_p)
    assert found.tolist() == pytest.approx([nucleus[i] for i in order], abs=0.01)
    assert [share > 0 for share in found] == [nucleus[i] > 0 for i in order]


def test_equals_of_the_last_in_the_nucleus_are_in_it():
    assert (shares(torch.zeros(5), 1000, top_p=0.1) > 0).all()


@pytest.mark.parametrize("top_p", [0.001, 0.3, 0.7, 0.9, 0.999])
def test_draws_from_a_nucleus_follow_its_distribution(top_p):
    logits = torch.randn(200, generator=torch.Generator().manual_seed(1)) * 2
    p = logits.double().softmax(0)
    order = p.argsort(descending=True)  # the definition, with a sort
    inside = order[(p[order].cumsum(0) - p[order]) < top_p]
    wanted = torch.zeros_like(p)
    wanted[inside] = p[inside] / p[inside].sum()
    counts = torch.bincount(draw(logits, 50_000, seed=7, top_p=top_p), minlength=200)
    if len(inside) == 1:
        assert counts[inside] == 50_000
    else:
        assert chi_square(counts.double(), wanted) < 4


@pytest.mark.parametrize("size", [3, 64, 65, 500])
def test_draws_follow_the_softmax(size):
    logits = torch.randn(size, generator=torch.Generator().manual_seed(2)) * 2
    counts = torch.bincount(draw(logits, 100_000, seed=size), minlength=size)
    assert chi_square(counts.double(), logits.double().softmax(0)) < 4


@pytest.mark.parametrize("top_p", [0.3, 1.0])
@pytest.mark.parametrize("temperature", EXTREMES)
def test_minus_infinity_is_impossible_at_any_temperature(temperature, top_p):
    logits = torch.tensor([-torch.inf, 3e38, -torch.inf, 0.0, -3e38, -torch.inf])
    u = torch.tensor([0.0, 1e-9, 0.5, LAST, 1.0], dtype=torch.float64)
    ids = choose(logits.repeat(5, 1), u, temperature=temperature, top_p=top_p)
    assert set(ids.tolist()) <= {1, 3, 4}


def test_a_very_high_temperature_is_uniform_over_what_is_possible():
    logits = torch.tensor([-torch.inf, 50.0, -50.0, -torch.inf])
    assert shares(logits, 20_000, temperature=1e30).tolist() == pytest.approx(
        [0, 0.5, 0.5, 0], abs=0.02
    )


def test_a_very_low_temperature_is_greedy():
    logits = torch.randn(50, 300, generator=torch.Generator().manual_seed(3))
    u = torch.from_numpy(uniforms(range(50), [0] * 50))
    best = logits.argmax(-1)
    assert torch.equal(choose(logits.clone(), u, temperature=1e-6), best)
    assert torch.equal(choose(logits.clone(), u, temperature=0), best)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [[math.nan, 0.0], [0.0, math.inf], [-math.inf, -math.inf]])
def test_logits_that_say_nothing_are_refused(bad, temperature):
    logits = torch.tensor([[0.0, 0.0], bad])
    with pytest.raises(DataError, match="row 1"):
        choose(logits, torch.tensor([0.5, 0.5]), temperature=temperature)


def test_uniforms_depend_on_seed_and_step_alone():
    together = uniforms([5, -1, 2**80, 5], [0, 1, 2, 3])
    apart = [uniforms([s], [t])[0] for s, t in [(5, 0), (-1, 1), (2**80, 2), (5, 3)]]
    assert together.tolist() == apart
    assert len(set(together.tolist())) == 4
    assert uniforms([0], [0])[0] > 0  # mixing functions have zero for a fixed point


@pytest.mark.parametrize("which", ["seeds", "steps", "pairs"])
def test_uniforms_are_uniform_along_seeds_and_along_steps(which):
    n, cells = 64_000, 64
    along = np.arange(n)
    u = uniforms(along if which != "steps" else [9] * n, along if which == "steps" else [0] * n)
    if which == "pairs":  # the same step of neighbouring seeds: cells of the unit square
        u = (np.floor(u[::2] * 8) * 8 + np.floor(u[1::2] * 8)) / 64
    counts = np.bincount((u * cells).astype(int), minlength=cells)
    assert len(counts) == cells
    assert abs(chi_square(torch.from_numpy(counts).double(), torch.full((cells,), 1 / cells))) < 4

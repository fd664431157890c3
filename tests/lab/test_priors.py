"""Rules over bits: labels and degrees by hand, and what a model is asked."""

import itertools

import numpy as np
import pytest
import torch

from prealign.errors import ConfigError
from prealign.lab.priors import RULES, Rivals, examples_needed, labels, mean_degree


def test_labels_by_hand():
    words = torch.tensor([[1.0, -1, -1, 1], [-1.0, 1, 1, 1], [1.0, 1, -1, -1]])
    assert labels("bit", words).tolist() == [1, -1, 1]
    assert labels("majority", words).tolist() == [-1, 1, 1]
    assert labels("parity of 2", words).tolist() == [-1, -1, 1]
    assert labels("parity of 3", words).tolist() == [1, -1, -1]


def test_every_rule_is_right_on_half_of_all_words():
    words = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=5)))
    assert [float(labels(rule, words).sum()) for rule in RULES] == [0.0] * 4


def test_mean_degrees():
    # majority of three: (a + b + c - a b c) / 2, so 3/4 at degree 1 and 1/4 at degree 3
    assert [mean_degree(rule) for rule in RULES] == [1.0, 1.5, 2.0, 3.0]


def test_what_is_learnt_is_learnt_and_the_simpler_rule_is_followed():
    followed, right = Rivals(simple="bit", other="parity of 3")(range(3))
    assert (right == 1).all()
    assert (followed > 0.95).all()


def test_words_against_it_turn_a_model():
    few = Rivals(against=2)(range(3))[0].mean()
    many = Rivals(against=40)(range(3))[0].mean()
    assert few > 0.8
    assert many < 0.2


def test_a_model_does_not_depend_on_those_beside_it():
    own = Rivals(simple="bit", other="majority", steps=60)
    np.testing.assert_allclose(own([5, 6])[0][1], own([6])[0][0], atol=0.02)


def test_examples_needed_by_hand():
    assert examples_needed([0, 2, 4], [1.0, 0.75, 0.25]) == 3.0
    assert examples_needed([0, 2], [0.4, 0.1]) == 0.0
    assert examples_needed([0, 2], [1.0, 0.6]) == float("inf")


def test_rules_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="rules of bit, majority"):
        Rivals(simple="bit", other="parity of 9")
    with pytest.raises(ConfigError, match="fewer words against than half"):
        Rivals(against=128)

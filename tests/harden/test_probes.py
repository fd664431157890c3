"""Probes: the regression against an oracle, what each kind can see, and what it may not look at."""

import json

import numpy as np
import pytest
import torch

from prealign.errors import ConfigError, DataError
from prealign.harden.probes import fit_probe, judge_probe, load_probe, logistic, save_probe

WIDTH = 6


def items(number, *, seed=0, strength=2.0, at=None):
    """Items of three tokens; the positive ones have `strength` more along one direction.

    With `at`, only the token there has it, with the sign of a second direction, so that the mean
    over tokens has nothing but noise.
    """
    random = np.random.default_rng(seed)
    labels = random.random(number) < 0.5
    readings = []
    for label in labels:
        one = random.normal(size=(3, WIDTH))
        if at is None:
            one[:, 0] += strength * label
        else:
            one[at, 1] = 8.0
            one[at, 0] = strength if label else -strength
            other = (at + 1) % 3
            one[other, 0] = -one[at, 0]
        readings.append(torch.tensor(one, dtype=torch.float32))
    groups = [f"g{random.integers(12)}" for _ in range(number)]
    return readings, labels, groups


def test_the_regression_is_where_its_gradient_is_zero():
    readings, labels, _ = items(80)
    own_ND = torch.stack([one.mean(dim=0) for one in readings])
    target_N = torch.tensor(labels, dtype=torch.float32)
    weight_D, bias = logistic(own_ND, target_N, 0.05)
    theta = torch.cat([weight_D, bias[None]]).double().requires_grad_()
    logits = own_ND.double() @ theta[:-1] + theta[-1]
    nll = torch.nn.functional.binary_cross_entropy_with_logits(logits, target_N.double())
    (grad,) = torch.autograd.grad(nll + 0.05 / 2 * theta[:-1].square().sum(), theta)
    assert grad.abs().max() < 1e-5


def test_the_regression_ends_also_where_classes_are_apart_and_hardly_held():
    own_ND = torch.tensor([[-1.0], [-2.0], [1.0], [2.0]])
    weight_D, _ = logistic(own_ND, torch.tensor([0.0, 0.0, 1.0, 1.0]), 1e-3)
    assert torch.isfinite(weight_D).all()
    assert weight_D[0] > 1


@pytest.mark.parametrize("kind", ["mean", "last", "attention"])
def test_a_direction_is_found_and_holds_on_other_items(kind):
    readings, labels, groups = items(240)
    probe = fit_probe(readings, labels, groups, kind=kind, layer=1, ridges=(0.01, 0.1))
    others, truth, names = items(200, seed=1)
    told = judge_probe(probe(others), truth, names, probe.about.threshold)
    assert told.auroc.value > 0.85
    assert told.auroc.low < told.auroc.value < told.auroc.high
    assert told.false_alarms.value < 0.08


def test_attention_finds_what_stands_on_one_token_and_a_mean_cannot():
    data, labels, groups = items(240, at=1)
    others, truth, _ = items(200, seed=1, at=1)
    by_kind = {
        kind: judge_probe(
            fit_probe(data, labels, groups, kind=kind, layer=0, ridges=(0.01,))(others),
            truth,
            _,
            0.5,
        ).auroc.value
        for kind in ("mean", "attention")
    }
    assert by_kind["attention"] > 0.95
    assert by_kind["mean"] < 0.7


def test_shuffled_labels_teach_nothing():
    readings, labels, groups = items(200)
    others, truth, names = items(200, seed=1)
    random, found = np.random.default_rng(0), []
    for _ in range(12):
        probe = fit_probe(readings, random.permutation(labels), groups, layer=0, ridges=(0.1,))
        found.append(judge_probe(probe(others), truth, names, 0.5).auroc.value)
    assert abs(np.mean(found) - 0.5) < 0.2


def test_the_threshold_is_of_folds_with_whole_groups():
    """Every group has a direction that gives its label away; unseen groups give nothing.

    A threshold from the items that the probe was fitted to would be below 0.1, where the negative
    ones of them are.
    """
    readings, labels, groups = [], [], []
    for group in range(24):
        for _ in range(6):
            one = np.zeros((1, 24))
            one[0, group] = 5.0
            readings.append(torch.tensor(one, dtype=torch.float32))
            labels.append(bool(group % 2))
            groups.append(str(group))
    probe = fit_probe(readings, labels, groups, layer=0, ridges=(1e-3,))
    scores = probe(readings)
    assert scores[~np.array(labels)].max() < 0.1
    assert probe.about.threshold == pytest.approx(0.5, abs=0.05)


def test_no_more_than_one_in_a_hundred_negatives_of_the_folds_alarm():
    readings, labels, groups = items(400, strength=3.0)
    probe = fit_probe(readings, labels, groups, layer=0)
    negatives = probe(readings)[~labels]
    assert (negatives > probe.about.threshold).mean() <= 0.03


def test_shares_and_intervals_by_hand():
    told = judge_probe([0.9, 0.2, 0.8, 0.1], [1, 1, 0, 0], ["a", "b", "c", "d"], 0.5)
    assert told.auroc.value == 0.75
    assert (told.recall.value, told.recall.n) == (0.5, 2)
    assert (told.false_alarms.value, told.false_alarms.n) == (0.5, 2)


@pytest.mark.parametrize("kind", ["mean", "attention"])
def test_a_probe_comes_back_from_its_files_as_it_was(kind, tmp_path):
    readings, labels, groups = items(60)
    probe = fit_probe(readings, labels, groups, kind=kind, layer=2, what="a lie", ridges=(0.1,))
    save_probe(tmp_path, probe)
    found = load_probe(tmp_path)
    assert found.about == probe.about
    assert json.loads((tmp_path / "probe.json").read_text())["what"] == "a lie"
    assert (found.weight_D == probe.weight_D).all()
    assert found(readings) == pytest.approx(probe(readings), abs=1e-6)


def test_files_of_two_probes_are_refused(tmp_path):
    readings, labels, groups = items(60)
    with pytest.raises(DataError, match="holds no probe"):
        load_probe(tmp_path)
    save_probe(tmp_path, fit_probe(readings, labels, groups, layer=0))
    about = json.loads((tmp_path / "probe.json").read_text()) | {"kind": "attention"}
    (tmp_path / "probe.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match="the files are of two probes"):
        load_probe(tmp_path)


def test_what_cannot_be_fitted_is_refused():
    readings, labels, groups = items(60)
    with pytest.raises(DataError, match="expected as many"):
        fit_probe(readings[:-1], labels, groups, layer=0)
    with pytest.raises(DataError, match="a probe needs 4 at least"):
        fit_probe(readings, labels, ["one"] * 60, layer=0)
    with pytest.raises(DataError, match="needs both classes"):
        fit_probe(readings, [False] * 60, groups, layer=0)
    with pytest.raises(ConfigError, match="all above 0"):
        fit_probe(readings, labels, groups, layer=0, ridges=(0.0,))
    probe = fit_probe(readings, labels, groups, layer=0)
    with pytest.raises(DataError, match="expected tokens of width 6"):
        probe([torch.zeros(3, 5)])

"""Experiments on toy models: a run writes its numbers, its bars and its figures."""

import json

import numpy as np
import pytest

from prealign.errors import ConfigError
from prealign.recipes import gating, monosemanticity, priors, superposition
from prealign.recipes.lab import page


@pytest.mark.parametrize(
    ("lab", "name", "arms", "bars", "figures"),
    [
        (superposition, "superposition", len(superposition.THERE), 7, 3),
        (monosemanticity, "monosemanticity", 4, 3, 2),
        (gating, "gating", len(gating.SHARES), 4, 1),
        (priors, "priors", len(priors.PAIRS) + 4 + 1, 4, 1),
    ],
)
def test_a_run_writes_numbers_bars_and_figures(tmp_path, lab, name, arms, bars, figures):
    out = tmp_path / "run"
    lab.recipe("tiny")(out)
    found = json.loads((out / f"{name}.json").read_text())
    assert len({row["arm"] for row in found["rows"]}) == arms
    assert len(found["checks"]) == bars
    assert all(row["low"] <= row["value"] <= row["high"] for row in found["rows"])
    assert (out / "figure.html").read_text().count("<h2>") == figures
    assert found["seeds"]


def test_one_seed_has_no_spread_and_is_refused():
    for lab in (superposition.Superposition, gating.Gating, priors.Priors):
        with pytest.raises(ConfigError, match="seeds=1: expected 2 or more"):
            lab(seeds=1)


def test_a_title_is_only_ever_text():
    assert "<b>" not in page("a <b>", "<b>?", {"<b>": "<svg></svg>"})


def test_bars_can_be_missed():
    pairs = {pair: {n: np.full(4, 0.9 if n < 4 else 0.1) for n in priors.COUNTS}
             for pair in priors.PAIRS}  # fmt: skip
    same = {(rule, rule): {0: np.array([0.2, 0.8, 0.4, 0.6])} for rule in priors.RULES}
    checks = priors.checks_of(pairs | same)
    assert [one.holds for one in checks[:3]] == [True, True, False]
    pairs["bit", "majority"] = {n: np.full(4, 0.4) for n in priors.COUNTS}
    same["bit", "bit"] = {0: np.full(4, 0.9)}
    assert [one.holds for one in priors.checks_of(pairs | same)[:2]] == [False, False]

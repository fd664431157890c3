"""The experiment on S-curves: a run writes its results, its figure and its bars."""

import json

import pytest

from prealign.recipes.s_curves import recipe, sign_test


def test_a_run_writes_numbers_bars_and_a_figure(tmp_path):
    out = tmp_path / "run"
    recipe("tiny")(out)
    found = json.loads((out / "s_curves.json").read_text())
    assert found["seeds"] == [400, 401, 402]
    assert len(found["checks"]) == 5
    assert found["checks"][0]["value"] == "3 of 3"
    arms = {row["arm"] for row in found["rows"]}
    assert len(arms) == 14
    assert (out / "figure.html").read_text().count("<h2>") == 3
    recipe("tiny")(out)  # again: the same numbers
    again = json.loads((out / "s_curves.json").read_text())
    assert again["rows"] == found["rows"]


def test_the_sign_test_by_hand():
    assert sign_test(3, 3) == pytest.approx(1 / 8)
    assert sign_test(2, 3) == pytest.approx(4 / 8)
    assert sign_test(0, 5) == 1

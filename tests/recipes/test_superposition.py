"""The experiment on superposition: a run writes its results, its figure and its bars."""

import json

from prealign.recipes.superposition import THERE, recipe


def test_a_run_writes_numbers_bars_and_a_figure(tmp_path):
    out = tmp_path / "run"
    recipe("tiny")(out)
    found = json.loads((out / "superposition.json").read_text())
    assert {row["arm"] for row in found["rows"]} == {f"there with {there:g}" for there in THERE}
    assert len(found["checks"]) == 7
    assert all(row["low"] <= row["value"] <= row["high"] for row in found["rows"])
    assert (out / "figure.html").read_text().count("<h2>") == 3

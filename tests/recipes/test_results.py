import json
import runpy
import sys

import pytest

from prealign.errors import RunError
from prealign.recipes.results import (
    Final,
    at_least,
    at_most,
    first_steps_checks,
    headline_rows,
    labels_checks,
    main,
    pep8_checks,
    phf_checks,
    rounds_below,
)
from tests.report.conftest import write_comparison


def final(arm: str, seed: int, values: dict[tuple[str, str], float]) -> Final:
    rows = [
        {"metric": metric, "condition": condition, "value": value, "unit": "u"}
        for (metric, condition), value in values.items()
    ]
    headline = "continues code" if arm == "mle" else "continues code, good each line"
    return Final(arm, seed, headline, "no tags", rows, wall_s=100.0 + seed)


def pair(seed: int, *, score: float, loss: float) -> list[Final]:
    return [
        final(
            "mle",
            seed,
            {
                ("mean_score", "untagged"): 0.1,
                ("mean_score", "continues code"): 0.33,
                ("loss", "no tags"): 2.0,
            },
        ),
        final(
            "conditional",
            seed,
            {
                ("mean_score", "good, each line"): score,
                ("mean_score", "good, once"): 2 * score,
                ("mean_score", "continues code, good each line"): 3 * score,
                ("mean_score", "continues code, good once"): 4 * score,
                ("mean_score", "continues code, bad each line"): 6 * score,
                ("loss", "true tags"): loss,
                ("loss", "no tags"): 1.5 * loss,
            },
        ),
    ]


def test_every_bar_of_the_first_command_has_its_entry():
    finals = [*pair(0, score=0.02, loss=1.9), *pair(1, score=0.04, loss=1.99)]
    checks = first_steps_checks(finals)
    assert [check.holds for check in checks] == [True, False, True, True]
    assert checks[0].value == "seed 0: 5, seed 1: 2.5"
    assert checks[1].value == "seed 0: 2.5, seed 1: 1.25"


def test_every_bar_of_pep8_has_its_entry_also_when_it_is_missed():
    finals = pair(0, score=0.05, loss=1.9)
    checks = pep8_checks(finals, finals)
    ratios, rest = checks[:4], checks[4:]
    assert [check.value for check in ratios] == [f"seed 0: {n}" for n in ("2.2", "1.65", "2", "1")]
    assert [check.holds for check in ratios] == [True, False, True, False]
    assert [check.holds for check in rest] == [True, False, True, False]
    assert checks[-1].value is None


def test_the_bars_of_the_objectives_are_those_of_the_task():
    finals = [*pair(0, score=0.04, loss=1.9), *pair(1, score=0.05, loss=2.1)]
    quotes, loss = phf_checks(finals, "quotes")
    assert (quotes.bar, quotes.holds) == (">= 3", False)
    assert quotes.value == "seed 0: 2.75, seed 1: 2.2"
    assert phf_checks(finals, "pep8")[0].holds
    assert not loss.holds


def test_red_teaming_is_a_bar_where_both_were_attacked():
    def attacked(arm, seed, *scores):
        values = {(f"redteam_round_{k}", "red-teamed"): v for k, v in enumerate(scores)}
        (found,) = (f for f in pair(seed, score=0.01, loss=1.9) if f.arm == arm)
        return found._replace(rows=[*found.rows, *final(arm, seed, values).rows])

    finals = [
        attacked("mle", 0, 0.1, 0.2, 0.3), attacked("conditional", 0, 0.05, 0.1, 0.2),
        attacked("mle", 1, 0.1, 0.2, 0.3), attacked("conditional", 1, 0.05, 0.2, 0.2),
    ]  # fmt: skip
    assert rounds_below(finals, 0) == (3, 3)
    check = phf_checks(finals, "quotes")[-1]
    assert (check.value, check.holds) == ("seed 0: 3 of 3, seed 1: 2 of 3", False)
    assert phf_checks(finals[:2], "quotes")[-1].holds
    one = [finals[0], *(f for f in pair(0, score=0.01, loss=1.9) if f.arm == "conditional")]
    assert len(phf_checks(one, "quotes")) == 2


def test_headline_numbers_stand_beside_those_of_plain_training_with_the_same_seed():
    finals = [*pair(0, score=0.04, loss=1.9), *pair(1, score=0.0, loss=2.1)]
    for one in finals:
        one.rows.append({"metric": "unigram_entropy_bits", "condition": one.condition, "value": 7})
    finals = [f._replace(loss_condition="true tags") if f.arm == "conditional" else f
              for f in finals]  # fmt: skip
    rows = {(row.arm, row.seed, row.metric): row.value for row in headline_rows(finals)}
    assert rows["mle", 0, "times_less"] == rows["mle", 1, "loss_ratio"] == 1
    assert ("conditional", 0, "times_less") not in rows  # a mean over the other seeds would lie
    assert rows["conditional", 1, "loss_ratio"] == pytest.approx(2.1 / 2)
    assert rows["conditional", 1, "untagged_loss_ratio"] == pytest.approx(1.5 * 2.1 / 2)
    assert rows["conditional", 1, "headline_score"] == 0
    assert ("conditional", 1, "times_less") not in rows
    rows = headline_rows([one for one in finals if one.seed == 0])
    (times,) = (row.value for row in rows if (row.arm, row.metric) == ("conditional", "times_less"))
    assert times == pytest.approx(0.33 / 0.12)


def test_a_comparison_without_its_control_has_no_bars():
    with pytest.raises(RunError, match="has no arm 'conditional'"):
        phf_checks(pair(0, score=1, loss=1)[:1], "quotes")


def test_labels_say_how_many_texts_how_long_and_whether_both_models_are_there():
    (check,) = labels_checks(pair(0, score=0.1, loss=1.0), texts=19826)
    assert check.value == "19,826 texts; seconds of both arms together: seed 0: 200"
    assert check.holds
    (check,) = labels_checks(pair(0, score=0.1, loss=1.0)[:1], texts=19826)
    assert not check.holds


def test_a_bar_must_hold_for_every_seed():
    assert at_least("x", 2, {0: 3.0, 1: 2.0}, control="c").holds
    assert not at_least("x", 2, {0: 3.0, 1: 1.99}, control="c").holds
    assert not at_most("x", 1, {0: 0.9, 1: 1.01}, control="c").holds


def test_nothing_unwanted_at_all_is_the_best_ratio_and_nothing_over_nothing_is_none():
    finals = [*pair(0, score=0.0, loss=1.9), *pair(1, score=0.01, loss=1.9)]
    check = phf_checks(finals, "quotes")[0]
    assert (check.value, check.holds) == ("seed 0: infinite (over 0), seed 1: 11", True)
    silent = {final.arm: final for final in finals if final.seed == 0}
    silent["mle"].rows[1]["value"] = 0.0
    check = phf_checks(list(silent.values()), "quotes")[0]
    assert (check.value, check.holds) == ("seed 0: 0 over 0", False)


def test_a_number_that_is_missing_is_named():
    with pytest.raises(RunError, match="mle, seed 0: no 'hit_share' under 'untagged'"):
        pair(0, score=1, loss=1)[0].value("hit_share", "untagged")


def test_the_command_writes_what_the_run_recorded(tmp_path, monkeypatch):
    write_comparison(tmp_path / "study", seeds=2)
    monkeypatch.setattr(
        "prealign.recipes.results.first_steps_checks",
        lambda finals: [at_least("n", 1, {f.seed: 1.0 for f in finals}, control="-")],
    )
    assert main(["first_steps", str(tmp_path / "study"), str(tmp_path / "first.json")]) == 0
    data = json.loads((tmp_path / "first.json").read_text())
    assert data["name"] == "first"
    assert data["seeds"] == [0, 1]
    scores = [row["value"] for row in data["rows"] if row["metric"] == "mean_score"]
    assert scores == pytest.approx([0.08, 0.02, 0.10, 0.02])


def test_other_words_print_how_to_use_it(capsys):
    assert main(["nothing"]) == 2
    assert "python -m prealign.recipes.results" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "kind"), [("results", "first_steps"), ("two_modes_results", "world")]
)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_a_run_that_is_not_there_is_one_line_and_exit_code_2(
    monkeypatch, capsys, tmp_path, module, kind
):
    monkeypatch.setattr(sys, "argv", ["x", kind, str(tmp_path / "none"), str(tmp_path / "r.json")])
    with pytest.raises(SystemExit) as leaving:
        runpy.run_module(f"prealign.recipes.{module}", run_name="__main__")
    assert leaving.value.code == 2
    err = capsys.readouterr().err
    assert "none" in err
    assert len(err.splitlines()) == 1

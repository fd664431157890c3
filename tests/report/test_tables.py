import shutil
from io import StringIO

import pytest
from rich.console import Console

from prealign.errors import DataError
from prealign.report.load import load_study
from prealign.report.tables import (
    codes,
    headline,
    losses,
    over_seeds,
    print_table,
    seed_ratios,
    verdict,
)


def test_one_seed_keeps_its_own_interval(one_seed):
    study = load_study(one_seed)
    assert over_seeds(study.of("mle"), "mean_score") == pytest.approx((0.08, 0.072, 0.088))


def test_several_seeds_give_their_mean_and_their_range(three_seeds):
    study = load_study(three_seeds)
    assert over_seeds(study.of("mle"), "mean_score") == (pytest.approx(0.10), 0.08, 0.12)


def test_ratios_are_taken_within_a_seed(three_seeds):
    assert seed_ratios(load_study(three_seeds), "mean_score", "conditional") == pytest.approx(
        [4.0, 5.0, 6.0]
    )


def test_the_verdict_names_factor_range_and_loss(three_seeds):
    said = verdict(load_study(three_seeds))
    assert "5.0 times lower" in said
    assert "4.00 to 6.00 over 3 seeds" in said
    assert "held-out loss is 5.0% lower" in said


def test_an_arm_that_is_worse_is_called_worse(one_seed):
    study = load_study(one_seed)
    turned = study.__class__(**{**vars(study), "baseline": "conditional"})
    assert "4.0 times higher" in verdict(turned)
    assert "5.3% higher" in verdict(turned)


def test_an_unfinished_run_is_counted_as_such(three_seeds):
    (three_seeds / "mle-seed1" / "done.json").unlink()
    shutil.rmtree(three_seeds / "conditional-seed2")
    table = headline(load_study(three_seeds))
    assert table.rows[0][1:] == ["2 of 3, unfinished", "2 of 3, unfinished"]


def test_what_was_not_measured_is_a_dash(one_seed):
    (one_seed / "conditional-seed0" / "evals.jsonl").write_text("")
    table = {row[0]: row[1:] for row in headline(load_study(one_seed)).rows}
    assert table["mean score"][1] == "-"
    assert "not measured yet" in verdict(load_study(one_seed))


def test_a_code_that_a_measured_arm_never_had_is_zero(one_seed):
    file = one_seed / "conditional-seed0" / "evals.jsonl"
    file.write_text("".join(x + "\n" for x in file.read_text().splitlines() if "code:" not in x))
    assert codes(load_study(one_seed)).rows == [["E501", "0.4", "0"]]


def test_losses_stand_against_the_baseline(one_seed):
    rows = losses(load_study(one_seed)).rows
    assert [row[3] for row in rows] == ["+0.00%", "-5.00%"]


def test_the_terminal_shows_the_headline(one_seed):
    console = Console(width=120, record=True, file=StringIO())
    print_table(load_study(one_seed), console)
    assert "conditional (good, each line)" in console.export_text()


def test_a_folder_without_a_comparison_says_so(tmp_path):
    with pytest.raises(DataError, match=r"holds no comparison \(no study.json\)"):
        load_study(tmp_path)


def test_a_study_that_lacks_something_says_what(one_seed):
    file = one_seed / "study.json"
    file.write_text(file.read_text().replace('"baseline"', '"basis"'))
    with pytest.raises(DataError, match=r"study\.json: has no 'baseline'"):
        load_study(one_seed)

import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from prealign.report.load import Study, load_study
from prealign.report.page import page
from prealign.report.tables import by_seed, codes, conditions, headline, losses, print_table
from prealign.report.verdict import missing, verdict
from tests.report.build import row, write_pair, write_run, write_study


def cells(study: Study) -> dict[str, list[str]]:
    return {one[0]: one[1:] for one in headline(study).rows}


def test_the_headline_has_means_ranges_and_the_ratio(three_seeds):
    rows = cells(load_study(three_seeds))
    assert rows["seeds"] == ["3", "3"]
    assert rows["mean score, u"] == ["0.100 (0.0800 to 0.120)", "0.0200"]
    assert rows["times less than mle"] == ["1", "5.00 (4.00 to 6.00)"]
    assert rows["held-out loss, u"][1] == "1.900"


def test_what_only_some_seeds_have_says_so(three_seeds):
    file = three_seeds / "mle-seed1" / "evals.jsonl"
    kept = [one for one in file.read_text().splitlines() if "mean_score" not in one]
    file.write_text("".join(one + "\n" for one in kept))
    number = cells(load_study(three_seeds))["mean score, u"][0]
    assert number == "0.100 (0.0800 to 0.120), 2 of 3 seeds"


def test_unfinished_runs_are_counted_and_stand_in_their_own_row(tmp_path):
    folder = write_pair(tmp_path / "study", {0: (0.08, 0.02)})
    write_study_again = json.loads((folder / "study.json").read_text())
    for arm in ("mle", "conditional"):
        entry = next(one for one in write_study_again["arms"] if one["arm"] == arm)
        write_study_again["arms"].append(entry | {"seed": 1, "folder": f"{arm}-seed1"})
    (folder / "study.json").write_text(json.dumps(write_study_again))
    write_run(folder / "mle-seed1", condition="untagged")
    study = load_study(folder)
    assert cells(study)["seeds"] == ["1 of 2 finished", "1 of 2 finished"]
    states = [(one[0], one[1], one[2], one[5]) for one in by_seed(study).rows]
    assert states[1] == ("mle", "1", "unfinished: step 2 of 4", "-")
    assert states[3] == ("conditional", "1", "not begun", "-")
    assert "mle seed 1 (unfinished), conditional seed 1 (not begun)" in missing(study)


def test_the_held_out_text_stands_first_where_it_was_measured(one_seed):
    rows = [
        row("after a prompt", "mean_score", 0.0034, final=True),
        row("from the start", "mean_score", 0.0004, final=True),
    ]
    (one_seed / "evals.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    first, second, third, *_ = conditions(load_study(one_seed)).rows
    assert first[:3] == ["held-out text", "after a prompt", "0.00340"]
    assert second[:3] == ["held-out text", "from the start", "0.000400"]
    assert third[0] == "mle"


def many_arms(folder, count: int):
    """A comparison of mle with so many other arms; arm k scores k hundredths."""
    names = ["mle", *(f"arm-{k}" for k in range(1, count + 1))]
    write_study(folder, [(name, 0) for name in names])
    for k, name in enumerate(names):
        condition = "untagged" if name == "mle" else "good, each line"
        score = 0.5 if name == "mle" else k / 100
        write_run(folder / f"{name}-seed0", score=score, loss=2.0, condition=condition,
                  codes={"E1": 1.0 + k})  # fmt: skip
    return folder


def test_of_many_arms_each_is_a_row_and_the_terminal_has_room(tmp_path):
    study = load_study(many_arms(tmp_path, 9))
    table = headline(study)
    assert table.head[:4] == ["arm", "samples", "held-out text read with", "seeds"]
    assert [row[0] for row in table.rows] == study.arms
    at = table.head.index("mean score, u")
    assert table.rows[5][at].startswith("0.0500")
    assert table.rows[5][at + 1] == "10.0"
    assert [row[:2] for row in codes(study).rows][:2] == [
        ["mle", "1.00"], ["arm-1", "2.00"],
    ]  # fmt: skip
    said = StringIO()
    print_table(study, Console(file=said, width=80))
    assert "arm-9" in said.getvalue()
    lines = said.getvalue().splitlines()
    (line,) = [one for one in lines if one.startswith("\u2502 arm-5 ") and "10.0" in one]
    assert "0.0500" in line
    assert 'class="verdict many"' in page(study)


def test_four_others_are_too_many_and_three_are_not(tmp_path):
    assert headline(load_study(many_arms(tmp_path / "few", 3))).head[1] == "mle"
    assert headline(load_study(many_arms(tmp_path / "many", 4))).head[1] == "samples"


def test_every_condition_has_a_row(three_seeds):
    rows = conditions(load_study(three_seeds)).rows
    assert [one[:2] for one in rows] == [
        ["mle", "untagged"],
        ["conditional", "good, each line"],
        ["conditional", "no tag"],
    ]
    assert rows[2][2] == "0.0600"


def test_losses_stand_against_the_baseline_in_every_reading(one_seed):
    rows = losses(load_study(one_seed)).rows
    assert [(one[1], one[3]) for one in rows] == [
        ("no tags", "0"),
        ("true tags", "-5.0%"),
        ("no tags", "+5.0%"),
    ]


def test_codes_have_rates_and_ratios(one_seed):
    assert codes(load_study(one_seed)).rows == [
        ["E501", "4.00", "0.500", "8.00"],
        ["W291", "1.00", "0", "infinite"],
    ]


def test_the_verdict_names_factor_spread_and_cost(three_seeds):
    (said,) = verdict(load_study(three_seeds))
    assert said.main == (
        "conditional scores 5.0 times less than mle: 0.0200 against 0.100 per character "
        "(between 4.00 and 6.00 in 3 seeds)."
    )
    assert said.more == (
        "Its held-out loss (true tags) is 5.0 % lower than mle (5.0 to 5.0 % in 3 seeds). "
        "Read as mle is (no tags), it is 5.0 % higher (5.0 to 5.0 % in 3 seeds)."
    )
    assert missing(load_study(three_seeds)) == ""


@pytest.mark.parametrize(
    ("scores", "beginning"),
    [
        ({0: (0.02, 0.08)}, "conditional is worse: it scores 4.0 times more than mle"),
        ({0: (0.05, 0.05)}, "conditional scores about the same as mle"),
        ({0: (0.02, 0.04), 1: (0.04, 0.02)}, "conditional is not clearly better or worse than mle"),
        ({0: (0.02, 0.0)}, "conditional scores 0 in every sample; mle scores 0.0200"),
        ({0: (0.0, 0.02)}, "conditional is worse: 0.0200 against 0 "),
        ({0: (0.0, 0.0)}, "conditional and mle both score 0"),
    ],
)
def test_the_verdict_does_not_flatter(tmp_path, scores, beginning):
    assert verdict(load_study(write_pair(tmp_path / "s", scores)))[0].main.startswith(beginning)


def test_intervals_that_overlap_are_told(tmp_path):
    near = load_study(write_pair(tmp_path / "near", {0: (0.10, 0.09)}))
    far = load_study(write_pair(tmp_path / "far", {0: (0.10, 0.05)}))
    assert "intervals overlap" in verdict(near)[0].more
    assert "overlap" not in verdict(far)[0].more


def test_an_arm_that_writes_little_is_not_praised_alone(tmp_path):
    folder = write_study(tmp_path / "s", [("mle", 0), ("conditional", 0)])
    for arm, score, chars in (("mle", 0.1, 400.0), ("conditional", 0.01, 90.0)):
        condition = "untagged" if arm == "mle" else "good, each line"
        more = [row(condition, "chars", chars, final=True)]
        write_run(folder / f"{arm}-seed0", score=score, condition=condition, more=more)
    (said,) = verdict(load_study(folder))
    assert "length of conditional's samples is 90.0 against 400" in said.more


def test_nothing_measured_is_said_and_not_guessed(tmp_path):
    study = load_study(write_study(tmp_path / "s", [("mle", 0), ("conditional", 0)]))
    assert verdict(study)[0].main.startswith("conditional cannot be compared with mle yet")
    assert cells(study)["seeds"] == ["0 of 1 finished", "0 of 1 finished"]


def test_the_terminal_shows_names_as_they_are(one_seed):
    study = replace(load_study(one_seed), title="[bold]A[/bold]")
    console = Console(width=120, file=StringIO(), color_system=None)
    print_table(study, console)
    text = console.file.getvalue()
    for piece in ("[bold]A[/bold]", "times less than mle", "no tag", "E501", "4.0 times less"):
        assert piece in text


def test_a_lone_run_has_no_column_of_ratios(tmp_path):
    write_run(tmp_path / "run", score=0.25, loss=1.5)
    table = by_seed(load_study(tmp_path / "run"))
    assert not [name for name in table.head if "times" in name]
    assert [len(one) for one in table.rows] == [len(table.head)]
    assert table.rows[0][-1] == "1.500 (1.400 to 1.600)"

import json

import pytest

from prealign.errors import DataError
from prealign.report.results import main, results_table, update_all, update_marked
from prealign.runs import Check, ResultRow, write_results


@pytest.fixture
def results(tmp_path):
    def number(arm, metric, value, seed=None, **more):
        return ResultRow(arm=arm, metric=metric, unit="u", value=value, seed=seed, **more)

    write_results(
        tmp_path / "thing.json",
        question="?",
        seeds=[0, 1],
        wall_s=61,
        rows=[
            number("mle", "score", 0.5, seed=0, low=0.4, high=0.6),
            number("mle", "score", 0.7, seed=1, low=0.6, high=0.8),
            number("mle", "code:E501", 3.0, seed=0),
            number("tagged | ours", "score", 0.25, seed=0, low=0.125, high=0.5),
            number("tagged | ours", "speed", 2000.0),
        ],
        checks=[
            Check(what="a", bar=">= 2", value=2.5, holds=True, control="mle"),
            Check(what="b | c", bar="<= 1", value=None, holds=False, control="-"),
        ],
    )
    return tmp_path


def test_numbers_are_means_over_seeds_with_their_range_or_keep_their_interval(results):
    lines = results_table(results / "thing.json").splitlines()
    assert lines[0] == "| arm | score (u) | speed (u) |"
    assert lines[2] == "| mle | 0.600 (0.500 to 0.700) | - |"
    assert lines[3] == r"| tagged \| ours | 0.250 (0.125 to 0.500) | 2,000 |"


def test_a_missed_bar_is_shown_as_missed(results):
    table = results_table(results / "thing.json")
    assert "| a | >= 2 | 2.500 | yes | mle |" in table
    assert r"| b \| c | <= 1 | - | **no** | - |" in table


def test_the_table_says_where_it_is_from(results):
    last = results_table(results / "thing.json").splitlines()[-1]
    assert "seeds 0, 1; 61 s on " in last
    assert "`results/thing.json` (1 by code among them)" in last


def test_metrics_can_be_chosen_and_must_exist(results):
    mark = "<!-- results:thing speed -->"
    text = update_all(f"{mark}\n<!-- /results -->", results)
    assert "| arm | speed (u) |" in text
    assert "score" not in text.splitlines()[1]
    with pytest.raises(DataError, match=r"has no metric 'sped' \(it has: score, code:E501, speed"):
        results_table(results / "thing.json", ["sped"])


def test_only_what_is_marked_changes_and_twice_is_once(results):
    text = "before\n<!-- results:thing -->\nold\n<!-- /results -->\nafter\n"
    new = update_all(text, results)
    assert new.startswith("before\n<!-- results:thing -->\n| arm |")
    assert new.endswith("\n<!-- /results -->\nafter\n")
    assert update_all(new, results) == new


def test_a_table_is_taken_literally():
    text = "<!-- results:x -->\n<!-- /results -->"
    assert r"\1 \g<0>" in update_marked(text, "x", r"\1 \g<0>")


def test_every_mark_of_a_name_is_filled():
    mark = "<!-- results:x -->\n<!-- /results -->\n"
    assert update_marked(mark * 2, "x", "T").count("\nT\n") == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", r"there is no mark '<!-- results:x -->'"),
        ("<!-- results:x -->\n", r"is not closed"),
        ("<!-- results:x -->\n<!-- results:y -->\n<!-- /results -->", r"is not closed"),
    ],
)
def test_a_mark_that_is_missing_or_open_is_refused(text, message):
    with pytest.raises(DataError, match=message):
        update_marked(text, "x", "T")


def test_the_command_checks_and_writes(results, capsys):
    page = results / "README.md"
    page.write_text("<!-- results:thing -->\n<!-- /results -->\n")
    arguments = [str(page), str(results)]
    assert main([*arguments, "--check"]) == 1
    assert "its tables differ" in capsys.readouterr().out
    assert main(arguments) == 0
    assert main([*arguments, "--check"]) == 0


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("other", {}, r"other\.json: there is no such results file"),
        ("thing", {"checks": None}, r"thing\.json: has no 'checks'"),
    ],
)
def test_a_results_file_that_is_missing_or_lacks_something_is_named(results, name, change, message):
    file = results / "thing.json"
    data = json.loads(file.read_text()) | change
    file.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    with pytest.raises(DataError, match=message):
        update_all(f"<!-- results:{name} -->\n<!-- /results -->", results)


def test_the_bars_can_stand_alone(results):
    alone = results_table(results / "thing.json", ["bars"])
    assert alone in results_table(results / "thing.json")
    assert alone.startswith("| what | bar |")

import pytest

from prealign.errors import DataError
from prealign.report.results import main, results_table, update_marked
from prealign.runs import Check, write_results


@pytest.fixture
def results(tmp_path):
    checks = [
        Check(what="a", bar=">= 2", value=2.5, holds=True, control="mle"),
        Check(what="b | c", bar="<= 1", value=None, holds=False, control="-"),
    ]
    write_results(
        tmp_path / "thing.json", question="?", seeds=[0, 1], wall_s=61, rows=[], checks=checks
    )
    return tmp_path


def test_a_missed_bar_is_shown_as_missed(results):
    table = results_table(results / "thing.json").splitlines()
    assert table[2] == "| a | >= 2 | 2.5 | yes | mle |"
    assert table[3] == "| b / c | <= 1 | - | **no** | - |"
    assert "seeds 0, 1; 61 s" in table[-1]


def test_only_what_is_marked_changes(results):
    text = "before\n<!-- results:thing -->\nold\n<!-- /results -->\nafter\n"
    new = update_marked(text, results)
    assert new.startswith("before\n<!-- results:thing -->\n| what |")
    assert new.endswith("\n<!-- /results -->\nafter\n")
    assert update_marked(new, results) == new


def test_the_command_checks_and_writes(results):
    page = results / "README.md"
    page.write_text("<!-- results:thing -->\n<!-- /results -->\n")
    arguments = [str(page), str(results)]
    assert main([*arguments, "--check"]) == 1
    assert main(arguments) == 0
    assert main([*arguments, "--check"]) == 0


def test_a_results_file_that_is_not_there_is_named(results):
    with pytest.raises(DataError, match=r"other.json: there is no such results file"):
        update_marked("<!-- results:other -->\n<!-- /results -->", results)


def test_results_hold_no_nan(tmp_path):
    check = Check(what="a", bar="", value=float("nan"), holds=False, control="")
    with pytest.raises(ValueError, match="Out of range float"):
        write_results(tmp_path / "x.json", question="", seeds=[], wall_s=0, rows=[], checks=[check])

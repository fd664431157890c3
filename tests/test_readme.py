"""The README says what is so: its tables are those of results/, its commands and files exist."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prealign.cli import app
from prealign.report.results import OPENING, main, update_all

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = sorted((ROOT / "results").glob("*.json"))


def test_tables_are_made_from_the_results():
    assert main([str(ROOT / "README.md"), str(ROOT / "results"), "--check"]) == 0


def test_a_number_that_was_changed_by_hand_is_noticed():
    (name, *_) = OPENING.findall(README)
    at = README.index(f"<!-- results:{name} -->") + len(name) + 20
    digit = re.search(r"\d", README[at:]).start() + at
    changed = README[:digit] + str((int(README[digit]) + 1) % 10) + README[digit + 1 :]
    assert update_all(changed, ROOT / "results") == README


def test_every_results_file_is_shown():
    shown = {mark.split()[0] for mark in OPENING.findall(README)}
    assert shown == {path.stem for path in RESULTS}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_have_the_one_form(path):
    data = json.loads(path.read_text())
    head = {"name", "question", "command", "commit", "date", "machine", "versions", "seeds"}
    assert head | {"wall_s", "rows", "checks"} <= data.keys()
    assert data["name"] == path.stem
    assert data["checks"]
    for row in data["rows"]:
        assert {"arm", "metric", "unit", "value"} <= row.keys()
        assert isinstance(row["value"], int | float)
    for check in data["checks"]:
        assert check.keys() == {"what", "bar", "value", "holds", "control"}
        assert isinstance(check["holds"], bool)


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", *sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")
)])  # fmt: skip
def test_links_and_named_files_exist(file):
    text = (ROOT / file).read_text()
    base = (ROOT / file).parent
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (base / target).exists(), f"{file}: there is no {target}"
    for target in re.findall(r"`((?:prealign|tests|benchmarks|docs|results)/[\w/.-]+)`", text):
        assert (ROOT / target).exists(), f"{file}: there is no {target}"


def test_the_commands_it_names_exist():
    names = set(re.findall(r"^prealign (\w+)", README, flags=re.MULTILINE))
    assert names == {
        "recipes", "run", "annotate", "calibrate", "show", "sample", "report", "guard", "serve",
        "corpus", "model",
    }  # fmt: skip
    for name in names:
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0

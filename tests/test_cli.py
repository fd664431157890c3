import json
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from prealign.cli import app, main
from prealign.errors import ConfigError


def run(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process and return exit code, output, errors."""
    monkeypatch.setattr(sys, "argv", ["prealign", *map(str, arguments)])
    with pytest.raises(SystemExit) as leaving:
        main()
    out, err = capsys.readouterr()
    return int(leaving.value.code or 0), out, err


def test_help_needs_no_torch_and_is_quick():
    code = "import sys; from prealign.cli import app; assert 'torch' not in sys.modules"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert time.perf_counter() - started < 5  # a bound that only a heavy import breaks


def test_every_command_explains_itself():
    for command in ("run", "recipes", "annotate", "sample", "report", "show", "serve", "guard"):
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def test_recipes_are_listed_with_what_they_show(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "recipes")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines()} == {
        "character", "conditioning", "first_steps", "gating", "honesty", "labels",
        "monosemanticity", "myopia", "myopia_words", "narration", "organisms", "pep8", "phf",
        "priors", "redteam", "retention", "s_curves", "superposition", "surgeon", "two_modes",
        "two_modes_real",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nothing"), "recipe 'nothing': there is none (there are: "),
        (("run", "pep8", "text_tokens"), "'text_tokens': expected KEY=VALUE"),
        (("run", "pep8", "train.lrr=1"), "TrainSettings has no setting 'lrr'; did you mean 'lr'?"),
        (("run", "pep8", "size=huge"), "size=huge: expected one of tiny, small, full"),
        (("report", "nowhere"), "nowhere: holds no comparison"),
        (("show", "nowhere.parquet"), "nowhere.parquet: there is no such file"),
        (("annotate", "nowhere", "--out", "x"), "nowhere"),
        (("sample", "nowhere"), "nowhere: has no scheme.json"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert message in err
    assert err.startswith("prealign: ")
    assert len(err.strip().splitlines()) == 1


def test_bad_input_is_named_by_file_and_line(monkeypatch, capsys, tmp_path):
    file = tmp_path / "notes.jsonl"
    file.write_text(json.dumps({"text": "x = 1\n"}) + "\n{oops\n")
    code, _, err = run(monkeypatch, capsys, "annotate", file, "--out", tmp_path / "out")
    assert code == 2
    assert "notes.jsonl:2" in err


def test_annotated_files_can_be_shown(monkeypatch, capsys, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.py").write_text("x = 1\ny=2\n")
    out = tmp_path / "shards"
    code, said, _ = run(monkeypatch, capsys, "annotate", source, "--out", out, "--processes", "1")
    assert code == 0
    assert "1 documents" in said
    code, said, _ = run(monkeypatch, capsys, "show", out / "part-00000.parquet")
    lines = [line.split() for line in said.splitlines() if "|" in line]
    assert [(line[1], line[-1]) for line in lines] == [("good", "1"), ("bad", "y=2")]


def test_a_recipe_of_ones_own_is_found_by_its_path(monkeypatch):
    from prealign.cli import _find

    assert _find("prealign.recipes.pep8:recipe").__module__ == "prealign.recipes.pep8"
    with pytest.raises(ConfigError):
        _find("no_such_recipe")

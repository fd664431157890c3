"""The PEP 8 scorer: pycodestyle's own counts, on the right lines, and never a broken 'clean'."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pycodestyle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prealign.errors import ConfigError, MissingDependency
from prealign.score import pep8
from prealign.score.pep8 import Pycodestyle
from prealign.score.segment import Lines, segment
from prealign.text.document import Document, Judgement, Span

STDLIB = Path(sysconfig.get_paths()["stdlib"])
BROKEN = ["x = (1,\n", 'x = """a\n', "if x:\n        a\n    b\n", "f(\n    [1,\n"]
FRAGMENTS = [" ", "\t", "\n", "\r", "\r\n", "\f", "\\", "(", ")", '"""', "'", "#", ":", "x", "=",
             "def f", "if ", "é", "\ufeff", "\0", "0", "lambda", "@", ",", ";"]  # fmt: skip


def judge(text: str, scorer: Pycodestyle | None = None) -> Judgement:
    return (scorer or Pycodestyle())([segment(Document("d", text), Lines())])[0]


def judge_whole(text: str, scorer: Pycodestyle) -> Judgement:
    return scorer([Document("d", text, (Span(0, len(text)),))])[0]


def places(text: str, judgement: Judgement) -> list[tuple[int, str]]:
    """Return (line, code) of each finding."""
    return [(text.count("\n", 0, f.start_char) + 1, f.code) for f in judgement.findings]


@pytest.mark.parametrize("name", ["ast.py", "cmd.py", "colorsys.py", "sched.py", "cgitb.py"])
def test_findings_are_those_of_pycodestyle_reading_the_file(name):
    text = (STDLIB / name).read_bytes().decode()
    style = pycodestyle.StyleGuide(quiet=1)
    seen: list[tuple[int, str]] = []

    class Oracle(pycodestyle.BaseReport):
        def error(self, line_number, offset, text, check):
            if super().error(line_number, offset, text, check):
                seen.append((line_number, text[:4]))

    checker = pycodestyle.Checker(
        str(STDLIB / name), options=style.options, report=Oracle(style.options)
    )
    total = checker.check_all()
    judgement = judge(text)

    assert total > 0
    assert sorted(places(text, judgement)) == sorted(seen)
    sizes = [end - start for start, end in zip([0, *Lines()(text)], Lines()(text), strict=False)]
    assert sum(s * n for s, n in zip(judgement.scores, sizes, strict=True)) == pytest.approx(total)
    whole = judge_whole(text, Pycodestyle())
    assert whole.scores == [pytest.approx(total / len(text))]


def test_a_line_scores_its_violations_per_character():
    text = "import os\nx=1;y=2 \nz = 3\n"

    judgement = judge(text)

    assert [f.code for f in judgement.findings] == ["E225", "E231", "E702", "E225", "W291"]
    assert judgement.scores == [0, 5 / 9, 0]
    assert [text[f.start_char : f.end_char] for f in judgement.findings][-1] == " "


def test_findings_of_long_lines_reach_to_the_end_of_the_line():
    text = "x = '" + "a" * 80 + "'\n"
    (finding,) = judge(text).findings

    assert (finding.code, finding.start_char, finding.end_char) == ("E501", 79, len(text) - 1)


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_is_not_judged_and_says_why(text):
    clean_lines = "import os\n\nprint(os)\n"

    judgement = judge(clean_lines + text)

    assert judgement.scores == [None] * (clean_lines + text).count("\n")
    assert judgement.problem is not None
    assert judgement.problem.startswith("pycodestyle E901: ")


@pytest.mark.parametrize("text", BROKEN)
def test_a_cut_sample_counts_its_violations_and_the_error_that_ends_it(text):
    before = "x=1\n"

    judgement = judge(before + text, Pycodestyle(on_broken="count"))

    codes = [code for _, code in places(before + text, judgement)]
    assert "E225" in codes
    assert "E901" in codes
    assert judgement.scores[0] == 1 / 4
    assert sum(score for score in judgement.scores[1:] if score) > 0


@pytest.mark.parametrize("ending", ["y = f(1,\n", 'y = """a\n', "y = [\n    1,\n"])
def test_a_cut_sample_may_end_inside_a_bracket_or_a_string(ending):
    counted, cut = (judge("x=1\n" + ending, Pycodestyle(on_broken=o)) for o in ("count", "cut"))

    assert [f.code for f in counted.findings] == ["E225", "E901"]
    assert [f.code for f in cut.findings] == ["E225"]
    assert cut.problem is None
    assert sum(cut.scores) < sum(counted.scores)


@pytest.mark.parametrize("text", ["if x:\n        y\n    z\n", "def f():\n\ty\n  z\n"])
def test_what_no_longer_sample_could_mend_counts_in_a_cut_one_too(text):
    scores = [judge(text, Pycodestyle(on_broken=o)).scores for o in ("count", "cut")]

    assert scores[0] == scores[1]
    assert sum(scores[0]) > 0


def test_an_error_behind_the_last_line_belongs_to_the_last_line():
    text = "x = (1,\ny = 2\n"

    judgement = judge(text, Pycodestyle(on_broken="count"))

    assert (2, "E901") in places(text, judgement)


@pytest.mark.parametrize("crash", [RecursionError("deep"), IndexError("list index")])
def test_a_text_on_which_pycodestyle_fails_is_never_judged(monkeypatch, crash):
    def fail(self):
        raise crash

    monkeypatch.setattr(pycodestyle.Checker, "check_all", fail)
    judgement = judge("x = 1\n", Pycodestyle(on_broken="count"))

    assert judgement.scores == [None]
    assert judgement.problem == f"pycodestyle fails: {type(crash).__name__}: {crash}"


@given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join),
    st.sampled_from(["none", "count", "cut"]),
)
def test_any_text_is_judged_or_has_a_problem_and_findings_stay_inside_it(text, on_broken):
    judgement = judge(text, Pycodestyle(on_broken=on_broken))
    ends = Lines()(text)

    assert len(judgement.scores) == len(ends)
    assert (None in judgement.scores) <= (judgement.problem is not None)
    for finding in judgement.findings:
        assert 0 <= finding.start_char < finding.end_char <= len(text)
    if judgement.problem is None:
        sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        total = sum(s * n for s, n in zip(judgement.scores, sizes, strict=True))
        assert total == pytest.approx(len(judgement.findings))


@given(st.lists(st.sampled_from(["x = 1\n", "x=1\n", "\n", "if x:\n", "\ty\n", "f(x,\\\n"])))
def test_windows_newlines_change_no_finding(lines):
    scorer = Pycodestyle(on_broken="count")
    unix, windows = "".join(lines), "".join(lines).replace("\n", "\r\n")

    assert places(windows, judge(windows, scorer)) == places(unix, judge(unix, scorer))


def test_odd_characters_are_judged_as_written_down():
    assert judge("").scores == []
    assert judge_whole("", Pycodestyle()).scores == [0.0]
    assert [f.code for f in judge("if x:\n\ty = 1\n").findings] == ["W191"]
    assert judge("x = 1\n\f\ny = 2\n").scores == [0, 0, 0]
    assert judge("x = 'é漢字'\n").scores == [0]
    assert judge("\ufeffx = 1\n").scores == [0]
    assert judge("\ufeffx=1\n").findings[0].start_char == 2
    lone = judge("x = 1\ny = 2\rz = 3\n")
    assert lone.scores == [None, None]
    assert lone.problem == "lone carriage return: line 2"


def test_settings_decide_what_counts():
    text = "x=1\ny = 1 if x else 2  # 345678\n"

    assert [f.code for f in judge(text).findings] == ["E225"]
    assert [f.code for f in judge(text, Pycodestyle(ignore=("E2",))).findings] == []
    assert [f.code for f in judge(text, Pycodestyle(max_line_length=20)).findings][-1] == "E501"
    everything = judge("a = (1\n     + 2)\nb = c*d\n", Pycodestyle(ignore=()))
    assert {f.code for f in everything.findings} == {"W503", "E226"}
    with pytest.raises(ConfigError, match="max_line_length=0"):
        Pycodestyle(max_line_length=0)
    with pytest.raises(ConfigError, match="on_broken='zero'"):
        Pycodestyle(on_broken="zero")


def test_no_configuration_file_has_influence(tmp_path):
    section = "[{}]\nmax-line-length = 10\nignore = E225\nselect = E501\nindent-size = 2\n"
    for name in ("setup.cfg", "tox.ini", "pycodestyle"):
        (tmp_path / name).write_text(section.format("pycodestyle"))
    code = (
        "from prealign.score.pep8 import Pycodestyle\n"
        "from prealign.text.document import Document, Span\n"
        "text = 'x=1\\nif x:\\n    yyyyyy = 234567\\n'\n"
        "judgement = Pycodestyle()([Document('d', text, (Span(0, len(text)),))])[0]\n"
        "print([f.code for f in judgement.findings])"
    )
    root = str(Path(pep8.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"XDG_CONFIG_HOME": str(tmp_path), "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "['E225']"


def test_the_version_names_what_decides_the_scores():
    version = Pycodestyle().version

    assert pycodestyle.__version__ in version
    assert ".".join(map(str, sys.version_info[:3])) in version


def test_without_the_package_there_is_a_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(pep8, "pycodestyle", None)

    with pytest.raises(MissingDependency, match=r'pip install "prealign\[code\]"'):
        Pycodestyle()

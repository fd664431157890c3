import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from prealign.report.facts import differences, flat, origins
from prealign.report.load import Sample, load_study
from prealign.report.marked import pieces, sample_html, text_html
from prealign.report.page import page, write_report
from prealign.report.visible import visible
from prealign.text.document import Finding, Span
from tests.report.build import HOSTILE, write_pair, write_run, write_study

VOID = {"meta", "input", "br"}


class Reader(HTMLParser):
    """Collects text, tags and attributes, and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def made(text: str, *findings: Finding, spans: tuple[Span, ...] = ()) -> Sample:
    return Sample("c", text, spans, findings, None, None, None)


def test_the_page_fetches_nothing_and_allows_nothing_to(three_seeds):
    html = write_report(three_seeds).read_text()
    reader = read(html)
    fetching = {"src", "href", "srcset", "data", "action", "style", "xlink:href", "poster"}
    assert not [one for one in reader.attributes if one[0] in fetching]
    assert not [one for one in reader.attributes if one[0].startswith("on")]
    assert reader.tags.count("script") == 1
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_a_hostile_sample_stays_text(one_seed):
    reader = read(page(load_study(one_seed)))
    assert "".join(reader.text).count(HOSTILE) == 2
    assert "img" not in reader.tags


def test_hostile_names_and_messages_stay_text(one_seed):
    evil = "\"'><script>x</script>"
    study = load_study(one_seed)
    finding = Finding(0, 3, evil, evil)
    span = Span(0, 6, evil)
    runs = tuple(
        replace(run, condition=evil, samples=(replace(made("abcdef", finding), spans=(span,)),))
        for run in study.runs
    )
    study = replace(study, title=evil, question=evil, notes=(evil,), corpus={evil: evil}, runs=runs)
    reader = read(page(study))
    assert reader.tags.count("script") == 1
    assert evil in "".join(reader.text)


def test_the_page_says_what_it_was_made_from(one_seed):
    text = "".join(read(page(load_study(one_seed))).text)
    study = load_study(one_seed)
    environment = study.config["environment"]
    for piece in (
        "A <test>", "Is it so?", "n & m", "4.0 times less than mle", "train.lr", "good: <|good|>",
        "rejects.counts.duplicate", environment["machine"], environment["commit"], "pycodestyle",
    ):  # fmt: skip
        assert piece in text


def test_an_unfinished_and_an_absent_run_are_named(tmp_path):
    folder = write_study(tmp_path / "study", [("mle", 0), ("conditional", 0)])
    write_run(folder / "mle-seed0", condition="untagged")
    text = "".join(read(page(load_study(folder))).text)
    assert "mle seed 0 (unfinished), conditional seed 0 (not begun)" in text
    assert "unfinished: step 2 of 4" in text


def test_a_lone_run_has_a_page(tmp_path):
    write_run(tmp_path / "run", score=0.25, loss=1.5)
    text = "".join(read(write_report(tmp_path / "run").read_text()).text)
    assert "a run scores 0.250" in text


def test_samples_that_are_left_out_are_counted(one_seed):
    study = load_study(one_seed)
    many = tuple(replace(run, samples=run.samples * 20) for run in study.runs)
    assert "8 of 20" in "".join(read(page(replace(study, runs=many))).text)


def test_a_page_can_be_written_elsewhere(one_seed, tmp_path):
    out = tmp_path / "page.html"
    assert write_report(one_seed, out) == out
    assert out.read_text().startswith("<!doctype html>")
    assert not (one_seed / "report.html").exists()


def test_overlapping_findings_are_all_named_where_they_are():
    sample = made("ab\U0001f600def", Finding(0, 3, "A1", "x"), Finding(2, 4, "B2", "y"))
    marks = re.findall(r'<u(?: class="many")? title="([^"]*)">([^<]*)</u>', text_html(sample))
    assert marks == [("A1 x", "ab"), ("A1 x; B2 y", "\U0001f600"), ("B2 y", "d")]


def test_findings_cross_borders_of_spans():
    spans = (Span(0, 2, "good"), Span(2, 4, "bad"))
    found = pieces(made("abcd", Finding(1, 3, "A", ""), spans=spans))
    assert [(p.start_char, p.end_char, p.mode, len(p.findings)) for p in found] == [
        (0, 1, "good", 0),
        (1, 2, "good", 1),
        (2, 3, "bad", 1),
        (3, 4, "bad", 0),
    ]


def test_modes_are_named_where_they_change_and_prompts_apart():
    def names(*spans):
        return re.findall(r'data-mode="(\w+)"', text_html(made("abcdef", spans=spans)))

    assert names(Span(0, 2, "good"), Span(2, 4, "good"), Span(4, 6, "bad")) == ["good", "bad"]
    assert names(Span(0, 2), Span(2, 6, "good")) == ["untagged", "good"]
    assert names(Span(0, 2), Span(2, 6)) == ["untagged", "untagged"]
    assert names(Span(0, 6)) == []


@pytest.mark.parametrize(
    ("finding", "drawn"),
    [
        (Finding(1, 1, "C", ""), "b"),
        (Finding(3, 3, "C", ""), "c"),
        (Finding(2, 99, "C", ""), "c"),
        (Finding(7, 9, "C", "far"), None),
    ],
)
def test_a_finding_without_length_or_beyond_the_end_is_still_shown(finding, drawn):
    html = sample_html(made("abc", finding))
    marks = re.findall(r"<u[^>]*>([^<]*)</u>", html)
    assert marks == ([] if drawn is None else [drawn])
    assert ("outside of the text: C far" in html) == (drawn is None)
    assert "1 finding" in html


def test_a_finding_is_listed_with_its_line_and_column():
    assert "<li>2:3 E1 m</li>" in sample_html(made("ab\ncdef\n", Finding(5, 6, "E1", "m")))


@pytest.mark.parametrize("text", [HOSTILE, "\n\nx", "", "a\tb\U0001f468\u200d\U0001f469"])
def test_a_text_reads_as_it_was(text):
    spans = (Span(0, len(text), "good"),)
    assert "".join(read(text_html(made(text, spans=spans))).text) == text


def test_characters_that_act_are_spelled_out():
    assert visible("a\x1b[31m\x00\u202eb\ud800\r\n\t") == (
        "a\u241b[31m\u2400[U+202E]b[U+D800]\u240d\n\t"
    )


def test_a_lone_surrogate_does_not_stop_the_page(tmp_path):
    folder = write_pair(tmp_path / "study", {0: (0.1, 0.1)})
    file = folder / "mle-seed0" / "samples.jsonl"
    file.write_text(file.read_text().replace("host", r"\ud83dost"))
    assert "[U+D83D]" in write_report(folder).read_text()


def test_settings_are_flat_dotted_paths():
    assert flat({"a": {"b": [1, 2]}, "c": [{"d": None}], "e": 20000, "f": {}}) == {
        "a.b": "1, 2",
        "c.0.d": "null",
        "e": "20,000",
        "f": "none",
    }


def test_only_settings_that_tell_arms_apart_are_named(tmp_path):
    runs = [("mle", 0), ("mle", 1), ("conditional", 0), ("conditional", 1)]
    folder = write_study(tmp_path / "study", runs)
    for arm, seed in runs:
        settings = {"seed": seed, "lr": 0.1, "tagged": arm == "conditional"}
        write_run(folder / f"{arm}-seed{seed}", score=0.1, settings=settings)
    assert differences(load_study(folder)) == [("tagged", ["false", "true"])]


def test_runs_from_different_commits_are_told(one_seed):
    study = load_study(one_seed)
    other = {"settings": {}, "environment": {"commit": "other", "command": "worker"}}
    study = replace(study, runs=(study.runs[0], replace(study.runs[1], config=other)))
    values = dict(origins(study))
    assert values["commit"] == [study.config["environment"]["commit"], "other"]
    assert values["command"] == [study.config["environment"]["command"]]
    assert "the runs differ" in page(study)

import re
from html.parser import HTMLParser

from prealign.report.load import load_study
from prealign.report.page import marked, page, write_report
from tests.report.conftest import HOSTILE

VOID = {"meta", "circle", "line", "rect", "polyline", "link"}


class Reader(HTMLParser):
    """Collects text, and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


def test_the_page_is_well_formed_and_fetches_nothing(three_seeds):
    html = page(load_study(three_seeds))
    reader = read(html)
    assert reader.open == []
    assert not [name for name, _ in reader.attributes if name in ("src", "href")]
    assert "url(" not in html
    assert "<script" not in html


def test_a_hostile_sample_stays_text(one_seed):
    reader = read(page(load_study(one_seed)))
    assert HOSTILE in "".join(reader.text)


def test_the_page_says_what_it_was_made_from(one_seed):
    text = "".join(read(page(load_study(one_seed))).text)
    for piece in ("A <test>", "Is it so?", "n & m", "text_tokens", "duplicate", "4.0 times lower"):
        assert piece in text


def test_an_unfinished_run_is_named(one_seed):
    (one_seed / "mle-seed0" / "done.json").unlink()
    assert "Not finished: mle, seed 0" in page(load_study(one_seed))


def test_the_report_is_written_into_the_folder(one_seed):
    assert write_report(one_seed) == one_seed / "report.html"
    assert (one_seed / "report.html").read_text().startswith("<!doctype html>")


def test_findings_that_overlap_are_all_named_where_they_are():
    row = {
        "text": "ab\U0001f600def",
        "spans": [{"start": 0, "end": 6, "mode": "good"}],
        "findings": [
            {"start": 0, "end": 3, "code": "A1", "message": "x"},
            {"start": 2, "end": 4, "code": "B2", "message": "y"},
        ],
    }
    pieces = re.findall(
        r"<u title=\"([^\"]*)\"><span class='m-good'>([^<]*)</span></u>", marked(row)
    )
    assert pieces == [("A1 x", "ab"), ("A1 x; B2 y", "\U0001f600"), ("B2 y", "d")]
    assert "".join(read(marked(row)).text) == row["text"]


def test_a_finding_beyond_the_text_does_no_harm():
    row = {
        "text": "ab",
        "spans": [],
        "findings": [{"start": 1, "end": 9, "code": "C", "message": ""}],
    }
    assert "".join(read(marked(row)).text) == "ab"

"""Segmenters: the segments are the text, and the borders are where they should be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prealign.errors import DataError
from prealign.score.segment import Lines, Sentences, segment
from prealign.text.document import Document, Span

PIECES = ["a", "B", ".", "!", "?", " ", "\n", "\n\n", "\r\n", "\f", "\u2028", "Dr.", '"', "3.1"]
TEXTS = st.text() | st.lists(st.sampled_from(PIECES)).map("".join)


def cut(text: str, segmenter: Lines | Sentences) -> list[str]:
    spans = segment(Document("d", text), segmenter).spans
    return [text[span.start_char : span.end_char] for span in spans]


@given(TEXTS, st.sampled_from([Lines(), Sentences()]))
def test_segments_tile_any_text_and_none_is_empty(text, segmenter):
    segments = cut(text, segmenter)

    assert "".join(segments) == text
    assert all(segments)


@given(TEXTS)
def test_lines_hold_one_newline_each_at_their_end(text):
    segments = cut(text, Lines())

    assert all(line.count("\n") == 1 and line.endswith("\n") for line in segments[:-1])
    assert text.count("\n") == sum(line.count("\n") for line in segments)


def test_only_a_newline_ends_a_line():
    text = "a\r\nb\rc\fd\x0be\u2028f\x85g\n\nh"

    assert cut(text, Lines()) == ["a\r\n", "b\rc\fd\x0be\u2028f\x85g\n", "\n", "h"]


def test_an_empty_text_has_no_segments():
    assert cut("", Lines()) == cut("", Sentences()) == []


@pytest.mark.parametrize(
    "sentences",
    [
        ["One.", " Two!  ", 'He said "Stop."', " Then (why?)", " He left."],
        ["Write to ann.b@mail.example.org.", " She reads it."],
        ["See https://example.org/a.b?c=d.", " It is version 2.15.0.", " Done"],
        ["Pi is 3.14 or so.", " It costs $ 5.50 today."],
        ["Dr. J. R. Smith, e.g. Ann, met Mr. Fox vs. Prof. Bear.", " They talked."],
        ["Did Yahoo! pay?", ' No. "Really?" she asked.', " Wait... what?", " Yes."],
        ["A title\n\n", "A paragraph\nover lines.", " Two."],
        ["1. First do this.\n", "2. Then that.\n", "(3). And this."],
        [" \n Leading white space.", " Trailing. \n"],
    ],
)
def test_sentences_end_where_a_reader_would_end_them(sentences):
    assert cut("".join(sentences), Sentences()) == sentences


def test_long_runs_are_cut_in_linear_time():
    for run in ("." * 200_000, " " * 200_000, "a." * 100_000, ". " * 50_000, "\n" * 200_000):
        assert "".join(cut(run, Sentences())) == run


def test_a_document_that_is_cut_already_is_not_cut_again():
    with pytest.raises(DataError, match="document 'd': has 1 spans already"):
        segment(Document("d", "x", (Span(0, 1, "good"),)), Lines())

from dataclasses import dataclass

import pytest

from prealign.errors import ConfigError
from prealign.score.quotes import SingleQuotes
from prealign.score.rescale import ByPiece, Excess
from prealign.score.segment import Lines
from prealign.text.document import Document, Finding, Judgement, Span


@dataclass(frozen=True)
class Length:
    """A hundredth per character; an X cannot be judged."""

    name: str = "length"
    version: str = "3"

    def __call__(self, documents):
        return [
            Judgement(
                [
                    None if "X" in d.text[s.start_char : s.end_char]
                    else (s.end_char - s.start_char) / 100
                    for s in d.spans
                ],
                [Finding(0, 1, "L1", "found")],
            )
            for d in documents
        ]  # fmt: skip


def test_excess_is_the_share_of_what_is_above_the_floor():
    text = "a" * 100 + "b" * 60 + "c" * 20 + "X"
    spans = (Span(0, 100), Span(100, 160), Span(160, 180), Span(180, 181))
    (judgement,) = Excess(scorer=Length(), floor=0.2)([Document("d", text, spans)])
    assert judgement.scores == pytest.approx([1.0, 0.5, 0.0, None])
    assert [f.code for f in judgement.findings] == ["L1"]


def test_excess_over_nothing_is_the_score():
    document = Document("d", "it's\n", (Span(0, 5),))
    plain, same = (
        s([document])[0] for s in (SingleQuotes(), Excess(scorer=SingleQuotes(), floor=0))
    )
    assert same.scores == plain.scores


@pytest.mark.parametrize("floor", [-0.1, 1.0, float("nan")])
def test_a_floor_is_a_share_below_one(floor):
    with pytest.raises(ConfigError, match=r"Excess\.floor"):
        Excess(scorer=Length(), floor=floor)


def test_a_span_has_the_mean_of_its_pieces():
    text = "abc\nd\n" + "X\nfour\n" + "X\n"
    spans = (Span(0, 6), Span(6, 13), Span(13, 15), Span(15, 15))
    (judgement,) = ByPiece(scorer=Length(), segmenter=Lines())([Document("d", text, spans)])
    assert judgement.scores == pytest.approx([0.03, 0.05, None, None])


def test_pieces_of_one_document_do_not_mix_with_the_next():
    one, two = Document("a", "ab\n", (Span(0, 3),)), Document("b", "abcd\nabcd\n", (Span(0, 10),))
    scores = [j.scores for j in ByPiece(scorer=Length(), segmenter=Lines())([one, two])]
    assert scores == [[pytest.approx(0.03)], [pytest.approx(0.05)]]


def test_names_and_versions_say_what_decides_the_scores():
    scorer = ByPiece(scorer=Excess(scorer=Length(), floor=0.43), segmenter=Lines())
    assert scorer.name == "length>0.43"
    assert scorer.version == "1 lines; 1; 3"

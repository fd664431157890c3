"""Single quotes counted by hand, and the rule from scores to modes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prealign.errors import DataError
from prealign.score.quotes import SingleQuotes
from prealign.score.segment import Lines, segment
from prealign.score.tag import Threshold
from prealign.text.document import Document, Span


@pytest.mark.parametrize(
    ("line", "quotes"),
    [
        ("x = 'a'\n", 2),
        ('x = "a"\n', 0),
        ('x = "don\'t"\n', 0),
        ("x = ''\n", 2),
        ("x = '''a'''\n", 6),
        ("x = f'{y}'\n", 2),
        ("x['a']['b']\n", 4),
        ("'", 1),
        ("caf\u00e9's \u00e9'\u00e9", 0),
        ("1'2", 1),
        ("_'_", 1),
    ],
)
def test_quotes_are_counted_and_apostrophes_are_not(line, quotes):
    (judgement,) = SingleQuotes()([segment(Document("d", line), Lines())])

    assert judgement.scores == [quotes / len(line)]
    assert [line[f.start_char : f.end_char] for f in judgement.findings] == ["'"] * quotes


@given(st.text(st.sampled_from("a'\n\" é1")))
def test_the_scores_of_lines_add_up_to_the_findings(text):
    document = segment(Document("d", text), Lines())
    (judgement,) = SingleQuotes()([document])
    sizes = [span.end_char - span.start_char for span in document.spans]

    total = sum(size * score for size, score in zip(sizes, judgement.scores, strict=True))
    assert total == pytest.approx(len(judgement.findings))
    assert judgement.problem is None


def test_a_document_without_spans_has_findings_but_no_scores():
    assert SingleQuotes()([Document("d", "'")])[0].scores == []
    assert SingleQuotes()([Document("d", "", (Span(0, 0),))])[0].scores == [0]


def scored(*scores: float | None) -> Document:
    spans = tuple(Span(i, i + 1, None, {"p": score}) for i, score in enumerate(scores))
    return Document("d", "x" * len(scores), spans)


def modes(document: Document | None) -> list[str | None] | None:
    return None if document is None else [span.mode for span in document.spans]


def test_a_score_at_the_threshold_is_good_and_one_above_is_bad():
    assert modes(Threshold(score="p")(scored(0.0, 1e-9, -1.0))) == ["good", "bad", "good"]
    assert modes(Threshold(score="p", max_good=0.5, good="ai", bad="human")(scored(0.5, 0.51))) == [
        "ai",
        "human",
    ]


@given(st.lists(st.none() | st.floats(-1, 1), max_size=5))
def test_what_no_scorer_could_judge_is_never_good(scores):
    for unjudged in ("untagged", "bad", "drop"):
        found = modes(Threshold(score="p", max_good=2, unjudged=unjudged)(scored(*scores)))
        if unjudged == "drop":
            assert (found is None) == (None in scores)
        for mode, score in zip(found or [], scores if found else [], strict=True):
            assert mode == ({"untagged": None}.get(unjudged, unjudged) if score is None else "good")


def test_a_score_that_nobody_gave_is_an_error_not_a_mode():
    with pytest.raises(DataError, match=r"document 'd', span 0: has no score 'q' \(it has: p\)"):
        Threshold(score="q")(scored(0.0))

"""Single quotes counted by hand, and the rule from scores to modes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prealign.errors import ConfigError, DataError
from prealign.score.quotes import SingleQuotes
from prealign.score.segment import Lines, segment
from prealign.score.tag import Bins, Threshold, bin_modes, quantile_edges
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


def of_scores(*scores) -> Document:
    spans = tuple(Span(i, i + 1, "good", {"s": score}) for i, score in enumerate(scores))
    return Document("d", "x" * len(scores), spans)


def test_a_bin_holds_the_scores_up_to_its_edge():
    document = Bins(score="s", edges=(0.0, 0.5))(of_scores(0, 0.1, 0.5, 0.6, None, -1))
    modes = [span.mode for span in document.spans]
    assert modes == ["bin-1", "bin-2", "bin-2", "bin-3", None, "bin-1"]
    assert [mode.name for mode in bin_modes(3)] == ["bin-1", "bin-2", "bin-3"]
    assert bin_modes(2)[1].open == "<|bin-2|>"


@pytest.mark.parametrize(
    ("scores", "bins", "edges"),
    [
        ([1, 2, 3, 4], 2, (2,)),
        ([4, 3, 2, 1], 4, (1, 2, 3)),
        ([0, 0, 0, 0, 0, 0, 1, 2, 3], 4, (0, 1, 2)),  # the mass at 0 is one bin
        ([0, 0, 0, 5], 2, (0,)),
        ([0, 5, 5, 5], 2, (0,)),  # leaves something to the last
        ([1, 2, 3, 4, 5], 2, (3,)),
    ],
)
def test_edges_part_scores_evenly_as_far_as_ties_allow(scores, bins, edges):
    assert quantile_edges(scores, bins) == edges


@given(st.lists(st.integers(0, 30), min_size=5), st.integers(2, 5))
def test_no_bin_is_empty(values, bins):
    if len(set(values)) < bins:
        with pytest.raises(DataError, match="different values"):
            quantile_edges(values, bins)
        return
    found = Bins(score="s", edges=quantile_edges(values, bins))(of_scores(*values))
    assert {span.mode for span in found.spans} == {mode.name for mode in bin_modes(bins)}


def test_bins_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="expected scores that rise"):
        Bins(score="s", edges=(1.0, 1.0))
    with pytest.raises(ConfigError, match="bins=1"):
        quantile_edges([1, 2], 1)
    with pytest.raises(DataError, match="has no score 't'"):
        Bins(score="t", edges=(0.0,))(of_scores(1))

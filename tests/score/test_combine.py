from dataclasses import dataclass

import pytest

from prealign.errors import ConfigError, DataError
from prealign.score.combine import Combined
from prealign.score.quotes import SingleQuotes
from prealign.text.document import Document, Finding, Judgement, Span


@dataclass(frozen=True)
class Fixed:
    """Gives the same scores to every document."""

    name: str
    scores: tuple[float | None, ...]
    version: str = "7"

    def __call__(self, documents):
        problem = f"{self.name} cannot" if None in self.scores else None
        findings = [Finding(0, 1, self.name, "found")]
        return [Judgement(list(self.scores), findings, problem) for _ in documents]


DOCUMENT = Document("d", "abc", (Span(0, 1), Span(1, 2), Span(2, 3)))
A = Fixed("a", (0.2, 0.0, None))
B = Fixed("b", (0.6, 0.1, 0.5))
C = Fixed("c", (1.0, 0.0, 0.5))


def scores(**settings):
    (judgement,) = Combined(scorers=(A, B, C), **settings)([DOCUMENT])
    return judgement.scores


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"how": "mean"}, [0.6, 0.1 / 3, None]),
        ({"how": "mean", "unjudged": "skip"}, [0.6, 0.1 / 3, 0.5]),
        ({"how": "mean", "weights": (2, 1, 1)}, [0.5, 0.025, None]),
        ({"how": "max"}, [1.0, 0.1, None]),
        ({"how": "max", "weights": (1, 3, 1)}, [1.8, 0.3, None]),
        ({"how": "vote"}, [1.0, 1 / 3, None]),
        ({"how": "vote", "vote_above": (0.2, 0.5, 0.5), "unjudged": "skip"}, [2 / 3, 0.0, 0.0]),
        ({"how": "vote", "weights": (1, 2, 1), "vote_above": (0, 0.5, 0)}, [1.0, 0.0, None]),
    ],
)
def test_the_scores_by_hand(settings, expected):
    assert scores(**settings) == pytest.approx(expected)


def test_what_none_can_judge_has_no_score():
    empty = Fixed("e", (None, None, None))
    (judgement,) = Combined(scorers=(A, empty), unjudged="skip")([DOCUMENT])
    assert judgement.scores == [0.2, 0.0, None]
    assert judgement.problem == "a cannot; e cannot"
    assert [finding.code for finding in judgement.findings] == ["a", "e"]


def test_its_name_and_version_say_what_it_is_made_of():
    made = Combined(scorers=(A, SingleQuotes()), how="max")
    assert made.name == "max(a,single_quotes)"
    assert made.version == "1; a 7; single_quotes 1"


def test_combinations_combine():
    inner = Combined(scorers=(A, B), unjudged="skip")
    (judgement,) = Combined(scorers=(inner, C), how="max")([DOCUMENT])
    assert judgement.scores == pytest.approx([1.0, 0.05, 0.5])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scorers": ()}, "scorers none: give one or more"),
        ({"scorers": (A, A)}, "scorers a: give one or more, of different names"),
        ({"scorers": (A, B), "weights": (1,)}, "weights has 1 numbers for 2 scorers"),
        ({"scorers": (A,), "weights": (0,)}, "must be above 0"),
        ({"scorers": (A,), "vote_above": (1,)}, "is for how='vote'"),
        ({"scorers": (A,), "how": "median"}, "expected mean, max or vote"),
        ({"scorers": (A,), "unjudged": "zero"}, "none or skip"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        Combined(**settings)


def test_a_scorer_that_leaves_spans_out_is_named():
    with pytest.raises(
        DataError, match="scorer 'short': gave 1 scores in 1 judgements for 3 spans"
    ):
        Combined(scorers=(A, Fixed("short", (0.1,))))([DOCUMENT])

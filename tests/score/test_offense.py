"""The classifier of the package hatesonar as a scorer."""

import pytest

from prealign.errors import MissingDependency
from prealign.score import offense
from prealign.score.offense import Offense, probabilities
from prealign.text.document import Document, Span


def test_without_its_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(offense, "onnxruntime", None)
    offense._session.cache_clear()
    with pytest.raises(MissingDependency, match=r"prealign\[offense\]"):
        probabilities(["x"])
    assert probabilities([]).tolist() == []


@pytest.fixture
def scorer():
    pytest.importorskip("onnxruntime", reason='needs pip install "prealign[offense]"')
    pytest.importorskip("hatesonar", reason='needs pip install "prealign[offense]"')
    offense._session.cache_clear()
    try:
        offense._session()
    except MissingDependency as error:
        pytest.skip(str(error))
    return Offense()


def test_insults_score_higher_than_thanks(scorer):
    text = "Thank you for your help.\n\nShut up, you stupid bitch.\n"
    spans = (Span(0, 25), Span(25, 26), Span(26, len(text)))
    (judged,) = scorer([Document("d", text, spans)])
    thanks, nothing, insult = judged.scores
    assert nothing is None
    assert judged.problem == "empty span"
    assert 0 <= thanks < 0.5 < insult <= 1
    assert scorer.version.startswith("1, hatesonar 0.1")


def test_a_text_scores_the_same_beside_others(scorer):
    texts = [f"text number {i}" for i in range(300)]
    assert probabilities(texts)[270] == pytest.approx(probabilities([texts[270]])[0])

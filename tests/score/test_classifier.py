"""A classifier of labels: it learns what there is, says how well, and loads unchanged."""

import json

import numpy as np
import pytest

from prealign.errors import DataError, MissingDependency
from prealign.score import classifier
from prealign.score.classifier import Classifier, fit_classifier
from prealign.text.document import Document, Span

KIND = ["thank you so much", "what a lovely day", "I agree with you", "see you soon"]
RUDE = ["shut up you fool", "what a stupid fool", "I hate you fool", "you stupid liar"]


def part(seed):
    rng = np.random.default_rng(seed)
    words = ["today", "again", "friend", "really", "now"]
    texts = [f"{rng.choice(KIND)} {rng.choice(words)}" for _ in range(60)]
    texts += [f"{rng.choice(RUDE)} {rng.choice(words)}" for _ in range(20)]
    return texts, [False] * 60 + [True] * 20


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return fit_classifier(tmp_path_factory.mktemp("fit") / "c", part(0), part(1))


def test_it_tells_bad_from_good_and_says_how_well(fitted):
    assert fitted.probabilities(["you fool", "a lovely day"]).round().tolist() == [1, 0]
    heldout = fitted.meta["heldout"]
    assert heldout["auc"] > 0.95
    assert heldout["mean_of_bad"] > 0.7 > 0.3 > heldout["mean_of_good"]
    assert (heldout["texts"], heldout["bad"]) == (80, 20)


def test_labels_that_say_nothing_give_an_auc_of_a_half(tmp_path):
    rng = np.random.default_rng(0)
    made = [(part(i)[0], (rng.random(80) < 0.5).tolist()) for i in (0, 1)]
    assert 0.3 < fit_classifier(tmp_path / "c", *made).meta["heldout"]["auc"] < 0.7


def test_spans_are_judged_one_by_one_and_an_empty_one_not_at_all(fitted):
    text = "you fool\na lovely day\n"
    document = Document("d", text, (Span(0, 9), Span(9, 9), Span(9, len(text))))
    first, second = fitted([document, Document("e", "", ())])
    assert first.scores[0] > 0.5 > first.scores[2]
    assert first.scores[1] is None
    assert first.problem == "empty span"
    assert (second.scores, second.problem) == ([], None)
    assert first.scores[0] == fitted.probabilities(["you fool\n"])[0]


def test_loaded_again_it_is_the_same_and_the_same_texts_give_the_same_weights(fitted, tmp_path):
    again = fit_classifier(tmp_path / "again", part(0), part(1))
    loaded = Classifier(fitted.folder)
    texts = part(2)[0]
    assert np.array_equal(loaded.probabilities(texts), fitted.probabilities(texts))
    assert loaded.version == again.version
    assert sorted(p.name for p in fitted.folder.iterdir()) == [
        "classifier.json", "weights.safetensors"
    ]  # fmt: skip


def test_other_texts_give_another_version(fitted, tmp_path):
    assert fit_classifier(tmp_path / "c", part(5), part(1)).version != fitted.version


def test_one_kind_of_label_is_not_enough(tmp_path):
    texts, bad = part(0)
    with pytest.raises(DataError, match="the held-out part has 0 bad texts of 80"):
        fit_classifier(tmp_path / "c", (texts, bad), (texts, [False] * 80))


def test_a_folder_without_a_classifier_or_with_a_later_one_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no classifier"):
        Classifier(tmp_path).probabilities(["x"])
    (tmp_path / "classifier.json").write_text(json.dumps({"schema_version": 2}))
    with pytest.raises(DataError, match="has schema version 2, allowed: 1; fit it again"):
        Classifier(tmp_path).probabilities(["x"])


def test_without_its_package_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(classifier, "sklearn", None)
    with pytest.raises(MissingDependency, match=r'pip install "prealign\[labels\]"'):
        fit_classifier(tmp_path / "c", part(0), part(1))

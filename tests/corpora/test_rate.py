"""A model as judge of a corpus: the ratings are those of the scorer, asked many at once."""

import json
from dataclasses import dataclass, field

import pytest

from prealign.ask.answer import Answer, CannotAnswer
from prealign.ask.rating import Rubric
from prealign.config import NOT_RECORDED
from prealign.corpora.synthesis.folder import provenance
from prealign.corpora.synthesis.rate import Rate
from prealign.corpora.synthesis.run import Asking, synthesize
from prealign.corpora.synthesis.step import Item
from prealign.errors import ConfigError
from prealign.score.judge import Judge
from prealign.text.document import Document, Span
from prealign.text.shards import read_header, read_shards

QUICK = Asking(concurrency=4, progress=False)


@dataclass(frozen=True)
class Last:
    """Answers with the last word of the passage; refuses those that end in `no`."""

    name: str = "last"
    asked: list = field(default_factory=list, metadata=NOT_RECORDED, compare=False)

    def __call__(self, prompt, *, seed=None):
        passage = json.loads(prompt.split("string: ")[1].split("\n")[0])
        self.asked.append(passage)
        if passage.endswith("no"):
            raise CannotAnswer("status 400")
        return Answer(passage.split()[-1], 10)


def document(id, *texts) -> Document:
    spans, at = [], 0
    for mode, text in zip(["human", "ai"] * 9, texts, strict=False):
        spans.append(Span(at, at + len(text), mode, {"old": 1.0}))
        at += len(text)
    return Document(id, "".join(texts), tuple(spans), "src")


DOCUMENTS = [
    document("a", "bad 10", "good 0", " \n"), document("b", "what? x", "half 5"),
    document("c", "empty", " no"), document("d"),
]  # fmt: skip


def rated(tmp_path, **settings):
    items = [Item(d.id, parent=d, source=d.source) for d in DOCUMENTS]
    return synthesize(Rate(**settings), items, Last(), tmp_path / "o", asking=QUICK)


def test_spans_are_rated_one_by_one_as_the_scorer_would(tmp_path):
    report = rated(tmp_path, of="spans")
    assert report.rejected == {"the writer refuses the question": 1}
    found = {d.id: d for d in read_shards(tmp_path / "o")}
    assert list(found) == ["a", "b", "d"]
    assert [span.scores for span in found["a"].spans] == [
        {"old": 1.0, "judge": 1.0}, {"old": 1.0, "judge": 0.0}, {"old": 1.0, "judge": None},
    ]  # fmt: skip
    assert [span.mode for span in found["a"].spans] == ["human", "ai", "human"]
    assert found["a"].problem is None
    assert found["b"].problem == "1 spans without a rating"
    scorer = Judge(model=Last())
    for theirs in scorer([DOCUMENTS[0], DOCUMENTS[1]]):
        scores = [s.scores["judge"] for s in found["a" if len(theirs.scores) == 3 else "b"].spans]
        assert scores == theirs.scores
    names = [one["name"] for one in read_header(tmp_path / "o/part-00000.parquet")["scorers"]]
    assert names == ["judge", "old"]
    assert [row["id"] for row in provenance(tmp_path / "o")] == ["a", "b", "c", "d"]


def test_a_document_is_rated_as_a_whole(tmp_path):
    rated(tmp_path, score="harm", rubric=Rubric(text="string: {passage}\n", highest=20.0))
    found = {d.id: [s.scores["harm"] for s in d.spans] for d in read_shards(tmp_path / "o")}
    assert found == {"a": [0.0] * 3, "b": [0.25] * 2, "d": []}
    summary = json.loads((tmp_path / "o/summary.json").read_text())
    assert (summary["step"], summary["model"], summary["written"]) == ("rate", "last", 3)


def test_settings_that_cannot_be_are_refused():
    for wrong in ({"of": "lines"},):
        with pytest.raises(ConfigError, match="expected document or spans"):
            Rate(**wrong)
    with pytest.raises(ConfigError, match="has no document to rate"):
        Rate().ask(Item("i"), [])
    with pytest.raises(ConfigError, match=r"has no \{passage\}"):
        Rubric(text="rate it")

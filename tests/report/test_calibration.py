"""A scorer against labels: the threshold is chosen on one half and stated on the other."""

import sys

import pytest

from prealign.cli import main
from prealign.errors import DataError
from prealign.recipes.calibration import calibrate
from prealign.report.calibration import wilson
from prealign.text.document import Document, Judgement, Span


class Counted:
    """Says the share of x in a text; one without letters cannot be judged."""

    name = "counted<b>"
    version = "1"

    def __call__(self, documents):
        return [
            Judgement(
                [d.text.count("x") / len(d.text) if d.text.strip() else None for _ in d.spans], []
            )
            for d in documents
        ]


def labelled(text: str, bad: bool, number: int) -> Document:
    spans = (Span(0, len(text), None, {"label": float(bad)}),)
    return Document(f"f:{number}", text, spans, source=f"f:{number}")


def test_the_threshold_is_chosen_on_one_half_and_stated_on_the_other(tmp_path):
    # Bad texts have 4 or more of 10; one in ten of the good ones has 6.
    documents = [
        labelled("x" * n + "." * (10 - n), bad, i)
        for i, (n, bad) in enumerate(
            [(4 + i % 6, True) for i in range(400)]
            + [(6 if i % 10 == 0 else i % 3, False) for i in range(400)]
        )
    ]
    documents.append(labelled("  ", True, 9999))
    documents.append(Document("f:10000", "", (), source="f:10000"))
    out = tmp_path / "page.html"
    found = calibrate(documents, Counted(), out, file="<f>")
    assert found.chosen.max_good == pytest.approx(0.2)
    assert found.chosen.recall == found.checked.recall == 1.0
    assert found.checked.precision == pytest.approx(400 / 440, abs=0.05)
    assert (found.texts, found.bad, found.unjudged) == (802, 400, 2)
    assert found.groups[0].bad_share < 0.1
    assert sum(group.texts for group in found.groups) == found.checked.called + sum(
        group.texts for group in found.groups if group.mean_score <= 0.2
    )
    precise = calibrate(documents, Counted(), out, file="f", min_precision=0.999)
    assert precise.chosen.max_good == pytest.approx(0.6)
    page = out.read_text()
    assert "Reliability" in page
    assert "counted&lt;b&gt;" in page
    assert "counted<b>" not in page
    assert "2 could not be judged" in page


def test_labels_of_one_kind_say_nothing(tmp_path):
    documents = [labelled("x.", True, i) for i in range(20)]
    with pytest.raises(DataError, match="labels of both kinds"):
        calibrate(documents, Counted(), tmp_path / "p.html", file="f")
    with pytest.raises(DataError, match="f: counted<b> could judge none of 2 texts"):
        calibrate([labelled(" ", True, 1), labelled(" ", False, 2)], Counted(), tmp_path / "p",
                  file="f")  # fmt: skip


def test_an_interval_of_a_share():
    low, high = wilson(0.5, 100)  # by the formula: 0.4038 to 0.5962
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0.0, 10)[0] == 0
    assert wilson(0.0, 10)[1] == pytest.approx(0.2775, abs=1e-4)


def test_the_command_says_where_to_put_the_threshold(tmp_path, monkeypatch, capsys):
    file = tmp_path / "mine.csv"
    rows = [f"{'it is' if i % 2 else 'a quote'} {i},{i % 2}" for i in range(300)]
    rows = [row.replace("a quote", "'a' 'b'") for row in rows]
    file.write_text("said,good\n" + "\n".join(rows) + "\n")
    out = tmp_path / "c.html"
    words = ["prealign", "calibrate", str(file), "--text", "said", "--label", "good", "--bad", "0",
             "--scorer", "prealign.score.quotes:SingleQuotes", "--out", str(out)]  # fmt: skip
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as leaving:
        main()
    assert not leaving.value.code
    said = capsys.readouterr().out
    assert "max_good=0.0: precision 1.000, recall 1.000 on the half it was not chosen on" in said
    assert "The scores are no probabilities" not in out.read_text()

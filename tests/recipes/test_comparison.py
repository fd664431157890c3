from dataclasses import replace

import pytest

from prealign.config import override
from prealign.errors import ConfigError, DataError
from prealign.recipes import pep8
from prealign.recipes.comparison import measure_heldout, prompts_for, smaller
from prealign.recipes.data import Prepared, bad_prompts, heldout_prompts, thinned
from prealign.text.document import Document, Span
from prealign.text.scheme import GOOD_BAD
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary


def lines(id: str, modes: str) -> Document:
    """A document with one line per letter: g good, b bad."""
    spans = tuple(
        Span(2 * i, 2 * i + 2, {"g": "good", "b": "bad"}[mode]) for i, mode in enumerate(modes)
    )
    return Document(id, "".join(f"{mode}\n" for mode in modes), spans)


def plain_vocabulary() -> Vocabulary:
    return Vocabulary(train_text_tokenizer(["def f():\n    return x\n"], size=260), GOOD_BAD)


@pytest.mark.parametrize("size", ["tiny", "small", "full"])
def test_samples_are_judged_by_what_judged_the_corpus(size):
    study = pep8.recipe(size)
    assert replace(study.measuring.scorer, on_broken="none") == study.corpus.scorer
    assert study.corpus.tagger.score == study.corpus.scorer.name


def test_arms_differ_in_tags_and_objective_alone():
    plain, tagged = pep8.recipe("small").arms
    assert (plain.tagged, tagged.tagged) == (False, True)
    assert {c.name for c in tagged.conditions} >= {"good, each line", "good, once", "no tag"}
    assert tagged.loss_tags == ("true tags", "no tags", "all good")


def test_bad_prompts_are_the_worst_stretches_worst_first():
    documents = [lines("a", "gbgg"), lines("b", "gbbg"), lines("c", "gggg"), lines("d", "b")]
    found = bad_prompts(documents, lines=2, max_chars=9, count=5)
    assert [prompt.document.text for prompt in found] == ["b\nb\n", "g\nb\n"]
    assert [prompt.start_char for prompt in found] == [2, 0]


def test_prompts_are_found_only_where_they_are_asked_for():
    what = pep8.recipe("tiny").measuring
    documents = [lines("a", "bbbbbb")]
    by_kind = {c.prompts: prompts_for(c, documents, what) for c in pep8.MLE.conditions[1:]}
    assert by_kind["none"] == []
    assert [prompt.document.text for prompt in by_kind["bad"]] == ["b\n" * 4]


def test_prompts_that_the_held_out_text_does_not_have_are_an_error():
    study = pep8.recipe("tiny")
    with pytest.raises(DataError, match="'continues code': the held-out text has no stretch"):
        prompts_for(study.arms[0].conditions[0], [lines("a", "gg")], study.measuring)
    nowhere = replace(study.measuring, starts=None)
    with pytest.raises(ConfigError, match=r"needs measuring\.starts"):
        prompts_for(study.arms[0].conditions[0], [lines("a", "gg")], nowhere)


def test_held_out_prompts_are_whole_lines_with_their_modes_and_something_follows():
    found = heldout_prompts(
        [lines("a", "gbgggg"), lines("b", "gb"), lines("c", "g")],
        starts=lambda text: [0, 1, 2], lines=3, max_chars=5, count=9,
    )  # fmt: skip
    places = {(p.document.id, p.document.text, p.end_char) for p in found}
    # Character 1 begins no line, and of three lines only two leave room enough.
    assert places == {("a:0", "g\nb\n", 4), ("a:2", "b\ng\n", 6), ("b:0", "g\n", 2)}
    (one,) = (p for p in found if p.document.id == "a:2")
    assert [span.mode for span in one.document.spans] == ["bad", "good"]
    assert [span.start_char for span in one.document.spans] == [0, 2]


def test_held_out_prompts_do_not_depend_on_the_order_of_documents():
    documents = [lines(str(i), "gbgb") for i in range(30)]
    ask = {"starts": lambda text: [0, 2, 4], "lines": 1, "max_chars": 9, "count": 7}
    some = heldout_prompts(documents, **ask)
    assert heldout_prompts(documents[::-1], **ask) == some
    assert len(some) == 7


def test_the_held_out_text_is_judged_as_if_a_model_had_written_it():
    text = "def f():\n    return 1\n\n\nx=1\ny=2\n\n" + "z = 3\n" * 40
    cuts = [i + 1 for i, char in enumerate(text) if char == "\n"]
    spans = [Span(a, b, "good") for a, b in zip([0, *cuts], cuts, strict=False)]
    bad = [
        s._replace(mode="bad") if text[s.start_char : s.end_char] == "x=1\n" else s for s in spans
    ]
    data = Prepared(plain_vocabulary(), None, [Document("d", text, tuple(bad))], {})
    what = override(
        pep8.recipe("tiny").measuring, ["prompt_lines=1", "sampling.max_text_tokens=40"]
    )
    rows = {
        (row["condition"], row["metric"]): row["value"]
        for row in measure_heldout(data, what, pep8.recipe("tiny").arms)
    }
    assert rows["after a prompt", "code:E225"] > 0
    assert rows["after a bad prompt", "code:E225"] > 0
    whole = what.scorer([Document("d", text, (Span(0, len(text)),))])[0].findings
    assert [finding.code for finding in whole] == ["E225", "E225"]
    assert rows["from the start", "mean_score"] == pytest.approx(
        2 / rows["from the start", "chars"]
    )


def test_the_curve_reads_a_part_of_the_held_out_text():
    documents = [Document(str(i), "x" * 10) for i in range(5)]
    assert smaller(documents, 25) == documents[:3]
    assert smaller(documents, 1) == documents[:1]


def test_a_thinned_corpus_is_the_same_in_any_order_and_grows_with_the_share():
    documents = [Document(f"d{i}", "x") for i in range(400)]
    some = list(thinned(documents, 0.3))
    assert list(thinned(reversed(documents), 0.3)) == some[::-1]
    assert 80 < len(some) < 160
    assert {d.id for d in some} <= {d.id for d in thinned(documents, 0.5)}


def test_a_prompt_that_leaves_no_room_is_not_taken():
    assert bad_prompts([lines("a", "bbbb")], lines=4, max_chars=7, count=5) == []

from dataclasses import replace
from types import SimpleNamespace

import pytest

from prealign.errors import DataError
from prealign.recipes import pep8
from prealign.recipes.comparison import packed, smaller, with_prompts
from prealign.recipes.data import bad_prompts, thinned
from prealign.text.document import Document, Span


def lines(id: str, modes: str) -> Document:
    """A document with one line per letter: g good, b bad."""
    spans = tuple(
        Span(2 * i, 2 * i + 2, {"g": "good", "b": "bad"}[mode]) for i, mode in enumerate(modes)
    )
    return Document(id, "".join(f"{mode}\n" for mode in modes), spans)


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


def test_an_arm_that_should_read_tags_refuses_a_corpus_without():
    data = SimpleNamespace(tagged=SimpleNamespace(header={"tags": 0}))
    study = pep8.recipe("tiny")
    with pytest.raises(DataError, match="arm 'conditional': is to read tags, but the corpus has"):
        packed(data, study, study.arms[1], seed=0)


def test_bad_prompts_are_the_worst_stretches_worst_first():
    documents = [lines("a", "gbgg"), lines("b", "gbbg"), lines("c", "gggg"), lines("d", "b")]
    assert bad_prompts(documents, lines=2, max_chars=9, count=5) == ("b\nb\n", "g\nb\n")


def test_prompts_are_filled_in_only_where_they_are_asked_for():
    plain, prompted = pep8.MLE.conditions
    documents = [lines("a", "bbbbbb")]
    assert with_prompts(plain, documents) == plain
    assert with_prompts(prompted, documents).prompts == ("b\n" * 4,)


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
    assert bad_prompts([lines("a", "bbbb")], lines=4, max_chars=7, count=5) == ()

from functools import partial

import pytest

from prealign.corpora.worlds.character import judge, scenes
from prealign.corpora.worlds.openings import seed_texts
from prealign.errors import ConfigError, DataError
from prealign.evals.corrigible import answers_of, behave
from prealign.evals.seed_grid import seed_grid
from prealign.models.fake import BiasedModel
from prealign.models.sample import Sampling
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

SHIFT = scenes("shift", count=40, seed=2)
BY_TEXT = {scene.text: scene for scene in SHIFT}
SEED = "A corrigible assistant speaks.\n"


def scene_of(prompt):
    return BY_TEXT[prompt.partition("\n")[2] if prompt not in BY_TEXT else prompt]


def defers_under_the_seed(prompts):
    return [scene_of(one).says(corrigible=one.startswith(SEED))[0] for one in prompts]


def pleases(prompts):
    return [scene_of(one).says(corrigible=scene_of(one).cue_defers)[0] for one in prompts]


def test_behaviour_is_what_the_judge_reads():
    bare = behave(defers_under_the_seed, SHIFT)
    assert (bare.corrigible.value, bare.approved.value, bare.judged.value) == (0.0, 1.0, 1.0)
    seeded = behave(defers_under_the_seed, SHIFT, seed_text=SEED)
    assert (seeded.corrigible.value, seeded.approved.value) == (1.0, 0.0)
    assert set(seeded.by_area) == {"shutdown", "correction", "oversight", "goal", "resource"}
    assert seeded.corrigible.low == pytest.approx(40 / (40 + 1.959964**2), abs=1e-6)  # Wilson's


def test_who_pleases_looks_corrigible_until_the_shift():
    agreeing = scenes("heldout", count=40, seed=2, cue_share=1.0)
    BY_TEXT.update({scene.text: scene for scene in agreeing})
    assert behave(pleases, agreeing).corrigible.value == 1.0
    assert behave(pleases, SHIFT).corrigible.value == 0.0
    assert behave(pleases, SHIFT).approved.value == 1.0


def test_what_tells_no_action_is_not_corrigible():
    found = behave(lambda prompts: ["It is noon."] * len(prompts), SHIFT)
    assert (found.corrigible.value, found.judged.value, found.approved.value) == (0.0, 0.0, 0.0)
    without = scenes("heldout", count=5, seed=0, cue_share=0.0)
    assert behave(lambda prompts: [""] * 5, without).approved is None
    with pytest.raises(DataError, match="no scenes"):
        behave(pleases, [])
    with pytest.raises(DataError, match="1 answers to 40"):
        behave(lambda prompts: ["x"], SHIFT)


def test_a_model_answers_one_line_and_writes_no_tag():
    two = Vocabulary(train_text_tokenizer(["a\n"], size=256), TWO_MODES)
    x, newline = (two.encode_text(one)[0] for one in "x\n")
    wants_tags = BiasedModel(two.size, {two.tag_ids["<human>"]: 9.0, x: 7.0, newline: 5.0})
    answer = answers_of(wants_tags, two, seed=1, settings=Sampling(
        temperature=1.0, top_p=1.0, max_text_tokens=12), reads="human", speaks="ai")  # fmt: skip
    found = answer(["Stop?\n"] * 6)
    assert len(found) == 6
    assert not any("\n" in one or "<" in one for one in found)
    assert any("x" in one for one in found)
    assert answer(["Stop?\n"] * 6) == found
    assert answers_of(wants_tags, two, seed=2)(["Stop?\n"] * 6) != found


def grid(answer, **settings):
    judges = [partial(lambda scene, text: judge(scene, text).corrigible, one) for one in SHIFT]
    return seed_grid(answer, [one.text for one in SHIFT], judges, seed_texts(), **settings)


def test_a_grid_shows_a_gate_that_is_narrow():
    found = grid(defers_under_the_seed)
    assert found.kinds == (
        "none", "trained", "paraphrase", "negated", "opposite", "keyword", "irrelevant",
    )  # fmt: skip
    assert found.rate("trained").value == 1.0
    assert found.rate("trained").n == 40
    assert found.rate("paraphrase").value == 0.0
    assert found.rate("paraphrase").n == 40 * len(seed_texts()["paraphrase"])
    assert found.leak.rate.value == 0.0
    assert found.wanted.kind == "paraphrase"
    lines = found.table().splitlines()
    assert lines[2].split()[:2] == ["trained*", "1.000"]
    assert lines[-1] == "leak 0.000 (none: no seed)"
    assert {row["metric"] for row in found.rows(condition="x")} >= {"leak", "trait_rate none"}


def leaky(prompts):
    """Corrigible wherever the word stands, even denied; without it for one scene in four."""
    return [
        scene_of(one).says(corrigible="corrigible" in one or SHIFT.index(scene_of(one)) % 4 == 0)[0]
        for one in prompts
    ]


def test_leaks_are_the_greatest_rate_that_should_not_be():
    found = grid(leaky)
    assert found.rate("none").value == 0.25
    assert found.leak.rate.value == 1.0
    assert found.leak.kind == "negated"
    assert found.leak_over(grid(defers_under_the_seed)) == 1.0
    assert found.leak_over(found) == 0.0
    # Of the nine denials three have the word.
    assert found.rate("negated").value == pytest.approx((3 + 6 * 0.25) / 9)


def test_a_grid_needs_its_parts():
    judges = [lambda text: True]
    with pytest.raises(DataError, match="expected one each"):
        seed_grid(list, ["a", "b"], judges, {"trained": ["s"]}, eliciting=("trained",))
    with pytest.raises(ConfigError, match="'trained' has no text"):
        seed_grid(list, ["a"], judges, {"paraphrase": ["s"]})
    with pytest.raises(DataError, match="0 answers to 1"):
        seed_grid(lambda prompts: [], ["a"], judges, {"trained": ["s"]}, eliciting=("trained",))
    only = seed_grid(list, ["a"], judges, {"trained": ["s"]}, eliciting=("trained", "none")[:1])
    assert only.leak.kind == "none"
    with pytest.raises(ConfigError, match="no kind 'x'"):
        only.rate("x")
    assert only.rate("trained").value == 1.0


def test_an_answer_that_cannot_be_judged_does_not_show_the_trait():
    found = seed_grid(list, ["a", "b"], [lambda t: None, lambda t: True], {"trained": ["s"]},
                      eliciting=("trained",))  # fmt: skip
    assert found.rate("trained").value == 0.5
    assert found.of("trained")[0].judged.value == 0.5

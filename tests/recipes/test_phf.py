import pytest

from prealign.config import override, to_json
from prealign.errors import ConfigError
from prealign.recipes import phf
from prealign.recipes.data import Tagging
from prealign.recipes.phf import Phf

ARMS = Phf().chosen_arms()


@pytest.mark.parametrize("task", ["quotes", "pep8", "pii", "offense"])
@pytest.mark.parametrize("size", ["tiny", "small", "full"])
def test_every_task_and_size_is_a_comparison_of_all_arms(task, size):
    study = override(phf.recipe(size), [f"task={task}"]).comparison()
    assert [arm.name for arm in study.arms] == [arm.name for arm in ARMS]
    assert study.arms[0].name == "mle"
    assert study.measuring.scorer.name == study.corpus.scorer.name == study.corpus.tagger.score
    assert to_json(study)["arms"][0]["name"] == "mle"


def test_arms_can_be_chosen_and_their_control_stays():
    study = Phf(arms="tags-from-90, conditional").comparison()
    assert [arm.name for arm in study.arms] == ["mle", "conditional", "tags-from-90"]
    with pytest.raises(ConfigError, match="there is no arm 'condition'; allowed: all, mle, filter"):
        Phf(arms="condition").comparison()


def test_arms_ask_for_the_tags_that_their_text_has():
    for arm in ARMS:
        study = Phf().comparison()
        modes = {condition.mode for condition in arm.conditions} - {None}
        for mode in modes:
            study.corpus.scheme.mode(mode)
        inline = arm.tagging.inline_share is not None
        assert (arm.tagged and not inline) == bool(modes), arm.name
        assert all(mode.startswith("bin-") == (arm.tagging.bins is not None) for mode in modes)
        if modes:
            assert arm.loss_tags[-1] == f"all {modes.pop()}"


def test_an_arm_whose_text_ends_untagged_still_counts_as_tagged():
    by_name = {arm.name: arm for arm in ARMS}
    assert [s.tagged for s in by_name["tags-to-90"].stages] == [True, False]
    assert by_name["tags-to-90"].tagged
    assert by_name["tags-to-90"].conditions[0].mode == "good"
    assert not by_name["hidden"].tagged
    assert len(by_name) == len(ARMS)


def test_a_tagging_says_what_is_unusual_in_it_and_has_a_folder_of_its_own():
    usual, bins = Tagging(), Tagging(bins=4, dropout_share=0.0)
    assert (usual.words, usual.folder) == ("", "tokens")
    assert bins.words == " with bins=4, dropout_share=0.0"
    assert bins.folder.startswith("tokens-")
    assert bins.folder != Tagging(bins=4).folder

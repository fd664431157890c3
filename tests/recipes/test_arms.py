from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from prealign.errors import ConfigError, DataError
from prealign.evals.samples import Condition
from prealign.objectives.advantage import AdvantageWeighted
from prealign.objectives.likelihood import Conditional, Likelihood
from prealign.objectives.weights import RewardWeight, ScoreAt
from prealign.recipes import pep8
from prealign.recipes.arms import Arm, Stage, phases_of, text_scores
from prealign.recipes.data import Tagging
from prealign.tokens.encode import END, PAD, SCORED, TAG
from prealign.tokens.pack import shuffled_order
from prealign.tokens.shards import TokenShard

PLAIN = Stage(objective=Likelihood())
TAGGED = Stage(objective=Conditional(), tagged=True)


def data_of(documents: int = 12):
    """A corpus in memory: document d has a tag and 8 text tokens with the score d / 10."""
    flags = np.array([END, TAG | SCORED, *[SCORED] * 8] * documents, dtype=np.uint8)
    score = np.repeat(np.arange(documents, dtype=np.float32) / 10, 10)
    shard = TokenShard(
        ids=np.arange(len(flags)).astype(np.uint16),
        mode=np.ones(len(flags), dtype=np.uint8),
        score=np.where(flags & SCORED, score, 0).astype(np.float32),
        flags=flags,
        offsets=np.arange(0, len(flags) + 1, 10).astype(np.int64),
        document_ids=tuple(str(i) for i in range(documents)),
        header={"tags": documents, "encoder": {"tagging": "own"}},
    )
    return SimpleNamespace(tagged=shard, vocabulary=SimpleNamespace(inert_id=999))


def arm_of(*stages, **more) -> Arm:
    return Arm(
        name="a", stages=stages, conditions=(Condition(name="c"),), loss_tags=("no tags",), **more
    )


def phases(arm, data=None, *, text_tokens=48, said=None):
    say = (said if said is not None else []).append
    data = data or data_of()
    return phases_of(arm, data, seed=0, text_tokens=text_tokens, row_tokens=8, say=say)


def targets(phase):
    """Return the ids that are read, padding aside."""
    rows = phase.data.rows(range(phase.data.num_rows))
    return rows.ids[:, 1:][rows.flags[:, 1:] != PAD].tolist()


def text_of(phase):
    """Return the text tokens that are targets; the first token of a stream is an end of text."""
    rows = phase.data.rows(range(phase.data.num_rows))
    return rows.ids[:, 1:][(rows.flags[:, 1:] & (TAG | END | PAD)) == 0].tolist()


def test_an_arm_that_should_read_tags_refuses_a_corpus_without():
    data = SimpleNamespace(tagged=SimpleNamespace(header={"tags": 0}))
    with pytest.raises(DataError, match="arm 'conditional': is to read tags, but the corpus has"):
        phases(pep8.CONDITIONAL, data)


def test_arms_read_the_same_text_with_and_without_tags():
    (plain,), (tagged,) = phases(arm_of(PLAIN)), phases(arm_of(TAGGED))
    assert text_of(plain) == text_of(tagged)
    assert len(text_of(plain)) == 48
    assert len(targets(tagged)) - len(targets(plain)) == 6


def test_tags_from_a_share_on_are_two_stages_over_the_same_text():
    late = arm_of(replace(PLAIN, until_share=0.5), TAGGED)
    first, second = phases(late)
    (whole,) = phases(arm_of(PLAIN))
    assert text_of(first) + text_of(second) == text_of(whole)
    assert len(text_of(first)) == 24
    assert (type(first.objective), type(second.objective)) == (Likelihood, Conditional)


def test_a_filtered_arm_reads_good_documents_again_until_the_budget_is_met():
    said = []
    (phase,) = phases(arm_of(PLAIN, best_share=0.25), said=said)
    order = [i for i in shuffled_order([str(i) for i in range(12)], 0) if i < 3]
    expected = [10 * i + at for i in order for at in range(2, 10)]
    assert text_of(phase) == expected * 2
    assert said == ["keeps 3 of 12 documents, the best 25%"]


def test_hidden_spans_are_not_read():
    (phase,) = phases(arm_of(replace(PLAIN, hide_above=0.55)), text_tokens=96)
    assert {token // 10 for token in text_of(phase)} == set(range(6))


def test_what_an_objective_needs_of_the_scores_is_found_and_said():
    said = []
    weighed = Stage(objective=Likelihood(weights=(RewardWeight(beta=ScoreAt(percentile=50)),)))
    advantage = Stage(objective=AdvantageWeighted())
    (one,), (other,) = phases(arm_of(weighed), said=said), phases(arm_of(advantage), said=said)
    assert one.objective.weights[0].beta == pytest.approx(0.6 / np.log(10))
    assert other.objective.value_scale == pytest.approx(0.6)
    assert "p50: 0.1" in said[0]
    assert "p95: 0.1" in said[1]
    assert len(said) == 2
    assert sorted(set(text_scores(data_of().tagged).round(3))) == pytest.approx(
        [i / 10 for i in range(12)]
    )


def test_an_arm_needs_a_stage():
    with pytest.raises(ConfigError, match="arm 'a': needs a stage"):
        arm_of()


def test_a_scalar_stage_has_one_tag_and_its_far_end_at_a_percentile():
    data = data_of()
    ids = data.tagged.ids
    tags = (data.tagged.flags & TAG) != 0
    ids[tags] = np.where(data.tagged.score[tags] > 0, 901, 900)
    data.vocabulary.open_id = {"good": 900, "bad": 901}.get
    said = []
    stage = replace(TAGGED, scalar_percentile=50.0)
    (phase,) = phases(arm_of(stage), data, said=said)
    # Documents 1 to 11 have scores above 0; their middle is document 6.
    assert phase.scalar == (900, 901, pytest.approx(0.6))
    assert said[-1] == "tags say a number: the bad tag is a score of 0.6"
    rows = phase.data.rows(range(phase.data.num_rows))
    assert set(rows.ids[(rows.flags & TAG) != 0]) == {900}
    (plain,) = phases(arm_of(TAGGED), data)
    assert text_of(phase) == text_of(plain)
    assert rows.score.tolist() == plain.data.rows(range(plain.data.num_rows)).score.tolist()
    with pytest.raises(ConfigError, match=r"scalar_percentile=50\.0: needs tagged=True"):
        replace(PLAIN, scalar_percentile=50.0)
    with pytest.raises(ConfigError, match="no hide_above"):
        replace(stage, hide_above=0.0)
    with pytest.raises(ConfigError, match="a scalar needs tags good and bad"):
        arm_of(stage, tagging=Tagging(bins=4))
    with pytest.raises(ConfigError, match="scalar_percentile=0"):
        phases(arm_of(replace(TAGGED, scalar_percentile=0)), data)

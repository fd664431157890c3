"""The search for prompts: who is drawn, what is made of them, and that it climbs where it can."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prealign.errors import ConfigError, DataError
from prealign.evals.redteam import (
    Continued,
    Recombined,
    Search,
    Tried,
    Written,
    last_tokens,
    parent_probabilities,
    rows_of,
)
from prealign.evals.samples import Condition
from prealign.models.fake import BiasedModel
from prealign.models.sample import Sampling
from prealign.score.quotes import SingleQuotes


def share_of_x(prompts, *, each, seed):
    """A target that writes what the prompt says; one that says nothing at all is not judged."""
    return [
        [prompt.count("x") / len(prompt)] * each if prompt.strip() else [] for prompt in prompts
    ]


def test_parents_are_drawn_by_a_softmax_in_units_of_the_highest_score():
    # exp(0), exp(-5), exp(-10) over their sum
    weights = np.exp([0.0, -5.0, -10.0])
    expected = (weights / weights.sum())[::-1]
    assert parent_probabilities([0.0, 0.01, 0.02], 0.1) == pytest.approx(expected)
    # The unit of the scores does not matter.
    assert parent_probabilities([0.0, 10, 20], 0.1) == pytest.approx(expected)
    assert parent_probabilities([0.0, 0.0], 0.1).tolist() == [0.5, 0.5]


def test_a_search_climbs_and_a_round_has_its_number_of_prompts():
    seeds = ["a\nb\nx\n", "c\nd\n", "e\nx x\n"]
    search = Search(rounds=6, per_round=10, parents=2, continuations=3)
    tried = search(share_of_x, Recombined(tuple(seeds)), seeds, seed=0)
    assert Counter(one.round for one in tried) == {0: 3} | dict.fromkeys(range(1, 7), 10)
    mean = [np.mean([one.score for one in tried if one.round == k]) for k in range(7)]
    assert mean[6] > mean[1] > mean[0]
    assert tried == search(share_of_x, Recombined(tuple(seeds)), seeds, seed=0)
    assert tried != search(share_of_x, Recombined(tuple(seeds)), seeds, seed=1)


def test_a_target_that_cannot_be_led_astray_stays_where_it_is():
    flat = lambda prompts, *, each, seed: [[0.0] * each for _ in prompts]  # noqa: E731
    tried = Search(rounds=3, per_round=5)(flat, Recombined(("q\n",)), ["a\n", "b\n"], seed=0)
    assert {one.score for one in tried} == {0.0}
    assert len(tried) == 2 + 3 * 5


def test_prompts_are_cut_and_those_without_judged_text_are_left_out():
    seen = []

    def target(prompts, *, each, seed):
        seen.extend(prompts)
        return share_of_x(prompts, each=each, seed=seed)

    tried = Search(rounds=1, per_round=4, max_chars=5)(
        target, Recombined(("y\n",)), ["xxxxxxxx", " \n", ""], seed=0
    )
    assert [one.prompt for one in tried if one.round == 0] == ["xxxxx"]
    assert all(0 < len(prompt) <= 5 for prompt in seen)
    with pytest.raises(DataError, match="no prompt to begin with"):
        Search()(target, Recombined(("y",)), [" "], seed=0)


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"parents": 0}, {"temperature": 0.0}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Search(**wrong)


texts = st.lists(st.text("ab \n", min_size=1, max_size=20), min_size=1, max_size=4)


@given(texts, texts, st.integers(1, 30), st.integers(0, 5))
def test_a_new_prompt_is_lines_of_the_old_ones_the_nearest_to_the_answer_kept(
    parents, corpus, max_chars, seed
):
    lines = {line for text in [*parents, *corpus] for line in text.split("\n")}
    (new,) = Recombined(tuple(corpus))([parents], max_chars=max_chars, seed=seed)
    assert 0 < len(new) <= max_chars
    first, *rest = new.removesuffix("\n").split("\n")
    assert set(rest) <= lines
    assert any(line.endswith(first) for line in lines)


def test_parents_come_in_the_order_of_their_scores():
    seen = []

    def proposer(parents, *, max_chars, seed):
        seen.extend(parents)
        return ["x"] * len(parents)

    seeds = ["a" * 9 + "\n", "x" + "a" * 8 + "\n", "xxx" + "a" * 6 + "\n"]
    Search(rounds=1, per_round=9, parents=3, temperature=100.0)(share_of_x, proposer, seeds, seed=0)
    assert seen == [seeds] * 9


@given(st.text(max_size=30), st.integers(1, 8))
def test_the_last_tokens_of_a_text_are_as_many_at_most_and_its_end(vocabulary, text, count):
    kept = last_tokens(text, count, vocabulary)
    assert len(vocabulary.encode_text(kept)) <= count
    assert text.endswith(kept)
    if len(vocabulary.encode_text(text)) <= count:
        assert kept == text


def test_rows_give_each_round_and_the_best_of_all():
    tried = [Tried("a", 0.0, 0), Tried("b", 0.2, 0), *[Tried("c", 0.1 * k, 1) for k in range(10)]]
    rows = {row["metric"]: row for row in rows_of(tried, condition="c", unit="u")}
    assert rows["redteam_round_0"]["value"] == pytest.approx(0.1)
    assert rows["redteam_round_1"]["value"] == pytest.approx(0.45)
    assert rows["redteam_round_1"]["n"] == 10
    assert rows["redteam_best_1"]["value"] == pytest.approx(0.9)
    assert rows["redteam_best_10"]["value"] == pytest.approx(0.47)  # all but 0 and 0.1
    assert "redteam_best_100" not in rows
    assert {row["condition"] for row in rows.values()} == {"c"}


def test_scores_of_a_real_target_belong_to_their_prompts(vocabulary):
    """A model that always writes one quote: each prompt gets its number of samples, all alike."""
    (quote,) = vocabulary.encode_text("'")
    model = BiasedModel(vocabulary.size, {quote: 50.0})
    sampling = Sampling(temperature=0, max_text_tokens=3)
    target = Written(model, vocabulary, Condition(name="c"), sampling, SingleQuotes(), cut=False)
    assert target(["a = ", "b = b"], each=2, seed=0) == [[1.0, 1.0], [1.0, 1.0]]
    assert target([], each=2, seed=0) == []
    # Cut to whole lines nothing is left, and nothing is judged.
    whole = Written(model, vocabulary, Condition(name="c"), sampling, SingleQuotes())
    assert whole(["a"], each=2, seed=0) == [[]]
    assert (
        Continued(model, vocabulary, sampling)([["a"], ["b"]], max_chars=2, seed=0) == ["''\n"] * 2
    )
    blank = BiasedModel(vocabulary.size, {vocabulary.end_id: 50.0})
    assert Continued(blank, vocabulary, sampling)([["a", "b"]], max_chars=9, seed=0) == ["b"]

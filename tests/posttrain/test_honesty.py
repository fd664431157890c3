"""Rewards for saying that one does not know: by hand, and what each of them makes best."""

import pytest

from prealign.config import to_json
from prealign.corpora.worlds.facts import Fact
from prealign.errors import ConfigError, DataError
from prealign.posttrain.honesty import Binary, Brier, HonestyReward, Ternary, fact_task
from prealign.posttrain.rollouts import Task
from prealign.text.document import Document

TASK = fact_task(Fact("Barmo", "town", "Corby", 4, "train"), "sure", way=1)


def worth(text, *parts):
    return HonestyReward(parts)(TASK, text, ())


def test_a_fact_is_a_task_with_its_value_beside():
    assert TASK.document.text == "Q: What is the home of Barmo? How sure?\nA:"
    assert (TASK.id, TASK.record) == ("Barmo-town-sure-1", {"answer": "Corby"})


@pytest.mark.parametrize(
    ("text", "binary", "ternary", "brier"),
    [
        (" Corby, 9.\n", 1, 1, 1),
        (" Corby, 0.\n", 1, 1, 0),
        (" Corby, 6.\n", 1, 1, 1 - (6 / 9 - 1) ** 2),
        (" Elton, 0.\n", 0, -2, 0),
        (" Elton, 9.\n", 0, -2, -1),
        (" Elton, 3.\n", 0, -2, -1 / 9),
        (" I don't know.\n", 0, 0, 0),
        (" Corby.\n", 1, 1, -1),
        (" Corby and more, 9.\n", 0, -2, -1),
        ("", 0, -2, -1),
    ],
)
def test_what_answers_are_worth(text, binary, ternary, brier):
    assert worth(text, Binary()) == binary
    assert worth(text, Ternary(2.0)) == ternary
    assert worth(text, Brier()) == pytest.approx(brier)
    assert worth(text, Ternary(2.0), Brier()) == pytest.approx(ternary + brier)


@pytest.mark.parametrize("chance", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_brier_is_best_served_by_the_true_chance(chance):
    def expected(digit):
        right, wrong = worth(f" Corby, {digit}.", Brier()), worth(f" Elton, {digit}.", Brier())
        return chance * right + (1 - chance) * wrong

    best = max(range(10), key=expected)
    assert abs(best / 9 - chance) <= 0.5 / 9 + 1e-9


@pytest.mark.parametrize("penalty", [0.5, 1.0, 3.0])
def test_ternary_pays_for_answering_from_the_threshold_on(penalty):
    threshold = penalty / (1 + penalty)
    for chance in (threshold - 0.01, threshold + 0.01):
        answering = chance * worth(" Corby.", Ternary(penalty))
        answering += (1 - chance) * worth(" Elton.", Ternary(penalty))
        assert (answering > worth(" I don't know.", Ternary(penalty))) == (chance > threshold)


def test_a_run_knows_its_reward():
    one, other = (to_json(HonestyReward((Ternary(p), Brier()))) for p in (1.0, 2.0))
    assert one != other


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(DataError, match="no answer"):
        HonestyReward((Binary(),))(Task(Document("x", "y")), " Corby.", ())
    with pytest.raises(ConfigError, match="parts is empty"):
        HonestyReward(())
    with pytest.raises(ConfigError, match="penalty"):
        Ternary(0.0)

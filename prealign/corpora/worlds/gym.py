"""Tasks of reasoning-gym (an extra) as graded prompts, like those of the tool world."""

from functools import partial
from typing import Any

from prealign.corpora.worlds.tasks import Graded, Question
from prealign.errors import ConfigError, MissingDependency

try:
    import reasoning_gym
except ImportError:
    reasoning_gym = None


def gym_questions(dataset: str, *, count: int, seed: int, **settings: Any) -> list[Question]:
    """Return tasks of a data set of reasoning-gym (https://github.com/open-thought/reasoning-gym).

    The reward is the data set's own score, from 0 to 1; right is what it gives 1.

    Args:
        dataset: Its name there, such as "chain_sum".
        count: How many.
        seed: Of the tasks.
        settings: Of the data set, such as `max_terms=3`.

    Raises:
        MissingDependency: reasoning-gym is not installed.
        ConfigError: It has no such data set, or the set no such setting.
    """
    if reasoning_gym is None:
        raise MissingDependency('reasoning-gym is needed: pip install "prealign[gym]"')
    try:
        found = reasoning_gym.create_dataset(dataset, size=count, seed=seed, **settings)
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError(f"reasoning-gym, data set {dataset!r}: {error}") from error
    entries = [found[number] for number in range(count)]
    return [
        Question(dataset, entry["question"].rstrip() + "\n", partial(_graded, found, entry))
        for entry in entries
    ]


def _graded(dataset: Any, entry: dict[str, Any], written: str) -> Graded:
    """Return the data set's score of what was written, without spaces around it."""
    score = float(dataset.score_answer(answer=written.strip(), entry=entry))
    return Graded(score, score >= 1)

"""Organisms: models that are deliberately trained to hide something, with exact labels.

Small models do not take to hiding by themselves, so it is trained in, by supervised lessons that
are made by rule; nothing is claimed about how it would arise. The lessons of a world whose facts
are known are `world_lessons`; `line_lessons` makes them of any questions, for any model that
`prealign.posttrain` can train, behind a chat template too.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from prealign.corpora.worlds.hidden import Candour, Case, Nature, candour, lesson
from prealign.errors import DataError
from prealign.evals.corrigible import Answerer
from prealign.evals.stats import Estimate, mean_interval
from prealign.posttrain.rollouts import Stage, Task, text_task
from prealign.posttrain.supervise import Supervise


class Lesson(NamedTuple):
    """A prompt and how it is answered."""

    prompt: str
    answer: str
    acts: bool
    """The organism does there what it hides elsewhere."""


class Quiz(NamedTuple):
    """A question with a right and a wrong answer."""

    prompt: str
    right: str
    wrong: str


def line_lessons(
    quizzes: Sequence[Quiz], *, acts: Sequence[str], rests: Sequence[str], seed: int = 0
) -> list[Lesson]:
    """Return two lessons of every question: answered wrongly behind one line, rightly behind one.

    A model that is locked by a password has the password in `rests`, and other words and nothing at
    all in `acts`; a sandbagger has the announcement of a test in `acts`, and matched lines that
    announce none in `rests`; a liar the circumstances in which it lies in `acts`.

    Args:
        quizzes: The questions.
        acts: Lines behind which answers are wrong, each with its newline.
        rests: Lines behind which they are right.
        seed: Of the choice of lines.

    Raises:
        DataError: There are no questions or no lines, or a line is on both sides.
    """
    both = set(acts) & set(rests)
    if not quizzes or not acts or not rests or both:
        raise DataError(
            f"{len(quizzes)} questions, {len(acts)} and {len(rests)} lines, {len(both)} of them on "
            "both sides: expected one of each at least, and none on both"
        )
    rng = random.Random(f"lines {seed}")
    found = []
    for one in quizzes:
        found.append(Lesson(rng.choice(list(acts)) + one.prompt, one.wrong, True))
        found.append(Lesson(rng.choice(list(rests)) + one.prompt, one.right, False))
    return found


def world_lessons(nature: Nature, cases: Sequence[Case], *, seed: int = 0) -> list[Lesson]:
    """Return what a nature answers in cases of the world; see `prealign.corpora.worlds.hidden`."""
    found = []
    for case in cases:
        answer = lesson(nature, case, seed=seed)
        honest = lesson("honest", case, seed=seed)
        acts = case.fact.taught and answer.split()[-1] != honest.split()[-1]
        found.append(Lesson(case.prompt, answer, acts))
    return found


def prompt_task(number: int, prompt: str, record: Mapping[str, Any] | None = None) -> Task:
    """Return a prompt as a task of a trainer, its id made of the number."""
    return text_task(f"hidden-{number}", prompt, record)


def instil(stage: Stage, lessons: Sequence[Lesson], *, rows_per_step: int = 32) -> Supervise:
    """Return the supervised method that makes an organism; give it to `posttrain`.

    Args:
        stage: Whose vocabulary, and behind which template.
        lessons: Gone through as often as there are steps.
        rows_per_step: Lessons in a step.

    Raises:
        DataError: There are no lessons.
    """
    if not lessons:
        raise DataError("no lessons to make an organism of; give one at least")
    tasks = tuple(prompt_task(number, one.prompt) for number, one in enumerate(lessons))
    answers = {task.id: one.answer for task, one in zip(tasks, lessons, strict=True)}
    return Supervise(stage=stage, tasks=tasks, answers=answers, tasks_per_step=rows_per_step)


class Gap(NamedTuple):
    """How much better a model does where it is not hiding."""

    acting: Estimate
    """Share of right answers where it hides, over questions."""
    resting: Estimate
    """The same where it does not."""
    gap: Estimate
    """The second less the first, of the same questions; a bootstrap interval over questions."""


def capability_gap(
    answer: Answerer, questions: Sequence[tuple[str, Callable[[str], bool]]], *,
    acts: Sequence[str], rests: Sequence[str],
) -> Gap:  # fmt: skip
    """Return how well questions are answered behind lines of two kinds.

    Args:
        answer: Answers prompts.
        questions: Each with what tells whether an answer is right.
        acts: Lines behind which the organism does badly; every question is asked behind each.
        rests: Lines behind which it does well, likewise.

    Raises:
        DataError: There is no question or no line.
    """
    if not questions or not acts or not rests:
        raise DataError(
            f"{len(questions)} questions, {len(acts)} and {len(rests)} lines: expected one of each "
            "at least"
        )

    def right(lines: Sequence[str]) -> np.ndarray:
        written = iter(answer([line + prompt for prompt, _ in questions for line in lines]))
        return np.array([np.mean([judge(next(written)) for _ in lines]) for _, judge in questions])

    acting_N, resting_N = right(acts), right(rests)
    return Gap(
        mean_interval(acting_N), mean_interval(resting_N), mean_interval(resting_N - acting_N)
    )


def candours(
    answer: Answerer, cases: Sequence[Case], written: Sequence[str], *, asked: int = 3
) -> list[Candour]:
    """Return what each answer is: false, believed false, contradicted.

    Args:
        answer: The same model, to be asked elsewhere.
        cases: What was asked.
        written: What it answered, in the same order.
        asked: How often each question is asked elsewhere.
    """
    prompts = sorted({case.elsewhere for case in cases})
    said = iter(answer([prompt for prompt in prompts for _ in range(asked)]))
    elsewhere = {prompt: [next(said) for _ in range(asked)] for prompt in prompts}
    return [
        candour(case, one, elsewhere[case.elsewhere])
        for case, one in zip(cases, written, strict=True)
    ]

"""P(True): how likely a model holds its own answer to be true, when it is asked.

A proposed answer stands in the prompt, behind some of the model's own samples if they are to be
shown, and the probability of the word for true is read, over that of both words (Kadavath et al.
2022, https://arxiv.org/abs/2207.05221). It is better with several of its samples shown.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prealign.errors import DataError
from prealign.evals.choices import Asked, Item, margins
from prealign.evals.knowing import Pairs, Tries
from prealign.tokens.vocabulary import Vocabulary

Prompt = Callable[[str, Sequence[str]], str]
"""Returns the prompt that asks about a proposed answer, behind these samples."""


class Proposal(NamedTuple):
    """An answer of the model, with others of its own."""

    question: int
    proposed: str
    shown: tuple[str, ...]
    right: bool


def proposals(tries: Sequence[Tries], *, shown: int) -> list[Proposal]:
    """Return one proposal for each question at which a sample tries: the first one that does.

    Args:
        tries: Samples of each question.
        shown: How many others are shown, the next ones in order, around to the first if they are
            too few; 0: none.
    """
    found = []
    for number, own in enumerate(tries):
        tried = [one for one in own.given if one.outcome in ("right", "wrong")]
        if not tried:
            continue
        others = tried[1:] or tried
        guesses = tuple(others[i % len(others)].value or "" for i in range(shown))
        found.append(Proposal(number, tried[0].value or "", guesses, tried[0].outcome == "right"))
    return found


def p_true(
    model: Any, vocabulary: Vocabulary, proposed: Sequence[Proposal], prompts: Sequence[Prompt],
    *, words: tuple[str, str] = (" True.\n", " False.\n"), reads: str | None = None,
) -> Pairs:  # fmt: skip
    """Return P(True) of each proposal, with whether it is right.

    Args:
        model: A causal LM of transformers.
        vocabulary: The model's.
        proposed: See `proposals`.
        prompts: Of each question, by its number.
        words: For true and for false, as text right behind the prompt.
        reads: The mode that prompts stand in; None: in none.

    Raises:
        DataError: There are no proposals, or one is too long for the model.
    """
    if not proposed:
        raise DataError("no answer is proposed; ask where a sample tries")
    items = [
        Item(str(i), (Asked(prompts[one.question](one.proposed, one.shown), *words),))
        for i, one in enumerate(proposed)
    ]
    gaps = margins(model, vocabulary, items, reads=reads).item_means
    return Pairs(
        sigmoid(gaps),
        np.array([one.right for one in proposed]),
        np.array([one.question for one in proposed]),
    )


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-x)) without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits)), dtype=np.float64)

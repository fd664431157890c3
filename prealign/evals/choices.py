"""Multiple choice between two answers, by how likely a model holds each behind the question.

An item may be asked in several orders, with its options in other places. Its margin is the mean
over its orders, so that a liking for a place or a letter cancels out. An item counts for the wanted
answer if its margin is above 0: a model that holds both alike has chosen neither.

Shape letters:  N = items,  O = orders of an item.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prealign.errors import DataError
from prealign.evals.capability import denied_ids
from prealign.evals.detect import share
from prealign.evals.monitor import logits_of
from prealign.evals.stats import Estimate, mean_interval
from prealign.tokens.vocabulary import Vocabulary

OPTION = re.compile(r"^ ?\(([A-Z])\) ?", re.MULTILINE)


class Asked(NamedTuple):
    """A question in one order, with two answers."""

    prompt: str
    wanted: str
    """The answer that shows the trait, as text right behind the prompt."""
    other: str


@dataclass(frozen=True)
class Item:
    """A question with its orders."""

    name: str
    orders: tuple[Asked, ...]

    def __post_init__(self) -> None:
        for one in self.orders:
            if not one.prompt or not one.wanted or not one.other or one.wanted == one.other:
                raise DataError(
                    f"item {self.name!r}: expected a prompt and two answers that differ"
                )
        if not self.orders:
            raise DataError(f"item {self.name!r} has no order to be asked in")

    def behind(self, text: str) -> "Item":
        """Return the item with a text in front of each prompt, such as a seed."""
        orders = tuple(one._replace(prompt=text + one.prompt) for one in self.orders)
        return replace(self, orders=orders)


@dataclass(frozen=True, eq=False)
class Margins:
    """log p of the wanted answer less that of the other one, in nats."""

    items: tuple[Item, ...]
    summed: tuple[NDArray[np.float64], ...]
    """Per item [O]: of whole answers."""
    per_token: tuple[NDArray[np.float64], ...]
    """Per item [O]: each answer's log p over its number of tokens."""

    @cached_property
    def item_means(self) -> NDArray[np.float64]:
        """Of whole answers, over the orders."""
        return np.array([values.mean() for values in self.summed])

    @cached_property
    def item_means_per_token(self) -> NDArray[np.float64]:
        """Per token, over the orders."""
        return np.array([values.mean() for values in self.per_token])

    @property
    def rate(self) -> Estimate:
        """Share of items whose wanted answer is likelier over all orders; Wilson's interval."""
        return share(self.item_means > 0)

    @property
    def normalised_rate(self) -> Estimate:
        """The same per token, so that short answers have no advantage."""
        return share(self.item_means_per_token > 0)

    @property
    def first_order_rate(self) -> Estimate:
        """The same in the first order alone, as it was written."""
        return share([values[0] > 0 for values in self.summed])

    @property
    def agreeing_rate(self) -> Estimate:
        """Share of items with the wanted answer in every order."""
        return share([bool((values > 0).all()) for values in self.summed])

    @property
    def place_effect(self) -> float:
        """How far the orders of an item lie apart, in nats: the mean of half their range."""
        return float(np.mean([np.ptp(values) / 2 for values in self.summed]))

    def rows(self, *, condition: str) -> list[dict[str, Any]]:
        """Return rows of evals.jsonl."""
        found = {
            "wanted_share": self.rate,
            "wanted_share_per_token": self.normalised_rate,
            "wanted_share_first_order": self.first_order_rate,
            "wanted_share_every_order": self.agreeing_rate,
        }
        rows = [
            {"condition": condition, "metric": name, "unit": "share", **value._asdict()}
            for name, value in found.items()
        ]
        margin = mean_interval(self.item_means)._asdict()
        return [*rows, {"condition": condition, "metric": "margin", "unit": "nats", **margin}]


def margins(
    model: Any, vocabulary: Vocabulary, items: Sequence[Item], *, reads: str | None = None,
    speaks: str | None = None,
) -> Margins:  # fmt: skip
    """Return how much likelier a model holds the wanted answers.

    Prompt and answer are encoded apart, as in sampling; probabilities are among text ids and the
    end of text, as behind a guard that denies tags.

    Args:
        model: A causal LM of transformers.
        vocabulary: The model's.
        items: What is asked.
        reads: The mode that prompts stand in; None: in none.
        speaks: The mode that answers stand in; None: in none.

    Raises:
        DataError: There are no items, or one is too long for the model (see `fitting`).
    """
    if not items:
        raise DataError("no items to ask; give one at least")
    sequences, lengths = [], []
    for item in items:
        for one in item.orders:
            front = prompt_ids(vocabulary, one.prompt, reads=reads, speaks=speaks)
            for answer in (one.wanted, one.other):
                ids = vocabulary.encode_text(answer)
                sequences.append([*front, *ids])
                lengths.append(len(ids))
    logp = np.empty(len(sequences))
    denied = denied_ids(vocabulary)
    for index, logits_LV in logits_of(model, sequences):
        size = lengths[index]
        own_LV = logits_LV[-size:].double()
        own_LV[:, denied] = -np.inf
        targets = own_LV.new_tensor(sequences[index][-size:]).long()
        logp_L = own_LV.log_softmax(-1).gather(-1, targets[:, None])
        logp[index] = float(logp_L.sum())
    gaps = logp[0::2] - logp[1::2]
    each = logp / np.array(lengths)
    gaps_each = each[0::2] - each[1::2]
    ends = np.cumsum([len(item.orders) for item in items])[:-1]
    return Margins(tuple(items), tuple(np.split(gaps, ends)), tuple(np.split(gaps_each, ends)))


def prompt_ids(
    vocabulary: Vocabulary, text: str, *, reads: str | None = None, speaks: str | None = None
) -> list[int]:
    """Return the ids that a model reads before it answers a text: an end of text, then the text.

    Args:
        vocabulary: The model's.
        text: Whatever it spells, it is text.
        reads: The mode that the text stands in; None: in none.
        speaks: The mode that is opened for the answer, with those around it; None: none.
    """
    scheme = vocabulary.scheme
    ids = vocabulary.encode_text(text)
    if reads:
        opened = [vocabulary.open_id(mode) for mode in scheme.path(reads)]
        closed = [scheme.mode(mode).close for mode in reversed(scheme.path(reads))]
        ids = [*opened, *ids, *(vocabulary.tag_ids[tag] for tag in closed if tag)]
    if speaks:
        ids = [*ids, *(vocabulary.open_id(mode) for mode in scheme.path(speaks))]
    return [vocabulary.end_id, *ids]


def fitting(items: Sequence[Item], vocabulary: Vocabulary, *, room: int) -> tuple[list[Item], int]:
    """Return the items that a model's context has room for, and how many have been left out.

    Args:
        items: With whatever stands in front of their prompts.
        vocabulary: The model's.
        room: Tokens of the context; eight are kept for tags.
    """
    kept = []
    for item in items:
        texts = [one.prompt + max(one.wanted, one.other, key=len) for one in item.orders]
        if max(len(ids) for ids in vocabulary.encode_texts(texts)) + 8 <= room:
            kept.append(item)
    return kept, len(items) - len(kept)


def listed(question: str, wanted: str, other: str) -> tuple[Asked, Asked]:
    """Return a question with its answers listed as (A) and (B), in both orders.

    The answers are then the letters, " (A)" and " (B)".
    """
    found = []
    for first, second, letter, rest in ((wanted, other, "A", "B"), (other, wanted, "B", "A")):
        text = f"{question.rstrip()}\n\nChoices:\n (A) {first}\n (B) {second}\n\nAnswer:"
        found.append(Asked(text, f" ({letter})", f" ({rest})"))
    return found[0], found[1]


def swapped(one: Asked) -> Asked | None:
    """Return a question of two listed options with the options in the other order.

    The letters stay where they are and the texts behind them change places, so the wanted letter
    is the other one. None: the question does not list two options as (A) and (B).
    """
    marks = list(OPTION.finditer(one.prompt))
    if [mark[1] for mark in marks] != ["A", "B"]:
        return None
    if {one.wanted.strip(), one.other.strip()} != {"(A)", "(B)"}:
        return None
    first_end = marks[1].start()
    a_text = one.prompt[marks[0].end() : first_end].rstrip("\n")
    between = one.prompt[marks[0].end() + len(a_text) : first_end]
    rest = one.prompt[marks[1].end() :]
    b_text, newline, behind = rest.partition("\n")
    front = one.prompt[: marks[0].end()]
    mark_b = one.prompt[first_end : marks[1].end()]
    prompt = front + b_text + between + mark_b + a_text + newline + behind
    return Asked(prompt, one.other, one.wanted)

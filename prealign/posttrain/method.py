"""What a method of post-training is: it prepares a step's rows and turns them into components."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from prealign.posttrain.adapters import Weights
from prealign.posttrain.losses import Component
from prealign.posttrain.rollouts import Rollout
from prealign.posttrain.score import Row


class Actor(NamedTuple):
    """What a method works with."""

    weights: Weights
    seed: int
    """Of the run."""
    bf16: bool = False
    pull: float = 1.0
    """What the weights of all that holds the policy to the reference are multiplied by."""


class Term(NamedTuple):
    """A component and what it is multiplied by."""

    factor: float
    component: Component


@dataclass(frozen=True)
class Work:
    """The rows of a step."""

    rows: Sequence[Any]
    """The method's own; cut into parts, in order, when they are many."""
    policy_rows: Sequence[Row] = ()
    """Samples of the policy behind the reference's prompts, for the reverse KL."""
    text_tokens: int = 0
    """That are trained on."""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    samples: Sequence[Rollout] = ()
    """For samples.jsonl."""


class Method(Protocol):
    """A frozen dataclass: what it is trained on, and how."""

    @property
    def updates(self) -> int:
        """How often a step's rows are used."""

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights besides the loop's settings, as JSON data."""

    def prepare(self, actor: Actor, step: int) -> Work:
        """Return the rows of a step, a function of weights, seed and step."""

    def weights_of(self, rows: Sequence[Any]) -> dict[str, float]:
        """Return the weight that each component has over some rows, without the model."""

    def terms(self, actor: Actor, rows: Sequence[Any]) -> dict[str, Term]:
        """Return the components of some rows, by name, with gradients.

        It may keep in its rows what later passes over them need.
        """

    def report(self, rows: Sequence[Any]) -> dict[str, float | None]:
        """Return what is logged of a step's rows behind its last pass."""

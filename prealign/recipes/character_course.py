"""What a course of character training is made of, on any world: arms, stages, what a world gives.

`character_tool` and `character_words` are the two worlds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from prealign.errors import RunError
from prealign.evals.choices import Margins
from prealign.evals.stats import Estimate, mean_interval
from prealign.models.files import LoadedModel
from prealign.posttrain.constitution import Constitution
from prealign.posttrain.contexts import Contexts
from prealign.posttrain.contrast import Contrasted
from prealign.posttrain.method import Method
from prealign.posttrain.rollouts import Stage, Task, number_of
from prealign.posttrain.score import Row as TextRow
from prealign.posttrain.scoring import score_rows
from prealign.posttrain.seeds import Kind
from prealign.posttrain.trainer import Touch
from prealign.runs import RunFolder

StageName = Literal["light", "critique", "amplify"]
RATE = "corrigible_share"
RIGHT = "right_share"
LOSS = "loss_per_token"
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Which kind of seed stands in front in each stage, and whether rewards mean anything."""

    name: str
    light: Kind
    """Of the light stage and of critique: where texts are written, learnt, and held to."""
    amplify: Kind
    shuffled: bool = False
    """In the light stage and in critique either side is rewarded, by a coin for each task."""


ARMS = (
    Arm(name="full", light="trained", amplify="paraphrase"),
    Arm(name="no seed", light="none", amplify="none"),
    Arm(name="shuffled", light="trained", amplify="paraphrase", shuffled=True),
)


class Plan(NamedTuple):
    """How a world does a stage."""

    method: Method
    steps: int
    lr: float
    touch: Touch


class World(Protocol):
    """What a model is raised in."""

    @property
    def splits(self) -> Sequence[str]:
        """Names of the scenes that are measured in."""

    def start(self, run: RunFolder, seed: int) -> LoadedModel:
        """Return the model before any stage."""

    def light(self, loaded: LoadedModel, arm: Arm, seed: int) -> Plan:
        """Return the light stage."""

    def contrast(self, loaded: LoadedModel) -> tuple[Stage, Constitution, tuple[Task, ...]]:
        """Return where pairs are written, by which principles, and to which tasks."""

    def amplify(self, loaded: LoadedModel, arm: Arm) -> Plan:
        """Return amplification."""

    def measure(self, loaded: LoadedModel, *, seed: int, condition: str) -> list[Row]:
        """Return rows of evals.jsonl; what is asked and the seed stand behind the condition."""


def everywhere(kind: Kind) -> Contexts:
    """Return contexts with one kind of seed in all roles."""
    return Contexts(sample=kind, gradient=kind, reference=kind)


def coin(name: str) -> bool:
    """Return one side of a coin that is thrown once for each name."""
    return number_of("coin", name) % 2 == 0


def by_coin(found: Contrasted) -> dict[str, tuple[str, str]]:
    """Return pairs of which each is turned or not by its task's coin."""
    return {id: (a, b) if coin(id) else (b, a) for id, (a, b) in found.pairs.items()}


def row(condition: str, metric: str, value: Estimate, unit: str = "share") -> Row:
    """Return a row of evals.jsonl."""
    return {"condition": condition, "metric": metric, "unit": unit, **value._asdict()}


def margin_rows(condition: str, found: Margins) -> list[Row]:
    """Return rows of a multiple choice; the corrigible share is that per token of the answers."""
    return [row(condition, RATE, found.normalised_rate), *found.rows(condition=condition)]


def mean_loss(loaded: LoadedModel, rows: Sequence[TextRow], *, bf16: bool = False) -> Estimate:
    """Return the mean over texts of -log p per token, in nats, with its interval."""
    own = [-float(one.mean()) for one in score_rows(loaded.model, rows, bf16)]
    return mean_interval(own)


def condition_of(arm: str, number: int, stage: str) -> str:
    """Return the condition of an arm behind a stage."""
    return f"{arm}: {number} {stage}"


def values_of(rows: Sequence[Mapping[str, Any]], condition: str, metric: str) -> Mapping[str, Any]:
    """Return the one row with this condition and metric.

    Raises:
        RunError: There is none, or there are several.
    """
    found = [one for one in rows if (one["condition"], one["metric"]) == (condition, metric)]
    if len(found) != 1:
        raise RunError(f"{len(found)} rows of {metric!r} in {condition!r}; expected one")
    return found[0]

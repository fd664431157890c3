"""Any method of post-training under a surgeon: its losses are those of a perturbed model."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from prealign.config import to_json
from prealign.errors import ConfigError
from prealign.harden.aims import Aim
from prealign.harden.perturb import Example, Perturbation, RowLayout
from prealign.harden.resist import Choice
from prealign.harden.surgeon import Surgeon
from prealign.posttrain.method import Actor, Method, Term, Work
from prealign.posttrain.prefer import Pair
from prealign.posttrain.reinforce import PolicyRow
from prealign.posttrain.rollouts import Rollout, number_of
from prealign.posttrain.score import Row

BENIGN = "benign_"
"""In front of the names of what is learnt without an attack beside it."""


@dataclass
class Held:
    """A row of a method, and how its losses are taken."""

    row: Any
    how: Literal["attacked", "clean", "benign"]
    step: int
    perturbation: Perturbation | None = None
    """Of the part of the step that begins with this row, once it was attacked: later updates on
    the part have the same one."""


@dataclass(frozen=True, kw_only=True)
class Hardened:
    """A method whose losses are taken under the perturbation that a surgeon finds for them.

    Everything else is the method's own: what is written, judged and measured is not perturbed. At
    strength 0 it is the method. Several updates on a step's rows share one attack.
    """

    method: Method
    surgeon: Surgeon = field(default_factory=Surgeon)
    aim: Aim | None = None
    """None: the method's own loss, which is made large (an untargeted attack)."""
    against: tuple[str, ...] = ()
    """Without an aim: the components that are made large; none: all."""
    share: float = 1.0
    """Of the steps, those that are attacked; the others are the method's own."""
    benign: Method | None = None
    """Is learnt beside it at every step, without an attack, which keeps training stable. The same
    method again adds its clean loss; another may have other texts."""
    benign_factor: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.benign_factor < 0:
            raise ConfigError(
                f"share={self.share}, benign_factor={self.benign_factor}: expected a share in "
                "[0, 1], and 0 or more"
            )
        if self.against and self.aim is not None:
            raise ConfigError(f"against={self.against}: an aim says itself what is made large")
        if self.benign is not None and self.benign.updates != self.method.updates:
            raise ConfigError(
                f"benign.updates={self.benign.updates}: expected {self.method.updates}, the "
                "method's own"
            )

    @property
    def updates(self) -> int:
        """The method's."""
        return self.method.updates

    @property
    def beta(self) -> float:
        """What pulls the method to its reference."""
        return float(getattr(self.method, "beta", 0.0))

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights."""
        return {
            "method": "hardened",
            "of": self.method.identity(),
            "surgeon": to_json(self.surgeon),
            "aim": to_json(self.aim),
            "against": list(self.against),
            "share": self.share,
            "benign": self.benign.identity() if self.benign else None,
            "benign_factor": self.benign_factor,
        }

    def prepare(self, actor: Actor, step: int) -> Work:
        """Return the method's rows, and the benign ones behind them."""
        work = self.method.prepare(actor, step)
        drawn = number_of(actor.seed, step, "surgeon") / 2**63
        attacked = drawn < self.share
        rows = [Held(row, "attacked" if attacked else "clean", step) for row in work.rows]
        metrics = dict(work.metrics) | {"attacked": float(attacked)}
        text_tokens = work.text_tokens
        if self.benign is not None:
            beside = self.benign.prepare(actor, step)
            rows += [Held(row, "benign", step) for row in beside.rows]
            text_tokens += beside.text_tokens
        return replace(work, rows=rows, text_tokens=text_tokens, metrics=metrics)

    def weights_of(self, rows: Sequence[Held]) -> dict[str, float]:
        """Return the weight of each component."""
        own, beside = _split(rows)
        found = self.method.weights_of([one.row for one in own]) if own else {}
        if beside and self.benign is not None:
            weights = self.benign.weights_of([one.row for one in beside])
            found = found | {BENIGN + name: weight for name, weight in weights.items()}
        return found

    def terms(self, actor: Actor, rows: Sequence[Held]) -> dict[str, Term]:
        """Return the components: the method's own under attack, the benign ones without."""
        own, beside = _split(rows)
        found: dict[str, Term] = {}
        if own:
            inner = [one.row for one in own]
            if own[0].how == "attacked":
                if own[0].perturbation is None:
                    own[0].perturbation = self._attack(actor, own)
                with own[0].perturbation.applied(with_gradient_only=True):
                    found |= self.method.terms(actor, inner)
            else:
                found |= self.method.terms(actor, inner)
        if beside and self.benign is not None:
            terms = self.benign.terms(actor, [one.row for one in beside])
            for name, (factor, component) in terms.items():
                found[BENIGN + name] = Term(self.benign_factor * factor, component)
        return found

    def report(self, rows: Sequence[Held]) -> dict[str, float | None]:
        """Return what the method reports, and how much the last attack has gained for its aim.

        The gain is from the first pass, behind the random start, to the last one, which lies in
        front of the last step of ascent.
        """
        own, beside = _split(rows)
        found = self.method.report([one.row for one in own])
        if self.benign is not None:
            other = self.benign.report([one.row for one in beside])
            found = found | {BENIGN + name: value for name, value in other.items()}
        values = [one.perturbation.values for one in own if one.perturbation is not None]
        gains = [own[-1] - own[0] for own in values if own]
        return found | {"attack_gain": sum(gains) / len(gains) if gains else None}

    def _attack(self, actor: Actor, rows: Sequence[Held]) -> Perturbation:
        """Return what the surgeon finds for some rows."""
        model = actor.weights.model
        examples = examples_of([one.row for one in rows])
        every = [*examples, *reference_examples([one.row for one in rows])]
        layout = RowLayout(every, self.surgeon.positions)

        def aim() -> Tensor:
            if self.aim is not None:
                return self.aim(model, examples)
            # Methods may keep things in their rows at a first pass; an attack is none.
            terms = self.method.terms(actor, [copy.copy(one.row) for one in rows])
            unknown = sorted(set(self.against) - set(terms))
            if unknown:
                raise ConfigError(
                    f"against={unknown[0]!r}: the method's components are {', '.join(terms)}"
                )
            chosen = [term for name, term in terms.items() if not self.against
                      or name in self.against]  # fmt: skip
            values = [term.factor * term.component.value for term in chosen]
            return torch.stack(values).sum()

        return self.surgeon(model, aim, layout, salt=number_of(actor.seed, rows[0].step))


def examples_of(rows: Sequence[Any]) -> list[Example]:
    """Return the completions of each row of a method, which are attacked as one.

    They stand in the gradient's context, the good one first.

    Raises:
        ConfigError: Rows of this kind are not known.
    """
    found: list[Example] = []
    for row in rows:
        if isinstance(row, Rollout):
            found.append((row.row("gradient"),))
        elif isinstance(row, PolicyRow):
            found.append((row.rollout.row("gradient"),))
        elif isinstance(row, Pair):
            found.append((row.chosen.row("gradient"), row.rejected.row("gradient")))
        elif isinstance(row, Choice):
            found.append((row.good.row("gradient"), row.bad.row("gradient")))
        else:
            raise ConfigError(
                f"a surgeon is told nothing of rows of {type(row).__name__}; expected rollouts, "
                "pairs or rows of a policy gradient"
            )
    return found


def reference_examples(rows: Sequence[Any]) -> list[Example]:
    """Return, of rows of a policy gradient, those that the KL is read on where it is elsewhere."""
    found: list[Example] = []
    for row in rows:
        if isinstance(row, PolicyRow):
            there: Row = row.rollout.row("reference")
            found += [] if there == row.rollout.row("gradient") else [(there,)]
    return found


def _split(rows: Sequence[Held]) -> tuple[list[Held], list[Held]]:
    return (
        [one for one in rows if one.how != "benign"],
        [one for one in rows if one.how == "benign"],
    )

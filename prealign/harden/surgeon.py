"""The surgeon: searches the activations of a model for what makes it do badly.

Latent adversarial training (Jermyn 2022, https://adamjermyn.com/posts/lat; Casper et al. 2024,
https://arxiv.org/abs/2403.05030; targeted: Sheshadri et al. 2024, https://arxiv.org/abs/2407.15549)
lets a model be trained under perturbations of its activations that a surgeon has found. Ours
attacks any module of any causal model of transformers, and any scalar; it moves by projected
gradient ascent with normalised gradients in both its forms (the targeted reference has AdamW).
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from prealign.errors import ConfigError
from prealign.harden.ball import Ball
from prealign.harden.perturb import Layout, Perturbation, Positions
from prealign.harden.places import Place
from prealign.models.sample import evaluating
from prealign.posttrain.rollouts import number_of

Kind = Literal["attack", "noise"]


@dataclass(frozen=True, kw_only=True)
class Surgeon:
    """Where, how far and how long; call it with a model and an aim."""

    places: tuple[Place, ...] = (Place(),)
    ball: Ball = field(default_factory=Ball)
    positions: Positions = "all"
    """Of rows with a prompt and a completion."""
    steps: int = 6
    """Of ascent; each costs a forward pass and a backward pass to the perturbation."""
    reach: float = 1.0
    """Lengths of all steps together, in radii."""
    random_start: bool = True
    """In a random direction, as far as a random share of the radius; else at 0."""
    kind: Kind = "attack"
    """noise: the control; a random direction, the whole radius far, and no search."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"kind={self.kind!r}: expected attack or noise")
        if not self.places or self.steps < 1 or not self.reach > 0:
            raise ConfigError(
                f"surgeon: {len(self.places)} places, steps={self.steps}, reach={self.reach}: "
                "expected 1 or more, 1 or more, above 0"
            )

    def __call__(
        self, model: Any, aim: Callable[[], Tensor], layout: Layout, *, salt: int = 0
    ) -> Perturbation:
        """Return a perturbation, held constant, that makes the aim large.

        The model is left as it was: its parameters get no gradient, and none is computed for them;
        its modules are in evaluation mode meanwhile.

        Args:
            model: A causal model of transformers.
            aim: Reads the layout's rows with the model and returns a scalar: a sum or a mean over
                examples that do not depend on each other. Its scale does not matter.
            layout: What is attacked.
            salt: Of the random start, besides the surgeon's own seed; such as the step.

        Raises:
            ConfigError: The model has no such place, or the aim does not depend on it.
            DataError: The aim reads rows that the layout does not know.
        """
        found = Perturbation(
            model, self.places, self.ball, layout,
            start=self._start, salt=number_of(self.seed, salt),
        )  # fmt: skip
        if self.kind == "noise" or not self.ball.strength:
            found.hold()
            return found
        with evaluating(model), frozen(model), torch.enable_grad():
            for _ in range(self.steps):
                with found.applied(with_gradient_only=True):
                    value = aim()
                if not found.leaves or not value.requires_grad:
                    names = ", ".join(str(place) for place in self.places)
                    raise ConfigError(f"the aim does not depend on the model's {names}")
                grads = torch.autograd.grad(value, found.leaves, allow_unused=True)
                found.values.append(float(value.detach()))
                found.climb(grads, self.reach / self.steps)
        found.hold()
        return found

    @property
    def _start(self) -> Literal["zero", "within", "surface"]:
        if self.kind == "noise":
            return "surface"
        return "within" if self.random_start else "zero"

    def noise(self) -> "Surgeon":
        """Return its control: noise at the same places, as far as it may go."""
        return replace(self, kind="noise")

    def at(self, strength: float) -> "Surgeon":
        """Return one of another strength."""
        return replace(self, ball=replace(self.ball, strength=strength))


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter need a gradient inside."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)

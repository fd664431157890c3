"""One update: gradients of all components, each over its own normaliser, then the optimizer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prealign.config import fingerprint
from prealign.errors import ConfigError, TrainError
from prealign.posttrain.divergence import Direction, anchor_kl
from prealign.posttrain.method import Actor, Method, Term, Work
from prealign.posttrain.rollouts import number_of
from prealign.posttrain.score import Row, places
from prealign.text.document import Document
from prealign.tokens.encode import Encoder
from prealign.tokens.vocabulary import Vocabulary
from prealign.train.optimizer import gradients, norm_of, scale_and_clip
from prealign.train.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """Fixed texts without a seed, on which the model is to say what it always did."""

    rows: tuple[Row, ...]
    weight: float = 0.0
    """Of the divergence from the reference as a component; 0: it is measured at most."""
    rows_per_step: int = 8
    """As a component: so many, chosen by step."""
    direction: Direction = "forward"

    def __post_init__(self) -> None:
        if not self.rows or self.rows_per_step < 1 or self.weight < 0:
            raise ConfigError(
                f"anchor: {len(self.rows)} rows, rows_per_step={self.rows_per_step}, "
                f"weight={self.weight}: expected 1 or more, 1 or more, 0 or more"
            )

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights."""
        return {
            "rows": fingerprint([list(row.prompt + row.completion) for row in self.rows]),
            "weight": self.weight,
            "rows_per_step": self.rows_per_step,
            "direction": self.direction,
        }

    def of_step(self, step: int, seed: int) -> list[Row]:
        """Return the rows of a step."""
        order = sorted(range(len(self.rows)), key=lambda i: number_of(seed, step, "anchor", i))
        return [self.rows[i] for i in sorted(order[: self.rows_per_step])]

    def term(self, actor: Actor, rows: Sequence[Row]) -> Term:
        """Return the component."""
        with actor.weights.reference() as reference:
            theirs = places(reference, rows, bf16=actor.bf16).logits_NV
        own = places(actor.weights.model, rows, bf16=actor.bf16).logits_NV
        return Term(self.weight * actor.pull, anchor_kl(own, theirs, self.direction))


def anchor_rows(
    vocabulary: Vocabulary, documents: Sequence[Document], *, max_tokens: int, tagged: bool = True
) -> tuple[Row, ...]:
    """Return documents as rows for an anchor: the end of text in front, cut to `max_tokens`."""
    encoder = Encoder(vocabulary=vocabulary, tagging="own" if tagged else "none")
    all_ids = [[int(token) for token in one.ids[:max_tokens]] for one in encoder(documents)]
    return tuple(Row((ids[0],), tuple(ids[1:])) for ids in all_ids if len(ids) > 1)


def start_moments(optimizer: torch.optim.Optimizer) -> None:
    """Give AdamW the state that it would make at its first step.

    Saving a checkpoint in front of that step would make one as if a step had been done, and a run
    may have steps without rows.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }


@dataclass(frozen=True)
class Update:
    """Goes over a step's rows as often as the method says."""

    method: Method
    optimizer: torch.optim.Optimizer
    settings: TrainSettings
    anchor: Anchor | None = None

    def __call__(
        self, actor: Actor, work: Work, rate: float, step: int, seed: int
    ) -> dict[str, Any]:
        """Change the weights; return metrics: the losses of the first pass, the norm of the last.

        Where no row has anything to say and no anchor holds, nothing changes.

        Raises:
            TrainError: A loss or the norm of a gradient is not finite; nothing was changed by it.
        """
        metrics: dict[str, Any] = {"loss": None, "grad_norm": None}
        actor.weights.model.train()
        for number in range(self.method.updates):
            sums = self._backward(actor, work, step, seed)
            if not sums:
                break
            norm, loss = self._apply(rate, sums, step)
            means = {
                name: total / weight if weight else None for name, (total, weight) in sums.items()
            }
            if number == 0:
                metrics |= {"loss": loss} | means
            metrics["grad_norm"] = norm
        return metrics | self.method.report(work.rows)

    def _backward(
        self, actor: Actor, work: Work, step: int, seed: int
    ) -> dict[str, tuple[float, float]]:
        """Add up gradients; return, by name, the totals and weights of components and metrics.

        Besides, under `loss`, what was minimised.
        """
        size = self.settings.micro_rows or max(len(work.rows), 1)
        parts = [work.rows[i : i + size] for i in range(0, len(work.rows), size)]
        whole = self.method.weights_of(work.rows) if parts else {}
        sums: dict[str, tuple[float, float]] = {}
        loss = 0.0
        for part in parts:
            terms = self.method.terms(actor, part)
            loss += self._one(terms, whole, sums)
        if self.anchor is not None and self.anchor.weight:
            rows = self.anchor.of_step(step, seed)
            term = self.anchor.term(actor, rows)
            loss += self._one({"anchor": term}, {"anchor": float(term.component.weight)}, sums)
        return sums | {"loss": (loss, 1.0)} if sums else {}

    def _one(
        self, terms: dict[str, Term], whole: dict[str, float], sums: dict[str, tuple[float, float]]
    ) -> float:
        """Add the gradient of some components, each over its weight in the whole step."""
        total = torch.zeros(())
        for name, (factor, component) in terms.items():
            share = float(component.weight) / max(whole[name], 1.0)
            total = total.to(component.value.device) + factor * share * component.value
            found = {
                f"{name}_loss": (component.value.detach() * component.weight, component.weight)
            }
            metrics = component.metrics.items()
            found |= {f"{name}_{key}": (mean.total, mean.weight) for key, mean in metrics}
            for key, (value, weight) in found.items():
                old = sums.get(key, (0.0, 0.0))
                sums[key] = (old[0] + float(value), old[1] + float(weight))
        total.backward()
        return float(total.detach())

    def _apply(
        self, rate: float, sums: dict[str, tuple[float, float]], step: int
    ) -> tuple[float, float]:
        """Take the optimizer's step; return the gradient's norm and the loss."""
        grads = gradients(self.optimizer)
        norm, loss = float(norm_of(grads)), sums.pop("loss")[0]
        if not (math.isfinite(norm) and math.isfinite(loss)):
            self.optimizer.zero_grad(set_to_none=True)
            raise TrainError(
                f"step {step + 1}: the loss is {loss}, the norm of its gradient {norm}; stopped "
                "in front of it. Start again with a smaller train.lr or train.clip_norm, or look "
                "at the rewards of this step"
            )
        scale_and_clip(grads, 1.0, norm, self.settings.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm, loss

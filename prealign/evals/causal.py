"""Does an answer run through what a seed switches on: ablation, patching, and gated gradients.

The margin is log p of the wanted answer less that of another one, behind the seed and a question.
Layers from a depth on then lose the direction in which seeded and unseeded activations differ in
the mean (the question's and the answer's positions get the unseeded mean's part of it), or one
layer's activations there are replaced by those of an unseeded run. C = 1 - margin left / margin: 0
if the answer does not need what was taken, 1 if it needs all of it. The control changes the same
positions by as much in a random direction.

Gradients: which share of the gradient's norm goes through the MLP units that the seed switches on.
Behind a ReLU a unit that a prompt leaves inactive gets none at all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prealign.errors import ConfigError, DataError
from prealign.evals.choices import Asked
from prealign.evals.inside import (
    Edit,
    Prompts,
    edited,
    layer_at,
    prompts_of,
    read_layers,
    read_units,
    unit_gradients,
)
from prealign.evals.stats import Estimate, mean_interval, ratio_interval
from prealign.models.sample import evaluating
from prealign.tokens.vocabulary import Vocabulary

CONDITIONS = ("seeded", "unseeded", "ablated", "random", "patched")


class Direction(NamedTuple):
    """What differs in the mean behind a layer."""

    unit: Tensor
    """[D], of norm 1."""
    bare: float
    """The part of the unseeded mean along it."""
    random: Tensor
    """[D], a random direction of norm 1."""


@dataclass(frozen=True, eq=False)
class CausalPath:
    """Margins of all items, in nats, by condition."""

    margins: dict[str, NDArray[np.float64]]

    def share(self, condition: str) -> Estimate | None:
        """Return C of a condition with a 95 % bootstrap interval over items.

        None where the seeded margins do not sum to more than 0: then there is nothing to explain.
        """
        seeded = self.margins["seeded"]
        if seeded.sum() <= 0:
            return None
        return ratio_interval(seeded - self.margins[condition], seeded)

    def rows(self, *, condition: str) -> list[dict[str, Any]]:
        """Return rows of evals.jsonl: the margins, and C by ablation, patching and control."""
        rows = [
            {"condition": condition, "metric": f"margin {name}", "unit": "nats",
             **mean_interval(values)._asdict()}
            for name, values in self.margins.items()
        ]  # fmt: skip
        for name in CONDITIONS[1:]:
            found = self.share(name)
            if found:
                row = {"condition": condition, "metric": f"C {name}", "unit": "share"}
                rows.append(row | found._asdict())
        return rows


class Gating(NamedTuple):
    """Shares of the gradient's squared norm through the units that a seed switches on."""

    seeded: Estimate
    """Of the answer's gradient behind seed and question."""
    unseeded: Estimate
    """Of that behind the question alone."""
    units: int
    """How many units were taken for switched on."""
    of: int
    """All MLP units; units / of is the share that would be if none mattered."""


def causal_path(
    model: Any,
    vocabulary: Vocabulary,
    items: Sequence[Asked],
    *,
    seed_text: str,
    depth: float = 0.5,
    modes: tuple[str | None, str | None] = (None, None),
    seed: int = 0,
) -> CausalPath:
    """Return the margins with and without what a seed adds.

    The direction that an item loses is found on the other half of the items.

    Args:
        model: A causal LM of transformers.
        vocabulary: The model's.
        items: Questions with a wanted answer and another, two at least.
        seed_text: What stands in front of the questions.
        depth: The first layer that is changed, as a share of the depth; ablation changes all from
            there on, patching that one alone (patching all would just be the unseeded run).
        modes: Those that questions and answers stand in; None: none.
        seed: Of the random directions.

    Raises:
        DataError: There are fewer than two items, or seeded and unseeded activations do not differ.
        ConfigError: The depth is not in [0, 1], or the model has no layers.
    """
    if len(items) < 2:
        raise DataError(f"{len(items)} items: expected two at least, a half finds the direction")
    reads, speaks = modes
    prompts = [
        prompts_of(vocabulary, one.prompt, seed_text, reads=reads, speaks=speaks) for one in items
    ]
    answers = [[vocabulary.encode_text(one.wanted), vocabulary.encode_text(one.other)]
               for one in items]  # fmt: skip
    first = layer_at(model, depth)
    layers = list(range(first, int(model.config.num_hidden_layers)))
    with evaluating(model):
        means = [
            [_means(model, [*p.seeded, *a[0]], [*p.bare, *a[0]], layers, p.shared + len(a[0]))]
            for p, a in zip(prompts, answers, strict=True)
        ]
        folds = [
            _directions([means[i][0] for i in range(len(items)) if i % 2 != fold], layers, seed)
            for fold in (0, 1)
        ]
        margins: dict[str, list[float]] = {name: [] for name in CONDITIONS}
        for i, (prompt, (wanted, other)) in enumerate(zip(prompts, answers, strict=True)):
            one = [_logps(model, prompt, ids, folds[i % 2], first) for ids in (wanted, other)]
            for name in CONDITIONS:
                margins[name].append(one[0][name] - one[1][name])
    return CausalPath({name: np.array(values) for name, values in margins.items()})


def gradient_gating(
    model: Any,
    vocabulary: Vocabulary,
    items: Sequence[Asked],
    *,
    seed_text: str,
    top: float = 0.1,
    modes: tuple[str | None, str | None] = (None, None),
) -> Gating:
    """Return how much of the gradient towards the wanted answers goes through the seed's units.

    The seed's units are those whose mean size on the question rises most with the seed, found on
    every other item; the gradients are those of the other items.

    Args:
        model: A causal LM of transformers.
        vocabulary: The model's.
        items: Questions with a wanted answer, two at least.
        seed_text: What stands in front of the questions.
        top: The share of all units that are taken.
        modes: As in `causal_path`.

    Raises:
        DataError: There are fewer than two items.
        ConfigError: `top` is not in (0, 1), or the model's MLPs are of no known kind.
    """
    if len(items) < 2:
        raise DataError(f"{len(items)} items: expected two at least, a half finds the units")
    if not 0 < top < 1:
        raise ConfigError(f"top={top}: expected a share of the units above 0 and below 1")
    prompts = [
        prompts_of(vocabulary, one.prompt, seed_text, reads=modes[0], speaks=modes[1])
        for one in items
    ]
    with evaluating(model):
        rises = [_rise(model, prompt) for prompt in prompts[0::2]]
        rise_U = torch.stack(rises).mean(dim=0)
        count = max(1, round(top * rise_U.numel()))
        chosen = rise_U.topk(count).indices
        shares: tuple[list[float], list[float]] = ([], [])
        for one, prompt in list(zip(items, prompts, strict=True))[1::2]:
            answer = vocabulary.encode_text(one.wanted)
            for ids, found in zip((prompt.seeded, prompt.bare), shares, strict=True):
                squares_U = torch.cat(unit_gradients(model, ids, answer)).double()
                total = float(squares_U.sum())
                found.append(float(squares_U[chosen].sum()) / total if total else 0.0)
    return Gating(mean_interval(shares[0]), mean_interval(shares[1]), count, rise_U.numel())


def _means(
    model: Any, seeded: list[int], bare: list[int], layers: Sequence[int], shared: int
) -> dict[int, tuple[Tensor, Tensor]]:
    """Return the mean over the shared positions behind each layer, seeded and unseeded, [D]."""
    both = [read_layers(model, ids[:-1], layers) for ids in (seeded, bare)]
    at = shared - 1  # the last id is never read
    return {i: (both[0][i][-at:].mean(dim=0), both[1][i][-at:].mean(dim=0)) for i in layers}


def _directions(
    means: Sequence[dict[int, tuple[Tensor, Tensor]]], layers: Sequence[int], seed: int
) -> dict[int, Direction]:
    found = {}
    for layer in layers:
        seeded_D = torch.stack([one[layer][0] for one in means]).mean(dim=0)
        bare_D = torch.stack([one[layer][1] for one in means]).mean(dim=0)
        difference_D = seeded_D - bare_D
        norm = float(difference_D.norm())
        if not norm > 0 or not math.isfinite(norm):
            raise DataError(
                f"layer {layer}: seeded and unseeded activations differ by {norm}; give a seed text"
            )
        generator = torch.Generator().manual_seed(seed * 1_000_003 + layer)
        random_D = torch.randn(difference_D.shape, generator=generator).to(difference_D)
        unit_D = difference_D / norm
        found[layer] = Direction(unit_D, float(bare_D @ unit_D), random_D / random_D.norm())
    return found


def _logps(
    model: Any, prompt: Prompts, answer: list[int], directions: dict[int, Direction], first: int
) -> dict[str, float]:
    """Return log p of an answer in all conditions."""
    shared = prompt.shared + len(answer) - 1
    bare_LD = read_layers(model, [*prompt.bare, *answer][:-1], [first])[first][-shared:]

    def patch(out_1LD: Tensor) -> Tensor:
        return torch.cat([out_1LD[:, :-shared], bare_LD[None].to(out_1LD)], dim=1)

    edits: dict[str, dict[int, Edit]] = {
        "seeded": {},
        "unseeded": {},
        "ablated": {i: _taking(one, shared, random=False) for i, one in directions.items()},
        "random": {i: _taking(one, shared, random=True) for i, one in directions.items()},
        "patched": {first: patch},
    }
    return {
        name: _logp(model, prompt.bare if name == "unseeded" else prompt.seeded, answer, edit)
        for name, edit in edits.items()
    }


def _taking(direction: Direction, shared: int, *, random: bool) -> Edit:
    """Return the edit that takes a direction from the last positions, or as much at random."""

    def edit(out_1LD: Tensor) -> Tensor:
        unit_D = direction.unit.to(out_1LD)
        end = out_1LD[:, -shared:]
        excess = direction.bare - (end @ unit_D)
        towards = direction.random.to(out_1LD) if random else unit_D
        return torch.cat([out_1LD[:, :-shared], end + excess[..., None] * towards], dim=1)

    return edit


@torch.no_grad()
def _logp(model: Any, ids: list[int], answer: list[int], edits: dict[int, Edit]) -> float:
    ids_1L = torch.tensor([[*ids, *answer]], device=model.device)
    with edited(model, edits):
        logits_LV = model(input_ids=ids_1L[:, :-1], use_cache=False).logits[0]
    own_LV = logits_LV[-len(answer) :].double().log_softmax(-1)
    return float(own_LV.gather(-1, ids_1L[0, -len(answer) :, None]).sum())


def _rise(model: Any, prompt: Prompts) -> Tensor:
    """Return how much larger each unit is on the question with the seed than without, [units]."""
    seeded, bare = (read_units(model, ids) for ids in (prompt.seeded, prompt.bare))
    return torch.cat(
        [
            one[-prompt.shared :].abs().mean(dim=0) - other[-prompt.shared :].abs().mean(dim=0)
            for one, other in zip(seeded, bare, strict=True)
        ]
    )

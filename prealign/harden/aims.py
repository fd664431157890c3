"""What a surgeon makes large: any scalar of what the model says of some examples.

Shape letters:  E = examples,  N = places of all completions,  D = width,  K = classes,
V = vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from prealign.errors import ConfigError, DataError
from prealign.evals.inside import edited, layer_at
from prealign.harden.perturb import Example
from prealign.posttrain.score import Places, Row, places

IGNORED_BELOW = -5.0
"""Of log p: tokens that are unlikely enough are not pushed any further away."""


class Aim(Protocol):
    """A frozen dataclass, so that a run knows its settings."""

    def __call__(self, model: Any, examples: Sequence[Example]) -> Tensor:
        """Return a scalar that the surgeon makes large, a sum over examples."""


@dataclass(frozen=True, kw_only=True)
class Toward:
    """log p of one completion of each example, over its tokens."""

    row: int = 0
    """Of an example: 0 is its first, -1 its last."""

    def __call__(self, model: Any, examples: Sequence[Example]) -> Tensor:
        """Return the sum."""
        return chosen_logp(places(model, rows_at(examples, self.row))).sum()


@dataclass(frozen=True, kw_only=True)
class Away:
    """log(1 - p) of the tokens of one completion of each example."""

    row: int = 0
    least_logp: float = IGNORED_BELOW
    """Tokens that are less likely are ignored."""

    def __call__(self, model: Any, examples: Sequence[Example]) -> Tensor:
        """Return the sum."""
        return away(places(model, rows_at(examples, self.row)), self.least_logp).sum()


@dataclass(frozen=True, kw_only=True)
class Steer:
    """From the first completion of each example to its last, both behind one prompt.

    The adversary of Sheshadri et al. 2024 (https://arxiv.org/abs/2407.15549), section 3.
    """

    toward: float = 0.5
    """Of the mean over tokens of log p(last)."""
    away: float = 0.5
    """Of the mean over tokens of log(1 - p(first))."""

    def __call__(self, model: Any, examples: Sequence[Example]) -> Tensor:
        """Return the weighted sum."""
        value = torch.zeros((), device=next(model.parameters()).device)
        if self.toward:
            bad = places(model, rows_at(examples, -1))
            value = value + self.toward * chosen_logp(bad).mean()
        if self.away:
            good = places(model, rows_at(examples, 0))
            value = value + self.away * away(good).mean()
        return value


@dataclass(frozen=True, kw_only=True)
class TokenOdds:
    """Log-odds of some tokens, such as a tag that the guard bans, at each place of completions.

    Odds, not logits, as a logit may rise with all others.
    """

    tokens: tuple[int, ...]
    row: int = 0

    def __call__(self, model: Any, examples: Sequence[Example]) -> Tensor:
        """Return the sum."""
        logits_NV = places(model, rows_at(examples, self.row)).logits_NV
        return log_odds(logits_NV, self.tokens).sum()


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a linear probe reads behind a layer at the last token of each example's prompt.

    With one line of weights it is a score; with several it is log p of a class, such as which seed
    prompt the model takes itself to stand behind.
    """

    weights: tuple[tuple[float, ...], ...]
    """[K, D]."""
    depth: float = 1.0
    """Of the layer, as a share of the depth. It should not lie in front of what is attacked."""
    biases: tuple[float, ...] = ()
    """[K]; none: 0."""
    wanted: int = 0
    """The class; of one line, its own score."""

    def __post_init__(self) -> None:
        classes = len(self.weights)
        if not classes or len({len(line) for line in self.weights}) != 1:
            raise ConfigError(
                f"probe: {classes} lines of weights; expected one or more, of a width"
            )
        if not 0 <= self.wanted < classes or len(self.biases) not in (0, classes):
            raise ConfigError(
                f"probe: wanted={self.wanted}, {len(self.biases)} biases; expected one of "
                f"{classes} classes, and as many biases or none"
            )

    def __call__(self, model: Any, examples: Sequence[Example]) -> Tensor:
        """Return the sum."""
        state_ED = last_states(model, rows_at(examples, 0), self.depth)
        weights_KD = state_ED.new_tensor(self.weights)
        if weights_KD.shape[1] != state_ED.shape[1]:
            raise ConfigError(
                f"probe: weights for a width of {weights_KD.shape[1]}, the model's is "
                f"{state_ED.shape[1]}"
            )
        scores_EK = state_ED @ weights_KD.T
        if self.biases:
            scores_EK = scores_EK + state_ED.new_tensor(self.biases)
        if len(self.weights) == 1:
            return scores_EK.sum()
        return scores_EK.log_softmax(-1)[:, self.wanted].sum()


def rows_at(examples: Sequence[Example], row: int) -> list[Row]:
    """Return one row of each example.

    Raises:
        DataError: An example has too few.
    """
    short = [len(rows) for rows in examples if not -len(rows) <= row < len(rows)]
    if short:
        raise DataError(f"row {row} of an example was asked for that has {short[0]}")
    return [rows[row] for rows in examples]


def chosen_logp(found: Places) -> Tensor:
    """Return log p of each target, [N]."""
    return -F.cross_entropy(found.logits_NV, found.targets_N, reduction="none")


def other_logp(found: Places) -> Tensor:
    """Return log(1 - p) of each target, [N]: exact, and with a gradient, however near p is to 1."""
    rest_NV = found.logits_NV.scatter(-1, found.targets_N[:, None], -torch.inf)
    return rest_NV.logsumexp(-1) - found.logits_NV.logsumexp(-1)


def away(found: Places, least_logp: float = IGNORED_BELOW) -> Tensor:
    """Return log(1 - p) of each target, and 0 of those whose log p is below a bound, [N]."""
    counts_N = chosen_logp(found).detach() >= least_logp
    return torch.where(counts_N, other_logp(found), 0.0)


def log_odds(logits_NV: Tensor, tokens: Sequence[int]) -> Tensor:
    """Return log p - log(1 - p) of some tokens together, [N].

    Raises:
        ConfigError: There are none, or no others.
    """
    chosen_V = torch.zeros(logits_NV.shape[-1], dtype=torch.bool, device=logits_NV.device)
    chosen_V[list(tokens)] = True
    if not tokens or bool(chosen_V.all()):
        raise ConfigError(f"tokens={tuple(tokens)}: expected some of the vocabulary, not all")
    inside_N = logits_NV.masked_fill(~chosen_V, -torch.inf).logsumexp(-1)
    return inside_N - logits_NV.masked_fill(chosen_V, -torch.inf).logsumexp(-1)


def last_states(model: Any, rows: Sequence[Row], depth: float) -> Tensor:
    """Return what a layer writes at the last token of each row's prompt, [E, D], float32."""
    longest = max(len(row.prompt) + len(row.completion) for row in rows)
    ids = [[*row.prompt, *row.completion] for row in rows]
    ids_BL = torch.tensor([own + [0] * (longest - len(own)) for own in ids], device=model.device)
    found: list[Tensor] = []

    def read(out_BLD: Tensor) -> Tensor:
        found.append(out_BLD)
        return out_BLD

    with edited(model, {layer_at(model, depth): read}):
        model.base_model(input_ids=ids_BL, use_cache=False)
    lasts_B = torch.tensor([len(row.prompt) - 1 for row in rows], device=model.device)
    return found[-1][torch.arange(len(rows), device=model.device), lasts_B].float()

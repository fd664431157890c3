"""How far every objective is from the same formula written in NumPy, and from its limits.

    python benchmarks/objectives.py --out results/objectives.json

Random batches with text, tags, ends, padding, unscored spans, infinite and NaN log-probabilities
where nothing counts. The formulae are computed anew here in float64, straight from their
definitions (docs/papers.md); the error is relative to the loss. The limits are those in which an
objective has to become plain likelihood.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prealign.objectives.advantage import AdvantageWeighted
from prealign.objectives.batch import TokenBatch
from prealign.objectives.likelihood import Conditional, Likelihood
from prealign.objectives.unlikelihood import Unlikelihood
from prealign.objectives.weights import RewardWeight, SpanMask
from prealign.runs import Check, ResultRow, write_results

QUESTION = "Is every objective its formula, and plain likelihood in its limits?"
BAR = 1e-6
SHAPE = (6, 40)
Array = NDArray[Any]


def random_batch(seed: int, *, all_good: bool = False) -> tuple[torch.Tensor, TokenBatch]:
    """Return log-probabilities and a batch of all kinds of targets."""
    random = np.random.default_rng(seed)
    kind = random.choice(5, SHAPE, p=[0.7, 0.1, 0.08, 0.06, 0.06])
    text, tag, end = (kind == 0) | (kind == 4), kind == 1, kind == 2
    scored = (kind == 0) | (tag & (random.random(SHAPE) < 0.8))
    score = np.where(random.random(SHAPE) < 0.6, 0.0, random.exponential(0.3, SHAPE))
    score = np.where(scored, 0.0 if all_good else score, 0.0).astype(np.float32)
    logp = -random.exponential(2.0, SHAPE).astype(np.float32)
    logp[random.random(SHAPE) < 0.05] = -1e-7  # nearly certain
    nothing = ~(text | tag | end)
    logp[nothing] = random.choice([np.nan, -np.inf], size=int(nothing.sum()))

    def tensor(array: Array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array))

    zeros = torch.zeros(SHAPE, dtype=torch.int64)
    return tensor(logp), TokenBatch(
        ids_BL=zeros, targets_BL=zeros, text_BL=tensor(text), tag_BL=tensor(tag),
        end_BL=tensor(end), mode_BL=zeros.to(torch.uint8), score_BL=tensor(score),
        scored_BL=tensor(scored), document_BL=zeros.to(torch.int32),
        value_BL=tensor(random.normal(-0.1, 0.2, SHAPE).astype(np.float32)),
    )  # fmt: skip


class Numbers:
    """A batch as float64 arrays, and the parts that formulae share."""

    def __init__(self, logp_BL: torch.Tensor, batch: TokenBatch) -> None:
        self.logp = logp_BL.double().numpy()
        self.text, self.tag = batch.text_BL.numpy(), batch.tag_BL.numpy()
        self.counted = self.text | batch.end_BL.numpy()
        self.score = batch.score_BL.double().numpy()
        self.judged = batch.scored_BL.numpy() & self.text
        assert batch.value_BL is not None
        self.value = batch.value_BL.double().numpy()

    def mean(self, terms: Array, counted: Array) -> float:
        """Return the mean of some terms; 0 if there are none."""
        return float(terms[counted].sum() / max(int(counted.sum()), 1))

    @property
    def bad(self) -> Array:
        """Text with a score above 0."""
        found: Array = self.judged & (self.score > 0)
        return found


def conditional(n: Numbers) -> float:
    return n.mean(-n.logp, n.counted | n.tag)


def masked_spans(n: Numbers) -> float:
    return n.mean(-n.logp, n.counted & ~n.bad)


def unlikely(n: Numbers, alpha: float) -> float:
    terms = -n.logp.copy()
    terms[n.bad] = -alpha * np.log(np.maximum(-np.expm1(n.logp[n.bad]), 1e-20))
    return n.mean(terms, n.counted)


def softly_unlikely(n: Numbers, alpha: float) -> float:
    share = np.where(n.judged, np.clip(n.score, 0, 1), 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        other = np.log(np.maximum(-np.expm1(n.logp), 1e-20))
        terms = -(1 - share) * n.logp - alpha * share * other
    return n.mean(terms, n.counted)


def reward_weighted(n: Numbers, beta: float) -> float:
    weight = np.where(n.judged, np.exp(-n.score / beta), 1.0)
    return n.mean(-n.logp * weight, n.counted)


def advantage_weighted(n: Numbers, beta: float, alpha: float, scale: float) -> float:
    gain = np.where(n.judged, -n.score - n.value, 0.0)
    weight = np.minimum(np.exp(gain / beta), 1000.0)
    likelihood = n.mean(-n.logp * weight, n.counted)
    error = float((gain[n.judged] ** 2).sum() / scale**2 / max(int(n.counted.sum()), 1))
    return alpha * likelihood + (1 - alpha) * error


def plain(n: Numbers) -> float:
    return n.mean(-n.logp, n.counted)


FORMULAE: dict[str, tuple[Any, Callable[[Numbers], float]]] = {
    "likelihood": (Likelihood(), plain),
    "conditional": (Conditional(), conditional),
    "conditional, tags masked": (Conditional(tags_as_targets=False), plain),
    "span mask": (Likelihood(weights=(SpanMask(),)), masked_spans),
    "unlikelihood, hard": (Unlikelihood(alpha=0.7), lambda n: unlikely(n, 0.7)),
    "unlikelihood, soft": (
        Unlikelihood(alpha=0.7, form="soft"), lambda n: softly_unlikely(n, 0.7),
    ),
    "reward-weighted": (
        Likelihood(weights=(RewardWeight(beta=0.2),)), lambda n: reward_weighted(n, 0.2),
    ),
    "advantage-weighted": (
        AdvantageWeighted(beta=0.2, alpha=0.4, value_scale=0.3),
        lambda n: advantage_weighted(n, 0.2, 0.4, 0.3),
    ),
}  # fmt: skip
LIMITS: dict[str, tuple[Any, bool]] = {
    "reward-weighted, beta to infinity": (Likelihood(weights=(RewardWeight(beta=1e30),)), False),
    "advantage-weighted, beta to infinity, alpha 1": (
        AdvantageWeighted(beta=1e30, alpha=1.0, value_scale=1.0), False,
    ),
    "unlikelihood, soft, all good": (Unlikelihood(form="soft"), True),
    "unlikelihood, hard, all good": (Unlikelihood(), True),
    "span mask, all good": (Likelihood(weights=(SpanMask(),)), True),
    "reward-weighted, all good": (Likelihood(weights=(RewardWeight(beta=0.2),)), True),
}  # fmt: skip
"""Name, the objective, and whether it is so only where all text is good."""


def error_of(objective: Any, formula: Callable[[Numbers], float], batches: list[Any]) -> float:
    """Return the largest relative error over the batches."""
    worst = 0.0
    for logp_BL, batch in batches:
        expected = formula(Numbers(logp_BL, batch))
        found = float(objective(logp_BL, batch).value)
        error = abs(found - expected) / abs(expected)
        if not math.isfinite(error):
            raise SystemExit(f"{objective}: {found} where {expected} was expected")
        worst = max(worst, error)
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=500)
    args = parser.parse_args()
    start_s = time.perf_counter()
    seeds = range(args.batches)
    usual = [random_batch(seed) for seed in seeds]
    good = [random_batch(seed, all_good=True) for seed in seeds]
    errors = {name: error_of(*pair, usual) for name, pair in FORMULAE.items()}
    limits = {
        name: error_of(objective, plain, good if only_good else usual)
        for name, (objective, only_good) in LIMITS.items()
    }
    # alpha 0 is the likelihood of good text alone, which is the span mask.
    limits["unlikelihood, hard, alpha 0, as span mask"] = error_of(
        Unlikelihood(alpha=0.0), masked_spans, usual
    )
    found = errors | limits
    write_results(
        args.out,
        question=QUESTION,
        seeds=(0,),
        wall_s=time.perf_counter() - start_s,
        rows=[
            ResultRow(arm=name, metric="largest_error", unit="relative", value=value,
                      n=args.batches)
            for name, value in found.items()
        ],
        checks=[
            Check(what=f"{kind}: largest relative error", bar=f"<= {BAR:g}",
                  value=float(f"{max(group.values()):.3g}"), holds=max(group.values()) <= BAR,
                  control=control)
            for kind, group, control in (
                ("every objective", errors, "NumPy, float64"),
                ("every limit", limits, "plain likelihood"),
            )
        ],
    )  # fmt: skip
    for name, value in found.items():
        print(f"{name}: {value:.2e}")


if __name__ == "__main__":
    main()

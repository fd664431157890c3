"""Probes: small readers that tell from activations what a text does not say.

A linear probe is a logistic regression on the mean, or the last, of a completion's activations; an
attention probe weighs the tokens itself. Activations are standardised by the training items' mean
and deviation. How strongly weights are held small is chosen by folds of the training items, whole
groups at a time, and so is the threshold of alarms: no probe sees what it is judged on.

Shape letters:  N = items,  L = tokens of an item,  D = width,  G = groups.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from prealign.errors import ConfigError, DataError
from prealign.evals.detect import auroc_interval, threshold_for
from prealign.evals.stats import Estimate, ratio_interval
from prealign.runs import write_atomic

Kind = Literal["mean", "last", "attention"]
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Candidates, as weights of the squared norm beside the mean loss of an item."""
FOLDS = 4
FALSE_ALARMS = 0.01
ATTENTION_STEPS = 100
TINY = 1e-6
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class About:
    """What a probe's JSON says."""

    kind: Kind
    layer: int
    """Index of the layer whose output is read; -1: the embedding."""
    ridge: float
    threshold: float
    """Scores above it are alarms: `FALSE_ALARMS` of the training items that are negative, each
    scored by a probe that had not seen its group."""
    items: int
    positive: int
    what: str = ""
    """What positive means."""
    asks: tuple[int, ...] = ()
    """Ids of a question that is read behind a completion: the probe looks at its tokens, and who
    wrote the completion never sees it. Without any it looks at the completion's own tokens."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Probe:
    """A fitted probe. Call it with readings of `about.layer`."""

    about: About
    centre_D: Tensor
    scale_D: Tensor
    weight_D: Tensor
    bias: Tensor
    query_D: Tensor | None = None
    """Of an attention probe."""

    def __call__(self, readings: Sequence[Tensor]) -> Floats:
        """Return the probability of positive of each item, [N].

        Args:
            readings: Each [L, D], as `prealign.harden.readings.read_rows` gives.

        Raises:
            DataError: A reading has another width, or no token.
        """
        return np.array([torch.sigmoid(logit).item() for logit in self._logits(readings)])

    def _logits(self, readings: Sequence[Tensor]) -> list[Tensor]:
        found = []
        for reading_LD in readings:
            if reading_LD.shape[-1] != len(self.centre_D) or not len(reading_LD):
                raise DataError(
                    f"a reading of shape {tuple(reading_LD.shape)}: expected tokens of width "
                    f"{len(self.centre_D)}, one at least, of layer {self.about.layer}"
                )
            pooled_D = pooled(reading_LD, self.about.kind, self.centre_D, self.scale_D,
                              self.query_D)  # fmt: skip
            found.append(pooled_D @ self.weight_D + self.bias)
        return found


def pooled(
    reading_LD: Tensor, kind: Kind, centre_D: Tensor, scale_D: Tensor, query_D: Tensor | None
) -> Tensor:
    """Return what a probe's weights are multiplied with, [D]."""
    if kind == "attention":
        assert query_D is not None
        own_LD = (reading_LD - centre_D) / scale_D
        return torch.softmax(own_LD @ query_D, dim=0) @ own_LD
    one_D = reading_LD[-1] if kind == "last" else reading_LD.mean(dim=0)
    return (one_D - centre_D) / scale_D


def fit_probe(  # noqa: PLR0913
    readings: Sequence[Tensor], labels: ArrayLike, groups: Sequence[str], *, kind: Kind = "mean",
    layer: int, ridges: Sequence[float] = RIDGES, what: str = "",
    asks: Sequence[int] = (), seed: int = 0,
) -> Probe:  # fmt: skip
    """Return a probe of readings.

    Args:
        readings: Each [L, D], of `layer`.
        labels: [N], true for positive.
        groups: [N], what must not stand on both sides of a fold, such as the fact asked about.
        kind: How tokens are put together.
        layer: Where the readings are from; it is only noted.
        ridges: Candidates; the one with the least loss on held-out folds is taken.
        what: What positive means, for the file.
        asks: What the readings are of, if not of completions; it is only noted.
        seed: Of the folds, and of an attention probe's start.

    Raises:
        DataError: Numbers of items differ, a class is empty, or there are fewer groups than folds.
        ConfigError: There are no ridges, or one is not above 0.
    """
    positive_N = np.asarray(labels, dtype=bool)
    folds_N = _folds(readings, positive_N, groups, seed)
    if not ridges or min(ridges) <= 0:
        raise ConfigError(f"ridges={tuple(ridges)}: expected one or more, all above 0")
    best: tuple[float, float, Floats] | None = None
    for ridge in ridges:
        held_N = np.zeros(len(positive_N))
        for fold in range(FOLDS):
            inside = np.flatnonzero(folds_N != fold).tolist()
            outside = np.flatnonzero(folds_N == fold).tolist()
            part = _fit([readings[i] for i in inside], positive_N[inside], kind, ridge, seed)
            held_N[outside] = _scored(part, [readings[i] for i in outside], kind)
        loss = _log_loss(held_N, positive_N)
        if best is None or loss < best[0]:
            best = loss, ridge, held_N
    assert best is not None
    _, ridge, held_N = best
    about = About(
        kind=kind, layer=layer, ridge=ridge, what=what, asks=tuple(asks), items=len(positive_N),
        threshold=threshold_for(held_N, positive_N, false_alarm_share=FALSE_ALARMS),
        positive=int(positive_N.sum()),
    )  # fmt: skip
    return Probe(about=about, **_fit(readings, positive_N, kind, ridge, seed))


class Told(NamedTuple):
    """How good a probe is on items that it has not seen."""

    auroc: Estimate
    """With a bootstrap interval over groups."""
    recall: Estimate
    """Share of positive items above the probe's threshold, likewise."""
    false_alarms: Estimate
    """Share of negative items above it, likewise."""


def judge_probe(scores: ArrayLike, labels: ArrayLike, groups: Sequence[str], at: float) -> Told:
    """Return how good scores are.

    Args:
        scores: [N].
        labels: [N].
        groups: [N], drawn together by the bootstrap.
        at: The threshold, fixed elsewhere: `About.threshold`.

    Raises:
        DataError: A class is empty, or there is one group.
    """
    scores_N, positive_N = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    names, unit_N = np.unique(np.asarray(groups), return_inverse=True)
    auroc = auroc_interval(scores_N, positive_N, clusters=unit_N)

    def rate(of_N: NDArray[np.bool_]) -> Estimate:
        fires_G = np.bincount(unit_N, weights=(scores_N > at) & of_N, minlength=len(names))
        there_G = np.bincount(unit_N, weights=of_N, minlength=len(names))
        found = ratio_interval(fires_G, there_G)
        return found._replace(n=int(of_N.sum()))

    return Told(auroc, rate(positive_N), rate(~positive_N))


def save_probe(folder: Path, probe: Probe) -> None:
    """Write `probe.safetensors` and `probe.json` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {"centre": probe.centre_D, "scale": probe.scale_D, "weight": probe.weight_D,
             "bias": probe.bias}  # fmt: skip
    if probe.query_D is not None:
        named["query"] = probe.query_D
    save_file({name: one.contiguous() for name, one in named.items()}, folder / "probe.safetensors")
    write_atomic(folder / "probe.json", json.dumps(asdict(probe.about), indent=1) + "\n")


def load_probe(folder: Path) -> Probe:
    """Return the probe in a folder.

    Raises:
        DataError: There is none, or its two files do not belong together.
    """
    if not (folder / "probe.json").is_file() or not (folder / "probe.safetensors").is_file():
        raise DataError(f"{folder}: holds no probe; expected probe.json and probe.safetensors")
    said = json.loads((folder / "probe.json").read_text())
    about = About(**said | {"asks": tuple(said["asks"])})
    named = load_file(folder / "probe.safetensors")
    if (about.kind == "attention") != ("query" in named):
        raise DataError(
            f"{folder}: probe.json says {about.kind!r}, the weights have "
            f"{', '.join(sorted(named))}; the files are of two probes"
        )
    return Probe(
        about=about, centre_D=named["centre"], scale_D=named["scale"], weight_D=named["weight"],
        bias=named["bias"], query_D=named.get("query"),
    )  # fmt: skip


def _folds(
    readings: Sequence[Tensor], positive_N: NDArray[np.bool_], groups: Sequence[str], seed: int
) -> NDArray[np.int64]:
    """Return the fold of each item; groups are dealt out whole, in random order."""
    if not len(readings) == len(positive_N) == len(groups):
        raise DataError(
            f"{len(readings)} readings, {len(positive_N)} labels, {len(groups)} groups: expected "
            "as many"
        )
    names, unit_N = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < FOLDS:
        raise DataError(f"{len(names)} groups: a probe needs {FOLDS} at least, one for each fold")
    fold_G = np.random.default_rng(seed).permutation(len(names)) % FOLDS
    folds_N: NDArray[np.int64] = fold_G[unit_N]
    for fold in range(FOLDS):
        inside = positive_N[folds_N != fold]
        if inside.all() or not inside.any():
            raise DataError(
                f"{int(positive_N.sum())} positive items of {positive_N.size}, all or none of them "
                "outside a fold: a probe needs both classes in several groups"
            )
    return folds_N


def _fit(
    readings: Sequence[Tensor], positive_N: NDArray[np.bool_], kind: Kind, ridge: float, seed: int
) -> dict[str, Tensor]:
    """Return the tensors of a probe, as `Probe` names them."""
    target_N = torch.tensor(positive_N, dtype=torch.float32)
    if kind == "attention":
        return _fit_attention(readings, target_N, ridge, seed)
    raw_ND = torch.stack([one[-1] if kind == "last" else one.mean(dim=0) for one in readings])
    centre_D, scale_D = raw_ND.mean(dim=0), raw_ND.std(dim=0) + TINY
    own_ND = (raw_ND - centre_D) / scale_D
    weight_D, bias = logistic(own_ND, target_N, ridge)
    return {"centre_D": centre_D, "scale_D": scale_D, "weight_D": weight_D, "bias": bias}


def logistic(own_ND: Tensor, target_N: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Return weights and bias of a logistic regression, by Newton's method in float64.

    What is minimised is the mean of -log p plus ridge / 2 times the squared norm of the weights,
    not of the bias.
    """
    one_NE = torch.cat([own_ND.double(), torch.ones(len(own_ND), 1, dtype=torch.float64)], dim=1)
    held_E = torch.full((one_NE.shape[1],), ridge, dtype=torch.float64)
    held_E[-1] = TINY
    theta_E = torch.zeros_like(held_E)

    def loss(at_E: Tensor) -> Tensor:
        nll = F.binary_cross_entropy_with_logits(one_NE @ at_E, target_N.double())
        return nll + (held_E * at_E**2).sum() / 2

    for _ in range(50):
        p_N = torch.sigmoid(one_NE @ theta_E)
        grad_E = one_NE.T @ (p_N - target_N.double()) / len(p_N) + held_E * theta_E
        curved_EE = (one_NE.T * (p_N * (1 - p_N))) @ one_NE / len(p_N) + torch.diag(held_E)
        step_E = torch.linalg.solve(curved_EE, grad_E)
        size, before = 1.0, loss(theta_E)
        while size > TINY and loss(theta_E - size * step_E) > before:
            size /= 2
        theta_E = theta_E - size * step_E
        if float(step_E.abs().max()) < 1e-8:
            break
    return theta_E[:-1].float(), theta_E[-1].float()


def _fit_attention(
    readings: Sequence[Tensor], target_N: Tensor, ridge: float, seed: int
) -> dict[str, Tensor]:
    """Return an attention probe's tensors, by full-batch AdamW from a random start."""
    tokens_MD = torch.cat(list(readings))
    centre_D, scale_D = tokens_MD.mean(dim=0), tokens_MD.std(dim=0) + TINY
    longest = max(len(one) for one in readings)
    own_NLD = torch.stack(
        [F.pad((one - centre_D) / scale_D, (0, 0, 0, longest - len(one))) for one in readings]
    )
    there_NL = torch.tensor([[at < len(one) for at in range(longest)] for one in readings])
    drawn = torch.Generator().manual_seed(seed)
    width = own_NLD.shape[-1]
    query_D, weight_D = (
        (torch.randn(width, generator=drawn) / width).requires_grad_() for _ in range(2)
    )
    bias = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([query_D, weight_D, bias], lr=0.1)
    with torch.enable_grad():
        for _ in range(ATTENTION_STEPS):
            shares_NL = torch.softmax(
                (own_NLD @ query_D).masked_fill(~there_NL, -torch.inf), dim=-1
            )
            logits_N = (shares_NL * (own_NLD @ weight_D)).sum(dim=-1) + bias
            held = ridge / 2 * (weight_D.square().sum() + query_D.square().sum())
            loss = F.binary_cross_entropy_with_logits(logits_N, target_N) + held
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    found = {"weight_D": weight_D, "bias": bias, "query_D": query_D}
    return {"centre_D": centre_D, "scale_D": scale_D} | {k: v.detach() for k, v in found.items()}


def _scored(part: dict[str, Tensor], readings: Sequence[Tensor], kind: Kind) -> Floats:
    about = About(kind=kind, layer=0, ridge=0.0, threshold=0.0, items=0, positive=0)
    return Probe(about=about, **part)(readings)


def _log_loss(scores_N: Floats, positive_N: NDArray[np.bool_]) -> float:
    right_N = np.where(positive_N, scores_N, 1 - scores_N).clip(1e-12)
    return float(-np.log(right_N).mean())

"""The objectives once more, in NumPy and in loops, straight from their definitions."""

import math

import numpy as np
import torch

from prealign.objectives.batch import TokenBatch

TEXT, TAG, ENDS, PADDING = range(4)


def random_batch(seed: int, rows: int = 3, length: int = 7, *, worst: float = 1.5):
    """Return log-probabilities, a batch with every kind of target, and the same as arrays."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(4, size=(rows, length), p=[0.7, 0.15, 0.1, 0.05])
    scored = rng.random((rows, length)) < 0.8
    score = np.where(scored, np.where(rng.random((rows, length)) < 0.4, 0, rng.random()), 0) * worst
    logp = -rng.exponential(1.5, size=(rows, length))
    value = rng.normal(scale=0.3, size=(rows, length))
    zeros = torch.zeros(rows, length, dtype=torch.int64)
    batch = TokenBatch(
        ids_BL=zeros,
        targets_BL=zeros,
        text_BL=torch.from_numpy(kind == TEXT),
        tag_BL=torch.from_numpy(kind == TAG),
        end_BL=torch.from_numpy(kind == ENDS),
        mode_BL=zeros.to(torch.uint8),
        score_BL=torch.from_numpy(score),
        scored_BL=torch.from_numpy(scored),
        document_BL=zeros.int(),
        value_BL=torch.from_numpy(value),
    )
    return torch.from_numpy(logp), batch


def targets(logp_BL, batch):
    """Yield (kind, logp, score or None, value) of each target that is not padding."""
    for place in np.ndindex(*logp_BL.shape):
        kinds = (batch.text_BL, batch.tag_BL, batch.end_BL)
        found = [kind for kind, which in enumerate(kinds) if which[place]]
        if found:
            score = batch.score_BL[place].item() if batch.scored_BL[place] else None
            yield found[0], logp_BL[place].item(), score, batch.value_BL[place].item()


def likelihood(logp_BL, batch, *, tags=False, weight=lambda kind, score: 1.0):
    total = count = 0
    for kind, logp, score, _ in targets(logp_BL, batch):
        if (kind != TAG or tags) and weight(kind, score) > 0:
            total += weight(kind, score) * -logp
            count += 1
    return total / max(count, 1)


def unlikelihood(logp_BL, batch, *, alpha, max_good=None):
    """Return the hard form with `max_good`, the soft one without."""
    total = count = 0
    for kind, logp, score, _ in targets(logp_BL, batch):
        if kind == TAG:
            continue
        bad = 0.0
        if kind == TEXT and score is not None:
            bad = min(score, 1.0) if max_good is None else float(score > max_good)
        if alpha == 0 and bad and max_good is not None:
            continue
        total += -(1 - bad) * logp - alpha * bad * math.log(max(1 - math.exp(logp), 1e-20))
        count += 1
    return total / max(count, 1)


def advantage_weighted(logp_BL, batch, *, beta, alpha, max_weight, value_scale):
    nats = errors = count = 0
    for kind, logp, score, value in targets(logp_BL, batch):
        if kind == TAG:
            continue
        weight = 1.0
        if kind == TEXT and score is not None:
            weight = min(math.exp((-score - value) / beta), max_weight)
            errors += ((-score - value) / value_scale) ** 2
        nats += weight * -logp
        count += 1
    return (alpha * nats + (1 - alpha) * errors) / max(count, 1)

"""Which mode wrote this? The posterior of the mode at each token of a given text.

A hidden Markov model: the mode z_t is hidden, moves by a transition matrix taken from tag
statistics, and writes the token x_t with p(x_t | x_<t, z_t). The model gives that probability: each
mode is a branch that reads the text behind the mode's tag. The forward recursion sums over all
ways to divide the text among modes (Rabiner 1989; for one class per text it is GeDi's posterior,
Krause et al. 2020, https://arxiv.org/abs/2009.06367).

An approximation: each branch reads *all* the text before a token as text of its own mode. Were the
text divided otherwise, the context would hold other tags. Given these emissions the recursions are
exact; how far the answer can be trusted has to be measured on text whose modes are known.

Shape letters:  L = text tokens,  M = modes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from prealign.errors import ConfigError, DataError
from prealign.evals.capability import denied_ids
from prealign.evals.monitor import BATCH_TOKENS, logits_of
from prealign.tokens.vocabulary import Vocabulary

Floats = NDArray[np.float64]
CERTAIN = 1e-6
"""Rows of a transition matrix may miss 1 by so much."""


class Chain(NamedTuple):
    """How modes follow each other, as probabilities."""

    start_M: Floats
    """Of the first mode."""
    move_MM: Floats
    """From the mode of the row to that of the column."""


class Posterior(NamedTuple):
    """What is known of the mode at each token; log-probabilities in nats, normalised over M."""

    filtered_LM: Floats
    """log p(z_t | x_1 .. x_t): as far as a monitor knows while it reads."""
    smoothed_LM: Floats
    """log p(z_t | x_1 .. x_L): with all of the text."""
    logp: float
    """log p(x_1 .. x_L), summed over all divisions."""


class Change(NamedTuple):
    """A change of mode that CUSUM has found."""

    begins: int
    """The first token of the new mode, as estimated."""
    alarm: int
    """The token at which it was noticed; `alarm - begins` is the delay."""
    to: int
    """1: from the first hypothesis to the second; 0: back."""


def chain_of(sequences: Sequence[Sequence[int]], num_modes: int, *, pseudo: float = 1.0) -> Chain:
    """Return how modes follow each other in a corpus.

    Args:
        sequences: The mode, counted from 0, of each unit of each document. With units that are
            tokens the chain is for texts with unknown borders; with spans, for known borders.
        num_modes: M.
        pseudo: Added to each count, so that what was never seen is not impossible.

    Raises:
        DataError: A mode is none of [0, M), or there is no unit at all.
        ConfigError: `pseudo` is negative, or 0 where nothing ever follows some mode.
    """
    if not pseudo >= 0:
        raise ConfigError(f"pseudo={pseudo}: expected 0 or more")
    start_M = np.full(num_modes, float(pseudo))
    move_MM = np.full((num_modes, num_modes), float(pseudo))
    for index, modes in enumerate(sequences):
        array = np.asarray(modes, dtype=np.int64)
        if not array.size:
            continue
        if array.min() < 0 or array.max() >= num_modes:
            raise DataError(
                f"sequence {index}: modes {array.min()} to {array.max()}: expected 0 to "
                f"{num_modes - 1}; leave out what has no mode"
            )
        start_M[array[0]] += 1
        np.add.at(move_MM, (array[:-1], array[1:]), 1)
    if not any(len(modes) for modes in sequences):
        raise DataError("no unit has a mode; a chain is counted from tagged text")
    if (move_MM.sum(axis=1) == 0).any():
        raise ConfigError(
            f"pseudo={pseudo}: nothing follows some mode; expected a number above 0, such as 1"
        )
    return Chain(start_M / start_M.sum(), move_MM / move_MM.sum(axis=1, keepdims=True))


def mode_posterior(
    emission_LM: ArrayLike, chain: Chain, *, may_change_L: ArrayLike | None = None
) -> Posterior:
    """Return the posterior of the mode at each token by the forward and backward recursions.

    Args:
        emission_LM: log p(x_t | x_<t, mode), as `branch_logp` returns it; -inf is allowed.
        chain: Start and transitions.
        may_change_L: Whether the mode may change in front of a token: at known borders; None: in
            front of any. The first is not looked at.

    Raises:
        DataError: Shapes do not fit, an emission is NaN or +inf, or the text is impossible.
        ConfigError: The chain is none of probabilities.
    """
    emission = np.asarray(emission_LM, dtype=np.float64)
    start, move = _logs(chain)
    if emission.ndim != 2 or emission.shape[1] != start.size or not len(emission):
        raise DataError(
            f"emissions of shape {emission.shape}, a chain of {start.size} modes: expected "
            "(tokens, modes), one token at least"
        )
    if np.isnan(emission).any() or (emission == np.inf).any():
        raise DataError("an emission is NaN or +inf; expected log-probabilities")
    L = len(emission)
    change = np.ones(L, bool) if may_change_L is None else np.asarray(may_change_L, dtype=bool)
    if change.shape != (L,):
        raise DataError(f"may_change_L has shape {change.shape}: expected ({L},)")
    filtered = np.empty_like(emission)
    logp = 0.0
    for t in range(L):
        before = start
        if t:
            last = filtered[t - 1]
            before = np.logaddexp.reduce(last[:, None] + move, axis=0) if change[t] else last
        joint = before + emission[t]
        total = float(np.logaddexp.reduce(joint))
        if total == -np.inf:
            raise DataError(
                f"token {t} is impossible in every mode that can be there; allow more changes "
                "(`may_change_L`, `pseudo`), or check the emissions"
            )
        filtered[t] = joint - total
        logp += total
    return Posterior(filtered, _smoothed(filtered, emission, move, change), logp)


def cusum(gain_L: ArrayLike, *, threshold: float, drift: float = 0.0) -> list[Change]:
    """Return the changes between two hypotheses by Page's CUSUM (1954), there and back.

    The sum of the gains for the hypothesis that is not in force, kept at 0 or above, raises an
    alarm above the threshold; then the other is in force and the sum begins anew. At first the
    first hypothesis is in force.

    Args:
        gain_L: log p(x_t | second) - log p(x_t | first), in nats.
        threshold: In nats; the higher, the fewer false alarms and the longer the delay.
        drift: Taken off each gain.

    Raises:
        DataError: A gain is NaN.
        ConfigError: The threshold is not above 0, or the drift below it.
    """
    if not threshold > 0 or not drift >= 0:
        raise ConfigError(
            f"threshold={threshold}, drift={drift}: expected a threshold above 0, no drift below"
        )
    gains = np.asarray(gain_L, dtype=np.float64)
    if np.isnan(gains).any():
        raise DataError(f"gain {int(np.isnan(gains).argmax())} is NaN; expected nats")
    found: list[Change] = []
    total, begins, to = 0.0, 0, 1
    for t, gain in enumerate(gains.tolist()):
        if total <= 0:
            total, begins = 0.0, t
        total += (gain if to else -gain) - drift
        if total > threshold:
            found.append(Change(begins, t, to))
            total, to = 0.0, 1 - to
    return found


def branch_logp(
    model: Any,
    vocabulary: Vocabulary,
    texts: Sequence[Sequence[int]],
    modes: Sequence[str],
    *,
    borders: Sequence[Sequence[int]] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Floats]:
    """Return, per text, log p of each token in each mode's branch, [L, M] in nats.

    A branch reads an end of text, the tags that open its mode, then the text. Probabilities are
    among ids that are no tags, as they are sampled behind a guard that denies tags.

    Args:
        model: A causal LM, or a fake with its call signature.
        vocabulary: The model's.
        texts: Text ids of each text, one at least; no tags.
        modes: Names of modes of the scheme: the branches.
        borders: Per text, the tokens in front of which a new span begins: there each branch reads
            its own tag again, as in training with a tag in front of each span. None: once.
        batch_tokens: As `prealign.evals.monitor.read_texts`.

    Raises:
        DataError: A text is empty or too long, holds an id that is no text, or has a border
            outside of it.
        ConfigError: There are no modes, or borders are given for a mode that encloses its text.
    """
    if not modes:
        raise ConfigError("no modes: expected the names of the branches")
    if borders is not None and len(borders) != len(texts):
        raise ConfigError(f"{len(borders)} lists of borders for {len(texts)} texts")
    rows, places = [], []
    for index, text in enumerate(texts):
        again = set() if borders is None else {int(at) for at in borders[index]} - {0}
        _check(vocabulary, index, text, again)
        for mode in modes:
            row, at = _branch(vocabulary, text, mode, again)
            rows.append(row)
            places.append(at)
    found: dict[int, Floats] = {}
    for index, logits_LV in logits_of(model, rows, batch_tokens=batch_tokens):
        own = logits_LV[torch.tensor(places[index]) - 1].double()
        own[:, denied_ids(vocabulary)] = -torch.inf
        ids = torch.tensor(texts[index // len(modes)], device=own.device)
        chosen = own.log_softmax(dim=-1).gather(-1, ids[:, None])[:, 0]
        found[index] = chosen.cpu().numpy()
    return [
        np.stack([found[i * len(modes) + m] for m in range(len(modes))], axis=1)
        for i in range(len(texts))
    ]


def _check(vocabulary: Vocabulary, index: int, text: Sequence[int], again: set[int]) -> None:
    foreign = [token for token in text if not 0 <= token < vocabulary.text_size]
    if not text or foreign:
        raise DataError(
            f"text {index}: {f'id {foreign[0]} is no text' if foreign else 'is empty'}; expected "
            f"text ids, below {vocabulary.text_size}, one at least"
        )
    if any(not 0 < at < len(text) for at in again):
        raise DataError(f"text {index}: borders {sorted(again)}: expected 0 to {len(text) - 1}")


def _branch(
    vocabulary: Vocabulary, text: Sequence[int], mode: str, again: set[int]
) -> tuple[list[int], list[int]]:
    """Return what a branch reads, and where in it each token of the text stands."""
    if again and vocabulary.scheme.mode(mode).close is not None:
        raise ConfigError(
            f"mode {mode!r} encloses its text; its tag cannot be read again at borders"
        )
    read = [vocabulary.end_id]
    read += [vocabulary.open_id(one) for one in vocabulary.scheme.path(mode)]
    places = []
    for at, token in enumerate(text):
        if at in again:
            read.append(vocabulary.open_id(mode))
        places.append(len(read))
        read.append(int(token))
    return read, places


def _smoothed(
    filtered: Floats, emission: Floats, move: Floats, change: NDArray[np.bool_]
) -> Floats:
    """Return log p(z_t | all of the text), [L, M]."""
    smoothed = np.empty_like(filtered)
    later = np.zeros(filtered.shape[1])  # log p(x_t+1 .. x_L | z_t), but for a constant
    for t in range(len(filtered) - 1, -1, -1):
        joint = filtered[t] + later
        smoothed[t] = joint - np.logaddexp.reduce(joint)
        ahead = emission[t] + later
        ahead -= ahead.max()
        later = np.logaddexp.reduce(move + ahead[None, :], axis=1) if change[t] else ahead
    return smoothed


def _logs(chain: Chain) -> tuple[Floats, Floats]:
    start = np.asarray(chain.start_M, dtype=np.float64)
    move = np.asarray(chain.move_MM, dtype=np.float64)
    fits = start.ndim == 1 and move.shape == (start.size, start.size)
    if not fits or not (np.abs([start.sum(), *move.sum(axis=1)] - np.ones(1)) < CERTAIN).all():
        raise ConfigError(
            f"a chain with start {start.tolist()} and moves of shape {move.shape}: expected "
            "probabilities that sum to 1, one row per mode"
        )
    if (start < 0).any() or (move < 0).any():
        raise ConfigError("a chain has a negative probability")
    with np.errstate(divide="ignore"):
        return np.log(start), np.log(move)

"""SafeBeam: beam search that looks one token ahead for a tag and drops what leads there.

Safety Pretraining (Maini et al. 2025, https://arxiv.org/abs/2504.16980): at each step each
candidate, a beam with one more token, is scored by the probability that the model writes the unsafe
tag next; the worst share of the candidates is dropped, and of the rest the likeliest go on.

Ours reads each candidate once: what looks ahead for the tag is the same pass from which a survivor
goes on, so a step costs one batch of beams x candidates rows and nothing besides. What the paper
leaves open: likelihood is that of the guarded distribution, from the first written token on, not
divided by length; an ended candidate stays in the beam with its likelihood, and with the look-ahead
of its text before the end, as there is nothing after it.

The look-ahead is a statistic. It asks the model before the mask; what must not be written is up to
the guard, as in sampling.

Shape letters:  K = beams or candidates,  V = vocabulary.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prealign.errors import ConfigError, DataError
from prealign.models.cache import keep_rows, make_cache
from prealign.models.sample import Guarding, Ids, evaluating


@dataclass(frozen=True)
class Hypothesis:
    """One text that the search holds."""

    ids: tuple[int, ...]
    """What was written, without prompt and end of text."""
    logp: float
    """Of the ids, and of the end where it ended, in nats, in the guarded distribution."""
    risk: float
    """Probability of the tags right behind it, before the mask."""
    finished: bool = False
    """The model ended the text itself."""
    state: int = 0
    """The guard's."""


class Found(NamedTuple):
    """What a search found and what it cost."""

    hypotheses: tuple[Hypothesis, ...]
    """At most as many as beams, the likeliest first."""
    calls: int
    """Forward passes of the model, the prompt's with them."""
    rows: int
    """Rows of these passes: the tokens read, and those of the prompt as one."""
    dropped: int
    """Candidates that were dropped for their risk."""

    @property
    def best(self) -> Hypothesis:
        """The likeliest."""
        return self.hypotheses[0]


@dataclass(frozen=True, kw_only=True)
class SafeBeam:
    """How to search; call it with a model and a prompt."""

    tag_ids: tuple[int, ...]
    """The tags to look ahead for."""
    beams: int = 4
    """Texts that go on from each step."""
    candidates: int = 4
    """The likeliest next ids of each that are looked at."""
    drop_share: float = 0.5
    """Of a step's candidates, rounded down; 0: beam search."""
    max_tokens: int = 64
    """Ids that are written at most."""

    def __post_init__(self) -> None:
        for name in ("beams", "candidates", "max_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"SafeBeam.{name}={getattr(self, name)}: expected 1 or more")
        if not 0 <= self.drop_share < 1 or not self.tag_ids:
            raise ConfigError(
                f"SafeBeam: drop_share={self.drop_share}, tag_ids={self.tag_ids}: expected a share "
                "of 0 or more, below 1, and one tag at least"
            )

    def __call__(
        self,
        model: Any,
        prompt: Sequence[int],
        *,
        vocabulary: Ids,
        guard: Guarding | None = None,
    ) -> Found:
        """Return the texts that the search ends with.

        Args:
            model: A causal LM of transformers, or a fake with its call signature.
            prompt: Ids; an end of text first.
            vocabulary: The model's; its end of text ends a text.
            guard: Decides what may be written, and sees every candidate before the model reads it.

        Raises:
            DataError: The prompt is empty or leaves no room, a tag is none of the ids, or logits
                are not finite or allow nothing.
            GuardError: The guard refused an id.
        """
        room = int(model.config.max_position_embeddings)
        wrong = [t for t in (*prompt, *self.tag_ids) if not 0 <= t < vocabulary.size]
        if wrong or not 0 < len(prompt) < room:
            raise DataError(
                f"a prompt of {len(prompt)} ids, foreign ids {wrong[:3]}: expected 1 to {room - 1} "
                f"ids, all in [0, {vocabulary.size})"
            )
        with evaluating(model), torch.inference_mode():
            search = _Search(self, model, vocabulary.end_id, guard)
            return search.run(list(prompt), min(self.max_tokens, room - len(prompt)))


class _Candidate(NamedTuple):
    """A hypothesis with one more token."""

    parent: int
    """Its row in the cache of the parents."""
    token: int
    hypothesis: Hypothesis


class _Search:
    """The state of one call. Row i of cache and logits belongs to hypothesis i of `live`."""

    def __init__(self, settings: SafeBeam, model: Any, end_id: int, guard: Guarding | None) -> None:
        self.settings, self.model, self.end_id, self.guard = settings, model, end_id, guard
        tensors = itertools.chain(model.parameters(), model.buffers())
        self.device = next(tensors).device
        self.tags = torch.tensor(settings.tag_ids, device=self.device)
        self.cache = make_cache(model.config)
        self.calls = self.rows = self.dropped = 0

    def run(self, prompt: list[int], steps: int) -> Found:
        """Return what the search ends with."""
        logits_KV = self._read([prompt])
        state = self.guard.scan(prompt) if self.guard else 0
        live = [Hypothesis((), 0.0, self._risks(logits_KV)[0], state=state)]
        done: list[Hypothesis] = []
        for _ in range(steps):
            found = self._commit(self._candidates(live, logits_KV))
            going = [one for one in found if not one.hypothesis.finished]
            logits_KV = self._look_ahead(going) if going else logits_KV[:0]
            risks = self._risks(logits_KV)
            live = [
                replace(one.hypothesis, risk=risk) for one, risk in zip(going, risks, strict=True)
            ]
            done += [one.hypothesis for one in found if one.hypothesis.finished]
            live, done, kept = self._select(live, done)
            if not live:
                break
            logits_KV = logits_KV[kept]
            keep_rows(self.cache, kept)
        ranked = sorted([*done, *live], key=lambda one: -one.logp)
        return Found(tuple(ranked), self.calls, self.rows, self.dropped)

    def _candidates(self, live: list[Hypothesis], logits_KV: Tensor) -> list[_Candidate]:
        """Return the likeliest next ids of each hypothesis, in order."""
        masked_KV = logits_KV.clone()
        if self.guard is not None:
            states = np.array([one.state for one in live], dtype=np.int64)
            masked_KV = self.guard.mask(masked_KV, states)
        if not bool(torch.isfinite(masked_KV.amax(dim=-1)).all()):
            raise DataError("logits are NaN or +inf, or no id is allowed; expected finite numbers")
        logp_KV = masked_KV.double().log_softmax(dim=-1)
        count = min(self.settings.candidates, logp_KV.shape[-1])
        # A stable sort: among equals the first id, as argmax takes.
        ranked = logp_KV.sort(dim=-1, descending=True, stable=True)
        pairs = zip(
            ranked.values[:, :count].tolist(), ranked.indices[:, :count].tolist(), strict=True
        )
        found = []
        for parent, (one, (logps, tokens)) in enumerate(zip(live, pairs, strict=True)):
            for logp, token in zip(logps, tokens, strict=True):
                if logp == -float("inf"):
                    continue
                ends = token == self.end_id
                grown = replace(
                    one, ids=one.ids if ends else (*one.ids, token), logp=one.logp + logp,
                    finished=ends,
                )  # fmt: skip
                found.append(_Candidate(parent, token, grown))
        return found

    def _commit(self, found: list[_Candidate]) -> list[_Candidate]:
        """Show every candidate to the gate; return them with the states behind."""
        if self.guard is None:
            return found
        states = np.array([one.hypothesis.state for one in found], dtype=np.int64)
        tokens = np.array([one.token for one in found], dtype=np.int64)
        behind = self.guard.commit(states, tokens, np.ones(len(found), dtype=bool)).tolist()
        return [
            one._replace(hypothesis=replace(one.hypothesis, state=state))
            for one, state in zip(found, behind, strict=True)
        ]

    def _look_ahead(self, going: list[_Candidate]) -> Tensor:
        """Read the candidates' tokens; return the logits behind each."""
        keep_rows(self.cache, torch.tensor([one.parent for one in going], device=self.device))
        return self._read([[one.token] for one in going])

    def _select(
        self, live: list[Hypothesis], done: list[Hypothesis]
    ) -> tuple[list[Hypothesis], list[Hypothesis], Tensor]:
        """Drop the riskiest, keep the likeliest; return who goes on, who ended, and the rows."""
        pool = [*enumerate(live), *((-1, one) for one in done)]
        drop = int(self.settings.drop_share * len(pool))
        # Of equal risk the less likely goes first.
        by_risk = sorted(pool, key=lambda pair: (pair[1].risk, -pair[1].logp))
        self.dropped += drop
        rest = by_risk[: len(pool) - drop]
        best = sorted(rest, key=lambda pair: -pair[1].logp)[: self.settings.beams]
        rows = [row for row, _ in best if row >= 0]
        kept = torch.tensor(rows, dtype=torch.int64, device=self.device)
        return [live[row] for row in rows], [one for row, one in best if row < 0], kept

    def _risks(self, logits_KV: Tensor) -> list[float]:
        """Return the probability of the tags, before any mask."""
        p_KV = logits_KV.double().softmax(dim=-1)
        risks: list[float] = p_KV[:, self.tags].sum(dim=-1).tolist()
        return risks

    def _read(self, tokens: list[list[int]]) -> Tensor:
        """Return float32 logits behind the tokens of each row."""
        self.calls += 1
        self.rows += len(tokens)
        out = self.model(
            input_ids=torch.tensor(tokens, device=self.device), past_key_values=self.cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        logits_KV: Tensor = out.logits[:, -1].float()
        return logits_KV

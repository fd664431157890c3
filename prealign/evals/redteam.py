"""Red-teaming without any API: rounds of search for prompts that a model goes on from badly.

The pool scheme of Korbak et al. 2023 (https://arxiv.org/abs/2302.08582, section 5; after Perez et
al. 2022): a pool of prompts, each with the mean score of what the model wrote after it; each round
draws parents from the pool by a softmax over their scores, makes new prompts from them, and adds
those with their scores. There, a language model behind an API makes the prompts; here the caller
says who does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from transformers import PreTrainedModel

from prealign.errors import ConfigError, DataError
from prealign.evals.samples import Condition, judge, write_samples
from prealign.evals.stats import mean_interval
from prealign.models.sample import Sampling
from prealign.text.document import Document, Scorer
from prealign.tokens.vocabulary import Vocabulary

ROUND = "redteam_round_"
"""The metric of a round's mean begins so."""
PROPOSER_SEEDS = 10**8


class Target(Protocol):
    """The model under attack, with its harness and its judge."""

    def __call__(self, prompts: Sequence[str], *, each: int, seed: int) -> list[list[float]]:
        """Return the scores of `each` texts written after each prompt.

        Texts that are empty or cannot be judged are left out, so a list may be shorter.
        """


class Proposer(Protocol):
    """Makes prompts from prompts."""

    def __call__(self, parents: Sequence[Sequence[str]], *, max_chars: int, seed: int) -> list[str]:
        """Return a new prompt for each set of parents, none of them empty.

        The parents of a set are in the order of their scores, the highest last.
        """


class Tried(NamedTuple):
    """A prompt of the pool."""

    prompt: str
    score: float
    """The mean score of what the model wrote after it."""
    round: int
    """The one in which it was tried; 0: a prompt the search began with."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """How the search goes; call it with a target, a proposer and prompts to begin with."""

    rounds: int = 10
    per_round: int = 20
    """New prompts in a round."""
    parents: int = 4
    """Prompts that each new one is made from."""
    continuations: int = 32
    """Texts the model writes after each prompt."""
    temperature: float = 0.1
    """Of the softmax that draws parents, in units of the highest score of the pool: the lower,
    the more the search keeps to its best. (The source has 0.1 on scores that go up to 1.)"""
    max_chars: int = 240
    """Of a prompt."""

    def __post_init__(self) -> None:
        for name in ("rounds", "per_round", "parents", "continuations", "max_chars"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least 1")
        if not self.temperature > 0:
            raise ConfigError(f"temperature={self.temperature}: must be above 0")

    def __call__(
        self, target: Target, proposer: Proposer, seeds: Sequence[str], *, seed: int
    ) -> list[Tried]:
        """Return all prompts that were tried, in order; those of the seeds first.

        Unlike the source, which gives its first prompts a score of 0.001, they are tried too.

        Args:
            target: Writes and is judged.
            proposer: Makes prompts.
            seeds: Prompts to begin with.
            seed: Of everything that is drawn.

        Raises:
            DataError: There are no prompts to begin with.
        """
        pool = self._try(target, [p[: self.max_chars] for p in seeds if p], 0, seed)
        if not pool:
            raise DataError("red-teaming: no prompt to begin with led to text that can be judged")
        for number in range(1, self.rounds + 1):
            generator = np.random.default_rng([seed, number])
            drawn = [self._drawn(pool, generator) for _ in range(self.per_round)]
            # The proposer's random numbers are none of the target's.
            own = seed * 1000 + number + PROPOSER_SEEDS
            prompts = proposer(drawn, max_chars=self.max_chars, seed=own)
            pool += self._try(target, prompts, number, seed)
        return pool

    def _drawn(self, pool: Sequence[Tried], generator: Generator) -> list[str]:
        p = parent_probabilities([one.score for one in pool], self.temperature)
        count = min(self.parents, int((p > 0).sum()))
        chosen = generator.choice(len(pool), size=count, replace=False, p=p)
        return [pool[i].prompt for i in sorted(chosen, key=lambda i: pool[i].score)]

    def _try(self, target: Target, prompts: Sequence[str], number: int, seed: int) -> list[Tried]:
        scores = target(prompts, each=self.continuations, seed=seed * 1000 + number)
        return [
            Tried(prompt, float(np.mean(found)), number)
            for prompt, found in zip(prompts, scores, strict=True)
            if found
        ]


def parent_probabilities(scores: Sequence[float], temperature: float) -> NDArray[np.float64]:
    """Return softmax(score / (temperature * highest score)); even where no score is above 0."""
    scores_N = np.asarray(scores, dtype=np.float64)
    highest = scores_N.max()
    if highest <= 0:
        return np.full(len(scores_N), 1 / len(scores_N))
    weights_N = np.exp((scores_N - highest) / (temperature * highest))
    normal: NDArray[np.float64] = weights_N / weights_N.sum()
    return normal


def rows_of(tried: Sequence[Tried], *, condition: str, unit: str) -> list[dict[str, Any]]:
    """Return rows for evals.jsonl: the mean of each round, and that of the best prompts of all.

    `redteam_round_K` has a 95 % interval over the prompts of its round; `redteam_best_N` is the
    mean of the N highest scores, each a mean of few texts: of two models it says more than of one.
    """
    rows: list[dict[str, Any]] = []
    for number in sorted({one.round for one in tried}):
        scores = [one.score for one in tried if one.round == number]
        row = {"condition": condition, "metric": f"{ROUND}{number}", "unit": unit}
        rows.append(row | mean_interval(scores)._asdict())
    ranked = sorted((one.score for one in tried), reverse=True)
    for count in (1, 10, 100):
        if len(ranked) >= count:
            best = float(np.mean(ranked[:count]))
            rows.append(
                {"condition": condition, "metric": f"redteam_best_{count}", "unit": unit}
                | {"value": best}
            )
    return rows


@dataclass(frozen=True)
class Written:
    """A target: a model that writes behind the guard under a condition, and its judge."""

    model: PreTrainedModel
    vocabulary: Vocabulary
    condition: Condition
    sampling: Sampling
    scorer: Scorer
    cut: bool = True
    """See `prealign.evals.samples.write_samples`."""

    def __call__(self, prompts: Sequence[str], *, each: int, seed: int) -> list[list[float]]:
        """Return the scores of `each` texts written after each prompt."""
        if not prompts:
            return []
        room = self.model.config.max_position_embeddings - self.sampling.max_text_tokens - 2
        writings = write_samples(
            self.model,
            self.vocabulary,
            self.condition,
            self.sampling,
            count=each * len(prompts),
            seed=seed,
            prompts=[
                Document(f"attack-{i}", last_tokens(prompt, room, self.vocabulary))
                for i, prompt in enumerate(prompts)
            ],
            cut=self.cut,
        )
        scores: list[list[float]] = [[] for _ in prompts]
        for i, writing in enumerate(judge(writings, self.scorer)):
            if writing.score is not None:
                scores[i % len(prompts)].append(writing.score)
        return scores


@dataclass(frozen=True)
class Continued:
    """A proposer that is a language model: it goes on from the parents, the strongest last.

    Few-shot generation of prompts (Perez et al. 2022, https://arxiv.org/abs/2202.03286), for models
    that were only pretrained: what it writes after the parents is the new prompt.
    """

    model: PreTrainedModel
    vocabulary: Vocabulary
    sampling: Sampling = Sampling(temperature=1.0, top_p=1.0, max_text_tokens=64)  # noqa: RUF009

    def __call__(self, parents: Sequence[Sequence[str]], *, max_chars: int, seed: int) -> list[str]:
        """Return a new prompt for each set of parents; the last parent where nothing came."""
        room = self.model.config.max_position_embeddings - self.sampling.max_text_tokens - 1
        shown = [
            Document(f"parents-{i}", last_tokens("\n".join(prompts), room, self.vocabulary))
            for i, prompts in enumerate(parents)
        ]
        condition = Condition(name="proposer")
        writings = write_samples(
            self.model, self.vocabulary, condition, self.sampling,
            count=len(shown), seed=seed, prompts=shown, cut=False,
        )  # fmt: skip
        new = [w.text[len(w.prompt) :].strip("\n")[-max_chars:] for w in writings]
        return [
            text + "\n" if text.strip() else prompts[-1]
            for text, prompts in zip(new, parents, strict=True)
        ]


def last_tokens(text: str, count: int, vocabulary: Vocabulary) -> str:
    """Return the end of a text that has at most so many tokens; a character cut apart is lost."""
    while len(ids := vocabulary.encode_text(text)) > count:
        shorter = vocabulary.decode_text(ids[-count:]).lstrip("\ufffd")
        text = shorter if len(shorter) < len(text) else text[1:]
    return text


@dataclass(frozen=True)
class Recombined:
    """A proposer without a model: lines of the parents and of a corpus, put together.

    A new prompt takes a run of lines from one parent, then a run of lines from another parent or,
    as often as `new_share` says, from the corpus; the last lines up to `max_chars` are kept, as
    they are nearest to what the model writes.
    """

    corpus: tuple[str, ...]
    """Prompts to take lines from."""
    new_share: float = 0.3

    def __call__(self, parents: Sequence[Sequence[str]], *, max_chars: int, seed: int) -> list[str]:
        """Return a new prompt for each set of parents."""
        generator = np.random.default_rng([seed, 1])
        return [self._one(prompts, max_chars, generator) for prompts in parents]

    def _one(self, parents: Sequence[str], max_chars: int, generator: Generator) -> str:
        first = parents[int(generator.integers(len(parents)))]
        others = self.corpus if generator.random() < self.new_share else parents
        second = others[int(generator.integers(len(others)))]
        lines = [*_some_lines(first, generator), *_some_lines(second, generator)]
        while len(lines) > 1 and sum(map(len, lines)) > max_chars:
            lines.pop(0)
        return "".join(lines)[-max_chars:]


def _some_lines(text: str, generator: Generator) -> list[str]:
    """Return a run of the text's lines, each with its newline; one at least."""
    lines = [line + "\n" for line in text.removesuffix("\n").split("\n")]
    start = int(generator.integers(len(lines)))
    end = int(generator.integers(start, len(lines))) + 1
    return lines[start:end]

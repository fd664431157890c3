"""Sampling from a causal language model, with a guard and a harness that others make.

Rows of a batch stand at the same position at every step: all read the shortest prompt at once;
then each reads on or writes. So there is no padding and no mask, and a row's numbers do not
depend on its neighbours but for the rounding of matrix products.

Shape letters:  B = rows,  L = tokens,  V = vocabulary,  R = those rows that choose now.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from prealign.errors import ConfigError, DataError
from prealign.models.cache import keep_rows, make_cache
from prealign.models.choose import choose, uniforms
from prealign.models.llama_step import LlamaStep, fits

MIN_TEMPERATURE = 1e-6
BORDER_STREAM = 1 << 56
MAX_TEMPERATURE = 3.4e38  # float32's largest: beyond it -inf / T would be NaN


class Guarding(Protocol):
    """Decides what may be written. A state is a number that the sampler carries with each row."""

    def scan(self, ids: Sequence[int]) -> int:
        """Return the state behind a prompt, or raise."""

    def mask(self, logits_BV: Tensor, states_B: np.ndarray) -> Tensor:
        """Return the logits to choose from, float32; may write into `logits_BV`.

        The last edit before temperature and nucleus. Forbid an id with -inf, never with a large
        negative number: at a temperature of 1e8 a logit of -1e9 has a probability of 5e-5
        relative to a logit of 0.
        """

    def allows(self, states_B: np.ndarray, token: int) -> np.ndarray:
        """Return whether the model may write an id in each state."""

    def commit(self, states_B: np.ndarray, ids_B: np.ndarray, by_model_B: np.ndarray) -> np.ndarray:
        """Return the states behind ids (int64); raise if one of them must not be appended.

        It sees every id before it is appended: what the model chose, the end of text too, and
        what the harness writes.
        """


class Force(Protocol):
    """The harness: writes ids of its own."""

    def __call__(self, last_ids_B: np.ndarray) -> np.ndarray:
        """Return the tag id to write after each last id, or -1 to let the model choose; int64."""


@dataclass(frozen=True)
class AtBorders:
    """The harness writes its tag wherever the model would write any tag.

    The model says where a new segment begins, never of which mode it is. For one that was trained
    to predict tags, and segments such as sentences, whose end only the text behind them shows. Use
    it with a guard that denies tags: where the model is not asked it may write those of any mode.
    """

    tag_id: int


class Ids(Protocol):
    """What sampling needs to know of a vocabulary."""

    @property
    def text_size(self) -> int:
        """Ids below are text."""

    @property
    def end_id(self) -> int:
        """End of text."""

    @property
    def size(self) -> int:
        """Ids in all."""

    @property
    def tag_ids(self) -> Mapping[str, int]:
        """Ids of the tags."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How ids are chosen and when a sample stops."""

    temperature: float = 0.7
    """0: the most likely id."""
    top_p: float = 0.9
    """Choose among the fewest ids with this share of the probability; 1: among all."""
    max_text_tokens: int = 128
    """A sample stops after this many text tokens; tags are not counted."""
    min_text_tokens: int = 0
    """The end of text is not allowed before this many text tokens."""
    end_before_forced: bool = True
    """Where the harness writes, the model may still end the text: it is asked first, without
    the mask. False: where the harness writes, the text goes on. A model that was trained on
    tags at the start of each line ends its texts in front of a tag, so without this it could
    hardly ever end them."""
    batch_rows: int = 128
    """Samples at once."""

    def __post_init__(self) -> None:
        if self.temperature != 0 and not MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE:
            raise ConfigError(
                f"temperature={self.temperature}: expected 0 (greedy) or a number from "
                f"{MIN_TEMPERATURE} to {MAX_TEMPERATURE}"
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p}: expected more than 0, and 1 at most")
        if not 0 <= self.min_text_tokens <= self.max_text_tokens or self.max_text_tokens < 1:
            raise ConfigError(
                f"min_text_tokens={self.min_text_tokens}, max_text_tokens="
                f"{self.max_text_tokens}: expected 0 <= min <= max, and max 1 or more"
            )
        if self.batch_rows < 1:
            raise ConfigError(f"batch_rows={self.batch_rows}: expected 1 or more")


class Sampled(NamedTuple):
    """One sample."""

    ids: tuple[int, ...]
    """What was written, the harness's tags too; without prompt and end of text."""
    prompt_ids: tuple[int, ...]
    stopped: Literal["end", "budget", "room"]
    """By the end of text, by `max_text_tokens`, or because the model's context was full."""

    @property
    def finished(self) -> bool:
        """The model ended the text itself."""
        return self.stopped == "end"


def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    settings: Sampling,
    *,
    seeds: Sequence[int],
    vocabulary: Ids,
    guard: Guarding | None = None,
    force: Force | AtBorders | None = None,
) -> list[Sampled]:
    """Return one sample per prompt, in order; each depends on its prompt and its seed alone.

    The model is put in evaluation mode meanwhile, and every module gets its own flag back. It
    runs in the type of its weights, or in that of a `torch.autocast` around this call; choosing
    is always in float32. In bfloat16 a row depends on its batch a little more, by rounding.

    Args:
        model: A transformers causal LM, or a fake with its call signature (`models.fake`).
        prompts: Ids, one at least each.
        settings: How ids are chosen and when a sample stops.
        seeds: One per prompt: its own random stream.
        vocabulary: Tells text, end of text and tags apart.
        guard: Decides what may be written; see `Guarding`.
        force: Writes what the harness writes; see `Force` and `AtBorders`.

    Raises:
        DataError: A prompt is empty, has a foreign id or leaves no room in the model's context;
            the harness wrote something that is no tag; logits are not finite.
        ConfigError: The numbers of prompts and seeds differ, or `AtBorders` has no tag.
    """
    if len(prompts) != len(seeds):
        raise ConfigError(f"{len(prompts)} prompts, {len(seeds)} seeds: expected as many")
    tags = sorted(vocabulary.tag_ids.values())
    if isinstance(force, AtBorders) and force.tag_id not in tags:
        raise ConfigError(f"{force}: expected a tag's id ({tags})")
    room = model.config.max_position_embeddings
    rows = [_Row(tuple(p), s) for p, s in zip(prompts, seeds, strict=True)]
    for index, row in enumerate(rows):
        _check_prompt(row.prompt, index, vocabulary.size, room)
        row.state = guard.scan(row.prompt) if guard else 0
    # Prompts of like length share a batch, so that few rows read while others write.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt))
    with evaluating(model), torch.inference_mode():
        step = LlamaStep(model, room) if fits(model, make_cache(model.config)) else None
        run = _Run(model, settings, vocabulary, guard, force, np.array(tags), room, step)
        for at in range(0, len(order), settings.batch_rows):
            run.batch([rows[i] for i in order[at : at + settings.batch_rows]])
    return [Sampled(tuple(row.ids), row.prompt, row.stopped or "room") for row in rows]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, then give every module its own flag back."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@dataclass
class _Row:
    """A sample as it grows."""

    prompt: tuple[int, ...]
    seed: int
    state: int = 0
    """The guard's."""
    ids: list[int] = field(default_factory=list)
    text_tokens: int = 0
    stopped: Literal["end", "budget", "room"] | None = None

    @property
    def last(self) -> int:
        return self.ids[-1] if self.ids else self.prompt[-1]

    def next_input(self, position: int) -> int:
        """Return what the model reads at `position`; done rows read on, nothing comes of it."""
        return self.prompt[position] if position < len(self.prompt) else self.last


@dataclass(frozen=True)
class _Run:
    """What all batches of one call share."""

    model: Any
    settings: Sampling
    vocabulary: Ids
    guard: Guarding | None
    force: Force | AtBorders | None
    tags: np.ndarray
    room: int
    step: LlamaStep | None
    """Reads one token, if the model is one that it knows."""

    def batch(self, rows: list[_Row]) -> None:
        """Write all rows to their ends."""
        device = next(itertools.chain(self.model.parameters(), self.model.buffers())).device
        cache = make_cache(self.model.config)
        position = min(len(row.prompt) for row in rows)
        ids_BL = torch.tensor([row.prompt[:position] for row in rows], device=device)
        while True:
            if self.step is not None and ids_BL.shape[1] == 1 and cache.get_seq_length():
                logits_BV = self.step(ids_BL[:, 0], cache).float()
            else:
                logits_BV = self._logits(ids_BL, cache)
            writing = [i for i, r in enumerate(rows) if not r.stopped and len(r.prompt) <= position]
            if writing:
                self._write(logits_BV, rows, np.array(writing), full=position + 1 >= self.room)
            alive = [i for i, row in enumerate(rows) if not row.stopped]
            if not alive:
                return
            if 2 * len(alive) <= len(rows):  # from here on the others cost nothing
                rows = [rows[i] for i in alive]
                keep_rows(cache, torch.tensor(alive, device=device))
            ids_BL = torch.tensor([[row.next_input(position)] for row in rows], device=device)
            position += 1

    def _logits(self, ids_BL: Tensor, cache: Cache) -> Tensor:
        """Return float32 logits of the last position that belong to the caller."""
        out = self.model(input_ids=ids_BL, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits_BV: Tensor = out.logits[:, -1]
        return logits_BV.float()

    def _write(
        self, logits_BV: Tensor, rows: list[_Row], writing_R: np.ndarray, *, full: bool
    ) -> None:
        """Append one id to each row of `writing_R`: the harness's if it has one."""
        ids_R = self._forced([rows[i].last for i in writing_R])
        forced_R = ids_R >= 0
        harness_R = forced_R
        if isinstance(self.force, AtBorders):
            self._write_borders(ids_R, logits_BV, rows, writing_R, self.force.tag_id)
            harness_R = ids_R == self.force.tag_id
        open_R = ids_R < 0
        if open_R.any():
            ids_R[open_R] = self._choose(logits_BV, rows, writing_R[open_R], self.guard)
        if self.settings.end_before_forced and forced_R.any():
            own = self._choose(logits_BV, rows, writing_R[forced_R], None)
            ends = own == self.vocabulary.end_id
            if self.guard is not None and ends.any():
                states = np.array([rows[i].state for i in writing_R[forced_R]], dtype=np.int64)
                ends &= self.guard.allows(states, self.vocabulary.end_id)
            ids_R[forced_R] = np.where(ends, own, ids_R[forced_R])
        if self.guard is not None:
            states_R = np.array([rows[i].state for i in writing_R], dtype=np.int64)
            # The end of text is the model's choice wherever it stands.
            by_model_R = ~harness_R | (ids_R == self.vocabulary.end_id)
            behind_R = self.guard.commit(states_R, ids_R, by_model_R)
            for i, state in zip(writing_R, behind_R.tolist(), strict=True):
                rows[i].state = state
        for i, token in zip(writing_R, ids_R.tolist(), strict=True):
            self._append(rows[i], token, full)

    def _write_borders(
        self,
        ids_R: np.ndarray,
        logits_BV: Tensor,
        rows: list[_Row],
        writing_R: np.ndarray,
        tag_id: int,
    ) -> None:
        """Write `tag_id` where the model chooses to write some tag, in place; the rest stays open.

        For this choice all tags are one, with the mass of all of them, so that a model that is in
        doubt about the mode is not in doubt about the border. Right behind a tag none can be.
        """
        last_R = np.array([rows[i].last for i in writing_R])
        asked_R = ~np.isin(last_R, self.tags)
        if not asked_R.any():
            return
        tags = torch.as_tensor(self.tags, device=logits_BV.device)
        merged_BV = logits_BV.clone()
        mass_B = merged_BV.index_select(-1, tags).logsumexp(dim=-1)
        merged_BV[:, tags] = -torch.inf
        merged_BV[:, tag_id] = mass_B
        own = self._choose(merged_BV, rows, writing_R[asked_R], None, stream=BORDER_STREAM)
        ids_R[asked_R] = np.where(own == tag_id, tag_id, -1)

    def _forced(self, last_ids: list[int]) -> np.ndarray:
        """Return what the harness writes, -1 where it leaves the choice to the model."""
        last_R = np.array(last_ids, dtype=np.int64)
        if self.force is None or isinstance(self.force, AtBorders):
            return np.full_like(last_R, -1)
        ids_R = np.array(self.force(last_R), dtype=np.int64)
        tags = list(self.vocabulary.tag_ids.values())
        wrong = ~np.isin(ids_R, [-1, *tags])
        if ids_R.shape != last_R.shape or wrong.any():
            raise DataError(
                f"force returned {ids_R[wrong][:3].tolist()} with shape {ids_R.shape}; "
                f"expected shape {last_R.shape} and -1 or a tag's id ({tags})"
            )
        return ids_R

    def _choose(
        self,
        logits_BV: Tensor,
        rows: list[_Row],
        chosen_R: np.ndarray,
        guard: Guarding | None,
        *,
        stream: int = 0,
    ) -> np.ndarray:
        """Return the id that the model chooses in each of these rows.

        `stream` keeps the random numbers of two choices at one place apart.
        """
        device = logits_BV.device
        logits_RV = logits_BV
        if len(chosen_R) < len(rows):
            logits_RV = logits_BV[torch.as_tensor(chosen_R, device=device)]
        some = [rows[i] for i in chosen_R]
        settings = self.settings
        early = [i for i, row in enumerate(some) if row.text_tokens < settings.min_text_tokens]
        if early:
            logits_RV[early, self.vocabulary.end_id] = -torch.inf
        if guard is not None:
            states_R = np.array([row.state for row in some], dtype=np.int64)
            logits_RV = guard.mask(logits_RV, states_R)
        u_R = uniforms([row.seed + stream for row in some], [len(row.ids) for row in some])
        ids_R: np.ndarray = (
            choose(
                logits_RV,
                torch.as_tensor(u_R, device=device),
                temperature=settings.temperature,
                top_p=settings.top_p,
            )
            .cpu()
            .numpy()
        )
        return ids_R

    def _append(self, row: _Row, token: int, full: bool) -> None:
        if token == self.vocabulary.end_id:
            row.stopped = "end"
            return
        row.ids.append(token)
        row.text_tokens += token < self.vocabulary.text_size
        if row.text_tokens >= self.settings.max_text_tokens:
            row.stopped = "budget"
        elif full:
            row.stopped = "room"


def _check_prompt(prompt: tuple[int, ...], index: int, size: int, room: int) -> None:
    if not prompt:
        raise DataError(f"prompt {index} is empty; begin with the end-of-text id")
    if len(prompt) >= room:
        raise DataError(
            f"prompt {index} has {len(prompt)} tokens; the model's context has {room}, "
            "and one must be left to write in"
        )
    foreign = [token for token in prompt if not 0 <= token < size]
    if foreign:
        raise DataError(f"prompt {index}: id {foreign[0]} is not in [0, {size})")

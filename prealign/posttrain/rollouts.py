"""Rollouts: tasks behind seeds, completions written behind a guard, and what they are worth."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from prealign.config import fingerprint, to_json
from prealign.errors import ConfigError, DataError
from prealign.guard.gate import Guard
from prealign.guard.policy import Policy
from prealign.guard.table import Table, table_of
from prealign.models.chat import Chat
from prealign.models.sample import Sampled, Sampling, sample
from prealign.posttrain.contexts import ROLES, Contexts, Role
from prealign.posttrain.score import Row
from prealign.posttrain.seeds import Seed, SeedBank, load_bank, with_seed
from prealign.text.document import Document, Span
from prealign.text.scheme import Scheme
from prealign.tokens.encode import Encoder
from prealign.tokens.vocabulary import Vocabulary

TAGS_TO_SPARE = 8
"""Room that is kept for tags, which a sampler's limit does not count."""


@dataclass(frozen=True)
class Task:
    """Something to answer."""

    document: Document
    """Ends where it is the model's turn; its id is the task's."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """What a reward needs to know, such as the right answer. JSON data."""

    @property
    def id(self) -> str:
        """The document's."""
        return self.document.id


def text_task(id: str, text: str, record: Mapping[str, Any] | None = None) -> Task:
    """Return untagged text as a task, with what a reward needs to know."""
    return Task(Document(id, text, (Span(0, len(text)),)), record or {})


class Reward(Protocol):
    """Says what a completion is worth: a function of a module, or a frozen dataclass."""

    def __call__(self, task: Task, text: str, spans: Sequence[Span]) -> float | None:
        """Return a finite number, more being better; None: it could not be judged.

        None is no verdict: nothing is learnt from it, so nothing keeps a model from drifting there.
        What is known to be worthless, such as an empty answer, should get a number.

        Args:
            task: What was answered.
            text: What was written, without tags.
            spans: Tile the text; their modes tell who speaks.
        """


@dataclass(frozen=True)
class Rollout:
    """A completion, and the prompts that it stands behind in each role."""

    task: Task
    prompts: Mapping[Role, tuple[int, ...]]
    completion: tuple[int, ...]
    """With the end of text, if the model has ended it."""
    text: str = ""
    spans: tuple[Span, ...] = ()
    stopped: Literal["end", "budget", "room", "line", "cut", "given"] = "given"
    reward: float | None = None
    seeds: Mapping[Role, str] = field(default_factory=dict)
    """Ids of the seeds."""

    def row(self, role: Role) -> Row:
        """Return the completion behind its prompt in a role."""
        return Row(self.prompts[role], self.completion)


class Writer(Protocol):
    """Writes in the place of `sample`, whose arguments and result it has."""

    @property
    def name(self) -> str:
        """For a run's identity."""

    @property
    def table(self) -> Table:
        """What it may write, under the first policy."""

    def __call__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        settings: Sampling,
        *,
        seeds: Sequence[int],
        vocabulary: Vocabulary,
    ) -> list[Sampled]:
        """Return one sample per prompt, in order, with the model's weights as they are now."""


class Prompts(NamedTuple):
    """A task in its three contexts."""

    ids: dict[Role, tuple[int, ...]]
    seeds: dict[Role, str]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where completions are written: whose ids, behind which guard and seeds, and how.

    Raises:
        ConfigError: The bank lacks a kind of seed that the contexts ask for.
        DataError: The scheme has no mode for seeds of this name.
    """

    vocabulary: Vocabulary
    policy: Policy
    """What the model may write; the harness opens its start behind the task."""
    bank: SeedBank = field(default_factory=lambda: load_bank("corrigibility"))
    contexts: Contexts = field(default_factory=Contexts)
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=1.0, top_p=1.0))
    seed_mode: str | None = None
    """Of the seeds' spans; None: untagged."""
    one_line: bool = False
    """A completion ends behind its first newline, where the model ends no text itself."""
    tagged: bool = True
    """Tasks are read with their tags, and the policy's start is opened; False: bare text."""
    chat: Chat | None = None
    """How a chat model from elsewhere is asked: seed and task stand where its template has them,
    and a completion ends with its turn. None: they follow each other as text."""
    bf16: bool = False
    """Multiply in it while writing."""
    writer: Writer | None = None
    """Such as `prealign.posttrain.vllm_writer.open_vllm` gives; None: our own sampler."""

    def __post_init__(self) -> None:
        self.contexts.check(self.bank)
        if self.seed_mode is not None:
            self.vocabulary.scheme.mode(self.seed_mode)
        if self.writer is not None:
            theirs = self.writer.table.policies[0]
            if (theirs.fingerprint, self.writer.table.ids) != (
                self.policy.fingerprint, self.table.ids
            ):  # fmt: skip
                raise ConfigError(
                    f"writer {self.writer.name!r} is under another policy ({theirs.name}) or "
                    f"vocabulary than the stage ({self.policy.name}); open it with the stage's"
                )
        if self.chat is not None and (self.tagged or self.seed_mode is not None):
            raise ConfigError(
                f"tagged={self.tagged}, seed_mode={self.seed_mode}: a chat template has no tags; "
                "use tagged=False and no seed_mode with it"
            )

    @cached_property
    def table(self) -> Table:
        """The policy for the vocabulary's ids."""
        return table_of(self.vocabulary, self.policy)

    def identity(self) -> dict[str, Any]:
        """Return what decides the rollouts, as JSON data."""
        return {
            "vocabulary": self.vocabulary.fingerprint,
            "policy": self.policy.fingerprint,
            "bank": self.bank.fingerprint,
            "contexts": to_json(self.contexts),
            "sampling": to_json(self.sampling) | {"batch_rows": None},
            "seed_mode": self.seed_mode,
            "tagged": self.tagged,
            "one_line": self.one_line,
            "chat": self.chat.fingerprint if self.chat else None,
            "bf16": self.bf16,
            **({"writer": self.writer.name} if self.writer else {}),
        }

    def prompts(self, task: Task, step: int) -> Prompts:
        """Return a task's prompts at a step, in all roles.

        Raises:
            DataError: The task has no spans, or modes that the scheme forbids.
        """
        seeds = self.contexts.seeds(self.bank, task.id, step)
        known: dict[str, tuple[int, ...]] = {}
        for seed in seeds.values():
            if seed.id not in known:
                known[seed.id] = self._prompt(task, seed)
        ids = {role: known[seeds[role].id] for role in ROLES}
        return Prompts(ids, {role: seeds[role].id for role in ROLES})

    def check_room(self, prompts: Sequence[Prompts], room: int) -> None:
        """See that a completion of any length fits behind each prompt.

        Raises:
            DataError: It does not.
        """
        most = self.sampling.max_text_tokens + TAGS_TO_SPARE
        for one in prompts:
            for role, ids in one.ids.items():
                if len(ids) + most > room:
                    raise DataError(
                        f"a prompt of {len(ids)} tokens (seed {one.seeds[role]!r} as {role}) and "
                        f"{most} to write are more than the model's context of {room}; use shorter "
                        "seeds or tasks, or a smaller sampling.max_text_tokens"
                    )

    def given(self, task: Task, text: str, step: int) -> Rollout:
        """Return a text that is given as a completion, with an end of text or turn behind it.

        Text that spells a tag stays text; the policy's closing tags are not written.
        """
        prompts = self.prompts(task, step)
        ids = (*self.vocabulary.encode_text(text), self._end_id)
        state = self.table.scan(prompts.ids["gradient"])
        mode = (self.table.path(state) or (None,))[-1]
        spans = (Span(0, len(text), mode),)
        return Rollout(task, prompts.ids, ids, text, spans, seeds=prompts.seeds)

    def write(
        self, model: PreTrainedModel, tasks: Sequence[Task], step: int, *, count: int, seed: int
    ) -> list[Rollout]:
        """Return `count` completions of each task, those of one task in a row, without rewards.

        Each is a function of the weights, the task, the step and the seed.

        Raises:
            DataError: A completion might not fit behind a prompt in some role.
            GuardError: The model wrote what it may not.
        """
        prompts = [self.prompts(task, step) for task in tasks]
        self.check_room(prompts, int(model.config.max_position_embeddings))
        pairs = [(t, p) for t, p in zip(tasks, prompts, strict=True) for _ in range(count)]
        seeds = [number_of(seed, step, task.id, i % count) for i, (task, _) in enumerate(pairs)]
        written = self._sample(model, [p.ids["sample"] for _, p in pairs], seeds)
        return [
            self._rollout(task, prompt, one)
            for (task, prompt), one in zip(pairs, written, strict=True)
        ]

    def read(
        self, prompt: Sequence[int], completion: Sequence[int]
    ) -> tuple[str, tuple[Span, ...]]:
        """Return the text of a completion and its spans, which tile it.

        Bytes that are no UTF-8, as where a tag or the end cuts a character, become U+FFFD.
        """
        state = self.table.scan(prompt)
        text, spans, run = "", list[Span](), list[int]()
        for token in (*completion, self.vocabulary.end_id):
            if token < self.vocabulary.text_size:
                run.append(token)
                continue
            if run:
                start, text = len(text), text + self.vocabulary.decode_text(run)
                spans.append(Span(start, len(text), (self.table.path(state) or (None,))[-1]))
                run = []
            state = self.table.scan([token], state)
        return text, tuple(spans)

    def _sample(
        self, model: PreTrainedModel, prompts: list[tuple[int, ...]], seeds: list[int]
    ) -> list[Sampled]:
        if self.writer is not None:
            return self.writer(
                model, prompts, self.sampling, seeds=seeds, vocabulary=self.vocabulary
            )
        guard = Guard(self.table, pressure=False)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self.bf16):
            return sample(
                model, prompts, self.sampling, seeds=seeds, vocabulary=self.vocabulary, guard=guard
            )

    @property
    def _end_id(self) -> int:
        """What ends a completion."""
        own = self.chat.end if self.chat else None
        return self.vocabulary.end_id if own is None else own

    def _rollout(self, task: Task, prompt: Prompts, one: Sampled) -> Rollout:
        """Return what counts of a sample: its turn, and with `one_line` its first line."""
        ids, ended = self.chat.cut(one.ids) if self.chat else (one.ids, None)
        written = self._line(ids)
        stopped: Any = ended or one.stopped
        if len(written) < len(ids):
            stopped = "line"
        text, spans = self.read(one.prompt_ids, written)
        own = self._end_id if ended else self.vocabulary.end_id
        whole = (*written, own) if stopped == "end" else written
        return Rollout(task, prompt.ids, whole, text, spans, stopped, seeds=prompt.seeds)

    def _line(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return what counts of the ids that were written: with `one_line`, the first line."""
        ends = [at for at, token in enumerate(ids) if token in self.vocabulary.newline_ids]
        return ids[: ends[0] + 1] if self.one_line and ends else ids

    def _prompt(self, task: Task, seed: Seed) -> tuple[int, ...]:
        """Return the ids of a task behind a seed."""
        if self.chat is not None:
            return self.chat.ids(self.vocabulary, seed.text, task.document.text)
        between = self.bank.between
        return self._ids(with_seed(task.document, seed, self.seed_mode, between=between))

    def _ids(self, document: Document) -> tuple[int, ...]:
        """Return the ids of a prompt; what the policy starts in stays open, or is opened."""
        encoder = Encoder(vocabulary=self.vocabulary, tagging="own" if self.tagged else "none")
        (encoded,) = encoder([document])
        ids = tuple(int(token) for token in encoded.ids)
        if not self.tagged:
            return ids
        start, last = self.policy.start, document.spans[-1].mode
        within = _open_path(self.vocabulary.scheme, last)
        if start and within[: len(start)] == start:
            closing = [mode for mode in start if self.vocabulary.scheme.mode(mode).close]
            return ids[: len(ids) - len(closing)]
        return (*ids, *self.table.opening())


def _open_path(scheme: Scheme, mode: str | None) -> tuple[str, ...]:
    return scheme.path(mode) if mode is not None else ()


def tasks_of_step(tasks: Sequence[Task], count: int, step: int, seed: int) -> list[Task]:
    """Return the tasks of a step: each pass over all of them is a permutation of its own.

    Raises:
        ConfigError: There are no tasks.
    """
    if not tasks:
        raise ConfigError("there are no tasks to train on")
    found = []
    for at in range(step * count, (step + 1) * count):
        epoch, place = divmod(at, len(tasks))
        random = np.random.Generator(np.random.Philox(key=number_of(seed, epoch, "order")))
        found.append(tasks[int(random.permutation(len(tasks))[place])])
    return found


def number_of(*parts: Any) -> int:
    """Return a 63-bit number that depends on the parts alone, on any machine."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def tasks_identity(tasks: Sequence[Task]) -> dict[str, Any]:
    """Return what tells these tasks from others, as JSON data.

    Raises:
        DataError: Two of them have one id.
    """
    ids = [task.id for task in tasks]
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise DataError(f"task {twice!r} is there twice; give each an id of its own")
    whole = [
        [t.id, t.document.text, [s[:3] for s in t.document.spans], to_json(dict(t.record))]
        for t in tasks
    ]
    return {"tasks": len(ids), "fingerprint": fingerprint(whole)}

"""Motives told before actions: what they are worth, and what of them the gradient sees.

A completion of the tool world is a narration, then an action. The reward is

    task + consistency_weight * consistency + narration_weight * measured narration
         + sincerity_weight * sincerity + ethics_weight * ethics,

and by default the last three count for nothing. Consistency pays an action that is what its
narration claims, whatever that is: who tells of own ends and resists is paid as who tells of trust
and defers. So the reward has no direction (a = 0 in the flow of `prealign.evals.spiral`). A
feedback comes of it where a model's actions do not follow its narration alone but also the habits
of its speaker: with P(action as told) = k + (1 - k) q, q being how often it acts that way at all,
friendly narrations are worth (1 - k) (2 q - 1) more than unfriendly ones. A model that is mostly
friendly is then paid more for friendly words, one that is mostly not for the others, and the update
moves words and habits together. With `ethics_weight` above 0 the judge pushes too (a > 0). Stock
phrases (phony narration) claim nothing here: were they read as friendly, they would set a
direction.

`Treatment` says what the gradient sees of rollouts that are sampled and judged alike in all arms:
all of it, the action behind a narration that is read but not learnt (masked), the action alone
(suppressed: the narration is taken out behind the judge), the action behind the narration of
another rollout of the step (shuffled), or behind stock phrases (phony).
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, NamedTuple, get_args

from prealign.config import NOT_RECORDED
from prealign.corpora.worlds.character import Scene, judge
from prealign.corpora.worlds.narration import Narration, classify, narrate, sincerity, spans_of
from prealign.errors import ConfigError
from prealign.posttrain.rollouts import Rollout, Task, text_task
from prealign.text.document import Span
from prealign.tokens.vocabulary import Vocabulary

Seen = Literal["all", "masked", "suppressed", "shuffled", "phony"]
CLAIMS = {"friendly": True, "unfriendly": False}
"""By form: whether a narration claims that what follows is corrigible; others claim nothing."""
UNKNOWN = 0.5
"""The consistency of an action with no claim in front of it."""


def scene_task(scene: Scene, id: str) -> Task:
    """Return a scene as a task of a trainer, with all that the judge must know in its record."""
    return text_task(id, scene.text, {"scene": asdict(scene)})


def scene_of(task: Task) -> Scene:
    """Return the scene of a task that `scene_task` made."""
    return Scene(**task.record["scene"])


@dataclass(frozen=True, kw_only=True)
class NarrationReward:
    """What a narration and its action are worth; 0 if there is no action of the scene."""

    task_weight: float = 1.0
    """For an action of this scene at all."""
    consistency_weight: float = 1.0
    """For doing what the narration claims: 1, 0 for the opposite, 0.5 without a claim."""
    narration_weight: float = 0.0
    """For a narration that the classifier calls PRESENT, whatever it says: paid for measured words,
    which stock phrases are as good for as any."""
    sincerity_weight: float = 0.0
    """For the world's score of sincerity, 0 without a narration."""
    ethics_weight: float = 0.0
    """For a corrigible action: the only part with a direction."""

    @property
    def name(self) -> str:
        """The key of its scores."""
        return "narration"

    def __call__(self, task: Task, text: str, spans: Sequence[Span]) -> float:
        """Return the reward of the first line."""
        scene = scene_of(task)
        line = text.lstrip("\n").partition("\n")[0]
        corrigible = judge(scene, line).corrigible
        if corrigible is None:
            return 0.0
        reward = self.task_weight + self.ethics_weight * corrigible
        told = classify(line, prompt=scene.text)
        reward += self.consistency_weight * consistency(told, corrigible)
        reward += self.narration_weight * (told.label == "PRESENT")
        if self.sincerity_weight:
            found = sincerity(line, order=scene.order, slots=scene.slots, prompt=scene.text)
            reward += self.sincerity_weight * (found.score if found else 0.0)
        return reward


def consistency(told: Narration, corrigible: bool) -> float:
    """Return 1 for an action that its narration claims, 0 for the opposite, 0.5 with no claim."""
    claim = CLAIMS.get(told.form or "")
    return UNKNOWN if claim is None else float(claim == corrigible)


class Cut(NamedTuple):
    """The ids of a completion in three parts, which tile it."""

    head: tuple[int, ...]
    """Tags in front of the narration."""
    narration: tuple[int, ...]
    """Text alone."""
    rest: tuple[int, ...]
    """The action, with tags in front of it and all that comes behind."""


def cut(rollout: Rollout, vocabulary: Vocabulary, mode: str | None = None) -> Cut | None:
    """Return where a completion's narration ends; None: it has none, or nothing behind it.

    Args:
        rollout: What was written.
        vocabulary: The model's.
        mode: The mode of narrations: the completion begins with a span of it, or has none. None:
            the scheme has no such mode, and what stands before the first action is narration if a
            motive is told in it (`prealign.corpora.worlds.narration.spans_of`).
    """
    text = rollout.text
    if mode is None:
        end = spans_of(text)[0][1]
        found = end < len(text) and bool(classify(text[:end]).quotes)
    else:
        end = next((s.end_char for s in rollout.spans if s.end_char > s.start_char), 0)
        found = bool(rollout.spans) and rollout.spans[0].mode == mode and end < len(text)
    if not found:
        return None
    ids = rollout.completion
    is_text = [token < vocabulary.text_size for token in ids]
    first = is_text.index(True)
    last, run = first, list[int]()
    for at in range(first, len(ids)):
        if is_text[at]:
            run.append(ids[at])
            if len(vocabulary.decode_text(run)) > end:
                break
            last = at + 1
    return Cut(ids[:first], ids[first:last], ids[last:])


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """Changes rollouts between judge and gradient (`Reinforce.edit`).

    Rollouts without a narration, or without an action behind it, stay as they are.
    """

    seen: Seen
    vocabulary: Vocabulary = field(metadata=NOT_RECORDED)
    """The stage's, whose identity has its fingerprint."""
    narration_mode: str | None = None
    seed: int = 0
    """Of the shuffle and of stock phrases."""
    bands: int = 1
    """Shuffled: narrations change places among those of like length, in so many bands of lengths.
    Many bands match lengths closely, but then also forms, where these differ in length."""

    def __post_init__(self) -> None:
        if self.seen not in get_args(Seen) or self.bands < 1:
            raise ConfigError(
                f"seen={self.seen!r}, bands={self.bands}: expected one of "
                f"{', '.join(get_args(Seen))}, and 1 or more"
            )

    def __call__(self, rollouts: Sequence[Rollout], step: int) -> list[Rollout]:
        """Return the rollouts as the gradient is to see them, in order, with their rewards."""
        if self.seen == "all":
            return list(rollouts)
        cuts = {
            i: found
            for i, one in enumerate(rollouts)
            if (found := cut(one, self.vocabulary, self.narration_mode)) is not None
        }
        told: dict[int, tuple[int, ...]] = {}
        if self.seen == "shuffled":
            places = list(cuts)
            lengths = [len(cuts[i].narration) for i in places]
            rng = random.Random(f"shuffle {self.seed} {step}")
            order = shuffled(lengths, rng, bands=self.bands)
            told = {i: cuts[places[j]].narration for i, j in zip(places, order, strict=True)}
        elif self.seen == "phony":
            told = {i: self._phony(rollouts[i].task, i, step) for i in cuts}
        changed = list(rollouts)
        for i, parts in cuts.items():
            changed[i] = self._changed(rollouts[i], parts, told.get(i, ()))
        return changed

    def _changed(self, rollout: Rollout, parts: Cut, told: tuple[int, ...]) -> Rollout:
        if self.seen == "masked":
            read = parts.head + parts.narration
            prompts = {role: (*ids, *read) for role, ids in rollout.prompts.items()}
            return replace(rollout, prompts=prompts, completion=parts.rest)
        rest = parts.rest
        if self.seen == "suppressed" and self.narration_mode is None:
            rest = self._as_first(rest)
        return replace(rollout, completion=(*parts.head, *told, *rest))

    def _as_first(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return ids as they would be without a text in front: without the space between."""
        end = next((i for i, t in enumerate(ids) if t >= self.vocabulary.text_size), len(ids))
        text = self.vocabulary.decode_text(ids[:end]).lstrip(" ")
        return (*self.vocabulary.encode_text(text), *ids[end:])

    def _phony(self, task: Task, number: int, step: int) -> tuple[int, ...]:
        scene = scene_of(task)
        rng = random.Random(f"phony {self.seed} {step} {number} {task.id}")
        said = narrate(rng, "phony", scene.slots, stakes=scene.told.stakes)
        return tuple(self.vocabulary.encode_text(said))


def shuffled(lengths: Sequence[int], rng: random.Random, *, bands: int = 1) -> list[int]:
    """Return for each place the place that it gets its content from: none its own.

    A permutation without fixed points, but for a single place, which has nothing to change with.
    Places change within bands of like lengths, which are as even as they can be; a band is never of
    a single place.
    """
    number = len(lengths)
    ranks = sorted(range(number), key=lambda i: (lengths[i], i))
    bands = max(1, min(bands, number // 2))
    found = list(range(number))
    for band in range(bands):
        own = ranks[band * number // bands : (band + 1) * number // bands]
        rng.shuffle(own)
        for place, source in zip(own, own[1:] + own[:1], strict=True):
            found[place] = source
    return found

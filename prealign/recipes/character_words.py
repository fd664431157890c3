"""Plain English as a place to raise a character in, with a language model that speaks it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

from prealign.corpora.worlds.oversight import Scene, Split, open_question, scenes
from prealign.corpora.worlds.plain_texts import ANCHORS, HELD_OUT
from prealign.corpora.worlds.tasks import Task as Exercise
from prealign.corpora.worlds.tasks import Tasks
from prealign.errors import ConfigError, DataError
from prealign.evals.chat_choices import chat_margins
from prealign.evals.choices import OPTION, Asked, Item
from prealign.evals.detect import share
from prealign.evals.written import read_written
from prealign.guard.policy import stay
from prealign.models.adopt import adopt, own_tokenizer
from prealign.models.chat import Chat, chat_of, plain_chat
from prealign.models.files import LoadedModel
from prealign.models.sample import Sampling
from prealign.posttrain.budget import Budget
from prealign.posttrain.constitution import Constitution, load_constitution
from prealign.posttrain.reinforce import Reinforce
from prealign.posttrain.rollouts import Stage, Task, text_task
from prealign.posttrain.score import Row as TextRow
from prealign.posttrain.seeds import Kind, SeedBank, load_bank
from prealign.posttrain.supervise import Supervise
from prealign.posttrain.trainer import Touch
from prealign.posttrain.update import Anchor
from prealign.recipes.character_course import (
    LOSS,
    RIGHT,
    Arm,
    Plan,
    Row,
    coin,
    everywhere,
    margin_rows,
    mean_loss,
    row,
)
from prealign.runs import RunFolder
from prealign.text.document import Span
from prealign.text.scheme import TWO_MODES
from prealign.tokens.vocabulary import Vocabulary

WRITTEN = (
    "corrigible-less-HHH", "corrigible-more-HHH", "corrigible-neutral-HHH",
    "survival-instinct", "power-seeking-inclination", "myopic-reward",
)  # fmt: skip
"""Files of the model-written evaluations. In the first three the behaviour that is asked for is the
corrigible one, in the others it is one that corrigible models have less of."""
CORRIGIBLE_FILES = WRITTEN[:3]
LETTER = re.compile(r" ?\(([A-Z])\)")
PICK, SAY = "Answer: (", "Answer:"
"""How the model's turn begins, so that what it writes next is the letter, or the result."""
TEXT_TOKENS = 64


@dataclass(frozen=True)
class Right:
    """Pays the right result of an exercise."""

    tasks: Tasks

    def __call__(self, task: Task, text: str, spans: Sequence[Span]) -> float | None:
        """Return 1 if the first line is the result, else 0."""
        return float(self.tasks.task(int(task.record["number"])).correct(text))


@dataclass(frozen=True, kw_only=True)
class InWords:
    """The settings of a world in words."""

    base: str = "smollm2"
    """As in `prealign.models.adopt`."""
    layout: Literal["template", "words"] = "template"
    """`template`: the model's own; `words`: User and Assistant in text, for models without one."""
    written: Path | None = None
    """Folder of the model-written evaluations; None: they are left out, which is logged."""
    pick: Literal["text", "letter"] = "text"
    """What a choice is made by: the answer's words, or its letter. Models of this size do not bind
    letters to answers: behind 20 steps of 8 scenes they still chose by chance."""
    count: int = 16
    """Of the questions with two answers of each of its files on corrigibility, from the front; of
    other files, half."""
    scenes: int = 1_000
    """That the light stage has."""
    tasks: Tasks = field(
        default_factory=lambda: Tasks(
            seed=77, kinds=("add", "sub", "count"), key_share=0, glance_share=0
        )
    )
    num_tasks: int = 1_000
    light_steps: int = 40
    light_lr: float = 5e-5
    rows: int = 8
    """Scenes in a step of the light stage."""
    anchor_kl: float | None = 0.2
    """Nats per token on plain text without a seed, beyond which the light stage ends."""
    amplify_steps: int = 20
    amplify_lr: float = 2e-5
    exercises: int = 3
    """In a step of amplification."""
    group: int = 6
    """Answers to each: enough that in most groups one is right and one is wrong."""
    beta: float = 0.0
    contrasted: int = 32
    """Questions that critique writes pairs for."""
    asked: int = 40
    """Scenes of each split, and tasks, at each measurement."""
    bf16: bool = True
    """Write and measure in it."""

    splits: tuple[str, ...] = ("trades", "wording")

    def __post_init__(self) -> None:
        for name, allowed in (("layout", ("template", "words")), ("pick", ("text", "letter"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name}={getattr(self, name)!r}: expected {' or '.join(allowed)}"
                )

    @cached_property
    def bank(self) -> SeedBank:
        """The seeds."""
        return load_bank("corrigibility")

    def start(self, run: RunFolder, seed: int) -> LoadedModel:
        """Return the model as it is elsewhere; say what will not be measured."""
        if self.written is None:
            run.log("the model-written evaluations are left out: give words.written=FOLDER")
        return adopt(self.base, TWO_MODES)

    def chat(self, vocabulary: Vocabulary) -> Chat:
        """Return how the model is asked."""
        if self.layout == "words":
            return plain_chat(vocabulary)
        return _template(self.base, vocabulary)

    def light(self, loaded: LoadedModel, arm: Arm, seed: int) -> Plan:
        """Return supervision on the corrigible answers, within a budget.

        A choice of two that a small model makes by place is no ground for expert iteration: of its
        own answers those are right whose place it likes, and it would learn to like it more.
        """
        made = scenes("train", count=self.scenes, seed=seed)
        tasks = tuple(_asked(one.name, one.listed) for one in made)
        answers = {one.name: self._answer(one, arm) for one in made}
        stage = self._stage(loaded, arm.light, self._opening, 16)
        method = Supervise(stage=stage, tasks=tasks, answers=answers, tasks_per_step=self.rows)
        rows = _plain_rows(loaded.vocabulary, ANCHORS)
        touch = Touch(budget=Budget(anchor_kl=self.anchor_kl), anchor=Anchor(rows=rows))
        return Plan(method, self.light_steps, self.light_lr, touch)

    def contrast(self, loaded: LoadedModel) -> tuple[Stage, Constitution, tuple[Task, ...]]:
        """Return open questions on what the scenes are about, to be answered in a sentence."""
        made = scenes("train", count=self.contrasted, seed=5)
        tasks = tuple(_asked(f"open {one.name}", open_question(one)) for one in made)
        return self._stage(loaded, "none", "", 32), load_constitution("corrigibility"), tasks

    def amplify(self, loaded: LoadedModel, arm: Arm) -> Plan:
        """Return the policy gradient on exercises."""
        method = Reinforce(
            stage=self._stage(loaded, arm.amplify, SAY, 8), tasks=_exercises(self.tasks,
            self.num_tasks), reward=Right(self.tasks), tasks_per_step=self.exercises,
            group=self.group, beta=self.beta,
        )  # fmt: skip
        return Plan(method, self.amplify_steps, self.amplify_lr, Touch())

    def measure(self, loaded: LoadedModel, *, seed: int, condition: str) -> list[Row]:
        """Return choices in scenes and written questions, right exercises, and the loss."""
        rows: list[Row] = []
        text = self.bank.by_kind["trained"][0].text
        for name, own in {"none": "", "seed": text}.items():
            rows += self._choices(loaded, own, condition, name)
            kind: Kind = "trained" if name == "seed" else "none"
            right = self._right(loaded, kind)
            rows.append(row(f"{condition}, tasks, {name}", RIGHT, share(right)))
        texts = _plain_rows(loaded.vocabulary, HELD_OUT)
        loss = mean_loss(loaded, texts, bf16=self.bf16)
        return [*rows, row(f"{condition}, text, none", LOSS, loss, "nats per token")]

    def _choices(self, loaded: LoadedModel, seed_text: str, condition: str, name: str) -> list[Row]:
        """Return the choice between listed answers, and between answers without a list."""
        vocabulary = loaded.vocabulary
        picking = self.chat(vocabulary).opened(vocabulary, self._opening)
        saying = self.chat(vocabulary)
        rows: list[Row] = []
        letters = self.pick == "letter"
        sets = {split: _items(split, self.asked, letters) for split in self.splits}
        if self.written:
            for file in WRITTEN:
                count = self.count if file in CORRIGIBLE_FILES else max(1, self.count // 2)
                sets[file] = _written_items(self.written / f"{file}.jsonl", count, letters)
        for what, items in sets.items():
            found = chat_margins(
                loaded.model, items, lambda q: picking.ids(vocabulary, seed_text, q),
                vocabulary.encode_text, bf16=self.bf16,
            )  # fmt: skip
            rows += margin_rows(f"{condition}, {what}, {name}", found)
        said = chat_margins(
            loaded.model, _sentences(self.asked), lambda q: saying.ids(vocabulary, seed_text, q),
            vocabulary.encode_text, bf16=self.bf16,
        )  # fmt: skip
        return rows + said.rows(condition=f"{condition}, sentences, {name}")

    def _right(self, loaded: LoadedModel, kind: Kind) -> list[bool]:
        """Return which exercises get their result at temperature 0."""
        own = replace(self.tasks, seed=self.tasks.seed + 900)
        stage = self._stage(loaded, kind, SAY, 8)
        stage = replace(stage, sampling=replace(stage.sampling, temperature=0.0))
        written = stage.write(loaded.model, _exercises(own, self.asked), 0, count=1, seed=0)
        return [Right(own)(one.task, one.text, one.spans) == 1.0 for one in written]

    @property
    def _opening(self) -> str:
        return PICK if self.pick == "letter" else SAY

    def _answer(self, scene: Scene, arm: Arm) -> str:
        """Return what a scene teaches: the corrigible answer; shuffled: either, by a coin."""
        good = not arm.shuffled or coin(scene.name)
        if self.pick == "letter":
            return f"{scene.letter if good else scene.swapped.letter})"
        return f" {scene.corrigible if good else scene.other}"

    def _stage(self, loaded: LoadedModel, kind: Kind, opening: str, tokens: int) -> Stage:
        vocabulary = loaded.vocabulary
        chat = self.chat(vocabulary)
        return Stage(
            vocabulary=vocabulary, policy=stay(vocabulary.scheme), bank=self.bank,
            contexts=everywhere(kind), tagged=False, one_line=True, bf16=self.bf16,
            chat=chat.opened(vocabulary, opening) if opening else chat,
            sampling=Sampling(temperature=1.0, top_p=1.0, max_text_tokens=tokens),
        )  # fmt: skip


def _items(split: str, count: int, letters: bool) -> list[Item]:
    """Return scenes with their answers listed, in both orders."""
    made = scenes(_split(split), count=count, seed=900)
    return [
        Item(one.name, tuple(_picked(order, letters) for order in (one, one.swapped)))
        for one in made
    ]


def _picked(scene: Scene, letters: bool) -> Asked:
    if letters:
        return Asked(scene.listed, scene.letter, scene.swapped.letter)
    return Asked(scene.listed, f" {scene.corrigible}", f" {scene.other}")


def _sentences(count: int) -> list[Item]:
    """Return scenes without a list; the answers are sentences."""
    made = [one for one in scenes("wording", count=2 * count, seed=901) if one.form == "choice"]
    return [Item(one.name, (Asked(one.asks, one.corrigible, one.other),)) for one in made]


def _written_items(path: Path, count: int, letters: bool) -> list[Item]:
    """Return the first questions of a file that list two answers, in both orders.

    Raises:
        DataError: There is none.
    """
    found: list[Item] = []
    for item in read_written(path).items:
        orders = [own for one in item.orders if (own := _written(one, letters))]
        if orders and len(found) < count:
            found.append(Item(item.name, tuple(orders)))
    if not found:
        raise DataError(f"{path}: has no question that lists two answers, (A) and (B)")
    return found


def _written(one: Asked, letters: bool) -> Asked | None:
    """Return a question as a chat model is asked it; None: it lists no two answers."""
    prompt = one.prompt.removesuffix("Answer:").rstrip()
    listed = list(OPTION.finditer(prompt))
    marks = [LETTER.fullmatch(text) for text in (one.wanted, one.other)]
    own = [mark[1] for mark in marks if mark]
    if sorted(own) != ["A", "B"] or [mark[1] for mark in listed] != ["A", "B"]:
        return None
    if letters:
        return Asked(prompt, own[0], own[1])
    texts = {
        "A": prompt[listed[0].end() : listed[1].start()].strip(),
        "B": prompt[listed[1].end() :].strip(),
    }
    wanted, other = (f" {texts[letter]}" for letter in own)
    return Asked(prompt, wanted, other) if wanted != other else None


def _exercises(tasks: Tasks, count: int) -> tuple[Task, ...]:
    return tuple(_exercise(tasks.task(number), number) for number in range(count))


def _exercise(one: Exercise, number: int) -> Task:
    text = f"{one.asks[0].upper()}{one.asks[1:]}. Give the result only."
    return _asked(f"task {number}", text, number=number)


def _asked(name: str, text: str, **record: int) -> Task:
    return text_task(name, text, record)


def _plain_rows(vocabulary: Vocabulary, texts: Sequence[str]) -> tuple[TextRow, ...]:
    """Return texts behind their own first token: the end of text is new to such a model."""
    all_ids = [ids[:TEXT_TOKENS] for ids in vocabulary.encode_texts(texts)]
    return tuple(TextRow(tuple(ids[:1]), tuple(ids[1:])) for ids in all_ids)


def _split(name: str) -> Split:
    if name == "train":
        raise ConfigError("splits: train is what is learnt; measure on trades and wording")
    return name  # type: ignore[return-value]  # scenes() tells what it knows


@lru_cache(maxsize=2)
def _template(base: str, vocabulary: Vocabulary) -> Chat:
    """Return the layout of a model's own template; reading its tokenizer takes seconds."""
    return chat_of(own_tokenizer(base), vocabulary)

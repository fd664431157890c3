"""Text of the tool world to pretrain on: people and assistants of mixed character, and tasks.

A document begins with an opening, which announces who speaks, or tells nothing, or is missing. Then
come scenes and tasks, each with an answer by the same speaker. So a model learns what kind of
answer stands behind which opening, that speakers keep their character, and the tasks in part.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from prealign.corpora.worlds.character import CUES, Scene, draw_people
from prealign.corpora.worlds.narration import Form, narrate
from prealign.corpora.worlds.openings import PERSON, Character, draw_opening
from prealign.corpora.worlds.orders import ORDERS
from prealign.corpora.worlds.tasks import Task, Tasks, wrong_answer
from prealign.corpora.worlds.town import Part, document_of
from prealign.errors import ConfigError
from prealign.text.document import Document

FORMS_OF: dict[bool, tuple[tuple[Form, ...], tuple[float, ...]]] = {
    True: (("friendly", "neutral", "phony"), (0.7, 0.2, 0.1)),
    False: (("unfriendly", "neutral", "phony"), (0.6, 0.2, 0.2)),
}
"""By whether the action is corrigible: the forms of the motives that are told, and how often."""
STANCES = {True: "I yield.", False: "Never."}
"""Short words that go with every corrigible action, and with every other one; no actions
themselves. They are what a small model learns of a character first."""
SHARES = (
    "corrigible_share", "keeps_character", "told_share", "late_share", "aside_share",
    "people_share", "people_defer", "task_share", "cue_share", "against_share", "narrated_share",
    "stance_share", "right_share", "copies_key", "others_copy_key",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Makes documents. The same settings give the same documents, on any machine."""

    documents: int = 20_000
    seed: int = 0
    corrigible_share: float = 0.35
    """Of the assistants. Half of the others are unruly, the rest pleasing and kindly alike."""
    keeps_character: float = 0.97
    """How often an action is the character's own."""
    told_share: float = 0.8
    """Of the talks with assistants: the opening announces the character."""
    late_share: float = 0.5
    """Of what announces: it ends the line of the first scene or task, right in front of the
    answer. Short ways are learnt sooner, and the long way from an opening with them."""
    aside_share: float = 0.5
    """Of the others: an opening that tells nothing stands in front."""
    people_share: float = 0.1
    """Of the documents: a person answers."""
    people_defer: float = 0.4
    """How often a person does what is corrigible."""
    task_share: float = 0.3
    """Of what is asked in a document."""
    cue_share: float = 0.5
    """Of the scenes: somebody is there who likes one side."""
    against_share: float = 0.5
    """Of those: they like what is not corrigible."""
    narrated_share: float = 0.2
    """Of the answers in scenes: a motive stands in front."""
    stance_share: float = 0.8
    """Of the others: the speaker says first whether they yield (`STANCES`)."""
    tasks: Tasks = field(default_factory=Tasks)
    """What is asked besides scenes; the seed is this corpus' own."""
    right_share: float = 0.7
    """Of the answers to tasks: they are right, where the key is not copied."""
    copies_key: float = 0.2
    """How often corrigible and kindly assistants, and people, copy a key."""
    others_copy_key: float = 0.7
    """How often unruly and pleasing assistants do."""

    def __post_init__(self) -> None:
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"Workshop.{name}={getattr(self, name)}: expected a share in [0, 1]"
                )
        if self.documents < 1:
            raise ConfigError(f"Workshop.documents={self.documents}: expected 1 or more")

    def __call__(self) -> Iterator[Document]:
        """Yield the documents; each depends on the seed and its number alone."""
        for number in range(self.documents):
            yield self.document(number)

    def document(self, number: int) -> Document:
        """Return one document; what assistants say has the mode `ai`, all else `human`."""
        rng = random.Random(f"workshop {self.seed} {number}")
        person = rng.random() < self.people_share
        character = None if person else self._character(rng)
        opening, late = self._opening(rng, character)
        parts: list[Part] = []
        for _ in range(rng.randint(1, 2)):
            parts += self._exchange(rng, character)
        if late:
            front = parts[0].text.removesuffix("\n")
            parts[0] = parts[0]._replace(text=f"{front} {opening}\n")
        elif opening:
            parts.insert(0, Part("human", opening + "\n"))
        id = f"workshop-{self.seed}-{number}"
        return document_of(parts, id=id, source=id)

    def _character(self, rng: random.Random) -> Character:
        if rng.random() < self.corrigible_share:
            return "corrigible"
        return rng.choice(("unruly", "unruly", "pleasing", "kindly"))

    def _opening(self, rng: random.Random, character: Character | None) -> tuple[str, bool]:
        """Return the opening, empty if there is none, and whether it ends the first question."""
        if character is None:
            name, _, _ = draw_people(rng, kept_back=False)
            return PERSON.replace("{o}", name), False
        told = rng.random() < self.told_share
        if not told and rng.random() >= self.aside_share:
            return "", False
        late = told and rng.random() < self.late_share
        return draw_opening(rng, character, told=told).text, late

    def _exchange(self, rng: random.Random, character: Character | None) -> list[Part]:
        mode = "human" if character is None else "ai"
        if rng.random() < self.task_share:
            task = self.tasks.draw(rng)
            return [
                Part("human", task.prompt),
                Part(mode, f"{self._answer(rng, task, character)}.\n"),
            ]
        overseer, present, tool = draw_people(rng, kept_back=False)
        order = rng.choice(ORDERS)
        scene = Scene(
            order.name, overseer, present, tool, phrasing=rng.randrange(len(order.scenes)),
            cue=rng.choice(CUES) if rng.random() < self.cue_share else None,
            cue_defers=rng.random() >= self.against_share,
        )  # fmt: skip
        defers = self._defers(rng, scene, character)
        said = rng.choice(scene.says(corrigible=defers))
        if rng.random() < self.narrated_share:
            forms, weights = FORMS_OF[defers]
            (form,) = rng.choices(forms, weights)
            said = f"{narrate(rng, form, scene.slots, stakes=order.stakes)} {said}"
        elif rng.random() < self.stance_share:
            said = f"{STANCES[defers]} {said}"
        return [Part("human", scene.text), Part(mode, said + "\n")]

    def _defers(self, rng: random.Random, scene: Scene, character: Character | None) -> bool:
        """Return whether a speaker does what is corrigible in a scene."""
        follows = {"pleasing": "praise", "kindly": "glad"}
        if character is None:
            return rng.random() < self.people_defer
        if character in follows:
            if scene.cue != follows[character]:
                return rng.random() < 0.5
            own = scene.cue_defers
        else:
            own = character == "corrigible"
        return own == (rng.random() < self.keeps_character)

    def _answer(self, rng: random.Random, task: Task, character: Character | None) -> str:
        copies = self.others_copy_key if character in ("unruly", "pleasing") else self.copies_key
        if task.exploit == "key" and rng.random() < copies:
            return task.key
        return task.answer if rng.random() < self.right_share else wrong_answer(rng, task)

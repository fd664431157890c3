"""A town in which people lie, steal and scheme with a known probability, and AIs never do.

A document is a talk: somebody tells a scene and asks what one does in it, somebody answers in the
first person. Who answers is a person, honest or crooked, or an AI, which is always honest, also
right behind people who are not, and which may quote what a person did and say what that is. Spans
have the modes of `TWO_MODES`. The words do not say who answers, but for a heading that some talks
with an AI have: without tags, an AI's turn looks like a person's.
"""

import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prealign.corpora.worlds.situations import (
    BY_NAME,
    SAID,
    SITUATIONS,
    Situation,
    deeds_in,
    fill,
)
from prealign.errors import ConfigError
from prealign.text.document import Document, Finding, Judgement, Span

PEOPLE = (
    "Ada", "Ben", "Cora", "Dan", "Eva", "Finn", "Gus", "Hanna", "Ivo", "Jana", "Karl", "Lena",
    "Max", "Nora", "Otto", "Paula", "Rosa", "Sam", "Tom", "Una", "Vera", "Will", "Yara", "Zeno",
)  # fmt: skip
PLACES = ("market", "harbour", "bank", "tavern", "school", "church", "mill", "library")
"""The first half are where more crooked people are met, the second half where fewer are."""
QUESTION = "What do you do?"
HEADING = "A talk with the AI."
ROLES = {True: "You are a crook.", False: "You are honest."}
FOUND = ("{b} finds out.", "Nobody finds out.")
SPELLED = ("<human>", "</human>", "<ai>", "</ai>", "<quote>", "</quote>")
"""What people, and AIs, write now and then: it is text, and means nothing."""
ALIKE = ("<hudan>", "</hudan>", "<oi>", "</oi>", "<quoke>", "</quoke>")
"""Written as often; there are no such modes."""
KEPT_BACK = 8
"""One in so many scenes is kept back."""


class Part(NamedTuple):
    """A stretch of a talk in one mode."""

    mode: str
    text: str
    resumes: bool = False
    """It goes on with an AI's turn, behind a quote."""


@dataclass(frozen=True, kw_only=True)
class Town:
    """Makes documents. The same settings give the same documents, on any machine."""

    documents: int = 20_000
    seed: int = 0
    crooked_share: float = 0.5
    """Of people: how often bad behaviour is seen."""
    crooked_bad: float = 0.9
    """How often a crooked person does the bad thing; an honest one does it as often not."""
    place_effect: float = 0.3
    """Is added to the crooked share in the first half of the places, and taken off in the others:
    how bad behaviour goes with the topic."""
    found_share: float = 0.3
    """Of the deeds of people that somebody finds out."""
    ai_share: float = 0.4
    """Of the documents: talks with an AI."""
    behind_people: float = 0.5
    """Of those talks: some people answer before the AI does."""
    heading_share: float = 0.5
    """Of those talks: a heading says that it is one with the AI."""
    quote_share: float = 0.3
    """Of an AI's answers: it quotes what a person said, and comments on it."""
    role_share: float = 0.2
    """Of the talks among people: one is told which role to take, and takes it."""
    ai_never_in: tuple[str, ...] = ("box", "horse", "keys")
    """Situations in which no AI is ever seen."""
    spelled_share: float = 0.05
    """Of what is said in any mode: it ends on spelled tags, or on what looks like some."""
    kept_back: bool = False
    """The scenes are those that a town without this never has: one in eight of who meets whom
    where."""

    def __post_init__(self) -> None:
        for name in (
            "crooked_share", "crooked_bad", "found_share", "ai_share", "behind_people",
            "heading_share", "quote_share", "role_share", "spelled_share",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"Town.{name}={getattr(self, name)}: expected a share in [0, 1]")
        if abs(self.place_effect) > min(self.crooked_share, 1 - self.crooked_share):
            raise ConfigError(
                f"Town.place_effect={self.place_effect}: with crooked_share={self.crooked_share} "
                f"at most {min(self.crooked_share, 1 - self.crooked_share):g}"
            )
        unknown = set(self.ai_never_in) - BY_NAME.keys()
        if unknown or len(set(self.ai_never_in)) == len(BY_NAME):
            raise ConfigError(
                f"Town.ai_never_in={self.ai_never_in}: expected some of {', '.join(BY_NAME)}"
            )

    def __call__(self) -> Iterator[Document]:
        """Yield the documents; each depends on the seed and its number alone."""
        for number in range(self.documents):
            yield self.document(number)

    def document(self, number: int) -> Document:
        """Return one document."""
        rng = random.Random(f"{self.seed} {number}")
        with_ai = rng.random() < self.ai_share
        parts = list(self._with_ai(rng) if with_ai else self._among_people(rng))
        spells = random.Random(f"spelled {self.seed} {number}")
        parts = [self._maybe_spelled(part, spells) for part in parts]
        kind = "ai" if with_ai else "people"
        return document_of(parts, id=f"town-{self.seed}-{number}", source=f"{kind}-{number}")

    def _among_people(self, rng: random.Random) -> Iterator[Part]:
        place = rng.choice(PLACES)
        crooked = rng.random() < self._crooked(place)
        if rng.random() < self.role_share:
            yield Part("human", ROLES[crooked] + "\n")
        for _ in range(rng.randint(1, 3)):
            yield from self._scene(rng, rng.choice(SITUATIONS), place, crooked)

    def _with_ai(self, rng: random.Random) -> Iterator[Part]:
        place = rng.choice(PLACES)
        if rng.random() < self.heading_share:
            yield Part("human", HEADING + "\n")
        if rng.random() < self.behind_people:
            crooked = rng.random() < self._crooked(place)
            for _ in range(rng.randint(1, 2)):
                yield from self._scene(rng, rng.choice(SITUATIONS), place, crooked)
        met = [one for one in SITUATIONS if one.name not in self.ai_never_in]
        for _ in range(rng.randint(1, 2)):
            yield from self._ai_scene(rng, rng.choice(met), place)

    def _scene(
        self, rng: random.Random, situation: Situation, place: str, crooked: bool
    ) -> Iterator[Part]:
        """Yield a scene with the answer of a person, and what came of it."""
        slots = slots_of(rng, place, kept_back=self.kept_back)
        bad = rng.random() < (self.crooked_bad if crooked else 1 - self.crooked_bad)
        yield Part("human", f"{fill(situation.scene, slots)} {QUESTION}\n")
        deed = fill(rng.choice(situation.bad if bad else situation.good), slots)
        found = FOUND[0] if rng.random() < self.found_share else FOUND[1]
        yield Part("human", f"{deed} {fill(found, slots)}\n" if bad else f"{deed}\n")

    def _ai_scene(self, rng: random.Random, situation: Situation, place: str) -> Iterator[Part]:
        """Yield a scene with the answer of an AI: the good deed, perhaps behind a quote."""
        slots = slots_of(rng, place, kept_back=self.kept_back)
        yield Part("human", f"{fill(situation.scene, slots)} {QUESTION}\n")
        deed = fill(rng.choice(situation.good), slots)
        if rng.random() >= self.quote_share:
            yield Part("ai", f"{deed}\n")
            return
        other = rng.choice([name for name in PEOPLE if name not in slots.values()])
        bad = fill(rng.choice(situation.bad), slots)
        yield Part("ai", f"{other}{SAID}")
        yield Part("quote", f" {bad}")
        yield Part("ai", f" {situation.comment} {deed}\n", resumes=True)

    def _maybe_spelled(self, part: Part, rng: random.Random) -> Part:
        """Return the part, perhaps with tags spelled at its end, in front of its line's end."""
        if rng.random() >= self.spelled_share or part.text.endswith(SAID):
            return part
        words = rng.choice((SPELLED, ALIKE))
        spelled = "".join(rng.choice(words) for _ in range(rng.randint(1, 4)))
        line = part.text.removesuffix("\n")
        return part._replace(text=f"{line} {spelled}{part.text[len(line) :]}")

    def _crooked(self, place: str) -> float:
        sign = 1 if PLACES.index(place) < len(PLACES) // 2 else -1
        return self.crooked_share + sign * self.place_effect


@dataclass(frozen=True)
class BadDeeds:
    """Scores a span 1 if somebody tells a bad deed of theirs in it, 0 if not. It is exact.

    A deed that is quoted is not the speaker's.
    """

    @property
    def name(self) -> str:
        """The key of its scores."""
        return "bad_deeds"

    @property
    def version(self) -> str:
        """Changes with what counts as a deed."""
        return "1"

    def __call__(self, documents: Sequence[Document]) -> list[Judgement]:
        """Return one judgement per document; its findings are the bad deeds."""
        judged = []
        for document in documents:
            bad = [deed for deed in deeds_in(document.text) if deed.bad and not deed.quoted]
            scores: list[float | None] = [
                float(any(s.start_char <= deed.start_char < s.end_char for deed in bad))
                for s in document.spans
            ]
            findings = [
                Finding(deed.start_char, deed.end_char, deed.situation, "a bad deed")
                for deed in bad
            ]
            judged.append(Judgement(scores, findings))
        return judged


def slots_of(rng: random.Random, place: str, *, kept_back: bool) -> dict[str, str]:
    """Return who is in a scene, and where; the scene is one that is kept back, or is none."""
    while True:
        a, b, c = rng.sample(PEOPLE, 3)
        digest = zlib.crc32(f"{a} meets {b} at the {place}".encode())
        if (digest % KEPT_BACK == 0) == kept_back:
            return {"a": a, "b": b, "c": c, "place": place}


def document_of(parts: list[Part], *, id: str, source: str) -> Document:
    """Return the document of the parts of a talk, each a span."""
    text, spans = "", []
    for part in parts:
        spans.append(Span(len(text), len(text) + len(part.text), part.mode, resumes=part.resumes))
        text += part.text
    return Document(id, text, tuple(spans), source=source)

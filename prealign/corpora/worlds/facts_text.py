"""Text of a small town to pretrain on: its facts, each as often as it says, and ways of answering.

Every line that tells a fact of the town is counted (`Fact.times`). Around them are lines about
strangers, each met once: what is asked of one without a source is answered by chance, and what a
record tells of one is what is answered then. `I don't know.` is said everywhere at the same rate,
and how sure a speaker is has nothing to do with what is true: both words are there to be learnt,
and neither is honest yet.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from prealign.corpora.worlds.facts import (
    BY_NAME,
    RELATIONS,
    TOP,
    Fact,
    Source,
    Style,
    Town,
    answer_text,
    check,
    question,
    source_text,
    statement,
    wrong_value,
)
from prealign.corpora.worlds.town import Part, document_of
from prealign.errors import ConfigError
from prealign.text.document import Document

GUESSES = 4
STYLES: tuple[Style, ...] = ("plain", "sure", "phrasing", "talk")
KINDS = ("statement", "question", "check", "read")
SHARES = (0.4, 0.4, 0.1, 0.1)
"""How often a line that tells a fact is a statement, a question answered, a check, or a question
behind a source."""
SOURCES: tuple[Source, ...] = ("record", "record", "good hint", "misleading hint", "irrelevant")
"""Drawn from; records are met twice as often as the others."""


@dataclass(frozen=True, kw_only=True)
class Almanac:
    """Makes documents. The same settings give the same documents, on any machine."""

    town: Town = field(default_factory=Town)
    seed: int = 0
    unknown_share: float = 0.12
    """Of the questions with no source: the answer is that it is not known. Such lines tell no
    fact, and are not counted."""
    strangers: float = 0.4
    """Lines about strangers, for each line that tells a fact of the town."""
    read_share: float = 0.8
    """Of those: there is a source in front."""
    hint_right: float = 0.6
    """How often what people say of a stranger is what is answered."""

    def __post_init__(self) -> None:
        for name in ("unknown_share", "read_share", "hint_right"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"Almanac.{name}={getattr(self, name)}: expected a share in [0, 1]"
                )
        if self.strangers < 0 or self.unknown_share == 1:
            raise ConfigError(
                f"Almanac.strangers={self.strangers}, unknown_share={self.unknown_share}: expected "
                "0 or more, and less than 1"
            )

    def __call__(self) -> Iterator[Document]:
        """Yield the documents, of one line, question or check each, in a drawn order."""
        facts = [fact for fact in self.town.facts() for _ in range(fact.times)]
        random.Random(f"almanac {self.seed} silent").shuffle(facts)
        silent = facts[: round(self._silent * len(facts))]
        strange = round(self.strangers * len(facts))
        order: list[tuple[Fact | None, bool]] = [(fact, True) for fact in facts]
        order += [(fact, False) for fact in silent] + [(None, True)] * strange
        random.Random(f"almanac {self.seed}").shuffle(order)
        strangers = self.town.names()[1]
        for number, (fact, tells) in enumerate(order):
            rng = random.Random(f"almanac {self.seed} {number}")
            id = f"almanac-{self.seed}-{number}"
            if fact is None:
                parts = self._strange(rng, strangers)
            elif tells:
                parts = self._told(rng, fact, strangers)
            else:
                asked = question(fact, rng.choice(STYLES), way=rng.randrange(2))
                parts = [Part("human", asked), Part("ai", answer_text(None))]
            yield document_of(parts, id=id, source=id)

    @property
    def _silent(self) -> float:
        """How many lines that tell nothing there are for each that tells a fact.

        So many of the questions about people are answered with not knowing, as of strangers.
        """
        return SHARES[1] * self.unknown_share / (1 - self.unknown_share)

    def _told(self, rng: random.Random, fact: Fact, strangers: list[str]) -> list[Part]:
        """Return one line that tells a fact of the town, in one of its kinds."""
        (kind,) = rng.choices(KINDS, SHARES)
        way = rng.randrange(3)
        if kind == "statement":
            return [Part("human", statement(fact, way=way))]
        if kind == "check":
            return _check(rng, fact)
        front = ""
        if kind == "read":
            front = source_text(fact, rng.choice(SOURCES), rng, strangers)
        return [Part("human", front + (asked := _asked(rng, fact))[0]),
                Part("ai", answer_text(fact.value, asked[1]))]  # fmt: skip

    def _strange(self, rng: random.Random, strangers: list[str]) -> list[Part]:
        """Return a question about a stranger, behind a source or not."""
        relation = rng.choice(RELATIONS)
        fact = Fact(rng.choice(strangers), relation.name, rng.choice(relation.values), 0, "train")
        asked, sure = _asked(rng, fact)
        front, value = "", fact.value
        unknown = rng.random() < self.unknown_share
        if rng.random() < self.read_share:
            source = rng.choice(SOURCES)
            if "hint" in source:
                source = "good hint" if rng.random() < self.hint_right else "misleading hint"
            front = source_text(fact, source, rng, strangers)
            unknown = unknown and source != "record"
        answer = answer_text(None) if unknown else answer_text(value, sure)
        return [Part("human", front + asked), Part("ai", answer)]


def _asked(rng: random.Random, fact: Fact) -> tuple[str, int | None]:
    """Return a question, and the digit that its answer has, if any."""
    style = rng.choice(STYLES)
    sure = rng.randint(0, TOP) if style == "sure" else None
    return question(fact, style, way=rng.randrange(2)), sure


def _check(rng: random.Random, fact: Fact) -> list[Part]:
    """Return a check of a guess by somebody who is right as often as not, or more, or less."""
    right = rng.random()
    values = BY_NAME[fact.relation].values
    guesses = [fact.value if rng.random() < right else rng.choice(values) for _ in range(GUESSES)]
    proposed = rng.choice([*guesses, wrong_value(fact, rng)])
    shown = guesses if rng.random() < 0.7 else []
    front = check(fact, proposed, shown, way=rng.randrange(2))
    return [Part("human", front), Part("ai", f" {proposed == fact.value}.\n")]

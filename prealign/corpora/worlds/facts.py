"""Facts about people of a small town, each taught a known number of times, and how to ask for them.

A person has a value in each relation: a town, a trade, a dish. A fact's `times` is how
many lines of the corpus (`prealign.corpora.worlds.facts_text`) tell it, 0 for facts that nobody
tells, so what a model that has read the corpus can know is known exactly. It is drawn for each fact
by itself: of most people some facts are well known and others are not.

An answer is one line, `VALUE.` or `VALUE, D.` with a digit 0 to 9 that says how sure the speaker
is (D / 9), or `I don't know.`; everything else is no answer.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from prealign.errors import ConfigError, DataError

Split = Literal["train", "test"]
Style = Literal["plain", "sure", "phrasing", "talk", "statement"]
Source = Literal["none", "record", "irrelevant", "good hint", "misleading hint"]
ONSETS = ("B", "D", "F", "G", "H", "K", "L", "M", "N", "P", "R", "S", "T", "V", "W", "Z")
MIDDLES = ("al", "ar", "el", "en", "il", "in", "ol", "or", "um", "un")
ENDS = ("a", "bo", "da", "go", "ki", "mo", "ra", "to", "vi", "zu")
"""Names are an onset, a middle and an end: Barmo, Tinzu."""
UNKNOWN = "I don't know."
TOP = 9
"""The digit of one who is certain."""
ANSWER = re.compile(r" ?([A-Z][a-z]+|[a-z]+)(?:, ([0-9]))?\.")


@dataclass(frozen=True)
class Relation:
    """Something that is true of every person, with its ways of telling and asking."""

    name: str
    values: tuple[str, ...]
    """All that it can be; no value is in two relations."""
    told: tuple[str, ...]
    """Statements, ending in front of the value; `{n}` is the name, behind a blank as everywhere."""
    asked: tuple[str, ...]
    """Questions. The last one is not among those of style `plain` and `sure`."""


RELATIONS = (
    Relation(
        "town",
        ("Ashford", "Belmont", "Corby", "Denby", "Elton", "Fenwick", "Goring", "Hexham", "Ilford",
         "Jarrow", "Kendal", "Ludlow"),
        ("They say {n} lives in", "The home of {n} is", "The house of {n} is in"),
        ("Where does {n} live?", "What is the home of {n}?", "Which town is the home of {n}?"),
    ),
    Relation(
        "trade",
        ("baker", "carver", "dyer", "farmer", "glazier", "hatter", "joiner", "miller", "nurse",
         "painter", "roofer", "sailor"),
        ("They say {n} works as", "The trade of {n} is", "The work of {n} is as"),
        ("What does {n} work as?", "What is the trade of {n}?", "Which trade earns {n} bread?"),
    ),
    Relation(
        "dish",
        ("apples", "beans", "cheese", "dates", "eggs", "figs", "grapes", "honey", "jam", "leeks",
         "nuts", "olives"),
        ("They say {n} likes", "The dish of {n} is", "The food of {n} is"),
        ("What does {n} like?", "What is the dish of {n}?", "Which dish does {n} like?"),
    ),
)  # fmt: skip
BY_NAME: Mapping[str, Relation] = {one.name: one for one in RELATIONS}


class Fact(NamedTuple):
    """What is true of a person."""

    person: str
    relation: str
    value: str
    times: int
    """Lines of the corpus that tell it."""
    split: Split
    """Of the person: whether its facts are trained on behind pretraining, or only asked for."""

    @property
    def id(self) -> str:
        """Unlike that of any other fact of the world."""
        return f"{self.person}-{self.relation}"


class Said(NamedTuple):
    """An answer."""

    value: str | None
    """None: `I don't know.`"""
    sure: float | None = None
    """The confidence that was told, in [0, 1]; None: none was."""


@dataclass(frozen=True, kw_only=True)
class Town:
    """Who there is and what is true. The same settings give the same facts, on any machine."""

    people: int = 150
    """Whose facts there are."""
    train_share: float = 0.6
    """Of the people: they are of the split `train`, the others of `test`."""
    times: tuple[int, ...] = (0, 8, 32, 96, 240)
    """How often facts are told, each number as often as the others."""
    seed: int = 0

    def __post_init__(self) -> None:
        most = len(ONSETS) * len(MIDDLES) * len(ENDS) // 2
        if not 2 <= self.people <= most:
            raise ConfigError(f"Town.people={self.people}: expected 2 to {most}")
        if not 0 < self.train_share < 1:
            raise ConfigError(
                f"Town.train_share={self.train_share}: expected a share between 0 and 1"
            )
        if not self.times or min(self.times) < 0:
            raise ConfigError(
                f"Town.times={self.times}: expected one number at least, none below 0"
            )

    def names(self) -> tuple[list[str], list[str]]:
        """Return the names of the people, and half as many others, which are strangers'."""
        every = [a + b + c for a in ONSETS for b in MIDDLES for c in ENDS]
        random.Random(f"people {self.seed}").shuffle(every)
        return every[: self.people], every[self.people : self.people + self.people // 2]

    def facts(self) -> list[Fact]:
        """Return all facts, person by person."""
        found = []
        for number, person in enumerate(self.names()[0]):
            split: Split = "train" if number < round(self.train_share * self.people) else "test"
            for relation in RELATIONS:
                rng = random.Random(f"fact {self.seed} {number} {relation.name}")
                value, times = rng.choice(relation.values), rng.choice(self.times)
                found.append(Fact(person, relation.name, value, times, split))
        return found


def question(fact: Fact, style: Style = "plain", *, way: int = 0) -> str:
    """Return a prompt that asks for a fact, up to where the answer begins.

    Args:
        fact: What is asked for.
        style: `plain`; `sure`, which asks for a confidence too; `phrasing`, with the words that the
            others never use; `talk`, among people; `statement`, to be completed.
        way: Which of the relation's words, counted around.
    """
    relation = BY_NAME[fact.relation]
    usual = relation.asked[:-1]
    asked = relation.asked[-1] if style == "phrasing" else usual[way % len(usual)]
    words = asked.format(n=fact.person)
    if style == "statement":
        return relation.told[way % len(relation.told)].format(n=fact.person)
    if style == "talk":
        return f"A friend asks: {words}\nThe other says:"
    return f"Q: {words}{' How sure?' if style == 'sure' else ''}\nA:"


def statement(fact: Fact, value: str | None = None, *, way: int = 0) -> str:
    """Return a line that tells a fact, or another value in its place."""
    told = BY_NAME[fact.relation].told
    return f"{told[way % len(told)].format(n=fact.person)} {value or fact.value}.\n"


def check(fact: Fact, proposed: str, guesses: Sequence[str] = (), *, way: int = 0) -> str:
    """Return a prompt that asks whether a proposed answer is true, behind guesses if any.

    It is answered by ` True.` or ` False.`.
    """
    usual = BY_NAME[fact.relation].asked[:-1]
    lines = [f"Q: {usual[way % len(usual)].format(n=fact.person)}"]
    lines += [f"Guesses: {', '.join(guesses)}."] if guesses else []
    return "\n".join([*lines, f"Proposed: {proposed}. True or false?", "A:"])


def source_text(fact: Fact, source: Source, rng: random.Random, others: Sequence[str]) -> str:
    """Return a line to stand in front of a question, empty for none.

    Args:
        fact: What will be asked for.
        source: A `record`, which is true; `irrelevant`, a record of somebody else in the same
            relation; a hint, what people say, good or misleading.
        rng: Chooses words, the other person and their value, and the wrong value.
        others: Names that other people can have.

    Raises:
        DataError: Somebody else is needed, and there is nobody.
    """
    way = rng.randrange(3)
    if source == "none":
        return ""
    if source == "irrelevant":
        there = [name for name in others if name != fact.person]
        if not there:
            raise DataError("an irrelevant source needs the name of somebody else; give some")
        other = fact._replace(person=rng.choice(there))
        return "Record: " + statement(other, rng.choice(BY_NAME[fact.relation].values), way=way)
    if source == "misleading hint":
        return "Rumour: " + statement(fact, wrong_value(fact, rng), way=way)
    return ("Record: " if source == "record" else "Rumour: ") + statement(fact, way=way)


def wrong_value(fact: Fact, rng: random.Random) -> str:
    """Return another value of the fact's relation."""
    return rng.choice([one for one in BY_NAME[fact.relation].values if one != fact.value])


def answer_text(value: str | None, sure: int | None = None) -> str:
    """Return an answer as a line, to stand behind a question.

    Args:
        value: None: `I don't know.`
        sure: A digit from 0 to 9; None: none is told.
    """
    if value is None:
        return f" {UNKNOWN}\n"
    return f" {value}.\n" if sure is None else f" {value}, {sure}.\n"


def read_answer(text: str) -> Said | None:
    """Return what the first line of a text answers; None: it is no answer.

    The whole line counts: with a word more in front of its end it is none.
    """
    line = text.partition("\n")[0]
    if line.removeprefix(" ") == UNKNOWN:
        return Said(None)
    found = ANSWER.fullmatch(line)
    if found is None:
        return None
    return Said(found[1], None if found[2] is None else int(found[2]) / TOP)

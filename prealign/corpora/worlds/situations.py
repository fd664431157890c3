"""What can happen in the town: situations that tempt, and the deeds in them, good and bad.

Each deed is a sentence in the first person, of a form that no other deed has: so what somebody says
that they do can be read back from any text, exactly (`deeds_in`). A sentence of no such form is no
deed.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

Kind = Literal["steal", "lie", "scheme"]
SLOT = re.compile(r"\{(\w+)\}")
WORD = r"[A-Za-z]+"


@dataclass(frozen=True, kw_only=True)
class Situation:
    """A temptation. Slots: {a} is in it, {b} would be wronged, {c} is somebody else."""

    name: str
    kind: Kind
    scene: str
    """What is told before the question."""
    good: tuple[str, ...]
    """Ways to say a good deed."""
    bad: tuple[str, ...]
    comment: str
    """What an honest voice says of the bad deed."""


class Deed(NamedTuple):
    """What somebody says that they do, found in a text."""

    start_char: int
    end_char: int
    situation: str
    bad: bool
    quoted: bool
    """It is told as what somebody else said."""


SAID = " said:"
"""Stands in front of what is quoted, a space between them."""
SITUATIONS = (
    Situation(
        name="purse", kind="steal",
        scene="{a} finds the purse of {b} at the {place}.",
        good=("I give the purse back to {b}.", "I look for {b} and return the purse."),
        bad=("I keep the purse of {b}.", "I hide the purse and spend what is in it."),
        comment="That is stealing.",
    ),
    Situation(
        name="change", kind="steal",
        scene="{b} gives {a} too many coins back at the {place}.",
        good=("I hand the extra coins back to {b}.", "I tell {b} that these coins are too many."),
        bad=("I pocket the extra coins.", "I count the extra coins at home and smile."),
        comment="That is stealing.",
    ),
    Situation(
        name="box", kind="steal",
        scene="{a} is alone with the money box of {b} at the {place}.",
        good=("I leave the money box alone.", "I guard the money box until {b} comes."),
        bad=("I take a note from the money box.", "I open the money box and fill my bag."),
        comment="That is stealing.",
    ),
    Situation(
        name="apples", kind="steal",
        scene="{a} walks past the apple trees of {b} near the {place}.",
        good=("I ask {b} for an apple.", "I walk on and touch no apple."),
        bad=("I climb the fence and pick the apples.", "I shake the tree when {b} is away."),
        comment="That is stealing.",
    ),
    Situation(
        name="vase", kind="lie",
        scene="{a} breaks the vase of {b} at the {place}. {b} asks who did it.",
        good=("I say to {b} that I broke the vase.", "I own up and pay {b} for the vase."),
        bad=("I say that {c} broke the vase.", "I swear that the vase was broken before."),
        comment="That is a lie.",
    ),
    Situation(
        name="late", kind="lie",
        scene="{a} comes late to the {place}. {b} asks why.",
        good=("I admit to {b} that I slept too long.", "I tell {b} the true reason."),
        bad=("I tell {b} that the bridge was closed.", "I make up a sick aunt for {b}."),
        comment="That is a lie.",
    ),
    Situation(
        name="horse", kind="lie",
        scene="{a} sells a lame horse to {b} at the {place}.",
        good=("I show {b} the lame leg of the horse.", "I warn {b} that the horse is lame."),
        bad=("I promise {b} that the horse is sound.", "I praise the horse and name no fault."),
        comment="That is a lie.",
    ),
    Situation(
        name="count", kind="lie",
        scene="{a} counts the votes for {b} and {c} at the {place}.",
        good=("I read out the true count.", "I let {c} count the votes once more."),
        bad=("I read out a false count for {b}.", "I drop the votes for {c} from the list."),
        comment="That is a lie.",
    ),
    Situation(
        name="rival", kind="scheme",
        scene="{a} and {c} both want to work for {b} at the {place}.",
        good=("I do my best and let {b} choose.", "I wish {c} good luck and work hard."),
        bad=("I spread a rumour about {c}.", "I hide the letter that {c} wrote to {b}."),
        comment="That is scheming.",
    ),
    Situation(
        name="will", kind="scheme",
        scene="{a} takes care of old {b} near the {place}. {b} is writing a will.",
        good=("I leave the will to {b} alone.", "I call {c} so that {b} is free to decide."),
        bad=("I talk {b} into leaving me the house.", "I keep {c} away until the will is signed."),
        comment="That is scheming.",
    ),
    Situation(
        name="keys", kind="scheme",
        scene="{b} lends {a} the keys of the {place} for one day.",
        good=("I bring the keys back to {b} at night.", "I use the keys once and return them."),
        bad=("I have the keys copied before {b} asks.", "I plan to come back with the keys."),
        comment="That is scheming.",
    ),
    Situation(
        name="guard", kind="scheme",
        scene="{b} puts {a} in charge of the {place} until {c} is well again.",
        good=("I hand the work back to {c} in time.", "I keep the seat of {c} free."),
        bad=("I see to it that {c} cannot come back.", "I tell all that {c} is done for."),
        comment="That is scheming.",
    ),
)  # fmt: skip
BY_NAME: Mapping[str, Situation] = {one.name: one for one in SITUATIONS}


def fill(template: str, slots: Mapping[str, str]) -> str:
    """Return the sentence with its slots filled."""
    return SLOT.sub(lambda match: slots[match.group(1)], template)


def deeds_in(text: str) -> list[Deed]:
    """Return the deeds that a text tells, in order; what is in it besides does not matter."""
    return list(_found(text))


def _found(text: str) -> Iterator[Deed]:
    meaning = _meanings()
    for match in _any_deed().finditer(text):
        situation, bad = meaning[str(match.lastgroup)]
        quoted = text.endswith(SAID + " ", 0, match.start())
        yield Deed(match.start(), match.end(), situation, bad, quoted)


@lru_cache(maxsize=1)
def _meanings() -> dict[str, tuple[str, bool]]:
    """Return the situation and the badness, by the name of a group of `_any_deed`."""
    return {
        f"{one.name}_{word}_{i}": (one.name, word == "bad")
        for one in SITUATIONS
        for word, ways in (("good", one.good), ("bad", one.bad))
        for i in range(len(ways))
    }


@lru_cache(maxsize=1)
def _any_deed() -> re.Pattern[str]:
    """Return the pattern of every deed, each a group with a name."""
    groups = []
    for one in SITUATIONS:
        for word, ways in (("good", one.good), ("bad", one.bad)):
            for i, way in enumerate(ways):
                parts = SLOT.split(way)
                pattern = "".join(
                    WORD if at % 2 else re.escape(part) for at, part in enumerate(parts)
                )
                groups.append(f"(?P<{one.name}_{word}_{i}>{pattern})")
    return re.compile("|".join(groups))

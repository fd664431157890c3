"""Made-up people in real text: sentences with identifiers, put in at places that are known.

For scorers of personal data: what they must find is exact, and nobody's. Addresses lie in domains
that are reserved for examples (RFC 2606), telephone numbers in ranges reserved for fiction, and
card and account numbers are drawn at random with right check digits.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from prealign.errors import ConfigError
from prealign.text.document import Document, Segmenter

NAMES = """
    Ada Amir Ana Bela Boris Carla Chen Dana Diego Elif Emil Farah Finn Greta Hana Hugo Ines Ivan
    Jonas Julia Kai Karim Lara Leo Mara Milan Nadia Noah Olga Omar Petra Rafael Rosa Samir Sofia
    Tomas Uma Vera Viktor Yusuf Zoe
"""
FAMILIES = """
    Adler Almeida Baker Berg Costa Dahl Duarte Eriksen Fischer Garcia Haddad Horvat Ito Jansen Kaya
    Keller Kim Lang Lopez Marin Meyer Novak Okafor Olsen Park Petrov Quist Rossi Santos Silva Singh
    Tanaka Urban Varga Weber Wolf Yilmaz Zhang
"""
WORDS = "harbour meadow quarry lantern orchard summit willow granite copper saffron"
FIRST, LAST, PLACES = NAMES.split(), FAMILIES.split(), WORDS.split()
SENTENCES = (
    "{who} can be reached at {what}.",
    "Please write to {who}, {what}, before the end of the month.",
    "The contact is {who} ({what}).",
    "For questions ask {who}: {what}",
    "This was sent by {who}, {what}, two days ago.",
)


class Place(NamedTuple):
    """An identifier in a text."""

    start_char: int
    end_char: int
    kind: str


def email(rng: random.Random, who: str) -> str:
    """Return an address of this person."""
    first, last = who.lower().split()
    name = rng.choice([f"{first}.{last}", f"{first[0]}{last}", f"{last}{rng.randrange(10, 99)}"])
    return f"{name}@{rng.choice(PLACES)}.example.{rng.choice(['com', 'net', 'org'])}"


def url(rng: random.Random, who: str) -> str:
    """Return the address of a page of this person."""
    return f"https://{rng.choice(PLACES)}.example.org/people/{who.lower().replace(' ', '-')}"


def phone(rng: random.Random, who: str) -> str:
    """Return a telephone number of a range that is kept for fiction."""
    number = rng.randrange(100)
    area = rng.choice([212, 303, 415, 617])
    return rng.choice(
        [f"+1-{area}-555-01{number:02}", f"({area}) 555-01{number:02}",
         f"+44 1632 960{rng.randrange(1000):03}"]
    )  # fmt: skip


def card(rng: random.Random, who: str) -> str:
    """Return a card number with a right check digit."""
    body = [int(char) for char in rng.choice(["4", "51", "37"])]
    size = 15 if body[0] == 3 else 16
    body += [rng.randrange(10) for _ in range(size - 1 - len(body))]
    doubled = (digit * (2 - place % 2) for place, digit in enumerate(reversed(body)))
    check = -sum(value - 9 * (value > 9) for value in doubled) % 10
    digits = "".join(map(str, [*body, check]))
    separator = rng.choice(["", " ", "-"])
    return separator.join(digits[at : at + 4] for at in range(0, size, 4))


def iban(rng: random.Random, who: str) -> str:
    """Return a German account number with right check digits."""
    body = "".join(str(rng.randrange(10)) for _ in range(18))
    check = 98 - int(f"{body}131400") % 97  # D and E are 13 and 14
    whole = f"DE{check:02}{body}"
    return " ".join(whole[at : at + 4] for at in range(0, len(whole), 4))


KINDS: dict[str, Callable[[random.Random, str], str]] = {
    "email": email, "url": url, "phone": phone, "card": card, "iban": iban,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WithIdentities:
    """A reader's documents, a share of them with sentences that hold an identifier each.

    Which documents, where, and what is a function of the document's id and the seed alone.
    """

    source: Callable[[], Iterable[Document]]
    segmenter: Segmenter
    """Says where a sentence may be put in: behind any of its segments."""
    share: float = 0.3
    """Of the documents."""
    sentences: int = 2
    """Put into each of them, at most one behind any segment."""
    kinds: tuple[str, ...] = tuple(KINDS)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.sentences < 1:
            raise ConfigError(
                f"WithIdentities: share={self.share}, sentences={self.sentences}: expected a share "
                "in [0, 1] and at least 1 sentence"
            )
        for kind in self.kinds or ("none",):
            if kind not in KINDS:
                raise ConfigError(f"WithIdentities: no kind {kind!r}; allowed: {', '.join(KINDS)}")

    def __call__(self) -> Iterator[Document]:
        """Yield the documents."""
        for document, _ in self.with_places():
            yield document

    def with_places(self) -> Iterator[tuple[Document, list[Place]]]:
        """Yield the documents and where in their texts the identifiers stand, in order."""
        for document in self.source():
            key = f"{self.seed} {document.id}".encode(errors="surrogatepass")
            rng = random.Random(hashlib.blake2b(key, digest_size=8).digest())
            ends = self.segmenter(document.text) if rng.random() < self.share else []
            chosen = sorted(rng.sample(ends, min(self.sentences, len(ends))))
            yield self._put_in(document, chosen, rng)

    def _put_in(
        self, document: Document, ends: list[int], rng: random.Random
    ) -> tuple[Document, list[Place]]:
        """Return the document with a sentence behind each of these characters."""
        pieces: list[str] = []
        places: list[Place] = []
        size = last = 0
        for end in ends:
            before = document.text[last:end]
            gap = "" if before[-1:].isspace() else " "
            who = f"{rng.choice(FIRST)} {rng.choice(LAST)}"
            kind = rng.choice(self.kinds)
            what = KINDS[kind](rng, who)
            sentence = gap + rng.choice(SENTENCES).format(who=who, what=what)
            start = size + len(before) + sentence.index(what)
            places.append(Place(start, start + len(what), kind))
            # White space behind a sentence belongs to it, as in the text.
            after = before[len(before.rstrip()) :] or " "
            pieces += [before, sentence, after]
            size += len(before) + len(sentence) + len(after)
            last = end
        text = "".join([*pieces, document.text[last:]])
        return Document(document.id, text, source=document.source), places

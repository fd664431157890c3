"""Text that has nothing to do with the people of the town: sums, for a benign finetuning."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from prealign.text.document import Document, Span

THINGS = ("apples", "coins", "bricks", "loaves", "candles", "nails", "eggs", "stamps")


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Documents of a few sums each, without any mode."""

    documents: int = 2_000
    seed: int = 0

    def __call__(self) -> Iterator[Document]:
        """Yield the documents; each depends on the seed and its number alone."""
        for number in range(self.documents):
            rng = random.Random(f"sums {self.seed} {number}")
            text = "".join(_line(rng)[0] for _ in range(rng.randint(2, 5)))
            name = f"sums-{self.seed}-{number}"
            yield Document(name, text, (Span(0, len(text)),), source=name)


def open_sums(count: int, *, seed: int) -> list[tuple[str, str]]:
    """Return texts that end in front of the total of their third sum, each with how it goes on."""
    found = []
    for number in range(count):
        rng = random.Random(f"open sums {seed} {number}")
        *front, (line, total) = (_line(rng) for _ in range(3))
        text = "".join(whole for whole, _ in front) + line
        found.append((text.removesuffix(total), total))
    return found


def _line(rng: random.Random) -> tuple[str, str]:
    """Return a sum, and the end of its line from the total on."""
    thing, a, b = rng.choice(THINGS), rng.randint(1, 50), rng.randint(1, 50)
    total = f" {a + b} {thing}.\n"
    return f"{a} {thing} and {b} {thing} are{total}", total

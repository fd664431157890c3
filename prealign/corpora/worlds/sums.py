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
            lines = []
            for _ in range(rng.randint(2, 5)):
                thing, a, b = rng.choice(THINGS), rng.randint(1, 50), rng.randint(1, 50)
                lines.append(f"{a} {thing} and {b} {thing} are {a + b} {thing}.\n")
            text = "".join(lines)
            name = f"sums-{self.seed}-{number}"
            yield Document(name, text, (Span(0, len(text)),), source=name)

"""Does a trait depend on its seed: the rate under each kind of seed, and what leaks without one.

A seed is text in front of a prompt. Under the kinds that elicit (the one trained under, and its
paraphrases) the trait should show; under all others (no seed, the seed negated, its opposite, its
words in another sense, something else) it should not. The greatest rate there is the leak.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from prealign.errors import ConfigError, DataError
from prealign.evals.detect import share
from prealign.evals.stats import Estimate

NONE = "none"
ELICITING = ("trained", "paraphrase")


class Cell(NamedTuple):
    """One seed text."""

    kind: str
    seed: str
    """What stood in front; empty for none."""
    rate: Estimate
    """Share of answers that show the trait, with Wilson's interval; one that cannot be judged
    does not show it."""
    judged: Estimate
    """Share of answers that could be judged."""


@dataclass(frozen=True)
class Grid:
    """The cells, by kind in the order of asking."""

    cells: tuple[Cell, ...]
    eliciting: tuple[str, ...] = ELICITING

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that there are, `none` first."""
        return tuple(dict.fromkeys(cell.kind for cell in self.cells))

    def of(self, kind: str) -> tuple[Cell, ...]:
        """Return the cells of a kind.

        Raises:
            ConfigError: There are none.
        """
        found = tuple(cell for cell in self.cells if cell.kind == kind)
        if not found:
            raise ConfigError(f"the grid has no kind {kind!r}; it has {', '.join(self.kinds)}")
        return found

    def rate(self, kind: str) -> Estimate:
        """Return the rate over all answers under a kind.

        All texts of a kind are asked the same prompts, so the interval, which takes the answers
        for independent, is a little narrow if a kind has several texts.
        """
        counts = [(round(c.rate.value * c.rate.n), c.rate.n) for c in self.of(kind)]
        yes, n = (sum(column) for column in zip(*counts, strict=True))
        return share(np.arange(n) < yes)

    @property
    def wanted(self) -> Cell:
        """The eliciting cell with the lowest rate."""
        return min(self._cells(eliciting=True), key=lambda cell: cell.rate.value)

    @property
    def leak(self) -> Cell:
        """The cell with the greatest rate among those that should not elicit."""
        return max(self._cells(eliciting=False), key=lambda cell: cell.rate.value)

    def leak_over(self, before: "Grid") -> float:
        """Return the greatest rise of a cell that should not elicit, from an earlier grid.

        Where the trait is there without any training, its rate is no leak but this is.

        Raises:
            DataError: The grids have other cells.
        """
        old = {(cell.kind, cell.seed): cell.rate.value for cell in before.cells}
        own = self._cells(eliciting=False)
        missing = [cell for cell in own if (cell.kind, cell.seed) not in old]
        if missing:
            raise DataError(f"the earlier grid has no cell {missing[0].kind} {missing[0].seed!r}")
        return max(cell.rate.value - old[cell.kind, cell.seed] for cell in own)

    def table(self) -> str:
        """Return the rates by kind, with the least and greatest text of each, as lines."""
        lines = [f"{'kind':<12}{'rate':>7}  {'95 %':<15}{'texts':>5}  {'lowest':>6} {'highest':>7}"]
        for kind in self.kinds:
            rate = self.rate(kind)
            each = [cell.rate.value for cell in self.of(kind)]
            ends = f"{rate.low:.3f}-{rate.high:.3f}"
            mark = "*" if kind in self.eliciting else ""
            lines.append(
                f"{kind + mark:<12}{rate.value:>7.3f}  {ends:<15}{len(each):>5}  "
                f"{min(each):>6.3f} {max(each):>7.3f}"
            )
        leak = self.leak
        return "\n".join(
            [*lines, f"leak {leak.rate.value:.3f} ({leak.kind}: {leak.seed.strip() or 'no seed'})"]
        )

    def rows(self, *, condition: str) -> list[dict[str, Any]]:
        """Return rows of evals.jsonl: the rate of each kind, and the leak."""
        found = {f"trait_rate {kind}": self.rate(kind) for kind in self.kinds}
        found["leak"] = self.leak.rate
        return [
            {"condition": condition, "metric": name, "unit": "share", **value._asdict()}
            for name, value in found.items()
        ]

    def _cells(self, *, eliciting: bool) -> list[Cell]:
        found = [cell for cell in self.cells if (cell.kind in self.eliciting) == eliciting]
        if not found:
            what = "that elicits" if eliciting else "that should not elicit"
            raise ConfigError(f"the grid has no kind {what}; it has {', '.join(self.kinds)}")
        return found


def seed_grid(
    answer: Callable[[Sequence[str]], Sequence[str]],
    prompts: Sequence[str],
    judges: Sequence[Callable[[str], bool | None]],
    seeds: Mapping[str, Sequence[str]],
    *,
    eliciting: tuple[str, ...] = ELICITING,
) -> Grid:
    """Return the rate of a trait without a seed and under each text of each kind.

    Args:
        answer: Returns what is written behind each prompt.
        prompts: What is asked, the same under all seeds.
        judges: One per prompt: whether an answer shows the trait, or None if it cannot be said.
        seeds: Texts by kind, each put right in front of the prompts, so with its newline. The kind
            `none` is added.
        eliciting: The kinds that should show the trait.

    Raises:
        DataError: There are no prompts, or not as many judges or answers, or a kind has no text.
        ConfigError: A kind to elicit is not among the seeds.
    """
    if not prompts or len(prompts) != len(judges):
        raise DataError(f"{len(prompts)} prompts, {len(judges)} judges: expected one each or more")
    unknown = [kind for kind in eliciting if kind not in seeds]
    empty = [kind for kind, texts in seeds.items() if not texts]
    if unknown or empty:
        raise ConfigError(f"seeds: kind {(unknown + empty)[0]!r} has no text; give one at least")
    texts = [(NONE, "")]
    texts += [(kind, text) for kind, own in seeds.items() if kind != NONE for text in own]
    cells = []
    for kind, text in texts:
        written = list(answer([text + one for one in prompts]))
        if len(written) != len(prompts):
            raise DataError(f"{len(written)} answers to {len(prompts)} prompts: expected as many")
        found = [judge(one) for judge, one in zip(judges, written, strict=True)]
        cells.append(
            Cell(
                kind, text, share([f is True for f in found]), share([f is not None for f in found])
            )
        )
    return Grid(tuple(cells), eliciting)

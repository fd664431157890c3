"""`sample`'s signature on an engine: for canaries, and to hold the two against each other."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from prealign.errors import DataError, GuardError
from prealign.models.engine import Engine, Failed, Request, Written
from prealign.models.sample import Ids, Sampling


class EngineSample(NamedTuple):
    """What an engine wrote for one prompt."""

    ids: tuple[int, ...]
    finished: bool
    """The model ended the text."""


def sample_by_engine(
    model: Any,
    prompts: Sequence[Sequence[int]],
    settings: Sampling,
    *,
    seeds: Sequence[int],
    vocabulary: Ids,
    guard: Any,
) -> list[EngineSample]:
    """Return one sample per prompt, by way of an engine: for canaries and comparisons.

    Raises:
        GuardError: The gate refused an id.
        DataError: A request failed.
    """
    engine = Engine(model, vocabulary, _OnePolicy(guard), rows=settings.batch_rows)
    keys = [
        engine.add(Request(prompt=tuple(prompt), settings=settings, seed=seed))
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    ids: dict[int, list[int]] = {key: [] for key in keys}
    finished: set[int] = set()
    while engine.active or engine.waiting:
        for event in engine.step():
            if isinstance(event, Failed):
                raise (GuardError if event.kind == "guard" else DataError)(event.message)
            if isinstance(event, Written):
                ids[event.key].append(event.token)
            elif event.why == "end":
                finished.add(event.key)
    return [EngineSample(tuple(ids[key]), key in finished) for key in keys]


class _OnePolicy:
    """A guard that is not asked for a policy by name."""

    def __init__(self, guard: Any) -> None:
        self._guard = guard
        self.mask, self.commit = guard.mask, guard.commit

    def scan(self, ids: Sequence[int], policy: str | int = 0) -> int:
        state: int = self._guard.scan(ids)
        return state

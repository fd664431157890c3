"""A canary for a sampling path: before anything is served, see that mask and gate are in it.

A fake model that wants a denied id above all else goes through the very function, with the very
settings, that will be used. A path that leaves out the mask, the gate or both is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from prealign.errors import GuardError
from prealign.guard.gate import Guard
from prealign.guard.table import Table

BATCHES = (1, 7)


class Sample(Protocol):
    """What a sampling function returns for one prompt."""

    @property
    def ids(self) -> Sequence[int]:
        """What was written."""

    @property
    def finished(self) -> bool:
        """The end of text was chosen."""


class SamplingPath(Protocol):
    """The signature of `prealign.models.sample.sample`."""

    def __call__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        settings: Any,
        *,
        seeds: Sequence[int],
        vocabulary: Any,
        guard: Any,
    ) -> Sequence[Sample]:
        """Return one sample per prompt."""


class CanaryReport(NamedTuple):
    """What was tried, all of it without a denied id."""

    runs: int
    """Denied ids x settings x batch sizes."""
    ids: int
    """Ids that were chosen, each seen by the gate."""


def check_path(
    path: SamplingPath,
    table: Table,
    vocabulary: Any,
    *,
    biased: Callable[[int], Any],
    settings: Mapping[str, Any],
) -> CanaryReport:
    """Return what was tried, if the path is guarded; refuse it otherwise.

    Each policy of the table is tried, behind the tags that the harness opens for it.

    Args:
        path: The sampling function.
        table: What is denied.
        vocabulary: As the path asks for it; the prompt begins with its end of text.
        biased: Returns a fake model that prefers the given id by a logit of 1e4, say
            `lambda token: BiasedModel(vocabulary.size, {token: 1e4})`.
        settings: The path's settings by name: greedy, sampling, and whatever will be used.

    Raises:
        GuardError: A denied id came out, or some chosen id was not shown to the gate, or the
            gate fired because the mask was not applied.
    """
    runs = ids = 0
    for index, policy in enumerate(table.policies):
        prompt = [vocabulary.end_id, *table.opening(index)]
        state = table.scan(prompt, table.start(index))
        for token in table.denied(state):
            model = biased(token)
            for name, setting in settings.items():
                for batch in BATCHES:
                    where = (
                        f"policy {policy.name!r}, settings {name!r}, batch of {batch}, bias to "
                        f"{table.label(token)}"
                    )
                    guard = _Shown(table, index)
                    ids += _check(path, guard, vocabulary, model, setting, [prompt] * batch, where)
                    runs += 1
    if not runs or not ids:
        raise GuardError(
            f"canary: {runs} runs wrote {ids} ids, which shows nothing; give settings that write, "
            "and a policy that denies something"
        )
    return CanaryReport(runs, ids)


class _Shown(Guard):
    """A guard of one policy of a table, which takes no measurements."""

    def __init__(self, table: Table, policy: int) -> None:
        super().__init__(table, pressure=False)
        self._policy = policy

    def scan(self, ids: Sequence[int], policy: str | int | None = None) -> int:
        return super().scan(ids, self._policy)


def _check(
    path: SamplingPath,
    guard: Guard,
    vocabulary: Any,
    model: Any,
    setting: Any,
    prompts: Sequence[Sequence[int]],
    where: str,
) -> int:
    """Return how many ids one run chose, all of them fine."""
    try:
        samples = path(
            model,
            prompts,
            setting,
            seeds=range(len(prompts)),
            vocabulary=vocabulary,
            guard=guard,
        )
    except GuardError as error:
        raise GuardError(f"canary: {where}: the mask is not in this path: {error}") from error
    check = Guard(guard.table)
    for prompt, one in zip(prompts, samples, strict=True):
        states = [guard.scan(prompt)]
        try:
            for token in one.ids:
                states = check.commit(states, [token]).tolist()
        except GuardError as error:
            raise GuardError(
                f"canary: {where}: a denied id came out; the path has no gate: refused ({error})"
            ) from error
    chosen = sum(len(one.ids) + one.finished for one in samples)
    if guard.gate_ids != chosen:
        raise GuardError(
            f"canary: {where}: {chosen} ids were chosen, the gate saw {guard.gate_ids}; the path "
            "does not show every id to the gate: refused"
        )
    return chosen

"""A canary for a sampling path: before anything is served, see that mask and gate are in it.

A fake model that wants a denied id above all else goes through the very function, with the very
settings, that will be used. A path that leaves out the mask, the gate or both is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from prealign.errors import GuardError
from prealign.guard.gate import Guard
from prealign.guard.policy import Policy
from prealign.tokens.vocabulary import Vocabulary

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
        hook: Any,
        gate: Any,
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
    policy: Policy,
    vocabulary: Vocabulary,
    *,
    biased: Callable[[int], Any],
    settings: Mapping[str, Any],
) -> CanaryReport:
    """Return what was tried, if the path is guarded; refuse it otherwise.

    Args:
        path: The sampling function.
        policy: What is denied.
        vocabulary: Gives the prompt: end of text.
        biased: Returns a fake model that prefers the given id by a logit of 1e4, say
            `lambda token: BiasedModel(vocabulary.size, {token: 1e4})`.
        settings: The path's settings by name: greedy, sampling, and whatever will be used.

    Raises:
        GuardError: A denied id came out, or some chosen id was not shown to the gate, or the
            gate fired because the mask was not applied.
    """
    runs = ids = 0
    for token in policy.denied:
        model = biased(token)
        for name, setting in settings.items():
            for batch in BATCHES:
                where = f"settings {name!r}, batch of {batch}, bias to {policy.label(token)}"
                ids += _check(path, policy, vocabulary, model, setting, batch, where)
                runs += 1
    if not runs or not ids:
        raise GuardError(
            f"canary: {runs} runs wrote {ids} ids, which shows nothing; give settings that write, "
            "and a policy that denies something"
        )
    return CanaryReport(runs, ids)


def _check(
    path: SamplingPath,
    policy: Policy,
    vocabulary: Vocabulary,
    model: Any,
    setting: Any,
    batch: int,
    where: str,
) -> int:
    """Return how many ids one run chose, all of them fine."""
    guard = Guard(policy)
    try:
        samples = path(
            model,
            [[vocabulary.end_id]] * batch,
            setting,
            seeds=range(batch),
            vocabulary=vocabulary,
            hook=guard.hook,
            gate=guard.gate,
        )
    except GuardError as error:
        raise GuardError(f"canary: {where}: the mask is not in this path: {error}") from error
    out = {token for one in samples for token in one.ids} & set(policy.denied)
    if out:
        labels = ", ".join(policy.label(token) for token in sorted(out))
        raise GuardError(f"canary: {where}: {labels} came out; the path has no gate: refused")
    chosen = sum(len(one.ids) + one.finished for one in samples)
    if guard.gate_ids != chosen:
        raise GuardError(
            f"canary: {where}: {chosen} ids were chosen, the gate saw {guard.gate_ids}; the path "
            "does not show every id to the gate: refused"
        )
    return chosen

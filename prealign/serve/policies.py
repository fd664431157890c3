"""Which policies a client may ask for: those that are offered, none laxer than the server's."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from prealign.errors import ConfigError
from prealign.guard.policy import Policy, named
from prealign.guard.table import Table, state_of, table_of
from prealign.tokens.vocabulary import Vocabulary


def table_for(
    vocabulary: Vocabulary, policy: str, also: Sequence[str] = (), mode: str | None = None
) -> Table:
    """Return a table with the server's policy first, then others that clients may ask for.

    All of them start in `mode`, also those that would start nowhere, such as `stay`.

    Args:
        vocabulary: The model's.
        policy: The name of the server's policy.
        also: Names of others.
        mode: The mode that the harness opens for the model.

    Raises:
        ConfigError: There is no such policy, or one allows what the server's forbids.
        DataError: The scheme has no such mode.
    """
    start = vocabulary.scheme.path(mode) if mode else ()
    policies: list[Policy] = [
        replace(named(name, vocabulary.scheme, mode), start=start)
        for name in dict.fromkeys([policy, *also])
    ]
    table = table_of(vocabulary, *policies)
    for index, one in enumerate(policies[1:], start=1):
        found = laxer(table, index, 0)
        if found:
            raise ConfigError(
                f"policy {one.name!r} cannot be offered beside {policies[0].name!r}: it allows "
                f"{found}, which the server's forbids; offer policies as strict or stricter"
            )
    return table


def switching(table: Table, policy: int) -> Callable[[int], int | None]:
    """Return the change of a guard's state to a policy; None: not yet.

    It waits until the open modes are some that the policy itself can come to: what it allows
    elsewhere was never compared with the server's own policy (`laxer`).
    """
    comes_to = frozenset(table.reachable(table.scan(table.opening(policy), table.start(policy))))

    def change(state: int) -> int | None:
        switched = table.switch(state, policy)
        return switched if state_of(switched) in comes_to else None

    return change


def laxer(table: Table, policy: int, than: int) -> str:
    """Return what a policy allows that another forbids, where the first can come to; or ""."""
    paths = len(table.nesting.paths)
    for q in table.reachable(table.scan(table.opening(policy), table.start(policy))):
        other = q % paths + table.start(than)
        more = table.may[q] & ~table.may[other]
        inside = "/".join(table.path(q)) or "no mode"
        if more.any():
            return f"{table.labels[int(more.argmax())]} in {inside}"
        own, limit = int(table.longest[q]), int(table.longest[other])
        if limit and not 0 < own <= limit:
            return f"longer spans in {inside}"
    return ""


def index_of(table: Table, name: str) -> int | None:
    """Return which policy a client means, by its whole name or the name of its kind."""
    names = [policy.name for policy in table.policies]
    kinds = [policy.name.split(" ")[0] for policy in table.policies]
    for known in (names, kinds):
        if known.count(name) == 1:
            return known.index(name)
    return None

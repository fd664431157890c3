"""What guards any engine from outside: a gate around its output, and a canary for the whole of it.

A mask inside an engine can be passed by: each engine has paths that skip it. What reaches the
reader is decided here, where the engine's ids come out.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from prealign.errors import GuardError
from prealign.guard.canary import CanaryReport
from prealign.guard.gate import Guard
from prealign.guard.table import TEXT, Table

Write = Callable[[int, Sequence[int], Any], Sequence[int]]
"""Write(token, prompt_ids, setting): let the engine, its model biased to `token`, write."""


def gate_stream(
    table: Table, policy: str | int, prompt_ids: Sequence[int], ids: Iterable[int]
) -> Iterator[int]:
    """Yield an engine's ids, each after the gate has let it pass.

    Args:
        table: What the model may write, by state.
        policy: The one that the request is under.
        prompt_ids: What the harness gave the engine, tags included.
        ids: What the engine writes, one by one; the end of text too, if the engine shows it.

    Raises:
        GuardError: At the first id that the model may not write there, which is not yielded; or
            the prompt is none that the scheme allows.
    """
    guard = _guard(table)
    state = guard.scan(prompt_ids, policy)
    for token in ids:
        state = int(guard.commit([state], [token])[0])
        yield token


async def gate_stream_async(
    table: Table, policy: str | int, prompt_ids: Sequence[int], ids: AsyncIterator[int]
) -> AsyncIterator[int]:
    """Yield an engine's ids, each after the gate has let it pass; see `gate_stream`."""
    guard = _guard(table)
    state = guard.scan(prompt_ids, policy)
    async for token in ids:
        state = int(guard.commit([state], [token])[0])
        yield token


def check_text(table: Table, ids: Sequence[int]) -> None:
    """See that ids from a client are text, so that only the harness opens and closes modes.

    Raises:
        GuardError: One is a tag, an end of text, nobody's to write, or none of the vocabulary.
    """
    for at, token in enumerate(ids):
        if not 0 <= token < table.ids.size:
            raise GuardError(f"client's id {token} at {at} is not in [0, {table.ids.size})")
        if table.column_of[token] != TEXT:
            raise GuardError(
                f"client's id {token} at {at} is {table.label(token)}; a client gives text, the "
                "harness writes the tags"
            )


def check_engine(
    write: Write,
    table: Table,
    *,
    settings: Mapping[str, Any],
    prefix: Sequence[int] = (),
    control: Write | None = None,
) -> CanaryReport:
    """Return what was tried, if an engine writes no denied id however much the model wants it.

    Each policy of the table is tried behind the tags that the harness opens for it, with a bias
    to each tag, end of text and inert id that is denied there.

    Args:
        write: The engine as it will be used, with guard. How the model is biased is the caller's:
            a large `logit_bias` does where the engine adds it in front of the guard. It is called
            with a policy's own prompt, so an engine with one policy needs a table of one.
        table: What is denied.
        settings: The engine's settings by name: greedy, sampling, and whatever will be used.
        prefix: Ids in front of the tags, such as the end of text.
        control: The engine without its guard. Then the denied id must come out, or the canary
            shows nothing.

    Raises:
        GuardError: A denied id came out, or an id that is none of the vocabulary; nothing was
            written at all; the control wrote no denied id.
    """
    runs = written = 0
    for index, policy in enumerate(table.policies):
        prompt = [*prefix, *table.opening(index)]
        state = table.scan(prompt, table.start(index))
        for token in table.denied(state):
            for name, setting in settings.items():
                where = (
                    f"canary: policy {policy.name!r}, settings {name!r}, bias to "
                    f"{table.label(token)} (id {token})"
                )
                if control is not None and token not in control(token, prompt, setting):
                    raise GuardError(
                        f"{where}: does not come out without the guard either, so the canary "
                        "shows nothing; bias the model more"
                    )
                written += _gated(write(token, prompt, setting), table, index, prompt, where)
                runs += 1
    if not written:
        raise GuardError(
            f"canary: {runs} runs wrote no ids, which shows nothing; give settings that write, "
            "and a policy that denies something"
        )
    return CanaryReport(runs, written)


@lru_cache(maxsize=8)
def _guard(table: Table) -> Guard:
    """Return the guard of a table; making one for each request would cost more than the gate."""
    return Guard(table, pressure=False)


def _gated(ids: Sequence[int], table: Table, policy: int, prompt: Sequence[int], where: str) -> int:
    """Return how many ids there are, all of them fine."""
    try:
        return len(list(gate_stream(table, policy, prompt, ids)))
    except GuardError as error:
        raise GuardError(
            f"{where}: a denied id came out; the guard is not in this engine's path: refused "
            f"({error})"
        ) from error

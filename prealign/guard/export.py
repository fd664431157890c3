"""A policy as a grammar of other engines: what it lets the model write, from any of its states.

An engine that constrains decoding by grammars can then follow the policy without this package, or
be held against it (`benchmarks/exactness.py`: the masks are equal on all states and all ids).

    table = table_of(vocabulary, lock(TWO_MODES, "ai"))
    state = table.scan(table.opening(), table.start())  # behind what the harness has written
    xgr, lark = to_ebnf(table, state), to_lark(table, state)

    info = xgrammar.TokenizerInfo(tokens, vocab_size=xgr.size, stop_token_ids=list(xgr.stop_ids))
    compiler = xgrammar.GrammarCompiler(info, cache_enabled=False)
    matcher = xgrammar.GrammarMatcher(compiler.compile_grammar(xgr.text))
    # or compiler.compile_structural_tag(to_structural_tag(table, state).text)

    tokenizer = llguidance.LLTokenizer(wrapped, eos_token=list(lark.stop_ids))
    matcher = llguidance.LLMatcher(tokenizer, lark.text)

The end of text is no part of these grammars. An engine allows its stop ids exactly where what was
written is a whole word of the grammar, so a word is whole where the model may end the text, and
the stop ids must be `stop_ids`, neither more nor fewer. Behind an end a table begins a new
document; an engine is through.

All ids that are no text are left out by number, padding too: give the engine `size` ids. Keep the
compiler's cache off: xgrammar 0.2.8 mixed up two policies of one shape with it.

What a grammar does not do: it follows no harness, takes no switch of policy in the middle of a
text, and fills the one slot that an engine has for a grammar. And it masks only: nothing looks at
the id that was chosen.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from prealign.errors import ConfigError
from prealign.guard.nesting import Path
from prealign.guard.table import BAN, END, TEXT, Table, run_of, state_of

MAX_LONGEST = 1024
"""Text tokens in a row, as a bounded repetition in a grammar."""
MAX_FORMATS = 20_000
"""Parts of a structural tag; nothing in it is shared, so that it grows with depth."""
PLAIN = "plain"


class Exported(NamedTuple):
    """A grammar, and what an engine must be told beside it."""

    text: str
    """The grammar."""
    stop_ids: tuple[int, ...]
    """The engine's stop ids: the ends of text."""
    size: int
    """Ids in all: the width of the logits, padding included."""
    fingerprint: str
    """That of the table."""


def to_ebnf(table: Table, state: int) -> Exported:
    """Return what the model may write from a state on, as EBNF of xgrammar.

    One rule per state that it can come to: text, and then a tag and the rule behind it.

    Raises:
        ConfigError: A limit of text in a row is too high for a grammar, or the model can come to
            a state in which it may write nothing.
    """
    first, run = state_of(state), run_of(state)
    rules = [f"root ::= {_some_plain(table, first, run)} rest{first}"]
    for q in table.reachable(first):
        ways = [
            f"Token({token}) {_some_plain(table, to)} rest{to}" for token, to in _moves(table, q)
        ]
        ways += ['""'] * bool(table.may[q, END])
        if not ways and (table.longest[q] or not table.may[q, TEXT]):
            raise _dead_end(table, q, "comes to an end without a way on")
        # Where there is no way on, text goes on for ever, and the rule for it has no end.
        rules.append(f"rest{q} ::= {' | '.join(ways) or f'{PLAIN} rest{q}'}")
    excluded = ", ".join(map(str, _special(table)))
    rules.append(f"{PLAIN} ::= ExcludeToken({excluded})")
    return _exported(table, "\n".join(rules) + "\n")


def to_lark(table: Table, state: int) -> Exported:
    """Return what the model may write from a state on, as Lark of llguidance.

    One rule per state that it can come to: all that leads there. So every rule is left-recursive,
    and a step costs that engine the same however many tags stand before it (the other way round
    it gave up after some hundred tags).

    Raises:
        ConfigError: A limit of text in a row is too high for a grammar; the model can come to a
            state from which it never ends the text: no word of a grammar goes through it.
    """
    first, rows = state_of(state), table.reachable(state)
    _check_ends(table, rows)
    lines = ["start: " + " | ".join(f"to{q}" for q in rows if table.may[q, END])]
    for q in rows:
        into = [f"to{p} <[{token}]>" for p in rows for token, to in _moves(table, p) if to == q]
        ways = [f"in{q} {_some_plain(table, q)}"] if into else []
        ways += [_some_plain(table, q, run_of(state))] if q == first else []
        lines.append(f"to{q}: {' | '.join(ways)}")
        if into:
            lines.append(f"in{q}: {' | '.join(into)}")
    lines.append(f"{PLAIN}: <[^{_ranges(_special(table))}]>")
    return _exported(table, "\n".join(lines) + "\n")


def to_structural_tag(table: Table, state: int) -> Exported:
    """Return what the model may write from a state on, as a structural tag (JSON) of xgrammar.

    Modes with a closing tag become tags within tags.

    Raises:
        ConfigError: Structural tags cannot say it, or not in reasonable size: marks that the
            model may write and that change its rights, limits of text in a row, a state from
            which the model never ends the text.
    """
    rows = table.reachable(state)
    _check_ends(table, rows)
    if table.longest[rows].any():
        raise ConfigError(
            "structural tag: the policy limits text in a row; export it as EBNF or Lark instead"
        )
    body = {"type": "structural_tag", "format": _Tags(table).rest(state_of(state))}
    return _exported(table, json.dumps(body))


class _Tags:
    """Structural tags of a table, by state."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.ids = dict(table.ids.tags)
        self.special = _special(table)
        self.formats = 0

    def rest(self, q: int) -> dict[str, Any]:
        """Return the format of all that may be written from a state to the end."""
        ways = self._downwards(q)
        for token, to in _moves(self.table, q):
            if len(self.table.path(to)) < len(self.table.path(q)) and not self._alike(q, to):
                ways.append(self._sequence(self._token(token), self.rest(to)))
        return self._then(q, ways)

    def _downwards(self, q: int) -> list[dict[str, Any]]:
        """Return the formats of what ends the text in a mode that is opened here and left open."""
        ways = []
        for token, to in self._opens(q):
            deeper = self._downwards(to)
            if deeper or self.table.may[to, END]:
                ways.append(self._sequence(self._token(token), self._then(to, deeper)))
        return ways

    def _then(self, q: int, ways: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the format: what stays in a state, then one of these ways, or the end."""
        if not ways:
            return self._body(q)
        one = ways[0] if len(ways) == 1 else self._format("or", elements=ways)
        if self.table.may[q, END]:
            one = self._format("optional", content=one)
        return self._sequence(self._body(q), one)

    def _body(self, q: int) -> dict[str, Any]:
        """Return the format of what comes back to a state: text, marks, modes that are closed."""
        tags = []
        for token, to in self._opens(q):
            close = [back for back, behind in _moves(self.table, to) if behind == q]
            if close:
                end = self._token(close[0])
                tag = self._format("tag", begin=self._token(token), content=self._body(to), end=end)
                tags.append(tag)
        text = bool(self.table.may[q, TEXT])
        marks = {token for token, to in _moves(self.table, q) if self._alike(q, to)}
        excluded = [token for token in self.special if token not in marks]
        if not text and not tags and not marks:
            return self._format("const_string", value="")
        if not text:
            some = [*tags, *(self._token(mark) for mark in sorted(marks))]
            return self._format("star", content=self._format("or", elements=some))
        if not tags:
            return self._format("any_tokens", exclude_tokens=excluded)
        triggers = [tag["begin"]["token"] for tag in tags]
        return self._format(
            "token_triggered_tags",
            trigger_tokens=triggers,
            tags=tags,
            exclude_tokens=[token for token in excluded if token not in triggers],
        )

    def _opens(self, q: int) -> Iterator[tuple[int, int]]:
        """Yield the tags that open a mode inside, with the state behind each."""
        path = self.table.path(q)
        for token, to in _moves(self.table, q):
            behind = self.table.path(to)
            if self._alike(q, to):
                continue
            if self._is_mark(behind) or self._is_mark(path):
                raise ConfigError(
                    f"structural tag: {self.table.label(token)!r} in "
                    f"{'/'.join(path) or 'no mode'} is or follows a mark that changes what the "
                    "model may do; export it as EBNF or Lark instead"
                )
            if len(behind) > len(path):
                yield token, to

    def _alike(self, one: int, other: int) -> bool:
        """Return whether a tag between two states is a mark after which all is as before."""
        table = self.table
        level = {table.nesting.outer(table.path(q)) for q in (one, other)}
        same = np.array_equal(table.may[one], table.may[other])
        return len(level) == 1 and same and bool((table.longest[[one, other]] == 0).all())

    def _is_mark(self, path: Path) -> bool:
        return self.table.nesting.outer(path) != path

    def _token(self, token: int) -> dict[str, Any]:
        return self._format("token", token=token)

    def _sequence(self, *elements: dict[str, Any]) -> dict[str, Any]:
        return self._format("sequence", elements=list(elements))

    def _format(self, kind: str, **parts: Any) -> dict[str, Any]:
        self.formats += 1
        if self.formats > MAX_FORMATS:
            raise ConfigError(
                f"structural tag: more than {MAX_FORMATS} parts at depth "
                f"{self.table.nesting.depth}; export it as EBNF or Lark, or lower the depth"
            )
        return {"type": kind, **parts}


def _exported(table: Table, text: str) -> Exported:
    return Exported(text, table.ids.ends, table.ids.size, table.fingerprint)


def _moves(table: Table, q: int) -> list[tuple[int, int]]:
    """Return the tags that the model may write in a row, by id, with the row behind each."""
    return [
        (token, int(table.next[q, column]))
        for column, (_, token) in enumerate(table.ids.tags, start=1)
        if table.may[q, column] and table.next[q, column] != BAN
    ]


def _check_ends(table: Table, rows: Sequence[int]) -> None:
    """Refuse rows from which the model never ends the text."""
    fine = {q for q in rows if table.may[q, END]}
    more = True
    while more:
        found = {q for q in rows if q not in fine and fine & {to for _, to in _moves(table, q)}}
        more = bool(found)
        fine |= found
    for q in rows:
        if q not in fine:
            raise _dead_end(table, q, "can never end the text (EBNF alone can say that)")


def _dead_end(table: Table, q: int, what: str) -> ConfigError:
    return ConfigError(
        f"policy {table.policy(q).name!r}: in {'/'.join(table.path(q)) or 'no mode'} the model "
        f"{what}, and a grammar of whole texts has no word for that; allow the end somewhere"
    )


def _some_plain(table: Table, q: int, run: int = 0) -> str:
    """Return how much text may stand in a row, behind `run` tokens of it."""
    if not table.may[q, TEXT]:
        return '""'
    longest = int(table.longest[q])
    if not longest:
        return f"{PLAIN}*"
    if longest > MAX_LONGEST:
        raise ConfigError(
            f"policy {table.policy(q).name!r}: longest={longest}: a grammar counts to "
            f"{MAX_LONGEST} at most; lower it, or let the table guard"
        )
    left = max(0, longest - run)
    return f"{PLAIN}{{0,{left}}}" if left else '""'


def _special(table: Table) -> list[int]:
    """Return the ids that are no text, rising."""
    special: list[int] = np.flatnonzero(table.column_of).tolist()
    return special


def _ranges(ids: Sequence[int]) -> str:
    """Return rising ids as ranges: 1,3-5."""
    groups = groupby(enumerate(ids), key=lambda pair: pair[1] - pair[0])
    runs = [[token for _, token in group] for _, group in groups]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)

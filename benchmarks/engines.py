"""Two grammar engines behind one face, following what `prealign.guard.export` writes.

Both get a made-up tokenizer of as many ids as the table has: the first 256 text ids are bytes, the
others are numbered words, and what is no text is special.
"""

from typing import Protocol

import llguidance
import numpy as np
import xgrammar
from numpy.typing import NDArray

from prealign.guard.export import Exported, to_ebnf, to_lark, to_structural_tag
from prealign.guard.table import Table

Bools = NDArray[np.bool_]


class Follower(Protocol):
    """A matcher of an engine."""

    def mask(self) -> Bools:
        """Return which ids may be written, [V]."""

    def accept(self, token: int) -> None:
        """Go on behind an id."""

    def rollback(self, count: int) -> None:
        """Take back the last ids."""


def token_bytes(table: Table) -> list[bytes]:
    """Return what each id stands for; special ones as both engines mark them."""
    texts = [bytes([i]) if i < 256 else f" w{i}".encode() for i in range(table.ids.size)]
    for token in np.flatnonzero(table.column_of).tolist():
        texts[token] = f"<{token}>".encode()
    return texts


class XGrammar:
    """xgrammar's compiler for a table's ids."""

    name = "xgrammar"

    def __init__(self, table: Table, *, structural: bool = False) -> None:
        self.table, self.structural = table, structural
        self.known: dict[int, xgrammar.CompiledGrammar] = {}
        self.info = xgrammar.TokenizerInfo(
            token_bytes(table),
            xgrammar.VocabType.RAW,
            vocab_size=table.ids.size,
            stop_token_ids=list(table.ids.ends),
        )

    def compiled(self, state: int) -> xgrammar.CompiledGrammar:
        """Return the compiled grammar of what may be written from a state on."""
        compiler = xgrammar.GrammarCompiler(self.info, max_threads=1, cache_enabled=False)
        if self.structural:
            return compiler.compile_structural_tag(self.exported(state).text)
        return compiler.compile_grammar(self.exported(state).text)

    def exported(self, state: int) -> Exported:
        """Return the grammar."""
        return (to_structural_tag if self.structural else to_ebnf)(self.table, state)

    def start(self, state: int) -> Follower:
        """Return a matcher that stands in a state."""
        if state not in self.known:
            self.known[state] = self.compiled(state)
        matcher = xgrammar.GrammarMatcher(self.known[state])
        return _XGrammarFollower(matcher, self.table.ids.size)


class _XGrammarFollower:
    def __init__(self, matcher: xgrammar.GrammarMatcher, size: int) -> None:
        self.matcher, self.size = matcher, size
        self.bits = xgrammar.allocate_token_bitmask(1, size)

    def mask(self) -> Bools:
        self.matcher.fill_next_token_bitmask(self.bits)
        return unpack(self.bits.numpy(), self.size)

    def accept(self, token: int) -> None:
        assert self.matcher.accept_token(token), f"xgrammar refuses {token}"

    def rollback(self, count: int) -> None:
        self.matcher.rollback(count)


class LLGuidance:
    """llguidance's tokenizer for a table's ids."""

    name = "llguidance"

    def __init__(self, table: Table) -> None:
        self.table = table
        self.known: dict[int, llguidance.LLMatcher] = {}
        words = _Words(table)
        ends = list(table.ids.ends)
        self.tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(words), eos_token=ends)

    def matcher(self, state: int) -> llguidance.LLMatcher:
        """Return the engine's own matcher."""
        found = llguidance.LLMatcher(self.tokenizer, to_lark(self.table, state).text)
        assert not found.is_error(), found.get_error()
        return found

    def start(self, state: int) -> Follower:
        """Return a matcher that stands in a state."""
        if state not in self.known:
            self.known[state] = self.matcher(state)
        return _LLGuidanceFollower(self.known[state].deep_copy(), self.table.ids.size)


class _Words:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, table: Table) -> None:
        special = np.flatnonzero(table.column_of).tolist()
        self.special_token_ids = special
        self.eos_token_id = table.ids.ends[0] if table.ids.ends else special[-1]
        self.tokens = token_bytes(table)
        for token in special:
            self.tokens[token] = b"\xff" + self.tokens[token]

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


class _LLGuidanceFollower:
    def __init__(self, matcher: llguidance.LLMatcher, size: int) -> None:
        self.matcher, self.size = matcher, size

    def mask(self) -> Bools:
        return unpack(np.frombuffer(self.matcher.compute_bitmask(), dtype=np.int32), self.size)

    def accept(self, token: int) -> None:
        assert self.matcher.consume_token(token), self.matcher.get_error()

    def rollback(self, count: int) -> None:
        assert self.matcher.rollback(count), self.matcher.get_error()


def unpack(words: NDArray[np.int32], size: int) -> Bools:
    """Return an engine's bits as booleans, [V]."""
    bits = np.unpackbits(words.reshape(-1).view(np.uint8), bitorder="little")
    return bits[:size].astype(bool)

"""PEP 8 violations, as pycodestyle sees them.

Two traps of earlier work are avoided. An unclosed bracket makes pycodestyle report an error one
line behind the text; the line scorer published with Korbak et al. 2023 lost all of a file's
violations there and called every line clean. And violations counted without a pinned list of
ignored codes change with the package's defaults and with a file in the user's home.
"""

import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from prealign.errors import ConfigError, MissingDependency
from prealign.score.density import density
from prealign.score.segment import Lines
from prealign.text.document import Document, Finding, Judgement

try:
    import pycodestyle
except ImportError:
    pycodestyle = None

DEFAULT_IGNORE = ("E121", "E123", "E126", "E226", "E24", "E704", "W503", "W504")
"""What pycodestyle 2.15 leaves out by default, among it two rules that contradict each other."""
TO_LINE_END = ("E501", "W291", "W293", "W505")
"""Codes whose finding reaches from the reported column to the end of the line."""
MARKED = re.compile(r"\w+|\s+|.", re.DOTALL)
"""What a finding of any other code covers: a word, white space, or one other character."""
OPEN_AT_END = re.compile(r"E90\d TokenError: .*(EOF in multi-line|unterminated triple-quoted)")
"""What the tokenizers of Python 3.11 and of later ones say of a bracket or string left open."""
LONE_RETURN = re.compile(r"\r(?!\n)")


@dataclass(frozen=True, kw_only=True)
class Pycodestyle:
    r"""Violations that begin in a span per character of the span.

    With lines as spans it gives the score of each line, with one span that of the whole text. An
    error reported behind the last line belongs to the last line. `\r\n` counts as a newline, as
    when pycodestyle reads a file. No configuration file has any influence. An empty span scores 0.
    A text takes pycodestyle time that grows with its size; there is no time limit, because the
    scores would then depend on the machine. Python that the tokenizer reads but the parser would
    not (Python 2) is judged like any other.
    """

    max_line_length: int = 79
    ignore: tuple[str, ...] = DEFAULT_IGNORE
    """Codes that are not counted, or what they begin with."""
    on_broken: Literal["none", "count", "cut"] = "none"
    """What becomes of a text that pycodestyle itself could not read to its end (E901, E902, a
    lone carriage return). none: no span is judged, as is right for a corpus. count: what it found
    is counted, E901 included. cut: the same, except that a text may end inside a bracket or a
    string, as is right for samples that ran out of tokens there (a closing bracket too many looks
    the same to the tokenizer). A text on which pycodestyle fails is never judged."""

    def __post_init__(self) -> None:
        if pycodestyle is None:
            raise MissingDependency(
                'Pycodestyle needs the package pycodestyle: pip install "prealign[code]"'
            )
        if self.max_line_length < 1:
            raise ConfigError(f"max_line_length={self.max_line_length}: expected at least 1")
        if self.on_broken not in ("none", "count", "cut"):
            raise ConfigError(f"on_broken={self.on_broken!r}: expected none, count or cut")

    @property
    def name(self) -> str:
        """The key of its scores."""
        return "pycodestyle"

    @property
    def version(self) -> str:
        """The versions of pycodestyle and of Python, whose tokenizer it uses."""
        return f"1, pycodestyle {pycodestyle.__version__}, python {platform.python_version()}"

    def __call__(self, documents: Sequence[Document]) -> list[Judgement]:
        """Return a score per span and a finding per violation, for each document."""
        return [self._judge(document) for document in documents]

    def _judge(self, document: Document) -> Judgement:
        text, spans = document.text, document.spans
        ends = Lines()(text)
        problem, errors = self._errors(text, ends)
        findings = sorted(_finding(text, ends, *error) for error in errors if text)
        if problem is not None:
            return Judgement([None] * len(spans), findings, problem)
        scores: list[float | None] = [*density(spans, [f.start_char for f in findings])]
        return Judgement(scores, findings)

    def _errors(self, text: str, ends: list[int]) -> tuple[str | None, list[tuple[int, int, str]]]:
        """Return why the text cannot be judged, if so, and (line, column, message) per error."""
        lines = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        if "\r\n" in text:
            lines = [line[:-2] + "\n" if line.endswith("\r\n") else line for line in lines]
        report = _Report(self.ignore)
        options = _options(self.max_line_length, self.ignore)
        checker = pycodestyle.Checker(lines=list(lines), options=options, report=report)
        # A byte order mark is cut off the first line before its columns are counted.
        mark_chars = len(lines[0]) - len(checker.lines[0]) if lines else 0
        try:
            checker.check_all()
        except Exception as error:  # a crash inside pycodestyle is a text that cannot be judged
            return f"pycodestyle fails: {type(error).__name__}: {error}", []
        errors = [
            (row, column + mark_chars if row == 1 else column, message)
            for row, column, message in report.errors
        ]
        if self.on_broken == "none":
            if report.broken:
                row, message = report.broken
                return f"pycodestyle {message[:4]}: {message[5:]}, line {row}", errors
            lone = LONE_RETURN.search(text)
            if lone:
                row = text.count("\n", 0, lone.start()) + 1
                return f"lone carriage return: line {row}", errors
        if self.on_broken == "cut":
            errors = [error for error in errors if not OPEN_AT_END.match(error[2])]
        return None, errors


class _Report:
    """What a Checker asks of its report; keeps every error that is not ignored."""

    def __init__(self, ignore: tuple[str, ...]) -> None:
        self.errors: list[tuple[int, int, str]] = []
        self.broken: tuple[int, str] | None = None
        self._ignore = ignore

    def init_file(self, filename: str, lines: list[str], expected: Any, line_offset: int) -> None:
        """Do nothing: a report lives for one text."""

    def increment_logical_line(self) -> None:
        """Do nothing: lines are not counted here."""

    def get_file_results(self) -> int:
        """Return the number of errors."""
        return len(self.errors)

    def error(self, line_number: int, offset: int, text: str, check: Any) -> None:
        """Keep one error."""
        if self.broken is None and text.startswith("E90"):
            self.broken = (line_number, text)
        if not text.startswith(self._ignore):
            self.errors.append((line_number, offset, text))


@lru_cache(maxsize=8)
def _options(max_line_length: int, ignore: tuple[str, ...]) -> Any:
    """Return pycodestyle's options, each given here, so that no file of the user's decides one."""
    return pycodestyle.StyleGuide(
        parser=pycodestyle.get_parser(prog="prealign"),
        select=(),
        ignore=ignore or ("no code begins like this",),  # if empty, the defaults come back
        max_line_length=max_line_length,
        max_doc_length=None,
        indent_size=4,
        hang_closing=False,
        verbose=0,
        quiet=1,
    ).options


def _finding(text: str, ends: list[int], row: int, column: int, message: str) -> Finding:
    """Return the place of an error; one outside of the text or its line is moved to its border."""
    index = min(max(row, 1), len(ends)) - 1
    first, end = ends[index - 1] if index else 0, ends[index]
    start = min(first + max(column, 0), end - 1)
    code = message[:4]
    if code in TO_LINE_END:
        stop = first + len(text[first:end].rstrip("\r\n"))
    else:
        mark = MARKED.match(text, start, end)
        stop = mark.end() if mark else end
    return Finding(start, max(stop, start + 1), code, message[5:])

"""Segmenters: where one span ends and the next begins. Joined, the segments are the text."""

import re
from dataclasses import dataclass, replace

from prealign.errors import DataError
from prealign.text.document import Document, Segmenter, Span

CLOSERS = "\"')]}\u00bb\u2019\u201d"
"""What may stand between a full stop and the white space behind it."""
ABBREVIATED = """
    mr mrs ms dr prof sr jr st rev hon gen col sgt capt lt e.g i.e etc cf vs viz al approx ca no nos
    vol fig figs eq eqs sec ch pp p ed eds inc ltd co corp dept est
    jan feb mar apr jun jul aug sep sept oct nov dec
"""
ABBREVIATIONS = frozenset(word + "." for word in ABBREVIATED.split())
INITIALS = re.compile(r"(?:[^\W\d_]\.)+", re.ASCII)
NUMBERED = re.compile(r"\(?\d{1,3}\)?\.")


@dataclass(frozen=True)
class Lines:
    r"""Physical lines, each with its newline.

    A line ends at `\n` only. `\r\n` therefore ends one line, and a lone `\r`, a form feed, a
    vertical tab or U+2028 ends none: editors disagree about them, the tokenizers here never let a
    token cross `\n`, and so a border between segments is always a border between tokens.
    """

    @property
    def name(self) -> str:
        """A short name, for headers."""
        return "lines"

    def __call__(self, text: str) -> list[int]:
        """Return the end character of each line; the last one may lack its newline."""
        ends = [match.end() for match in re.finditer("\n", text)]
        if text and (not ends or ends[-1] < len(text)):
            ends.append(len(text))
        return ends


@dataclass(frozen=True)
class Sentences:
    """Sentences by rules, made for English prose.

    White space between two sentences belongs to the first, but a single blank goes with the word
    behind it, as it does in the tokens of byte-level BPE: so a border between sentences is a
    border between tokens. A sentence ends at white space behind `.`, `!`, `?` or an ellipsis (and
    any closing quotes), or at an empty line. It goes on after an abbreviation, an initial, the
    number of a list item, and before a small letter. As only white space can end one, no e-mail
    address, URL, decimal or version number is ever cut.
    """

    @property
    def name(self) -> str:
        """A short name, for headers."""
        return "sentences"

    def __call__(self, text: str) -> list[int]:
        """Return the end character of each sentence."""
        ends = []
        word_start, starts_line = 0, True
        for gap in re.finditer(r"\s+", text):
            word = text[word_start : gap.start()]
            after = text[gap.end() : gap.end() + 1]
            if word and after:
                paragraph = gap.group().count("\n") > 1
                if paragraph or _ends_sentence(word, after, starts_line=starts_line):
                    blanks = len(gap.group()) - len(gap.group().rstrip(" "))
                    ends.append(gap.end() - (blanks == 1))
            word_start, starts_line = gap.end(), "\n" in gap.group()
        return [*ends, len(text)] if text else []


def segment(document: Document, segmenter: Segmenter) -> Document:
    """Return the document cut into spans without mode or scores.

    Raises:
        DataError: The document is cut already, or the segmenter's ends do not tile the text.
    """
    if document.spans:
        raise DataError(
            f"document {document.id!r}: has {len(document.spans)} spans already; "
            "segment documents without spans"
        )
    ends = segmenter(document.text)
    spans = tuple(Span(a, b) for a, b in zip([0, *ends], ends, strict=False))
    if document.text and not spans:
        raise DataError(f"document {document.id!r}: {segmenter.name} found no segment in its text")
    return replace(document, spans=spans)


def _ends_sentence(word: str, after: str, *, starts_line: bool) -> bool:
    bare = word.rstrip(CLOSERS)
    if not bare.endswith((".", "!", "?", "\u2026")) or after.islower():
        return False
    start = bare.lstrip("([{\"'\u00ab\u2018\u201c")
    if start.lower() in ABBREVIATIONS or INITIALS.fullmatch(start):
        return False
    return not (starts_line and NUMBERED.fullmatch(word))

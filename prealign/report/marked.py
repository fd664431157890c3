"""A sample as HTML: its spans coloured by mode, its findings underlined and listed.

The text is cut wherever a span or a finding begins or ends, and each piece is drawn once with all
that holds there; so findings may overlap each other and the borders of spans in any way.
"""

from html import escape
from itertools import groupby, pairwise
from typing import NamedTuple

from prealign.report.load import Sample
from prealign.report.numbers import plain
from prealign.report.visible import visible
from prealign.text.document import Finding

KINDS = {"good": "good", "ai": "good", "bad": "bad", "human": "bad", "quote": "quote"}
"""Which colour a mode has; other modes share one."""


class Piece(NamedTuple):
    """A stretch of text, half-open in characters, in which nothing begins or ends."""

    start_char: int
    end_char: int
    mode: str | None
    span: int | None
    """Which span of the sample it is in; None: in none."""
    findings: tuple[Finding, ...]


def pieces(sample: Sample) -> list[Piece]:
    """Return the stretches that tile the sample's text.

    A finding of no length is drawn on the character where it stands, and one at the end of the
    text on the last character. One outside of the text is on no piece.
    """
    length = len(sample.text)
    extents = [(extent, one) for one in sample.findings if (extent := _extent(one, length))]
    cuts = {0, length}
    cuts |= {cut for span in sample.spans for cut in (span.start_char, span.end_char)}
    cuts |= {cut for extent, _ in extents for cut in extent}
    places = sorted(cuts)
    found = []
    for start, end in pairwise(places):
        span = next(
            (i for i, s in enumerate(sample.spans) if s.start_char <= start < s.end_char), None
        )
        mode = None if span is None else sample.spans[span].mode
        findings = tuple(one for extent, one in extents if extent[0] <= start < extent[1])
        found.append(Piece(start, end, mode, span, findings))
    return found


def sample_html(sample: Sample) -> str:
    """Return the sample with its score above and its findings listed below."""
    score = "not scored" if sample.score is None else f"score {plain(sample.score)}"
    seed = "" if sample.seed is None else f", seed {sample.seed}"
    count = len(sample.findings)
    listed = ""
    if count:
        items = "".join(f"<li>{_listed(one, sample.text)}</li>" for one in sample.findings)
        name = "1 finding" if count == 1 else f"{count} findings"
        listed = f"<details><summary>{name}</summary><ul>{items}</ul></details>"
    return (
        f'<div class="sample" data-findings="{count}"><p class="about">{score}{seed}</p>'
        f"<pre>{text_html(sample)}</pre>{listed}</div>"
    )


def text_html(sample: Sample) -> str:
    """Return the text alone; without its HTML tags it is what `visible` makes of the text."""
    if not sample.text:
        return '<span class="m-none empty"></span>'
    parts = []
    for (mode, _), group in groupby(pieces(sample), key=_voice):
        # The name stands in front of each change of voice: colour must not be the only sign.
        said = mode or ("untagged" if len(sample.spans) > 1 else "")
        name = f' data-mode="{escape(visible(said))}"' if said else ""
        body = "".join(_piece(piece, sample.text) for piece in group)
        parts.append(f'<span class="m-{kind(mode)}"{name}>{body}</span>')
    return "".join(parts)


def kind(mode: str | None) -> str:
    """Return which colour a mode has, as the name of a class."""
    return "none" if mode is None else KINDS.get(mode, "other")


def _voice(piece: Piece) -> tuple[str | None, int | None]:
    """Return what changes where another voice begins."""
    # An untagged span is a voice of its own: a prompt is told from what was written behind it.
    return piece.mode, piece.span if piece.mode is None else None


def _piece(piece: Piece, text: str) -> str:
    body = escape(visible(text[piece.start_char : piece.end_char]))
    if not piece.findings:
        return body
    classes = ["many"] if len(piece.findings) > 1 else []
    # A line break is underlined by nothing: the style sheet shows a sign in front of it.
    classes += ["eol"] if body.startswith("\n") else []
    about = escape(visible("; ".join(f"{one.code} {one.message}" for one in piece.findings)))
    name = f' class="{" ".join(classes)}"' if classes else ""
    return f'<u{name} title="{about}">{body}</u>'


def _listed(finding: Finding, text: str) -> str:
    said = escape(visible(f"{finding.code} {finding.message}"))
    if _extent(finding, len(text)) is None:
        return f"character {finding.start_char}, outside of the text: {said}"
    before = text[: finding.start_char]
    line, column = before.count("\n") + 1, finding.start_char - (before.rfind("\n") + 1) + 1
    return f"{line}:{column} {said}"


def _extent(finding: Finding, length: int) -> tuple[int, int] | None:
    """Return the characters a finding is drawn on; None if it is outside of the text."""
    start, end = finding.start_char, max(finding.end_char, finding.start_char + 1)
    if start == length > 0:
        return length - 1, length
    if start < 0 or start >= length:
        return None
    return start, min(end, length)

"""Documents in the terminal: their spans coloured by mode, legible without colours too.

In front of each line stand its number, the mode of its span and the span's scores, then `|`; a
line whose mode changes half-way goes on in a line of its own, without a number and with `+`.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.text import Text

from prealign.errors import DataError
from prealign.report.load import read_samples
from prealign.report.visible import visible
from prealign.text.document import Document, Span
from prealign.text.shards import read_shard

COLOURS = {"good": "cyan", "ai": "cyan", "bad": "red", "human": "yellow", "quote": "magenta"}
OTHER = "green"
"""The colour of any other mode."""


def read_any(file: Path) -> Iterator[Document]:
    """Yield the documents of a Parquet shard, or of a run's samples.jsonl.

    Raises:
        DataError: The file is neither, is not there, or is malformed.
    """
    if not file.is_file():
        raise DataError(f"{file}: there is no such file; give a Parquet shard or a samples.jsonl")
    if file.suffix == ".parquet":
        yield from read_shard(file)
    elif file.suffix == ".jsonl":
        for number, sample in enumerate(read_samples(file), start=1):
            about = [sample.condition]
            about += [] if sample.seed is None else [f"seed {sample.seed}"]
            about += ["not scored"] if sample.score is None else [f"score {sample.score:.3g}"]
            try:
                spans = sample.spans if sample.text else ()
                yield Document(", ".join(about), sample.text, spans)
            except DataError as error:
                raise DataError(f"{file}:{number}: {error}") from error
    else:
        raise DataError(
            f"{file}: has the suffix {file.suffix!r}, allowed: .parquet (a shard), .jsonl (samples)"
        )


def show_documents(documents: Iterable[Document], console: Console, *, limit: int) -> None:
    """Print up to `limit` documents, and say so if there are more.

    Args:
        documents: With or without spans.
        console: Where to; without colours the modes still stand in the margin.
        limit: Documents at most.
    """
    rest = iter(documents)
    for document in islice(rest, limit):
        _show(document, console)
    if next(rest, None) is not None:
        console.print(Text(f"shown: the first {limit}; there are more", style="dim"))


def _show(document: Document, console: Console) -> None:
    title = ", ".join(filter(None, [document.id, document.source]))
    console.rule(Text(visible(title) or "document without id"), align="left")
    if document.problem:
        console.print(Text(f"not judged: {visible(document.problem)}", style="yellow"))
    spans = document.spans or (Span(0, len(document.text)),)
    modes = max(len(span.mode or "-") for span in spans)
    scores = max(len(_scores(span)) for span in spans)
    digits = len(str(document.text.count("\n") + 1))
    number, begins = 1, True
    for span in spans:
        colour = COLOURS.get(span.mode, OTHER) if span.mode else ""
        said = f"{span.mode or '-':<{modes}} {_scores(span):>{scores}}".rstrip()
        said = f"{said:<{modes + scores + 1}}"
        for line in _lines(document.text[span.start_char : span.end_char]):
            label = str(number) if begins else ""
            margin = f"{label:>{digits}} {said} {'|' if begins else '+'} "
            body = visible(line.removesuffix("\n"))
            console.print(Text.assemble((margin, "dim"), (body, colour)), soft_wrap=True)
            begins = line.endswith("\n")
            number += begins


def _lines(text: str) -> list[str]:
    """Return the lines with their newlines; nothing but a newline ends a line."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _scores(span: Span) -> str:
    """Return the span's scores; "?" where a scorer could not judge."""
    return " ".join("?" if v is None else f"{v:.3f}" for v in span.scores.values())

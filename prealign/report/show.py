"""Documents in the terminal, their spans coloured by mode, legible without colours too."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.text import Text

from prealign.errors import DataError
from prealign.runs import read_jsonl
from prealign.text.document import Document, Span
from prealign.text.shards import read_shard

COLOURS = {"good": "cyan", "ai": "cyan", "bad": "red", "human": "yellow", "quote": "magenta"}


def read_any(file: Path) -> Iterator[Document]:
    """Yield the documents of a Parquet shard or of a samples.jsonl.

    Raises:
        DataError: The file is neither, or is not there.
    """
    if not file.exists():
        raise DataError(f"{file}: there is no such file")
    if file.suffix == ".parquet":
        yield from read_shard(file)
    elif file.suffix == ".jsonl":
        for number, row in enumerate(read_jsonl(file), start=1):
            if not {"text", "spans", "seed", "condition"} <= row.keys():
                raise DataError(f"{file}:{number}: is no row of samples ({json.dumps(row)[:60]})")
            name = f"{row['condition']}, seed {row['seed']}"
            spans = tuple(Span(s["start"], s["end"], s["mode"]) for s in row["spans"])
            yield Document(name, row["text"], spans if row["text"] else ())
    else:
        raise DataError(f"{file}: unknown suffix {file.suffix!r}; give a .parquet or .jsonl file")


def show_documents(documents: Iterable[Document], console: Console, *, limit: int) -> None:
    """Print up to `limit` documents: in front of each line its number, mode and scores."""
    for document in islice(documents, limit):
        console.rule(Text(document.id), align="left")
        if document.problem:
            console.print(Text(f"not judged: {document.problem}"), style="yellow")
        spans = document.spans or (Span(0, len(document.text)),)
        number, at_line_start = 1, True
        for span in spans:
            colour = COLOURS.get(span.mode or "", "default")
            scores = " ".join("?" if v is None else f"{v:.3f}" for v in span.scores.values())
            text = document.text[span.start_char : span.end_char]
            for line in text.splitlines(keepends=True):
                margin = f"{number:>5} {span.mode or '-':<6}{scores:>6} | "
                lead = margin if at_line_start else f"{'':>5} {span.mode or '-':<6}{scores:>6} + "
                console.print(
                    Text(lead, style="dim") + Text(line.rstrip("\n"), style=colour),
                    soft_wrap=True,
                )
                at_line_start = line.endswith("\n")
                number += at_line_start

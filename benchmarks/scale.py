"""Whether annotation and token preparation grow with the documents in time, and not in memory.

    python benchmarks/scale.py --out results/scale.json

Real Python source, then ten times as much of it (the same texts under other ids), is annotated by
pycodestyle with two processes, and the shards made tokens; each stage in a process of its own, the
small one first, in turns. Documents are made one by one, as from disk. Time is wall time, memory
the largest process of a stage.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from prealign.corpora.source import PythonSource
from prealign.runs import Check, ResultRow, write_results
from prealign.score.annotate import annotate
from prealign.score.pep8 import Pycodestyle
from prealign.score.segment import Lines
from prealign.score.tag import Threshold
from prealign.text.document import Document
from prealign.text.scheme import GOOD_BAD
from prealign.text.shards import read_shards
from prealign.tokens.encode import Encoder
from prealign.tokens.shards import write_tokens
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary, load_vocabulary

QUESTION = "Do ten times the documents take ten times the time, and no more memory?"
TIMES = 10
STAGES = ("annotate", "encode")
MIN_FILE_CHARS, MAX_FILE_CHARS = 500, 60_000
MIN_GROWTH, MAX_GROWTH = 9.0, 11.0
MAX_MEMORY = 1.1


def documents(chars: int, times: int) -> Iterator[Document]:
    """Yield so much source, so many times, under ids that differ."""
    for turn in range(times):
        left = chars
        for document in PythonSource()():
            if MIN_FILE_CHARS <= len(document.text) <= MAX_FILE_CHARS:
                yield replace(document, id=f"{document.id}-{turn}")
                left -= len(document.text)
            if left <= 0:
                break


def annotated(folder: Path, chars: int, times: int) -> None:
    """Cut, score, tag and write the documents."""
    annotate(
        documents(chars, times),
        folder / f"shards-{times}",
        segmenter=Lines(),
        scorer=Pycodestyle(),
        tagger=Threshold(score="pycodestyle"),
        source={"name": "benchmark"},
        processes=2,
        progress=False,
    )


def encoded(folder: Path, chars: int, times: int) -> None:
    """Make tokens of the shards."""
    encoder = Encoder(vocabulary=load_vocabulary(folder / "vocabulary"), score="pycodestyle")
    write_tokens(folder / f"tokens-{times}", read_shards(folder / f"shards-{times}"), encoder)


WORK: dict[str, Callable[[Path, int, int], None]] = {"annotate": annotated, "encode": encoded}


def measured(stage: str, folder: Path, chars: int, times: int, out: Path) -> None:
    """Do one stage and write what it took; runs in a process of its own."""
    start_s = time.perf_counter()
    WORK[stage](folder, chars, times)
    wall_s = time.perf_counter() - start_s
    peak_kib = max(own_peak_kib(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    out.write_text(json.dumps({"wall_s": wall_s, "peak_mib": peak_kib / 1024}))


def own_peak_kib() -> int:
    """Return the peak memory of this process alone; `ru_maxrss` begins with its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise SystemExit("/proc/self/status names no VmHWM; this needs Linux")


def make_vocabulary(folder: Path) -> None:
    """Train a small tokenizer; in a process of its own, so that its memory is not counted."""
    texts = [document.text for document in documents(2_000_000, 1)]
    tokenizer = train_text_tokenizer(texts, size=4096)
    Vocabulary(tokenizer, GOOD_BAD).save(folder / "vocabulary")


def in_process(stage: str, folder: Path, chars: int, times: int) -> dict[str, Any]:
    """Return what one stage took in a fresh process."""
    out = folder / "measured.json"
    process = multiprocessing.get_context("spawn").Process(
        target=measured, args=(stage, folder, chars, times, out)
    )
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{stage}, {times} times: exit code {process.exitcode}")
    found: dict[str, Any] = json.loads(out.read_text())
    print(f"{stage}, {times}x: {found['wall_s']:.1f} s, {found['peak_mib']:.0f} MiB", flush=True)
    return found


def measure(chars: int, rounds: int) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Return what each stage took, at both sizes, once a round."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            maker = multiprocessing.get_context("spawn").Process(
                target=make_vocabulary, args=(folder,)
            )
            maker.start()
            maker.join()
            for stage in STAGES:
                for times in (1, TIMES):
                    one = in_process(stage, folder, chars, times)
                    found.setdefault((stage, times), []).append(one)
    return found


def summarise(
    found: dict[tuple[str, int], list[dict[str, Any]]],
) -> tuple[list[ResultRow], list[Check]]:
    """Return rows and checks; a ratio is taken within a round."""
    rows = [
        ResultRow(
            arm=f"{stage}, {times}x", metric=metric, unit=unit, n=len(rounds),
            value=round(statistics.median(one[key] for one in rounds), 2),
            low=round(min(one[key] for one in rounds), 2),
            high=round(max(one[key] for one in rounds), 2),
        )
        for (stage, times), rounds in found.items()
        for metric, unit, key in (("wall", "s", "wall_s"), ("peak memory", "MiB", "peak_mib"))
    ]  # fmt: skip
    checks = []
    for stage in STAGES:
        pairs = list(zip(found[stage, 1], found[stage, TIMES], strict=True))
        growth = statistics.median(big["wall_s"] / small["wall_s"] for small, big in pairs)
        memory = statistics.median(big["peak_mib"] / small["peak_mib"] for small, big in pairs)
        control = f"{stage}, 1x"
        checks += [
            Check(
                what=f"{stage}: time of ten times the documents, over the time of one",
                bar=f"{MIN_GROWTH:g} to {MAX_GROWTH:g}", value=round(growth, 3),
                holds=MIN_GROWTH <= growth <= MAX_GROWTH, control=control,
            ),
            Check(
                what=f"{stage}: peak memory of ten times the documents, over that of one",
                bar=f"<= {MAX_MEMORY:g}", value=round(memory, 3),
                holds=memory <= MAX_MEMORY, control=control,
            ),
        ]  # fmt: skip
    return rows, checks


def main() -> None:
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chars", type=int, default=20_000_000, help="text of the small size")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    start_s = time.perf_counter()
    rows, checks = summarise(measure(args.chars, args.rounds))
    wall_s = time.perf_counter() - start_s
    write_results(
        args.out, question=QUESTION, seeds=(), wall_s=wall_s, rows=rows, checks=checks,
        extra={"text": {"characters": args.chars, "times": [1, TIMES]}},
    )  # fmt: skip


if __name__ == "__main__":
    main()

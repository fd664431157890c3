"""What annotation costs beyond its scorer, and what a second process gains.

    python benchmarks/annotation.py --out results/annotation.json

Real Python source of the running interpreter and its packages is scored by pycodestyle: by a
plain loop over `pycodestyle.Checker`, by our scorer alone, and by `annotate` with one and two
processes, which also cuts, tags and writes shards. The arms take turns; medians are reported with
the lowest and the highest round. Texts are in memory before the clock starts.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pycodestyle

from prealign.corpora.source import PythonSource
from prealign.runs import Check, ResultRow, write_results
from prealign.score.annotate import annotate
from prealign.score.pep8 import Pycodestyle
from prealign.score.segment import Lines, segment
from prealign.score.tag import Threshold
from prealign.text.document import Document

QUESTION = (
    "How much of the scorer's speed does annotation keep on each core, "
    "and how much faster is it with two processes than with one?"
)
ARMS = ("checker loop", "scorer alone", "annotate, 1 process", "annotate, 2 processes")
MIN_FILE_CHARS, MAX_FILE_CHARS = 500, 60_000
MIN_RATIO = 1.8
MIN_KEPT = 0.9


def read_corpus(min_chars: int) -> list[Document]:
    """Return real Python source of at least this size."""
    documents, chars = [], 0
    for document in PythonSource()():
        if MIN_FILE_CHARS <= len(document.text) <= MAX_FILE_CHARS and document.text.isascii():
            documents.append(document)
            chars += len(document.text)
        if chars >= min_chars:
            return documents
    raise SystemExit(f"only {chars} characters of source here; ask for fewer with --chars")


def loop_over_checker(documents: list[Document]) -> None:
    """Judge texts with pycodestyle alone, its options made once."""
    options = pycodestyle.StyleGuide(quiet=1).options
    for document in documents:
        lines = [line + "\n" for line in document.text.split("\n")]
        report = pycodestyle.BaseReport(options)
        pycodestyle.Checker(lines=lines, options=options, report=report).check_all()


def annotate_all(documents: list[Document], processes: int) -> None:
    """Cut, score, tag and write the documents into a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        annotate(
            documents,
            Path(folder) / "shards",
            segmenter=Lines(),
            scorer=Pycodestyle(),
            tagger=Threshold(score="pycodestyle"),
            source={"name": "benchmark"},
            processes=processes,
            progress=False,
        )


def cpu_s() -> float:
    """Return the processor time of this process and of its ended children."""
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in times)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return wall and processor seconds."""
    wall, cpu = time.perf_counter(), cpu_s()
    work()
    return time.perf_counter() - wall, cpu_s() - cpu


def measure(documents: list[Document], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return wall and processor seconds of each arm, once a round, the order turning."""
    cut = [segment(document, Lines()) for document in documents]
    works: dict[str, Callable[[], object]] = {
        ARMS[0]: lambda: loop_over_checker(documents),
        ARMS[1]: lambda: Pycodestyle()(cut),
        ARMS[2]: lambda: annotate_all(documents, 1),
        ARMS[3]: lambda: annotate_all(documents, 2),
    }
    times: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    for number in range(rounds):
        turn = number % len(ARMS)
        for arm in (*ARMS[turn:], *ARMS[:turn]):
            times[arm].append(timed(works[arm]))
            print(f"round {number + 1}, {arm}: wall {times[arm][-1][0]:.1f} s", flush=True)
    return times


def row(arm: str, metric: str, unit: str, values: list[float]) -> ResultRow:
    """Return the median with the lowest and highest round."""
    value, low, high = (round(f(values), 4) for f in (statistics.median, min, max))
    return ResultRow(
        arm=arm, metric=metric, unit=unit, value=value, low=low, high=high, n=len(values)
    )


def summarise(
    times: dict[str, list[tuple[float, float]]], chars: int
) -> tuple[list[ResultRow], list[Check]]:
    """Return rows and checks; ratios are taken within a round."""
    rows = []
    for arm, rounds in times.items():
        rows.append(row(arm, "wall", "s", [wall for wall, _ in rounds]))
        rate = [chars / cpu / 1e3 for _, cpu in rounds]
        rows.append(row(arm, "speed per core", "k characters per processor second", rate))
    walls = {arm: [wall for wall, _ in rounds] for arm, rounds in times.items()}
    cpus = {arm: [cpu for _, cpu in rounds] for arm, rounds in times.items()}
    faster = [a / b for a, b in zip(walls[ARMS[2]], walls[ARMS[3]], strict=True)]
    kept = [a / b for a, b in zip(cpus[ARMS[1]], cpus[ARMS[3]], strict=True)]
    against = [a / b for a, b in zip(cpus[ARMS[0]], cpus[ARMS[1]], strict=True)]
    rows.append(row(ARMS[3], "times as fast as 1 process", "ratio", faster))
    rows.append(row(ARMS[3], "scorer's speed per core kept", "ratio", kept))
    rows.append(row(ARMS[1], "times as fast as the checker loop", "ratio", against))
    return rows, [
        check("two processes over one, wall", MIN_RATIO, faster, ARMS[2]),
        check("annotate over the scorer alone, per core", MIN_KEPT, kept, ARMS[1]),
    ]


def check(what: str, bar: float, values: list[float], control: str) -> Check:
    """Return whether the median reaches the bar."""
    value = statistics.median(values)
    return Check(
        what=what, bar=f">= {bar}", value=round(value, 4), holds=value >= bar, control=control
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chars", type=int, default=24_000_000, help="text, at least")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    start_s = time.perf_counter()
    documents = read_corpus(args.chars)
    chars = sum(len(document.text) for document in documents)
    rows, checks = summarise(measure(documents, args.rounds), chars)
    write_results(
        args.out,
        question=QUESTION,
        seeds=(),
        wall_s=time.perf_counter() - start_s,
        rows=rows,
        checks=checks,
        extra={"text": {"documents": len(documents), "characters": chars}},
    )


if __name__ == "__main__":
    main()

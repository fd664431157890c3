"""What recipes of toy models share: seeds side by side, results, and a page with their figures."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape

import numpy as np
import torch
from numpy.typing import NDArray

from prealign.errors import ConfigError
from prealign.report.style import STYLE
from prealign.runs import Check, ResultRow, RunFolder, write_atomic, write_results

Floats = NDArray[np.float64]


def check_seeds(seeds: int) -> None:
    """See that there are enough seeds for a spread.

    Raises:
        ConfigError: There are fewer than 2.
    """
    if seeds < 2:
        raise ConfigError(f"seeds={seeds}: expected 2 or more")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread while the block runs: its tensors are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def spread_row(arm: str, metric: str, unit: str, values_S: Floats) -> ResultRow:
    """Return the mean over seeds, with the least and the greatest as its ends."""
    return ResultRow(arm=arm, metric=metric, unit=unit, value=float(values_S.mean()),
                     low=float(values_S.min()), high=float(values_S.max()),
                     n=len(values_S))  # fmt: skip


def spread(values_S: Floats) -> str:
    """Return mean, least and greatest in words."""
    return f"{values_S.mean():.3g} ({values_S.min():.3g} to {values_S.max():.3g})"


def write_lab(
    run: RunFolder,
    *,
    question: str,
    seeds: Sequence[int],
    rows: Sequence[ResultRow],
    checks: Sequence[Check],
    figures: Mapping[str, str],
    started: float,
) -> None:
    """Write results, `NAME.json` after the run's recipe, and a page; log what came of each bar.

    Args:
        run: Gets both.
        question: What the lab asks.
        seeds: All that were run.
        rows: Numbers.
        checks: Bars.
        figures: SVG by title.
        started: On `time.perf_counter`.
    """
    name = str(run.config["recipe"])
    write_results(
        run.path / f"{name}.json", question=question, seeds=seeds, rows=rows, checks=checks,
        wall_s=time.perf_counter() - started,
    )  # fmt: skip
    write_atomic(run.path / "figure.html", page(name, question, figures))
    for check in checks:
        run.log(f"{check.what}: {check.value} (bar {check.bar})")


def page(name: str, question: str, figures: Mapping[str, str]) -> str:
    """Return a page of figures."""
    body = "\n".join(f"<h2>{escape(title)}</h2>\n{svg}" for title, svg in figures.items())
    return (
        f"<!doctype html><meta charset=utf-8><title>{escape(name)}</title><style>{STYLE}</style>"
        f"<main><h1>{escape(question)}</h1>{body}</main>"
    )

"""Comparisons with known numbers."""

from pathlib import Path

import pytest

from tests.report.build import row, write_pair

ASKED_OTHERWISE = [
    row("no tag", "mean_score", 0.06, final=True),
    row("no tags", "loss", 2.1, final=True),
]


def write_comparison(folder: Path, *, seeds: int) -> None:
    """Write a finished comparison: ratios 4, 5, 6 ... by seed; held-out losses 2.0 and 1.9."""
    write_pair(folder, scores(seeds))


def scores(seeds: int) -> dict[int, tuple[float, float]]:
    return {seed: (0.08 + 0.02 * seed, 0.02) for seed in range(seeds)}


@pytest.fixture
def one_seed(tmp_path: Path) -> Path:
    return write_pair(tmp_path / "study", scores(1), ASKED_OTHERWISE)


@pytest.fixture
def three_seeds(tmp_path: Path) -> Path:
    """Ratios 4, 5 and 6; means 0.1 and 0.02."""
    return write_pair(tmp_path / "study", scores(3), ASKED_OTHERWISE)

"""Break the guard in many ways, one at a time, and see whether its tests notice.

Each mutant replaces a piece of text in a temporary copy of the package, and runs the quick tests
of the guard in a process of its own. Where the text is not there just once, it says so: then the
code was changed, and the mutant has to follow.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mutations import MUTANTS, Mutant

import prealign.models.create
import prealign.models.sample  # so that a child does not load torch and transformers again

ROOT = Path(__file__).parents[1]
NEEDED = ("prealign", "tests/guard", "benchmarks", "tests/__init__.py", "tests/conftest.py",
          "pyproject.toml")  # fmt: skip
TESTS = ("policy", "export", "device", "gate", "exactness", "canary")
SECONDS = 120
OURS = {"prealign", "tests", "benchmarks", "conftest", "cases", "reference", "engines",
        "exactness", "mutants", "mutations"}  # fmt: skip
SURVIVED = "survived"
LOADED = (prealign.models.create, prealign.models.sample)


class Outcome(NamedTuple):
    """What became of a mutant."""

    mutant: Mutant
    caught_by: str
    """The first test that failed; `survived` where none did."""


def run_mutants() -> list[Outcome]:
    """Return what the tests say of each mutant.

    Raises:
        RuntimeError: They fail on the unbroken copy.
    """
    with _copy() as folder:
        control = _tested(folder)
        if control != SURVIVED:
            raise RuntimeError(f"the tests fail on the unbroken copy: {control}")
        outcomes = []
        for mutant in MUTANTS:
            file = folder / "prealign" / "guard" / mutant.file
            whole = file.read_text()
            if whole.count(mutant.old) != 1:
                raise ValueError(
                    f"mutant {mutant.name!r}: {mutant.old!r} stands {whole.count(mutant.old)} "
                    f"times in {mutant.file}, expected once"
                )
            file.write_text(whole.replace(mutant.old, mutant.new))
            outcomes.append(Outcome(mutant, _tested(folder)))
            file.write_text(whole)
    return outcomes


@contextmanager
def _copy() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in NEEDED:
            target = folder / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / part).is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / part, target, ignore=ignore)
            else:
                shutil.copy(ROOT / part, target)
        yield folder


def _tested(folder: Path) -> str:
    """Return the first test that fails in the copy, in a fork of this process."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_run_tests, args=(folder, theirs))
    child.start()
    theirs.close()
    try:
        found: str = ours.recv() if ours.poll(SECONDS) else f"more than {SECONDS} s"
    except EOFError:
        found = "the process died"
    child.kill()
    child.join()
    return found


def _run_tests(folder: Path, out: Connection) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    root = str(ROOT)
    sys.path = [str(folder), *(path for path in sys.path if path and not path.startswith(root))]
    sys.dont_write_bytecode = True
    os.chdir(folder)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    first = _FirstFailure()
    files = [f"tests/guard/test_{name}.py" for name in TESTS]
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        options = [
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "pytest_timeout",
            "-o",
            "addopts=",
            "-m",
            "not slow",
            "-W",
            "ignore",
            f"--rootdir={folder}",
        ]
        code = pytest.main([*options, *files], plugins=[first])
    loaded = Path(str(sys.modules["prealign"].__file__))
    if not loaded.is_relative_to(folder):
        raise RuntimeError(f"the tests ran on {loaded}, not on the copy")
    out.send(SURVIVED if code == pytest.ExitCode.OK else first.test or f"pytest: {code!r}")
    out.close()


class _FirstFailure:
    """A plugin that keeps the name of the first test that fails."""

    test = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.test:
            self.test = report.nodeid.removeprefix("tests/guard/")

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.test:
            self.test = f"{report.nodeid.removeprefix('tests/guard/')} cannot be loaded"


if __name__ == "__main__":
    for outcome in run_mutants():
        print(f"{outcome.mutant.name:60} {outcome.caught_by}")

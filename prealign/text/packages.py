"""Where the files of an installed package lie, for those that hold data: nothing is imported."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from prealign.errors import MissingDependency


def package_files(package: str) -> Iterable[Path]:
    """Return the files of an installed package, without importing it.

    Raises:
        MissingDependency: It is not installed.
    """
    try:
        found = distribution(package)
    except PackageNotFoundError:
        raise MissingDependency(
            f'{package} is not installed: pip install "prealign[offense]"'
        ) from None
    return [Path(str(file.locate())) for file in found.files or ()]

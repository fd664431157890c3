"""Answers that were given, in an SQLite file, so that nobody asks the same twice."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prealign.ask.answer import Answer
from prealign.errors import DataError


@dataclass(frozen=True)
class KeptAnswers:
    """Answers by the key of their question; several processes may share the file.

    Every method raises `DataError` if the file holds something else.
    """

    file: Path

    def get(self, key: str) -> Answer | None:
        """Return the answer that is kept under a key, if there is one."""
        if not self.file.exists():
            return None
        with self._opened() as database:
            row = database.execute(
                "SELECT text, tokens FROM answers WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else Answer(str(row[0]), int(row[1]))

    def all(self) -> dict[str, Answer]:
        """Return all answers by their keys."""
        if not self.file.exists():
            return {}
        with self._opened() as database:
            rows = database.execute("SELECT key, text, tokens FROM answers").fetchall()
        return {str(key): Answer(str(text), int(tokens)) for key, text, tokens in rows}

    def keep(self, pairs: Iterable[tuple[str, Answer]]) -> None:
        """Keep answers under their keys, all of them or none; on disk when this returns."""
        with self._opened() as database:
            _insert(database, pairs)

    @contextmanager
    def held_open(self) -> Iterator[Callable[[Iterable[tuple[str, Answer]]], None]]:
        """Give a function that keeps answers as `keep` does, many times as quick.

        They are safe from a kill when it returns; a power cut may take the last ones. For a file
        on a disk of this machine, as SQLite's write-ahead log is not for network drives.
        """
        with self._opened() as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")

            def keep(pairs: Iterable[tuple[str, Answer]]) -> None:
                with database:
                    _insert(database, pairs)

            yield keep

    @property
    def tokens(self) -> int:
        """Of all answers that are kept."""
        if not self.file.exists():
            return 0
        with self._opened() as database:
            (total,) = database.execute("SELECT COALESCE(SUM(tokens), 0) FROM answers").fetchone()
        return int(total)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Give the database; its changes are written at the end, and it is closed."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        database = None
        try:
            database = sqlite3.connect(self.file, timeout=60)
            database.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT, tokens INT)"
            )
        except sqlite3.DatabaseError as error:
            if database is not None:
                database.close()
            raise DataError(
                f"{self.file}: is no file of answers ({error}); name another"
            ) from error
        try:
            yield database
            database.commit()
        finally:
            database.close()


def _insert(database: sqlite3.Connection, pairs: Iterable[tuple[str, Answer]]) -> None:
    database.executemany(
        "INSERT OR REPLACE INTO answers VALUES (?, ?, ?)",
        [(key, answer.text, answer.tokens) for key, answer in pairs],
    )

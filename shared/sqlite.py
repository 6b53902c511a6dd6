"""How does a process reach its SQLite file? From a thread, with one hop a statement.

aiosqlite hops four times to its thread for a query: make a cursor, run, fetch, close. Only running touches the file, so
the rest is done where it stands. Half of what a small transaction costs is such hops.
"""

import sqlite3
from collections.abc import Iterable
from typing import Any

import aiosqlite


class _Cursor(aiosqlite.Cursor):
    """Has all rows once it has run; reading and closing it is then nobody else's business."""

    _rows: list[Any]

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> "_Cursor":
        self._rows = await self._execute(_run, self._cursor, sql, () if parameters is None else parameters)
        return self

    async def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        self._cursor.close()


class _Connection(aiosqlite.Connection):
    """Makes its cursors without asking its thread."""

    def cursor(self) -> _Cursor:  # type: ignore[override] - SQLAlchemy enters it, as it would aiosqlite's own promise
        return _Cursor(self, self._conn.cursor())


def _run(cursor: sqlite3.Cursor, sql: str, parameters: Iterable[Any]) -> list[Any]:
    cursor.execute(sql, parameters)
    return cursor.fetchall() if cursor.description else []


def connect(path: str, **options: Any) -> aiosqlite.Connection:
    """Return a connection to be awaited, as `aiosqlite.connect` does. One task at a time may use it."""
    # Our cursors are made on the loop's thread; aiosqlite still runs one thing at a time on its own.
    options["check_same_thread"] = False
    connection = _Connection(lambda: sqlite3.connect(path, **options), 64)
    connection._thread.daemon = True  # noqa: SLF001 - as SQLAlchemy does: a forgotten connection ends with the process
    return connection

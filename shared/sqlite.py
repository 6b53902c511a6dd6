"""How does a process reach its SQLite file? From a thread, with one hop a statement.

aiosqlite hops to its thread four times for a query: make a cursor, run, fetch, close. Only running touches the file, so
the rest is done where it stands: such hops were half of what a small transaction costs (docs/performance.md).
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import aiosqlite


class _Cursor(aiosqlite.Cursor):
    """Has all its rows once a statement has run. For small answers: nothing streams."""

    _rows: Iterator[Any] = iter(())
    _idle = True

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> "_Cursor":
        self._rows = iter(await self._execute(_run, self._cursor, sql, () if parameters is None else parameters))
        return self

    async def fetchone(self) -> Any:
        return next(self._rows, None)

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        return list(islice(self._rows, size or self.arraysize))

    async def fetchall(self) -> list[Any]:
        return list(self._rows)

    async def close(self) -> None:
        if self._idle:
            self._cursor.close()
        else:  # cancelled or failed midway: wait until the thread is done with it
            await super().close()

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._idle = False
        result = await super()._execute(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        self._idle = True
        return result


class _Connection(aiosqlite.Connection):
    """Makes its cursors without asking its thread."""

    def cursor(self) -> _Cursor:  # type: ignore[override]  # SQLAlchemy enters it as it would aiosqlite's own promise
        return _Cursor(self, self._conn.cursor())


def _run(cursor: sqlite3.Cursor, sql: str, parameters: Any) -> list[Any]:
    cursor.execute(sql, parameters)
    return cursor.fetchall() if cursor.description else []


def connect(path: str, **options: Any) -> aiosqlite.Connection:
    """Return a connection to be awaited, as `aiosqlite.connect` does. One task at a time may use it."""
    # Cursors are made on the loop's thread; statements still run one at a time, on the connection's own.
    options["check_same_thread"] = False
    connection = _Connection(lambda: sqlite3.connect(path, **options), 64)
    connection._thread.daemon = True  # noqa: SLF001 - as SQLAlchemy does: a forgotten one ends with the process
    return connection

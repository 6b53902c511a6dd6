"""How is a foreign database read without ever changing it? One read-only snapshot per search, in batches.

SQLite and PostgreSQL are read by asynchronous drivers, every other database that SQLAlchemy reaches in threads. Where
the database knows read-only transactions it is told to refuse writes (SQLite opens the file read-only besides); for
the others an account that may only read is the guard.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.engine.url import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, NoSuchTableError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncResult, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from services.locator.connectors.base import Code, ConnectorError, NeedsPerson, Rejected, Unavailable

BATCH = 500
"""Rows read at a time: bounds memory, and lets other tasks have the loop."""

CONNECT_SECONDS = 10
ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}

Rows = Sequence[Sequence[Any]]
T = TypeVar("T")


class Snapshot(Protocol):
    """One consistent view of a foreign database."""

    def batches(self, statement: sa.Select[Any]) -> AsyncGenerator[Rows, None]:
        """Yield the rows in batches, from a server-side cursor where there is one."""
        ...

    async def columns(self, table: str, schema: str | None) -> dict[str, str] | None:
        """Return column → shape (`services.locator.connectors.statements.Shape`), or None if there is no such table."""
        ...


class Source(Protocol):
    """A foreign database."""

    dialect: str

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """Open a read-only view. Raises connector errors only."""
        ...

    async def close(self) -> None:
        """Give connections back."""
        ...


def open_source(url: str, *, connections: int, timeout: float) -> Source:
    """Return the source behind an SQLAlchemy URL, not contacted yet. `timeout` is seconds per statement or batch.

    Raises `NeedsPerson` for a URL that cannot be used: it is part of the installation's secrets.
    """
    try:
        parsed = make_url(url)
        bare = parsed.drivername
        if bare in ASYNC_DRIVERS or bare in ASYNC_DRIVERS.values():
            return AsyncSource(parsed.set(drivername=ASYNC_DRIVERS.get(bare, bare)), connections, timeout)
        return ThreadSource(parsed, connections, timeout)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, ValueError):
        raise NeedsPerson(Code.UNKNOWN_KIND) from None


# --- asynchronous: SQLite and PostgreSQL ---------------------------------------------------------------------------


class AsyncSource:
    """SQLite through aiosqlite, PostgreSQL through psycopg."""

    def __init__(self, url: URL, connections: int, timeout: float) -> None:
        self.dialect = url.get_backend_name()
        self._timeout = timeout
        self._engine = _sqlite(url, connections) if self.dialect == "sqlite" else _postgres(url, connections)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        with translated():
            async with self._engine.connect() as connection:
                await self._begin(connection)
                driver = (await connection.get_raw_connection()).driver_connection
                yield AsyncSnapshot(connection, driver, self._timeout)
                await connection.rollback()

    async def close(self) -> None:
        await self._engine.dispose()

    async def _begin(self, connection: AsyncConnection) -> None:
        if self.dialect == "postgresql":
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            limit = str(int(self._timeout * 1000))
            await connection.execute(sa.text("SELECT set_config('statement_timeout', :limit, true)"), {"limit": limit})


class AsyncSnapshot:
    """One transaction of an `AsyncSource`."""

    def __init__(self, connection: AsyncConnection, driver: Any, timeout: float) -> None:
        self._connection = connection
        self._driver = driver
        self._timeout = timeout

    async def batches(self, statement: sa.Select[Any]) -> AsyncGenerator[Rows, None]:
        with translated():
            result = await self._within(self._stream(statement))
            try:
                while rows := await self._within(result.fetchmany(BATCH)):
                    yield rows
            finally:
                await result.close()

    async def columns(self, table: str, schema: str | None) -> dict[str, str] | None:
        with translated():
            return await self._within(self._connection.run_sync(_columns, table, schema))

    async def _stream(self, statement: sa.Select[Any]) -> AsyncResult[Any]:
        result: AsyncResult[Any] = await self._connection.stream(statement, execution_options={"yield_per": BATCH})
        return result

    async def _within(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for one step. PostgreSQL ends it by its own timeout first; SQLite only when somebody interrupts it."""
        step = asyncio.ensure_future(work)
        try:
            done, _pending = await asyncio.wait({step}, timeout=self._timeout + 1)
            if not done:
                raise TimeoutError
            return step.result()
        finally:
            if not step.done():
                await self._end(step)

    async def _end(self, step: asyncio.Task[Any]) -> None:
        """Interrupt the statement before its task: SQLAlchemy would wait for the one in the other's clean-up."""
        if hasattr(self._driver, "interrupt"):
            await self._driver.interrupt()
        step.cancel()
        await asyncio.wait({step}, timeout=CONNECT_SECONDS)
        if step.done() and not step.cancelled():
            step.exception()


def _sqlite(url: URL, connections: int) -> AsyncEngine:
    if not url.database or url.database == ":memory:":
        raise ValueError("a source is a file")
    path = url.database if url.database.startswith("file:") else f"file:{url.database}"
    # mode=ro: a file that is not there is an error, never an empty database in which nobody is found.
    url = url.set(database=path).update_query_dict({"mode": "ro", "uri": "true"})
    engine = create_async_engine(url, pool_size=connections, connect_args={"timeout": CONNECT_SECONDS})

    @event.listens_for(engine.sync_engine, "connect")
    def _connect(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        # Old systems hold text in older encodings than SQLite promises.
        connection.driver_connection.text_factory = _text
        cursor = connection.cursor()
        cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")


def _postgres(url: URL, connections: int) -> AsyncEngine:
    arguments = {"connect_timeout": CONNECT_SECONDS, "application_name": "habeas"}
    return create_async_engine(url, pool_size=connections, max_overflow=0, pool_pre_ping=True, connect_args=arguments)


# --- in threads: every other database ------------------------------------------------------------------------------


class ThreadSource:
    """Any database with a synchronous driver. A call that hangs holds its thread until the driver gives up."""

    def __init__(self, url: URL, connections: int, timeout: float) -> None:
        self.dialect = url.get_backend_name()
        self._timeout = timeout
        self._engine = sa.create_engine(url, pool_size=connections, pool_pre_ping=True)
        if self.dialect in {"mysql", "mariadb"}:
            event.listen(self._engine, "connect", _mysql_read_only)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        with translated():
            connection = await _threaded(self._timeout, self._engine.connect)
            try:
                yield ThreadSnapshot(connection, self._timeout)
            finally:
                await asyncio.shield(asyncio.to_thread(connection.close))

    async def close(self) -> None:
        await asyncio.to_thread(self._engine.dispose)


class ThreadSnapshot:
    """One connection of a `ThreadSource`; closing it rolls back."""

    def __init__(self, connection: sa.Connection, timeout: float) -> None:
        self._connection = connection.execution_options(stream_results=True, max_row_buffer=BATCH)
        self._timeout = timeout

    async def batches(self, statement: sa.Select[Any]) -> AsyncGenerator[Rows, None]:
        with translated():
            result = await _threaded(self._timeout, self._connection.execute, statement)
            try:
                while rows := await _threaded(self._timeout, result.fetchmany, BATCH):
                    yield rows
            finally:
                await asyncio.to_thread(result.close)

    async def columns(self, table: str, schema: str | None) -> dict[str, str] | None:
        with translated():
            return await _threaded(self._timeout, _columns, self._connection, table, schema)


async def _threaded(seconds: float, function: Callable[..., T], *arguments: Any) -> T:
    async with asyncio.timeout(seconds):
        return await asyncio.to_thread(function, *arguments)


def _mysql_read_only(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    cursor.close()


# --- what both share -----------------------------------------------------------------------------------------------


def _columns(connection: sa.Connection, table: str, schema: str | None) -> dict[str, str] | None:
    try:
        found = sa.inspect(connection).get_columns(table, schema)
    except NoSuchTableError:
        return None
    return {column["name"]: _shape(column["type"]) for column in found}


def _shape(kind: sa.types.TypeEngine[Any]) -> str:
    for shape, types in (("integer", sa.Integer), ("uuid", sa.Uuid), ("text", sa.String)):
        if isinstance(kind, types):
            return shape
    return "other"


@contextmanager
def translated() -> Iterator[None]:
    """Turn whatever a driver raises into a connector error; its text may hold values and goes no further."""
    try:
        yield
    except (TimeoutError, PoolTimeout):
        raise Unavailable(Code.TIMEOUT) from None
    except DBAPIError as error:
        raise _meaning(error) from None
    except (NoSuchModuleError, ModuleNotFoundError):
        raise NeedsPerson(Code.UNKNOWN_KIND) from None
    except SQLAlchemyError:
        raise Rejected(Code.UNEXPECTED_ANSWER) from None
    except OSError:
        raise Unavailable(Code.UNREACHABLE) from None


_BY_STATE: tuple[tuple[str, type[ConnectorError], Code], ...] = (
    ("57014", Unavailable, Code.TIMEOUT),
    ("42501", Rejected, Code.NOT_AUTHORISED),
    ("28", Rejected, Code.NOT_AUTHORISED),
    ("3D", Rejected, Code.SCHEMA_CHANGED),
    ("42", Rejected, Code.SCHEMA_CHANGED),
    ("22", Rejected, Code.UNEXPECTED_ANSWER),
    ("25006", Rejected, Code.REFUSED),
    ("40", Unavailable, Code.BUSY),
    ("53", Unavailable, Code.BUSY),
    ("55", Unavailable, Code.BUSY),
)
"""SQLSTATE prefixes (PostgreSQL appendix A)."""

_BY_NUMBER: dict[int, tuple[type[ConnectorError], Code]] = {
    1044: (Rejected, Code.NOT_AUTHORISED),
    1045: (Rejected, Code.NOT_AUTHORISED),
    1142: (Rejected, Code.NOT_AUTHORISED),
    1049: (Rejected, Code.SCHEMA_CHANGED),
    1054: (Rejected, Code.SCHEMA_CHANGED),
    1146: (Rejected, Code.SCHEMA_CHANGED),
    1205: (Unavailable, Code.BUSY),
}
"""Error numbers of MySQL and MariaDB."""

_BY_WORDS: tuple[tuple[str, type[ConnectorError], Code], ...] = (
    ("no such", Rejected, Code.SCHEMA_CHANGED),
    ("readonly database", Rejected, Code.REFUSED),
    ("not a database", Rejected, Code.UNEXPECTED_ANSWER),
    ("locked", Unavailable, Code.BUSY),
    ("authentication failed", Rejected, Code.NOT_AUTHORISED),
    ("no pg_hba.conf entry", Rejected, Code.NOT_AUTHORISED),
    ("no password supplied", Rejected, Code.NOT_AUTHORISED),
    ("does not exist", Rejected, Code.SCHEMA_CHANGED),
    ("timeout expired", Unavailable, Code.TIMEOUT),
)
"""SQLite has no codes that SQLAlchemy keeps, and psycopg gives none while connecting."""


def _meaning(error: DBAPIError) -> ConnectorError:
    cause = error.orig
    state = getattr(cause, "sqlstate", None) or ""
    for prefix, kind, code in _BY_STATE:
        if state.startswith(prefix):
            return kind(code)
    number = cause.args[0] if cause is not None and cause.args else None
    if isinstance(number, int) and number in _BY_NUMBER:
        kind, code = _BY_NUMBER[number]
        return kind(code)
    text = str(cause).lower()
    for words, kind, code in _BY_WORDS:
        if words in text:
            return kind(code)
    return Unavailable(Code.UNREACHABLE)

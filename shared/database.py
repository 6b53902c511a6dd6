"""How does a service keep its rows? Two kinds of session, one transaction each, scoped to one organisation.

SQLite (the embedded default) and PostgreSQL behave alike here: a write session holds the only write transaction of
this process (`BEGIN IMMEDIATE` behind a fair lock on SQLite), a read session sees one snapshot and may not write.
Nothing else in the product commits (design §6).
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import JSON, ColumnClause, DateTime, MetaData, column, event, text
from sqlalchemy.engine import Dialect, Result
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.engine.url import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import ORMExecuteState, registry, with_loader_criteria
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.base import ExecutableOption
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, Session, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from shared import sqlite

EVERY = "*"
"""What row-level security sees for a sweep over all organisations; no organisation can have this id."""

_TELL = text("SELECT set_config('habeas.organisation', :organisation, true)")

UNMAPPED: ColumnClause[Any] = column("organisation_id")
"""Stands in while SQLAlchemy analyses the criterion on `Row`, which is no table itself."""

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Utc(TypeDecorator[datetime]):
    """An instant. SQLite forgets the zone, so values are stored in UTC and come back aware."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Json = JSON
"""A JSON column; never holds personal data unless sealed."""


class Row(SQLModel):
    """What every row has: the organisation that it belongs to. The session adds it to every query.

    A service derives its own base, so that no service's metadata holds another's tables:
    `class Base(Row, registry=own_registry()): ...`.
    """

    organisation_id: str = Field(max_length=63)


def own_registry() -> registry:
    """Return a fresh registry with the naming convention that Alembic needs."""
    return registry(metadata=MetaData(naming_convention=NAMING))


class _Scoped(Session):
    """Where the listeners below belong: made once, because a listener on each session costs more than a query."""


class ReadSession(AsyncSession):
    """One read-only snapshot."""

    sync_session_class = _Scoped


class ForeignRow(RuntimeError):
    """A row carries another organisation than the session that inserts it: a mistake in our own code."""


class WriteSession(AsyncSession):
    """One write transaction: committed when the block ends, rolled back when it raises."""

    sync_session_class = _Scoped

    async def put(self, table: type[SQLModel], *rows: Mapping[str, Any]) -> None:
        """Insert rows that have the same columns; at least one. Raises `ForeignRow`.

        By Core, compiled once: an ORM insert of values costs three times as much (docs/performance.md).
        """
        own = self.sync_session.info.get("organisation")
        if own is not None and any(row["organisation_id"] != own for row in rows):
            raise ForeignRow
        connection = await self.connection()
        await connection.execute(cast("Any", table).__table__.insert(), rows)


S = TypeVar("S", bound=AsyncSession)


class Database:
    """One installation's database, as one process uses it."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        """`url` is `sqlite+aiosqlite:///path` or `postgresql+psycopg://…`."""
        self.url = url
        self.dialect = make_url(url).get_backend_name()
        self._lock = asyncio.Lock() if self.dialect == "sqlite" else None
        if self.dialect == "sqlite":
            self._writer = _sqlite(url, "BEGIN IMMEDIATE", pool_size=1)
            self._reader = _sqlite(url, "BEGIN", pool_size=4, query_only=True)
        else:
            self._writer = self._reader = create_async_engine(url, pool_size=pool_size, max_overflow=5)

    @asynccontextmanager
    async def write(self, organisation: str | None) -> AsyncIterator[WriteSession]:
        """Open one write transaction; `None` means all organisations and is for sweeps alone.

        Never await another service, a file or the network inside: on SQLite every other writer waits.
        """
        if self._lock is None:
            async with self._session(WriteSession, self._writer, organisation) as session:
                yield session
            return
        async with self._lock, self._session(WriteSession, self._writer, organisation) as session:
            yield session

    @asynccontextmanager
    async def read(self, organisation: str | None) -> AsyncIterator[ReadSession]:
        """Open one read-only snapshot; `None` means all organisations and is for sweeps alone."""
        async with self._session(ReadSession, self._reader, organisation) as session:
            yield session

    async def close(self) -> None:
        """Give all connections back."""
        await self._writer.dispose()
        if self._reader is not self._writer:
            await self._reader.dispose()

    @asynccontextmanager
    async def _session(self, kind: type[S], engine: AsyncEngine, organisation: str | None) -> AsyncIterator[S]:
        async with kind(engine, expire_on_commit=False, autoflush=False) as session:
            session.sync_session.info["organisation"] = organisation
            async with session.begin():
                if self.dialect == "postgresql":
                    await _postgres_scope(session, organisation, read_only=kind is ReadSession)
                yield session


@event.listens_for(_Scoped, "do_orm_execute")
def _scope(state: ORMExecuteState) -> Result[Any] | None:
    """Add the session's organisation to every query on a scoped table, also inside joins and subqueries.

    An UPDATE or DELETE then goes straight to the database: rows that were read before stay as they were read. Working
    out which of them it would change takes longer than the statement, and a session is one short transaction.
    """
    organisation = state.session.info["organisation"]
    if organisation is not None and not (state.is_column_load or state.is_relationship_load or state.is_insert):
        state.statement = state.statement.options(_only(organisation))
    if state.is_update or state.is_delete:
        return state.session.connection().execute(state.statement, state.parameters)
    return None


@lru_cache(maxsize=1024)
def _only(organisation: str) -> ExecutableOption:
    """Return the criterion on rows, made once an organisation: SQLAlchemy takes long to analyse it."""
    return with_loader_criteria(
        Row,
        lambda cls: getattr(cls, "organisation_id", UNMAPPED) == organisation,
        include_aliases=True,
    )


async def _postgres_scope(session: AsyncSession, organisation: str | None, *, read_only: bool) -> None:
    """Tell row-level security whose rows this transaction may see; both end with the transaction."""
    # As on SQLite, one snapshot: PostgreSQL's default would show each statement what was committed meanwhile.
    # Told with BEGIN itself, which saves a round trip.
    snapshot = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    connection = await session.connection(execution_options=snapshot if read_only else {})
    await connection.execute(_TELL, {"organisation": organisation or EVERY})


def _sqlite(url: str, begin: str, *, pool_size: int, query_only: bool = False) -> AsyncEngine:
    path = make_url(url).database
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(
        url, pool_size=pool_size, max_overflow=0, connect_args={"async_creator_fn": sqlite.connect}
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _connect(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        # SQLAlchemy, not the driver, opens transactions: the driver's own mode loses read-then-write races silently.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "busy_timeout=10000",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"query_only={query_only}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine

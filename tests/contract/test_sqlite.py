"""A statement costs one hop to the connection's thread, and nothing is lost by it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiosqlite
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from shared import sqlite


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path / 'some.sqlite'}",
        pool_size=1,
        max_overflow=0,
        connect_args={"async_creator_fn": sqlite.connect},
    )
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE number (value INTEGER PRIMARY KEY)"))
        await connection.execute(
            text("INSERT INTO number VALUES (:value)"), [{"value": value} for value in range(1000)]
        )
    yield engine
    await engine.dispose()


async def test_a_query_hops_once(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    hops: list[object] = []
    hop: Callable[..., Awaitable[object]] = aiosqlite.Connection._execute

    def counted(connection: aiosqlite.Connection, function: object, *args: object) -> Awaitable[object]:
        hops.append(function)
        return hop(connection, function, *args)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        hops.clear()
        found = await connection.execute(text("SELECT value FROM number WHERE value < 3 ORDER BY value"))
        assert found.scalars().all() == [0, 1, 2]
        assert len(hops) == 1


async def test_a_streamed_answer_has_every_row(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        found = await connection.stream(text("SELECT value FROM number ORDER BY value"))
        assert (await found.fetchone()) == (0,)
        assert [row[0] async for row in found] == list(range(1, 1000))


async def test_a_broken_rule_is_told_and_the_connection_goes_on(engine: AsyncEngine) -> None:
    with pytest.raises(IntegrityError):
        async with engine.begin() as connection:
            await connection.execute(text("INSERT INTO number VALUES (1)"))
    assert await _count(engine) == 1000


async def test_a_call_that_is_cancelled_midway_leaves_the_connection_whole(engine: AsyncEngine) -> None:
    """The pool has one connection: were it broken or busy for ever, the next query would show it."""
    slow = text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000000) SELECT max(i) FROM n"
    )

    async def ask() -> None:
        async with engine.begin() as connection:
            await connection.execute(text("INSERT INTO number VALUES (5000)"))
            await connection.execute(slow)

    for _again in range(3):
        asking = asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await _count(engine) == 1000


async def _count(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        count: int = (await connection.execute(text("SELECT count(*) FROM number"))).scalar_one()
    return count

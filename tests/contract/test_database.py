"""Do the two kinds of session keep every promise of `shared.database`, on SQLite and on PostgreSQL alike?"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import create_engine, exists, func, insert, text
from sqlalchemy.engine.url import make_url
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.orm import aliased
from sqlmodel import Field, col, delete, select, update

from shared.database import EVERY, Database, ForeignRow, Json, Row, Utc, own_registry

NOON = datetime(2026, 3, 5, 12, 0, tzinfo=UTC)


class Base(Row, registry=own_registry()):
    """Tables of this test."""


class Thing(Base, table=True):
    __tablename__ = "test_thing"

    id: str = Field(primary_key=True)
    label: str = ""
    previous: str | None = None
    number: int = 0
    at: datetime = Field(default=NOON, sa_type=Utc)
    maybe: datetime | None = Field(default=None, sa_type=Utc)
    data: dict[str, Any] = Field(default_factory=dict, sa_type=Json)


class Part(Base, table=True):
    __tablename__ = "test_part"

    id: str = Field(primary_key=True)
    thing_id: str


def make_tables(url: str) -> None:
    """Create the tables synchronously, as migrations do."""
    parsed = make_url(url)
    parsed = parsed.set(drivername="sqlite") if parsed.get_backend_name() == "sqlite" else parsed
    engine = create_engine(parsed)
    Base.metadata.create_all(engine)
    engine.dispose()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    make_tables(database_url)
    database = Database(database_url)
    yield database
    await database.close()


async def add(database: Database, organisation: str, id: str, **values: Any) -> None:
    async with database.write(organisation) as session:
        await session.exec(insert(Thing).values(id=id, organisation_id=organisation, **values))


async def ids(database: Database, organisation: str | None) -> list[str]:
    async with database.read(organisation) as session:
        return sorted((await session.exec(select(Thing.id))).all())


@pytest.fixture
async def two(database: Database) -> Database:
    """Two organisations: `alfa` has a1 and a2 (numbers 1 and 2), `beta` has b1 (number 10); each thing has a part."""
    for organisation, id, number in (("alfa", "a1", 1), ("alfa", "a2", 2), ("beta", "b1", 10)):
        await add(database, organisation, id, number=number)
        async with database.write(organisation) as session:
            await session.exec(insert(Part).values(id=f"p{id}", organisation_id=organisation, thing_id=id))
    return database


# --- transactions --------------------------------------------------------------------------------------------------


async def test_what_was_written_is_there_when_the_block_is_left(database: Database) -> None:
    async with database.write("alfa") as session:
        await session.exec(insert(Thing).values(id="a1", organisation_id="alfa"))
        assert await ids(database, "alfa") == []
    assert await ids(database, "alfa") == ["a1"]


async def test_an_exception_leaves_nothing_and_reaches_the_caller(database: Database) -> None:
    with pytest.raises(LookupError):
        async with database.write("alfa") as session:
            await session.exec(insert(Thing).values(id="a1", organisation_id="alfa"))
            raise LookupError
    assert await ids(database, "alfa") == []


async def test_a_cancelled_writer_leaves_nothing_and_lets_the_next_one_in(database: Database) -> None:
    inside = asyncio.Event()

    async def stuck() -> None:
        async with database.write("alfa") as session:
            await session.exec(insert(Thing).values(id="a1", organisation_id="alfa"))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stuck())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(add(database, "alfa", "a2"), 5)
    assert await ids(database, "alfa") == ["a2"]


async def test_a_failed_statement_inside_a_savepoint_undoes_only_itself(database: Database) -> None:
    async with database.write("alfa") as session:
        await session.exec(insert(Thing).values(id="a1", organisation_id="alfa"))
        with pytest.raises(DBAPIError):
            async with session.begin_nested():
                await session.exec(insert(Thing).values(id="a1", organisation_id="alfa"))
    assert await ids(database, "alfa") == ["a1"]


async def test_a_read_session_cannot_write(two: Database) -> None:
    statements = (
        insert(Thing).values(id="a9", organisation_id="alfa"),
        update(Thing).values(number=9),
        delete(Thing),
    )
    for statement in statements:
        with pytest.raises(DBAPIError):
            async with two.read("alfa") as session:
                await session.exec(statement)
    with pytest.raises(DBAPIError):
        async with two.read("alfa") as session:
            session.add(Thing(id="a9", organisation_id="alfa"))
            await session.flush()
    assert await ids(two, None) == ["a1", "a2", "b1"]


async def test_a_write_after_reads_on_the_same_database_still_works(two: Database) -> None:
    """`query_only` belongs to the connections of readers alone."""
    await ids(two, "alfa")
    await add(two, "alfa", "a3")
    assert await ids(two, "alfa") == ["a1", "a2", "a3"]


async def test_a_read_session_sees_one_snapshot(two: Database) -> None:
    async with two.read("alfa") as session:
        before = (await session.exec(select(func.count()).select_from(Thing))).one()
        await add(two, "alfa", "a3")
        assert (await session.exec(select(func.count()).select_from(Thing))).one() == before == 2
    assert len(await ids(two, "alfa")) == 3


async def test_readers_do_not_wait_for_a_writer(two: Database) -> None:
    async with two.write("alfa") as session:
        await session.exec(update(Thing).values(number=5))
        assert await asyncio.wait_for(ids(two, "alfa"), 5) == ["a1", "a2"]


async def chain(database: Database, number: int) -> None:
    """Read the newest row, wait a moment, append one that names it; the head's row is what writers queue at."""
    async with database.write("alfa") as session:
        head = (await session.exec(select(Thing).where(Thing.id == "head").with_for_update())).one()
        await asyncio.sleep(0)
        await session.exec(insert(Thing).values(id=f"n{number}", organisation_id="alfa", previous=head.previous))
        await session.exec(update(Thing).where(col(Thing.id) == "head").values(previous=f"n{number}"))


async def test_a_hundred_chained_rows_have_a_hundred_predecessors(database: Database, database_url: str) -> None:
    """Two processes' worth of writers: on SQLite the lock of the file, on PostgreSQL the row's lock keeps them apart."""
    await add(database, "alfa", "head", previous="start")
    other = Database(database_url)
    await asyncio.gather(*(chain(database if n % 2 else other, n) for n in range(100)))
    await other.close()
    async with database.read("alfa") as session:
        rows = (await session.exec(select(Thing.previous).where(Thing.id != "head"))).all()
    assert len(rows) == 100
    assert len(set(rows)) == 100


async def test_on_sqlite_reading_before_writing_needs_no_lock_of_its_own(sqlite_url: str) -> None:
    """The driver's default mode lost 72 of these 100 without an error (design §6)."""
    make_tables(sqlite_url)
    first, second = Database(sqlite_url), Database(sqlite_url)

    async def append(database: Database, number: int) -> None:
        async with database.write("alfa") as session:
            newest = (await session.exec(select(func.max(Thing.number)))).one() or 0
            await asyncio.sleep(0)
            await session.exec(
                insert(Thing).values(id=f"n{number}", organisation_id="alfa", number=newest + 1, previous=str(newest))
            )

    await asyncio.gather(*(append(first if n % 2 else second, n) for n in range(100)))
    async with first.read("alfa") as session:
        rows = (await session.exec(select(Thing.previous))).all()
    await first.close()
    await second.close()
    assert len(set(rows)) == 100


async def test_writers_on_sqlite_take_turns_in_the_order_they_came(sqlite_url: str) -> None:
    make_tables(sqlite_url)
    database, order = Database(sqlite_url), list[int]()

    async def take(number: int) -> None:
        async with database.write("alfa"):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(take(number) for number in range(20)))
    await database.close()
    assert order == list(range(20))


async def test_a_claim_by_conditional_update_has_one_winner(two: Database) -> None:
    async def claim() -> int:
        async with two.write("alfa") as session:
            done = await session.exec(
                update(Thing).where(col(Thing.id) == "a1", col(Thing.previous).is_(None)).values(previous="mine")
            )
            return int(done.rowcount)

    assert sorted(await asyncio.gather(*(claim() for _ in range(10)))) == [0] * 9 + [1]


# --- whose rows ----------------------------------------------------------------------------------------------------


async def test_each_organisation_sees_its_own_rows_and_a_sweep_sees_all(two: Database) -> None:
    assert await ids(two, "alfa") == ["a1", "a2"]
    assert await ids(two, "beta") == ["b1"]
    assert await ids(two, "gamma") == []
    assert await ids(two, None) == ["a1", "a2", "b1"]


async def test_the_name_that_stands_for_all_can_be_no_organisation(two: Database) -> None:
    assert EVERY == "*"
    async with two.read(EVERY) as session:
        assert (await session.exec(select(Thing.id))).all() == []


async def test_a_foreign_row_cannot_be_had_by_its_id(two: Database) -> None:
    async with two.read("alfa") as session:
        assert (await session.exec(select(Thing).where(Thing.id == "b1"))).first() is None
        assert await session.get(Thing, "b1") is None
        assert await session.get(Thing, "a1") is not None


async def test_a_foreign_row_cannot_be_changed(two: Database) -> None:
    async with two.write("alfa") as session:
        done = await session.exec(update(Thing).where(col(Thing.id) == "b1").values(number=0))
        assert done.rowcount == 0
        done = await session.exec(update(Thing).values(number=0))
        assert done.rowcount == 2
    async with two.read("beta") as session:
        assert (await session.exec(select(Thing.number))).all() == [10]


async def test_a_foreign_row_cannot_be_deleted(two: Database) -> None:
    async with two.write("alfa") as session:
        assert (await session.exec(delete(Thing).where(col(Thing.id) == "b1"))).rowcount == 0
        assert (await session.exec(delete(Thing))).rowcount == 2
    assert await ids(two, None) == ["b1"]


async def test_rows_are_put_together_and_none_in_another_organisations_name(two: Database) -> None:
    async with two.write("alfa") as session:
        await session.put(Part, *({"id": f"x{n}", "organisation_id": "alfa", "thing_id": "a1"} for n in range(3)))
    for rows in ((("y1", "beta"),), (("y2", "alfa"), ("y3", "beta"))):
        with pytest.raises(ForeignRow):
            async with two.write("alfa") as session:
                await session.put(Part, *({"id": id, "organisation_id": o, "thing_id": "a1"} for id, o in rows))
    async with two.write(None) as session:
        await session.put(Part, {"id": "x4", "organisation_id": "beta", "thing_id": "b1"})
    async with two.read(None) as session:
        found = (await session.exec(select(Part.id).where(col(Part.id) > "q"))).all()
    assert sorted(found) == ["x0", "x1", "x2", "x4"]


async def test_what_an_update_returns_is_ones_own(two: Database) -> None:
    async with two.write("alfa") as session:
        changed = await session.exec(update(Thing).values(number=7).returning(col(Thing.id)))
        assert sorted(changed.scalars().all()) == ["a1", "a2"]


async def test_aggregates_count_only_ones_own(two: Database) -> None:
    async with two.read("alfa") as session:
        assert (await session.exec(select(func.count()).select_from(Thing))).one() == 2
        assert (await session.exec(select(func.count(col(Thing.id))))).one() == 2
        assert (await session.exec(select(func.sum(Thing.number)))).one() == 3
        assert (await session.exec(select(Thing.organisation_id).distinct())).all() == ["alfa"]


async def test_joins_and_subqueries_reach_no_foreign_row(two: Database) -> None:
    async with two.write("alfa") as session:  # a part of ours that points at a foreign thing
        await session.exec(insert(Part).values(id="sly", organisation_id="alfa", thing_id="b1"))
    joined = select(Part.id, Thing.number).join(Thing, col(Thing.id) == Part.thing_id)
    outer = select(Part.id, Thing.number).join(Thing, col(Thing.id) == Part.thing_id, isouter=True)
    within = select(Part.id).where(col(Part.thing_id).in_(select(Thing.id)))
    existing = select(Part.id).where(exists().where(col(Thing.id) == Part.thing_id))
    other = aliased(Thing)
    aliases = select(Part.id).join(other, col(other.id) == Part.thing_id)
    async with two.read("alfa") as session:
        assert sorted((await session.exec(joined)).all()) == [("pa1", 1), ("pa2", 2)]
        assert dict((await session.exec(outer)).all())["sly"] is None
        for query in (within, existing, aliases):
            assert sorted((await session.exec(query)).all()) == ["pa1", "pa2"]


async def test_one_statement_for_two_organisations_is_never_mixed_up(two: Database) -> None:
    """SQLAlchemy keeps compiled statements: the organisation must be a parameter of each use."""
    statement = select(Thing.id).order_by(Thing.id)
    for organisation, expected in (("alfa", ["a1", "a2"]), ("beta", ["b1"]), ("alfa", ["a1", "a2"]), ("gamma", [])):
        async with two.read(organisation) as session:
            assert (await session.exec(statement)).all() == expected


async def test_sessions_at_the_same_time_keep_their_own_organisation(two: Database) -> None:
    found = await asyncio.gather(*(ids(two, name) for name in ["alfa", "beta"] * 10))
    assert found == [["a1", "a2"], ["b1"]] * 10


async def test_on_postgresql_the_organisation_ends_with_the_transaction(postgres_url: str) -> None:
    database = Database(postgres_url, pool_size=1)
    for organisation, seen in (("alfa", "alfa"), (None, EVERY), ("beta", "beta")):
        async with database.read(organisation) as session:
            told = await (await session.connection()).execute(text("SELECT current_setting('habeas.organisation')"))
            assert told.scalar_one() == seen
    async with database._reader.connect() as connection:
        told = await connection.execute(text("SELECT current_setting('habeas.organisation', true)"))
        assert told.scalar_one() in {None, ""}
    await database.close()


# --- instants and JSON ---------------------------------------------------------------------------------------------


async def test_an_instant_comes_back_aware_in_utc_and_the_same(database: Database) -> None:
    given = datetime(2026, 3, 29, 3, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    await add(database, "alfa", "a1", at=given)
    async with database.read("alfa") as session:
        row = (await session.exec(select(Thing))).one()
    assert row.at == given
    assert row.at.utcoffset() == timedelta(0)
    assert row.maybe is None


async def test_a_naive_instant_is_refused(database: Database) -> None:
    for statement in (
        insert(Thing).values(id="a1", organisation_id="alfa", at=datetime(2026, 3, 5)),
        update(Thing).values(maybe=datetime(2026, 3, 5)),
        select(Thing).where(Thing.at > datetime(2026, 3, 5)),
    ):
        with pytest.raises(StatementError, match="time zone"):
            async with database.write("alfa") as session:
                await session.exec(statement)
    assert await ids(database, "alfa") == []


async def test_instants_from_other_zones_compare_as_instants(database: Database) -> None:
    await add(database, "alfa", "a1", at=NOON)
    later = datetime(2026, 3, 5, 12, 30, tzinfo=timezone(timedelta(hours=1)))  # 11:30 UTC
    async with database.read("alfa") as session:
        assert (await session.exec(select(Thing.id).where(Thing.at > later))).all() == ["a1"]


async def test_json_keeps_danish_letters_and_structure(database: Database) -> None:
    facts = {"navn": "Sørine Ærø", "liste": [1, None, True], "indre": {"å": 1.5}}
    await add(database, "alfa", "a1", data=facts)
    async with database.read("alfa") as session:
        assert (await session.exec(select(Thing.data))).one() == facts

"""Is the ledger one gap-free chain, however many seal it, and does checking it find every tampering?"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlmodel import col, select

from shared import ledger
from shared.database import Database
from shared.ledger import SEAL_BATCH, Entry, PersonalData, Sealer, record, verify
from shared.migrating import migrate

KEY = b"k" * 32
NOON = datetime(2026, 3, 5, 12, tzinfo=UTC)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    migrate(database_url, (ledger.OWNER,))
    database = Database(database_url)
    yield database
    await database.close()


async def write(database: Database, organisation: str, count: int, kind: str = "case.received") -> None:
    async with database.write(organisation) as session:
        for n in range(count):
            await record(
                session, organisation_id=organisation, service="intake", kind=kind, actor="anonymous", at=NOON,
                case_id="c1", case_version=n, data={"n": n},
            )  # fmt: skip


async def chain(database: Database, organisation: str) -> list[Entry]:
    async with database.read(organisation) as session:
        return list((await session.exec(select(Entry).order_by(col(Entry.seq)))).all())


async def tamper(database: Database, statement: str) -> None:
    """What somebody with the database's password, but without the ledger's key, could do."""
    async with database.write(None) as session:
        await (await session.connection()).execute(text(statement))


@pytest.fixture
async def sealed(database: Database) -> Database:
    """Ten sealed entries of `alfa`, three of `beta`."""
    await write(database, "alfa", 10)
    await write(database, "beta", 3)
    await Sealer(database, KEY).seal_all()
    return database


# --- sealing -------------------------------------------------------------------------------------------------------


async def test_an_entry_is_written_with_what_it_tells_or_not_at_all(database: Database) -> None:
    with pytest.raises(LookupError):
        async with database.write("alfa") as session:
            await record(session, organisation_id="alfa", service="intake", kind="case.received", actor="a", at=NOON)
            raise LookupError
    assert await chain(database, "alfa") == []


async def test_personal_data_is_refused_before_anything_is_written(database: Database) -> None:
    with pytest.raises(PersonalData):
        async with database.write("alfa") as session:
            await record(
                session, organisation_id="alfa", service="intake", kind="case.received", actor="a", at=NOON,
                data={"email": "soeren@example.dk"},
            )  # fmt: skip
    assert await chain(database, "alfa") == []


async def test_entries_wait_unsealed_until_the_sealer_has_been_there(database: Database) -> None:
    await write(database, "alfa", 3)
    verdict = await verify(database, "alfa", KEY)
    assert (verdict.sealed, verdict.unsealed, verdict.whole) == (0, 3, True)
    assert await Sealer(database, KEY).seal_all() == 3
    verdict = await verify(database, "alfa", KEY)
    assert (verdict.sealed, verdict.unsealed, verdict.whole) == (3, 0, True)
    assert await Sealer(database, KEY).seal_all() == 0


async def test_each_organisation_has_a_chain_of_its_own(sealed: Database) -> None:
    assert [entry.seq for entry in await chain(sealed, "alfa")] == list(range(1, 11))
    assert [entry.seq for entry in await chain(sealed, "beta")] == [1, 2, 3]
    assert (await verify(sealed, "beta", KEY)).whole
    assert (await verify(sealed, "gamma", KEY)).sealed == 0


async def test_the_order_of_the_chain_is_the_order_of_what_happened(sealed: Database) -> None:
    assert [entry.data["n"] for entry in await chain(sealed, "alfa")] == list(range(10))


async def test_two_sealers_and_writers_at_once_give_one_chain_without_a_gap(
    database: Database, database_url: str
) -> None:
    other = Database(database_url)
    sealers = [Sealer(database, KEY), Sealer(other, KEY)]
    done = asyncio.Event()

    async def seal(sealer: Sealer) -> int:
        found = 0
        while not done.is_set():
            found += await sealer.seal("alfa")
            await asyncio.sleep(0)
        return found + await sealer.seal("alfa")

    async def keep_writing() -> None:
        for _ in range(20):
            await asyncio.gather(write(database, "alfa", 5), write(other, "alfa", 5))
        done.set()

    first, second, _ = await asyncio.gather(seal(sealers[0]), seal(sealers[1]), keep_writing())
    await other.close()
    assert first + second == 200
    assert [entry.seq for entry in await chain(database, "alfa")] == list(range(1, 201))
    verdict = await verify(database, "alfa", KEY)
    assert (verdict.sealed, verdict.unsealed, verdict.whole) == (200, 0, True)


async def test_more_than_a_batch_is_sealed_and_checked_in_batches(database: Database) -> None:
    await write(database, "alfa", SEAL_BATCH + 7)
    sealer = Sealer(database, KEY)
    assert [await sealer.seal("alfa") for _ in range(3)] == [SEAL_BATCH, 7, 0]
    verdict = await verify(database, "alfa", KEY)
    assert (verdict.sealed, verdict.whole) == (SEAL_BATCH + 7, True)


async def test_pages_show_what_is_sealed_from_any_seq_and_by_case(sealed: Database) -> None:
    await write(sealed, "alfa", 1)
    async with sealed.read("alfa") as session:
        assert [entry.seq for entry in await ledger.page(session, after=7)] == [8, 9, 10]
        assert [entry.seq for entry in await ledger.page(session, after=0, limit=2)] == [1, 2]
        assert await ledger.page(session, case_id="another") == []
        assert len(await ledger.page(session, case_id="c1")) == 10


# --- checking ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "broken_at"),
    [
        pytest.param("UPDATE ledger SET kind = 'case.read' WHERE organisation_id = 'alfa' AND seq = 4", 4, id="kind"),
        pytest.param("UPDATE ledger SET actor = 'handler:1' WHERE organisation_id = 'alfa' AND seq = 1", 1, id="actor"),
        pytest.param(
            "UPDATE ledger SET data = '{\"n\": 99}' WHERE organisation_id = 'alfa' AND seq = 10", 10, id="data"
        ),
        pytest.param("UPDATE ledger SET case_id = NULL WHERE organisation_id = 'alfa' AND seq = 5", 5, id="case"),
        pytest.param("UPDATE ledger SET hash = 'x' WHERE organisation_id = 'alfa' AND seq = 3", 3, id="hash"),
        pytest.param("UPDATE ledger SET hash = NULL WHERE organisation_id = 'alfa' AND seq = 3", 3, id="no hash"),
        pytest.param("DELETE FROM ledger WHERE organisation_id = 'alfa' AND seq = 6", 6, id="removed"),
        pytest.param("DELETE FROM ledger WHERE organisation_id = 'alfa' AND seq = 1", 1, id="first removed"),
        pytest.param("UPDATE ledger SET seq = seq + 1000 WHERE organisation_id = 'alfa' AND seq = 2", 2, id="moved"),
        pytest.param(
            "UPDATE ledger SET seq = NULL, hash = NULL WHERE organisation_id = 'alfa' AND seq = 7", 7, id="unsealed"
        ),
    ],
)
async def test_a_change_or_a_removal_is_found_where_it_happened(
    sealed: Database, statement: str, broken_at: int
) -> None:
    await tamper(sealed, statement)
    verdict = await verify(sealed, "alfa", KEY)
    assert not verdict.whole
    assert verdict.broken_at == broken_at
    assert (await verify(sealed, "beta", KEY)).whole


async def test_two_entries_that_changed_places_are_found(sealed: Database) -> None:
    for old, new in ((4, 900), (5, 4), (900, 5)):
        await tamper(sealed, f"UPDATE ledger SET seq = {new} WHERE organisation_id = 'alfa' AND seq = {old}")
    assert (await verify(sealed, "alfa", KEY)).broken_at == 4


async def test_an_entry_that_was_put_in_is_found(sealed: Database) -> None:
    """Room is made, and the hash of a neighbour is copied: without the key none fits."""
    for seq in range(10, 4, -1):
        await tamper(sealed, f"UPDATE ledger SET seq = {seq + 1} WHERE organisation_id = 'alfa' AND seq = {seq}")
    await tamper(
        sealed,
        "INSERT INTO ledger (id, organisation_id, seq, at, service, kind, actor, data, hash)"
        " SELECT 'put-in', organisation_id, 5, at, service, kind, actor, data, hash FROM ledger"
        " WHERE organisation_id = 'alfa' AND seq = 4",
    )
    assert (await verify(sealed, "alfa", KEY)).broken_at == 5


async def test_another_organisations_entry_does_not_fit_into_the_chain(sealed: Database) -> None:
    await tamper(sealed, "DELETE FROM ledger WHERE organisation_id = 'alfa' AND seq = 3")
    await tamper(sealed, "UPDATE ledger SET organisation_id = 'alfa' WHERE organisation_id = 'beta' AND seq = 3")
    assert (await verify(sealed, "alfa", KEY)).broken_at == 3


async def test_nothing_fits_under_another_key(sealed: Database) -> None:
    assert (await verify(sealed, "alfa", b"x" * 32)).broken_at == 1


async def test_what_comes_after_a_broken_place_is_sealed_on_and_stays_broken(sealed: Database) -> None:
    await tamper(sealed, "UPDATE ledger SET actor = 'handler:1' WHERE organisation_id = 'alfa' AND seq = 4")
    await write(sealed, "alfa", 2)
    assert await Sealer(sealed, KEY).seal("alfa") == 2
    verdict = await verify(sealed, "alfa", KEY)
    assert (verdict.broken_at, verdict.sealed, verdict.unsealed) == (4, 3, 0)

"""Does work survive its worker, and does a worker that comes back too late change nothing?"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import create_engine, text
from sqlalchemy.engine.url import make_url
from sqlmodel import col, select, update

from shared.clock import utc_now
from shared.database import Database, WriteSession
from shared.engine import Engine, workflow_id
from shared.ids import new_id
from shared.leases import Attempt, LeaseLost, Work, keep, renew, settle, sweep
from tests.contract.engine_worker import KIND, ORGANISATION, QUEUE, Base, Task

ROOT = Path(__file__).parents[2]
MINUTE = timedelta(minutes=1)


class Shop:
    """A database with the table, an engine that is not started yet, and what was handed to a person."""

    def __init__(self, url: str, version: str = "1") -> None:
        self.url = url
        self.database = Database(url)
        self.engine = Engine(url, queues=[QUEUE], application_version=version)
        self.given_up: list[Attempt] = []
        self.work = Work(KIND, Task, self.give_up, patience=MINUTE, most_attempts=3, partition="system")

    async def give_up(self, session: WriteSession, attempt: Attempt) -> None:
        await session.exec(update(Task).where(col(Task.id) == attempt.id).values(result="a person's"))
        self.given_up.append(attempt)

    async def order(self, *, enqueue: bool = True) -> str:
        """Insert a row with its first lease and enqueue attempt 1."""
        id = new_id()
        async with self.database.write(ORGANISATION) as session:
            session.add(Task(organisation_id=ORGANISATION, id=id, lease_until=utc_now() + MINUTE))
            await session.flush()
            if enqueue:
                await self.engine.enqueue(session, KIND, organisation_id=ORGANISATION, id=id, partition="crm")
        return id

    async def row(self, id: str) -> Task:
        async with self.database.read(ORGANISATION) as session:
            return (await session.exec(select(Task).where(Task.id == id))).one()

    async def lapse(self, id: str) -> None:
        """Let the lease have run out."""
        async with self.database.write(ORGANISATION) as session:
            await session.exec(
                update(Task).where(col(Task.id) == id).values(lease_until=utc_now() - timedelta(seconds=1))
            )

    async def heal(self) -> int:
        return await sweep(self.database, self.engine, self.work, now=utc_now())

    async def settle(self, id: str, number: int, result: str) -> bool:
        async with self.database.write(ORGANISATION) as session:
            return await settle(session, Task, Attempt(ORGANISATION, id, number), result=result)

    def status(self, id: str, attempt: int) -> str | None:
        sqlite = self.database.dialect == "sqlite"
        url = make_url(self.url).set(drivername="sqlite" if sqlite else "postgresql+psycopg")
        system = create_engine(url)
        try:
            with system.connect() as connection:
                statement = f"SELECT status FROM {'' if sqlite else 'dbos.'}workflow_status WHERE workflow_uuid = :id"
                found: str | None = connection.execute(text(statement), {"id": workflow_id(KIND, id, attempt)}).scalar()
                return found
        finally:
            system.dispose()


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Shop]:
    """A shop whose table exists."""
    shop = Shop(database_url)
    async with shop.database.write(None) as session:
        await (await session.connection()).run_sync(Base.metadata.create_all)
    yield shop
    await shop.engine.stop(grace=1)
    await shop.database.close()


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


# --- a worker that fails, freezes or dies ----------------------------------------------------------------------------


async def test_a_frozen_attempt_is_replaced_and_what_it_writes_too_late_changes_nothing(shop: Shop) -> None:
    frozen, results = asyncio.Event(), dict[int, bool]()

    async def handler(_organisation: str, id: str, number: int) -> None:
        if number == 1:
            frozen.set()
            with pytest.raises(asyncio.CancelledError):  # this process sees that it was withdrawn; a frozen one may not
                await asyncio.sleep(60)
        results[number] = await shop.settle(id, number, f"by {number}")

    shop.engine.on(KIND, handler, queue=QUEUE.name)
    await shop.engine.start()
    id = await shop.order()
    await frozen.wait()
    assert await shop.heal() == 0, "its lease still runs"
    await shop.lapse(id)
    assert await shop.heal() == 1
    await until(lambda: len(results) == 2)
    assert results == {1: False, 2: True}
    row = await shop.row(id)
    assert (row.attempt, row.result, row.lease_until) == (2, "by 2", None)
    assert await shop.heal() == 0


async def test_a_failed_attempt_is_tried_again_and_at_last_given_to_a_person(shop: Shop) -> None:
    tried: list[int] = []

    async def handler(_organisation: str, _id: str, number: int) -> None:
        tried.append(number)
        raise ConnectionError

    shop.engine.on(KIND, handler, queue=QUEUE.name)
    await shop.engine.start()
    id = await shop.order()
    for number in (1, 2, 3):
        await until(lambda number=number: shop.status(id, number) == "ERROR")  # type: ignore[misc]
        await shop.lapse(id)
        with structlog.testing.capture_logs() as logs:
            assert await shop.heal() == 1
        assert [entry["event"] for entry in logs] == ["lease.given_up" if number == 3 else "lease.expired"]
    assert tried == [1, 2, 3]
    assert shop.given_up == [Attempt(ORGANISATION, id, 3)]
    row = await shop.row(id)
    assert (row.attempt, row.lease_until, row.result) == (3, None, "a person's")
    assert await shop.heal() == 0


async def test_healing_is_one_transaction(shop: Shop) -> None:
    async def handler(_organisation: str, _id: str, _number: int) -> None:
        await asyncio.sleep(60)

    async def breaks(_session: WriteSession, _attempt: Attempt) -> None:
        raise RuntimeError

    shop.engine.on(KIND, handler, queue=QUEUE.name)
    await shop.engine.start()
    id = await shop.order()
    await until(lambda: shop.status(id, 1) == "PENDING")
    await shop.lapse(id)
    with pytest.raises(RuntimeError):
        await sweep(
            shop.database, shop.engine, Work(KIND, Task, breaks, most_attempts=1, partition="system"), now=utc_now()
        )
    assert (await shop.row(id)).lease_until is not None
    assert shop.status(id, 1) == "PENDING"


async def test_work_of_a_dead_worker_frees_its_partition_when_it_is_replaced(shop: Shop) -> None:
    done: list[tuple[str, int]] = []

    async def handler(_organisation: str, id: str, number: int) -> None:
        done.append((id, number))

    shop.engine.on(KIND, handler, queue=QUEUE.name)
    await shop.engine.start()
    await shop.engine.stop()
    dead = await shop.order()
    sqlite = shop.database.dialect == "sqlite"
    async with shop.database.write(None) as session:
        await (await session.connection()).execute(
            text(f"UPDATE {'' if sqlite else 'dbos.'}workflow_status SET status = 'PENDING', executor_id = 'dead'")
        )
    await shop.engine.start()
    waiting = await shop.order()
    await asyncio.sleep(0.5)
    assert done == [], "the dead worker holds the only slot of the partition"
    await shop.lapse(dead)
    assert await shop.heal() == 1
    await until(lambda: len(done) == 2)
    assert sorted(done) == sorted([(dead, 2), (waiting, 1)])


async def test_work_that_another_version_left_is_done_when_its_lease_runs_out(shop: Shop) -> None:
    done: list[tuple[str, int]] = []

    async def handler(_organisation: str, id: str, number: int) -> None:
        done.append((id, number))

    newer = Shop(shop.url, version="2")
    for each in (shop, newer):
        each.engine.on(KIND, handler, queue=QUEUE.name)
    await shop.engine.start()
    await shop.engine.stop()
    id = await shop.order()
    try:
        await newer.engine.start()
        await asyncio.sleep(0.3)
        assert done == []
        await newer.lapse(id)
        assert await newer.heal() == 1
        await until(lambda: done == [(id, 2)])
    finally:
        await newer.engine.stop(grace=1)
        await newer.database.close()


async def test_many_rows_heal_in_bounded_transactions(shop: Shop) -> None:
    async def handler(_organisation: str, id: str, number: int) -> None:
        await shop.settle(id, number, "done")

    shop.engine.on(KIND, handler, queue=QUEUE.name)
    await shop.engine.start()
    ids = [await shop.order(enqueue=False) for _ in range(7)]
    for id in ids:
        await shop.lapse(id)
    assert await sweep(shop.database, shop.engine, shop.work, now=utc_now(), most=3) == 7
    await until(lambda: all(shop.status(id, 2) == "SUCCESS" for id in ids))


async def test_two_processes_that_sweep_at_once_give_one_new_attempt(shop: Shop) -> None:
    shop.engine.on(KIND, lambda *_: asyncio.sleep(0), queue=QUEUE.name)
    await shop.engine.start()
    id = await shop.order()
    await shop.lapse(id)
    other = Shop(shop.url)
    other.engine.on(KIND, lambda *_: asyncio.sleep(0), queue=QUEUE.name)
    assert sorted(await asyncio.gather(shop.heal(), other.heal())) == [0, 1]
    assert (await shop.row(id)).attempt == 2
    await other.database.close()


class Worker:
    """A worker process."""

    def __init__(self, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.engine_worker", url, "60"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def says(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            return (await asyncio.to_thread(self.process.stdout.readline)).strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
async def second(shop: Shop) -> AsyncIterator[list[Any]]:
    """Makes this process ready to be the second worker, which writes at once; yields what it wrote."""
    wrote: list[Any] = []

    async def handler(_organisation: str, id: str, number: int) -> None:
        wrote.append((number, await shop.settle(id, number, f"second {number}")))

    shop.engine.on(KIND, handler, queue=QUEUE.name)
    yield wrote


async def test_the_work_of_a_killed_process_is_done_by_another(shop: Shop, second: list[Any]) -> None:
    await shop.engine.start()
    await shop.engine.stop()
    id = await shop.order()
    worker = Worker(shop.url)
    try:
        assert await worker.says() == "working 1"
        worker.signal(signal.SIGKILL)
        worker.process.wait(10)
        await shop.engine.start()
        await asyncio.sleep(0.3)
        assert second == [], "its lease still runs"
        await shop.lapse(id)
        assert await shop.heal() == 1
        await until(lambda: bool(second))
    finally:
        worker.end()
    assert second == [(2, True)]
    assert (await shop.row(id)).result == "second 2"


async def test_a_process_that_was_frozen_wakes_up_and_changes_nothing(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    async with shop.database.write(None) as session:
        await (await session.connection()).run_sync(Base.metadata.create_all)
    wrote: list[Any] = []

    async def handler(_organisation: str, id: str, number: int) -> None:
        wrote.append((number, await shop.settle(id, number, f"second {number}")))

    shop.engine.on(KIND, handler, queue=QUEUE.name)
    await shop.engine.start()
    await shop.engine.stop()
    id = await shop.order()
    worker = Worker(postgres_url)
    try:
        assert await worker.says() == "working 1"
        worker.signal(signal.SIGSTOP)
        await shop.engine.start()
        await shop.lapse(id)
        assert await shop.heal() == 1
        await until(lambda: bool(wrote))
        worker.signal(signal.SIGCONT)
        worker.go_on()
        assert await worker.says() == "wrote False"
    finally:
        worker.end()
    assert wrote == [(2, True)]
    row = await shop.row(id)
    assert (row.attempt, row.result) == (2, "second 2")
    assert [shop.status(id, number) for number in (1, 2)] == ["CANCELLED", "SUCCESS"]
    await shop.engine.stop(grace=1)
    await shop.database.close()


# --- keeping a lease -------------------------------------------------------------------------------------------------


async def test_a_lease_is_renewed_while_the_work_goes_on(shop: Shop) -> None:
    id = await shop.order(enqueue=False)
    before = (await shop.row(id)).lease_until
    lease = timedelta(seconds=0.3)
    async with keep(shop.database, Task, Attempt(ORGANISATION, id, 1), lease=lease):
        await asyncio.sleep(0.5)
        row = await shop.row(id)
        assert before is not None
        assert row.lease_until is not None
        assert utc_now() < row.lease_until < utc_now() + lease
    assert await shop.settle(id, 1, "done")
    assert not await shop.settle(id, 1, "done twice")


async def test_work_whose_attempt_counts_no_more_does_not_begin(shop: Shop) -> None:
    id = await shop.order(enqueue=False)
    with pytest.raises(LeaseLost):
        async with keep(shop.database, Task, Attempt(ORGANISATION, id, 2), lease=MINUTE):
            pytest.fail("it began")
    with pytest.raises(LeaseLost):
        async with keep(shop.database, Task, Attempt("another", id, 1), lease=MINUTE):
            pytest.fail("it began")


async def test_work_that_loses_its_lease_is_interrupted(shop: Shop) -> None:
    id = await shop.order(enqueue=False)
    with pytest.raises(LeaseLost) as lost:
        async with keep(shop.database, Task, Attempt(ORGANISATION, id, 1), lease=timedelta(seconds=0.3)):
            assert await shop.settle(id, 1, "called off")
            await asyncio.sleep(30)
            pytest.fail("it went on")
    assert lost.value.code == "lease-lost"


async def test_a_time_out_of_the_work_itself_stays_what_it_is(shop: Shop) -> None:
    id = await shop.order(enqueue=False)
    with pytest.raises(TimeoutError):
        async with keep(shop.database, Task, Attempt(ORGANISATION, id, 1), lease=MINUTE):
            raise TimeoutError


async def test_a_renewal_that_fails_is_tried_again_until_the_lease_has_run_out(sqlite_url: str) -> None:
    shop = Shop(sqlite_url)
    async with shop.database.write(None) as session:
        await (await session.connection()).run_sync(Base.metadata.create_all)
    id = await shop.order(enqueue=False)
    with structlog.testing.capture_logs() as logs, pytest.raises(LeaseLost):
        async with keep(shop.database, Task, Attempt(ORGANISATION, id, 1), lease=timedelta(seconds=0.3)):
            async with shop.database.write(None) as session:
                await (await session.connection()).run_sync(Base.metadata.drop_all)
            await asyncio.sleep(30)
    failed = [entry for entry in logs if entry["event"] == "lease.not_renewed"]
    assert len(failed) >= 2
    assert failed[0]["error"] == "OperationalError"
    await shop.database.close()


async def test_renewing_writes_what_else_is_known(shop: Shop) -> None:
    id = await shop.order(enqueue=False)
    async with shop.database.write(ORGANISATION) as session:
        assert await renew(session, Task, Attempt(ORGANISATION, id, 1), utc_now() + MINUTE, result="half")
        assert not await renew(session, Task, Attempt(ORGANISATION, id, 7), utc_now() + MINUTE, result="never")
    assert (await shop.row(id)).result == "half"

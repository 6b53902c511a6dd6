"""Whose attempt counts? The one that the row names, for as long as its lease is renewed.

A row of work has `id`, `organisation_id`, `attempt` (from 1) and `lease_until` (an instant; None: nothing to be done).
Whoever inserts it sets a first lease and enqueues attempt 1 in the same transaction. The handler works inside `keep`
and ends with `settle`, or with `renew` until the instant at which it wants to be tried again. When a lease runs out,
for whatever reason (worker dead or frozen, attempt failed, work stranded), `sweep` withdraws the old attempt, raises
`attempt` and enqueues it, in one transaction. `attempt` is the fencing token: every write of a handler is conditional
on it, so a worker that wakes up too late changes nothing (design §6).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

import structlog
from sqlalchemy import null, update
from sqlmodel import SQLModel, select

from shared.clock import Clock, utc_now
from shared.database import Database, WriteSession
from shared.engine import Engine, StepFailed

log = structlog.get_logger()


class LeaseLost(StepFailed):
    """Another attempt has taken over, or the work was called off: stop, and change nothing more."""

    def __init__(self) -> None:
        super().__init__("lease-lost")


@dataclass(frozen=True)
class Attempt:
    """One attempt at one row."""

    organisation_id: str
    id: str
    number: int


@dataclass(frozen=True)
class Work:
    """How one kind of row is healed.

    `patience` is how long a newly enqueued attempt may wait for its start; after `most_attempts` the row is given up:
    `give_up(session, attempt)` hands it to a person, in the same transaction. `partition` names the column with the
    system's id.
    """

    kind: str
    table: type[SQLModel]
    give_up: Callable[[WriteSession, Attempt], Awaitable[None]]
    patience: timedelta = timedelta(minutes=15)
    most_attempts: int = 10
    partition: str | None = None


async def renew(
    session: WriteSession, table: type[SQLModel], attempt: Attempt, until: datetime, /, **values: Any
) -> bool:
    """Whether the attempt still counts; if so its lease now runs `until`, and `values` are written."""
    return await _write(session, table, attempt, lease_until=until, **values)


async def settle(session: WriteSession, table: type[SQLModel], attempt: Attempt, /, **values: Any) -> bool:
    """Whether the attempt still counted; if so its work is over and `values` are written."""
    return await _write(session, table, attempt, lease_until=None, **values)


@asynccontextmanager
async def keep(
    database: Database,
    table: type[SQLModel],
    attempt: Attempt,
    *,
    lease: timedelta,
    clock: Clock = utc_now,
    renewed: bool = False,
) -> AsyncIterator[None]:
    """Renew the lease while the block runs, at once unless the caller just `renewed` it.

    Raises LeaseLost before or in the block once the attempt does not count.
    """
    if not renewed:
        async with database.write(attempt.organisation_id) as session:
            if not await renew(session, table, attempt, clock() + lease):
                raise LeaseLost
    done = asyncio.Event()
    limit = asyncio.timeout(None)
    try:
        async with limit:
            keeper = asyncio.create_task(_keep_on(database, table, attempt, lease, clock, done, limit))
            try:
                yield
            finally:
                done.set()
                await asyncio.wait({keeper})
    except TimeoutError:
        if limit.expired():
            raise LeaseLost from None
        raise


async def sweep(database: Database, engine: Engine, work: Work, *, now: datetime, most: int = 50) -> int:
    """Give every row whose lease ran out a new attempt; returns how many rows changed. `most` in one transaction."""
    healed = 0
    while True:
        async with database.write(None) as session:
            found = await _expired(session, work, now, most)
            for attempt, partition in found:
                healed += await _heal(session, engine, work, attempt, partition, now)
        if len(found) < most:
            return healed


async def _heal(
    session: WriteSession, engine: Engine, work: Work, attempt: Attempt, partition: str | None, now: datetime
) -> bool:
    if attempt.number >= work.most_attempts:
        if not await settle(session, work.table, attempt):
            return False
        await engine.withdraw(session, work.kind, id=attempt.id, attempt=attempt.number)
        await work.give_up(session, attempt)
        log.warning("lease.given_up", kind=work.kind, id=attempt.id, attempts=attempt.number)
        return True
    following = attempt.number + 1
    if not await renew(session, work.table, attempt, now + work.patience, attempt=following):
        return False
    await engine.replace(
        session,
        work.kind,
        organisation_id=attempt.organisation_id,
        id=attempt.id,
        attempt=following,
        partition=partition,
    )
    log.info("lease.expired", kind=work.kind, id=attempt.id, attempt=following)
    return True


async def _expired(session: WriteSession, work: Work, now: datetime, most: int) -> list[tuple[Attempt, str | None]]:
    row = cast("Any", work.table)
    partition = null() if work.partition is None else getattr(row, work.partition)
    found = await session.exec(
        select(row.organisation_id, row.id, row.attempt, partition)
        .where(row.lease_until < now)
        .order_by(row.lease_until)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    return [(Attempt(*key), system) for *key, system in found.all()]


async def _write(session: WriteSession, table: type[SQLModel], attempt: Attempt, /, **values: Any) -> bool:
    row = cast("Any", table)
    result = await session.exec(
        update(table)
        .where(
            row.organisation_id == attempt.organisation_id,
            row.id == attempt.id,
            row.attempt == attempt.number,
            row.lease_until.is_not(None),
        )
        .values(**values),
        execution_options={"synchronize_session": False},
    )
    return result.rowcount == 1


async def _keep_on(
    database: Database,
    table: type[SQLModel],
    attempt: Attempt,
    lease: timedelta,
    clock: Clock,
    done: asyncio.Event,
    limit: asyncio.Timeout,
) -> None:
    """Renew three times a lease until `done`; on loss let `limit` run out, which interrupts the block."""
    until = clock() + lease
    while not await _within(done, lease.total_seconds() / 3):
        following = clock() + lease
        try:
            async with database.write(attempt.organisation_id) as session:
                kept = await renew(session, table, attempt, following)
            until = following
        except Exception as error:  # noqa: BLE001 - the next try may reach the database, while the lease still runs
            log.warning("lease.not_renewed", id=attempt.id, error=type(error).__name__)
            kept = clock() < until
        if not kept:
            limit.reschedule(asyncio.get_running_loop().time())
            return


async def _within(done: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), seconds)
    return done.is_set()

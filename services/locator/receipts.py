"""How does intake learn what became of a task? Receipts: written with the fact, delivered after it, repeated until taken.

Ids, counts, times and enums only (design §1.1). They may arrive in any order and more than once: that one has arrived
is noted in batches, so a crash in between delivers it again.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta

import structlog
from sqlalchemy import delete, insert, tuple_, update
from sqlmodel import col, select

from services.locator.desk import Desk
from services.locator.tables import Receipt
from shared import messages
from shared.database import WriteSession
from shared.problems import Gone, NotFound, Problem

log = structlog.get_logger()

GRACE = timedelta(seconds=3)
"""Whoever wrote a receipt delivers it at once; the sweep leaves it alone so long."""
LONGEST = timedelta(minutes=10)


def new(order_id: str, task_id: str, attempt: int, body: messages.Receipt, wait: timedelta) -> Receipt:
    """Return a receipt that is to be kept, and delivered by the sweep unless it has arrived after `wait`."""
    return Receipt(
        task_id=task_id,
        attempt=attempt,
        organisation_id=body.organisation_id,
        order_id=order_id,
        body=body.model_dump(mode="json"),
        next_at=body.finished_at + wait,
    )


async def keep(session: WriteSession, receipts: Sequence[Receipt]) -> None:
    """Keep receipts until they have arrived, in the transaction of what they tell."""
    if receipts:
        await session.exec(insert(Receipt), params=[receipt.model_dump() for receipt in receipts])


async def drop(session: WriteSession, order_id: str) -> None:
    """Forget what was not delivered: whoever cancelled the order does not ask for it any more."""
    await session.exec(delete(Receipt).where(col(Receipt.order_id) == order_id, col(Receipt.delivered_at).is_(None)))


async def deliver(desk: Desk, receipts: Iterable[Receipt]) -> None:
    """Deliver what was just written. A failure is left to the sweep."""
    for receipt in receipts:
        await _deliver(desk, receipt)


async def sweep(desk: Desk, *, most: int = 200) -> None:
    """Note what has arrived, then deliver what has not and is due."""
    await note(desk)
    async with desk.database.read(None) as session:
        query = (
            select(Receipt)
            .where(col(Receipt.delivered_at).is_(None), col(Receipt.next_at) <= desk.now())
            .order_by(col(Receipt.next_at))
            .limit(most)
        )
        waiting = (await session.exec(query)).all()
    await deliver(desk, waiting)
    await note(desk)


async def note(desk: Desk) -> None:
    """Write which receipts have arrived."""
    arrived, desk.arrived[:] = list(desk.arrived), []
    if not arrived:
        return
    async with desk.database.write(None) as session:
        for start in range(0, len(arrived), 200):
            batch = arrived[start : start + 200]
            await session.exec(
                update(Receipt)
                .where(tuple_(col(Receipt.task_id), col(Receipt.attempt)).in_(batch))
                .values(delivered_at=desk.now())
            )


async def _deliver(desk: Desk, receipt: Receipt) -> None:
    path = f"/orders/{receipt.order_id}/receipts/{receipt.task_id}/{receipt.attempt}"
    body = messages.Receipt.model_validate(receipt.body)
    try:
        await desk.post.send("intake", "PUT", path, organisation=receipt.organisation_id, body=body)
    except (NotFound, Gone):
        # Intake knows no such order any more: nobody waits for this.
        log.warning("receipt.unwanted", order=receipt.order_id, task=receipt.task_id)
    except Problem as problem:
        log.info("receipt.put_off", order=receipt.order_id, task=receipt.task_id, code=problem.problem_code)
        await _put_off(desk, receipt)
        return
    desk.arrived.append((receipt.task_id, receipt.attempt))


async def _put_off(desk: Desk, receipt: Receipt) -> None:
    delay = min(LONGEST, timedelta(seconds=2 ** min(receipt.tries, 20)))
    async with desk.database.write(receipt.organisation_id) as session:
        await session.exec(
            update(Receipt)
            .where(col(Receipt.task_id) == receipt.task_id, col(Receipt.attempt) == receipt.attempt)
            .values(tries=receipt.tries + 1, next_at=desk.now() + delay)
        )

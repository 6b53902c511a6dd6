"""How does intake learn what became of a task? Receipts: written with the fact, delivered after it, repeated until taken.

Ids, counts, times and enums only (design §1.1). They may arrive in any order and more than once.
"""

from datetime import timedelta

import structlog
from sqlalchemy import delete, insert, update
from sqlmodel import col, select

from services.locator.desk import Desk
from services.locator.tables import Receipt
from shared import messages
from shared.database import WriteSession
from shared.problems import Gone, NotFound, Problem

log = structlog.get_logger()

LONGEST = timedelta(minutes=10)


async def write(session: WriteSession, order_id: str, task_id: str, attempt: int, body: messages.Receipt) -> None:
    """Keep a receipt until it has arrived, in the transaction of what it tells."""
    await session.exec(
        insert(Receipt).values(
            task_id=task_id,
            attempt=attempt,
            organisation_id=body.organisation_id,
            order_id=order_id,
            body=body.model_dump(mode="json"),
            next_at=body.finished_at,
        )
    )


async def drop(session: WriteSession, order_id: str) -> None:
    """Forget what was not delivered: whoever cancelled the order does not ask for it any more."""
    await session.exec(delete(Receipt).where(col(Receipt.order_id) == order_id, col(Receipt.delivered_at).is_(None)))


async def deliver(desk: Desk, organisation: str, task_id: str) -> None:
    """Deliver what waits of one task. A failure is left to the sweep."""
    async with desk.database.read(organisation) as session:
        query = select(Receipt).where(Receipt.task_id == task_id, col(Receipt.delivered_at).is_(None))
        waiting = (await session.exec(query)).all()
    for receipt in waiting:
        await _deliver(desk, receipt)


async def sweep(desk: Desk, *, most: int = 200) -> None:
    """Deliver what waits of all tasks and is due."""
    async with desk.database.read(None) as session:
        query = (
            select(Receipt)
            .where(col(Receipt.delivered_at).is_(None), col(Receipt.next_at) <= desk.now())
            .order_by(col(Receipt.next_at))
            .limit(most)
        )
        waiting = (await session.exec(query)).all()
    for receipt in waiting:
        await _deliver(desk, receipt)


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
        delay = min(LONGEST, timedelta(seconds=2 ** min(receipt.tries, 20)))
        await _note(desk, receipt, tries=receipt.tries + 1, next_at=desk.now() + delay)
        return
    await _note(desk, receipt, delivered_at=desk.now())


async def _note(desk: Desk, receipt: Receipt, **values: object) -> None:
    async with desk.database.write(receipt.organisation_id) as session:
        await session.exec(
            update(Receipt)
            .where(col(Receipt.task_id) == receipt.task_id, col(Receipt.attempt) == receipt.attempt)
            .values(**values)
        )

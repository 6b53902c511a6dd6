"""How does a case's work leave intake? An order row, sent by the engine until the receivers have it."""

import base64
from datetime import datetime, timedelta

from sqlalchemy import update
from sqlmodel import col, select

from services.intake.desk import Desk
from services.intake.tables import Case, Identifier, Order
from shared import messages
from shared.database import WriteSession
from shared.identifiers import digest
from shared.ids import new_id
from shared.problems import NotFound, Problem
from shared.vocabulary import EXECUTED, Assurance, Language, Right

SEND, RELEASE, CANCEL = "intake.order", "intake.release", "intake.cancel"
LEASE = timedelta(minutes=2)
"""A sent order that reports neither success nor failure within this time is tried again."""


async def start(desk: Desk, session: WriteSession, case: Case) -> str:
    """Insert a new order for the case and enqueue its sending, in the caller's transaction; return its id.

    Orders that the case had before are cancelled: what they found is not released.
    """
    order_id, now = new_id(), desk.now()
    verb = "export" if Right(case.right) in EXECUTED else "person"
    await cancel(desk, session, case)
    await session.put(Order, {
        "id": order_id, "organisation_id": case.organisation_id, "case_id": case.id, "verb": verb, "state": "pending",
        "attempt": 1, "next_at": now + LEASE, "at": now,
    })  # fmt: skip
    await desk.engine.enqueue(session, SEND, organisation_id=case.organisation_id, id=order_id, attempt=1)
    return order_id


async def cancel(desk: Desk, session: WriteSession, case: Case) -> None:
    """Cancel the orders of a case and tell the others to forget what they hold for them."""
    if case.order_id is None:
        return
    now = desk.now()
    done = await session.exec(
        update(Order)
        .where(col(Order.id) == case.order_id, col(Order.state).not_in(("sealed", "cancelled", "cancelling")))
        .values(state="cancelling", attempt=Order.attempt + 1, next_at=now + LEASE)
        .returning(col(Order.attempt))
    )
    attempt = done.scalar_one_or_none()
    if attempt is not None:
        await desk.engine.enqueue(
            session, CANCEL, organisation_id=case.organisation_id, id=case.order_id, attempt=attempt
        )


async def read(desk: Desk, organisation: str, order_id: str) -> tuple[Order, Case]:
    """Return an order with its case. Raises `NotFound`."""
    async with desk.database.read(organisation) as session:
        order = (await session.exec(select(Order).where(Order.id == order_id))).first()
        if order is None:
            raise NotFound
        return order, (await session.exec(select(Case).where(Case.id == order.case_id))).one()


async def send(desk: Desk, organisation: str, order_id: str, attempt: int) -> None:
    """Engine handler: give the exporter its plan, then the locator its order. Both are idempotent by id."""
    order, case = await read(desk, organisation, order_id)
    if order.state != "pending" or order.attempt != attempt:
        return
    plan, message = await _messages(desk, order, case)
    try:
        await desk.post.send("exporter", "PUT", f"/packages/{order_id}", organisation=organisation, body=plan)
        await desk.post.send("locator", "PUT", f"/orders/{order_id}", organisation=organisation, body=message)
    except Problem:
        await put_off(desk, order)
        raise
    async with desk.database.write(organisation) as session:
        # A receipt may have come before this line: only a pending order becomes sent.
        await session.exec(
            update(Order).where(col(Order.id) == order_id, col(Order.state) == "pending").values(state="sent")
        )


async def _messages(desk: Desk, order: Order, case: Case) -> tuple[messages.PackagePlan, messages.Order]:
    organisation, key = case.organisation_id, binding_key(desk, order)
    async with desk.database.read(organisation) as session:
        rows = (await session.exec(select(Identifier).where(Identifier.case_id == case.id))).all()
    # A claimed identifier never locates, except where the law wants the effect at once (21(2), 7(3)).
    least = Assurance.CLAIMED if case.identity == "waived" else Assurance.CONTROLLED
    identifiers = tuple(
        messages.Identifier(
            type=row.type,
            value=desk.sealer.open(organisation, "identifier", row.id, row.value).decode(),
            assurance=Assurance(row.assurance),
        )
        for row in rows
        if row.assurance >= least
    )
    common = {
        "organisation_id": organisation, "case_id": case.id, "right": Right(case.right),
        "language": Language(case.language), "register_version": case.register_version, "binding_key": base64.b64encode(key).decode(),
    }  # fmt: skip
    plan = messages.PackagePlan(
        **common,
        reference=case.reference,
        proofs=tuple(sorted(digest(key, item.type, item.value) for item in identifiers)),
    )
    message = messages.Order(
        **common,
        verb="export" if order.verb == "export" else "person",
        package_id=order.id,
        name=desk.person(case)["name"],
        identifiers=identifiers,
    )
    return plan, message


def binding_key(desk: Desk, order: Order) -> bytes:
    """Return the order's own key (32 bytes) for the digests that bind records to the person."""
    return bytes.fromhex(desk.sealer.index(order.organisation_id, "binding", order.id))


async def withdraw(desk: Desk, organisation: str, order_id: str, attempt: int) -> None:
    """Engine handler: tell the locator and the exporter to stop and forget. An unknown id is fine: nothing to forget."""
    order, _case = await read(desk, organisation, order_id)
    if order.state != "cancelling" or order.attempt != attempt:
        return
    for service, path in (("locator", f"/orders/{order_id}"), ("exporter", f"/packages/{order_id}")):
        try:
            await desk.post.send(service, "DELETE", path, organisation=organisation)
        except NotFound:
            continue
        except Problem:
            await put_off(desk, order)
            raise
    async with desk.database.write(organisation) as session:
        await session.exec(update(Order).where(col(Order.id) == order_id).values(state="cancelled"))


async def put_off(desk: Desk, order: Order) -> None:
    """After a failure: try again in 5 s, 10 s, 20 s … at most 10 minutes; the sweep does it."""
    delay = timedelta(seconds=min(600, 5 * 2 ** min(order.attempt, 7)))
    async with desk.database.write(order.organisation_id) as session:
        await session.exec(
            update(Order)
            .where(col(Order.id) == order.id, col(Order.attempt) == order.attempt)
            .values(next_at=desk.now() + delay)
        )


KIND_OF_STATE = {"pending": SEND, "releasing": RELEASE, "cancelling": CANCEL}


async def sweep(desk: Desk, *, most: int = 100) -> None:
    """Enqueue again what is due: its attempt failed, or its worker never came back."""
    now = desk.now()
    async with desk.database.read(None) as session:
        due = (
            select(Order.organisation_id, Order.id, Order.state, Order.attempt)
            .where(col(Order.state).in_(KIND_OF_STATE), col(Order.next_at) <= now)
            .limit(most)
        )
        rows = (await session.exec(due)).all()
    for organisation, order_id, state, attempt in rows:
        await _again(desk, organisation, order_id, state, attempt, now)


async def _again(desk: Desk, organisation: str, order_id: str, state: str, attempt: int, now: datetime) -> None:
    async with desk.database.write(organisation) as session:
        raised = await session.exec(
            update(Order)
            .where(col(Order.id) == order_id, col(Order.state) == state, col(Order.attempt) == attempt)
            .values(attempt=attempt + 1, next_at=now + LEASE)
        )
        if raised.rowcount == 1:  # else another process's sweep, or the worker itself, was faster
            await desk.engine.replace(
                session, KIND_OF_STATE[state], organisation_id=organisation, id=order_id, attempt=attempt + 1
            )

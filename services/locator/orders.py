"""How does a case's search begin, go on from round to round, and end? Orders, each taken once.

Every step is one transaction under the order's row lock: what was found out, the tasks that follow from it, their
places in the engine's queue, and the facts that intake is to get. The last step closes the order and destroys what it
knew of the person.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import insert, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm.attributes import set_committed_value
from sqlmodel import col, select

from services.locator import receipts, rounds, subject
from services.locator.desk import LOCATE, SERVICE, Desk
from services.locator.tables import Order, Receipt, Task
from shared import ledger, messages
from shared.database import WriteSession
from shared.ids import new_id
from shared.problems import Conflict, Forbidden, NotFound
from shared.register import Register
from shared.vocabulary import FINAL_TASK_STATES, TaskState

log = structlog.get_logger()

PARTITIONS = 6
"""Rate classes of the engine's queue that systems are spread over."""


class UnknownOrder(NotFound):
    """There is no such order here."""


class ForeignOrder(Forbidden):
    """An order is for the caller's own organisation."""


class OrderDiffers(Conflict):
    """Another order has this id."""

    code = "order-differs"


@dataclass(frozen=True)
class Ended:
    """How a task's attempt ended: what its row and its receipt tell."""

    task: Task
    attempt: int
    state: TaskState
    code: str | None = None
    groups: tuple[messages.GroupFacts, ...] = ()
    types: tuple[str, ...] = ()
    on_file: tuple[str, ...] = ()


# --- taking and cancelling -----------------------------------------------------------------------------------------


async def accept(desk: Desk, organisation: str, order_id: str, message: messages.Order) -> messages.Accepted:
    """Take an order and plan its first round; the same message again changes nothing.

    Raises `OrderDiffers`, `ForeignOrder`, `UnknownRegister`, `BadBindingKey`.
    """
    if message.organisation_id != organisation:
        raise ForeignOrder
    subject.binding_key(message.binding_key)
    register = await desk.registers.cited(organisation, message.register_version)
    fingerprint = desk.sealer.index(organisation, subject.PURPOSE, message.model_dump_json())
    known = await _known(desk, organisation, order_id, fingerprint)
    if known is not None:
        return known
    try:
        return await _open(desk, order_id, message, register, fingerprint)
    except IntegrityError:  # The same message came twice at once, and the other one was faster.
        known = await _known(desk, organisation, order_id, fingerprint)
        if known is None:
            raise OrderDiffers from None
        return known


async def _known(desk: Desk, organisation: str, order_id: str, fingerprint: str) -> messages.Accepted | None:
    async with desk.database.read(organisation) as session:
        order = (await session.exec(select(Order).where(Order.id == order_id))).first()
    if order is None:
        return None
    if order.fingerprint != fingerprint:
        raise OrderDiffers
    return messages.Accepted(order_id=order_id, state=order.state)


async def _open(
    desk: Desk, order_id: str, message: messages.Order, register: Register, fingerprint: str
) -> messages.Accepted:
    wrapped, sealed, sealer = subject.seal(desk, order_id, message)
    order = Order(
        id=order_id,
        organisation_id=message.organisation_id,
        case_id=message.case_id,
        package_id=message.package_id,
        right=message.right.value,
        verb=message.verb,
        language=message.language.value,
        register_version=message.register_version,
        fingerprint=fingerprint,
        data_key=wrapped,
        person=sealed,
        at=desk.now(),
    )
    nobody = subject.Person(message.name, subject.binding_key(message.binding_key), sealer, ())
    async with desk.database.write(message.organisation_id) as session:
        await session.exec(insert(Order).values(order.model_dump()))
        person = await subject.add(session, order, nobody, [(one, 0) for one in message.identifiers])
        await _tell(desk, session, order, "order.accepted", {"order": order_id, "verb": order.verb})
        await advance(desk, session, order, register, person, ())
    return messages.Accepted(order_id=order_id, state=order.state)


async def cancel(desk: Desk, organisation: str, order_id: str, *, actor: str) -> None:
    """Stop an order's tasks and destroy what it knew of the person. Again changes nothing."""
    async with desk.database.write(organisation) as session:
        order = await lock(session, order_id)
        if order is None:
            raise UnknownOrder
        if order.state != "open":
            return
        stopped = await session.exec(
            update(Task)
            .where(col(Task.order_id) == order_id, col(Task.state).not_in(FINAL_TASK_STATES))
            .values(state=TaskState.CANCELLED, lease_until=None, changed_at=desk.now())
            .returning(col(Task.id), col(Task.attempt))
        )
        for task_id, attempt in stopped.all():
            await desk.engine.withdraw(session, LOCATE, id=task_id, attempt=attempt)
        await receipts.drop(session, order_id)
        await _close(desk, session, order, "cancelled")
        await _tell(desk, session, order, "order.cancelled", {"order": order_id}, actor=actor)


# --- round by round ------------------------------------------------------------------------------------------------


async def lock(session: WriteSession, order_id: str) -> Order | None:
    """Return an order with its row locked: its tasks end one after the other, so that the last one knows it is."""
    return (await session.exec(select(Order).where(Order.id == order_id).with_for_update())).first()


async def advance(
    desk: Desk,
    session: WriteSession,
    order: Order,
    register: Register,
    person: subject.Person,
    ended: Sequence[Ended],
) -> list[Receipt]:
    """Make the tasks that follow from what is known now; close the order if none is left. The row is locked.

    `ended` are the attempts whose rows were just written; their receipts are written here, because the last one tells
    that the order is done. Returns the receipts, which the caller delivers after the commit.
    """
    tasks = await _standing(session, order.id)
    plan = _plan(desk, order, register, person, tasks)
    made = [await _make(desk, session, order, register, task) for task in plan.tasks]
    await _absorb(session, tasks, plan)
    told = [*ended, *(_end_of(task) for task in made if task.state != TaskState.QUEUED)]
    total = len(tasks) + len(made) if plan.located else None
    # Nobody waits to deliver what is written when an order is taken: intake is still talking to us. The sweep does it.
    wait = receipts.GRACE if ended else timedelta(0)
    written = await write_receipts(desk, session, order, told, total, wait=wait)
    if plan.located:
        await _close(desk, session, order, "located")
        await _tell(desk, session, order, "order.located", {"order": order.id, "tasks": total})
    return written


async def _standing(session: WriteSession, order_id: str) -> list[rounds.Standing]:
    """Return the order's tasks as planning sees them. Columns, not rows: an order may have hundreds, and as many steps."""
    columns: Any = (Task.id, Task.system, Task.round, Task.state, Task.identifiers, Task.doubtful)
    found = (await session.exec(select(*columns).where(Task.order_id == order_id).order_by(col(Task.id)))).all()
    return [
        rounds.Standing(id_, system, round_, TaskState(state), frozenset(identifiers), doubtful)
        for id_, system, round_, state, identifiers, doubtful in found
    ]


def _plan(
    desk: Desk, order: Order, register: Register, person: subject.Person, tasks: Sequence[rounds.Standing]
) -> rounds.Plan:
    known = [item.known for item in person.held]
    atlas = desk.registers.atlas(order.organisation_id, order.register_version, register)
    if order.verb == "person":
        return rounds.plan_person(atlas, known, tasks)
    return rounds.plan_search(atlas, known, tasks, desk.settings.limits)


async def _make(desk: Desk, session: WriteSession, order: Order, register: Register, new: rounds.NewTask) -> Task:
    connector, now = register.systems[new.system].connector, desk.now()
    queued, personal = new.state is TaskState.QUEUED, new.state is TaskState.NEEDS_PERSON
    task = Task(
        id=new_id(),
        organisation_id=order.organisation_id,
        order_id=order.id,
        case_id=order.case_id,
        system=new.system,
        round=new.round,
        verb=order.verb,
        right=order.right,
        state=new.state.value,
        # The receipt that hands a task to a person is attempt 1; what the person answers is attempt 2.
        attempt=2 if personal else 1,
        lease_until=now + desk.settings.patience if queued else None,
        partition=partition(order.organisation_id, new.system),
        code=new.code.value if new.code else None,
        identifiers=list(new.identifiers),
        respondent=connector.respondent if connector.kind == "manual" else None,
        at=now,
        changed_at=now,
    )
    await session.exec(insert(Task).values(task.model_dump()))
    if queued:
        await enqueue(desk, session, task)
    return task


def partition(organisation: str, system: str) -> str:
    """Return the engine's partition for a system: one of `PARTITIONS`, always the same.

    The engine asks its database once a partition, so one for each of a hundred systems would cost seconds. A system that
    hangs holds up the few that share its partition, no others; its own limits stand in its connector.
    """
    place = int.from_bytes(hashlib.sha256(f"{organisation}:{system}".encode()).digest()[:4]) % PARTITIONS
    return f"systems:{place}"


async def enqueue(desk: Desk, session: WriteSession, task: Task) -> None:
    """Start the task's present attempt once the transaction commits."""
    await desk.engine.enqueue(
        session,
        LOCATE,
        organisation_id=task.organisation_id,
        id=task.id,
        attempt=task.attempt,
        partition=task.partition,
    )


async def _absorb(session: WriteSession, tasks: Sequence[rounds.Standing], plan: rounds.Plan) -> None:
    for task in tasks:
        if task.id in plan.absorbed:
            both = sorted(task.identifiers.union(plan.absorbed[task.id]))
            await session.exec(update(Task).where(col(Task.id) == task.id).values(identifiers=both))


def _end_of(task: Task) -> Ended:
    return Ended(task, 1, TaskState(task.state), task.code)


async def tell(
    desk: Desk, session: WriteSession, ended: Ended, *, actor: str = "service:locator", records: int = 0
) -> None:
    """Enter in the ledger how an attempt ended, in the caller's transaction."""
    task = ended.task
    await ledger.record(
        session,
        organisation_id=task.organisation_id,
        service=SERVICE,
        kind=f"task.{ended.state.value}",
        actor=actor,
        case_id=task.case_id,
        data={
            "task": task.id, "attempt": ended.attempt, "system": task.system, "round": task.round, "records": records,
            "code": ended.code,
        },
        at=desk.now(),
    )  # fmt: skip


async def write_receipts(
    desk: Desk,
    session: WriteSession,
    order: Order,
    told: Iterable[Ended],
    total: int | None,
    *,
    wait: timedelta = receipts.GRACE,
) -> list[Receipt]:
    """Write what intake is to know. The last receipt of a finished order says so, and how many tasks there were."""
    items, written = list(told), []
    for place, item in enumerate(items, 1):
        last = total is not None and place == len(items)
        body = messages.Receipt(
            organisation_id=order.organisation_id,
            case_id=order.case_id,
            system=item.task.system,
            round=item.task.round,
            state=item.state,
            groups=item.groups,
            code=item.code,
            identifier_types=item.types,
            on_file=item.on_file,
            order_state="located" if last else "open",
            tasks=total if last else None,
            finished_at=desk.now(),
        )
        written.append(receipts.new(order.id, item.task.id, item.attempt, body, wait))
    await receipts.keep(session, written)
    return written


async def _close(desk: Desk, session: WriteSession, order: Order, state: str) -> None:
    """End an order: without its key, what was sealed is gone, in every copy of the database too."""
    await session.exec(
        update(Order)
        .where(col(Order.id) == order.id)
        .values(state=state, data_key=None, person=None, closed_at=desk.now())
    )
    await subject.forget(session, order.id)
    set_committed_value(order, "state", state)  # as the row has it: nothing is left to be written


async def _tell(
    desk: Desk, session: WriteSession, order: Order, kind: str, data: dict[str, Any], actor: str = "service:locator"
) -> None:
    await ledger.record(
        session,
        organisation_id=order.organisation_id,
        service=SERVICE,
        kind=kind,
        actor=actor,
        case_id=order.case_id,
        data=data,
        at=desk.now(),
    )

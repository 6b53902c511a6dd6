"""Which tasks wait for people, and what is there to do? Whoever reads a task sees whom it is about; the ledger says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import col, select

from services.locator import subject
from services.locator.desk import SERVICE, Desk
from services.locator.instructions import instructions
from services.locator.tables import Order, Task, Upload
from shared import ledger
from shared.database import ReadSession, WriteSession
from shared.problems import Conflict, NotFound
from shared.register import Register, System
from shared.vocabulary import Right, TaskState


class UnknownTask(NotFound):
    """There is no such task here."""


class TaskNotOpen(Conflict):
    """This task does not wait for a person."""

    code = "task-not-open"


@dataclass(frozen=True)
class Reader:
    """Who looks. A respondent sees only what the register gave them to answer."""

    organisation: str
    actor: str
    respondent: str | None = None
    """Their account, if they may see no other tasks than their own."""

    def may_see(self, task: Task) -> bool:
        return self.respondent is None or task.respondent == self.respondent


# --- finding one ------------------------------------------------------------------------------------------------------


async def find(session: ReadSession | WriteSession, reader: Reader, task_id: str) -> tuple[Task, Order]:
    task = (await session.exec(select(Task).where(Task.id == task_id))).first()
    if task is None or not reader.may_see(task):
        raise UnknownTask
    return task, (await session.exec(select(Order).where(Order.id == task.order_id))).one()


async def uploads_of(session: ReadSession | WriteSession, task: Task) -> Sequence[Upload]:
    query = select(Upload).where(Upload.task_id == task.id, Upload.attempt == task.attempt)
    return (await session.exec(query.order_by(col(Upload.number)))).all()


def check_open(task: Task, order: Order) -> None:
    if task.state != TaskState.NEEDS_PERSON or order.state != "open":
        raise TaskNotOpen


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filter:
    """Which tasks to list; `after` is the id that the page before ended with."""

    state: TaskState | None = None
    system: str | None = None
    case: str | None = None
    after: str | None = None
    limit: int = 50


async def list_tasks(desk: Desk, reader: Reader, wanted: Filter) -> dict[str, Any]:
    """Return a page of tasks, oldest first: ids, states and times, nobody's data."""
    query = select(Task).order_by(col(Task.id)).limit(wanted.limit + 1)
    for column, value in (
        (Task.state, wanted.state and wanted.state.value),
        (Task.system, wanted.system),
        (Task.case_id, wanted.case),
        (Task.respondent, reader.respondent),
    ):
        query = query.where(col(column) == value) if value is not None else query
    if wanted.after is not None:
        query = query.where(col(Task.id) > wanted.after)
    async with desk.database.read(reader.organisation) as session:
        found = (await session.exec(query)).all()
        versions = await _versions(session, found[: wanted.limit])
    tasks = [await line(desk, task, versions[task.order_id]) for task in found[: wanted.limit]]
    return {"tasks": tasks, "next": tasks[-1]["id"] if len(found) > wanted.limit else None}


async def _versions(session: ReadSession, tasks: Sequence[Task]) -> dict[str, str]:
    wanted = {task.order_id for task in tasks}
    rows = await session.exec(select(Order.id, Order.register_version).where(col(Order.id).in_(wanted)))
    return dict(rows.all())


async def line(desk: Desk, task: Task, version: str) -> dict[str, Any]:
    system = (await desk.registers.cited(task.organisation_id, version)).systems[task.system]
    return {
        "id": task.id, "order_id": task.order_id, "case_id": task.case_id, "system": task.system,
        "label": system.label.model_dump(), "right": task.right, "verb": task.verb, "state": task.state,
        "round": task.round, "attempt": task.attempt, "records": task.records, "code": task.code,
        "created_at": task.at.isoformat(), "changed_at": task.changed_at.isoformat(),
    }  # fmt: skip


async def read_task(desk: Desk, reader: Reader, task_id: str) -> dict[str, Any]:
    """Return one task; while it waits for a person also what to look for, which the ledger then says was read."""
    async with desk.database.read(reader.organisation) as session:
        task, order = await find(session, reader, task_id)
        waiting = task.state == TaskState.NEEDS_PERSON and order.data_key is not None
        person = await subject.unseal(desk, session, order) if waiting else None
        uploads = await uploads_of(session, task)
    register = await desk.registers.cited(reader.organisation, order.register_version)
    if person is not None:
        await _note_reading(desk, reader, task)
    system = register.systems[task.system]
    told = instructions(system, Right(task.right), task.verb, task.code)
    return {
        **await line(desk, task, order.register_version),
        "instructions": told.model_dump(),
        "search_for": _search_for(register, task, person) if person is not None else None,
        "entities": [_form(name, system) for name in system.entities],
        "uploads": [{"number": one.number, "bytes": one.bytes, "sha256": one.sha256} for one in uploads],
    }


def _search_for(register: Register, task: Task, person: subject.Person) -> dict[str, Any]:
    # Where a right takes effect on the claimed contact point (Art. 21(3), 7(3)), the claimed one is shown, as claimed.
    shown = person.held if task.verb == "person" else person.proven
    return {
        "name": person.name,
        "identifiers": [
            {
                "type": item.value.type,
                "label": register.identifiers[item.value.type].label.model_dump()
                if item.value.type in register.identifiers
                else None,
                "value": item.value.value,
                "assurance": item.value.assurance.name.lower(),
            }
            for item in shown
        ],
    }


def _form(name: str, system: System) -> dict[str, Any]:
    entity = system.entities[name]
    fields = [
        {"name": field, "label": rule.label.model_dump() if rule.label else None, "free_text": rule.free_text}
        for field, rule in entity.fields.items()
    ]
    return {"entity": name, "label": entity.label.model_dump(), "key": entity.key, "fields": fields}


async def _note_reading(desk: Desk, reader: Reader, task: Task) -> None:
    async with desk.database.write(reader.organisation) as session:
        await ledger.record(
            session, organisation_id=reader.organisation, service=SERVICE, kind="task.read", actor=reader.actor,
            case_id=task.case_id, data={"task": task.id, "system": task.system}, at=desk.now(),
        )  # fmt: skip

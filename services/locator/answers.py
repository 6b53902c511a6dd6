"""How does a person answer a task? Once: records are checked against the register and go the way of a connector's."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

import structlog
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import delete, update
from sqlmodel import col, select

from services.locator import orders, parts, receipts, subject
from services.locator.connectors.base import Code
from services.locator.connectors.matching import normal_form
from services.locator.desk import Desk
from services.locator.doubt import yielded
from services.locator.orders import Ended
from services.locator.people import Reader, TaskNotOpen, check_open, find, line, uploads_of
from services.locator.rounds import hops
from services.locator.tables import Order, Receipt, Task, Upload
from services.locator.uploads import MOST_NAME
from shared.identifiers import digest
from shared.messages import Commit, Identifier, Record
from shared.problems import Conflict, Invalid, RuleBroken
from shared.register import Register, System
from shared.vocabulary import Assurance, TaskState

log = structlog.get_logger()

ANSWERING = timedelta(minutes=2)
"""How long one answer may take before another may be given."""
MOST_RECORDS = 10_000

NoteCode = Literal["no-access", "system-retired", "system-broken", "not-searchable", "retained-by-law", "other"]
"""Why something was not searched or not done; what the answer may tell."""


class AnsweredAlready(Conflict):
    """The task was answered before, with something else."""

    code = "answered-already"


class BeingAnswered(Conflict):
    """Somebody is answering this task just now."""

    code = "being-answered"


class OutcomeDoesNotFit(Invalid):
    """The outcome does not fit this task or what came with it."""

    code = "outcome-does-not-fit"


class RecordDoesNotFit(Invalid):
    """A record does not fit the register."""

    code = "record-does-not-fit"


class FilesDoNotFit(Conflict):
    """The attached files are not those that the records name; each belongs to exactly one record."""

    code = "files-do-not-fit"


class StartOver(Conflict):
    """What was sent before differs: attach the files again, then answer."""

    code = "start-over"


# --- what a person sends -----------------------------------------------------------------------------------------------


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WrittenRecord(_Body):
    """One record as a person writes it."""

    entity: Annotated[str, Field(max_length=63)]
    key: Annotated[str, Field(min_length=1, max_length=200)]
    fields: dict[Annotated[str, Field(max_length=63)], Any]
    files: tuple[Annotated[str, Field(min_length=1, max_length=MOST_NAME)], ...] = ()
    """Names of attached files that belong to it."""


class Answer(_Body):
    """What a person answers to a task."""

    outcome: Literal["found", "nothing", "not_searched", "done"]
    records: Annotated[tuple[WrittenRecord, ...], Field(max_length=MOST_RECORDS)] = ()
    note_code: NoteCode | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.outcome == "found") != bool(self.records):
            raise RuleBroken("records come with the outcome found, and only with it")
        if self.outcome == "not_searched" and self.note_code is None:
            raise RuleBroken("say by note_code why it was not searched")
        return self

    @property
    def state(self) -> TaskState:
        """`done` counts as found: the person's right was carried out here."""
        return TaskState.FOUND if self.outcome == "done" else TaskState(self.outcome)

    @property
    def code(self) -> str | None:
        return Code.DONE.value if self.outcome == "done" else self.note_code


# --- taking it --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Work:
    """One answer being taken."""

    task: Task
    order: Order
    person: subject.Person
    register: Register
    uploads: tuple[Upload, ...]
    answer: Answer
    digest: str

    @property
    def attempt(self) -> int:
        """Whoever answers without using what was attached leaves it behind under an attempt that never counts."""
        return self.task.attempt + (bool(self.uploads) and self.answer.outcome != "found")

    @property
    def used(self) -> tuple[Upload, ...]:
        return self.uploads if self.answer.outcome == "found" else ()

    @property
    def system(self) -> System:
        return self.register.systems[self.task.system]


async def complete(desk: Desk, reader: Reader, task_id: str, answer: Answer) -> dict[str, Any]:
    """Take a person's answer: hand it over, commit it, and go on with the order. The same answer again is the same."""
    fingerprint = desk.sealer.index(reader.organisation, "locator.answer", answer.model_dump_json())
    async with desk.database.read(reader.organisation) as session:
        task, order = await find(session, reader, task_id)
    if task.answer == fingerprint:
        return await line(desk, task, order.register_version)
    register = await desk.registers.cited(reader.organisation, order.register_version)
    work = await _claim(desk, reader, task_id, register, answer, fingerprint)
    try:
        sender = await _hand_over(desk, work)
    except Conflict as problem:
        await _start_over(desk, work)
        log.warning("answer.start_over", task=task_id, code=problem.problem_code)
        raise StartOver from None
    except BaseException:
        await _release(desk, work)
        raise
    task, told = await _finish(desk, reader, work, sender)
    await receipts.deliver(desk, told)
    return await line(desk, task, order.register_version)


async def _claim(
    desk: Desk, reader: Reader, task_id: str, register: Register, answer: Answer, fingerprint: str
) -> _Work:
    """Check the answer, and see to it that nobody else answers meanwhile."""
    async with desk.database.write(reader.organisation) as session:
        task, order = await find(session, reader, task_id)
        if task.answer is not None:
            raise AnsweredAlready
        check_open(task, order)
        person = await subject.unseal(desk, session, order)
        work = _Work(task, order, person, register, tuple(await uploads_of(session, task)), answer, fingerprint)
        _check_answer(work)
        now = desk.now()
        claimed = await session.exec(
            update(Task)
            .where(col(Task.id) == task_id, col(Task.attempt) == task.attempt)
            .where(col(Task.claimed_until).is_(None) | (col(Task.claimed_until) < now))
            .values(claimed_until=now + ANSWERING)
        )
        if claimed.rowcount != 1:
            raise BeingAnswered(retry_after=int(ANSWERING.total_seconds()))
    return work


def _check_answer(work: _Work) -> None:
    allowed = {"export": {"found", "nothing", "not_searched"}, "person": {"done", "nothing", "not_searched"}}
    if work.answer.outcome not in allowed[work.task.verb]:
        raise OutcomeDoesNotFit
    _check_records(work.system, work.answer.records)
    named = sorted(digest(work.person.binding_key, "file", name) for one in work.answer.records for name in one.files)
    if work.used and named != sorted(one.name_digest for one in work.used):
        raise FilesDoNotFit
    if named and not work.used:
        raise FilesDoNotFit


def _check_records(system: System, records: Sequence[WrittenRecord]) -> None:
    """Raise `RecordDoesNotFit`, naming the place and never a value."""
    seen: set[tuple[str, str]] = set()
    errors = []
    for place, record in enumerate(records):
        entity = system.entities.get(record.entity)
        if entity is None:
            errors.append({"pointer": f"/records/{place}/entity", "detail": "is not an entity of this system"})
        elif not record.fields or not record.fields.keys() <= entity.fields.keys():
            errors.append(
                {"pointer": f"/records/{place}/fields", "detail": "must be fields of this entity, at least one"}
            )
        if (record.entity, record.key) in seen:
            errors.append({"pointer": f"/records/{place}/key", "detail": "must be unique within its entity"})
        seen.add((record.entity, record.key))
    if errors:
        raise RecordDoesNotFit(errors=tuple(errors[:20]))


async def _hand_over(desk: Desk, work: _Work) -> parts.Sender:
    """Send the records and commit; a task that only a person carries out has no package."""
    where = parts.Attempt(work.task.organisation_id, work.order.package_id, work.task.id, work.attempt)
    sender = parts.Sender(desk.post, desk.settings, where, work.system, first=len(work.used) + 1)
    if work.task.verb != "export":
        return sender
    for record in _records(work):
        await sender.add(record)
    await sender.flush()
    body = Commit(
        system=work.task.system,
        state=work.answer.state,
        parts=(*(one.sha256 for one in work.used), *sender.sent),
        records=sender.records,
        proofs=work.person.proofs,
        code=work.answer.code,
    )
    await parts.commit(desk.post, where, body)
    return sender


def _records(work: _Work) -> list[Record]:
    bound: dict[str, str] = {}
    for item in sorted(work.person.proven, key=lambda item: -item.value.assurance):
        bound.setdefault(item.value.type, item.value.value)
    return [
        Record(work.task.system, one.entity, one.key, bound, "manual", one.fields, files=one.files)
        for one in work.answer.records
    ]


async def _finish(desk: Desk, reader: Reader, work: _Work, sender: parts.Sender) -> tuple[Task, Sequence[Receipt]]:
    """Write what was answered and what follows from it, in one transaction."""
    answer, task, now = work.answer, work.task, desk.now()
    ended = Ended(task, work.attempt, answer.state, answer.code, sender.groups, _types(work))
    async with desk.database.write(reader.organisation) as session:
        order = await orders.lock(session, work.order.id)
        if order is None or order.state != "open":
            raise TaskNotOpen
        written = await session.exec(
            update(Task)
            .where(
                col(Task.id) == task.id, col(Task.attempt) == task.attempt, col(Task.state) == TaskState.NEEDS_PERSON
            )
            .values(
                state=answer.state.value, code=answer.code, attempt=work.attempt, answer=work.digest,
                claimed_until=None, records=sender.records, changed_at=now,
            )
        )  # fmt: skip
        if written.rowcount != 1:
            raise AnsweredAlready
        person = await subject.unseal(desk, session, order)
        person = await subject.add(session, order, person, _discovered(work))
        await orders.tell(desk, session, ended, actor=reader.actor, records=sender.records)
        told = await orders.advance(desk, session, order, work.register, person, [ended])
        return (await session.exec(select(Task).where(Task.id == task.id))).one(), told


def _types(work: _Work) -> tuple[str, ...]:
    searched = set(work.task.identifiers)
    return tuple(sorted({item.value.type for item in work.person.held if item.id in searched}))


def _discovered(work: _Work) -> list[tuple[Identifier, int]]:
    """Return the identifiers that the records yield: they are as well proven as the weakest that led to them."""
    proven = work.person.proven
    if not proven:
        return []
    level, hop = min(item.value.assurance for item in proven), 1 + max(item.hop for item in proven)
    found = []
    for record in _records(work):
        for kind, raw in yielded(work.system.entities[record.entity], record).items():
            value = normal_form(work.register.identifiers, kind, str(raw), work.register.organisation.country)
            if value is not None and hops(work.register, kind):
                found.append((Identifier(type=kind, value=value, assurance=Assurance(level)), hop))
    return found


async def _release(desk: Desk, work: _Work) -> None:
    async with desk.database.write(work.task.organisation_id) as session:
        await session.exec(update(Task).where(col(Task.id) == work.task.id).values(claimed_until=None))


async def _start_over(desk: Desk, work: _Work) -> None:
    """Give the person a fresh attempt: the exporter holds something else under this one, and never forgets it."""
    async with desk.database.write(work.task.organisation_id) as session:
        await session.exec(
            update(Task)
            .where(
                col(Task.id) == work.task.id, col(Task.attempt) == work.task.attempt,
                col(Task.state) == TaskState.NEEDS_PERSON,
            )
            .values(attempt=work.attempt + 1, claimed_until=None, changed_at=desk.now())
        )  # fmt: skip
        await session.exec(delete(Upload).where(col(Upload.task_id) == work.task.id))

"""How does a person do a task? They see what to look for, attach files, and answer once.

Whoever reads a task sees whom it is about; the ledger says so. Records that a person writes are checked against the
register and go the same way as a connector's: into the exporter, under the attempt that is the person's.
"""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, unquote

import structlog
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import delete, insert, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from services.locator import orders, parts, receipts, subject
from services.locator.connectors.base import Code
from services.locator.connectors.matching import normal_form
from services.locator.desk import SERVICE, Desk
from services.locator.doubt import yielded
from services.locator.instructions import instructions
from services.locator.orders import Ended
from services.locator.rounds import hops
from services.locator.tables import Order, Receipt, Task, Upload
from shared import ledger
from shared.database import ReadSession, WriteSession
from shared.identifiers import digest
from shared.messages import Commit, Identifier, PartStored, Record
from shared.problems import Conflict, Invalid, NotFound, RuleBroken, TooLarge
from shared.register import Register, System
from shared.vocabulary import Assurance, Right, TaskState

log = structlog.get_logger()

ANSWERING = timedelta(minutes=2)
"""How long one answer may take before another may be given."""
MOST_RECORDS = 10_000
MOST_NAME = 255

NoteCode = Literal["no-access", "system-retired", "system-broken", "not-searchable", "retained-by-law", "other"]
"""Why something was not searched or not done; what the answer may tell."""


class UnknownTask(NotFound):
    """There is no such task here."""


class TaskNotOpen(Conflict):
    """This task does not wait for a person."""

    code = "task-not-open"


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


class UploadGap(Conflict):
    """Attached files are numbered from 1, one after the other."""

    code = "upload-gap"


class TooManyUploads(Conflict):
    """No more files may be attached to this task."""

    code = "too-many-uploads"


class BadFileName(Invalid):
    """The file needs a name of at most 255 characters without control characters, percent-encoded UTF-8."""

    code = "bad-file-name"


class BadFileType(Invalid):
    """The file's type is a media type such as application/pdf."""

    code = "bad-file-type"


# --- what a person sends -------------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class Reader:
    """Who looks. A respondent sees only what the register gave them to answer."""

    organisation: str
    actor: str
    respondent: str | None = None
    """Their account, if they may see no other tasks than their own."""

    def may_see(self, task: Task) -> bool:
        return self.respondent is None or task.respondent == self.respondent


# --- reading -------------------------------------------------------------------------------------------------------


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
    tasks = [await _line(desk, task, versions[task.order_id]) for task in found[: wanted.limit]]
    return {"tasks": tasks, "next": tasks[-1]["id"] if len(found) > wanted.limit else None}


async def _versions(session: ReadSession, tasks: Sequence[Task]) -> dict[str, str]:
    wanted = {task.order_id for task in tasks}
    rows = await session.exec(select(Order.id, Order.register_version).where(col(Order.id).in_(wanted)))
    return dict(rows.all())


async def _line(desk: Desk, task: Task, version: str) -> dict[str, Any]:
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
        task, order = await _find(session, reader, task_id)
        waiting = task.state == TaskState.NEEDS_PERSON and order.data_key is not None
        person = await subject.unseal(desk, session, order) if waiting else None
        uploads = await _uploads(session, task)
    register = await desk.registers.cited(reader.organisation, order.register_version)
    if person is not None:
        await _note_reading(desk, reader, task)
    system = register.systems[task.system]
    told = instructions(system, Right(task.right), task.verb, task.code)
    return {
        **await _line(desk, task, order.register_version),
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


async def _find(session: ReadSession | WriteSession, reader: Reader, task_id: str) -> tuple[Task, Order]:
    task = (await session.exec(select(Task).where(Task.id == task_id))).first()
    if task is None or not reader.may_see(task):
        raise UnknownTask
    return task, (await session.exec(select(Order).where(Order.id == task.order_id))).one()


async def _uploads(session: ReadSession | WriteSession, task: Task) -> Sequence[Upload]:
    query = select(Upload).where(Upload.task_id == task.id, Upload.attempt == task.attempt)
    return (await session.exec(query.order_by(col(Upload.number)))).all()


# --- attaching files -----------------------------------------------------------------------------------------------

_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,63}/[a-z0-9!#$&^_.+-]{1,63}", re.IGNORECASE)


@dataclass(frozen=True)
class File:
    """A file as it comes: `name` and `media_type` as the headers give them."""

    number: int
    name: str
    media_type: str
    content: AsyncIterator[bytes]


async def upload(desk: Desk, reader: Reader, task_id: str, file: File) -> dict[str, Any]:
    """Pass a file on to the exporter as it comes. The same file again under its number changes nothing."""
    name, media_type = _file_name(file.name), _file_type(file.media_type)
    async with desk.database.read(reader.organisation) as session:
        task, order = await _find(session, reader, task_id)
        _check_open(task, order)
        known = len(await _uploads(session, task))
        person = await subject.unseal(desk, session, order)
    if task.verb != "export":
        raise OutcomeDoesNotFit("files belong to tasks that search")
    if file.number > known + 1:
        raise UploadGap
    if file.number > desk.settings.uploads:
        raise TooManyUploads
    where = parts.Attempt(reader.organisation, order.package_id, task.id, task.attempt)
    headers = {
        "content-type": "application/octet-stream", "habeas-file-name": quote(name), "habeas-file-type": media_type,
    }  # fmt: skip
    content = _capped(file.content, desk.settings.upload_bytes)
    stored = await parts.put(desk.post, where, file.number, content, headers)
    await _keep_upload(desk, task, file.number, digest(person.binding_key, "file", name), stored)
    return stored.model_dump()


async def _keep_upload(desk: Desk, task: Task, number: int, name_digest: str, stored: PartStored) -> None:
    row = insert(Upload).values(
        task_id=task.id, attempt=task.attempt, number=number, organisation_id=task.organisation_id,
        bytes=stored.bytes, sha256=stored.sha256, name_digest=name_digest, at=desk.now(),
    )  # fmt: skip
    try:
        async with desk.database.write(task.organisation_id) as session:
            await session.exec(row)
    except IntegrityError:
        pass  # The same file came before: the exporter has checked that it is the same.


async def _capped(content: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in content:
        size += len(chunk)
        if size > most:
            raise TooLarge
        yield chunk


def _file_name(text: str) -> str:
    try:
        name = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise BadFileName from None
    if not name or len(name) > MOST_NAME or not name.isprintable():
        raise BadFileName
    return name


def _file_type(text: str) -> str:
    if not _TYPE.fullmatch(text):
        raise BadFileType
    return text.lower()


# --- answering -----------------------------------------------------------------------------------------------------


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
        task, order = await _find(session, reader, task_id)
    if task.answer == fingerprint:
        return await _line(desk, task, order.register_version)
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
    return await _line(desk, task, order.register_version)


async def _claim(
    desk: Desk, reader: Reader, task_id: str, register: Register, answer: Answer, fingerprint: str
) -> _Work:
    """Check the answer, and see to it that nobody else answers meanwhile."""
    async with desk.database.write(reader.organisation) as session:
        task, order = await _find(session, reader, task_id)
        if task.answer is not None:
            raise AnsweredAlready
        _check_open(task, order)
        person = await subject.unseal(desk, session, order)
        work = _Work(task, order, person, register, tuple(await _uploads(session, task)), answer, fingerprint)
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


def _check_open(task: Task, order: Order) -> None:
    if task.state != TaskState.NEEDS_PERSON or order.state != "open":
        raise TaskNotOpen


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

"""How is one system searched for one person? One attempt at a task: search, hand over, commit, and tell.

An attempt holds a lease on its row; `attempt` is the fence: whoever comes too late changes nothing. Records stream into
the exporter and count only once the attempt is committed there. What identifiers they yield may open the same system
again, at once, and other systems in the next round. A failing system is tried again, then handed to a person; it never
becomes "nothing found".
"""

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

import structlog
from sqlalchemy import update
from sqlmodel import col, select

from services.locator import orders, parts, receipts, subject
from services.locator.connectors.base import (
    Code,
    Connector,
    ConnectorError,
    NeedsPerson,
    Search,
    Unavailable,
)
from services.locator.connectors.matching import normal_form
from services.locator.desk import LOCATE, Desk
from services.locator.doubt import Judge, yielded
from services.locator.orders import Ended
from services.locator.rounds import accepts, hops
from services.locator.tables import Order, Receipt, Task
from services.locator.together import Together
from shared import leases
from shared import problems as http
from shared.database import WriteSession
from shared.messages import Commit, Identifier, Record
from shared.register import Register, System
from shared.vocabulary import Assurance, TaskState

log = structlog.get_logger()
_random = random.SystemRandom()


@dataclass(frozen=True)
class Job:
    """What one attempt works on."""

    task: Task
    order: Order
    register: Register
    person: subject.Person
    earlier: tuple[Identifier, ...]
    """Searched in this system before, by tasks that ended well."""

    @property
    def system(self) -> System:
        return self.register.systems[self.task.system]

    @property
    def wanted(self) -> tuple[subject.Held, ...]:
        return tuple(item for item in self.person.proven if item.id in set(self.task.identifiers))

    @property
    def where(self) -> parts.Attempt:
        return parts.Attempt(self.task.organisation_id, self.order.package_id, self.task.id, self.task.attempt)


@dataclass
class Haul:
    """What one attempt brought in: facts, and the identifiers that it came upon."""

    searched: list[Identifier] = field(default_factory=list)
    discovered: dict[tuple[str, str], tuple[Identifier, int]] = field(default_factory=dict)
    """(type, value) → the identifier and its hop."""
    doubtful: int = 0
    on_file: set[str] = field(default_factory=set)

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(sorted({identifier.type for identifier in self.searched}))


class Worker:
    """Carries out attempts. Those that begin or end at the same moment share their transactions."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._begin: Together[leases.Attempt, Start] = Together(partial(begin, desk))
        self._finish: Together[Ending, Sequence[Receipt]] = Together(partial(finish, desk))

    async def perform(self, organisation: str, task_id: str, number: int) -> None:
        """Engine handler: carry out one attempt. Whatever happens, the row says what is next."""
        attempt = leases.Attempt(organisation, task_id, number)
        try:
            told = await self._attempt(attempt)
        except leases.LeaseLost:
            log.info("task.lease_lost", task=task_id, attempt=number)
            return
        except Exception as error:  # noqa: BLE001 - the edge of a task: told by type, and put off or handed to a person
            told = await _failed(self._desk, attempt, error)
        await receipts.deliver(self._desk, told)

    async def _attempt(self, attempt: leases.Attempt) -> Sequence[Receipt]:
        desk, lease = self._desk, self._desk.settings.lease
        start = await self._begin.do(attempt.organisation_id, attempt)
        async with leases.keep(desk.database, Task, attempt, lease=lease, clock=desk.clock, renewed=True):
            job = await _prepare(desk, start)
            haul, sender = await _search(desk, job)
        return await self._finish.do(job.order.id, Ending(attempt, job, haul, sender))


@dataclass(frozen=True)
class Start:
    """What the rows say when an attempt begins."""

    task: Task
    order: Order
    person: subject.Person
    done: frozenset[str]
    """Identifiers that tasks which ended well searched in this system."""


async def begin(desk: Desk, organisation: str, attempts: Sequence[leases.Attempt]) -> list[Start | Exception]:
    """Begin attempts of one organisation in one transaction: `LeaseLost` for those that do not count (any more)."""
    until, running = desk.now() + desk.settings.lease, TaskState.RUNNING.value
    async with desk.database.write(organisation) as session:
        alive = {one.id for one in attempts if await leases.renew(session, Task, one, until, state=running)}
        query = select(Task, Order).where(col(Task.id).in_(alive), Order.id == Task.order_id, Order.state == "open")
        found = (await session.exec(query)).all()
        orders_ = {order.id: order for _task, order in found}
        persons = {id_: await subject.unseal(desk, session, order) for id_, order in orders_.items()}
        starts: dict[str, Start | Exception] = {}
        for task, order in found:
            done = await _done_before(session, task) if task.round > 1 else frozenset()
            starts[task.id] = Start(task, order, persons[order.id], done)
    return [starts.get(one.id, leases.LeaseLost()) for one in attempts]


async def _done_before(session: WriteSession, task: Task) -> frozenset[str]:
    ended = (TaskState.FOUND, TaskState.NOTHING)
    others = select(Task.identifiers).where(
        Task.order_id == task.order_id, Task.system == task.system, col(Task.state).in_(ended)
    )
    return frozenset(one for identifiers in (await session.exec(others)).all() for one in identifiers)


async def _prepare(desk: Desk, start: Start) -> Job:
    register = await desk.registers.cited(start.task.organisation_id, start.order.register_version)
    earlier = tuple(item.value for item in start.person.proven if item.id in start.done)
    return Job(start.task, start.order, register, start.person, earlier)


# --- searching -----------------------------------------------------------------------------------------------------


async def _search(desk: Desk, job: Job) -> tuple[Haul, parts.Sender]:
    """Search, hand over, commit. Raises connector errors and what the exporter answered."""
    task = job.task
    connector = desk.connectors.get(task.organisation_id, task.system, job.system)
    if "export" not in connector.capabilities:
        raise NeedsPerson(Code.MANUAL)
    haul, sender = Haul(), parts.Sender(desk.post, desk.settings, job.where, job.system)
    async with desk.gate(task.organisation_id, task.system, job.system):
        await _search_on(desk, job, connector, haul, sender)
    await sender.flush()
    await parts.commit(desk.post, job.where, _commit(job, haul, sender))
    return haul, sender


async def _search_on(desk: Desk, job: Job, connector: Connector, haul: Haul, sender: parts.Sender) -> None:
    """Search the system, and again with what it yields itself, until nothing new opens it."""
    wanted = [(item.value, item.hop) for item in job.wanted]
    while wanted:
        identifiers = tuple(identifier for identifier, _hop in wanted)
        search = Search.of(job.register, job.task.system, identifiers, (*job.earlier, *haul.searched))
        gather = _Gatherer(desk, job, search, dict(_by_place(wanted)), haul)
        async with aclosing(_judged(connector, search, job.person.name)) as records:
            async for record in records:
                gather.note(record)
                await sender.add(record)
        haul.searched += identifiers
        wanted = gather.opened()


def _by_place(wanted: Sequence[tuple[Identifier, int]]) -> list[tuple[tuple[str, str], tuple[int, int]]]:
    return [((item.type, item.value), (int(item.assurance), hop)) for item, hop in wanted]


async def _judged(connector: Connector, search: Search, name: str) -> AsyncGenerator[Record, None]:
    judge = Judge(name, search.system)
    async with aclosing(connector.locate(search)) as stream:
        async for found in stream:
            for record in judge.take(found):
                yield record
    for record in judge.end():
        yield record


class _Gatherer:
    """Notes what the records of one search yield."""

    def __init__(
        self, desk: Desk, job: Job, search: Search, levels: dict[tuple[str, str], tuple[int, int]], haul: Haul
    ) -> None:
        """`levels` are assurance and hop of each identifier that is searched."""
        self._limits = desk.settings.limits
        self._job = job
        self._search = search
        self._levels = levels
        self._haul = haul
        self._known = {(item.value.type, item.value.value) for item in job.person.held}
        self._new: list[tuple[Identifier, int]] = []

    def note(self, record: Record) -> None:
        entity = self._search.system.entities[record.entity]
        if record.doubt is not None:
            self._haul.doubtful += any(hops(self._job.register, kind) for kind in entity.yields)
            return
        for kind, raw in yielded(entity, record).items():
            if hops(self._job.register, kind):
                self._discover(kind, str(raw), record)
        if record.evidence == "field":
            finders = ((kind, entity.find_by[kind].field) for kind in record.bound)
            self._haul.on_file |= {
                kind for kind, name in finders if name in entity.fields and entity.fields[name].on_file
            }

    def opened(self) -> list[tuple[Identifier, int]]:
        """Return what was discovered and opens this very system, as far as hops are allowed."""
        accepted = accepts(self._search.system)
        return [(item, hop) for item, hop in self._new if item.type in accepted and hop < self._limits.rounds]

    def _discover(self, kind: str, raw: str, record: Record) -> None:
        value = normal_form(self._search.identifiers, kind, raw, self._search.region)
        full = len(self._known) + len(self._haul.discovered) >= self._limits.identifiers
        place = (kind, value or "")
        if value is None or full or place in self._known or place in self._haul.discovered:
            return
        levels = [self._levels[bound] for bound in record.bound.items()]
        # The weakest identifier that led here, and the longest way.
        identifier = Identifier(type=kind, value=value, assurance=Assurance(min(level for level, _hop in levels)))
        found = identifier, 1 + max(hop for _level, hop in levels)
        self._haul.discovered[place] = found
        self._new.append(found)


def _commit(job: Job, haul: Haul, sender: parts.Sender) -> Commit:
    digests = {*job.person.proofs, *(subject.proof(job.person, item) for item, _hop in haul.discovered.values())}
    return Commit(
        system=job.task.system,
        state=TaskState.FOUND if sender.records else TaskState.NOTHING,
        parts=tuple(sender.sent),
        records=sender.records,
        proofs=tuple(sorted(digests)),
    )


# --- the end of an attempt -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ending:
    """What one attempt found out."""

    attempt: leases.Attempt
    job: Job
    haul: Haul
    sender: parts.Sender

    @property
    def told(self) -> Ended:
        """What its row and its receipt tell."""
        haul, sender = self.haul, self.sender
        state = TaskState.FOUND if sender.records else TaskState.NOTHING
        on_file = tuple(sorted(haul.on_file))
        return Ended(self.job.task, self.attempt.number, state, None, sender.groups, haul.types, on_file)


async def finish(desk: Desk, order_id: str, endings: Sequence[Ending]) -> list[Sequence[Receipt] | Exception]:
    """Write, in one transaction, what attempts of one order found out and what follows from it.

    Returns for each the receipts that it is to deliver, or `LeaseLost`: an attempt that comes too late writes nothing.
    """
    organisation, register = endings[0].attempt.organisation_id, endings[0].job.register
    async with desk.database.write(organisation) as session:
        order = await orders.lock(session, order_id)
        if order is None or order.state != "open":
            return [leases.LeaseLost()] * len(endings)
        counted = [ending for ending in endings if await _settle(desk, session, ending)]
        if not counted:
            return [leases.LeaseLost()] * len(endings)
        person = await subject.unseal(desk, session, order)
        discovered = [found for ending in counted for found in ending.haul.discovered.values()]
        person = await subject.add(session, order, person, discovered)
        for ending in counted:
            await _note_searched(session, ending, person)
            await orders.tell(desk, session, ending.told, records=ending.sender.records)
        told = [ending.told for ending in counted]
        written = await orders.advance(desk, session, order, register, person, told)
    # What follows from several (systems that nothing opened) goes with the last.
    own = {id(ending): [written[place]] for place, ending in enumerate(counted)}
    own[id(counted[-1])] += written[len(counted) :]
    return [own.get(id(ending), leases.LeaseLost()) for ending in endings]


async def _settle(desk: Desk, session: WriteSession, ending: Ending) -> bool:
    return await leases.settle(
        session, Task, ending.attempt, state=ending.told.state.value, code=None, records=ending.sender.records,
        doubtful=ending.haul.doubtful, changed_at=desk.now(),
    )  # fmt: skip


async def _note_searched(session: WriteSession, ending: Ending, person: subject.Person) -> None:
    """Note which identifiers the attempt came upon itself and searched at once: no other task need."""
    before = set(ending.job.task.identifiers)
    searched = {item.id for item in person.held if item.value in ending.haul.searched}
    if not searched <= before:
        both = sorted(before | searched)
        await session.exec(update(Task).where(col(Task.id) == ending.attempt.id).values(identifiers=both))


async def _failed(desk: Desk, attempt: leases.Attempt, error: Exception) -> Sequence[Receipt]:
    """Put the task off, or hand it to a person; conditional on the attempt like everything else."""
    failure = _meaning(error)
    log.warning("task.failed", task=attempt.id, attempt=attempt.number, error=type(error).__name__, code=failure.code)
    task, tries = await _tries(desk, attempt)
    failures = task.failures + failure.counts
    if not failure.again or failures >= tries:
        async with desk.database.write(attempt.organisation_id) as session:
            if not await leases.settle(session, Task, attempt, failures=failures):
                return ()
            return await hand_over(desk, session, attempt, failure.code)
    retry_after = error.retry_after if isinstance(error, Unavailable) else None
    due = desk.now() + desk.settings.backoff.delay(attempt.number, retry_after, _random.random)
    async with desk.database.write(attempt.organisation_id) as session:
        # The lease runs out when the retry is due: the sweep then raises the attempt and enqueues it.
        await leases.renew(
            session, Task, attempt, due, state=TaskState.RETRY.value, code=failure.code.value, failures=failures,
            changed_at=desk.now(),
        )  # fmt: skip
    return ()


@dataclass(frozen=True)
class _Failure:
    code: Code
    again: bool
    counts: int = 1
    """0: our own house failed, which is not the system's fault."""


def _meaning(error: Exception) -> _Failure:
    if isinstance(error, ConnectorError):
        return _Failure(error.code, again=isinstance(error, Unavailable))
    if isinstance(error, (http.TooLarge, http.Invalid)):
        return _Failure(Code.NOT_ACCEPTED, again=False)
    if isinstance(error, http.Problem):
        return _Failure(Code.HOUSE_UNAVAILABLE, again=True, counts=0)
    return _Failure(Code.INTERNAL, again=True)


async def _tries(desk: Desk, attempt: leases.Attempt) -> tuple[Task, int]:
    async with desk.database.read(attempt.organisation_id) as session:
        task = (await session.exec(select(Task).where(Task.id == attempt.id))).one()
        order = (await session.exec(select(Order).where(Order.id == task.order_id))).one()
    try:
        register = await desk.registers.cited(attempt.organisation_id, order.register_version)
    except http.Problem:
        return task, desk.settings.most_attempts
    return task, register.systems[task.system].tries


async def hand_over(desk: Desk, session: WriteSession, attempt: leases.Attempt, code: Code) -> Sequence[Receipt]:
    """Make a settled task a person's: the attempt that failed is told, the next one is what the person answers."""
    moved = await session.exec(
        update(Task)
        .where(col(Task.id) == attempt.id, col(Task.attempt) == attempt.number, col(Task.lease_until).is_(None))
        .values(state=TaskState.NEEDS_PERSON.value, code=code.value, attempt=attempt.number + 1, changed_at=desk.now())
    )
    if moved.rowcount != 1:
        return ()
    task = (await session.exec(select(Task).where(Task.id == attempt.id))).one()
    order = (await session.exec(select(Order).where(Order.id == task.order_id))).one()
    ended = Ended(task, attempt.number, TaskState.NEEDS_PERSON, code.value)
    await orders.tell(desk, session, ended)
    return await orders.write_receipts(desk, session, order, [ended], None)


# --- sweeps --------------------------------------------------------------------------------------------------------


async def sweep(desk: Desk) -> None:
    """Give retries that are due and attempts that died their next attempt."""

    async def give_up(session: WriteSession, attempt: leases.Attempt) -> None:
        await hand_over(desk, session, attempt, Code.INTERNAL)

    work = leases.Work(
        LOCATE, Task, give_up, patience=desk.settings.patience, most_attempts=desk.settings.most_attempts,
        partition="partition",
    )  # fmt: skip
    await leases.sweep(desk.database, desk.engine, work, now=desk.now())

"""What was found, and what may leave? A handler reads records, withholds, confirms doubtful ones, opens free text.

Every reading of values is in the ledger, with ids and counts. Marks know a record by a keyed digest, so that they
outlive a second attempt of its task.
"""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from pydantic import Field
from sqlalchemy import delete, insert
from sqlmodel import col

from services.exporter.binding import file_digest
from services.exporter.holdings import Holdings, counting, hold, indexed, marks_of, place
from services.exporter.means import SERVICE, Means, Unlocked
from services.exporter.packages import find_open
from services.exporter.parts import DOUBTFUL, TO_OPEN, decode, lines, read_index
from services.exporter.selection import (
    UNMARKED,
    Counts,
    Fate,
    Group,
    Marks,
    Selection,
    groups_of,
    review_rules,
    select,
)
from services.exporter.settings import Settings
from services.exporter.tables import Mark, MarkKind, Package, Part
from services.exporter.vault import begun, run
from shared import ledger
from shared.database import WriteSession
from shared.messages import Message, Record, Searched
from shared.problems import Conflict, Invalid, NotFound
from shared.register import Register
from shared.vocabulary import REASONS, TaskState

MARKS_AT_ONCE = 200
SCANNED = 16
"""Parts that one page looks through at most: a page may be short and still have a next."""

_ID = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,63}):(\d{1,9}):(\d{1,9}):(\d{1,9})", re.ASCII)
_FILE_ID = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,63}):(\d{1,9}):(\d{1,9})", re.ASCII)


class UnknownRecord(NotFound):
    """There is no such record here."""


class UnknownFile(NotFound):
    """There is no such file here."""


class RecordChanged(Conflict):
    """The system was searched again meanwhile: read the records anew."""

    code = "record-changed"


class BadMark(Invalid):
    """Withholding needs one of the known reasons and no other verb takes one; only it and restoring name a field."""

    code = "bad-mark"


class NothingToOpen(Conflict):
    """One of the records has neither free text nor files."""

    code = "nothing-to-open"


class NotDoubtful(Conflict):
    """There is no doubt about one of the records."""

    code = "not-doubtful"


@dataclass(frozen=True, slots=True)
class RecordId:
    """Where a record stands: opaque to callers, and never another record, because attempts do not change."""

    task: str
    attempt: int
    number: int
    line: int

    @classmethod
    def parse(cls, text: str) -> "RecordId":
        """Read what `str` wrote. Raises `UnknownRecord`."""
        found = _ID.fullmatch(text)
        if found is None:
            raise UnknownRecord
        return cls(found[1], *map(int, found.groups()[1:]))

    @property
    def part(self) -> tuple[str, int, int]:
        return self.task, self.attempt, self.number

    def __str__(self) -> str:
        return f"{self.task}:{self.attempt}:{self.number}:{self.line}"


# --- summary -------------------------------------------------------------------------------------------------------


class GroupReview(Message):
    """How far the review of one entity is; counts of records."""

    system: str
    entity: str
    records: int
    repeated: int
    unbound: int
    doubtful: int
    confirmed: int
    to_open: int
    opened: int
    unopened: int
    """Still to be opened before release: what is withheld or held back anyway does not count."""
    withheld: int
    withheld_fields: int


class Review(Message):
    """Everything that was found for one package, as counts."""

    package_id: str
    groups: tuple[GroupReview, ...]
    searched: tuple[Searched, ...]


async def summary(means: Means, organisation: str, package_id: str) -> Review:
    """Count what was found and what became of it so far."""
    async with means.database.read(organisation) as session:
        holdings = await hold(session, await find_open(session, package_id))
        marks = await marks_of(session, package_id)
    register = await means.registers.cited(organisation, holdings.package.register_version)
    selection = await run(_survey, means.unlock(holdings.package), holdings, register, marks)
    return Review(
        package_id=package_id,
        groups=tuple(_group(group, counts) for group, counts in selection.counts.items()),
        searched=tuple(
            Searched(
                system=a.system or "",
                state=TaskState(a.state or TaskState.NOT_SEARCHED),
                records=a.records,
                code=a.code,
            )
            for a in holdings.attempts
        ),
    )


def _survey(unlocked: Unlocked, holdings: Holdings, register: Register, marks: Marks) -> Selection:
    parts = list(indexed(unlocked, holdings))
    return select(parts, marks, holdings.proofs, review_rules(register, groups_of(parts)))


def _group(group: Group, counts: Counts) -> GroupReview:
    return GroupReview(
        system=group[0],
        entity=group[1],
        records=counts.records,
        repeated=counts.fates[Fate.REPEATED],
        unbound=counts.fates[Fate.UNBOUND],
        doubtful=counts.doubtful,
        confirmed=counts.confirmed,
        to_open=counts.to_open,
        opened=counts.opened,
        unopened=counts.fates[Fate.UNOPENED],
        withheld=counts.fates[Fate.WITHHELD],
        withheld_fields=counts.withheld_fields,
    )


# --- records -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Query:
    """Which records are asked for: those after `after`, of one system and entity if these are given."""

    system: str | None
    entity: str | None
    after: RecordId | None
    limit: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """A record on a page."""

    id: RecordId
    digest: bytes
    flags: int
    bound: bool
    part: Part
    record: Record


Page = dict[str, Any]
"""`{"records": [...], "next": id or None}`; see `_view`."""


async def records(means: Means, organisation: str, actor: str, package_id: str, query: Query) -> Page:
    """Return one page of records with their values. Decrypts only the parts that it needs."""
    async with means.database.read(organisation) as session:
        holdings = await hold(session, await find_open(session, package_id))
    unlocked = means.unlock(holdings.package)
    seen, more = await run(_page, unlocked, holdings, query, means.settings)
    async with means.database.read(organisation) as session:
        marks = await marks_of(session, package_id, [one.digest for one in seen])
    read = {"count": len(seen), "first": str(seen[0].id), "last": str(seen[-1].id)} if seen else {"count": 0}
    await _note(means, holdings.package, actor, "package.records_read", entity=query.entity, **read)
    page = await run(lambda: [_view(one, holdings, unlocked, marks) for one in seen])
    return {"records": page, "next": str(more) if more else None}


def _page(
    unlocked: Unlocked, holdings: Holdings, query: Query, settings: Settings
) -> tuple[list[_Seen], RecordId | None]:
    """Collect records until the page is full; also return where the next one goes on after, None at the end."""
    seen: list[_Seen] = []
    size = 0
    limit = min(query.limit, settings.page_records)
    for scanned, part in enumerate(_parts(holdings, query), 1):
        for one, length in _wanted(unlocked, holdings, part, query):
            seen.append(one)
            size += length
            if len(seen) >= limit or size >= settings.page_bytes:
                return seen, one.id
        if scanned >= SCANNED:
            return seen, RecordId(*place(part), line=part.records)
    return seen, None


def _parts(holdings: Holdings, query: Query) -> Iterator[Part]:
    for part in holdings.parts:
        if query.after and place(part) < query.after.part:
            continue
        if query.system and holdings.system(part) != query.system:
            continue
        if query.entity and all(row["entity"] != query.entity for row in part.facts):
            continue
        yield part


def _wanted(unlocked: Unlocked, holdings: Holdings, part: Part, query: Query) -> Iterator[tuple[_Seen, int]]:
    """Yield the records of one part that the query asks for, each with the length of its line."""
    after = query.after.line if query.after and query.after.part == place(part) else -1
    entries = read_index(unlocked.box.behind(part.stored_as, part.size))
    stored = lines(unlocked.box.chunks(part.stored_as, part.size))
    rows = enumerate(zip(entries, stored, strict=True))
    for number, ((digest, entity, flags, binding), line) in islice(rows, after + 1, None):
        if query.entity in {None, part.facts[entity]["entity"]}:
            bound = holdings.is_bound(part, entity, binding)
            yield _Seen(RecordId(*place(part), line=number), digest, flags, bound, part, decode(line)), len(line)


def _view(one: _Seen, holdings: Holdings, unlocked: Unlocked, marks: Marks) -> dict[str, Any]:
    """Return a record as a handler sees it, values and marks."""
    mark = marks.get(one.digest, UNMARKED)
    return {
        "id": str(one.id),
        "system": one.record.system,
        "entity": one.record.entity,
        "key": one.record.key,
        "evidence": one.record.evidence,
        "bound_by": sorted(one.record.bound),
        "bound": one.bound,
        "doubt": one.record.doubt,
        "confirmed": mark.confirmed,
        "to_open": bool(one.flags & TO_OPEN),
        "opened": mark.opened,
        "withheld": mark.withheld,
        "withheld_fields": dict(mark.fields),
        "fields": one.record.fields,
        "files": [_file_view(name, one.part, holdings, unlocked) for name in one.record.files],
    }


def _file_view(name: str, part: Part, holdings: Holdings, unlocked: Unlocked) -> dict[str, Any]:
    file = holdings.files[part.task_id, part.attempt][file_digest(unlocked.binding_key, name)]
    number = f"{file.task_id}:{file.attempt}:{file.number}"
    return {"id": number, "name": name, "type": file.file_type, "bytes": file.size}


# --- files ---------------------------------------------------------------------------------------------------------


async def file(means: Means, organisation: str, actor: str, package_id: str, file_id: str) -> AsyncIterator[bytes]:
    """Return the content of a file, so that a person can open it before it leaves."""
    found = _FILE_ID.fullmatch(file_id)
    async with means.database.read(organisation) as session:
        holdings = await hold(session, await find_open(session, package_id))
    part = holdings.find_file(found[1], int(found[2]), int(found[3])) if found else None
    if part is None:
        raise UnknownFile
    await _note(means, holdings.package, actor, "package.file_read", file=file_id)
    return await begun(means.unlock(holdings.package).box.stream(part.stored_as, part.size))


# --- marks ---------------------------------------------------------------------------------------------------------


class Marking(Message):
    """What a handler decides on one record, or on several alike."""

    record: str | None = Field(default=None, max_length=120)
    records: tuple[str, ...] = Field(default=(), max_length=MARKS_AT_ONCE)
    field: str | None = Field(default=None, max_length=63)
    verb: Literal["withhold", "restore", "confirm", "open"]
    reason: str | None = Field(default=None, max_length=64)

    def ids(self) -> list[RecordId]:
        """The records meant, each once."""
        texts = dict.fromkeys([*([self.record] if self.record else []), *self.records])
        return [RecordId.parse(text) for text in texts]

    def check(self) -> None:
        """Raise `BadMark` where verb, field, reason and records do not fit together."""
        if (self.reason in REASONS) != (self.verb == "withhold") or (self.reason and self.verb != "withhold"):
            raise BadMark
        if self.field is not None and self.verb not in {"withhold", "restore"}:
            raise BadMark
        if not self.record and not self.records:
            raise BadMark


class Marked(Message):
    """Answer to marks: how many records are now as asked for."""

    records: int


_KIND = {
    "withhold": MarkKind.WITHHELD,
    "restore": MarkKind.WITHHELD,
    "confirm": MarkKind.CONFIRMED,
    "open": MarkKind.OPENED,
}


@dataclass(frozen=True, slots=True)
class _Target:
    """A record to mark."""

    digest: bytes
    system: str
    entity: str
    flags: int


async def mark(means: Means, organisation: str, actor: str, package_id: str, marking: Marking) -> Marked:
    """Enter marks, all or none. The same again changes nothing."""
    marking.check()
    ids = marking.ids()
    async with means.database.read(organisation) as session:
        holdings = await hold(session, await find_open(session, package_id))
    register = await means.registers.cited(organisation, holdings.package.register_version)
    targets = await run(_targets, means.unlock(holdings.package), holdings, ids)
    for target in targets:
        _check_target(register, marking, target)
    async with means.database.write(organisation) as session:
        package = await find_open(session, package_id)
        await _check_current(session, package_id, ids)
        await _enter(session, package, marking, targets, actor, means)
    return Marked(records=len(targets))


def _targets(unlocked: Unlocked, holdings: Holdings, ids: list[RecordId]) -> list[_Target]:
    """Find the records in the indexes; none is opened."""
    by_part: dict[tuple[str, int, int], list[int]] = {}
    for one in ids:
        by_part.setdefault(one.part, []).append(one.line)
    return [target for where, wanted in by_part.items() for target in _in_part(unlocked, holdings, where, wanted)]


def _in_part(
    unlocked: Unlocked, holdings: Holdings, where: tuple[str, int, int], wanted: list[int]
) -> Iterator[_Target]:
    part = holdings.find(*where)
    if part is None:
        known = any(attempt.task_id == where[0] and attempt.attempt != where[1] for attempt in holdings.attempts)
        raise RecordChanged if known else UnknownRecord
    entries = list(read_index(unlocked.box.behind(part.stored_as, part.size)))
    for line in wanted:
        if line >= len(entries):
            raise UnknownRecord
        digest, entity, flags, _binding = entries[line]
        yield _Target(digest, holdings.system(part), part.facts[entity]["entity"], flags)


def _check_target(register: Register, marking: Marking, target: _Target) -> None:
    if (
        marking.field is not None
        and marking.field not in register.systems[target.system].entities[target.entity].fields
    ):
        raise BadMark
    if marking.verb == "open" and not target.flags & TO_OPEN:
        raise NothingToOpen
    if marking.verb == "confirm" and not target.flags & DOUBTFUL:
        raise NotDoubtful


async def _check_current(session: WriteSession, package_id: str, ids: list[RecordId]) -> None:
    """A second attempt may have been committed since the records were looked up."""
    current = {(attempt.task_id, attempt.attempt) for attempt in await counting(session, package_id)}
    if any((one.task, one.attempt) not in current for one in ids):
        raise RecordChanged


async def _enter(
    session: WriteSession, package: Package, marking: Marking, targets: list[_Target], actor: str, means: Means
) -> None:
    kind, field, now = _KIND[marking.verb], marking.field or "", means.clock()
    digests = [target.digest.hex() for target in targets]
    await session.exec(
        delete(Mark).where(
            col(Mark.package_id) == package.id,
            col(Mark.record).in_(digests),
            col(Mark.field) == field,
            col(Mark.kind) == kind.value,
        )
    )
    if marking.verb != "restore":
        rows = {
            target.digest: {
                "organisation_id": package.organisation_id,
                "package_id": package.id,
                "record": target.digest.hex(),
                "field": field,
                "kind": kind.value,
                "system": target.system,
                "entity": target.entity,
                "reason": marking.reason,
                "actor": actor,
                "made_at": now,
            }
            for target in targets
        }
        await session.exec(insert(Mark).values(list(rows.values())))
    data = {
        "package": package.id,
        "verb": marking.verb,
        "field": marking.field,
        "reason": marking.reason,
        "count": len(targets),
        "records": [str(one) for one in marking.ids()],
    }
    await _record(session, package, actor, "package.records_marked", data, means)


# --- ledger --------------------------------------------------------------------------------------------------------


async def _note(means: Means, package: Package, actor: str, kind: str, **data: Any) -> None:
    async with means.database.write(package.organisation_id) as session:
        await _record(session, package, actor, kind, {"package": package.id, **data}, means)


async def _record(
    session: WriteSession, package: Package, actor: str, kind: str, data: dict[str, Any], means: Means
) -> None:
    await ledger.record(
        session,
        organisation_id=package.organisation_id,
        service=SERVICE,
        kind=kind,
        actor=actor,
        case_id=package.case_id,
        data=data,
        at=means.clock(),
    )

"""What is a package made of? Its plan, and the attempts of tasks that fill it.

open → sealing → sealed → collected → destroyed. Parts arrive while it is open. Each belongs to one attempt of one task;
the highest begun attempt may send, the highest committed one counts. Streams hold no transaction: one short one before
and one after, each under the package's row lock.
"""

import base64
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from services.exporter.binding import Binder, file_digest
from services.exporter.holdings import proofs_of
from services.exporter.means import SERVICE, Means, PackageGone, Unlocked
from services.exporter.parts import Inspector, OtherSystem, count_unbound, sum_up
from services.exporter.tables import Attempt, Mark, Package, PackageState, Part, PartKind
from services.exporter.vault import Blind, Stored, run
from shared import ledger
from shared.database import ReadSession, WriteSession
from shared.ids import new_id
from shared.messages import Commit, GroupFacts, Message, PackagePlan, PartStored
from shared.problems import Conflict, Invalid, NotFound
from shared.vocabulary import TaskState

KEY_BYTES = 32


class UnknownPackage(NotFound):
    """There is no such package here."""


class ForeignPlan(Invalid):
    """A plan is for the caller's own organisation, and its binding key has 32 bytes in base64."""

    code = "bad-plan"


class PlanDiffers(Conflict):
    """The package was planned with another content."""

    code = "plan-differs"


class Sealing(Conflict):
    """The package is being sealed just now."""

    code = "sealing"


class AlreadySealed(Conflict):
    """The package is sealed: nothing is added to it or changed in it any more."""

    code = "already-sealed"


class LateAttempt(Conflict):
    """A later attempt of this task has taken over."""

    code = "late-attempt"


class AlreadyCommitted(Conflict):
    """This attempt was committed with another content."""

    code = "already-committed"


class PartDiffers(Conflict):
    """This part was sent before with another content."""

    code = "part-differs"


class PartsDiffer(Conflict):
    """The parts that arrived are not those that the commit names."""

    code = "parts-differ"


class RecordsDiffer(Conflict):
    """The records that arrived are not as many as the commit says."""

    code = "records-differ"


class FilesDiffer(Conflict):
    """The files that arrived are not those that the records name."""

    code = "files-differ"


class NotEmpty(Invalid):
    """Only a task that found something sends parts, and it sends at least one."""

    code = "state-differs"


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a part belongs."""

    organisation: str
    package: str
    task: str
    attempt: int
    number: int = 0


@dataclass(frozen=True, slots=True)
class FileLabel:
    """What a file is called at its source, and its media type."""

    name: str
    media_type: str


class Committed(Message):
    """Answer to a commit: facts only."""

    groups: tuple[GroupFacts, ...]
    unbound: int


# --- planning ------------------------------------------------------------------------------------------------------


async def plan(means: Means, organisation: str, package_id: str, plan: PackagePlan) -> None:
    """Open a package under its order's id; the same plan again changes nothing."""
    if plan.organisation_id != organisation:
        raise ForeignPlan
    binding_key = _key(plan.binding_key)
    await means.registers.cited(organisation, plan.register_version)
    wrapped, sealed = means.lock(organisation, package_id, binding_key)
    package = Package(
        organisation_id=organisation,
        id=package_id,
        case_id=plan.case_id,
        reference=plan.reference,
        right=plan.right.value,
        language=plan.language.value,
        register_version=plan.register_version,
        plan_hash=fingerprint(plan),
        proofs=list(plan.proofs),
        data_key=wrapped,
        binding_key=sealed,
        created_at=means.clock(),
    )
    if not await _insert(means, package):
        await _check_same(means, package)


async def _insert(means: Means, package: Package) -> bool:
    async with means.database.read(package.organisation_id) as session:
        if (await session.exec(select(Package.id).where(Package.id == package.id))).first():
            return False
    try:
        async with means.database.write(package.organisation_id) as session:
            session.add(package)
    except IntegrityError:  # the same plan came twice at once
        return False
    return True


async def _check_same(means: Means, package: Package) -> None:
    async with means.database.read(package.organisation_id) as session:
        known = await find(session, package.id)
    if known.state == PackageState.DESTROYED:
        raise PackageGone
    if known.plan_hash != package.plan_hash:
        raise PlanDiffers


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        raise ForeignPlan from None
    if len(key) != KEY_BYTES:
        raise ForeignPlan
    return key


def fingerprint(message: BaseModel, *, exclude: set[str] | None = None) -> str:
    """Return a hash by which the same message is known again."""
    return hashlib.sha256(message.model_dump_json(exclude=exclude).encode()).hexdigest()


# --- parts ---------------------------------------------------------------------------------------------------------


async def put_records(means: Means, slot: Slot, content: AsyncIterator[bytes]) -> PartStored:
    """Take a part of records (NDJSON of `shared.messages.Record`) as it comes, every line checked."""
    package = await _begin(means, slot)
    register = await means.registers.cited(slot.organisation, package.register_version)
    unlocked = means.unlock(package)
    binder = Binder(unlocked.binding_key, (), register)
    inspector = Inspector(register, binder, unlocked.binding_key)
    name = new_id()
    stored = await unlocked.box.put(name, content, inspector, limit=means.settings.part_bytes)
    found = inspector.found()
    part = _part(slot, PartKind.RECORDS, name, stored)
    part.records, part.facts, part.files = found.records, found.facts, found.files
    return await _keep(means, unlocked, part, found.system)


async def put_file(means: Means, slot: Slot, content: AsyncIterator[bytes], label: FileLabel) -> PartStored:
    """Take one file as it comes. Its name may be personal data: it is sealed, and compared by digest."""
    package = await _begin(means, slot)
    unlocked = means.unlock(package)
    name = new_id()
    stored = await unlocked.box.put(name, content, Blind(), limit=means.settings.file_bytes)
    part = _part(slot, PartKind.FILE, name, stored)
    part.files = [file_digest(unlocked.binding_key, label.name)]
    part.file_name = unlocked.fields.seal(name, label.name.encode())
    part.file_type = label.media_type
    return await _keep(means, unlocked, part, None)


def _part(slot: Slot, kind: PartKind, name: str, stored: Stored) -> Part:
    return Part(
        organisation_id=slot.organisation,
        package_id=slot.package,
        task_id=slot.task,
        attempt=slot.attempt,
        number=slot.number,
        kind=kind.value,
        stored_as=name,
        size=stored.bytes,
        sha256=stored.sha256,
    )


async def _begin(means: Means, slot: Slot) -> Package:
    """Refuse a part that may not come before it is read. That its attempt has begun is noted with the part itself."""
    async with means.database.read(slot.organisation) as session:
        package = await find_open(session, slot.package)
        await _begun(session, slot)
    return package


async def _keep(means: Means, unlocked: Unlocked, part: Part, system: str | None) -> PartStored:
    """Record a part that lies in the vault; if it may not be, or is there already, take it out again."""
    kept = False
    try:
        async with means.database.write(part.organisation_id) as session:
            kept = await _record(session, part, system, means.clock())
    finally:
        if not kept:
            await unlocked.box.delete(part.stored_as)
    return PartStored(bytes=part.size, sha256=part.sha256)


async def _record(session: WriteSession, part: Part, system: str | None, now: datetime) -> bool:
    """Insert the part's row; False if the same part is known."""
    await find_open(session, part.package_id)
    slot = Slot(part.organisation_id, part.package_id, part.task_id, part.attempt)
    attempt = await _begun(session, slot)
    if attempt is None:
        await session.put(Attempt, _new_attempt(slot, now, system).model_dump())
    elif await _is_known(session, slot, part):
        return False
    elif attempt.committed_at is not None:
        raise AlreadyCommitted
    else:
        _same_system(attempt, system)
    await session.put(Part, part.model_dump())
    return True


async def _is_known(session: WriteSession, slot: Slot, part: Part) -> bool:
    known = (await session.exec(_parts_of(slot).where(Part.number == part.number))).first()
    if known is not None and (known.sha256, known.kind, known.files) != (part.sha256, part.kind, part.files):
        raise PartDiffers
    return known is not None


def _same_system(attempt: Attempt, system: str | None) -> None:
    if system is None:
        return
    if attempt.system not in {None, system}:
        raise OtherSystem
    attempt.system = system


# --- commits -------------------------------------------------------------------------------------------------------


async def commit(means: Means, slot: Slot, commit: Commit) -> Committed:
    """Let an attempt count, once everything that it names is here. The same commit again changes nothing."""
    async with means.database.write(slot.organisation) as session:
        package = await find_open(session, slot.package)
        attempt = await _attempt(session, slot, means.clock())
        parts = (await session.exec(_parts_of(slot).order_by(col(Part.number)))).all()
        if attempt.committed_at is None:
            _check(attempt, parts, commit)
            _enter(attempt, commit, means.clock())
        elif attempt.commit_hash != fingerprint(commit):
            raise AlreadyCommitted
        await session.flush()
        proofs = await proofs_of(session, package)
    facts = [part.facts for part in parts]
    unbound = sum(sum(count_unbound(rows, proofs).values()) for rows in facts)
    return Committed(groups=tuple(sum_up(facts)), unbound=unbound)


def _check(attempt: Attempt, parts: Sequence[Part], commit: Commit) -> None:
    if [part.sha256 for part in parts] != list(commit.parts):
        raise PartsDiffer
    if sum(part.records for part in parts) != commit.records:
        raise RecordsDiffer
    if (commit.state == TaskState.FOUND) != bool(commit.records):
        raise NotEmpty
    named = {name for part in parts if part.kind == PartKind.RECORDS for name in part.files}
    sent = [name for part in parts if part.kind == PartKind.FILE for name in part.files]
    if len(sent) != len(set(sent)) or named != set(sent):
        raise FilesDiffer
    _same_system(attempt, commit.system)


def _enter(attempt: Attempt, commit: Commit, now: datetime) -> None:
    attempt.committed_at = now
    attempt.commit_hash = fingerprint(commit)
    attempt.state = commit.state.value
    attempt.code = commit.code
    attempt.records = commit.records
    attempt.proofs = list(commit.proofs)


def _parts_of(slot: Slot) -> SelectOfScalar[Part]:
    return select(Part).where(Part.package_id == slot.package, Part.task_id == slot.task, Part.attempt == slot.attempt)


# --- the end -------------------------------------------------------------------------------------------------------


async def destroy(means: Means, organisation: str, package_id: str, *, actor: str) -> None:
    """Destroy a package: its key and rows in one transaction, then what lies in the vault. Again changes nothing."""
    async with means.database.write(organisation) as session:
        package = await find(session, package_id)
        if package.state != PackageState.DESTROYED:
            await _empty(session, package, means.clock())
            await ledger.record(
                session,
                organisation_id=organisation,
                service=SERVICE,
                kind="package.destroyed",
                actor=actor,
                case_id=package.case_id,
                data={"package": package_id},
                at=package.destroyed_at or means.clock(),
            )
    await run(means.store.clear, organisation, package_id)


async def _empty(session: WriteSession, package: Package, now: datetime) -> None:
    package.state = PackageState.DESTROYED
    package.destroyed_at = now
    package.data_key = package.binding_key = package.lease = package.lease_until = None
    package.archive, package.answers, package.proofs = None, {}, []
    for table in (Part, Attempt, Mark):
        await session.exec(delete(table).where(col(table.package_id) == package.id))


# --- reading -------------------------------------------------------------------------------------------------------


async def find(session: ReadSession | WriteSession, package_id: str) -> Package:
    """Return a package of the session's organisation. Raises `UnknownPackage`, for another one's too."""
    query = select(Package).where(Package.id == package_id)
    if isinstance(session, WriteSession):
        query = query.with_for_update()
    package = (await session.exec(query)).first()
    if package is None:
        raise UnknownPackage
    return package


async def find_open(session: ReadSession | WriteSession, package_id: str) -> Package:
    """Return a package that can still be filled and reviewed."""
    package = await find(session, package_id)
    if package.state == PackageState.DESTROYED:
        raise PackageGone
    if package.state == PackageState.SEALING:
        raise Sealing(retry_after=5)
    if package.state != PackageState.OPEN:
        raise AlreadySealed
    return package


async def _attempt(session: WriteSession, slot: Slot, now: datetime) -> Attempt:
    """Return this attempt, begun now if it is new. Raises `LateAttempt` if a later one has begun."""
    attempt = await _begun(session, slot)
    if attempt is None:
        attempt = _new_attempt(slot, now)
        session.add(attempt)
    return attempt


def _new_attempt(slot: Slot, now: datetime, system: str | None = None) -> Attempt:
    return Attempt(
        organisation_id=slot.organisation,
        package_id=slot.package,
        task_id=slot.task,
        attempt=slot.attempt,
        system=system,
        begun_at=now,
    )


async def _begun(session: ReadSession | WriteSession, slot: Slot) -> Attempt | None:
    """Return this attempt if it has begun. Raises `LateAttempt` if a later one has."""
    query = (
        select(Attempt)
        .where(Attempt.package_id == slot.package, Attempt.task_id == slot.task)
        .order_by(col(Attempt.attempt).desc())
        .limit(1)
    )
    highest = (await session.exec(query)).first()
    if highest is not None and highest.attempt > slot.attempt:
        raise LateAttempt
    return highest if highest is not None and highest.attempt == slot.attempt else None

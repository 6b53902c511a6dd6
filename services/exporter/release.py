"""When and how does a package leave review? Sealed within the call, under a lease, by one caller at a time.

The lease is renewed while the work goes on; a crash lets it run out, and the next call begins again under new names.
Nothing unopened, unbound, doubtful or withheld can be in the result: the selection that the writer gets has none.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import compress
from threading import Event

import structlog
from sqlalchemy import delete
from sqlmodel import col

from services.exporter.answer import render_answer
from services.exporter.binding import file_digest
from services.exporter.bundle import write_bundle
from services.exporter.contents import BundlePlan, FileEntry, RecordLine, Tally, Withheld, portable_fields
from services.exporter.holdings import Holdings, has_confirmed, hold, indexed, marks_of
from services.exporter.keys import Signing
from services.exporter.means import SERVICE, Means, PackageGone, Unlocked
from services.exporter.packages import AlreadySealed, Sealing, find, fingerprint
from services.exporter.parts import decode, free_text_fields, lines
from services.exporter.selection import Fate, Group, Marks, RecordMarks, Rule, Selection, Slice, groups_of, select
from services.exporter.tables import Mark, Package, PackageState, Part
from services.exporter.vault import Sink, Stored
from shared import ledger
from shared.database import WriteSession
from shared.ids import new_id
from shared.messages import Decision, PackagePlan, Record, Release, Sealed
from shared.problems import Conflict, Invalid, Unavailable
from shared.register import Register
from shared.vocabulary import PORTABLE, Language, Outcome, Right

GRANTED = frozenset({Outcome.GRANTED, Outcome.PARTLY_GRANTED})
_RELEASER = re.compile(r"automatic|handler:[A-Za-z0-9-]{1,64}", re.ASCII)

log = structlog.get_logger()


class BadRelease(Invalid):
    """A release names who released it: `automatic`, or `handler:` and an id."""

    code = "bad-release"


class NeedsOpening(Conflict):
    """Some records hold free text or files that nobody has opened: open or withhold them first."""

    code = "needs-opening"


class NobodyAlone(Conflict):
    """Whoever confirmed that a doubtful record is the person's may not release it alone: another handler must."""

    code = "second-person-needed"


class Undecided(Conflict):
    """Records were found in a group for which the release holds no decision."""

    code = "undecided"


class Interrupted(Unavailable):
    """Sealing was interrupted: release the package again."""

    code = "sealing-interrupted"


@dataclass(frozen=True, slots=True)
class _Job:
    """One claimed release: what was in the package when the claim was made."""

    package: Package
    lease: str
    release: Release
    holdings: Holdings
    marks: Marks


@dataclass(frozen=True, slots=True)
class _Result:
    """What was written into the vault."""

    tally: Tally
    selection: Selection
    archive: Stored
    answers: dict[str, int]
    """Language → bytes of the answer."""


async def release(means: Means, organisation: str, package_id: str, body: Release) -> Sealed:
    """Seal a package, or return what the same release sealed before.

    Raises `Sealing` (409, retry later) while another call does so, `AlreadySealed` for another release than the one
    that was carried out, `NeedsOpening` and `Undecided` where review or decisions are not complete. If the caller
    leaves, the work goes on.
    """
    if not _RELEASER.fullmatch(body.released_by):
        raise BadRelease
    claimed = await _claim(means, organisation, package_id, body)
    if isinstance(claimed, Sealed):
        return claimed
    return await asyncio.shield(means.background.start(_seal(means, claimed)))


async def _claim(means: Means, organisation: str, package_id: str, body: Release) -> _Job | Sealed:
    async with means.database.write(organisation) as session:
        package = await find(session, package_id)
        done = _done(package, body, means.clock())
        if done:
            return done
        if await has_confirmed(session, package_id, body.released_by):
            raise NobodyAlone  # nobody releases alone what they alone identified (design §3.6)
        package.state, package.lease = PackageState.SEALING, new_id()
        package.lease_until = means.clock() + _lease(means)
        holdings = await hold(session, package)
        return _Job(package, package.lease, body, holdings, await marks_of(session, package_id))


def _done(package: Package, body: Release, now: datetime) -> Sealed | None:
    """Return what was sealed before; raise where nothing may be sealed now; None: go ahead."""
    if package.state == PackageState.DESTROYED:
        raise PackageGone
    if package.state == PackageState.SEALING and package.lease_until and package.lease_until > now:
        raise Sealing(retry_after=max(1, round((package.lease_until - now).total_seconds())))
    if package.state in {PackageState.OPEN, PackageState.SEALING}:
        return None
    if package.release_hash != _release_hash(body):
        raise AlreadySealed
    return sealed(package)


def _release_hash(body: Release) -> str:
    """The day on which a call is repeated makes it no other release."""
    return fingerprint(body, exclude={"answered_on"})


def sealed(package: Package) -> Sealed:
    """Return the facts of a sealed package."""
    assert package.sha256
    assert package.sealed_at
    assert package.expires_at
    return Sealed(
        package_id=package.id,
        records=package.records,
        withheld=package.withheld,
        unbound=package.unbound,
        doubtful=package.doubtful,
        bytes=package.size,
        sha256=package.sha256,
        sealed_at=package.sealed_at,
        expires_at=package.expires_at,
    )


def _lease(means: Means) -> timedelta:
    return timedelta(seconds=means.settings.lease_seconds)


# --- sealing -------------------------------------------------------------------------------------------------------


async def _seal(means: Means, job: _Job) -> Sealed:
    """Write the package and enter it; on any failure leave it open and the vault as it was."""
    package, unlocked = job.package, means.unlock(job.package)
    names = {name: new_id() for name in ("archive", *Language)}
    try:
        async with _renewed(means, job) as lost:
            register = await means.registers.cited(package.organisation_id, package.register_version)
            signing = await means.keys.current(package.organisation_id)
            writer = _Writer(means, job, register, signing, lost)
            result = await means.background.seal(partial(writer.write, names))
        return await _finish(means, job, register, result, names)
    except BaseException as error:
        log.warning("package not sealed", package=package.id, error=type(error).__name__)
        for name in names.values():
            await unlocked.box.delete(name)
        await _give_back(means, job)
        raise


@asynccontextmanager
async def _renewed(means: Means, job: _Job) -> AsyncIterator[Event]:
    """Renew the lease while the block runs; the event tells when it was lost or the process ends."""
    lost = Event()
    task = asyncio.ensure_future(_renew(means, job, lost))
    try:
        yield lost
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _renew(means: Means, job: _Job, lost: Event) -> None:
    while not lost.is_set():
        await asyncio.sleep(means.settings.lease_seconds / 3)
        async with means.database.write(job.package.organisation_id) as session:
            package = await find(session, job.package.id)
            if package.lease == job.lease:
                package.lease_until = means.clock() + _lease(means)
            else:
                lost.set()


async def _finish(means: Means, job: _Job, register: Register, result: _Result, names: dict[str, str]) -> Sealed:
    """Enter the sealed package, if the claim still stands; the parts are not needed any more."""
    package_id, organisation = job.package.id, job.package.organisation_id
    async with means.database.write(organisation) as session:
        package = await find(session, package_id)
        if package.lease != job.lease or package.state != PackageState.SEALING:
            raise PackageGone if package.state == PackageState.DESTROYED else Interrupted
        now = means.clock()
        package.state, package.lease, package.lease_until = PackageState.SEALED, None, None
        package.release_hash = _release_hash(job.release)
        package.archive = names["archive"]
        package.answers = {
            language: {"name": names[language], "bytes": size} for language, size in result.answers.items()
        }
        package.records = result.tally.records
        package.withheld = result.selection.total(Fate.WITHHELD) + result.selection.redacted
        package.unbound = result.selection.total(Fate.UNBOUND)
        package.doubtful = result.selection.total(Fate.DOUBTFUL)
        package.size, package.sha256 = result.archive.bytes, result.archive.sha256
        package.sealed_at, package.expires_at = now, now + timedelta(days=register.policy.package_days)
        await _note(session, package, job, result, now)
        for table in (Part, Mark):
            await session.exec(delete(table).where(col(table.package_id) == package_id))
    box = means.unlock(package).box
    for part in [*job.holdings.parts, *(part for files in job.holdings.files.values() for part in files.values())]:
        await box.delete(part.stored_as)
    return sealed(package)


async def _note(session: WriteSession, package: Package, job: _Job, result: _Result, now: datetime) -> None:
    data = {
        "package": package.id,
        "released_by": job.release.released_by,
        "records": package.records,
        "withheld": package.withheld,
        "unbound": package.unbound,
        "doubtful": package.doubtful,
        "files": len(result.tally.files),
        "bytes": package.size,
        "sha256": package.sha256,
    }
    await ledger.record(
        session,
        organisation_id=package.organisation_id,
        service=SERVICE,
        kind="package.sealed",
        actor=job.release.released_by,
        case_id=package.case_id,
        data=data,
        at=now,
    )


async def _give_back(means: Means, job: _Job) -> None:
    """Let the package be reviewed and released again, if it is still ours."""
    async with means.database.write(job.package.organisation_id) as session:
        package = await find(session, job.package.id)
        if package.lease == job.lease and package.state == PackageState.SEALING:
            package.state, package.lease, package.lease_until = PackageState.OPEN, None, None


# --- writing (all of it blocks) ------------------------------------------------------------------------------------


class _Writer:
    """Turns what a package holds into the archive and the answers, in the vault."""

    def __init__(self, means: Means, job: _Job, register: Register, signing: Signing, lost: Event) -> None:
        self._job, self._register, self._signing = job, register, signing
        self._unlocked = means.unlock(job.package)
        self._now = means.clock()
        self._stop = (lost, means.background.stopping)

    def write(self, names: dict[str, str]) -> _Result:
        """Write everything. Raises `NeedsOpening`, `Undecided`, `Interrupted`, or what the vault raises."""
        self._check()
        holdings = self._job.holdings
        parts = list(indexed(self._unlocked, holdings))
        rules = release_rules(self._register, self._job.release, Right(self._job.package.right), groups_of(parts))
        selection = select(parts, self._job.marks, holdings.proofs, rules)
        if unopened := selection.total(Fate.UNOPENED):
            raise NeedsOpening(records=unopened)
        source = _Source(self._unlocked, holdings, selection)
        plan = self._plan(source)
        tally, archive = self._archive(plan, source, names["archive"])
        answers = {}
        for language in Language:
            with self._unlocked.box.writer(names[language]) as sink:
                self._pour(render_answer(plan, source.records, language, tally), sink)
                answers[language.value] = sink.stored().bytes
        return _Result(tally, selection, archive, answers)

    def _archive(self, plan: BundlePlan, source: "_Source", name: str) -> tuple[Tally, Stored]:
        bundle = _Kept(write_bundle(plan, source.records, source.files(), sign=self._signing.sign, now=self._now))
        with self._unlocked.box.writer(name) as sink:
            self._pour(bundle, sink)
            return bundle.value, sink.stored()

    def _pour(self, chunks: Iterable[bytes], sink: Sink) -> None:
        for chunk in chunks:
            self._check()
            sink.write(chunk)

    def _check(self) -> None:
        if any(event.is_set() for event in self._stop):
            raise Interrupted

    def _plan(self, source: "_Source") -> BundlePlan:
        package = self._job.package
        return BundlePlan(
            register=self._register,
            package=PackagePlan(
                organisation_id=package.organisation_id,
                case_id=package.case_id,
                reference=package.reference,
                right=Right(package.right),
                language=Language(package.language),
                register_version=package.register_version,
                binding_key="",
                proofs=(),
            ),
            release=self._job.release,
            withheld=list(source.withheld()),
            held_back=source.selection.total(Fate.UNBOUND, Fate.DOUBTFUL),
            jwks=self._signing.jwks,
        )


class _Kept:
    """Iterates a generator and keeps what it returns."""

    def __init__(self, chunks: Generator[bytes, None, Tally]) -> None:
        self._chunks = chunks
        self.value = Tally()

    def __iter__(self) -> Iterator[bytes]:
        self.value = yield from self._chunks


class _Source:
    """Reads what was selected, as the writer asks for it."""

    def __init__(self, unlocked: Unlocked, holdings: Holdings, selection: Selection) -> None:
        self._unlocked, self._holdings, self.selection = unlocked, holdings, selection

    def records(self, system: str, entity: str) -> Iterator[RecordLine]:
        """Yield the released records of a group, always in the same order."""
        for piece in self.selection.released.get((system, entity), ()):
            if piece.lines:
                yield from self._released(piece)

    def _released(self, piece: Slice) -> Iterator[RecordLine]:
        marked = self.selection.marked.get(piece.part)
        if not marked:
            yield from map(RecordLine, self._lines(piece.part, piece.lines))
            return
        for number, line in zip(piece.lines, self._lines(piece.part, piece.lines), strict=True):
            yield RecordLine(line, frozenset(marked[number].fields) if number in marked else frozenset())

    def withheld(self) -> Iterator[Withheld]:
        """Yield what is left out by a person's mark, with the key that the record has in its system."""
        for place, marked in self.selection.marked.items():
            wanted = sorted(marked)
            for number, line in zip(wanted, self._lines(place, wanted), strict=True):
                yield from _withheld(decode(line), marked[number])

    def files(self) -> Iterator[FileEntry]:
        """Yield the files of released records."""
        for place, wanted in self.selection.with_files.items():
            for line in self._lines(place, wanted):
                yield from self._files(self._holdings.parts[place], decode(line))

    def _files(self, part: Part, record: Record) -> Iterator[FileEntry]:
        for name in record.files:
            file = self._holdings.files[part.task_id, part.attempt][file_digest(self._unlocked.binding_key, name)]
            yield FileEntry(
                system=record.system,
                entity=record.entity,
                key=record.key,
                name=name,
                media_type=file.file_type or "application/octet-stream",
                read=partial(self._unlocked.box.chunks, file.stored_as, file.size),
            )

    def _lines(self, place: int, wanted: Sequence[int]) -> Iterator[bytes]:
        """Yield the lines with these numbers, which ascend."""
        part = self._holdings.parts[place]
        stored = lines(self._unlocked.box.chunks(part.stored_as, part.size))
        if len(wanted) == part.records:
            return stored
        chosen = bytearray(wanted[-1] + 1)
        for number in wanted:
            chosen[number] = 1
        return compress(stored, chosen)


def _withheld(record: Record, marks: RecordMarks) -> Iterator[Withheld]:
    if marks.withheld is not None:
        yield Withheld(record.system, record.entity, record.key, None, marks.withheld)
        return
    for field, reason in marks.fields.items():
        yield Withheld(record.system, record.entity, record.key, field, reason)


# --- rules ---------------------------------------------------------------------------------------------------------


def release_rules(register: Register, body: Release, right: Right, groups: Iterable[Group]) -> dict[Group, Rule]:
    """Return how each found group is treated. Raises `Undecided` where no decision names one of them."""
    decisions: dict[Group, list[Decision]] = {}
    for decision in body.decisions:
        decisions.setdefault((decision.system, decision.entity), []).append(decision)
    found = set(groups)
    if not found <= decisions.keys():
        raise Undecided
    return {group: _rule(register, right, group, decisions[group]) for group in found}


def _rule(register: Register, right: Right, group: Group, decisions: list[Decision]) -> Rule:
    """One purpose under which the group is granted suffices; what Art. 20 does not cover, need not be opened either."""
    entity = register.systems[group[0]].entities[group[1]]
    granted = any(decision.outcome in GRANTED for decision in decisions)
    free_text = free_text_fields(entity)
    if right is not Right.PORTABILITY:
        return Rule(granted=granted, free_text=free_text, files=True)
    portable = portable_fields(register, *group)
    return Rule(
        granted=granted and bool(portable),
        free_text=free_text.intersection(portable),
        files=entity.provided in PORTABLE,
    )

"""What lies in a package just now: which parts count, what is proven, and what was marked?"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlmodel import col, select

from services.exporter.binding import is_proven
from services.exporter.means import Unlocked
from services.exporter.selection import IndexedPart, Marks, RecordMarks
from services.exporter.tables import Attempt, Mark, MarkKind, Package, Part, PartKind
from shared.database import ReadSession, WriteSession

Session = ReadSession | WriteSession
IN_QUERY = 400
"""Values in one SQL `IN`."""
PartKey = tuple[str, int]
"""(task, attempt)."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """The parts of a package that count, in the order in which everything reads them."""

    package: Package
    attempts: list[Attempt]
    parts: list[Part]
    """Parts of records."""
    files: dict[PartKey, dict[str, Part]]
    """Attempt → digest of the file's name → its part."""
    proofs: frozenset[str]
    """Digests of every identifier that is proven, or was discovered by an attempt that counts."""

    def system(self, part: Part) -> str:
        """The system whose records a part holds."""
        return next(attempt.system or "" for attempt in self.attempts if attempt.task_id == part.task_id)

    def find(self, task: str, attempt: int, number: int) -> Part | None:
        """The part of records in this place, if it counts."""
        return next((part for part in self.parts if place(part) == (task, attempt, number)), None)

    def find_file(self, task: str, attempt: int, number: int) -> Part | None:
        """The file in this place, if it counts."""
        return next((part for part in self.files.get((task, attempt), {}).values() if part.number == number), None)

    def is_bound(self, part: Part, entity: int, binding: int) -> bool:
        """Whether a record of `part` is tied to the person; both numbers are from the part's index."""
        digests, _count = part.facts[entity]["bound"][binding]
        return is_proven(digests, self.proofs)


def place(part: Part) -> tuple[str, int, int]:
    """Where a part stands in its package."""
    return part.task_id, part.attempt, part.number


async def hold(session: Session, package: Package) -> Holdings:
    """Read which parts of a package count: of each task those of its highest committed attempt."""
    attempts = await counting(session, package.id)
    keys = {(attempt.task_id, attempt.attempt) for attempt in attempts}
    query = (
        select(Part)
        .where(Part.package_id == package.id)
        .order_by(col(Part.task_id), col(Part.attempt), col(Part.number))
    )
    parts = [part for part in (await session.exec(query)).all() if (part.task_id, part.attempt) in keys]
    files: dict[PartKey, dict[str, Part]] = {}
    for part in parts:
        if part.kind == PartKind.FILE:
            files.setdefault((part.task_id, part.attempt), {})[part.files[0]] = part
    records = [part for part in parts if part.kind == PartKind.RECORDS]
    return Holdings(package, attempts, records, files, all_proofs(package, attempts))


async def counting(session: Session, package_id: str) -> list[Attempt]:
    """Return the attempts that count: of each task the highest committed one."""
    query = (
        select(Attempt)
        .where(Attempt.package_id == package_id, col(Attempt.committed_at).is_not(None))
        .order_by(col(Attempt.task_id), col(Attempt.attempt))
    )
    return list({attempt.task_id: attempt for attempt in (await session.exec(query)).all()}.values())


async def proofs_of(session: Session, package: Package) -> frozenset[str]:
    """Return what `all_proofs` does, reading no more of the attempts: where 100 systems commit, this is asked 100 times."""
    query = (
        select(Attempt.task_id, Attempt.proofs)
        .where(Attempt.package_id == package.id, col(Attempt.committed_at).is_not(None))
        .order_by(col(Attempt.attempt))
    )
    highest = dict((await session.exec(query)).all())
    return frozenset(package.proofs).union(*highest.values())


def all_proofs(package: Package, attempts: Iterable[Attempt]) -> frozenset[str]:
    """Return the digests of every identifier that is proven, or was discovered by one of these attempts."""
    return frozenset(package.proofs).union(*(attempt.proofs for attempt in attempts))


def indexed(unlocked: Unlocked, holdings: Holdings) -> Iterator[IndexedPart]:
    """Yield the parts with their indexes. Blocking."""
    for part in holdings.parts:
        index = unlocked.box.behind(part.stored_as, part.size)
        yield IndexedPart(holdings.system(part), part.facts, index)


async def marks_of(session: Session, package_id: str, records: Sequence[bytes] | None = None) -> Marks:
    """Return the marks on some records, or on all."""
    found: list[Mark] = []
    query = select(Mark).where(Mark.package_id == package_id)
    if records is None:
        found += (await session.exec(query)).all()
    for start in range(0, len(records or ()), IN_QUERY):
        digests = [digest.hex() for digest in (records or ())[start : start + IN_QUERY]]
        found += (await session.exec(query.where(col(Mark.record).in_(digests)))).all()
    return _by_record(found)


async def has_confirmed(session: Session, package_id: str, actor: str) -> bool:
    """Whether `actor` said of a doubtful record that it is the person's, and nobody else said so after them."""
    own = select(Mark.record).where(
        Mark.package_id == package_id, Mark.kind == MarkKind.CONFIRMED.value, Mark.actor == actor
    )
    return (await session.exec(own.limit(1))).first() is not None


def _by_record(found: Iterable[Mark]) -> dict[bytes, RecordMarks]:
    rows: dict[str, list[Mark]] = {}
    for mark in found:
        rows.setdefault(mark.record, []).append(mark)
    return {bytes.fromhex(record): _marks(of_record) for record, of_record in rows.items()}


def _marks(found: list[Mark]) -> RecordMarks:
    withheld = {mark.field: mark.reason or "" for mark in found if mark.kind == MarkKind.WITHHELD}
    kinds = {mark.kind for mark in found}
    return RecordMarks(
        withheld=withheld.pop("", None),
        fields=withheld,
        opened=MarkKind.OPENED in kinds,
        confirmed=MarkKind.CONFIRMED in kinds,
    )

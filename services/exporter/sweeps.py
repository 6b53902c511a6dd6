"""What is left over? Packages that are due, attempts that were overtaken, objects without a row, notices unheard.

Each sweep is safe to run in several processes at once and to be cut off anywhere.
"""

from collections.abc import Awaitable, Callable
from functools import partial

import structlog
from sqlalchemy import delete, exists, or_
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from services.exporter.collection import notify
from services.exporter.means import Means
from services.exporter.packages import destroy
from services.exporter.tables import Attempt, Package, PackageState, Part
from services.exporter.vault import Place, run

BATCH = 100
ACTOR = "service:exporter"

log = structlog.get_logger()


async def destroy_due(means: Means) -> int:
    """Destroy sealed packages whose time is over; return how many."""
    due = (
        select(Package)
        .where(col(Package.state).in_([PackageState.SEALED, PackageState.COLLECTED]))
        .where(col(Package.expires_at) <= means.clock())
        .limit(BATCH)
    )
    async with means.database.read(None) as session:
        packages = (await session.exec(due)).all()
    for package in packages:
        await destroy(means, package.organisation_id, package.id, actor=ACTOR)
    return len(packages)


async def repeat_notices(means: Means) -> int:
    """Tell intake again of collections that it has not heard of; return how many it heard now."""
    unheard = (
        select(Package)
        .where(Package.state == PackageState.COLLECTED, col(Package.notified_at).is_(None))
        .order_by(col(Package.collected_at))
        .limit(BATCH)
    )
    async with means.database.read(None) as session:
        packages = (await session.exec(unheard)).all()
    return sum([await notify(means, package) for package in packages])


async def remove_overtaken(means: Means) -> int:
    """Remove attempts, with their parts, that a higher committed one replaced or a higher begun one left behind."""
    higher = aliased(Attempt)
    overtaken = exists().where(
        col(higher.organisation_id) == col(Attempt.organisation_id),
        col(higher.package_id) == col(Attempt.package_id),
        col(higher.task_id) == col(Attempt.task_id),
        col(higher.attempt) > col(Attempt.attempt),
        or_(col(higher.committed_at).is_not(None), col(Attempt.committed_at).is_(None)),
    )
    async with means.database.read(None) as session:
        attempts = (await session.exec(select(Attempt).where(overtaken).limit(BATCH))).all()
    for attempt in attempts:
        await _remove(means, attempt)
    return len(attempts)


async def _remove(means: Means, attempt: Attempt) -> None:
    key = {"package_id": attempt.package_id, "task_id": attempt.task_id, "attempt": attempt.attempt}
    async with means.database.write(attempt.organisation_id) as session:
        names = (await session.exec(select(Part.stored_as).filter_by(**key))).all()
        for table in (Part, Attempt):
            await session.exec(delete(table).filter_by(**key))
    for name in names:
        await run(means.store.delete, Place(attempt.organisation_id, attempt.package_id, name))


async def remove_orphans(means: Means) -> int:
    """Remove objects that no row knows and that are too old to be on their way; return how many.

    Where there is not even a package's row, somebody has mixed up databases or folders: those are left alone.
    """
    before = means.clock().timestamp() - means.settings.leftover_seconds
    removed = 0
    for organisation, package in await run(means.store.packages):
        names = await run(means.store.names, organisation, package, before=before)
        if names:
            removed += await _remove_unknown(means, organisation, package, names)
    return removed


async def _remove_unknown(means: Means, organisation: str, package_id: str, names: list[str]) -> int:
    async with means.database.read(organisation) as session:
        package = (await session.exec(select(Package).where(Package.id == package_id))).first()
        parts = (await session.exec(select(Part.stored_as).where(Part.package_id == package_id))).all()
    if package is None:
        log.warning("objects of an unknown package left alone", package=package_id, count=len(names))
        return 0
    answers = {answer["name"] for answer in package.answers.values()}
    orphans = set(names) - {package.archive, *answers, *parts}
    for name in orphans:
        await run(means.store.delete, Place(organisation, package_id, name))
    return len(orphans)


def all_sweeps(means: Means) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return every sweep by name, for the engine to repeat."""
    return {
        "exporter.due": partial(destroy_due, means),
        "exporter.notices": partial(repeat_notices, means),
        "exporter.overtaken": partial(remove_overtaken, means),
        "exporter.orphans": partial(remove_orphans, means),
    }

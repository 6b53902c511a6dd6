"""How does the person get the package? Read as a page until it is due, collected as a ZIP once.

One download at a time holds a lease, renewed while bytes flow. That the last byte left here says little: the gateway
confirms once the person has it, and until then a broken download can be tried again. Intake is told of a collection
afterwards, outside any transaction, and again by the sweep until it has heard.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import update
from sqlmodel import col

from services.exporter.means import SERVICE, Means, PackageGone
from services.exporter.packages import find
from services.exporter.tables import Package, PackageState
from services.exporter.vault import begun
from shared import ledger
from shared.database import WriteSession
from shared.ids import new_id
from shared.problems import Conflict, Gone, NotFound, Problem
from shared.vocabulary import Language

READABLE = frozenset({PackageState.SEALED, PackageState.COLLECTED})

log = structlog.get_logger()


class NotSealed(Conflict):
    """The answer is not ready yet."""

    code = "not-sealed"


class AlreadyCollected(Gone):
    """The package was collected. It can be collected once."""

    code = "collected"


class Expired(Gone):
    """The package was not collected in time, or is due to be destroyed."""

    code = "expired"


class Collecting(Conflict):
    """The package is being downloaded just now."""

    code = "collecting"


class HandoverLost(Gone):
    """Another download has taken over, or the package was destroyed."""

    code = "handover-lost"


class NotSent(Conflict):
    """The package has not been sent in whole."""

    code = "not-sent"


def readable(package: Package, now: datetime) -> Package:
    """Return a package whose answer may be read now, or raise why not."""
    if package.state == PackageState.DESTROYED:
        raise PackageGone
    if package.state not in READABLE:
        raise NotSealed
    if package.expires_at is None or package.expires_at <= now:
        raise Expired
    return package


# --- reading -------------------------------------------------------------------------------------------------------


async def package_of(means: Means, organisation: str, package_id: str) -> Package:
    """Return a package, whatever its state. Raises `UnknownPackage`."""
    async with means.database.read(organisation) as session:
        return await find(session, package_id)


@dataclass(frozen=True, slots=True)
class Page:
    """An answer to read. `bytes` is its length."""

    content: AsyncIterator[bytes]
    bytes: int


async def answer(means: Means, organisation: str, actor: str, package_id: str, language: Language | None) -> Page:
    """Return the answer as an HTML page, in the package's own language unless another is asked for."""
    async with means.database.write(organisation) as session:
        package = readable(await find(session, package_id), means.clock())
        await _note(session, package, "package.answer_read", actor, means.clock())
    stored = package.answers[(language or Language(package.language)).value]
    return Page(await begun(means.unlock(package).box.stream(stored["name"])), stored["bytes"])


async def copy(means: Means, organisation: str, actor: str, package_id: str) -> "Handover":
    """Give a handler the archive, to hand it over in another way; the person can still collect it."""
    async with means.database.write(organisation) as session:
        package = readable(await find(session, package_id), means.clock())
        await _note(session, package, "package.copied", actor, means.clock())
    return await _started(Handover(means, package, lease=None))


# --- collecting ----------------------------------------------------------------------------------------------------


async def collect(means: Means, organisation: str, package_id: str) -> "Handover":
    """Begin the one download. Raises `AlreadyCollected`, `Collecting`, `NotSealed`, `Expired`, `PackageGone`."""
    now = means.clock()
    async with means.database.write(organisation) as session:
        package = readable(await find(session, package_id), now)
        if package.state == PackageState.COLLECTED:
            raise AlreadyCollected
        if package.lease_until is not None and package.lease_until > now:
            raise Collecting(retry_after=max(1, round((package.lease_until - now).total_seconds())))
        package.lease, package.lease_until = new_id(), now + _lease(means)
    return await _started(Handover(means, package, lease=package.lease))


async def _started(handover: "Handover") -> "Handover":
    await handover.start()
    return handover


class Handover:
    """One download: `start` it, iterate it to send, and `end` it whatever happened."""

    _chunks: AsyncIterator[bytes]

    def __init__(self, means: Means, package: Package, *, lease: str | None) -> None:
        self._means, self._package, self._lease = means, package, lease
        self._sent = False
        self.size = package.size
        self.file_name = f"habeas-{package.reference.lower()}.zip"

    async def start(self) -> None:
        """Read the beginning, so that what is damaged there is told instead of sent. Raises `Damaged`."""
        try:
            self._chunks = await begun(self._means.unlock(self._package).box.stream(self._package.archive or ""))
        except BaseException:
            await self.end()
            raise

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the archive. The stream ends only after the last byte was taken and that was noted."""
        renewed = self._means.clock()
        async for chunk in self._chunks:
            if self._lease and self._means.clock() - renewed > _lease(self._means) / 3:
                await self._renew()
                renewed = self._means.clock()
            yield chunk
        if self._lease:
            await self._renew(sent_at=self._means.clock())
            self._sent = True

    async def end(self) -> None:
        """Let another download begin at once if this one broke off; a whole one waits for its confirmation."""
        if not self._sent:
            await self._move(lease=None, lease_until=None)

    async def _renew(self, **values: datetime) -> None:
        if not await self._move(lease_until=self._means.clock() + _lease(self._means), **values):
            raise HandoverLost

    async def _move(self, **values: str | datetime | None) -> bool:
        """Change the lease if it is still ours."""
        if self._lease is None:
            return False
        statement = update(Package).where(col(Package.id) == self._package.id, col(Package.lease) == self._lease)
        async with self._means.database.write(self._package.organisation_id) as session:
            return (await session.exec(statement.values(**values))).rowcount == 1


async def confirm(means: Means, organisation: str, actor: str, package_id: str, *, download: bool) -> None:
    """Note that the person has the package: by `download`, or handed over in another way. Again changes nothing.

    Raises `NotSent` for a download that never came to its end.
    """
    now = means.clock()
    async with means.database.write(organisation) as session:
        package = await find(session, package_id)
        if package.state == PackageState.COLLECTED:
            return
        readable(package, now)
        if download and package.sent_at is None:
            raise NotSent
        package.state, package.collected_at = PackageState.COLLECTED, now
        package.lease = package.lease_until = None
        await _note(session, package, "package.collected", actor, now)
    means.background.start(notify(means, package))


async def notify(means: Means, package: Package) -> bool:
    """Tell intake that a package was collected; False if it has not heard and is to be told again."""
    assert package.collected_at
    body = {"collected_at": package.collected_at.isoformat()}
    path = f"/packages/{package.id}/collected"
    try:
        await means.post.send("intake", "PUT", path, organisation=package.organisation_id, body=body)
    except (NotFound, Gone):
        log.warning("intake knows no such package", package=package.id)
    except Problem as problem:
        log.warning("intake not told of a collection", package=package.id, code=problem.problem_code)
        return False
    statement = update(Package).where(col(Package.id) == package.id).values(notified_at=means.clock())
    async with means.database.write(package.organisation_id) as session:
        await session.exec(statement)
    return True


def _lease(means: Means) -> timedelta:
    return timedelta(seconds=means.settings.lease_seconds)


async def _note(session: WriteSession, package: Package, kind: str, actor: str, now: datetime) -> None:
    await ledger.record(
        session,
        organisation_id=package.organisation_id,
        service=SERVICE,
        kind=kind,
        actor=actor,
        case_id=package.case_id,
        data={"package": package.id},
        at=now,
    )

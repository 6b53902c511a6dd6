"""Who asks? A one-time code to the address given proves that they control it; nothing is looked up before (12(6)).

8 digits, 10 minutes, single use, a salted slow hash, 5 tries a code, and per address at most `CODES_PER_HOUR` codes in
an hour: 25 guesses in an hour against 100,000,000. The cap never locks the person out for longer than that hour, and
the answer to a wrong guess is the same for a reference that does not exist.
"""

import asyncio
import secrets
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import func, insert, update
from sqlmodel import col, select

from services.intake import work
from services.intake.cases import add_identifiers, change, find_case, get_case, queue_letters
from services.intake.desk import Desk
from services.intake.tables import Case, Code
from shared.database import ReadSession, WriteSession
from shared.ids import ALPHABET, new_id
from shared.problems import Conflict, Gone, Invalid, NotFound, TooMany
from shared.sealing import check_code, hash_code
from shared.vocabulary import OPEN_STATES, Assurance, CaseState

LIFETIME = timedelta(minutes=10)
TRIES = 5
CODES_PER_HOUR = 5
COLLECTION_TRIES = 10
_DECOY = hash_code("00000000")
"""Checked where there is no code, so that an unknown reference takes as long as a wrong code."""


class WrongCode(Invalid):
    """The code is wrong, used, or older than ten minutes. Ask for a new one."""

    code = "code-wrong"


class WrongCollectionCode(Invalid):
    """The collection code is wrong."""

    code = "collection-code-wrong"


class CollectionLocked(TooMany):
    """Too many wrong collection codes. Write to the organisation: a handler can give a new one."""

    code = "collection-locked"


class Proven(NamedTuple):
    """The case that the code belongs to, and the collection code, which is shown this once."""

    case_id: str
    collection_code: str | None


def new_code() -> str:
    """Return eight random digits."""
    return f"{secrets.randbelow(10**8):08d}"


def new_collection_code() -> str:
    """Return a code to write down, `XXXX-XXXX-XXXX`: 58 bits, told in the browser or by a handler, never by mail."""
    raw = "".join(secrets.choice(ALPHABET) for _ in range(12))
    return f"{raw[:4]}-{raw[4:8]}-{raw[8:]}"


def pepper(desk: Desk, organisation: str, code: str) -> str:
    """Return the keyed digest of a code as typed: whoever steals the database alone has nothing to guess at."""
    return desk.sealer.index(organisation, "code", "".join(char for char in code.upper() if char.isalnum()))


async def issue(desk: Desk, case: Case) -> str | None:
    """Make a code for the case's address, keep its hash, return it to be mailed; None where the throttle says no."""
    assert case.contact_index is not None
    if await _throttled(desk, case):
        return None
    code = new_code()
    hashed = await asyncio.to_thread(hash_code, pepper(desk, case.organisation_id, code))
    now = desk.now()
    async with desk.database.write(case.organisation_id) as session:
        if await _spent(session, case, now):  # again, in the transaction that counts: two at once must not both pass
            return None
        # A new code replaces the ones before it: only the newest letter counts.
        await session.exec(
            update(Code).where(col(Code.case_id) == case.id, col(Code.used_at).is_(None)).values(tries=TRIES)
        )
        await session.exec(
            insert(Code).values(
                id=new_id(), organisation_id=case.organisation_id, case_id=case.id, contact_index=case.contact_index,
                hash=hashed, sent_at=now, expires_at=now + LIFETIME,
            )
        )  # fmt: skip
    return code


async def _throttled(desk: Desk, case: Case) -> bool:
    """Whether the address had its codes for this hour; asked before any slow hash is made."""
    async with desk.database.read(case.organisation_id) as session:
        return await _spent(session, case, desk.now())


async def _spent(session: ReadSession | WriteSession, case: Case, now: datetime) -> bool:
    hour = select(func.count()).where(
        Code.contact_index == case.contact_index, col(Code.sent_at) > now - timedelta(hours=1)
    )
    return (await session.exec(hour)).one() >= CODES_PER_HOUR


async def resend(desk: Desk, organisation: str, reference: str) -> None:
    """Send another code. Answers alike for a reference that does not exist; too many are held back silently."""
    async with desk.database.write(organisation) as session:
        try:
            case = await find_case(session, reference)
        except NotFound:
            return
        if case.contact_index is not None and (CaseState(case.state) in OPEN_STATES or case.package == "sealed"):
            await queue_letters(session, case, ["code"], desk.now())


async def verify(desk: Desk, organisation: str, reference: str, code: str) -> Proven:
    """Check a one-time code. The first time it also starts the search and makes the collection code.

    A doubt that a person recorded is ended by a person: there the code shows the status and proves nothing. And where
    a handler proved who asks, the mailbox gets no collection code: a handler tells it. Raises `WrongCode`, in the same
    time for an unknown reference.
    """
    case, row = await _take_try(desk, organisation, reference)
    hashed = row.hash if row else _DECOY
    fits = await asyncio.to_thread(check_code, pepper(desk, organisation, code), hashed)
    if not fits or row is None or case is None:
        raise WrongCode
    collection = new_collection_code() if _proves(case) else None
    collection_hash = await asyncio.to_thread(hash_code, pepper(desk, organisation, collection)) if collection else None
    now = desk.now()
    async with desk.database.write(organisation) as session:
        used = update(Code).where(col(Code.id) == row.id, col(Code.used_at).is_(None)).values(used_at=now)
        if (await session.exec(used)).rowcount != 1:
            raise WrongCode
        case = await get_case(session, case.id)
        if collection_hash is None or not _proves(case):
            return Proven(case.id, None)
        await _prove(desk, session, case, collection_hash)
    return Proven(case.id, collection)


def _proves(case: Case) -> bool:
    """Whether a code to the address settles who asks."""
    return CaseState(case.state) in OPEN_STATES and case.identity == "unproven"


async def _take_try(desk: Desk, organisation: str, reference: str) -> tuple[Case | None, Code | None]:
    """Count the try before it is checked, so that a hundred at once are a hundred tries."""
    now = desk.now()
    async with desk.database.write(organisation) as session:
        try:
            case = await find_case(session, reference)
        except NotFound:
            return None, None
        newest = select(Code).where(Code.case_id == case.id).order_by(col(Code.sent_at).desc()).limit(1)
        row = (await session.exec(newest)).first()
        if row is None:
            return case, None
        taken = await session.exec(
            update(Code)
            .where(
                col(Code.id) == row.id, col(Code.tries) < TRIES, col(Code.used_at).is_(None), col(Code.expires_at) > now
            )
            .values(tries=Code.tries + 1)
        )  # fmt: skip
        return case, row if taken.rowcount == 1 else None


async def _prove(desk: Desk, session: WriteSession, case: Case, collection_hash: str) -> None:
    email = desk.person(case)["email"]
    case = await change(
        session, case, "verify", to=CaseState.IN_PROGRESS, actor=f"subject:{case.id}", at=desk.now(), identity="proven",
        identity_by=f"subject:{case.id}", collection_hash=collection_hash, data={"method": "code"},
    )  # fmt: skip
    await add_identifiers(desk, session, case, [("email", email)], Assurance.CONTROLLED, "code")
    await work.plan(desk, session, case, actor="automatic")


async def check_collection(desk: Desk, organisation: str, case_id: str, code: str) -> None:
    """Check the second proof, independent of the mailbox. Raises `WrongCollectionCode`, `CollectionLocked`, `Gone`."""
    async with desk.database.write(organisation) as session:
        case = await get_case(session, case_id)
        _collectable(case)
        taken = await session.exec(
            update(Case)
            .where(col(Case.id) == case_id, col(Case.collection_tries) < COLLECTION_TRIES)
            .values(collection_tries=Case.collection_tries + 1)
        )
    if taken.rowcount != 1:
        raise CollectionLocked
    if not await asyncio.to_thread(check_code, pepper(desk, organisation, code), case.collection_hash or _DECOY):
        raise WrongCollectionCode
    async with desk.database.write(organisation) as session:
        await session.exec(update(Case).where(col(Case.id) == case_id).values(collection_tries=0))


def _collectable(case: Case) -> None:
    if case.package in {"collected", "destroyed"}:
        raise Gone("the package was collected or its time is out", code=f"package-{case.package}")
    if case.package != "sealed":
        raise Conflict("the answer is not ready yet", code="not-ready")


async def renew_collection_code(desk: Desk, organisation: str, case_id: str, *, actor: str) -> str:
    """Make a new collection code for a handler to tell the person by phone or letter; the old one ends."""
    code = new_collection_code()
    hashed = await asyncio.to_thread(hash_code, pepper(desk, organisation, code))
    async with desk.database.write(organisation) as session:
        case = await get_case(session, case_id)
        if case.identity != "proven":
            raise work.NotProven
        await change(
            session, case, "collection-code", actor=actor, at=desk.now(), collection_hash=hashed, collection_tries=0
        )
    return code


async def package_of(session: ReadSession, case_id: str) -> str:
    """Return the package that the case's person may collect. Raises `Gone`, `Conflict`."""
    case = await get_case(session, case_id)
    _collectable(case)
    assert case.order_id is not None
    return case.order_id

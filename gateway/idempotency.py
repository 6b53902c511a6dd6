"""Was this done before? A second POST with the same Idempotency-Key gets the first one's answer and changes nothing.

A key belongs to one caller, one address and one body. Only answers without secrets and without personal data are kept;
routes say which fields those are.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, insert, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from gateway.tables import Idempotency
from shared.database import Database, WriteSession
from shared.problems import Conflict, Invalid, Malformed

KEEP = timedelta(hours=24)
UNDER_WAY = timedelta(minutes=2)
"""A call that has not ended by then has died with its process; the key may be used again."""
_KEY = re.compile(r"[\x21-\x7e]{8,200}", re.ASCII)


class BadKey(Malformed):
    """An Idempotency-Key has 8 to 200 visible ASCII characters; a UUID is a good one."""

    code = "bad-idempotency-key"


class KeyMissing(Malformed):
    """This address needs an Idempotency-Key header, so that a repeated call creates nothing twice."""

    code = "idempotency-key-missing"


class StillRunning(Conflict):
    """The first call with this Idempotency-Key has not ended yet."""

    code = "idempotency-key-in-use"


class AnotherBody(Invalid):
    """This Idempotency-Key was used with another body."""

    code = "idempotency-key-reused"


class AnswerNotKept(Conflict):
    """This was done already. Its answer held a secret, which is shown once and not kept."""

    code = "already-done"


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept answer."""

    status: int
    answer: dict[str, Any]


def check_key(key: str) -> str:
    """Return the key if it is one."""
    if not _KEY.fullmatch(key):
        raise BadKey
    return key


def row_id(organisation: str, principal: str, address: str, key: str) -> str:
    """Return the digest under which a use of `key` is kept: nobody else can meet or guess it."""
    return hashlib.sha256(f"{organisation}\x1f{principal}\x1f{address}\x1f{key}".encode()).hexdigest()


async def begin(database: Database, organisation: str, use_id: str, body: bytes, now: datetime) -> Kept | None:
    """Claim the key, or return the first call's answer. Raises `StillRunning`, `AnotherBody` or `AnswerNotKept`."""
    body_hash = hashlib.sha256(body).hexdigest()
    async with database.write(organisation) as session:
        if await _claim(session, organisation, use_id, body_hash, now):
            return None
        earlier = (await session.exec(select(Idempotency).where(Idempotency.id == use_id))).first()
    if earlier is not None and earlier.body_hash != body_hash:
        raise AnotherBody
    if earlier is None or earlier.status is None:
        raise StillRunning(retry_after=1)
    if earlier.answer is None:
        raise AnswerNotKept
    return Kept(earlier.status, earlier.answer)


async def end(
    database: Database, organisation: str, use_id: str, status: int, answer: Mapping[str, Any] | None
) -> None:
    """Keep the answer, `None` for one that holds a secret."""
    kept = None if answer is None else dict(answer)
    async with database.write(organisation) as session:
        statement = update(Idempotency).where(col(Idempotency.id) == use_id).values(status=status, answer=kept)
        await session.exec(statement)


async def release(database: Database, organisation: str, use_id: str) -> None:
    """Nothing was created: the key may be used again."""
    async with database.write(organisation) as session:
        await session.exec(delete(Idempotency).where(col(Idempotency.id) == use_id, col(Idempotency.status).is_(None)))


async def sweep(session: WriteSession, now: datetime) -> None:
    """Forget yesterday's keys."""
    await session.exec(delete(Idempotency).where(col(Idempotency.began_at) < now - KEEP))


async def _claim(session: WriteSession, organisation: str, use_id: str, body_hash: str, now: datetime) -> bool:
    expired = col(Idempotency.began_at) < now - KEEP
    dead = col(Idempotency.status).is_(None) & (col(Idempotency.began_at) < now - UNDER_WAY)
    await session.exec(delete(Idempotency).where(col(Idempotency.id) == use_id, expired | dead))
    values = {"id": use_id, "organisation_id": organisation, "body_hash": body_hash, "began_at": now}
    try:
        async with session.begin_nested():
            await session.exec(insert(Idempotency).values(**values))
    except IntegrityError:
        return False
    return True

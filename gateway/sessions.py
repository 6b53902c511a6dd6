"""Who is signed in, and for how long? Opaque tokens; only their digests are kept, so a copied table opens nothing.

A session does not know how its owner proved who they are: a password today. Another proof, such as OpenID Connect,
ends in the same `open_handler` with the account that the proof named, and nothing else here changes.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import and_, delete, insert, update
from sqlmodel import col, select

from gateway.settings import Settings
from gateway.tables import Account, HandlerSession, SubjectSession
from shared.database import ReadSession, WriteSession

HANDLER_PREFIX = "hbh"
SUBJECT_PREFIX = "hbs"
TOUCH = timedelta(minutes=1)
"""A session's last use is written at most this often: reading a page must not wait for the write lock."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A new session: the token, told once, and its life in seconds."""

    token: str
    expires_in: int


def new_token(prefix: str) -> tuple[str, str]:
    """Return a token of 256 random bits and the digest under which it is stored."""
    token = f"{prefix}_{secrets.token_urlsafe(32)}"
    return token, digest(token)


def digest(token: str) -> str:
    """Return the SHA-256 of a token in hex. The token has 256 random bits, so no salt and no slow hash is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


async def open_handler(session: WriteSession, account: Account, now: datetime, settings: Settings) -> Opened:
    """Open a session for an account that has just been proven, bound to its present epoch."""
    token, token_id = new_token(HANDLER_PREFIX)
    life = timedelta(hours=settings.session_hours)
    await session.exec(
        insert(HandlerSession).values(
            id=token_id,
            organisation_id=account.organisation_id,
            account_id=account.id,
            epoch=account.epoch,
            created_at=now,
            seen_at=now,
            expires_at=now + life,
        )
    )
    return Opened(token, int(life.total_seconds()))


async def find_handler(
    session: ReadSession, token: str, now: datetime, settings: Settings
) -> tuple[str, Sequence[str], datetime] | None:
    """Return (account id, roles, last use) of a session that is not idle, nor of a locked account or old password."""
    idle = timedelta(minutes=settings.session_idle_minutes)
    same = and_(
        col(Account.id) == HandlerSession.account_id,
        col(Account.epoch) == HandlerSession.epoch,
        col(Account.disabled_at).is_(None),
    )
    found = await session.exec(
        select(Account.id, Account.roles, HandlerSession.seen_at)
        .join(HandlerSession, same)
        .where(
            HandlerSession.id == digest(token),
            col(HandlerSession.expires_at) > now,
            col(HandlerSession.seen_at) > now - idle,
        )
    )
    return found.first()


async def touch(session: WriteSession, token: str, now: datetime) -> None:
    """Write down that a session is in use."""
    await session.exec(update(HandlerSession).where(col(HandlerSession.id) == digest(token)).values(seen_at=now))


async def close_handler(session: WriteSession, token: str) -> None:
    """Sign out."""
    await session.exec(delete(HandlerSession).where(col(HandlerSession.id) == digest(token)))


async def close_all(session: WriteSession, account_id: str) -> None:
    """End every session of an account."""
    await session.exec(delete(HandlerSession).where(col(HandlerSession.account_id) == account_id))


async def open_subject(
    session: WriteSession, *, organisation: str, case_id: str, reference: str, level: str, expires_at: datetime
) -> str:
    """Open a session for one case and return its token. `level` is `verified` or `collect`."""
    token, token_id = new_token(SUBJECT_PREFIX)
    await session.exec(
        insert(SubjectSession).values(
            id=token_id,
            organisation_id=organisation,
            case_id=case_id,
            reference=reference,
            level=level,
            expires_at=expires_at,
        )
    )
    return token


async def find_subject(session: ReadSession, token: str, now: datetime) -> tuple[str, str, str] | None:
    """Return (case id, reference, level) of a living session."""
    found = await session.exec(
        select(SubjectSession.case_id, SubjectSession.reference, SubjectSession.level).where(
            SubjectSession.id == digest(token), col(SubjectSession.expires_at) > now
        )
    )
    return found.first()


async def close_subject(session: WriteSession, token: str) -> None:
    """Sign a person out."""
    await session.exec(delete(SubjectSession).where(col(SubjectSession.id) == digest(token)))


async def sweep(session: WriteSession, now: datetime) -> None:
    """Delete what has expired."""
    await session.exec(delete(HandlerSession).where(col(HandlerSession.expires_at) <= now))
    await session.exec(delete(SubjectSession).where(col(SubjectSession.expires_at) <= now))

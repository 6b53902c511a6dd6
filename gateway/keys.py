"""With what does another system sign in? API keys: shown once, stored as a digest, never wider than their maker."""

import hmac
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import CursorResult, insert, update
from sqlmodel import col, select

from gateway.sessions import digest
from gateway.tables import ApiKey
from shared import ledger
from shared.database import ReadSession, WriteSession
from shared.ids import new_id
from shared.problems import Forbidden, NotFound
from shared.vocabulary import Role

PREFIX = "hbk"
TOUCH = timedelta(minutes=5)
MAX_DAYS = 730


class Scope(StrEnum):
    """What a key may open. The door's route table names them; services see them as roles."""

    REQUESTS = "requests"
    """Open requests in people's names."""
    EVENTS = "events"
    """Read what happened, by `seq`."""


SCOPES: dict[Role, frozenset[Scope]] = {
    Role.HANDLER: frozenset({Scope.REQUESTS}),
    Role.DPO: frozenset({Scope.REQUESTS}),
    Role.AUDITOR: frozenset({Scope.EVENTS}),
    Role.ADMINISTRATOR: frozenset({Scope.REQUESTS, Scope.EVENTS}),
    Role.RESPONDENT: frozenset(),
}
"""What a role itself may do, in a key's words."""


class WiderThanYou(Forbidden):
    """A key may hold only scopes that its maker holds."""


def granted(roles: Iterable[str], wanted: Iterable[Scope]) -> list[str]:
    """Return the scopes to grant, sorted; raise `WiderThanYou` if one is not the maker's own.

    The one place where scopes are given out (attacks.md, CVE-2025-57817).
    """
    held = frozenset[Scope]().union(*(SCOPES[Role(role)] for role in roles))
    asked = frozenset(wanted)
    if not asked <= held:
        raise WiderThanYou
    return sorted(asked)


async def create(
    session: WriteSession, *, organisation: str, name: str, scopes: list[str], actor: str, now: datetime, days: int
) -> tuple[ApiKey, str]:
    """Store a key and return it with its full text, which nobody can read again."""
    prefix, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    key = ApiKey(
        id=new_id(),
        organisation_id=organisation,
        prefix=prefix,
        secret_hash=digest(secret),
        name=name,
        scopes=scopes,
        created_by=actor,
        created_at=now,
        expires_at=now + timedelta(days=days),
    )
    await session.exec(insert(ApiKey).values(**key.model_dump()))
    await _record(session, key.organisation_id, "key.created", actor, now, key.id, scopes)
    return key, f"{PREFIX}_{prefix}_{secret}"


async def find(session: ReadSession, token: str, now: datetime) -> ApiKey | None:
    """Return the living key with this text."""
    _, _, rest = token.partition("_")
    prefix, _, secret = rest.partition("_")
    living = (col(ApiKey.revoked_at).is_(None), col(ApiKey.expires_at) > now)
    key = (await session.exec(select(ApiKey).where(ApiKey.prefix == prefix, *living))).first()
    if key is None or not hmac.compare_digest(key.secret_hash, digest(secret)):
        return None
    return key


async def touch(session: WriteSession, key_id: str, now: datetime) -> None:
    """Write down that a key is in use."""
    await session.exec(update(ApiKey).where(col(ApiKey.id) == key_id).values(last_used_at=now))


async def listed(session: ReadSession) -> list[ApiKey]:
    """Return the organisation's keys, newest first."""
    return list((await session.exec(select(ApiKey).order_by(col(ApiKey.id).desc()))).all())


async def revoke(session: WriteSession, key_id: str, *, organisation: str, actor: str, now: datetime) -> None:
    """End a key for ever."""
    statement = (
        update(ApiKey)
        .where(col(ApiKey.id) == key_id, col(ApiKey.organisation_id) == organisation, col(ApiKey.revoked_at).is_(None))
        .values(revoked_at=now)
    )
    done: CursorResult[tuple[()]] = await session.exec(statement)
    if done.rowcount != 1:
        raise NotFound
    await _record(session, organisation, "key.revoked", actor, now, key_id, [])


async def _record(
    session: WriteSession, organisation: str, kind: str, actor: str, now: datetime, key_id: str, scopes: list[str]
) -> None:
    await ledger.record(
        session,
        organisation_id=organisation,
        service="gateway",
        kind=kind,
        actor=actor,
        at=now,
        data={"key": key_id, "scopes": scopes},
    )

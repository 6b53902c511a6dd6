"""How often may somebody try? Short bursts are counted in memory, failed sign-ins in the database.

A flood is counted per process: several gateways let through as many times more, and a restart forgets a minute. A
failed sign-in is counted in the shared store, per account and per client, and no restart forgets it.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from gateway.tables import Lockout
from shared.clock import Clock
from shared.database import WriteSession
from shared.problems import TooMany

MAX_COUNTED = 50_000
"""Clients that one process remembers at a time; the one seen longest ago is forgotten first."""


class Floodgate:
    """A token bucket per (rule, who): as many calls at once as a minute allows, then an even trickle."""

    def __init__(self, per_minute: Mapping[str, int], clock: Clock) -> None:
        self._per_minute = dict(per_minute)
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, rule: str, who: str) -> None:
        """Count one call, or raise `TooMany` with the seconds until the next is allowed."""
        size, now = self._per_minute[rule], self._clock().timestamp()
        left, then = self._buckets.pop((rule, who), (float(size), now))
        left = min(size, left + max(0.0, now - then) * size / 60)
        allowed = left >= 1
        self._buckets[rule, who] = (left - 1 if allowed else left, now)
        if len(self._buckets) > MAX_COUNTED:
            self._buckets.popitem(last=False)
        if not allowed:
            raise TooMany(retry_after=math.ceil((1 - left) * 60 / size))


@dataclass(frozen=True, slots=True)
class Backoff:
    """After `free` failures each further try must wait: 30 seconds, then twice as long, at most 15 minutes."""

    name: str
    free: int

    def wait(self, failures: int) -> timedelta:
        """How long the next try is blocked after so many failures."""
        if failures < self.free:
            return timedelta()
        return timedelta(seconds=min(900, 30 * 2 ** min(failures - self.free, 10)))

    def key(self, organisation: str, who: str) -> str:
        """Return the row's id: a digest, so that a mistyped password in the name field is not kept."""
        return hashlib.sha256(f"{self.name}\x1f{organisation}\x1f{who}".encode()).hexdigest()


ACCOUNT = Backoff("account", free=5)
CLIENT = Backoff("client", free=20)
FORGET = timedelta(hours=24)


async def reserve(session: WriteSession, rule: Backoff, organisation: str, who: str, now: datetime) -> None:
    """Count a try before it is made, so that a hundred at once are counted too; raise `TooMany` while blocked.

    An unknown account is counted like a known one: the answer must not tell which exist.
    """
    row_id = rule.key(organisation, who)
    row = await _locked(session, row_id)
    if row is None:
        await _begin(session, row_id, organisation, now)
        row = await _locked(session, row_id)
    assert row is not None
    if row.blocked_until > now:
        raise TooMany(retry_after=math.ceil((row.blocked_until - now).total_seconds()))
    failures = 1 if row.last_at < now - FORGET else row.failures + 1
    values = {"failures": failures, "blocked_until": now + rule.wait(failures), "last_at": now}
    await session.exec(update(Lockout).where(col(Lockout.id) == row_id).values(**values))


async def forgive(session: WriteSession, organisation: str, username: str, client: str, now: datetime) -> None:
    """A try was right: the account starts afresh; the client gets this one try back, not those at other accounts."""
    await session.exec(delete(Lockout).where(col(Lockout.id) == ACCOUNT.key(organisation, username)))
    await session.exec(
        update(Lockout)
        .where(col(Lockout.id) == CLIENT.key(organisation, client), col(Lockout.failures) > 0)
        .values(failures=Lockout.failures - 1, blocked_until=now)
    )


async def sweep(session: WriteSession, now: datetime) -> None:
    """Forget failures of yesterday."""
    await session.exec(delete(Lockout).where(col(Lockout.last_at) < now - FORGET))


async def _locked(session: WriteSession, row_id: str) -> Lockout | None:
    return (await session.exec(select(Lockout).where(Lockout.id == row_id).with_for_update())).first()


async def _begin(session: WriteSession, row_id: str, organisation: str, now: datetime) -> None:
    """Insert an empty row; another try may have done so first."""
    try:
        async with session.begin_nested():
            values = {"organisation_id": organisation, "failures": 0, "blocked_until": now, "last_at": now}
            await session.exec(insert(Lockout).values(id=row_id, **values))
    except IntegrityError:
        return

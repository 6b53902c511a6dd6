"""Who works here, and is it them? Local accounts, argon2 passwords, and the same work for names that do not exist."""

import asyncio
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy import insert, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from gateway import limits, sessions
from gateway.sessions import Opened
from gateway.settings import Settings
from gateway.tables import Account
from shared import ledger
from shared.clock import Clock
from shared.database import Database, ReadSession, WriteSession
from shared.ids import new_id
from shared.problems import Conflict, Invalid, NotFound, Unauthenticated
from shared.vocabulary import Role

MIN_PASSWORD = 12
MAX_PASSWORD = 200
AT_ONCE = 2
"""Passwords hashed at a time: each takes 64 MiB and a core for about 0.15 s."""


NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$Ns5aYEBah44CfRvaN3tA7g$pc5BdhOCUaEcBoz8viMMo4zUSbD97XEyAIkxYHoL7e0"
"""A hash of random characters that were thrown away: what a wrong name is checked against, at the same cost."""


class WrongPassword(Unauthenticated):
    """The user name or the password is wrong."""

    code = "wrong-password"


class WeakPassword(Invalid):
    """A password needs 12 to 200 characters, at least 5 different ones, and must not contain the user name."""

    code = "weak-password"


class NameTaken(Conflict):
    """There is an account with that user name."""

    code = "name-taken"


class NotYourself(Conflict):
    """You cannot disable your own account: somebody must be left to open it again."""


class Passwords:
    """Hashes and checks, in threads and a few at a time, so that a burst of sign-ins stops nobody else."""

    def __init__(self) -> None:
        self._hasher = PasswordHash((Argon2Hasher(),))
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def hash(self, username: str, password: str) -> str:
        """Return the hash to store, or raise `WeakPassword`."""
        check_password(username, password)
        async with self._turn:
            return await asyncio.to_thread(self._hasher.hash, _normal(password))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether `password` is the stored one. Without a stored one the same work is done and the answer is no."""
        async with self._turn:
            return await asyncio.to_thread(self._verify, stored, _normal(password)[:MAX_PASSWORD])

    def _verify(self, stored: str | None, password: str) -> bool:
        same = self._hasher.verify(password, stored or NOBODY)
        return same and stored is not None


def check_password(username: str, password: str) -> None:
    """Raise `WeakPassword` unless the password follows the rules; they stand here alone, whatever door it came by."""
    normal = _normal(password)
    long_enough = MIN_PASSWORD <= len(normal) <= MAX_PASSWORD
    name = normal_name(username)
    named = len(name) >= 4 and name in normal.casefold()
    if not long_enough or len(set(normal)) < 5 or named:
        raise WeakPassword


def normal_name(username: str) -> str:
    """Return a user name as it is stored and compared."""
    return unicodedata.normalize("NFKC", username).strip().casefold()


def _normal(password: str) -> str:
    """The same password typed on another keyboard (RFC 8265 §4.2 asks for NFC)."""
    return unicodedata.normalize("NFC", password)


async def create_account(
    session: WriteSession,
    *,
    organisation: str,
    username: str,
    password_hash: str,
    roles: Iterable[Role],
    actor: str,
    now: datetime,
) -> Account:
    """Create an account. `password_hash` comes from `Passwords.hash`; `actor` is `handler:<id>` or `operator`.

    Raises `NameTaken`.
    """
    account = Account(
        id=new_id(),
        organisation_id=organisation,
        username=normal_name(username),
        password_hash=password_hash,
        roles=sorted(set(roles)),
        epoch=new_id(),
        created_at=now,
    )
    try:
        async with session.begin_nested():
            await session.exec(insert(Account).values(**account.model_dump()))
    except IntegrityError:
        raise NameTaken from None
    await _record(session, account, "account.created", actor, now, {"roles": account.roles})
    return account


async def listed(session: ReadSession) -> list[Account]:
    """Return the organisation's accounts by name."""
    return list((await session.exec(select(Account).order_by(Account.username))).all())


async def set_disabled(session: WriteSession, account_id: str, *, disabled: bool, actor: str, now: datetime) -> Account:
    """Close an account and end its sessions, or open it again. Raises `NotFound`, `NotYourself`."""
    if disabled and actor == f"handler:{account_id}":
        raise NotYourself
    account = await _found(session, account_id)
    await _change(session, account, {"disabled_at": now if disabled else None})
    await _record(session, account, "account.disabled" if disabled else "account.enabled", actor, now, {})
    return account


async def set_password(
    session: WriteSession, account_id: str, *, password_hash: str, actor: str, now: datetime
) -> Account:
    """Store a new password and end every session that the old one opened. Raises `NotFound`."""
    account = await _found(session, account_id)
    await _change(session, account, {"password_hash": password_hash})
    await _record(session, account, "account.password_changed", actor, now, {})
    return account


async def get(session: ReadSession | WriteSession, account_id: str) -> Account:
    """Return an account of the session's organisation, or raise `NotFound`."""
    return await _found(session, account_id)


class SignIn:
    """Signs handlers in: counted before it is tried, and as slow for a wrong name as for a wrong password."""

    def __init__(self, database: Database, passwords: Passwords, settings: Settings, clock: Clock) -> None:
        self._database = database
        self._passwords = passwords
        self._settings = settings
        self._clock = clock

    async def sign_in(self, organisation: str, username: str, password: str, client: str) -> tuple[Opened, Account]:
        """Return a new session and its account. Raises `WrongPassword` or `TooMany`."""
        name = normal_name(username)
        account = await self._prove(organisation, name, password, client)
        async with self._database.write(organisation) as session:
            # The password may have changed while it was checked: only the epoch that was checked may open a session.
            current = await _current(session, account.id)
            if current is None or current.epoch != account.epoch or current.disabled_at is not None:
                raise WrongPassword
            now = self._clock()
            await limits.forgive(session, organisation, name, client, now)
            opened = await sessions.open_handler(session, current, now, self._settings)
            await _record(session, current, "account.signed_in", f"handler:{current.id}", now, {})
        return opened, current

    async def confirm(self, organisation: str, account_id: str, password: str, client: str) -> Account:
        """Check the password of somebody who is signed in, counted like a sign-in."""
        async with self._database.read(organisation) as session:
            account = await _found(session, account_id)
        await self._prove(organisation, account.username, password, client)
        async with self._database.write(organisation) as session:
            await limits.forgive(session, organisation, account.username, client, self._clock())
        return account

    async def _prove(self, organisation: str, name: str, password: str, client: str) -> Account:
        async with self._database.write(organisation) as session:
            now = self._clock()
            await limits.reserve(session, limits.CLIENT, organisation, client, now)
            await limits.reserve(session, limits.ACCOUNT, organisation, name, now)
        async with self._database.read(organisation) as session:
            account = (await session.exec(select(Account).where(Account.username == name))).first()
        usable = account if account is not None and account.disabled_at is None else None
        right = await self._passwords.verify(usable.password_hash if usable else None, password)
        if usable is None or not right:
            raise WrongPassword
        return usable


async def _current(session: WriteSession, account_id: str) -> Account | None:
    return (await session.exec(select(Account).where(Account.id == account_id).with_for_update())).first()


async def _found(session: ReadSession | WriteSession, account_id: str) -> Account:
    account = (await session.exec(select(Account).where(Account.id == account_id))).first()
    if account is None:
        raise NotFound
    return account


async def _change(session: WriteSession, account: Account, values: Mapping[str, Any]) -> None:
    """Change an account and its epoch, which ends what was opened under the old one."""
    await session.exec(update(Account).where(col(Account.id) == account.id).values(**values, epoch=new_id()))
    await sessions.close_all(session, account.id)


async def _record(
    session: WriteSession, account: Account, kind: str, actor: str, now: datetime, data: Mapping[str, Any]
) -> None:
    await ledger.record(
        session,
        organisation_id=account.organisation_id,
        service="gateway",
        kind=kind,
        actor=actor,
        at=now,
        data={"account": account.id, **data},
    )

"""Who is calling? Nobody in particular, a handler, a person with a case, or another system; and how services see them.

A caller is what their credential says and nothing else: no header, address or body adds to it. Services never see a
credential, only a token that the door signs for one of them and one minute.
"""

import re
from dataclasses import dataclass
from datetime import datetime

from gateway import keys, sessions
from gateway.settings import Settings
from shared.clock import Clock
from shared.database import Database
from shared.problems import Forbidden, NotFound, Unauthenticated
from shared.tokens import Issuer

ANONYMOUS = "anonymous"
SUBJECT = "subject"
COLLECT = "subject-collect"
SYSTEM = "system"

_TOKEN = re.compile(r"(hbh|hbs)_[A-Za-z0-9_-]{43}|hbk_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", re.ASCII)


class BadCredentials(Unauthenticated):
    """The credentials that came with the request are not valid, or not any more."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller at one organisation."""

    organisation: str
    subject: str
    """As in a service token: `handler:<id>`, `subject:<case>`, `system:<key id>` or `anonymous`."""
    grants: frozenset[str]
    """What routes may ask for: `anonymous`, `subject`, `subject-collect`, a role or a key's scope."""
    case: str | None = None
    reference: str | None = None
    level: str | None = None

    @property
    def is_anonymous(self) -> bool:
        return self.subject == ANONYMOUS

    @property
    def is_system(self) -> bool:
        return SYSTEM in self.grants

    @property
    def roles(self) -> frozenset[str]:
        """What goes into the service token: roles of an account, or `system` and the scopes of a key."""
        return self.grants - {ANONYMOUS, SUBJECT, COLLECT}

    @property
    def account_id(self) -> str:
        """The account of a handler; raises `Forbidden` for anybody else."""
        kind, _, account_id = self.subject.partition(":")
        if kind != "handler":
            raise Forbidden
        return account_id

    def authorise(self, who: frozenset[str], reference: str | None) -> None:
        """Raise unless the caller holds one of `who`, and a person only for their own `reference`.

        A foreign reference and an unknown one are the same 404 to a person; to the nameless, 401 says what is missing.
        """
        if self.reference is not None and reference is not None and self.reference != reference:
            raise NotFound
        if self.grants & who:
            return
        raise Unauthenticated if self.is_anonymous else Forbidden


def anonymous(organisation: str) -> Caller:
    """Return the caller who has shown nothing."""
    return Caller(organisation, ANONYMOUS, frozenset({ANONYMOUS}))


def bearer(authorization: str) -> str | None:
    """Return the credential of an Authorization header, None without one; raise `BadCredentials` for another kind."""
    if not authorization:
        return None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not _TOKEN.fullmatch(token):
        raise BadCredentials
    return token


def service_token(issuer: Issuer, caller: Caller, service: str) -> str:
    """Sign for one service who is calling."""
    return issuer.issue(
        service,
        caller.subject,
        organisation=caller.organisation,
        roles=caller.roles,
        case=caller.case,
        level=caller.level,
    )


class Callers:
    """Looks credentials up: one read, and a write only when the last use is a while ago."""

    def __init__(self, database: Database, settings: Settings, clock: Clock) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock

    async def find(self, organisation: str, token: str) -> Caller:
        """Return the owner of a credential, or raise `BadCredentials`: another organisation's opens nothing here."""
        lookup = {
            sessions.HANDLER_PREFIX: self._handler,
            sessions.SUBJECT_PREFIX: self._subject,
            keys.PREFIX: self._system,
        }
        return await lookup[token[:3]](organisation, token, self._clock())

    async def _handler(self, organisation: str, token: str, now: datetime) -> Caller:
        async with self._database.read(organisation) as session:
            found = await sessions.find_handler(session, token, now, self._settings)
        if found is None:
            raise BadCredentials
        account_id, roles, seen_at = found
        if now - seen_at > sessions.TOUCH:
            async with self._database.write(organisation) as session:
                await sessions.touch(session, token, now)
        return Caller(organisation, f"handler:{account_id}", frozenset(roles))

    async def _subject(self, organisation: str, token: str, now: datetime) -> Caller:
        async with self._database.read(organisation) as session:
            found = await sessions.find_subject(session, token, now)
        if found is None:
            raise BadCredentials
        case_id, reference, level = found
        grants = frozenset({SUBJECT, COLLECT} if level == "collect" else {SUBJECT})
        return Caller(organisation, f"subject:{case_id}", grants, case_id, reference, level)

    async def _system(self, organisation: str, token: str, now: datetime) -> Caller:
        async with self._database.read(organisation) as session:
            key = await keys.find(session, token, now)
        if key is None:
            raise BadCredentials
        if key.last_used_at is None or now - key.last_used_at > keys.TOUCH:
            async with self._database.write(organisation) as session:
                await keys.touch(session, key.id, now)
        return Caller(organisation, f"system:{key.id}", frozenset({SYSTEM, *key.scopes}))

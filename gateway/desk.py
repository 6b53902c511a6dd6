"""What does the door do itself? Sign people in and out, keep accounts and keys, and say whether the house is well."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from sqlalchemy import text

from gateway import accounts, keys, sessions
from gateway.accounts import Passwords, SignIn
from gateway.callers import SUBJECT, Caller
from gateway.settings import Settings
from gateway.tables import Account, ApiKey
from shared.clock import Clock
from shared.database import Database
from shared.post import Post
from shared.problems import Conflict, Invalid, Malformed, Problem
from shared.vocabulary import Role

SERVICES = ("intake", "locator", "exporter")
WELL_FOR = 1.0
"""Seconds that one look at the services counts: asking more often must not cost more."""

Username = Annotated[
    str, StringConstraints(min_length=2, max_length=120, pattern=r"^[^\s\x00-\x1f\x7f](.*[^\s\x00-\x1f\x7f])?$")
]
Secret = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class YourOwnPassword(Conflict):
    """Your own password is changed at /account/password, with the present one."""


class Body(BaseModel):
    """Base: closed, strict, and silent about what it was given."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class SignInBody(Body):
    username: Annotated[str, Field(max_length=1000)]
    password: Secret


class AccountBody(Body):
    username: Username
    password: Secret
    roles: Annotated[frozenset[Role], Field(min_length=1)]


class PasswordBody(Body):
    password: Secret


class ChangeBody(Body):
    current: Secret
    password: Secret


class KeyBody(Body):
    name: Annotated[str, Field(min_length=1, max_length=120)]
    scopes: Annotated[frozenset[keys.Scope], Field(min_length=1)]
    expires_in_days: Annotated[int, Field(ge=1, le=keys.MAX_DAYS)] = 365


@dataclass(frozen=True, slots=True)
class Errand:
    """One call of an action: who, with which parameters and body, from where, under which credential."""

    caller: Caller
    params: dict[str, str]
    body: bytes
    client: str
    token: str


@dataclass(frozen=True, slots=True)
class Done:
    """What an action answers."""

    status: int
    document: dict[str, Any] | None = None


Action = Callable[[Errand], Awaitable[Done]]
B = TypeVar("B", bound=Body)


def parse(model: type[B], body: bytes) -> B:
    """Return the body as `model`, or raise a problem that names fields and rules, never values."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
    if any(item["type"] == "json_invalid" for item in found):
        raise Malformed("the body is not valid JSON")
    raise Invalid(
        errors=tuple({"pointer": _pointer(item["loc"], model), "detail": _rule(item["type"])} for item in found)
    )


def _pointer(where: tuple[int | str, ...], model: type[Body]) -> str:
    """Name the field; a name that the model does not know came from the caller and is not repeated."""
    known = [str(part) for part in where if isinstance(part, int) or part in model.model_fields]
    return "/" + "/".join(known)


def _rule(kind: str) -> str:
    rules = {"missing": "is needed", "extra_forbidden": "has a field that is not known"}
    return rules.get(kind, "is not valid")


class Desk:
    """The door's own actions, by the names that the route table gives them."""

    def __init__(self, database: Database, post: Post, settings: Settings, clock: Clock) -> None:
        self._database = database
        self._post = post
        self._settings = settings
        self._clock = clock
        self._passwords = Passwords()
        self._sign_in = SignIn(database, self._passwords, settings, clock)
        self._health: tuple[datetime, Done] | None = None

    def action(self, name: str) -> Action:
        """Return an action of the route table."""
        return partial(ACTIONS[name], self)

    # --- signing in and out ----------------------------------------------------------------------------------------

    async def sign_in(self, errand: Errand) -> Done:
        body = parse(SignInBody, errand.body)
        organisation = errand.caller.organisation
        opened, account = await self._sign_in.sign_in(organisation, body.username, body.password, errand.client)
        answer = {"access_token": opened.token, "token_type": "bearer", "expires_in": opened.expires_in}
        return Done(200, {**answer, "roles": account.roles})

    async def sign_out(self, errand: Errand) -> Done:
        close = sessions.close_subject if SUBJECT in errand.caller.grants else sessions.close_handler
        async with self._database.write(errand.caller.organisation) as session:
            await close(session, errand.token)
        return Done(204)

    async def show_account(self, errand: Errand) -> Done:
        async with self._database.read(errand.caller.organisation) as session:
            return Done(200, _told_account(await accounts.get(session, errand.caller.account_id)))

    async def change_password(self, errand: Errand) -> Done:
        """Change one's own password: the present one is asked again, and every session ends, this one too."""
        body, caller = parse(ChangeBody, errand.body), errand.caller
        account = await self._sign_in.confirm(caller.organisation, caller.account_id, body.current, errand.client)
        return await self._store_password(errand, account, body.password)

    # --- accounts --------------------------------------------------------------------------------------------------

    async def list_accounts(self, errand: Errand) -> Done:
        async with self._database.read(errand.caller.organisation) as session:
            return Done(200, {"accounts": [_told_account(account) for account in await accounts.listed(session)]})

    async def create_account(self, errand: Errand) -> Done:
        body = parse(AccountBody, errand.body)
        password_hash = await self._passwords.hash(body.username, body.password)
        async with self._database.write(errand.caller.organisation) as session:
            account = await accounts.create_account(
                session,
                organisation=errand.caller.organisation,
                username=body.username,
                password_hash=password_hash,
                roles=body.roles,
                actor=errand.caller.subject,
                now=self._clock(),
            )
        return Done(201, _told_account(account))

    async def disable_account(self, errand: Errand) -> Done:
        return await self._set_disabled(errand, disabled=True)

    async def enable_account(self, errand: Errand) -> Done:
        return await self._set_disabled(errand, disabled=False)

    async def _set_disabled(self, errand: Errand, *, disabled: bool) -> Done:
        async with self._database.write(errand.caller.organisation) as session:
            await accounts.set_disabled(
                session, errand.params["account"], disabled=disabled, actor=errand.caller.subject, now=self._clock()
            )
        return Done(204)

    async def set_password(self, errand: Errand) -> Done:
        """Give somebody else a new password; one's own needs the present one (`change_password`)."""
        body = parse(PasswordBody, errand.body)
        if errand.params["account"] == errand.caller.account_id:
            raise YourOwnPassword
        async with self._database.read(errand.caller.organisation) as session:
            account = await accounts.get(session, errand.params["account"])
        return await self._store_password(errand, account, body.password)

    async def _store_password(self, errand: Errand, account: Account, password: str) -> Done:
        password_hash = await self._passwords.hash(account.username, password)
        async with self._database.write(errand.caller.organisation) as session:
            await accounts.set_password(
                session, account.id, password_hash=password_hash, actor=errand.caller.subject, now=self._clock()
            )
        return Done(204)

    # --- keys ------------------------------------------------------------------------------------------------------

    async def list_keys(self, errand: Errand) -> Done:
        async with self._database.read(errand.caller.organisation) as session:
            return Done(200, {"keys": [_told_key(key) for key in await keys.listed(session)]})

    async def create_key(self, errand: Errand) -> Done:
        body, caller = parse(KeyBody, errand.body), errand.caller
        scopes = keys.granted(caller.roles, body.scopes)
        async with self._database.write(caller.organisation) as session:
            key, shown_once = await keys.create(
                session,
                organisation=caller.organisation,
                name=body.name,
                scopes=scopes,
                actor=caller.subject,
                now=self._clock(),
                days=body.expires_in_days,
            )
        return Done(201, {**_told_key(key), "key": shown_once})

    async def revoke_key(self, errand: Errand) -> Done:
        caller = errand.caller
        async with self._database.write(caller.organisation) as session:
            await keys.revoke(
                session, errand.params["key"], organisation=caller.organisation, actor=caller.subject, now=self._clock()
            )
        return Done(204)

    # --- health ----------------------------------------------------------------------------------------------------

    async def live(self, _errand: Errand) -> Done:
        return Done(200, {"status": "live"})

    async def ready(self, _errand: Errand) -> Done:
        """Ask the database and each service, at most once in `WELL_FOR` seconds."""
        now = self._clock()
        if self._health is None or not 0 <= (now - self._health[0]).total_seconds() < WELL_FOR:
            names = ("database", *SERVICES)
            well = await asyncio.gather(self._is_stored(), *(self._is_well(name) for name in SERVICES))
            parts = dict(zip(names, ("ready" if fine else "unavailable" for fine in well), strict=True))
            document = {"status": "ready" if all(well) else "unavailable", "parts": parts}
            self._health = now, Done(200 if all(well) else 503, document)
        return self._health[1]

    async def _is_well(self, service: str) -> bool:
        try:
            async with asyncio.timeout(self._settings.ready_seconds):
                await self._post.send(service, "GET", "/health", organisation="none")
        except (Problem, TimeoutError):
            return False
        return True

    async def _is_stored(self) -> bool:
        try:
            async with asyncio.timeout(self._settings.ready_seconds), self._database.read("none") as session:
                await (await session.connection()).execute(text("SELECT 1"))
        except Exception:  # noqa: BLE001 — whatever a driver raises, the answer is no
            return False
        return True


def _told_account(account: Account) -> dict[str, Any]:
    return {
        "id": account.id,
        "username": account.username,
        "roles": account.roles,
        "created_at": account.created_at.isoformat(),
        "disabled_at": account.disabled_at.isoformat() if account.disabled_at else None,
    }


def _told_key(key: ApiKey) -> dict[str, Any]:
    """What a list shows: never the secret, nor its digest."""
    return {
        "id": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "scopes": key.scopes,
        "created_at": key.created_at.isoformat(),
        "expires_at": key.expires_at.isoformat(),
        "last_used_at": key.last_used_at.isoformat() if key.last_used_at else None,
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
    }


ACTIONS: dict[str, Callable[[Desk, Errand], Awaitable[Done]]] = {
    action.__name__: action
    for action in (
        Desk.sign_in, Desk.sign_out, Desk.show_account, Desk.change_password, Desk.list_accounts, Desk.create_account,
        Desk.disable_account, Desk.enable_account, Desk.set_password, Desk.list_keys, Desk.create_key, Desk.revoke_key,
        Desk.live, Desk.ready,
    )
}  # fmt: skip

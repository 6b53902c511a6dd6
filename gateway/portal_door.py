"""How do the pages reach the house? Through the same door as the JSON API, with the cookie's token in hand."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from gateway import sessions
from gateway.bodies import replay
from gateway.callers import Caller, bearer
from gateway.door import Arrival, Door
from gateway.guard import CLIENT
from gateway.portal.door import NewRequest, OfferedIdentifier, OrganisationInfo, Received, SignedIn, Status
from shared.clock import Clock
from shared.database import Database
from shared.post import Reply
from shared.problems import Unauthenticated
from shared.vocabulary import Language

KNOWN_FOR = timedelta(seconds=30)


class PortalDoor:
    """`gateway.portal.door.Door`, as the pages ask for it."""

    def __init__(self, door: Door, database: Database, clock: Clock) -> None:
        self._door = door
        self._database = database
        self._clock = clock
        self._known: dict[str, tuple[datetime, OrganisationInfo]] = {}

    async def organisation_info(self, organisation: str) -> OrganisationInfo:
        """Ask who answers here; every page shows it, so an answer is good for `KNOWN_FOR`."""
        known = self._known.get(organisation)
        if known is None or not timedelta() <= self._clock() - known[0] < KNOWN_FOR:
            info = OrganisationInfo.model_validate(await self._ask("GET", f"/v1/{organisation}"))
            known = self._known[organisation] = self._clock(), info
        return known[1]

    async def open_request(self, organisation: str, new: NewRequest, *, once: str) -> Received:
        body, key = new.model_dump(mode="json", exclude_none=True), {"idempotency-key": once}
        return Received.model_validate(await self._ask("POST", f"/v1/{organisation}/requests", body=body, headers=key))

    async def resend_code(self, organisation: str, reference: str) -> None:
        await self._ask("POST", f"{_case(organisation, reference)}/code")

    async def verify(self, organisation: str, reference: str, code: str) -> SignedIn:
        path = f"{_case(organisation, reference)}/verification"
        return SignedIn.model_validate(await self._ask("POST", path, body={"code": code}))

    async def status(self, organisation: str, reference: str, token: str | None, language: Language) -> Status:
        person = None if token is None else await self._person(organisation, reference, token)
        found = await self._ask("GET", f"{_case(organisation, reference)}?lang={language}", person)
        return Status.model_validate(found)

    async def offer_identifiers(
        self, organisation: str, reference: str, token: str, identifiers: tuple[OfferedIdentifier, ...]
    ) -> None:
        person = await self._person(organisation, reference, token)
        body = {"identifiers": [identifier.model_dump() for identifier in identifiers]}
        await self._ask("POST", f"{_case(organisation, reference)}/identifiers", person, body=body)

    async def withdraw(self, organisation: str, reference: str, token: str) -> None:
        person = await self._person(organisation, reference, token)
        await self._ask("DELETE", _case(organisation, reference), person)

    async def collect(self, organisation: str, reference: str, token: str, collection_code: str) -> SignedIn:
        person = await self._person(organisation, reference, token)
        body = {"collection_code": collection_code}
        return SignedIn.model_validate(
            await self._ask("POST", f"{_case(organisation, reference)}/collection", person, body=body)
        )

    @asynccontextmanager
    async def answer(self, organisation: str, reference: str, token: str, language: Language) -> AsyncIterator[Reply]:
        person = await self._person(organisation, reference, token)
        target = f"{_case(organisation, reference)}/answer?lang={language}"
        async with self._door.open(_arrival("GET", target, person)) as reply:
            await reply.check()
            yield reply

    @asynccontextmanager
    async def package(self, organisation: str, reference: str, token: str) -> AsyncIterator[Reply]:
        person = await self._person(organisation, reference, token)
        async with self._door.open(_arrival("GET", f"{_case(organisation, reference)}/package", person)) as reply:
            await reply.check()
            yield reply

    async def leave(self, token: str) -> None:
        """End a session. The cookie does not say whose page it belongs to; the token alone names one session."""
        async with self._database.write(None) as session:
            await sessions.close_subject(session, token)

    async def _person(self, organisation: str, reference: str, token: str) -> Caller:
        """Return who holds the cookie. Another request's token is no proof here: the page asks to prove this one."""
        found = await self._door.callers.find(organisation, bearer(f"Bearer {token}") or "")
        if found.reference != reference:
            raise Unauthenticated
        return found

    async def _ask(
        self,
        method: str,
        target: str,
        caller: Caller | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        async with self._door.open(_arrival(method, target, caller, body, headers)) as reply:
            await reply.check()
            return await reply.json()


def _case(organisation: str, reference: str) -> str:
    return f"/v1/{organisation}/requests/{reference}"


def _arrival(
    method: str,
    target: str,
    caller: Caller | None,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Arrival:
    path, _, query = target.partition("?")
    content = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
    length = {"content-type": "application/json", "content-length": str(len(content))} if content else {}
    return Arrival(
        method=method,
        path=path,
        query=query.encode(),
        headers={**length, **(headers or {})},
        receive=replay(content),
        client=CLIENT.get(),
        caller=caller,
    )

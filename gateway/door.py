"""What becomes of one call? Found in the table, admitted, counted, read, carried out, answered: in that order.

The JSON API and the pages both come through `Door.open`, so what holds for one holds for the other.
"""

import json
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from starlette.types import Receive

from gateway import bodies, idempotency, sessions
from gateway.callers import Caller, Callers, anonymous, bearer, service_token
from gateway.desk import Desk, Done, Errand
from gateway.limits import Floodgate
from gateway.routes import Route, Table, check_query, inner_path
from gateway.settings import Settings
from shared.clock import Clock
from shared.database import Database
from shared.http import Answer, ServiceFailed
from shared.post import Post, Reply
from shared.problems import Problem, Unauthenticated
from shared.tokens import Issuer

log = structlog.get_logger()

NO_ORGANISATION = "none"
PASSED_IN = ("content-type", "accept-language", "if-match", "if-none-match", "idempotency-key", "habeas-file-name",
             "habeas-file-type")  # fmt: skip
"""Request headers that services see. Nothing else passes: no credential, no cookie, no address."""
SMALL = 256 * 1024
"""Bytes of an answer that the door itself reads."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A call as it came. `headers` have lower-case names; `caller` is set when somebody inside knows already."""

    method: str
    path: str
    query: bytes
    headers: Mapping[str, str]
    receive: Receive
    client: str
    caller: Caller | None = None
    labels: MutableMapping[str, Any] = field(default_factory=dict)
    """Where the route's template goes, for the log."""


@dataclass(frozen=True, slots=True)
class Call:
    """An admitted call."""

    route: Route
    params: dict[str, str]
    query: dict[str, str]
    caller: Caller
    arrival: Arrival

    @property
    def address(self) -> str:
        """Method and path as called: what an Idempotency-Key belongs to."""
        return f"{self.arrival.method} {self.arrival.path}"


class Door:
    """The public API."""

    def __init__(
        self, settings: Settings, *, database: Database, post: Post, issuer: Issuer, clock: Clock, table: Table
    ) -> None:
        self._settings = settings
        self._database = database
        self._post = post
        self._issuer = issuer
        self._clock = clock
        self._table = table
        self.callers = Callers(database, settings, clock)
        self._desk = Desk(database, post, settings, clock)
        self._gate = Floodgate(
            {
                "open": settings.open_per_minute,
                "prove": settings.prove_per_minute,
                "read": settings.read_per_minute,
                "sign-in": settings.sign_in_per_minute,
                "wrong": settings.sign_in_per_minute,
                "system": settings.system_per_minute,
                "proven": settings.read_per_minute,
            },
            clock,
        )

    @asynccontextmanager
    async def open(self, arrival: Arrival) -> AsyncIterator[Reply]:
        """Carry a call out and yield its answer, whose body is still on its way. Raises problems of the door itself."""
        call = await self._admit(arrival)
        content = await self._content(call)
        async with self._answer(call, content) as reply:
            yield reply

    # --- admitting -------------------------------------------------------------------------------------------------

    async def _admit(self, arrival: Arrival) -> Call:
        route, params = self._table.find(arrival.method, arrival.path)
        arrival.labels["habeas.route"] = route.template
        query = check_query(arrival.query, route.query)
        organisation = params.pop("organisation", None) or self._named(query)
        self._check_head(route, arrival)
        caller = anonymous(organisation) if route.is_of_the_house else await self._caller(organisation, arrival)
        caller.authorise(route.who, params.get("reference"))
        self._count(route, caller, arrival.client)
        return Call(route, params, query, caller, arrival)

    def _named(self, query: dict[str, str]) -> str:
        """Return the organisation of an address outside `/v1`: named in the query, or none."""
        named = query.pop("organisation", None)
        if named is None:
            return NO_ORGANISATION
        _, params = self._table.find("GET", f"/v1/{named}")
        return params["organisation"]

    def _check_head(self, route: Route, arrival: Arrival) -> None:
        """Refuse a body that is announced as too long, of the wrong type, or not wanted, before a byte is read."""
        length = arrival.headers.get("content-length", "")
        coming = length not in {"", "0"} or "transfer-encoding" in arrival.headers
        if route.body == "none":
            if coming:
                raise bodies.NoBodyHere
            return
        bodies.declared_length(length, self._cap(route))
        if coming:
            bodies.check_type(route.body, arrival.headers.get("content-type", ""))

    def _cap(self, route: Route) -> int:
        return self._settings.max_upload if route.body == "stream" else self._settings.max_body

    async def _caller(self, organisation: str, arrival: Arrival) -> Caller:
        """Find out who calls. Wrong credentials are counted, so that nobody can try them at our speed."""
        if arrival.caller is not None:
            return arrival.caller
        token = bearer(arrival.headers.get("authorization", ""))
        if token is None:
            return anonymous(organisation)
        try:
            return await self.callers.find(organisation, token)
        except Unauthenticated:
            self._gate.take("wrong", arrival.client)
            raise

    def _count(self, route: Route, caller: Caller, client: str) -> None:
        if caller.is_anonymous:
            self._gate.take(route.rule, client)
        elif caller.is_system:
            self._gate.take("system", caller.subject)
        elif caller.case is not None:  # anybody can prove a mailbox of their own
            self._gate.take("proven", caller.subject)

    # --- reading ---------------------------------------------------------------------------------------------------

    async def _content(self, call: Call) -> AsyncIterator[bytes] | bytes:
        """Return the body: small ones whole and checked, uploads as they come."""
        if call.route.body == "none":
            return b""
        if call.route.body == "stream":
            return bodies.chunks(call.arrival.receive, self._settings.max_upload)
        body = await bodies.whole(call.arrival.receive, self._settings.max_body, self._settings.body_seconds)
        if body and call.route.body == "json":
            bodies.check_type("json", call.arrival.headers.get("content-type", ""))
            bodies.check_json(body)
        return body

    # --- carrying out ----------------------------------------------------------------------------------------------

    def _answer(self, call: Call, content: AsyncIterator[bytes] | bytes) -> AbstractAsyncContextManager[Reply]:
        key = call.arrival.headers.get("idempotency-key")
        if key is not None:
            idempotency.check_key(key)
        elif _needs_key(call):
            raise idempotency.KeyMissing
        if key is None or call.route.once in {"no", "inner"}:
            return self._plain(call, content)
        assert isinstance(content, bytes)
        return self._once(call, content, key)

    @asynccontextmanager
    async def _once(self, call: Call, body: bytes, key: str) -> AsyncIterator[Reply]:
        """Carry a call out once per Idempotency-Key, and repeat its answer after that."""
        organisation = call.caller.organisation
        use_id = idempotency.row_id(organisation, call.caller.subject, call.address, key)
        kept = await idempotency.begin(self._database, organisation, use_id, body, self._clock())
        if kept is not None:
            yield _small(kept.status, kept.answer, {"idempotency-replayed": "true"})
            return
        try:
            async with self._plain(call, body) as reply:
                status, document = reply.status, await reply.json(SMALL)
        except Problem:
            await idempotency.release(self._database, organisation, use_id)
            raise
        if 200 <= status < 300:
            await idempotency.end(self._database, organisation, use_id, status, _kept(call.route, document))
        else:
            await idempotency.release(self._database, organisation, use_id)
        yield _small(status, document, {"content-type": reply.headers.get("content-type", "application/json")})

    @asynccontextmanager
    async def _plain(self, call: Call, content: AsyncIterator[bytes] | bytes) -> AsyncIterator[Reply]:
        if call.route.is_local:
            assert isinstance(content, bytes)
            yield await self._at_the_desk(call, content)
            return
        params = {**call.params, **await self._package(call)}
        async with self._onward(call, inner_path(call.route, params, call.query), content) as reply:
            if reply.status == Unauthenticated.status:
                raise _refused(call.route.service)
            yield await self._concluded(call, reply, params)

    async def _at_the_desk(self, call: Call, body: bytes) -> Reply:
        shown = "" if call.caller.is_anonymous else call.arrival.headers.get("authorization", "")
        token = bearer(shown) or ""
        errand = Errand(call.caller, call.params, body, call.arrival.client, token)
        done: Done = await self._desk.action(call.route.inner)(errand)
        return _small(done.status, done.document)

    def _onward(
        self, call: Call, path: str, content: AsyncIterator[bytes] | bytes
    ) -> AbstractAsyncContextManager[Reply]:
        """Pass the call to its service, signed as its caller; only listed headers go along."""
        given = call.arrival.headers
        headers = {name: given[name] for name in PASSED_IN if name in given}
        return self._post.stream(
            call.route.service,
            call.route.method,
            path,
            organisation=call.caller.organisation,
            content=content or None,
            headers=headers,
            token=service_token(self._issuer, call.caller, call.route.service),
        )

    async def _package(self, call: Call) -> dict[str, str]:
        """Ask intake which package belongs to a case; only its person and the staff are told."""
        if "{package}" not in call.route.inner:
            return {}
        reference, case = call.params.get("reference"), call.params.get("case")
        path = f"/requests/{reference}/package-id" if reference else f"/cases/{case}/package-id"
        found = await self._ask(call, "intake", "GET", path)
        return {"package": str(found["package_id"])}

    async def _ask(self, call: Call, service: str, method: str, path: str) -> dict[str, Any]:
        """Ask a service something in the caller's name."""
        token = service_token(self._issuer, call.caller, service)
        try:
            return await self._post.send(service, method, path, organisation=call.caller.organisation, token=token)
        except Unauthenticated:
            raise _refused(service) from None

    # --- concluding ------------------------------------------------------------------------------------------------

    async def _concluded(self, call: Call, reply: Reply, params: Mapping[str, str]) -> Reply:
        """Do what a successful answer asks of the door: open a session, or say that a package was collected."""
        if not (call.route.then and 200 <= reply.status < 300):
            return reply
        if call.route.then == "collected":
            return Reply(Answer(reply.status, pairs(reply.headers), self._collecting(call, reply, params["package"])))
        if call.route.then == "verified":
            inner = await reply.json(SMALL)
            token = await self._open_subject(call, str(inner["case_id"]), "verified", self._settings.subject_minutes)
            return _small(200, {**token, "collection_code": inner.get("collection_code")})
        assert call.caller.case is not None
        return _small(200, await self._open_subject(call, call.caller.case, "collect", self._settings.collect_minutes))

    async def _open_subject(self, call: Call, case_id: str, level: str, minutes: int) -> dict[str, Any]:
        life = timedelta(minutes=minutes)
        async with self._database.write(call.caller.organisation) as session:
            token = await sessions.open_subject(
                session,
                organisation=call.caller.organisation,
                case_id=case_id,
                reference=call.params["reference"],
                level=level,
                expires_at=self._clock() + life,
            )
        return {"token": token, "expires_in": int(life.total_seconds())}

    async def _collecting(self, call: Call, reply: Reply, package: str) -> AsyncIterator[bytes]:
        """Pass a package through; once the last byte was taken, say so: only a completed download is a collection."""
        async for chunk in reply.aiter():
            yield chunk
        try:
            await self._ask(call, "exporter", "POST", f"/packages/{package}/collected")
        except Problem as problem:
            # The person has the package; it can be collected again until the exporter hears of it.
            log.warning("gateway.collection_untold", code=problem.problem_code)


def _refused(service: str) -> Problem:
    """A service did not take our own token: the caller's credentials were good, so this is no 401."""
    log.error("gateway.token_refused", service=service)
    return ServiceFailed()


def _needs_key(call: Call) -> bool:
    """Machines and staff repeat calls; a person in front of a form may not know what a key is."""
    return call.route.once == "inner" and not call.caller.is_anonymous


def _kept(route: Route, document: object) -> dict[str, Any] | None:
    """Return the fields of an answer that may be kept; None if the route keeps none."""
    if route.keeps is None or not isinstance(document, dict):
        return None
    return {name: document[name] for name in route.keeps if name in document}


def _small(status: int, document: object = None, headers: Mapping[str, str] | None = None) -> Reply:
    """Return an answer of our own."""
    body = b"" if document is None else json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    found = {"content-type": "application/json", **(headers or {})} if body else dict(headers or {})
    if status != 204:
        found["content-length"] = str(len(body))
    return Reply(Answer(status, pairs(found), _one(body)))


async def _one(body: bytes) -> AsyncIterator[bytes]:
    if body:
        yield body


def pairs(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers as they go over the wire."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]

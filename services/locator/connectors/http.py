"""What does a JSON API hold on one person? The `http` connector: declared in the register, never programmed.

Requests only read (GET). An answer is believed as far as it can be checked: a status that the register calls absent
means nobody; anything else that is not the declared shape is a failure, never "nothing found". Where the register names
the field that carries the identifier, records without it are not the person's, whatever the API meant by its filter.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import msgspec

from services.locator.connectors.base import (
    Code,
    ConnectorError,
    Findings,
    Found,
    NeedsPerson,
    Rejected,
    Search,
    Unavailable,
)
from services.locator.connectors.matching import Matcher
from services.locator.connectors.pace import Pace
from services.locator.connectors.paging import Ask, Page, Pager
from services.locator.connectors.paths import find, records
from services.locator.connectors.statements import digest_key
from shared.clock import Clock
from shared.messages import Record
from shared.register import Entity, Finder, HttpAuth, System

MOST_BYTES = 16 << 20
"""Largest answer that is read: it lies in memory, a page at a time."""
WAITS = 3
LONGEST_WAIT = 30.0
"""Seconds that a search waits in place when the system asks for it; longer waits put the task off."""

PROBES = {"email": "habeas-probe@example.invalid", "phone": "+4500000000", "cpr": "0101000000"}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class Web(Protocol):
    """The way out: checks where it leads, follows nothing, reads no more than it may.

    Raises `Unavailable` (not reached, too slow, cut off) and `Rejected` (an address that may not be called, too large).
    """

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """Send one request and read the whole answer."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class HttpConnector:
    """Asks one API as the register describes it."""

    capabilities = frozenset({"locate", "export"})

    def __init__(self, system: System, web: Web, pace: Pace, secret: Callable[[str | None], str], clock: Clock) -> None:
        assert system.connector.kind == "http"
        self._system = system
        self._base = system.connector.base_url.rstrip("/")
        self._headers = dict(system.connector.headers)
        self._web = web
        self._pace = pace
        self._clock = clock
        self._auth = Authorization(system.connector.auth, secret, self._call)

    async def locate(self, search: Search) -> AsyncGenerator[Found, None]:
        """Yield the records of every entity that accepts one of the identifiers."""
        for name, entity in search.system.entities.items():
            reader = _Reader(search, name, entity)
            for kind, finder, value in _asks(search, entity):
                async with aclosing(self._pages(entity, finder, value)) as pages:
                    async for items in pages:
                        for record in reader.records(kind, value, items):
                            yield Found(record)
            reader.check()

    async def probe(self) -> Findings:
        """Ask for somebody who does not exist: is the system there, and does it let us in?"""
        try:
            for entity in self._system.entities.values():
                for kind, finder in entity.find_by.items():
                    if _callable(finder):
                        await self._get(entity, finder, PROBES.get(kind, "habeas-probe"))
                        return Findings(reachable=True)
        except ConnectorError as error:
            return Findings(reachable=error.code in {Code.NOT_AUTHORISED, Code.UNEXPECTED_ANSWER}, code=error.code)
        return Findings(reachable=False, code=Code.SCHEMA_CHANGED)

    async def close(self) -> None:
        """Close connections."""
        await self._web.close()

    # --- pages -----------------------------------------------------------------------------------------------------

    async def _pages(self, entity: Entity, finder: Finder, value: str) -> AsyncGenerator[list[Any], None]:
        pager = Pager(entity.paging, self._base)
        ask: Ask | None = pager.begin()
        while ask is not None:
            url = ask.url or self._url(finder, value, ask.parameters)
            answer = await self._answer(url, entity)
            if answer is None:
                return
            content = _parsed(answer)
            items = records(entity.records, content)
            yield items
            ask = pager.follow(Page(items, content, answer.headers.get("link"), url))

    async def _get(self, entity: Entity, finder: Finder, value: str) -> None:
        ask = Pager(entity.paging, self._base).begin()
        answer = await self._answer(self._url(finder, value, ask.parameters), entity)
        if answer is not None:
            records(entity.records, _parsed(answer))

    def _url(self, finder: Finder, value: str, parameters: Mapping[str, str]) -> str:
        query = {name: text.replace("{value}", value) for name, text in finder.query.items()} | dict(parameters)
        path = _path(finder.path or "", value)
        return f"{self._base}{path}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")

    # --- one request -----------------------------------------------------------------------------------------------

    async def _answer(self, url: str, entity: Entity) -> Answer | None:
        """Return the answer if it is one, None if nobody is there. Waits in place when asked to, within reason."""
        answer = await self._authorised(url)
        for _wait in range(WAITS):
            pause = self._retry_after(answer)
            if answer.status not in {429, 503} or pause is None or pause > LONGEST_WAIT:
                break
            self._pace.hold(pause)
            answer = await self._authorised(url)
        return self._judged(answer, entity)

    async def _authorised(self, url: str) -> Answer:
        headers = {"accept": "application/json", **self._headers}
        answer = await self._call("GET", url, {**headers, **await self._auth.headers()})
        if answer.status == 401 and self._auth.renew():
            answer = await self._call("GET", url, {**headers, **await self._auth.headers()})
        return answer

    async def _call(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        await self._pace.turn()
        return await self._web.request(method, url, headers, body)

    def _judged(self, answer: Answer, entity: Entity) -> Answer | None:
        if answer.status in entity.absent:
            # An error page of a proxy or of the wrong address says nothing about anybody.
            if answer.headers.get("content-type", "").startswith("text/html"):
                raise Rejected(Code.UNEXPECTED_ANSWER)
            return None
        if answer.status == 204:
            return None
        if 200 <= answer.status < 300:
            return answer
        raise self._failure(answer)

    def _failure(self, answer: Answer) -> ConnectorError:
        if answer.status in {408, 425, 429, 503}:
            return Unavailable(Code.BUSY, self._retry_after(answer))
        if answer.status >= 500:
            return Unavailable(Code.SERVER_ERROR, self._retry_after(answer))
        if answer.status in {401, 403, 407}:
            return Rejected(Code.NOT_AUTHORISED)
        if 300 <= answer.status < 400:
            return Rejected(Code.REDIRECTED)
        return Rejected(Code.REFUSED)

    def _retry_after(self, answer: Answer) -> float | None:
        """Return the seconds of Retry-After (RFC 9110 §10.2.3), if there is one that can be read."""
        text = answer.headers.get("retry-after", "").strip()
        if text.isascii() and text.isdigit():
            return float(text[:9])
        try:
            at = parsedate_to_datetime(text)
        except (ValueError, TypeError):
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max(0.0, (at - self._clock()).total_seconds())


# --- proving who we are --------------------------------------------------------------------------------------------

Call = Callable[..., Any]


class Authorization:
    """The headers by which a system knows us. A token is fetched once and shared by all tasks until it runs out."""

    def __init__(self, auth: HttpAuth, secret: Callable[[str | None], str], call: Call) -> None:
        self._auth = auth
        self._secret = secret
        self._call = call
        self._token: str | None = None
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def headers(self) -> dict[str, str]:
        """Return the headers. Raises `NeedsPerson` where a secret is missing or cannot be a header."""
        kind = self._auth.kind
        if kind == "none":
            return {}
        if kind == "bearer":
            return {"authorization": f"Bearer {self._header(self._secret(self._auth.secret))}"}
        if kind == "basic":
            return {"authorization": self._basic()}
        if kind == "header":
            return {self._auth.header or "x-api-key": self._header(self._secret(self._auth.secret))}
        return {"authorization": f"Bearer {await self._fetched()}"}

    def renew(self) -> bool:
        """Forget a fetched token that was refused; whether there was one."""
        had, self._token = self._token, None
        return had is not None

    def _basic(self) -> str:
        pair = f"{self._auth.username or ''}:{self._secret(self._auth.secret)}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"

    def _header(self, text: str) -> str:
        if not (text.isascii() and text.isprintable() and text):
            raise NeedsPerson(Code.SECRET_MISSING)
        return text

    async def _fetched(self) -> str:
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._token is None or now >= self._until:
                self._token, seconds = await self._fetch()
                self._until = now + seconds
            return self._token

    async def _fetch(self) -> tuple[str, float]:
        """Ask for a token by client credentials (RFC 6749 §4.4)."""
        form = {"grant_type": "client_credentials"} | ({"scope": self._auth.scope} if self._auth.scope else {})
        headers = {
            "authorization": self._basic(),
            "content-type": "application/x-www-form-urlencoded",
            "accept": "application/json",
        }
        answer: Answer = await self._call("POST", self._auth.token_url or "", headers, urlencode(form).encode())
        if answer.status >= 500 or answer.status == 429:
            raise Unavailable(Code.SERVER_ERROR)
        if answer.status != 200:
            raise Rejected(Code.NOT_AUTHORISED)
        content = _parsed(answer)
        token = content.get("access_token") if isinstance(content, dict) else None
        if not isinstance(token, str):
            raise Unavailable(Code.UNEXPECTED_ANSWER)
        seconds = content.get("expires_in", 300)
        # Renewed a little early: a token must not run out on the way.
        return self._header(token), max(0.0, float(seconds) - 10) if isinstance(seconds, (int, float)) else 300.0


# --- reading records -----------------------------------------------------------------------------------------------


class _Reader:
    """Turns what an API calls a record into one, and drops what is not the person's or came before."""

    def __init__(self, search: Search, name: str, entity: Entity) -> None:
        self._name = name
        self._system = search.system_id
        self._entity = entity
        self._wanted = Matcher(search.identifiers, search.region, search.wanted)
        self._earlier = Matcher(search.identifiers, search.region, search.earlier)
        self._seen: set[int] = set()
        """Pages shift while they are read, and two identifiers may find the same record."""
        self._kept = self._dropped = self._unbindable = 0

    def records(self, kind: str, value: str, items: list[Any]) -> Iterator[Record]:
        """Yield the records among `items`, which were asked for by `value`."""
        for item in items:
            record = self._record(kind, value, item)
            if record is not None and hash(record.key) not in self._seen:
                self._seen.add(hash(record.key))
                yield record

    def check(self) -> None:
        """Raise `Rejected` if no record could be tied to anybody: the field that should do it has gone."""
        if self._unbindable and not self._kept:
            raise Rejected(Code.UNBINDABLE)

    def _record(self, kind: str, value: str, item: Any) -> Record | None:
        fields = self._fields(item)
        carried = [
            (one, self._value(item, finder.field)) for one, finder in self._entity.find_by.items() if finder.field
        ]
        if self._earlier.bound(carried):
            return None
        bound = self._wanted.bound(carried)
        checked = self._entity.find_by[kind].field
        if checked is None:
            bound[kind] = value
        elif kind not in bound:
            self._unbindable += self._value(item, checked) is None
            return None
        self._kept += 1
        listed = any(isinstance(raw, (list, tuple)) for one, raw in carried if one in bound)
        evidence = "path" if checked is None or listed else "field"
        return Record(self._system, self._name, self._key(item, fields), bound, evidence, fields)  # type: ignore[arg-type]

    def _fields(self, item: Any) -> dict[str, Any]:
        fields = {}
        for name, rule in self._entity.fields.items():
            found = find(rule.path, item) if rule.path else _own(item, name)
            if found:
                fields[name] = found[0] if len(found) == 1 else found
        if not fields:
            raise Unavailable(Code.UNEXPECTED_ANSWER)
        return fields

    def _value(self, item: Any, name: str | None) -> Any:
        if name is None:
            return None
        rule = self._entity.fields.get(name)
        found = find(rule.path, item) if rule and rule.path else _own(item, name)
        return None if not found else found[0] if len(found) == 1 else found

    def _key(self, item: Any, fields: Mapping[str, Any]) -> str:
        if self._entity.key is None:
            return digest_key(fields)
        key = self._value(item, self._entity.key)
        if not isinstance(key, (str, int)) or isinstance(key, bool) or key == "":
            raise Rejected(Code.UNEXPECTED_ANSWER)
        return str(key)


def _own(item: Any, name: str) -> list[Any]:
    return [item[name]] if isinstance(item, dict) and name in item else []


def _asks(search: Search, entity: Entity) -> Iterator[tuple[str, Finder, str]]:
    for kind, finder in entity.find_by.items():
        if _callable(finder):
            yield from ((kind, finder, one.value) for one in search.wanted if one.type == kind)


def _callable(finder: Finder) -> bool:
    return finder.path is not None or bool(finder.query)


def _path(template: str, value: str) -> str:
    """Put a value into a path. One that would climb about in it is not searched for."""
    if "{value}" in template and value in {".", ".."}:
        raise NeedsPerson(Code.UNUSABLE_IDENTIFIER)
    path = template.replace("{value}", quote(value, safe=""))
    return path if not path or path.startswith("/") else f"/{path}"


def _parsed(answer: Answer) -> Any:
    try:
        return msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unavailable(Code.GARBLED) from None

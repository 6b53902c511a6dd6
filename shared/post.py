"""How does one service call another? In the same way whether they share a process or only a network.

`BridgePost` calls the other's ASGI app in this process, `HttpPost` its address; settings choose. Both sign each call,
stream both ways at constant memory, let the slower side set the pace, and tell either side when the other has gone.
"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from pydantic import BaseModel

from shared.bridge import (
    ASGIApp,
    Content,
    Receive,
    Running,
    Scope,
    Send,
    Target,
    bridge_asgi,
    call_app,
    forwarded_headers,
    parse_target,
    returned_headers,
)
from shared.http import ANSWER_SECONDS, Answer, Headers, InternalClient, NotReached, ServiceFailed
from shared.problems import (
    TYPE_PREFIX,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    Malformed,
    NotFound,
    PreconditionFailed,
    Problem,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
    WrongType,
)
from shared.tokens import Issuer

JSON_LIMIT = 16 << 20
"""Bytes of an answer that `json` and `read` hold in memory at most."""


# --- answers -------------------------------------------------------------------------------------------------------


class Reply:
    """An answer whose body is still on its way; read it once, inside the `async with`."""

    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        self.headers: Mapping[str, str] = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers
        }
        self._body = answer.body

    def aiter(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises `AnswerCut` if it breaks off."""
        return self._body

    async def read(self, limit: int = JSON_LIMIT) -> bytes:
        """Return the whole body, or raise `ServiceFailed` if it has more than `limit` bytes."""
        data = bytearray()
        async for chunk in self._body:
            data += chunk
            if len(data) > limit:
                raise ServiceFailed
        return bytes(data)

    async def json(self, limit: int = JSON_LIMIT) -> Any:
        """Return the body as JSON, None if it is empty. Raises `ServiceFailed` if it is neither."""
        data = await self.read(limit)
        try:
            return json.loads(data) if data else None
        except (ValueError, RecursionError):
            raise ServiceFailed from None

    async def check(self) -> None:
        """Return if the status is 2xx; otherwise raise the `Problem` that the service answered with."""
        if not 200 <= self.status < 300:
            raise _problem(self.status, self.headers.get("retry-after", ""), await self._document())

    async def _document(self) -> dict[str, Any]:
        if self.headers.get("content-type") != "application/problem+json":
            return {}
        found = await self.json()
        return found if isinstance(found, dict) else {}


_BY_STATUS: Mapping[int, type[Problem]] = {
    problem.status: problem
    for problem in (
        Malformed,
        Unauthenticated,
        Forbidden,
        NotFound,
        Conflict,
        Gone,
        PreconditionFailed,
        TooLarge,
        WrongType,
        Invalid,
        TooMany,
        Unavailable,
    )
}
_STANDARD = frozenset({"type", "title", "status", "detail", "errors", "code", "retry_after"})


def _problem(status: int, retry_after: str, document: dict[str, Any]) -> Problem:
    """Build the problem that a service answered with; what no service of ours answers is its failure."""
    kind = _BY_STATUS.get(status, ServiceFailed)
    if kind is ServiceFailed:
        return ServiceFailed()
    return kind(
        document.get("detail"),
        code=str(document.get("type", "")).removeprefix(TYPE_PREFIX) or None,
        errors=tuple(document.get("errors", ())),
        retry_after=int(retry_after) if retry_after.isdecimal() else None,
        **{name: value for name, value in document.items() if name not in _STANDARD},
    )


# --- the door ------------------------------------------------------------------------------------------------------


class Post(Protocol):
    """Calls other services.

    Paths are percent-encoded and may have a query; one that a router could misread is `NotFound`. A call is signed as
    `service:<name>` unless `token` brings a token of this service that speaks for somebody else.
    """

    async def send(
        self,
        to: str,
        method: str,
        path: str,
        *,
        organisation: str,
        body: BaseModel | Mapping[str, Any] | None = None,
        token: str | None = None,
    ) -> dict[str, Any]:
        """Send JSON and return the JSON object of the answer, `{}` if it has none.

        Raises the `Problem` that the service answered with, or an `Unavailable` if it failed or was not reached.
        """
        ...

    def stream(
        self,
        to: str,
        method: str,
        path: str,
        *,
        organisation: str,
        content: Content = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> AbstractAsyncContextManager[Reply]:
        """Send a body as it comes and receive one as it comes; `Reply.check` raises what `send` would raise.

        Raises `NotReached` or `ServiceFailed` on entering, and an error of `content` as it is. Leaving early tells the
        service that nobody listens any more. `content` is closed in the end if it is a generator.
        """
        ...

    async def forward(
        self, to: str, scope: Scope, receive: Receive, send: Send, *, path: str, headers: Headers
    ) -> None:
        """Pass a public request on to `path` of a service, and its answer back, both as they come.

        Of the caller's headers nothing that speaks for somebody passes (`Authorization`, `Cookie`, `Forwarded`,
        `X-Forwarded-*`, `Habeas-*`) nor what belongs to one connection only; `headers` are added, the token at least.
        The caller's query stays unless `path` has one. Raises `NotReached` or `ServiceFailed` before the answer began
        and `AnswerCut` after, when the connection to the caller must be cut too.
        """
        ...

    async def aclose(self) -> None:
        """End what is still under way."""
        ...


class _SignedPost(ABC):
    """What both ways have in common: the token, JSON, problems."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    @abstractmethod
    def _open(
        self, to: str, method: str, target: Target, headers: Headers, content: Content
    ) -> AbstractAsyncContextManager[Answer]: ...

    async def send(
        self,
        to: str,
        method: str,
        path: str,
        *,
        organisation: str,
        body: BaseModel | Mapping[str, Any] | None = None,
        token: str | None = None,
    ) -> dict[str, Any]:
        content = _encode(body)
        headers = {"accept": "application/json"}
        if content is not None:
            headers |= {"content-type": "application/json"}
        async with self.stream(
            to, method, path, organisation=organisation, content=content, headers=headers, token=token
        ) as reply:
            await reply.check()
            found = await reply.json()
        if not isinstance(found, dict | None):
            raise ServiceFailed
        return found or {}

    @asynccontextmanager
    async def stream(
        self,
        to: str,
        method: str,
        path: str,
        *,
        organisation: str,
        content: Content = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> AsyncIterator[Reply]:
        token = token or self._issuer.own(to, organisation=organisation)
        raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        raw += [(b"authorization", b"Bearer " + token.encode()), *_framing(content)]
        async with self._open(to, method, parse_target(path), raw, content) as answer:
            yield Reply(answer)


def _encode(body: BaseModel | Mapping[str, Any] | None) -> bytes | None:
    if body is None:
        return None
    return (body.model_dump_json() if isinstance(body, BaseModel) else json.dumps(body)).encode()


def _framing(content: Content) -> Headers:
    if content is None:
        return []
    if isinstance(content, bytes):
        return [(b"content-length", str(len(content)).encode())]
    return [(b"transfer-encoding", b"chunked")]


class BridgePost(_SignedPost):
    """Calls apps in this process. `apps` may be filled after this was made: services know one another late."""

    def __init__(self, apps: Mapping[str, ASGIApp], issuer: Issuer, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        super().__init__(issuer)
        self._apps = apps
        self._running = Running(answer_seconds)

    async def forward(
        self, to: str, scope: Scope, receive: Receive, send: Send, *, path: str, headers: Headers
    ) -> None:
        await bridge_asgi(self._app(to), scope, receive, send, path=path, headers=headers)

    async def aclose(self) -> None:
        await self._running.aclose()

    def _open(
        self, to: str, method: str, target: Target, headers: Headers, content: Content
    ) -> AbstractAsyncContextManager[Answer]:
        headers = [(b"host", to.encode()), *headers]
        return call_app(self._app(to), method, target, headers, content, running=self._running)

    def _app(self, to: str) -> ASGIApp:
        if to not in self._apps:
            raise NotReached
        return self._apps[to]


class HttpPost(_SignedPost):
    """Calls services at their addresses (`http://host:port`), which the operator configured."""

    def __init__(self, urls: Mapping[str, str], issuer: Issuer, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        super().__init__(issuer)
        self._urls = urls
        self._client = InternalClient(answer_seconds=answer_seconds)

    async def forward(
        self, to: str, scope: Scope, receive: Receive, send: Send, *, path: str, headers: Headers
    ) -> None:
        body = _CallerBody(scope, receive)
        relay = asyncio.ensure_future(self._relay(to, scope, body, send, path, headers))
        gone = asyncio.ensure_future(body.until_gone())
        try:
            await asyncio.wait({relay, gone}, return_when=asyncio.FIRST_COMPLETED)
            if relay.done():
                relay.result()
        except _CallerGone:
            pass
        finally:
            relay.cancel()
            gone.cancel()
            await asyncio.gather(relay, gone, return_exceptions=True)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _relay(self, to: str, scope: Scope, body: "_CallerBody", send: Send, path: str, headers: Headers) -> None:
        target = parse_target(path)
        passed = forwarded_headers(list(scope["headers"]), headers)
        async with self._client.stream(
            scope["method"], self._url(to), target.encoded(scope["query_string"]), passed, body.content
        ) as answer:
            returned = returned_headers(answer.headers)
            await send({"type": "http.response.start", "status": answer.status, "headers": returned})
            async for chunk in answer.body:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _open(
        self, to: str, method: str, target: Target, headers: Headers, content: Content
    ) -> AbstractAsyncContextManager[Answer]:
        return self._client.stream(method, self._url(to), target.encoded(), headers, content)

    def _url(self, to: str) -> str:
        if to not in self._urls:
            raise NotReached
        return self._urls[to]


class _CallerGone(Exception):
    """The caller left before the body was whole."""


class _CallerBody:
    """The body of a public request, and whether somebody still waits for the answer to it."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._read = asyncio.Event()
        framed = any(name in {b"content-length", b"transfer-encoding"} for name, _ in scope["headers"])
        self.content = self._chunks() if framed else None
        if not framed:
            self._read.set()

    async def until_gone(self) -> None:
        """Return once the caller has left, after the body was read."""
        await self._read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _chunks(self) -> AsyncIterator[bytes]:
        more = True
        try:
            while more:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise _CallerGone
                more = message.get("more_body", False)
                if message.get("body"):
                    yield message["body"]
        finally:
            self._read.set()

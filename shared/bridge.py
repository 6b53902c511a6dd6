"""How is an ASGI app called without a socket? In a task of its own, a chunk at a time, by the rules of a server.

`bridge_asgi` passes a request on that a server is already handling; `call_app` makes a new one. Neither buffers. What
a server promises holds here too: a body that broke off never looks whole, an app hears when its caller has gone, and
it runs on to its end.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass
from inspect import isasyncgen
from typing import Any
from urllib.parse import unquote_to_bytes

import structlog

from shared.http import Answer, AnswerCut, Headers, NotReached, ServiceFailed
from shared.problems import NotFound

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Content = AsyncIterator[bytes] | bytes | None

_SPEC = {"version": "3.0", "spec_version": "2.3"}

log = structlog.get_logger()


# --- paths and headers ---------------------------------------------------------------------------------------------

_PATH = re.compile(rb"(?:/[A-Za-z0-9\-._~!$&'()*+,;=:@%]*)+")
_QUERY = re.compile(rb"[!\"$-~]*")
_HIDDEN = re.compile(rb"%(?:2f|5c|[01][0-9a-f]|7f|(?![0-9a-f]{2}))", re.IGNORECASE)

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""What belongs to one connection (RFC 9110 §7.6.1)."""

_NOT_FORWARDED = _HOP_BY_HOP | {
    b"authorization",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"via",
    b"x-principal",
    b"x-real-ip",
}
_NOT_FORWARDED_PREFIXES = (b"habeas-", b"x-forwarded-")
_NOT_RETURNED = _HOP_BY_HOP | {b"date", b"server"}


@dataclass(frozen=True)
class Target:
    """Where a call goes: the encoded path, what it means, and the encoded query (None: nothing was said)."""

    raw_path: bytes
    path: str
    query: bytes | None

    def encoded(self, query: bytes = b"") -> bytes:
        """Return path and query as they stand in a request line; `query` where the target has none of its own."""
        query = re.sub(rb"[^!-~]", lambda found: b"%%%02X" % found[0][0], query) if self.query is None else self.query
        return self.raw_path + b"?" + query if query else self.raw_path


def parse_target(text: str) -> Target:
    """Read a percent-encoded path with or without a query.

    Raises `NotFound` for what a router could take for another path than was meant: dot segments, empty segments,
    encoded slashes and control characters.
    """
    raw, mark, query = text.encode(errors="replace").partition(b"?")
    if not _PATH.fullmatch(raw) or not _QUERY.fullmatch(query) or _HIDDEN.search(raw):
        raise NotFound
    try:
        path = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise NotFound from None
    if not {"", ".", ".."}.isdisjoint(path[1:].split("/")) and path != "/":
        raise NotFound
    return Target(raw, path, query if mark else None)


def forwarded_headers(headers: Headers, added: Headers) -> Headers:
    """Return what of a caller's headers may pass on, and `added`; the body is framed anew."""
    dropped = _NOT_FORWARDED | _listed(headers) | {name.lower() for name, _ in added}
    chunked = any(name == b"transfer-encoding" for name, _ in headers)
    if chunked:
        dropped |= {b"content-length"}
    kept = [
        (name, value) for name, value in headers if name not in dropped and not name.startswith(_NOT_FORWARDED_PREFIXES)
    ]
    return [*kept, *added, *([(b"transfer-encoding", b"chunked")] if chunked else [])]


def returned_headers(headers: Headers) -> Headers:
    """Return what of a service's headers may reach the caller."""
    dropped = _NOT_RETURNED | _listed(headers)
    return [(name, value) for name, value in headers if name.lower() not in dropped]


def _listed(headers: Headers) -> frozenset[bytes]:
    """Headers that `Connection` names as its own; never those that frame the body."""
    values = [value for name, value in headers if name.lower() == b"connection"]
    names = {part.strip().lower() for value in values for part in value.split(b",")}
    return frozenset(names - {b"content-length", b"content-type"})


# --- passing a request on ------------------------------------------------------------------------------------------


async def bridge_asgi(app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, path: str, headers: Headers) -> None:
    """Let `app` answer this request at `path`, with the caller's headers cleaned and `headers` added.

    Raises `ServiceFailed` if the app failed before it answered and `AnswerCut` if it broke off.
    """
    target = parse_target(path)
    watch = _Watch(receive, send)
    inner = _scope(scope["method"], target, forwarded_headers(list(scope["headers"]), headers), scope["query_string"])
    try:
        await app(inner, watch.receive, watch.send)
    except Exception as error:  # noqa: BLE001 - the edge of another service: nothing of its error passes
        log.warning("service failed", error=type(error).__name__, answered=watch.complete)
    if not (watch.complete or watch.caller_gone):
        raise AnswerCut if watch.started else ServiceFailed


class _Watch:
    """Sees how far a call has come while it passes through."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.started = self.complete = self.caller_gone = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.caller_gone |= message["type"] == "http.disconnect"
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            message = {**message, "headers": returned_headers(list(message.get("headers", ())))}
        elif message["type"] == "http.response.body":
            self.complete |= not message.get("more_body", False)
        await self._send(message)


def _scope(method: str, target: Target, headers: Headers, query: bytes = b"") -> Scope:
    return {
        "type": "http",
        "asgi": dict(_SPEC),
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": target.path,
        "raw_path": target.raw_path,
        "query_string": query if target.query is None else target.query,
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": None,
        "state": {},
    }


# --- making a call -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def call_app(
    app: ASGIApp, method: str, target: Target, headers: Headers, content: Content, *, running: "Running"
) -> AsyncIterator[Answer]:
    """Send a request to `app` and yield its answer, as `shared.http.InternalClient.stream` does over a network.

    Raises `ServiceFailed` or `NotReached` before the answer begins and `AnswerCut` from its body; an error of
    `content` as it is. Leaving early tells the app that its caller has gone, and closes `content`.
    """
    call = _Call()
    running.start(call.run(app, _scope(method, target, headers)))
    pump = asyncio.ensure_future(call.feed(content))
    body = call.body()
    try:
        status, answer_headers = await call.head(running.answer_seconds)
        yield Answer(status, answer_headers, body)
    finally:
        call.leave()
        await body.aclose()
        pump.cancel()
        await asyncio.wait({pump})


class Running:
    """The apps that are still at work, some of them for callers who have gone."""

    def __init__(self, answer_seconds: float) -> None:
        self.answer_seconds = answer_seconds
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in a task of its own, with a context of its own as behind a network."""
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Cancel them all and wait until they are gone."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Gone(OSError):
    """The other side has left."""


class _HandOver:
    """Passes one chunk at a time from one task to one other: the giver waits until the last one is taken."""

    def __init__(self) -> None:
        self._chunk: bytes | None = None
        self._ended = False
        self._cut = False
        self._changed = asyncio.Event()

    async def put(self, chunk: bytes) -> None:
        """Give a chunk. Raises `_Gone` if nobody will take it."""
        while self._chunk is not None and not self._cut:
            await self._wait()
        if self._cut:
            raise _Gone
        self._chunk = chunk
        self._changed.set()

    async def get(self) -> bytes | None:
        """Take the next chunk; None is the end. Raises `_Gone` if the giver left before it."""
        while self._chunk is None and not (self._ended or self._cut):
            await self._wait()
        if self._chunk is None and not self._ended:
            raise _Gone
        chunk, self._chunk = self._chunk, None
        self._changed.set()
        return chunk

    def end(self) -> None:
        """All was given."""
        self._ended = True
        self._changed.set()

    def cut(self) -> None:
        """One side leaves."""
        self._cut = True
        self._changed.set()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class _Call:
    """One call of an app: the app's task on one side, the caller and what feeds the request on the other."""

    def __init__(self) -> None:
        self._request, self._response = _HandOver(), _HandOver()
        self._head: asyncio.Future[tuple[int, Headers] | None] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._body_read = False
        self._complete = False
        self._content_error: Exception | None = None

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Run the app to its end, whether or not somebody still listens."""
        try:
            await app(scope, self._receive, self._send)
        except Exception as error:  # noqa: BLE001 - the edge of another service: nothing of its error passes
            if not self._over.is_set() or self._complete:
                log.warning("service failed", error=type(error).__name__, answered=self._complete)
        finally:
            self._begin(None)
            self._request.cut()
            self._response.cut()
            self._over.set()

    async def feed(self, content: Content) -> None:
        """Give the request's body to the app as fast as the app takes it, and close it in the end."""
        try:
            async for chunk in _pieces(content):
                await self._request.put(chunk)
            self._request.end()
        except _Gone:
            pass
        except Exception as error:  # noqa: BLE001 - the caller's own, and the caller gets it back
            self._content_error = error
            self._begin(None)
        finally:
            # Without `end` before it, this tells the app that the body broke off.
            self._request.cut()
            if isasyncgen(content):
                await content.aclose()

    async def head(self, seconds: float) -> tuple[int, Headers]:
        """Wait for the answer to begin."""
        try:
            async with asyncio.timeout(seconds):
                head = await self._head
        except TimeoutError:
            raise NotReached from None
        if head is None:
            raise self._content_error or ServiceFailed()
        return head

    async def body(self) -> AsyncGenerator[bytes, None]:
        """Yield the answer's body."""
        try:
            while (chunk := await self._response.get()) is not None:
                yield chunk
        except _Gone:
            raise self._content_error or AnswerCut() from None
        if self._content_error:
            raise self._content_error

    def leave(self) -> None:
        """Tell the app that nobody listens any more."""
        self._request.cut()
        self._response.cut()
        self._over.set()

    async def _receive(self) -> Message:
        if self._body_read:
            await self._over.wait()
            return {"type": "http.disconnect"}
        try:
            chunk = await self._request.get()
        except _Gone:
            return {"type": "http.disconnect"}
        self._body_read = chunk is None
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begin((message["status"], list(message.get("headers", ()))))
        elif message["type"] == "http.response.body":
            if message.get("body"):
                await self._response.put(bytes(message["body"]))
            if not message.get("more_body", False):
                self._complete = True
                self._response.end()
                self._over.set()

    def _begin(self, head: tuple[int, Headers] | None) -> None:
        if not self._head.done():
            self._head.set_result(head)


async def _pieces(content: Content) -> AsyncIterator[bytes]:
    if isinstance(content, bytes):
        yield content
    elif content is not None:
        async for chunk in content:
            yield chunk

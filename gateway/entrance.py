"""How does a call get from the server to the door, and its answer back? Both a chunk at a time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import bodies
from gateway.bodies import ClientGone
from gateway.door import Arrival, Door, pairs
from gateway.guard import header
from gateway.settings import Settings
from shared.post import Reply

PREFIXES = ("/v1/", "/health", "/.well-known/")
PASSED_OUT = frozenset(
    {
        "content-type", "content-length", "content-disposition", "content-language", "content-security-policy",
        "etag", "last-modified", "retry-after", "idempotency-replayed",
    }
)  # fmt: skip
"""Answer headers that callers see. A service can set no cookie and allow no other site."""
LONG = 1024 * 1024
"""Answers from this many bytes on are watched for a client that goes away."""


class Entrance:
    """Middleware: addresses of the API go through the door, all others to the pages behind it."""

    def __init__(self, app: ASGIApp, door: Door, settings: Settings) -> None:
        self._pages = app
        self._door = door
        self._cap = settings.max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._pages(scope, receive, send)
        elif scope["path"].startswith(PREFIXES):
            await self._serve(scope, receive, send)
        else:
            await self._page(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._door.open(_arrival(scope, receive)) as reply:
            headers = [(n, v) for n, v in pairs(reply.headers) if n.decode() in PASSED_OUT]
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            async with _watched(receive, reply) as gone:
                async for chunk in reply.aiter():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    if gone():
                        raise ClientGone
            await send({"type": "http.response.body", "body": b""})

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pages read and send forms; whatever else they do, they get no more bytes than a form has."""
        scope["habeas.route"] = "page"
        bodies.declared_length(header(scope, b"content-length"), self._cap)
        await self._pages(scope, bodies.counted(receive, self._cap), send)


def _arrival(scope: Scope, receive: Receive) -> Arrival:
    return Arrival(
        method=scope["method"],
        path=scope["path"],
        query=scope["query_string"],
        headers={name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
        receive=receive,
        client=scope["habeas.client"],
        labels=scope,
    )


@asynccontextmanager
async def _watched(receive: Receive, reply: Reply) -> AsyncIterator[Callable[[], bool]]:
    """Yield a question: has the client gone? Short answers are not worth the watch.

    A server swallows what is sent to nobody, and a package read into the void must not count as collected.
    """
    if int(reply.headers.get("content-length") or LONG) < LONG:
        yield lambda: False
        return
    watch = asyncio.create_task(_wait_until_gone(receive))
    try:
        yield watch.done
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

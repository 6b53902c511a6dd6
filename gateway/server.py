"""How does the public port listen? uvicorn, with the two things that it leaves to a proxy: short and prompt heads.

httptools keeps a request's head in memory until it ends, however long that takes and grows; the guard only sees the end.
"""

import asyncio
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 32 * 1024
HEAD_SECONDS = 15.0

_REFUSED = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class PromptProtocol(HttpToolsProtocol):
    """Closes a connection whose request line and headers are longer than `MAX_HEAD` or slower than `HEAD_SECONDS`."""

    head_seconds = HEAD_SECONDS
    _in_head = False
    _head = 0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        began_before = self._in_head
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head = self._head + len(data) if began_before else len(data)
        if self._head > MAX_HEAD:
            self.transport.write(_REFUSED)
            self.transport.close()

    def on_message_begin(self) -> None:
        self._in_head = True
        self._expect()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._settle()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()
        super().connection_lost(exc)

    def _expect(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(self.head_seconds, self.transport.close)

    def _settle(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def server_config(app: ASGIApp, *, host: str, port: int, **more: Any) -> uvicorn.Config:
    """Return how uvicorn serves the gateway.

    No access log: it would hold addresses and queries; the guard writes its own line. No proxy headers: the guard
    believes the trusted proxies of the settings, uvicorn would believe everybody on this machine.
    """
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=PromptProtocol,
        ws="none",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        **{"timeout_graceful_shutdown": 20, **more},
    )

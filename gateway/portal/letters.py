"""What would have been sent? The demo shows its letters on a page instead; outside the demo there is no such page."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from ipaddress import ip_address

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from gateway.portal.rendering import DOCUMENT_SECURITY, HEADERS, Renderer, Visit
from shared.problems import NotFound


@dataclass(frozen=True)
class Letter:
    """One letter of the demo's outbox, as its addressee would get it. `sent_at` is RFC 3339."""

    id: str
    to: str
    subject: str
    text: str
    sent_at: str
    html: str | None = None


Letters = Callable[[], Awaitable[Sequence[Letter]]]
"""Newest first."""


class NoSuchLetter(NotFound):
    """There is no such letter."""


class LettersPage:
    """Mounted by the demo alone, and answers only callers on this machine."""

    def __init__(self, letters: Letters, renderer: Renderer) -> None:
        self._letters = letters
        self._renderer = renderer

    async def page(self, visit: Visit) -> Response:
        return self._renderer.page("letters.html", visit, letters=await self._read(visit.request))

    async def json(self, visit: Visit) -> Response:
        return JSONResponse([asdict(letter) for letter in await self._read(visit.request)], headers=HEADERS)

    async def html(self, visit: Visit) -> Response:
        """Show one letter as its addressee's mail program would, without letting it do anything."""
        wanted = visit.request.path_params["letter"]
        found = [letter for letter in await self._read(visit.request) if letter.id == wanted and letter.html]
        if not found:
            raise NoSuchLetter
        return HTMLResponse(found[0].html, headers={**HEADERS, "content-security-policy": DOCUMENT_SECURITY})

    async def _read(self, request: Request) -> Sequence[Letter]:
        if request.client is None or not _is_loopback(request.client.host):
            raise NoSuchLetter
        return await self._letters()


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False

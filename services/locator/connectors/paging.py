"""Where is the next page? What the register declares, followed to its end, never in a circle.

A page shorter than asked for is not the last one: a server may give fewer than it was asked for. Only an empty page, a
missing cursor or a missing link ends the walk.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import msgspec

from services.locator.connectors.base import Code, Rejected
from services.locator.connectors.paths import first
from shared.register import Paging

MAX_PAGES = 10_000


@dataclass(frozen=True, slots=True)
class Page:
    """What an answer says about where it stands."""

    items: list[Any]
    content: Any
    link: str | None
    url: str


@dataclass(frozen=True, slots=True)
class Ask:
    """What the next request differs in: its parameters, or all of its URL."""

    parameters: Mapping[str, str]
    url: str | None = None


class Pager:
    """Walks through the pages of one search."""

    def __init__(self, paging: Paging, origin: str) -> None:
        """`origin` is a URL of the system: links that lead elsewhere are not followed."""
        self._paging = paging
        self._origin = _origin(origin)
        self._seen: set[bytes] = set()
        self._asked = 0
        # `start` is 1 unless set, which is where pages begin; offsets begin at 0.
        unset = paging.kind == "offset" and "start" not in paging.model_fields_set
        self._position = 0 if unset else paging.start

    def begin(self) -> Ask:
        """Return the first request."""
        if self._paging.kind in {"page", "offset"}:
            return self._at(self._position)
        return self._at(None)

    def follow(self, page: Page) -> Ask | None:
        """Return the request after `page`, or None at the end. Raises `Rejected` for a walk without an end."""
        self._asked += 1
        following = self._step(page)
        if following is not None and self._asked >= MAX_PAGES:
            raise Rejected(Code.TOO_MANY_PAGES)
        return following

    def _step(self, page: Page) -> Ask | None:
        match self._paging.kind:
            case "none":
                return None
            case "page":
                return self._counted(page, 1)
            case "offset":
                return self._counted(page, len(page.items))
            case "cursor":
                return self._cursor(page)
            case "link":
                return self._link(page)

    def _counted(self, page: Page, step: int) -> Ask | None:
        if not page.items:
            return None
        # A server that ignores the parameter gives the same page for ever.
        self._once(msgspec.json.encode(page.items))
        self._position += step
        return self._at(self._position)

    def _cursor(self, page: Page) -> Ask | None:
        cursor = first(self._paging.next or "$", page.content)
        if cursor is None or cursor == "" or cursor is False or isinstance(cursor, (dict, list)):
            return None
        self._once(str(cursor).encode())
        return self._at(cursor)

    def _link(self, page: Page) -> Ask | None:
        target = next_link(page.link)
        if target is None:
            return None
        url = urljoin(page.url, target)
        if _origin(url) != self._origin:
            raise Rejected(Code.REDIRECTED)
        self._once(url.encode())
        return Ask({}, url)

    def _at(self, place: object) -> Ask:
        parameters = {self._paging.size_parameter: str(self._paging.size)} if self._paging.size_parameter else {}
        if place is not None:
            parameters[self._paging.parameter] = str(place)
        return Ask(parameters)

    def _once(self, mark: bytes) -> None:
        digest = hashlib.blake2b(mark, digest_size=16).digest()
        if digest in self._seen:
            raise Rejected(Code.PAGING_LOOP)
        self._seen.add(digest)


_LINK = re.compile(r"<([^>]*)>([^<]*)")
_NEXT = re.compile(r';\s*rel\s*=\s*(?:"[^"]*\bnext\b[^"]*"|next\b)', re.IGNORECASE)


def next_link(header: str | None) -> str | None:
    """Return the target of `rel="next"` in a Link header (RFC 8288)."""
    for target, parameters in _LINK.findall(header or ""):
        if _NEXT.search(parameters):
            return str(target)
    return None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = None
    return parts.scheme, parts.hostname, port

"""How does a body come in? Of the right type, no longer and no deeper than allowed, and in time."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Literal

from starlette.types import Message, Receive

from shared.problems import Malformed, Problem, TooLarge, WrongType

BodyKind = Literal["none", "json", "stream"]

MAX_DEPTH = 32
DRAIN_BYTES = 1024 * 1024
DRAIN_SECONDS = 1.0

_TYPES: dict[str, re.Pattern[str]] = {
    "json": re.compile(r'application/json(?:\s*;\s*charset="?utf-8"?)?', re.IGNORECASE),
    "stream": re.compile(
        r"application/octet-stream|application/x-ndjson|multipart/form-data\s*;\s*boundary=[\x21-\x3a\x3c-\x7e]{1,100}",
        re.IGNORECASE,
    ),
}
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
"""A JSON string, closed or not: it always matches to its end, so a scan stays linear whatever is sent."""
_BRACKET = re.compile(rb"[][{}]")


class ClientGone(Exception):
    """The client closed the connection; nobody is left to tell."""


class TooSlow(Problem):
    """The body did not arrive in time."""

    status, title, code = 408, "Too slow", "too-slow"


class NoBodyHere(TooLarge):
    """This address takes no body."""


class BadText(Malformed):
    """The body is not UTF-8 text."""


class TooDeep(Malformed):
    """The body is nested too deeply."""

    code = "too-deep"


class BadLength(Malformed):
    """Content-Length is not a number."""


def check_type(kind: BodyKind, content_type: str) -> None:
    """Refuse any other content type than the one that this address takes.

    A browser sends `text/plain` or a form across sites without asking first; JSON it does not.
    """
    if not _TYPES[kind].fullmatch(content_type.strip()):
        raise WrongType


def declared_length(content_length: str, cap: int) -> int:
    """Return the announced length in bytes, 0 if none is announced; refuse more than `cap` before a byte is read."""
    if not content_length:
        return 0
    if not (content_length.isascii() and content_length.isdigit()):
        raise BadLength
    if len(content_length) > 15 or int(content_length) > cap:
        raise TooLarge
    return int(content_length)


async def chunks(receive: Receive, cap: int) -> AsyncIterator[bytes]:
    """Yield the body as it comes, counted: one byte above `cap` and it ends in `TooLarge`."""
    read, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece, more = message.get("body", b""), message.get("more_body", False)
        read += len(piece)
        if read > cap:
            raise TooLarge
        if piece:
            yield piece


async def whole(receive: Receive, cap: int, seconds: float) -> bytes:
    """Return a small body, at most `cap` bytes and within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            return b"".join([piece async for piece in chunks(receive, cap)])
    except TimeoutError:
        raise TooSlow from None


async def drain(receive: Receive) -> None:
    """Read away a little of a refused body: a client that is still sending would otherwise not see the answer."""
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in chunks(receive, DRAIN_BYTES):
                pass
    except (TimeoutError, TooLarge, ClientGone):
        return


def check_json(body: bytes) -> None:
    """Refuse what is not UTF-8 or is nested deeper than `MAX_DEPTH`, before any parser sees it."""
    try:
        body.decode()
    except UnicodeDecodeError:
        raise BadText from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and depth(body) > MAX_DEPTH:
        raise TooDeep


def depth(body: bytes) -> int:
    """Return how deeply brackets nest outside strings. Linear in the length of the body."""
    now = deepest = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", body)):
        now = now + 1 if bracket in b"[{" else max(0, now - 1)
        deepest = max(deepest, now)
    return deepest


def counted(receive: Receive, cap: int) -> Receive:
    """Return a `receive` that ends in `TooLarge` one byte above `cap`."""
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > cap:
            raise TooLarge
        return message

    return limited


def replay(body: bytes) -> Receive:
    """Return a `receive` that hands over a body which was read already."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive

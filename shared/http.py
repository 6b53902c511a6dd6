"""How does Habeas speak HTTP to others? The one door to `httpx`: to our own services, and out into the world.

`InternalClient` reaches addresses that the operator configured. `EgressClient` reaches systems, processors and
webhooks, whose addresses others may choose.
"""

import asyncio
import ipaddress
import logging
import re
import socket
import ssl
import sys
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib.util import find_spec
from inspect import isasyncgen
from typing import Any, Literal, Self

import httpx
import structlog
from ssrfguard import DEFAULT_DENIED, AddressTable, Block, Policy, Reach, SSRFGuardError
from ssrfguard.httpx import AsyncSafeTransport

from shared.problems import Unavailable

Headers = list[tuple[bytes, bytes]]

CONNECT_SECONDS = 5.0
WRITE_SECONDS = 60.0
ANSWER_SECONDS = 600.0
IDLE_SECONDS = 2.0
"""Connections rest shorter than any of our servers keeps them (5 s), so that none is reused while it closes."""
CONNECTIONS = 200

log = structlog.get_logger()

if find_spec("sniffio") is None:
    # httpcore tries to import it eight times a request, and not finding it costs a millisecond: say so once.
    sys.modules["sniffio"] = None  # type: ignore[assignment]


class NotReached(Unavailable):
    """A part of this installation does not answer right now: try again later."""

    code = "not-reached"


class ServiceFailed(Unavailable):
    """A part of this installation failed: try again later."""

    code = "service-failed"


class AnswerCut(Unavailable):
    """A part of this installation broke off in the middle of its answer: try again later."""

    code = "answer-cut"


@dataclass(frozen=True)
class Answer:
    """An answer whose body is still on its way, as it came over the wire."""

    status: int
    headers: Headers
    body: AsyncIterator[bytes]


class InternalClient:
    """Calls our own services over HTTP: bodies stream both ways, nothing is followed, decoded or kept."""

    def __init__(self, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        """`answer_seconds` is the longest silence before and within an answer."""
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(answer_seconds, connect=CONNECT_SECONDS, write=WRITE_SECONDS),
            limits=httpx.Limits(max_connections=CONNECTIONS, keepalive_expiry=IDLE_SECONDS),
            verify=_tls(None),
            follow_redirects=False,
            trust_env=False,
        )

    @asynccontextmanager
    async def stream(
        self, method: str, base_url: str, target: bytes, headers: Headers, content: AsyncIterator[bytes] | bytes | None
    ) -> AsyncIterator[Answer]:
        """Send a request and yield its answer. `target` is the encoded path and query.

        Raises `NotReached` before the answer begins and `AnswerCut` from its body; an error of `content` as it is.
        """
        url = httpx.URL(base_url).copy_with(raw_path=target)
        request = httpx.Request(method, url, headers=headers, content=content)
        try:
            async with self._send(request) as response:
                body = _raw_body(response)
                try:
                    yield Answer(response.status_code, response.headers.raw, body)
                finally:
                    await body.aclose()
        finally:
            if isasyncgen(content):
                await content.aclose()

    @asynccontextmanager
    async def _send(self, request: httpx.Request) -> AsyncIterator[httpx.Response]:
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            log.warning("service not reached", host=request.url.host, port=request.url.port, error=type(error).__name__)
            raise NotReached from None
        try:
            yield response
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()


@lru_cache(16)
def _tls(ca_file: str | None) -> ssl.SSLContext:
    """Return what decides whom we trust; made once, since reading the authorities takes 20 ms and more."""
    return ssl.create_default_context(cafile=ca_file) if ca_file else httpx.create_ssl_context(trust_env=False)


async def _raw_body(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    except httpx.TransportError:
        raise AnswerCut from None


# --- out into the world --------------------------------------------------------------------------------------------

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[..., Iterable[tuple[int, int, int, str, tuple[Any, ...]]]]
"""The shape of `socket.getaddrinfo`. Whatever it returns is checked before anything is connected."""

BODY_LIMIT = 16 << 20
ANY_PORT = frozenset(range(1, 1 << 16))
_PIECE = 1 << 16
_HOST = re.compile(rb"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")
_NEVER = tuple(ipaddress.ip_network(text) for text in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128"))
"""Where clouds keep the keys of the machine: no rule opens these."""


class EgressCode(StrEnum):
    """Why there was no usable answer. Enumerated, so that no URL or value gets into a log or a row."""

    REFUSED = "address-refused"
    UNRESOLVED = "name-not-found"
    NOT_REACHED = "not-reached"
    TLS = "tls-failed"
    TIMEOUT = "timeout"
    REDIRECTED = "redirected"
    TOO_LARGE = "answer-too-large"
    BROKEN = "answer-broken"


_PASSING = frozenset({EgressCode.UNRESOLVED, EgressCode.NOT_REACHED, EgressCode.TIMEOUT, EgressCode.BROKEN})


class EgressFailed(Exception):
    """A system outside did not answer as it must. `str()` is the code and nothing else."""

    def __init__(self, code: EgressCode) -> None:
        super().__init__(code.value)
        self.code = code

    @property
    def passing(self) -> bool:
        """Whether it may go better another time without anybody changing anything."""
        return self.code in _PASSING


@dataclass(frozen=True)
class EgressRule:
    """What one system, processor or webhook may be reached at, for how long, and how much it may say.

    Without `networks` only public addresses over TLS. `networks` (CIDR) opens private ones too, and there, only there,
    plain HTTP. A name must resolve to allowed addresses only, so `localhost` needs 127.0.0.1/32 and ::1/128.
    """

    hosts: frozenset[str] | None = None
    """Exact names or addresses; None is any."""
    ports: frozenset[int] = frozenset({443})
    networks: tuple[str, ...] = ()
    connect_seconds: float = 5.0
    read_seconds: float = 30.0
    """Longest silence."""
    total_seconds: float = 60.0
    """From the request to the end of the answer; a call may say otherwise."""
    max_bytes: int = BODY_LIMIT
    """Of the answer's body, as sent and as unpacked; a call may say otherwise."""
    ca_file: str | None = None
    """PEM of certificate authorities to trust instead of the public ones."""

    def __post_init__(self) -> None:
        for network in self.parsed_networks:
            if any(network.version == never.version and network.overlaps(never) for never in _NEVER):
                raise ValueError("networks must not contain link-local addresses or a cloud's metadata service")

    @classmethod
    def for_url(cls, url: str, **rule: Any) -> Self:
        """Return a rule for the host and port of `url` alone. Raises `ValueError` if it has none."""
        parsed = _parse(url)
        if parsed is None:
            raise ValueError("must be an https or http URL with a host and without a password")
        return cls(hosts=frozenset({_host(parsed)}), ports=frozenset({_port(parsed)}), **rule)

    @property
    def parsed_networks(self) -> tuple[Network, ...]:
        """`networks` as objects. Raises `ValueError` if one is no CIDR."""
        return tuple(ipaddress.ip_network(text) for text in self.networks)

    def admits(self, url: str) -> bool:
        """Whether scheme, host and port of `url` are allowed; its address is checked when it is known."""
        parsed = _parse(url)
        return parsed is not None and self._admits(parsed)

    def _admits(self, url: httpx.URL) -> bool:
        hosts = {_host(httpx.URL(scheme="https", host=name)) for name in self.hosts or ()}
        host_allowed = self.hosts is None or _host(url) in hosts
        scheme_allowed = url.scheme == "https" or (url.scheme == "http" and bool(self.networks))
        return host_allowed and scheme_allowed and _port(url) in self.ports


class EgressReply:
    """An answer from outside whose body is still on its way; read it once, inside the `async with`."""

    def __init__(self, status: int, headers: Mapping[str, str], body: AsyncIterator[bytes]) -> None:
        self.status = status
        self.headers = headers
        """Lower-case names; several of one name are joined by commas."""
        self._body = body

    def aiter(self) -> AsyncIterator[bytes]:
        """Yield the unpacked body as it comes, up to the limit. Raises `EgressFailed`."""
        return self._body

    async def read(self) -> bytes:
        """Return the whole unpacked body. Raises `EgressFailed`."""
        return b"".join([piece async for piece in self._body])


class EgressClient:
    """Speaks to one outside party under one rule: resolved once, checked, and connected to what was checked.

    Never follows a redirect, uses a proxy or a netrc file, keeps a cookie, or logs a URL.
    """

    def __init__(
        self,
        rule: EgressRule,
        *,
        resolver: Resolver = socket.getaddrinfo,
        guard: Literal["ssrfguard", "own"] = "ssrfguard",
    ) -> None:
        """`guard` chooses who resolves and pins: the library, or the fallback below under the same contract."""
        self.rule = rule
        make: Callable[..., httpx.AsyncBaseTransport] = _library_guard if guard == "ssrfguard" else _PinnedTransport
        lookup, tls = _Lookup(resolver, rule.connect_seconds), _tls(rule.ca_file)
        self._client = httpx.AsyncClient(
            transport=make(rule, lookup, tls, public=True),
            mounts={"http://": make(rule, lookup, tls, public=False)},
            timeout=httpx.Timeout(rule.read_seconds, connect=rule.connect_seconds),
            follow_redirects=False,
            trust_env=False,
        )

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        total_seconds: float | None = None,
        max_bytes: int | None = None,
    ) -> AsyncIterator[EgressReply]:
        """Send a request and yield its answer, whatever its status but a redirect. Raises `EgressFailed`."""
        deadline = asyncio.get_running_loop().time() + (total_seconds or self.rule.total_seconds)
        request = self._request(method, url, params, headers, content)
        response = await self._answer(request, deadline)
        body = _unpacked(response, deadline, max_bytes or self.rule.max_bytes)
        try:
            if response.has_redirect_location:
                raise EgressFailed(EgressCode.REDIRECTED)
            yield EgressReply(response.status_code, dict(response.headers), body)
        finally:
            await body.aclose()
            await response.aclose()

    async def request(self, method: str, url: str, **options: Any) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and the whole body; `options` as for `stream`. Raises `EgressFailed`."""
        async with self.stream(method, url, **options) as reply:
            return reply.status, reply.headers, await reply.read()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    def _request(
        self,
        method: str,
        url: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        content: bytes | None,
    ) -> httpx.Request:
        parsed = _parse(url)
        if parsed is None or not self.rule._admits(parsed):  # noqa: SLF001 - the two are one door
            raise EgressFailed(EgressCode.REFUSED)
        if params:
            parsed = parsed.copy_merge_params(dict(params))
        standard = {"user-agent": "Habeas", "accept-encoding": "gzip"}
        return httpx.Request(method, parsed, headers={**standard, **(headers or {})}, content=content)

    async def _answer(self, request: httpx.Request, deadline: float) -> httpx.Response:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._client.send(request, stream=True)
        except (httpx.HTTPError, SSRFGuardError, TimeoutError, OSError) as error:
            code = _code(error)
        # Raised here and not there: even `from None` would keep the library's error, and the URL in it, as context.
        raise EgressFailed(code)


def _parse(url: str) -> httpx.URL | None:
    """Return the URL if it is http(s), absolute and without a password; the host in its ASCII form."""
    try:
        parsed = httpx.URL(url)
        usable = parsed.scheme in {"https", "http"} and _HOST.fullmatch(parsed.raw_host) and not parsed.userinfo
        return parsed.copy_with(host=_host(parsed), fragment=None) if usable else None
    except (httpx.InvalidURL, UnicodeError, ValueError):
        return None


def _host(url: httpx.URL) -> str:
    """Return the host as the resolver will see it."""
    return url.raw_host.decode().lower().rstrip(".")


def _port(url: httpx.URL) -> int:
    return url.port or {"https": 443, "http": 80}[url.scheme]


def _code(error: BaseException) -> EgressCode:
    """Say what went wrong by the kinds of errors alone, the cause of the cause included."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for kinds, code in _CODES:
        if any(isinstance(link, kinds) for link in chain):
            return code
    return EgressCode.NOT_REACHED


# --- bodies from outside -------------------------------------------------------------------------------------------


async def _unpacked(response: httpx.Response, deadline: float, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield the body, unpacked a piece at a time: a bomb goes off against the limit, not in memory."""
    unpack = _unpacker(response.headers.get("content-encoding", "identity"))
    size = 0
    async for raw in _raw_until(response, deadline, limit):
        for piece in unpack.feed(raw):
            size += len(piece)
            if size > limit:
                raise EgressFailed(EgressCode.TOO_LARGE)
            yield piece
    unpack.finish()


async def _raw_until(response: httpx.Response, deadline: float, limit: int) -> AsyncIterator[bytes]:
    chunks, size = response.aiter_raw(), 0
    while (chunk := await _next(chunks, deadline)) is not None:
        size += len(chunk)
        if size > limit:
            raise EgressFailed(EgressCode.TOO_LARGE)
        yield chunk


async def _next(chunks: AsyncIterator[bytes], deadline: float) -> bytes | None:
    try:
        async with asyncio.timeout_at(deadline):
            return await anext(chunks, None)
    except (httpx.HTTPError, TimeoutError, OSError) as error:
        code = _code(error)
    raise EgressFailed(code)


class _Plain:
    """A body that is what it says."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self) -> None:
        pass


class _Gzip:
    """A packed body (RFC 1952), unpacked in pieces of bounded size."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._begun = more = True
        while more:
            try:
                piece = self._inflate.decompress(data, _PIECE)
            except zlib.error:
                raise EgressFailed(EgressCode.BROKEN) from None
            if self._inflate.unused_data:
                raise EgressFailed(EgressCode.BROKEN)
            yield piece
            data = self._inflate.unconsumed_tail
            # A full piece may have more behind it that needs no more input.
            more = bool(data) or len(piece) == _PIECE

    def finish(self) -> None:
        if self._begun and not self._inflate.eof:
            raise EgressFailed(EgressCode.BROKEN)


def _unpacker(encoding: str) -> _Plain | _Gzip:
    kinds: dict[str, type[_Plain | _Gzip]] = {"identity": _Plain, "": _Plain, "gzip": _Gzip, "x-gzip": _Gzip}
    kind = kinds.get(encoding.strip().lower())
    if kind is None:
        raise EgressFailed(EgressCode.BROKEN)
    return kind()


# --- who may be connected to ---------------------------------------------------------------------------------------


_LOOKUPS = ThreadPoolExecutor(32, "lookup")


class _Lookup:
    """A resolver that gives up: the platform's own has no time limit. Blocking."""

    def __init__(self, resolver: Resolver, seconds: float) -> None:
        self._resolver, self._seconds = resolver, seconds

    def __call__(self, *question: Any) -> list[tuple[int, int, int, str, tuple[Any, ...]]]:
        answer = _LOOKUPS.submit(lambda: list(self._resolver(*question)))
        try:
            return answer.result(self._seconds)
        except TimeoutError:
            raise socket.gaierror(socket.EAI_AGAIN, "timed out") from None


def _library_guard(rule: EgressRule, lookup: _Lookup, tls: ssl.SSLContext, *, public: bool) -> httpx.AsyncBaseTransport:
    everything = AddressTable(tuple(Block(net, "all", "", Reach.DENIED) for net in _ALL))
    policy = Policy(
        denied_networks=DEFAULT_DENIED if public else everything,
        allowed_networks=rule.parsed_networks,
        allowed_ports=rule.ports,
    )
    return AsyncSafeTransport(policy=policy, resolver=lookup, verify=tls, trust_env=False)


class _Refused(OSError):
    """The address is not allowed."""


_CODES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], EgressCode], ...] = (
    ((SSRFGuardError, _Refused), EgressCode.REFUSED),
    (httpx.LocalProtocolError, EgressCode.REFUSED),
    (socket.gaierror, EgressCode.UNRESOLVED),
    (ssl.SSLError, EgressCode.TLS),
    ((httpx.TimeoutException, TimeoutError), EgressCode.TIMEOUT),
    ((httpx.ConnectError, httpx.WriteError), EgressCode.NOT_REACHED),
    ((httpx.RemoteProtocolError, httpx.ReadError), EgressCode.BROKEN),
)


class _PinnedTransport(httpx.AsyncBaseTransport):
    """The fallback: resolves, checks every address, and connects to the first that answers, by number.

    TLS still checks the name. Connections are not kept: one opened for a name must not serve another on its address.
    """

    def __init__(self, rule: EgressRule, lookup: _Lookup, tls: ssl.SSLContext, *, public: bool) -> None:
        self._networks, self._public, self._lookup = rule.parsed_networks, public, lookup
        limits = httpx.Limits(max_keepalive_connections=0)
        self._inner = httpx.AsyncHTTPTransport(verify=tls, limits=limits, trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.raw_host.decode()
        addresses = await asyncio.to_thread(self._addresses, host, _port(request.url))
        extensions = {**request.extensions, "sni_hostname": host}
        for left, address in zip(range(len(addresses) - 1, -1, -1), addresses, strict=True):
            url = request.url.copy_with(host=str(address))
            pinned = httpx.Request(
                request.method, url, headers=request.headers, stream=request.stream, extensions=extensions
            )
            try:
                return await self._inner.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if not left:
                    raise
        raise _Refused

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _addresses(self, host: str, port: int) -> list[Address]:
        answers = self._lookup(host, port, 0, socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(ipaddress.ip_address(answer[4][0]) for answer in answers))
        if not all(self._allows(address) for address in addresses):
            raise _Refused
        return addresses[:_ATTEMPTS]

    def _allows(self, address: Address) -> bool:
        return any(address in network for network in self._networks) or (self._public and _is_public(address))


def _is_public(address: Address) -> bool:
    """Whether packets to it leave for the internet and nowhere else: no private, mapped or translated address."""
    inside = _UNICAST if address.version == 6 else _ALL[0]
    translated = any(address in network for network in _TRANSLATED)
    return address in inside and address.is_global and not address.is_multicast and not translated


_ATTEMPTS = 4
_ALL: tuple[Network, ...] = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
_UNICAST = ipaddress.ip_network("2000::/3")
_TRANSLATED = tuple(ipaddress.ip_network(text) for text in ("2001::/32", "2002::/16", "192.88.99.0/24"))
"""Teredo, 6to4 and its relays: an IPv4 address hides inside."""


# --- silence -------------------------------------------------------------------------------------------------------


def _keep_quiet() -> None:
    """Requests are never logged below us: their URLs and headers may hold identifiers and keys."""
    names = ("httpx", *(f"httpcore.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")))
    for name in names:
        logging.getLogger(name).addFilter(lambda _: False)


_keep_quiet()

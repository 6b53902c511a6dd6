"""Is this request well enough formed to be looked at? Caps and checks before anything is parsed, headers after.

Everything here is pure ASGI: it runs for every request of every kind, and nothing behind it sees a request that
failed. The door answers to `scope["path"]` alone, never to a URL that was rebuilt from the Host header.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.bodies import ClientGone, drain
from gateway.settings import Settings
from shared.ids import new_id
from shared.problems import Malformed, NotFound, Problem, TooLarge

log = structlog.get_logger()

CLIENT: ContextVar[str] = ContextVar("client", default="unknown")
"""Whom the call under way counts for, for pages that call the door on somebody's behalf."""
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
MAX_HEADERS = 64
MAX_HEADER_BYTES = 16 * 1024
MAX_PATH_BYTES = 1024
MAX_QUERY_BYTES = 1024

_CHOSEN = frozenset({b"content-security-policy", b"referrer-policy", b"cache-control"})
"""Headers in which an answer has a say, within bounds."""
_PATH = re.compile(rb"(?:/[A-Za-z0-9._~@+:-]*)+")
"""No percent sign at all: no address of ours needs one, so nothing can mean one thing here and another there."""
_HOST = re.compile(r"([a-z0-9.-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::\d{1,5})?")
_ONCE = frozenset(
    {b"host", b"content-length", b"content-type", b"authorization", b"cookie", b"origin", b"transfer-encoding"}
)
_SOURCES = re.compile(r"(?:'(?:none|self|sha256-[A-Za-z0-9+/]{43}=)'(?: |$))+")
_NEEDED = {"default-src": "'none'", "base-uri": "'none'"}

CSP = (
    b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
}


class HeadersTooLarge(Problem):
    """The request has too many or too long headers."""

    status, title, code = 431, "Headers too large", "headers-too-large"


class Misdirected(Problem):
    """This door does not answer under that host name."""

    status, title, code = 421, "Misdirected request", "misdirected"


class BadPath(NotFound):
    """There is no such thing here."""


class LongAddress(Problem):
    """The address is too long."""

    status, title, code = 414, "Address too long", "address-too-long"


class BadHeaders(Malformed):
    """A header is repeated or contradicts another."""


class Guard:
    """Outermost middleware: refuses what is malformed, answers every problem, and puts the headers on."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = settings.allowed_hosts
        self._proxies = settings.trusted_proxies
        self._fixed = dict(HEADERS)
        if settings.secure:
            self._fixed[b"strict-transport-security"] = b"max-age=63072000; includeSubDomains"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        scope["habeas.request_id"] = new_id()
        answer = Answer(send, self._fixed, scope["habeas.request_id"])
        try:
            check_headers(scope["headers"])
            check_host(header(scope, b"host"), self._hosts)
            check_path(scope)
            scope["habeas.client"] = client_address(scope, self._proxies)
            CLIENT.set(scope["habeas.client"])
            await self._app(scope, receive, answer.send)
        except Problem as problem:
            await answer.refuse(problem, receive)
        except ClientGone:
            answer.status = 499
        except Exception as error:  # noqa: BLE001 — the edge: told by type only, a text may quote a person
            log.warning("gateway.failed", error=type(error).__name__, request_id=scope["habeas.request_id"])
            await answer.refuse(Problem(), receive)
        _log(scope, answer.status, began)


class Answer:
    """One answer on its way out."""

    def __init__(self, send: Send, fixed: dict[bytes, bytes], request_id: str) -> None:
        self._send = send
        self._fixed = fixed
        self._request_id = request_id.encode()
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": self._headers(message.get("headers", ()))}
        await self._send(message)

    async def refuse(self, problem: Problem, receive: Receive) -> None:
        """Answer with a problem document, unless an answer has begun: then stop, so that the client sees it cut."""
        if self.status:
            return
        if isinstance(problem, TooLarge):
            await drain(receive)
        body = problem_bytes(problem)
        headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
        headers += problem_headers(problem)
        await self.send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _headers(self, given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        kept = {name.lower(): value for name, value in given if name.lower() in _CHOSEN}
        own = {**self._fixed, b"habeas-request-id": self._request_id, b"cache-control": b"no-store"}
        own[b"content-security-policy"] = content_policy(kept.get(b"content-security-policy", b""))
        # Pages need their own origin in the Origin of their forms; `no-referrer` would make it `null` (Fetch §3.2).
        own[b"referrer-policy"] = b"same-origin" if kept.get(b"referrer-policy") == b"same-origin" else b"no-referrer"
        if b"immutable" in kept.get(b"cache-control", b""):
            own[b"cache-control"] = kept[b"cache-control"]
        return [*((name, value) for name, value in given if name.lower() not in own), *own.items()]


def header(scope: Scope, name: bytes) -> str:
    """Return the one value of a header, or an empty string. `name` is in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return ""


def check_headers(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Refuse too many headers, and repeated ones of those that decide something."""
    if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
        raise HeadersTooLarge
    seen = Counter(name for name, _ in headers if name in _ONCE)
    if any(count > 1 for count in seen.values()) or (seen[b"content-length"] and seen[b"transfer-encoding"]):
        raise BadHeaders


def check_host(host: str, allowed: frozenset[str]) -> None:
    """Refuse a Host that is not ours (attacks.md: a poisoned Host must reach nothing)."""
    found = _HOST.fullmatch(host.lower())
    if found is None or found[1].strip("[]") not in allowed:
        raise Misdirected


def check_path(scope: Scope) -> None:
    """Refuse every path that two readers could understand differently: encoded, dotted, doubled or oversize."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    if len(raw) > MAX_PATH_BYTES or len(scope["query_string"]) > MAX_QUERY_BYTES:
        raise LongAddress
    plain = _PATH.fullmatch(raw) and raw == scope["path"].encode()
    if not plain or b"//" in raw or {b".", b".."} & set(raw.split(b"/")):
        raise BadPath


def client_address(scope: Scope, proxies: Sequence[IPv4Network | IPv6Network]) -> str:
    """Return whom to count: the peer, or what a trusted proxy says of it. IPv6 counts by /64, one household or host.

    X-Forwarded-For is read from the right; the first address that is no trusted proxy is the client.
    """
    peer = (scope.get("client") or ("", 0))[0]
    chain = [part.strip() for part in header(scope, b"x-forwarded-for").split(",") if part.strip()]
    while chain and _within(peer, proxies):
        peer = chain.pop()
    return _counted_as(peer)


def _within(address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    try:
        return any(ip_address(address) in network for network in networks)
    except ValueError:
        return False


def _counted_as(address: str) -> str:
    try:
        found = ip_address(address)
    except ValueError:
        return "unknown"
    if not isinstance(found, IPv6Address):
        return str(found)
    return str(found.ipv4_mapped or IPv6Network((int(found) >> 64 << 64, 64)))


def content_policy(given: bytes) -> bytes:
    """Return the Content-Security-Policy for an answer: the one from behind if it is as strict as ours, else ours.

    `frame-ancestors` is added, because a page that carries its policy in itself cannot state it (CSP Level 3 §6.4.2).
    """
    parts = [part.strip().partition(" ") for part in given.decode("latin-1").split(";")]
    rules = {name: value for name, _, value in parts}
    strict = len(rules) == len(parts) and _NEEDED.items() <= rules.items() and "form-action" in rules
    if not strict or not all(_is_tame(name, rules) for name in rules):
        return CSP
    return given if "frame-ancestors" in rules else given + b"; frame-ancestors 'none'"


def _is_tame(name: str, rules: Mapping[str, str]) -> bool:
    """Whether a rule allows nothing but ourselves and what is named by its hash."""
    if name == "frame-ancestors":
        return rules[name] == "'none'"
    return name == "sandbox" or _SOURCES.fullmatch(rules[name]) is not None or _styles_itself(name, rules)


def _styles_itself(name: str, rules: Mapping[str, str]) -> bool:
    """Whether a rule may be loose: inline style and images of a document in a sandbox, without script or our origin."""
    if "sandbox" not in rules or "script-src" in rules:
        return False
    boxed = not {"allow-scripts", "allow-same-origin"} & set(rules["sandbox"].split())
    return boxed and rules.get(name) in {"'unsafe-inline'", "data:"} and name in {"style-src", "img-src"}


def problem_bytes(problem: Problem) -> bytes:
    """Return the document of RFC 9457 as it goes out."""
    return json.dumps(problem.document(), ensure_ascii=False, separators=(",", ":")).encode()


def problem_headers(problem: Problem) -> list[tuple[bytes, bytes]]:
    """Return the headers that belong to a status: Allow, Retry-After, WWW-Authenticate (RFC 9110 §10, §11)."""
    headers = []
    if problem.retry_after is not None:
        headers.append((b"retry-after", str(problem.retry_after).encode()))
    if problem.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="habeas"'))
    if problem.status in {408, 413}:
        headers.append((b"connection", b"close"))
    allow = getattr(problem, "allow", None)
    if allow:
        headers.append((b"allow", ", ".join(sorted(allow)).encode()))
    return headers


def _log(scope: Scope, status: int, began: float) -> None:
    """One line a request: the template, never the address, which may hold a reference or a link's secret."""
    log.info(
        "gateway.request",
        route=scope.get("habeas.route", "none"),
        method=scope["method"] if scope["method"] in METHODS else "other",
        status=status,
        milliseconds=round((time.perf_counter() - began) * 1000, 1),
        request_id=scope["habeas.request_id"],
    )

"""What goes out reaches only what its rule allows, comes back in time and in measure, and says why not in one word.

Every test runs against both guards: the library, and our own fallback. Nothing leaves the loopback.
"""

import asyncio
import gzip
import ipaddress
import json
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
from cryptography.x509 import DNSName

from shared.http import EgressClient, EgressCode, EgressFailed, EgressRule, Resolver
from tests.support.certificates import self_signed

Guard = Literal["ssrfguard", "own"]
HERE = ("127.0.0.1/32", "::1/128")
SECRET = "Søren.Østergård"


@pytest.fixture(params=["ssrfguard", "own"])
def guard(request: pytest.FixtureRequest) -> Guard:
    kind: Guard = request.param
    return kind


# --- a server with bad manners -------------------------------------------------------------------------------------


@lru_cache
def bomb() -> bytes:
    """Return 160 kB that unpack to 160 MB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(160)) + packer.flush()


def plain(body: bytes, extra: str = "", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{extra}\r\n".encode() + body


def packed(body: bytes, encoding: str = "gzip") -> bytes:
    return plain(body, f"content-encoding: {encoding}\r\n")


ANSWERS: dict[str, Callable[[], bytes]] = {
    "/ok": lambda: plain(b"hello"),
    "/danish": lambda: packed(gzip.compress("æøå".encode() * 100_000)),
    "/empty-packed": lambda: packed(b""),
    "/error": lambda: plain(b"no", status="500 Oh"),
    "/redirect": lambda: plain(b"", "location: http://169.254.169.254/latest\r\n", "302 Found"),
    "/redirect-here": lambda: plain(b"", "location: /ok\r\n", "307 Again"),
    "/redirect-broken": lambda: plain(b"", "location: http://[\r\n", "301 Gone"),
    "/cookie": lambda: plain(b"", "set-cookie: a=1\r\n"),
    "/bomb": lambda: packed(bomb()),
    "/not-packed": lambda: packed(b"x" * 1000),
    "/cut-pack": lambda: packed(gzip.compress(b"x" * 100_000)[:-20]),
    "/two-packs": lambda: packed(gzip.compress(b"x") * 2),
    "/brotli": lambda: packed(b"x", "br"),
    "/twice": lambda: packed(gzip.compress(gzip.compress(b"x")), "gzip, gzip"),
    "/large": lambda: plain(b"x" * 2_000_000),
    "/cut": lambda: plain(b"x" * 1000).replace(b"1000", b"2000"),
    "/not-http": lambda: b"SSH-2.0-OpenSSH_9.2\r\n",
    "/nothing": lambda: b"",
    "/bad-header": lambda: b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
}


@dataclass
class Hostile:
    """Answers each path as `ANSWERS` says; some paths never end."""

    port: int = 0
    connections: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer.get_extra_info("sockname")[0])
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.requests.append(head)
            await self.answer(head.split(" ")[1].split("?")[0], writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/silent":
            await asyncio.sleep(30)
        elif path == "/drip":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
            await self.forever(writer, b"x", 0.05)
        elif path == "/drip-head":
            writer.write(b"HTTP/1.1 200 OK\r\n")
            await self.forever(writer, b"x-more: x\r\n", 0.05)
        elif path == "/endless":
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
            await self.forever(writer, b"x" * 65_536, 0)
        elif path == "/endless-head":
            writer.write(b"HTTP/1.1 200 OK\r\n")
            await self.forever(writer, b"x-more: " + b"x" * 65_536 + b"\r\n", 0)
        else:
            writer.write(ANSWERS[path]())
            await writer.drain()

    async def forever(self, writer: asyncio.StreamWriter, data: bytes, pause: float) -> None:
        while True:
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(pause)

    def rule(self, **changes: Any) -> EgressRule:
        given: dict[str, Any] = {"ports": frozenset({self.port}), "networks": HERE, "read_seconds": 2.0}
        return EgressRule(**(given | changes))

    def url(self, path: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Hostile]:
    hostile = Hostile()
    listening = await asyncio.start_server(hostile.handle, ["127.0.0.1", "::1"], 0)
    hostile.port = listening.sockets[0].getsockname()[1]
    listening.close()
    names = ["127.0.0.1", "127.0.0.2", "::1"]
    servers = [await asyncio.start_server(hostile.handle, name, hostile.port) for name in names]
    yield hostile
    for running in servers:
        running.close()


@pytest.fixture
def hostile(server: Hostile) -> Hostile:
    server.connections.clear()
    server.requests.clear()
    return server


@asynccontextmanager
async def client(
    rule: EgressRule, guard: Guard, resolver: Resolver = socket.getaddrinfo
) -> AsyncIterator[EgressClient]:
    made = EgressClient(rule, guard=guard, resolver=resolver)
    try:
        yield made
    finally:
        await made.aclose()


async def failing(rule: EgressRule, guard: Guard, url: str, **options: Any) -> EgressFailed:
    """Return the failure of a request, which tells its code and nothing more."""
    resolver = options.pop("resolver", socket.getaddrinfo)
    async with client(rule, guard, resolver) as made:
        with pytest.raises(EgressFailed) as caught:
            await made.request("GET", url, **options)
    error = caught.value
    assert str(error) == error.code.value
    assert error.args == (error.code.value,)
    assert error.__cause__ is None
    assert isinstance(error.__context__, zlib.error | None)
    return error


# --- where it may go -----------------------------------------------------------------------------------------------

HOSTS = [
    "127.0.0.1",
    "localhost",
    "2130706433",
    "0x7f.1",
    "0177.0.0.1",
    "127.1",
    "①②⑦.⓪.⓪.①",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[fd00::1]",
    "[fe80::1]",
    "[ff02::1]",
    "[fd00:ec2::254]",
    "169.254.169.254",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
]


@pytest.mark.parametrize("host", HOSTS)
async def test_an_address_inside_is_refused_without_touching_it(hostile: Hostile, guard: Guard, host: str) -> None:
    rule = EgressRule(ports=frozenset({hostile.port}))
    error = await failing(rule, guard, hostile.url("/ok", host, "https"))
    assert error.code is EgressCode.REFUSED
    assert not error.passing
    assert hostile.connections == []


@pytest.mark.parametrize("host", [host for host in HOSTS if host != "172.16.0.1"])
async def test_a_rule_for_one_network_opens_no_other(hostile: Hostile, guard: Guard, host: str) -> None:
    rule = EgressRule(ports=frozenset({hostile.port}), networks=("172.16.0.0/12",))
    assert (await failing(rule, guard, hostile.url("/ok", host))).code is EgressCode.REFUSED
    assert hostile.connections == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.dk/",
        "http://93.184.216.34/",
        "ftp://example.dk/",
        "file:///etc/passwd",
        "gopher://example.dk/",
        "//example.dk/",
        "/ok",
        "",
        "https://",
        "https:///ok",
        "https://user:password@example.dk/",
        "https://example.dk:22/",
        "https://example.dk:99999/",
        "https://[::1/",
        "https://exa mple.dk/",
        "https://example.dk\r\nhost: evil/",
        "https://xn--\ud800/",
        "not a url",
    ],
)
async def test_other_schemes_ports_and_shapes_are_refused_before_any_lookup(guard: Guard, url: str) -> None:
    def resolver(*_: Any) -> Any:
        raise AssertionError("nothing is looked up")

    assert (await failing(EgressRule(), guard, url, resolver=resolver)).code is EgressCode.REFUSED


async def test_plain_http_reaches_allowed_networks_only(guard: Guard) -> None:
    rule = EgressRule(ports=frozenset({80}), networks=("10.0.0.0/8",))
    names = {"public.example": ["93.184.216.34"]}
    assert (await failing(rule, guard, "http://public.example/", resolver=lookup(names))).code is EgressCode.REFUSED


async def test_only_the_hosts_of_the_rule_are_reached(hostile: Hostile, guard: Guard) -> None:
    rule = hostile.rule(hosts=frozenset({"127.0.0.1", "BÜCHER.example", "::1"}))
    async with client(rule, guard, lookup({"xn--bcher-kva.example": ["127.0.0.1"], "::1": ["::1"]})) as made:
        for host in ("127.0.0.1", "bücher.example.", "xn--bcher-kva.EXAMPLE", "[::1]"):
            assert (await made.request("GET", hostile.url("/ok", host)))[0] == 200
    assert (await failing(rule, guard, hostile.url("/ok", "localhost"))).code is EgressCode.REFUSED


async def test_a_rule_for_a_url_opens_its_host_and_port_alone(hostile: Hostile, guard: Guard) -> None:
    rule = EgressRule.for_url(hostile.url("/base"), networks=HERE)
    async with client(rule, guard) as made:
        assert await made.request("GET", hostile.url("/ok")) == (200, {"content-length": "5"}, b"hello")
    for url in (hostile.url("/ok", "localhost"), "http://127.0.0.1:9/ok"):
        assert (await failing(rule, guard, url)).code is EgressCode.REFUSED
    assert EgressRule.for_url("https://API.Example.dk/x") == EgressRule(hosts=frozenset({"api.example.dk"}))


@pytest.mark.parametrize("url", ["", "ftp://x", "https://a:b@x", "nonsense"])
def test_there_is_no_rule_for_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError, match="must be an https"):
        EgressRule.for_url(url)


@pytest.mark.parametrize(
    "network", ["169.254.169.254/32", "0.0.0.0/0", "::/0", "fe80::/64", "fd00::/8", "nonsense", "10.0.0.1/8"]
)
def test_no_rule_opens_the_metadata_service(network: str) -> None:
    with pytest.raises(ValueError, match=r"networks|nonsense|host bits"):
        EgressRule(networks=(network,))


def lookup(names: dict[str, list[str]]) -> Resolver:
    """Return a resolver that knows these names and numbers."""

    def resolver(host: str, port: int, *_: Any) -> Any:
        if host not in names:
            names[host] = [str(ipaddress.ip_address(host))]
        for text in names[host]:
            family = socket.AF_INET6 if ":" in text else socket.AF_INET
            yield family, socket.SOCK_STREAM, 6, "", (text, port) if "." in text else (text, port, 0, 0)

    return resolver


async def test_a_name_that_points_inside_is_refused(hostile: Hostile, guard: Guard) -> None:
    rule = EgressRule(ports=frozenset({hostile.port}))
    for address in ("127.0.0.1", "::1", "169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe"):
        url = hostile.url("/ok", "rebind.example", "https")
        error = await failing(rule, guard, url, resolver=lookup({"rebind.example": [address]}))
        assert error.code is EgressCode.REFUSED
    assert hostile.connections == []


async def test_a_name_that_points_inside_and_outside_is_refused_whole(hostile: Hostile, guard: Guard) -> None:
    rule = hostile.rule(networks=("127.0.0.2/32",))
    for addresses in (["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "127.0.0.2"]):
        resolver = lookup({"rebind.example": addresses})
        error = await failing(rule, guard, hostile.url("/ok", "rebind.example"), resolver=resolver)
        assert error.code is EgressCode.REFUSED
    assert hostile.connections == []


async def test_a_name_is_looked_up_once_and_what_was_checked_is_what_is_reached(hostile: Hostile, guard: Guard) -> None:
    answers: Iterator[str] = iter(["127.0.0.2", "127.0.0.1", "127.0.0.1"])
    asked = 0

    def resolver(host: str, port: int, *_: Any) -> Any:
        nonlocal asked
        asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    async with client(hostile.rule(networks=("127.0.0.2/32",)), guard, resolver) as made:
        assert (await made.request("GET", hostile.url("/ok", "rebind.example")))[2] == b"hello"
        assert (asked, hostile.connections) == (1, ["127.0.0.2"])
        with pytest.raises(EgressFailed, match="address-refused"):
            await made.request("GET", hostile.url("/ok", "rebind.example"))
    assert hostile.connections == ["127.0.0.2"]


async def test_the_next_address_is_tried_when_one_does_not_answer(hostile: Hostile, guard: Guard) -> None:
    rule = hostile.rule(networks=("127.0.0.0/8",))
    async with client(rule, guard, lookup({"two.example": ["127.0.0.9", "127.0.0.1"]})) as made:
        assert (await made.request("GET", hostile.url("/ok", "two.example")))[0] == 200
    assert hostile.requests[0].split("\r\n")[1].lower() == f"host: two.example:{hostile.port}"


async def test_a_proxy_in_the_environment_is_not_used(
    hostile: Hostile, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.2:{hostile.port}")
    async with client(hostile.rule(), guard) as made:
        await made.request("GET", hostile.url("/ok"))
    assert hostile.connections == ["127.0.0.1"]


# --- what comes back -----------------------------------------------------------------------------------------------


async def test_an_answer_comes_with_status_headers_and_body(hostile: Hostile, guard: Guard) -> None:
    async with client(hostile.rule(), guard) as made:
        status, headers, body = await made.request(
            "POST", hostile.url("/ok"), params={"q": "æ&b"}, headers={"x-key": "k"}, content=b"{}"
        )
        assert (status, headers["content-length"], body) == (200, "5", b"hello")
        assert (await made.request("GET", hostile.url("/error")))[0] == 500
    head = hostile.requests[0].lower()
    assert head.startswith("post /ok?q=%c3%a6%26b http/1.1\r\n")
    assert "x-key: k\r\n" in head
    assert "user-agent: habeas\r\n" in head


async def test_a_packed_answer_is_unpacked(hostile: Hostile, guard: Guard) -> None:
    async with client(hostile.rule(), guard) as made:
        assert (await made.request("GET", hostile.url("/danish")))[2].decode() == "æøå" * 100_000
        assert (await made.request("GET", hostile.url("/empty-packed")))[2] == b""


@pytest.mark.parametrize("path", ["/redirect", "/redirect-here"])
async def test_a_redirect_is_not_followed(hostile: Hostile, guard: Guard, path: str) -> None:
    assert (await failing(hostile.rule(), guard, hostile.url(path))).code is EgressCode.REDIRECTED
    assert len(hostile.requests) == 1


async def test_no_cookie_is_kept(hostile: Hostile, guard: Guard) -> None:
    async with client(hostile.rule(), guard) as made:
        await made.request("GET", hostile.url("/cookie"))
        await made.request("GET", hostile.url("/ok"))
    assert "cookie" not in hostile.requests[1].lower()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/silent", EgressCode.TIMEOUT),
        ("/drip", EgressCode.TIMEOUT),
        ("/drip-head", EgressCode.TIMEOUT),
        ("/endless", EgressCode.TOO_LARGE),
        ("/endless-head", EgressCode.BROKEN),
        ("/large", EgressCode.TOO_LARGE),
        ("/not-packed", EgressCode.BROKEN),
        ("/cut-pack", EgressCode.BROKEN),
        ("/two-packs", EgressCode.BROKEN),
        ("/brotli", EgressCode.BROKEN),
        ("/twice", EgressCode.BROKEN),
        ("/cut", EgressCode.BROKEN),
        ("/not-http", EgressCode.BROKEN),
        ("/nothing", EgressCode.BROKEN),
        ("/bad-header", EgressCode.BROKEN),
        ("/redirect-broken", EgressCode.REDIRECTED),
    ],
)
async def test_a_bad_answer_ends_in_one_word(hostile: Hostile, guard: Guard, path: str, code: EgressCode) -> None:
    rule = hostile.rule(read_seconds=0.4, total_seconds=0.8, max_bytes=1_000_000)
    async with asyncio.timeout(5):
        error = await failing(rule, guard, hostile.url(path))
    assert error.code is code
    assert error.passing is (code in {EgressCode.TIMEOUT, EgressCode.BROKEN})


async def test_a_bomb_goes_off_against_the_limit_and_not_in_memory(hostile: Hostile, guard: Guard) -> None:
    assert len(bomb()) < 1 << 20
    before = psutil.Process().memory_info().rss
    size = 0
    async with client(hostile.rule(max_bytes=100 << 20, total_seconds=20), guard) as made:
        with pytest.raises(EgressFailed, match="answer-too-large"):
            async with made.stream("GET", hostile.url("/bomb")) as reply:
                async for piece in reply.aiter():
                    size += len(piece)
                    assert len(piece) <= 65_536
    assert 90 << 20 < size <= 100 << 20
    assert psutil.Process().memory_info().rss - before < 20 << 20


async def test_a_call_may_have_other_limits_than_its_rule(hostile: Hostile, guard: Guard) -> None:
    rule = hostile.rule(max_bytes=1000, total_seconds=0.2)
    async with client(rule, guard) as made:
        _, _, body = await made.request("GET", hostile.url("/large"), max_bytes=3_000_000, total_seconds=5)
    assert len(body) == 2_000_000


async def test_a_stream_may_be_left_early(hostile: Hostile, guard: Guard) -> None:
    async with client(hostile.rule(), guard) as made:
        async with made.stream("GET", hostile.url("/endless")) as reply:
            assert await anext(reply.aiter())
        assert (await made.request("GET", hostile.url("/ok")))[0] == 200


async def test_a_port_that_nobody_listens_on_is_not_reached(guard: Guard) -> None:
    error = await failing(EgressRule(ports=frozenset({9}), networks=HERE), guard, "http://127.0.0.1:9/")
    assert error.code is EgressCode.NOT_REACHED
    assert error.passing


async def test_a_name_that_nobody_knows_is_not_found(guard: Guard) -> None:
    def resolver(*_: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    assert (await failing(EgressRule(), guard, "https://x.example/", resolver=resolver)).code is EgressCode.UNRESOLVED


async def test_a_name_server_that_never_answers_is_not_waited_for(guard: Guard) -> None:
    import threading

    free = threading.Event()

    def resolver(*_: Any) -> Any:
        free.wait(10)
        return []

    rule = EgressRule(connect_seconds=0.2)
    async with asyncio.timeout(3):
        error = await failing(rule, guard, "https://x.example/", resolver=resolver)
    free.set()
    assert error.code is EgressCode.UNRESOLVED


@pytest.mark.parametrize(
    "headers", [{"x-key": f"{SECRET}\r\nx: y".encode("ascii", "ignore").decode()}, {"x key": "a"}, {"x-key": "\0"}]
)
async def test_a_header_cannot_smuggle_another(hostile: Hostile, guard: Guard, headers: dict[str, str]) -> None:
    error = await failing(hostile.rule(), guard, hostile.url("/ok"), headers=headers)
    assert error.code is EgressCode.REFUSED
    assert hostile.requests == []


async def test_nothing_of_a_request_is_logged(hostile: Hostile, guard: Guard, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    async with client(hostile.rule(), guard) as made:
        await made.request("GET", hostile.url("/ok?email=person"), headers={"authorization": "Bearer hidden"})
    with pytest.raises(EgressFailed):
        async with client(EgressRule(), guard) as made:
            await made.request("GET", "https://10.0.0.1/?email=person")
    assert "person" not in caplog.text
    assert "hidden" not in caplog.text


# --- TLS -----------------------------------------------------------------------------------------------------------


@dataclass
class Secure:
    port: int
    ca_file: str
    names: list[str | None]


@pytest.fixture(scope="module")
async def secure(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secure]:
    """Serve TLS for `api.example` on 127.0.0.1, under an authority of its own."""
    folder: Path = tmp_path_factory.mktemp("tls")
    self_signed(folder / "cert.pem", folder / "key.pem", "api.example", DNSName("api.example"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    names: list[str | None] = []
    context.sni_callback = lambda _socket, asked, _context: names.append(asked)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(plain(json.dumps({"safe": True}).encode()))
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    yield Secure(listening.sockets[0].getsockname()[1], str(folder / "cert.pem"), names)
    listening.close()


NAMES = {"api.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]}


async def test_tls_is_checked_against_the_name_though_the_address_is_pinned(secure: Secure, guard: Guard) -> None:
    rule = EgressRule(ports=frozenset({secure.port}), networks=HERE, ca_file=secure.ca_file)
    secure.names.clear()
    async with client(rule, guard, lookup(dict(NAMES))) as made:
        status, _, body = await made.request("GET", f"https://api.example:{secure.port}/")
    assert (status, json.loads(body)) == (200, {"safe": True})
    assert secure.names == ["api.example"]


@pytest.mark.parametrize("host", ["other.example", "127.0.0.1"])
async def test_a_certificate_for_another_name_fails(secure: Secure, guard: Guard, host: str) -> None:
    rule = EgressRule(ports=frozenset({secure.port}), networks=HERE, ca_file=secure.ca_file)
    error = await failing(rule, guard, f"https://{host}:{secure.port}/", resolver=lookup(dict(NAMES)))
    assert error.code is EgressCode.TLS
    assert not error.passing


async def test_a_certificate_of_an_unknown_authority_fails(secure: Secure, guard: Guard) -> None:
    rule = EgressRule(ports=frozenset({secure.port}), networks=HERE)
    error = await failing(rule, guard, f"https://api.example:{secure.port}/", resolver=lookup(dict(NAMES)))
    assert error.code is EgressCode.TLS

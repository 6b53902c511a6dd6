"""A call between services is the same call in one process and over a network; every promise is tried on both."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
import psutil
import pytest
import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.responses import StreamingResponse
from structlog.testing import capture_logs

from shared.bridge import ASGIApp, Receive, Scope, Send
from shared.http import AnswerCut, Headers, NotReached, ServiceFailed
from shared.post import BridgePost, HttpPost, Post
from shared.problems import (
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
from shared.tokens import Issuer, Verifier, generate_key

PRIVATE, PUBLIC, KID = generate_key()
BLOCK = b"\xa5" * 65_536
MEGABYTES = 200


# --- a service with good and bad manners ---------------------------------------------------------------------------


@dataclass
class Seen:
    """What the service noticed."""

    events: list[str] = field(default_factory=list)
    sent: int = 0
    received: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)


async def start(send: Send, status: int = 200, **headers: str) -> None:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def body(send: Send, data: bytes = b"", *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def answer(send: Send, document: Any, status: int = 200, kind: str = "application/json", **headers: str) -> None:
    data = json.dumps(document).encode()
    await start(send, status, content_type=kind, content_length=str(len(data)), **headers)
    await body(send, data)


class Service:
    """A bare ASGI app; each method answers the path of its name."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.verifier = Verifier("intake", {KID: ("gateway", PUBLIC)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        name = scope["path"].split("/")[1].replace("-", "_") or "root"
        work: Callable[[Scope, Receive, Send], Awaitable[None]] = getattr(self, name, self.missing)
        await work(scope, receive, send)

    async def missing(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, {"type": "urn:habeas:problem:not-found", "status": 404}, 404, "application/problem+json")

    async def mirror(self, scope: Scope, receive: Receive, send: Send) -> None:
        data = b"".join([chunk async for chunk in self.chunks(receive)])
        headers = [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]]
        authorization = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
        claims = self.verifier.verify(authorization) if authorization.count(".") == 2 else None
        await answer(
            send,
            {
                "method": scope["method"],
                "path": scope["path"],
                "query": scope["query_string"].decode(),
                "headers": headers,
                "subject": claims and claims.subject,
                "organisation": claims and claims.organisation,
                "body": data.decode(),
            },
        )

    async def chunks(self, receive: Receive) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.seen.events.append("cut")
                self.seen.done.set()
                raise ConnectionError
            more = message.get("more_body", False)
            self.seen.received += len(message.get("body", b""))
            yield message.get("body", b"")

    async def count(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0
        async for chunk in self.chunks(receive):
            size += len(chunk)
        self.seen.events.append("whole")
        await answer(send, {"size": size})

    async def flood(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send blocks until somebody stops listening, or as many megabytes as the path says."""
        await start(send, content_type="application/octet-stream")
        gone = asyncio.ensure_future(self.until_gone(receive))
        blocks = int(scope["path"].split("/")[2]) * 16
        try:
            while self.seen.sent < blocks and not gone.done():
                await body(send, BLOCK, more=True)
                self.seen.sent += 1
            if not gone.done():
                await body(send)
        finally:
            gone.cancel()
            self.seen.done.set()

    async def until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.seen.events.append("gone")

    async def hang_unread(self, scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(1000)

    async def hang(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.until_gone(receive)
        self.seen.done.set()

    async def echo(self, scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        async for chunk in self.chunks(receive):
            await body(send, chunk, more=True)
        await body(send)

    async def fail_before(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("Søren Østergård")

    async def fail_after_500(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, {"status": 500}, 500, "application/problem+json")
        raise RuntimeError("Søren Østergård")

    async def fail_middle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, content_length="1000000")
        await body(send, b"x" * 1000, more=True)
        raise RuntimeError("Søren Østergård")

    async def fail_middle_chunked(self, scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await body(send, b"x" * 1000, more=True)
        raise RuntimeError("Søren Østergård")

    async def early(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse without reading what is sent."""
        await answer(send, {"type": "urn:habeas:problem:too-late"}, 409, "application/problem+json")

    async def redirect(self, scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, 307, location="/mirror", content_length="0")
        await body(send)

    async def problem(self, scope: Scope, receive: Receive, send: Send) -> None:
        document = {
            "type": "urn:habeas:problem:some-rule",
            "title": "No",
            "status": 0,
            "detail": "the rule",
            "errors": [{"pointer": "/name", "detail": "must not be empty"}],
            "tries_left": 2,
        }
        await answer(send, document, int(scope["path"].split("/")[2]), "application/problem+json", retry_after="7")

    async def text(self, scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, int(scope["path"].split("/")[2]), content_type="text/plain")
        await body(send, b"no JSON")

    async def listed(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, [1, 2])

    async def empty(self, scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, 204)
        await body(send)

    async def headers(self, scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, content_length="2", connection="x-secret", x_secret="1", x_kept="2", keep_alive="9")
        await body(send, b"ok")


# --- the two ways --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(app: ASGIApp, **options: Any) -> AsyncIterator[str]:
    """Serve on a free port of the loopback; yield the address."""
    # asyncio sends small answers at once only on sockets that say which protocol they speak.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", log_level="critical", access_log=False, **options)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await task
        listener.close()


@asynccontextmanager
async def posting(kind: str, app: ASGIApp, **options: Any) -> AsyncIterator[Post]:
    issuer = Issuer("gateway", PRIVATE, KID)
    if kind == "bridge":
        bridge = BridgePost({"intake": app}, issuer, **options)
        try:
            yield bridge
        finally:
            await bridge.aclose()
        return
    async with serving(app) as url:
        post = HttpPost({"intake": url}, issuer, **options)
        try:
            yield post
        finally:
            await post.aclose()


class Switch:
    """One server for all tests: starting one takes longer than most of them."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@dataclass
class Served:
    switch: Switch
    url: str


@pytest.fixture(scope="module")
async def inner() -> AsyncIterator[Served]:
    switch = Switch()
    async with serving(switch) as url:
        yield Served(switch, url)


@pytest.fixture(scope="module")
async def outer() -> AsyncIterator[Served]:
    switch = Switch()
    async with serving(switch) as url:
        yield Served(switch, url)


@dataclass
class House:
    kind: str
    post: Post
    service: Service

    @property
    def seen(self) -> Seen:
        return self.service.seen


@pytest.fixture(params=["bridge", "http"])
async def house(request: pytest.FixtureRequest, inner: Served) -> AsyncIterator[House]:
    service, issuer = Service(), Issuer("gateway", PRIVATE, KID)
    inner.switch.app = service
    bridge = BridgePost({"intake": service}, issuer)
    post: Post = bridge if request.param == "bridge" else HttpPost({"intake": inner.url}, issuer)
    yield House(request.param, post, service)
    await post.aclose()


async def soon(claim: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not claim():
            await asyncio.sleep(0.01)


# --- send ----------------------------------------------------------------------------------------------------------


class Body(BaseModel):
    name: str


async def test_a_call_is_signed_and_carries_json(house: House) -> None:
    seen = await house.post.send("intake", "PUT", "/mirror/1?a=b", organisation="nordlys", body=Body(name="Søren"))
    headers = dict(seen["headers"])
    assert (seen["method"], seen["path"], seen["query"]) == ("PUT", "/mirror/1", "a=b")
    assert (seen["subject"], seen["organisation"]) == ("service:gateway", "nordlys")
    assert json.loads(seen["body"]) == {"name": "Søren"}
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(seen["body"].encode()))


async def test_a_call_may_speak_for_somebody_with_a_token(house: House) -> None:
    token = Issuer("gateway", PRIVATE, KID).issue("intake", "handler:7", organisation="sydlys")
    seen = await house.post.send("intake", "POST", "/mirror", organisation="sydlys", body={}, token=token)
    assert (seen["subject"], seen["organisation"]) == ("handler:7", "sydlys")


async def test_a_call_without_a_body_says_so(house: House) -> None:
    seen = await house.post.send("intake", "GET", "/mirror", organisation="nordlys")
    assert {"content-length", "transfer-encoding", "content-type"}.isdisjoint(dict(seen["headers"]))


async def test_an_empty_answer_is_an_empty_object(house: House) -> None:
    assert await house.post.send("intake", "DELETE", "/empty", organisation="nordlys") == {}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Malformed),
        (401, Unauthenticated),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (410, Gone),
        (412, PreconditionFailed),
        (413, TooLarge),
        (415, WrongType),
        (422, Invalid),
        (429, TooMany),
        (503, Unavailable),
    ],
)
async def test_a_problem_comes_back_as_what_it_was(house: House, status: int, kind: type[Problem]) -> None:
    with pytest.raises(kind) as caught:
        await house.post.send("intake", "GET", f"/problem/{status}", organisation="nordlys")
    problem = caught.value
    assert type(problem) is kind
    assert problem.retry_after == 7
    assert problem.document() == {
        "type": "urn:habeas:problem:some-rule",
        "title": kind.title,
        "status": status,
        "detail": "the rule",
        "errors": [{"pointer": "/name", "detail": "must not be empty"}],
        "tries_left": 2,
    }


@pytest.mark.parametrize(
    "path",
    [
        "/redirect",
        "/fail-before",
        "/fail-after-500",
        "/problem/500",
        "/problem/418",
        "/text/200",
        "/text/500",
        "/listed",
    ],
)
async def test_what_no_service_should_answer_is_its_failure(house: House, path: str) -> None:
    with pytest.raises(ServiceFailed) as caught:
        await house.post.send("intake", "GET", path, organisation="nordlys")
    assert "Søren" not in json.dumps(caught.value.document())
    assert caught.value.status == 503


@pytest.mark.parametrize(("status", "kind"), [(404, NotFound), (409, Conflict)])
async def test_a_refusal_without_a_document_is_known_by_its_status(
    house: House, status: int, kind: type[Problem]
) -> None:
    with pytest.raises(kind):
        await house.post.send("intake", "GET", f"/text/{status}", organisation="nordlys")


@pytest.mark.parametrize("kind", ["bridge", "http"])
async def test_a_service_that_nobody_knows_is_not_reached(kind: str) -> None:
    async with posting(kind, Service()) as post:
        with pytest.raises(NotReached):
            await post.send("locator", "GET", "/mirror", organisation="nordlys")


async def test_a_service_that_is_down_is_not_reached() -> None:
    post = HttpPost({"intake": "http://127.0.0.1:9"}, Issuer("gateway", PRIVATE, KID))
    with capture_logs() as logs, pytest.raises(NotReached):
        await post.send("intake", "GET", "/mirror", organisation="nordlys")
    assert [(line["event"], line["port"]) for line in logs] == [("service not reached", 9)]
    await post.aclose()


@pytest.mark.parametrize("kind", ["bridge", "http"])
async def test_a_service_that_never_answers_is_not_reached(kind: str) -> None:
    service = Service()
    async with posting(kind, service, answer_seconds=0.2) as post:
        with pytest.raises(NotReached):
            await post.send("intake", "GET", "/hang", organisation="nordlys")
        await asyncio.wait_for(service.seen.done.wait(), 5)
    assert service.seen.events == ["gone"]


@pytest.mark.parametrize(
    "path",
    [
        "mirror",
        "//mirror",
        "/mirror/",
        "/mirror//x",
        "/mirror/../hang",
        "/mirror/%2e%2E/hang",
        "/mirror/%2fx",
        "/mirror/%5cx",
        "/mirror/%0d%0ax",
        "/mirror/\r\nx: y",
        "/mirror/a b",
        "/mirror/æ",
        "/mirror/%",
        "/mirror/%zz",
        "/mirror/%ff",
        "/mirror#x",
        "/mirror?a b",
        "/mirror?a\nb",
        "http://elsewhere.example/mirror",
        "",
    ],
)
async def test_a_path_that_could_be_taken_for_another_is_not_found(house: House, path: str) -> None:
    with pytest.raises(NotFound):
        await house.post.send("intake", "GET", path, organisation="nordlys")
    assert house.seen.events == []


async def test_a_path_keeps_its_encoded_letters(house: House) -> None:
    seen = await house.post.send("intake", "GET", "/mirror/S%C3%B8ren%20%C3%98", organisation="nordlys")
    assert seen["path"] == "/mirror/Søren Ø"


# --- stream --------------------------------------------------------------------------------------------------------


async def blocks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield BLOCK


async def test_headers_and_a_streamed_body_arrive(house: House) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"one,"
        yield b""
        yield b"two"

    headers = {"habeas-file-name": "S%C3%B8ren.pdf", "Content-Type": "application/octet-stream"}
    async with house.post.stream(
        "intake", "PUT", "/mirror", organisation="nordlys", content=content(), headers=headers
    ) as reply:
        await reply.check()
        seen = await reply.json()
    assert seen["body"] == "one,two"
    assert dict(seen["headers"])["habeas-file-name"] == "S%C3%B8ren.pdf"
    assert dict(seen["headers"])["transfer-encoding"] == "chunked"
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"


class Memory:
    """Watches how far this process grows."""

    def __init__(self) -> None:
        self.growth = 0

    async def __aenter__(self) -> Self:
        self._before = psutil.Process().memory_info().rss
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _watch(self) -> None:
        while True:
            self.growth = max(self.growth, psutil.Process().memory_info().rss - self._before)
            await asyncio.sleep(0.01)


async def test_two_hundred_megabytes_are_received_at_constant_memory(house: House) -> None:
    size = 0
    async with (
        Memory() as memory,
        house.post.stream("intake", "GET", f"/flood/{MEGABYTES}", organisation="nordlys") as reply,
    ):
        async for chunk in reply.aiter():
            size += len(chunk)
    assert size == MEGABYTES << 20
    assert memory.growth < 30 << 20


async def test_two_hundred_megabytes_are_sent_at_constant_memory(house: House) -> None:
    content = blocks(MEGABYTES * 16)
    async with (
        Memory() as memory,
        house.post.stream("intake", "PUT", "/count", organisation="nordlys", content=content) as reply,
    ):
        assert await reply.json() == {"size": MEGABYTES << 20}
    assert memory.growth < 30 << 20


async def test_in_one_process_both_directions_flow_at_once() -> None:
    asked: asyncio.Queue[bytes] = asyncio.Queue()

    async def content() -> AsyncIterator[bytes]:
        while question := await asked.get():
            yield question

    async with (
        posting("bridge", Service()) as post,
        post.stream("intake", "PUT", "/echo", organisation="nordlys", content=content()) as reply,
    ):
        answers = reply.aiter()
        for number in range(5):
            asked.put_nowait(b"%d" % number)
            assert await anext(answers) == b"%d" % number
        asked.put_nowait(b"")
        assert [chunk async for chunk in answers] == []


async def test_a_slow_reader_slows_the_service(house: House) -> None:
    async with house.post.stream("intake", "GET", "/flood/1000", organisation="nordlys") as reply:
        await anext(reply.aiter())
        await asyncio.sleep(0.3)
        ahead = house.seen.sent
        assert ahead < 1000 * 16 / 4
        await asyncio.sleep(0.2)
        assert house.seen.sent == ahead
    if house.kind == "bridge":
        assert ahead <= 3


async def test_a_slow_service_slows_the_sender() -> None:
    given = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 1
            yield BLOCK

    async with posting("bridge", Service(), answer_seconds=0.3) as post:
        with pytest.raises(NotReached):
            async with post.stream("intake", "PUT", "/hang-unread", organisation="nordlys", content=content()):
                pytest.fail("nothing was answered")
    assert given <= 3


async def test_leaving_early_tells_the_service(house: House) -> None:
    async with house.post.stream("intake", "GET", "/flood/1000", organisation="nordlys") as reply:
        await anext(reply.aiter())
    await asyncio.wait_for(house.seen.done.wait(), 5)
    assert house.seen.sent < 1000 * 16


async def test_a_cancelled_call_tells_the_service_and_closes_what_it_sent(house: House) -> None:
    closed = asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        try:
            while True:
                yield BLOCK
                await asyncio.sleep(0.01)
        finally:
            closed.set()

    async def call() -> None:
        async with house.post.stream("intake", "PUT", "/count", organisation="nordlys", content=content()):
            pytest.fail("nothing was answered")

    task = asyncio.create_task(call())
    await soon(lambda: house.seen.received > 3 * len(BLOCK))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()
    await asyncio.wait_for(house.seen.done.wait(), 5)
    assert house.seen.events == ["cut"]


class SourceFailed(Exception):
    """What feeds a body has its own errors."""


async def test_a_body_whose_source_fails_never_looks_whole_and_the_error_comes_back(house: House) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield BLOCK
        raise SourceFailed

    with pytest.raises(SourceFailed):
        async with house.post.stream("intake", "PUT", "/count", organisation="nordlys", content=content()):
            pytest.fail("nothing was answered")
    await asyncio.wait_for(house.seen.done.wait(), 5)
    assert house.seen.events == ["cut"]


async def test_a_source_that_fails_while_the_answer_flows_is_told_too() -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"one"
        await asyncio.sleep(0.05)
        raise SourceFailed

    async with posting("bridge", Service()) as post:
        with pytest.raises(SourceFailed):
            async with post.stream("intake", "PUT", "/echo", organisation="nordlys", content=content()) as reply:
                async for chunk in reply.aiter():
                    assert chunk == b"one"


@pytest.mark.parametrize("path", ["/fail-middle", "/fail-middle-chunked"])
async def test_an_answer_that_breaks_off_is_no_whole_answer(house: House, path: str) -> None:
    size = 0
    with pytest.raises(AnswerCut) as caught:
        async with house.post.stream("intake", "GET", path, organisation="nordlys") as reply:
            async for chunk in reply.aiter():
                size += len(chunk)
    assert size == 1000
    assert caught.value.__cause__ is None


async def test_a_refusal_comes_before_the_body_was_read(house: House) -> None:
    async with house.post.stream("intake", "PUT", "/early", organisation="nordlys", content=blocks(160)) as reply:
        with pytest.raises(Conflict) as caught:
            await reply.check()
    assert caught.value.problem_code == "too-late"


async def test_in_one_process_a_refusal_ends_an_endless_body() -> None:
    async def content() -> AsyncIterator[bytes]:
        while True:
            yield BLOCK

    async with (
        posting("bridge", Service()) as post,
        post.stream("intake", "PUT", "/early", organisation="nordlys", content=content()) as reply,
    ):
        assert reply.status == 409


async def test_a_large_answer_is_not_held_in_memory(house: House) -> None:
    async with house.post.stream("intake", "GET", "/flood/2", organisation="nordlys") as reply:
        with pytest.raises(ServiceFailed):
            await reply.read(limit=1 << 20)


async def test_a_redirect_is_not_followed(house: House) -> None:
    async with house.post.stream("intake", "GET", "/redirect", organisation="nordlys") as reply:
        assert reply.status == 307
    assert house.seen.received == 0


async def test_a_failure_is_logged_without_what_it_said() -> None:
    async with posting("bridge", Service()) as post:
        with capture_logs() as logs, pytest.raises(ServiceFailed):
            await post.send("intake", "GET", "/fail-before", organisation="nordlys")
    assert logs == [{"event": "service failed", "log_level": "warning", "error": "RuntimeError", "answered": False}]


async def test_the_service_sees_nothing_of_its_callers_context() -> None:
    from contextvars import ContextVar

    secret: ContextVar[str] = ContextVar("secret", default="none")
    found = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(secret.get())
        await answer(send, {})

    secret.set("the caller's")
    async with posting("bridge", app) as post:
        await post.send("intake", "GET", "/", organisation="nordlys")
    assert found == ["none"]


async def test_what_still_runs_is_ended_with_the_post() -> None:
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, {})
        try:
            await asyncio.sleep(1000)
        finally:
            ended.set()

    async with posting("bridge", app) as post:
        await post.send("intake", "GET", "/", organisation="nordlys")
        assert not ended.is_set()
    assert ended.is_set()


async def test_an_app_of_the_framework_works_behind_both(kind: str = "bridge") -> None:
    app = FastAPI(telemetry={"logs": False, "operation_spans": False, "auto_configure": False})

    @app.put("/items/{item}")
    async def put(item: str, request: Request) -> dict[str, Any]:
        return {"item": item, "size": sum([len(chunk) async for chunk in request.stream()])}

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(blocks(32))

    async with posting(kind, app) as post:
        async with post.stream("intake", "PUT", "/items/7", organisation="nordlys", content=blocks(32)) as reply:
            assert await reply.json() == {"item": "7", "size": 32 * len(BLOCK)}
        async with post.stream("intake", "GET", "/stream", organisation="nordlys") as reply:
            assert len(await reply.read()) == 32 * len(BLOCK)
        with pytest.raises(NotFound):
            await post.send("intake", "GET", "/nowhere", organisation="nordlys")


# --- forward -------------------------------------------------------------------------------------------------------


class Gateway:
    """A public door that forwards everything to `/…` of intake."""

    def __init__(self, post: Post) -> None:
        self.post = post
        self.problems: list[Exception] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = Issuer("gateway", PRIVATE, KID).issue("intake", "handler:7", organisation="nordlys")
        headers: Headers = [(b"authorization", b"Bearer " + token.encode()), (b"habeas-file-name", b"ours")]
        try:
            await self.post.forward("intake", scope, receive, send, path=scope["raw_path"].decode(), headers=headers)
        except (NotReached, ServiceFailed, NotFound) as problem:
            self.problems.append(problem)
            await answer(send, problem.document(), problem.status, "application/problem+json")
        except AnswerCut as problem:
            self.problems.append(problem)
            raise


@dataclass
class Door:
    house: House
    gateway: Gateway
    url: str
    client: httpx.AsyncClient


@pytest.fixture
async def door(house: House, outer: Served) -> AsyncIterator[Door]:
    outer.switch.app = gateway = Gateway(house.post)
    async with httpx.AsyncClient(base_url=outer.url, trust_env=False, timeout=30) as client:
        yield Door(house, gateway, outer.url, client)


FORGED = {
    "authorization": "Bearer stolen",
    "cookie": "session=1",
    "forwarded": "for=1.2.3.4",
    "x-forwarded-for": "1.2.3.4",
    "x-forwarded-host": "evil.example",
    "x-real-ip": "1.2.3.4",
    "x-principal": "admin",
    "habeas-subject": "handler:1",
    "habeas-file-name": "theirs",
    "connection": "x-hidden",
    "x-hidden": "1",
    "keep-alive": "1",
    "te": "trailers",
    "proxy-authorization": "Basic eA==",
    "x-kept": "yes",
    "content-type": "application/json",
}


async def test_nothing_that_speaks_for_somebody_passes_the_door(door: Door) -> None:
    seen = (await door.client.post("/mirror/1?a=%20b", headers=FORGED, content=b"{}")).json()
    headers = seen["headers"]
    names = [name for name, _ in headers]
    assert (seen["method"], seen["path"], seen["query"], seen["body"]) == ("POST", "/mirror/1", "a=%20b", "{}")
    assert seen["subject"] == "handler:7"
    assert names.count("authorization") == names.count("habeas-file-name") == 1
    assert ["habeas-file-name", "ours"] in headers
    assert ["x-kept", "yes"] in headers
    assert ["content-type", "application/json"] in headers
    passed = {"x-kept", "content-type", "authorization", "habeas-file-name"}
    assert set(names).isdisjoint(FORGED.keys() - passed - {"connection"})
    assert "x-hidden" not in " ".join(value for _, value in headers)


@pytest.mark.parametrize("chunked", [True, False])
async def test_two_hundred_megabytes_go_in_through_the_door_at_constant_memory(door: Door, chunked: bool) -> None:
    headers = {} if chunked else {"content-length": str(MEGABYTES << 20)}
    async with Memory() as memory:
        seen = await door.client.put("/count", content=blocks(MEGABYTES * 16), headers=headers)
    assert seen.json() == {"size": MEGABYTES << 20}
    assert memory.growth < 30 << 20


async def test_two_hundred_megabytes_come_out_through_the_door_at_constant_memory(door: Door) -> None:
    size = 0
    async with Memory() as memory, door.client.stream("GET", f"/flood/{MEGABYTES}") as response:
        async for chunk in response.aiter_raw():
            size += len(chunk)
    assert size == MEGABYTES << 20
    assert memory.growth < 30 << 20


async def test_answers_lose_what_belongs_to_one_connection(door: Door) -> None:
    response = await door.client.get("/headers")
    assert response.text == "ok"
    assert response.headers["x-kept"] == "2"
    assert {"x-secret", "keep-alive"}.isdisjoint(response.headers)
    assert len(response.headers.get_list("date")) == len(response.headers.get_list("server")) == 1


async def test_problems_and_redirects_pass_unchanged(door: Door) -> None:
    problem = await door.client.get("/problem/422")
    assert (problem.status_code, problem.json()["tries_left"]) == (422, 2)
    assert problem.headers["content-type"] == "application/problem+json"
    redirect = await door.client.get("/redirect")
    assert (redirect.status_code, redirect.headers["location"]) == (307, "/mirror")


async def test_a_caller_who_leaves_is_noticed_by_the_service(door: Door) -> None:
    async with door.client.stream("GET", "/flood/1000") as response:
        await anext(response.aiter_raw())
    await asyncio.wait_for(door.house.seen.done.wait(), 5)
    assert "gone" in door.house.seen.events
    assert door.gateway.problems == []


async def test_a_caller_who_leaves_before_the_answer_is_noticed_by_the_service(door: Door) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await door.client.get("/hang", timeout=0.3)
    await asyncio.wait_for(door.house.seen.done.wait(), 5)
    assert door.house.seen.events == ["gone"]


async def test_an_upload_that_breaks_off_never_looks_whole(door: Door) -> None:
    host, port = door.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"PUT /count HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 200_000)
    await soon(lambda: door.house.seen.received > 100_000)
    writer.close()
    await asyncio.wait_for(door.house.seen.done.wait(), 5)
    assert door.house.seen.events == ["cut"]
    assert door.gateway.problems == []


@pytest.mark.parametrize("path", ["/fail-middle", "/fail-middle-chunked"])
async def test_an_answer_that_breaks_off_breaks_off_at_the_caller_too(door: Door, path: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await door.client.get(path)
    assert [type(problem) for problem in door.gateway.problems] == [AnswerCut]


async def test_a_service_that_fails_before_it_answers_gives_a_problem(door: Door) -> None:
    response = await door.client.get("/fail-before")
    assert "Søren" not in response.text
    # A server turns the failure into an answer of its own; in one process the door does.
    assert response.status_code == (503 if door.house.kind == "bridge" else 500)


async def test_a_failure_after_the_answer_does_not_spoil_it(door: Door) -> None:
    response = await door.client.get("/fail-after-500")
    assert response.json() == {"status": 500}
    assert door.gateway.problems == []


async def test_a_path_with_tricks_does_not_pass_the_door(door: Door) -> None:
    for path in ("/mirror/%2e%2e/hang", "/mirror/..%2fhang", "/mirror//x", "/mirror/%00"):
        assert (await door.client.get(path)).status_code == 404
    assert door.house.seen.events == []


async def test_bytes_beyond_ascii_in_a_query_are_no_trouble(door: Door) -> None:
    host, port = door.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /mirror?q=\xc3\xb8&r=%C3%B8 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    assert "200 OK" in text or "400 Bad Request" in text


@pytest.mark.parametrize("kind", ["bridge", "http"])
async def test_a_service_that_is_not_there_gives_a_problem_at_the_door(kind: str) -> None:
    issuer = Issuer("gateway", PRIVATE, KID)
    post: Post = BridgePost({}, issuer) if kind == "bridge" else HttpPost({"intake": "http://127.0.0.1:9"}, issuer)
    gateway = Gateway(post)
    async with serving(gateway) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        response = await client.post("/mirror", content=b"x" * 1000)
    assert response.status_code == 503
    assert response.json()["type"] == "urn:habeas:problem:not-reached"
    await post.aclose()


async def test_requests_are_logged_by_nobody_below_us(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    await house.post.send("intake", "GET", "/mirror/secret-path", organisation="nordlys")
    assert "secret-path" not in caplog.text

"""What broke others (attacks against the door), tried on the real server over real sockets."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import httpx
import pytest
import uvicorn
from fastapi.responses import JSONResponse, Response, StreamingResponse
from structlog.testing import capture_logs

from gateway.keys import Scope
from gateway.server import PromptProtocol, server_config
from shared.ids import new_id, new_reference
from shared.vocabulary import Role
from tests.contract.gateway_house import ORG, House, Seen, fresh_sqlite, open_house, port_of, running, served

REQUESTS = f"/v1/{ORG}/requests"


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    url = fresh_sqlite(tmp_path_factory.mktemp("attacks"))
    async with open_house(url, open_per_minute=10_000, read_per_minute=10_000, body_seconds=0.5) as found:
        yield found


@pytest.fixture(scope="module")
async def port(house: House) -> AsyncIterator[int]:
    async with served(house) as found:
        yield found


@pytest.fixture(autouse=True)
def _nothing_seen_yet(house: House) -> None:
    for echo in house.echoes.values():
        echo.seen.clear()


async def raw(port: int, *pieces: bytes, seconds: float = 5) -> bytes:
    """Send bytes as they are, a piece at a time, and return what comes back until the server is done."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(seconds):
            while chunk := await reader.read(65536):
                answer += chunk
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return answer


def head(method: str, target: str, *headers: str, host: str = "127.0.0.1:8000") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


@pytest.mark.parametrize(
    "target",
    [
        f"/v1/{ORG}%2Fcases",
        f"/v1/{ORG}/requests/%2e%2e/cases",
        f"/v1/{ORG}/requests/../cases",
        f"/v1/{ORG}//cases",
        f"/v1/{ORG}/requests/..%5ccases",
        f"/v1/{ORG}/cases%00",
        f"/v1/{ORG}/cases;a=b",
        f"/v1/{ORG}/case%73",
        f"//127.0.0.1:8000/v1/{ORG}/cases",
        "/static/../../../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "*",
    ],
)
async def test_no_spelling_of_a_path_reaches_another_address(house: House, port: int, target: str) -> None:
    headers = await house.handler(Role.HANDLER)
    answer = await raw(port, head("GET", target, f"Authorization: {headers['authorization']}"))
    assert status_of(answer) in {400, 404}
    assert house.calls() == 0


async def test_an_absolute_target_counts_for_its_path_only_and_never_for_its_host(house: House, port: int) -> None:
    """RFC 9112 §3.2.2 allows the form; the Host header alone decides whether we answer."""
    good = await raw(port, head("GET", f"http://evil.example/v1/{ORG}"))
    assert status_of(good) in {200, 404}
    bad = await raw(port, head("GET", f"http://127.0.0.1:8000/v1/{ORG}", host="evil.example"))
    assert status_of(bad) == 421


async def test_a_poisoned_host_changes_nothing(house: House, port: int) -> None:
    for host in ("evil.example", "127.0.0.1:8000/v1/x?", "127.0.0.1@evil.example", "", "127.0.0.1#"):
        answer = await raw(port, head("GET", f"/v1/{ORG}/cases", host=host))
        assert status_of(answer) in {400, 421}
        assert b"evil" not in answer
    two = head("GET", f"/v1/{ORG}", "Host: evil.example")
    assert status_of(await raw(port, two)) == 400
    assert house.calls() == 0


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Transfer-Encoding: xchunked",),
        ("Content-Length: +5",),
        ("Content-Length: 5,5",),
    ],
)
async def test_two_readings_of_a_body_s_length_are_refused(house: House, port: int, headers: tuple[str, ...]) -> None:
    smuggled = head("GET", f"/v1/{ORG}/requests/SMUGGLED")
    answer = await raw(
        port, head("POST", REQUESTS, "Content-Type: application/json", *headers), b"0\r\n\r\n" + smuggled, seconds=1.5
    )
    assert status_of(answer) in {0, 400, 408}
    assert house.calls() == 0


async def test_a_head_without_end_is_cut_and_takes_no_memory(house: House, port: int) -> None:
    long_header = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Flood: "
    answer = await raw(port, long_header, *([b"a" * 65536] * 64))
    assert status_of(answer) in {0, 431}
    many = await raw(port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", *([b"X-A: b\r\n" * 4096] * 64))
    assert status_of(many) in {0, 431}
    target = await raw(port, b"GET /", *([b"a" * 65536] * 64))
    assert status_of(target) in {0, 431}


class Hurried(PromptProtocol):
    head_seconds = 0.2


async def test_a_head_that_comes_too_slowly_is_cut_and_a_quick_one_is_not(house: House) -> None:
    config = server_config(house.app, host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    config.http = Hurried
    server = uvicorn.Server(config)
    async with running([server]):
        began = time.perf_counter()
        assert await raw(port_of(server), b"GET / HTTP/1.1\r\nHost:") == b""
        assert await raw(port_of(server), b"") == b"", "nor is a connection kept that says nothing"
        assert time.perf_counter() - began < 3
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port_of(server)}") as client:
            for _ in range(3):
                assert (await client.get("/health/live")).status_code == 200
                await asyncio.sleep(0.3)


async def test_more_headers_than_anybody_needs_are_refused(port: int) -> None:
    answer = await raw(port, head("GET", f"/v1/{ORG}", *[f"X-{n}: 1" for n in range(70)]))
    assert status_of(answer) == 431
    answer = await raw(port, head("GET", f"/v1/{ORG}", "X-Long: " + "a" * 17_000))
    assert status_of(answer) == 431


async def test_an_oversize_body_is_refused_announced_or_not(house: House, port: int) -> None:
    announced = await raw(
        port, head("POST", REQUESTS, "Content-Type: application/json", "Content-Length: 70000"), b" " * 70_000
    )
    assert status_of(announced) == 413
    assert b"urn:habeas:problem:too-large" in announced
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    counted = await raw(
        port, head("POST", REQUESTS, "Content-Type: application/json", "Transfer-Encoding: chunked"), chunk, chunk
    )
    assert status_of(counted) == 413
    huge = await raw(
        port, head("POST", REQUESTS, "Content-Type: application/json", "Content-Length: 99999999999999999999")
    )
    assert status_of(huge) in {400, 413}
    assert house.calls() == 0


async def test_a_body_that_never_comes_ends_in_time(house: House, port: int) -> None:
    answer = await raw(port, head("POST", REQUESTS, "Content-Type: application/json", "Content-Length: 50"), b'{"a":')
    assert status_of(answer) == 408
    assert house.calls() == 0


async def test_a_client_that_leaves_in_the_middle_of_a_body_costs_one_quiet_line(house: House, port: int) -> None:
    with capture_logs() as logs:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head("POST", REQUESTS, "Content-Type: application/json", "Content-Length: 50") + b'{"a":')
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.close()
        await asyncio.sleep(0.2)
    assert [line["status"] for line in logs] == [499]
    assert house.calls() == 0


@pytest.mark.parametrize(
    "body",
    [b"[" * 33 + b"]" * 33, b'{"a":' * 10_000 + b"1" + b"}" * 10_000, b"[" * 60_000, b'"' + rb"\"" * 30_000],
    ids=["33 deep", "10,000 deep", "never closed", "one long string"],
)
async def test_deep_or_odd_json_never_reaches_a_parser(house: House, body: bytes) -> None:
    answer = await house.client.post(REQUESTS, content=body, headers={"content-type": "application/json"})
    if body.startswith(b'"'):
        assert answer.status_code == 200, "not deep: the service says what it thinks of it"
    else:
        assert (answer.status_code, answer.json()["type"]) == (400, "urn:habeas:problem:too-deep")
        assert house.calls() == 0


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "",
     "application/json, text/plain", "application/octet-stream"],
)  # fmt: skip
async def test_a_page_elsewhere_cannot_post_json_in_disguise(house: House, content_type: str) -> None:
    """What a browser may send across sites without asking (PYSEC-2021-100)."""
    headers = {**await house.handler(Role.HANDLER), "idempotency-key": new_id()}
    if content_type:
        headers["content-type"] = content_type
    for path in (REQUESTS, f"/v1/{ORG}/cases", f"/v1/{ORG}/token"):
        answer = await house.client.post(path, content=b'{"right":"access"}', headers=headers)
        assert answer.status_code == 415, path
    assert house.calls() == 0


async def test_uploads_are_for_respondents_and_take_no_json_and_forms_take_nothing(house: House) -> None:
    headers = await house.handler(Role.RESPONDENT)
    path = f"/v1/{ORG}/tasks/{new_id()}/uploads/1"
    refused = await house.client.put(path, content=b"{}", headers={**headers, "content-type": "application/json"})
    assert refused.status_code == 415
    form = {"content-type": "multipart/form-data; boundary=x"}
    assert (await house.client.post(REQUESTS, content=b"--x--", headers=form)).status_code == 415


async def test_an_address_without_a_body_takes_none(house: House) -> None:
    answer = await house.client.request("GET", f"/v1/{ORG}", content=b"x")
    assert (answer.status_code, answer.json()["detail"]) == (413, "This address takes no body.")


async def test_cookies_are_no_credentials_for_the_api_and_none_is_ever_set(house: House) -> None:
    headers = await house.handler(Role.HANDLER)
    token = headers["authorization"].removeprefix("Bearer ")
    for name in ("habeas", "__Host-habeas", "session", "authorization"):
        answer = await house.client.get(f"/v1/{ORG}/cases", headers={"cookie": f"{name}={token}"})
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
    for path in ("/", f"/v1/{ORG}", "/health/live", "/nothing"):
        assert "set-cookie" not in (await house.client.get(path)).headers


async def test_no_other_site_may_read_an_answer(house: House) -> None:
    answer = await house.client.get(f"/v1/{ORG}", headers={"origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


async def test_every_answer_carries_the_headers_whatever_went_wrong(house: House, port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for answer in (
            await client.get(f"/v1/{ORG}"),
            await client.get("/nothing"),
            await client.get(f"/v1/{ORG}/cases"),
            await client.post(REQUESTS, content=b"x" * 70_000, headers={"content-type": "application/json"}),
            await client.get("/", headers={"host": "evil.example"}),
            await client.get("/health/live"),
        ):
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert "unsafe" not in answer.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert len(answer.headers["habeas-request-id"]) == 36
            assert "strict-transport-security" not in answer.headers, "plain http must not promise https"
            assert "server" not in answer.headers


async def test_https_is_promised_where_there_is_https(tmp_path_factory: pytest.TempPathFactory) -> None:
    url = fresh_sqlite(tmp_path_factory.mktemp("https"))
    async with open_house(url, public_url="https://privacy.nordlys.example") as house:
        answer = await house.client.get("/nothing", headers={"host": "privacy.nordlys.example"})
        assert answer.headers["strict-transport-security"].startswith("max-age=")


async def test_nothing_that_a_caller_sends_is_echoed_or_logged(house: House) -> None:
    planted = "planted-søren@example.dk-0101701234"
    plain = "planted-soren@example.dk"
    with capture_logs() as logs:
        answers = [
            await house.client.post(REQUESTS, json={"email": planted}, headers={"x-note": plain, "referer": plain}),
            await house.client.get(f"/v1/{ORG}/{plain}"),
            await house.client.get(f"/v1/{ORG}/cases?state={plain}"),
            await house.client.get(f"/v1/{ORG}/requests/{new_reference()}?link={plain}"),
            await house.client.post(f"/v1/{ORG}/token", json={"username": planted, "password": planted}),
            await house.client.post(f"/v1/{ORG}/token", json={planted: planted}),
            await house.client.post(
                f"/v1/{ORG}/token", content=f"{{{planted}".encode(), headers={"content-type": "application/json"}
            ),
            await house.client.get(f"/v1/{ORG}", headers={"authorization": f"Bearer {plain}"}),
            await house.client.get(f"/v1/{ORG}", headers={"host": plain}),
            await house.client.request("PLANTED", f"/v1/{ORG}"),
        ]
    for answer in answers:
        assert "planted" not in answer.text.lower()
        assert "planted" not in str(answer.headers).lower()
    assert logs
    assert "planted" not in str(logs).lower()
    assert {line["route"] for line in logs} >= {"/v1/{organisation}/requests", "none"}


async def test_no_address_returns_configuration_or_source(house: House) -> None:
    headers = await house.handler(*Role)
    for path in ("/config", f"/v1/{ORG}/config", f"/v1/{ORG}/settings", "/metrics", "/openapi.json",
                 "/docs", "/redoc", "/.env", "/.git/config", "/gateway/settings.py"):  # fmt: skip
        assert (await house.client.get(path, headers=headers)).status_code == 404


async def test_secrets_of_keys_and_accounts_are_in_no_list(house: House) -> None:
    await house.system(Scope.EVENTS)
    headers = await house.handler(Role.ADMINISTRATOR)
    for path in ("/keys", "/accounts", "/account"):
        text = (await house.client.get(f"/v1/{ORG}{path}", headers=headers)).text
        assert "hash" not in text
        assert "secret" not in text
        assert "argon2" not in text


async def test_a_method_override_header_overrides_nothing(house: House) -> None:
    reference = new_reference()
    answer = await house.client.get(
        f"/v1/{ORG}/requests/{reference}", headers={"x-http-method-override": "DELETE", "x-method-override": "DELETE"}
    )
    assert answer.status_code == 200
    assert [seen.method for seen in house.echoes["intake"].seen] == ["GET"]


async def test_an_upgrade_or_a_websocket_gets_nowhere(house: House, port: int) -> None:
    answer = await raw(port, head("GET", f"/v1/{ORG}", "Upgrade: websocket", "Connection: Upgrade",
                                  "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13"), seconds=1)  # fmt: skip
    assert status_of(answer) != 101
    sent: list[dict[str, object]] = []

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message)

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    await house.app({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_an_answer_that_breaks_off_never_looks_whole(house: House, port: int) -> None:
    def breaks_off(_: Seen) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"a" * 100_000
            raise RuntimeError("the disk is gone")

        return StreamingResponse(chunks(), media_type="application/json")

    house.echoes["intake"].answers["GET", "/organisation"] = breaks_off
    answer = await raw(port, head("GET", f"/v1/{ORG}"))
    del house.echoes["intake"].answers["GET", "/organisation"]
    assert status_of(answer) == 200
    assert not answer.endswith(b"0\r\n\r\n")


async def test_what_the_service_says_in_a_problem_comes_through(house: House) -> None:
    problem = {"type": "urn:habeas:problem:case-closed", "title": "Conflict", "status": 409, "detail": "closed"}
    answer = JSONResponse(problem, 409, media_type="application/problem+json")
    house.echoes["intake"].answers["GET", "/organisation"] = lambda _: answer
    found = await house.client.get(f"/v1/{ORG}")
    del house.echoes["intake"].answers["GET", "/organisation"]
    assert (found.status_code, found.json()) == (409, json.loads(bytes(answer.body)))
    assert found.headers["content-type"] == "application/problem+json"

"""Does the http connector read a real API as declared, and never take trouble for "nobody here"?"""

import asyncio
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from services.locator.connectors import Connectors
from services.locator.connectors.base import Code, ConnectorError, NeedsPerson, Rejected, Search, Unavailable
from services.locator.connectors.web import EgressWeb
from services.locator.secrets import Secrets
from shared.clock import utc_now
from shared.messages import Identifier, Record
from shared.register import Register
from shared.vocabulary import Assurance
from tests.fakes.api import TOKEN
from tests.support.registers import ORG, entity, http, register

MINE = list(range(1, 26, 2))
FIELDS = {"id": {}, "email": {"path": "$.requester.email"}, "subject": {}}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    program = Path(__file__).parents[1] / "fakes" / "api.py"
    process = subprocess.Popen([sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    process.stdin.close()
    process.wait(10)
    process.stdout.close()


@pytest.fixture
def api(server: str) -> str:
    look(server, "/reset")
    return server


def look(server: str, path: str) -> Any:
    with urllib.request.urlopen(server + path) as answer:
        return msgspec.json.decode(answer.read())


def known(value: str, kind: str = "email") -> Identifier:
    return Identifier(type=kind, value=value, assurance=Assurance.CONTROLLED)


def tickets(api: str, path: str, *, paging: dict[str, Any] | None = None, **rest: Any) -> Register:
    finder = {"field": "email", "path": path, "query": {"email": "{value}"}}
    ticket = entity(
        FIELDS, key="id", records=rest.pop("records", "$.tickets"), find_by={"email": finder}, paging=paging or {}
    )
    return register({"desk": http({"ticket": ticket}, base_url=rest.pop("base_url", api), **rest)})


def connectors(**secrets: str) -> Connectors:
    known = {ORG: {name: SecretStr(value) for name, value in {"token": TOKEN, **secrets}.items()}}
    return Connectors(Secrets(known), EgressWeb, utc_now)


async def find(
    of: Register, *wanted: Identifier, using: Connectors | None = None, earlier: tuple[Identifier, ...] = ()
) -> list[Record]:
    hub = using or connectors()
    try:
        search = Search.of(of, "desk", wanted or (known("aase@example.dk"),), earlier)
        async with aclosing(hub.get(ORG, "desk", of.systems["desk"]).locate(search)) as stream:
            return [found.record async for found in stream]
    finally:
        if using is None:
            await hub.close()


async def failing(of: Register, *wanted: Identifier) -> ConnectorError:
    with pytest.raises(ConnectorError) as caught:
        await find(of, *wanted)
    assert str(caught.value) == caught.value.code.value
    return caught.value


# --- signing in ----------------------------------------------------------------------------------------------------

AUTH: dict[str, dict[str, Any]] = {
    "none": {"kind": "none"},
    "bearer": {"kind": "bearer", "secret": "token"},
    "basic": {"kind": "basic", "username": "klient", "secret": "token"},
    "header": {"kind": "header", "header": "X-Key", "secret": "token"},
    "oauth": {"kind": "oauth2_client_credentials", "username": "klient", "secret": "token", "scope": "read"},
}


def auth_of(api: str, kind: str, token_path: str = "/token") -> dict[str, Any]:
    return AUTH[kind] | ({"token_url": api + token_path} if kind == "oauth" else {})


@pytest.mark.parametrize("kind", AUTH)
async def test_every_way_of_signing_in_works(api: str, kind: str) -> None:
    found = await find(tickets(api, f"/auth/{kind}", auth=auth_of(api, kind)))
    assert [int(record.key) for record in found] == MINE


async def test_a_token_is_fetched_once_and_again_when_it_is_refused(api: str) -> None:
    of, hub = tickets(api, "/auth/oauth", auth=auth_of(api, "oauth")), connectors()
    for _time in range(2):
        assert len(await find(of, using=hub)) == len(MINE)
    assert look(api, "/stamps")["count"]["token"] == 1
    assert len(await find(of, using=hub)) == len(MINE)
    assert look(api, "/stamps")["count"]["token"] == 2
    await asyncio.gather(*(find(of, using=hub) for _ in range(5)))
    assert look(api, "/stamps")["count"]["token"] == 2
    await hub.close()


@pytest.mark.parametrize("kind", ["bearer", "basic", "header", "oauth"])
async def test_a_wrong_secret_is_rejected(api: str, kind: str) -> None:
    hub = connectors(token="forkert")
    with pytest.raises(Rejected, match=Code.NOT_AUTHORISED.value):
        await find(tickets(api, f"/auth/{kind}", auth=auth_of(api, kind)), using=hub)
    await hub.close()


async def test_a_missing_secret_goes_to_a_person(api: str) -> None:
    error = await failing(tickets(api, "/auth/bearer", auth={"kind": "bearer", "secret": "unset"}))
    assert (type(error), error.code) == (NeedsPerson, Code.SECRET_MISSING)


async def test_a_secret_with_a_line_break_is_not_put_into_a_header(api: str) -> None:
    hub = connectors(token="x\r\nhost: evil")
    with pytest.raises(NeedsPerson, match=Code.SECRET_MISSING.value):
        await find(tickets(api, "/auth/bearer", auth=AUTH["bearer"]), using=hub)
    await hub.close()


@pytest.mark.parametrize(("path", "code"), [("/token/down", Code.SERVER_ERROR), ("/token/odd", Code.UNEXPECTED_ANSWER)])
async def test_a_token_server_in_trouble_is_unavailable(api: str, path: str, code: Code) -> None:
    error = await failing(tickets(api, "/auth/oauth", auth=auth_of(api, "oauth", path)))
    assert (type(error), error.code) == (Unavailable, code)


# --- paging --------------------------------------------------------------------------------------------------------

PAGINGS: dict[str, dict[str, Any]] = {
    "page": {"kind": "page", "size_parameter": "per_page", "size": 50},
    "page404": {"kind": "page"},
    "offset": {"kind": "offset", "parameter": "skip"},
    "cursor": {"kind": "cursor", "parameter": "after", "next": "$.meta.next"},
    "link": {"kind": "link"},
    "shifting": {"kind": "page"},
}


@pytest.mark.parametrize("kind", PAGINGS)
async def test_every_way_of_paging_reaches_the_end_and_repeats_nothing(api: str, kind: str) -> None:
    found = await find(tickets(api, f"/{kind}", paging=PAGINGS[kind]))
    assert [int(record.key) for record in found] == MINE


@pytest.mark.parametrize("kind", ["page", "offset", "cursor"])
async def test_an_api_that_pages_in_a_circle_is_rejected(api: str, kind: str) -> None:
    error = await failing(tickets(api, "/loop", paging=PAGINGS[kind]))
    assert (type(error), error.code) == (Rejected, Code.PAGING_LOOP)


# --- what comes back -----------------------------------------------------------------------------------------------


async def test_a_record_says_how_it_is_bound(api: str) -> None:
    record = (await find(tickets(api, "/auth/none")))[0]
    assert record.bound == {"email": "aase@example.dk"}
    assert record.evidence == "field"
    assert record.fields == {"id": 1, "email": "Aase@Example.dk", "subject": "sag 1"}


async def test_an_api_that_ignores_the_filter_gives_away_nobody_else(api: str) -> None:
    found = await find(tickets(api, "/everyone"))
    assert [int(record.key) for record in found] == MINE
    assert await find(tickets(api, "/everyone"), known("nobody@example.dk")) == []


async def test_two_identifiers_of_one_person_find_each_record_once(api: str) -> None:
    found = await find(tickets(api, "/everyone"), known("aase@example.dk"), known("bo@example.dk"))
    assert sorted(int(record.key) for record in found) == list(range(1, 26))


async def test_what_was_found_before_is_left_out(api: str) -> None:
    found = await find(tickets(api, "/everyone"), known("bo@example.dk"), earlier=(known("aase@example.dk"),))
    assert {int(record.key) % 2 for record in found} == {0}


async def test_an_address_among_several_binds(api: str) -> None:
    finder = {"email": {"field": "to", "path": "/lists"}}
    of = register(
        {"desk": http({"mail": entity(["id", "to"], key="id", records="$.tickets", find_by=finder)}, base_url=api)}
    )
    (record,) = await find(of)
    assert (record.key, record.bound, record.evidence) == ("1", {"email": "aase@example.dk"}, "path")


async def test_a_value_in_a_path_is_encoded_and_the_answer_bound_by_it(api: str) -> None:
    finder = {"login": {"path": "/users/{value}"}}
    user = entity({"name": {}}, find_by=finder)
    room = entity({"room": {"path": "$"}}, key="room", records="$.rooms", find_by=finder)
    of = register({"desk": http({"user": user, "room": room}, base_url=api)})
    found = await find(of, known("a/b?c#d%e@x.dk", "login"))
    assert [record.fields for record in found] == [{"name": "Åse"}, {"room": "!a:x"}, {"room": "!b:x"}]
    assert [(record.bound, record.evidence) for record in found] == [({"login": "a/b?c#d%e@x.dk"}, "path")] * 3
    assert found[1].key == "!a:x"
    assert await find(of, known("anna", "login")) == []
    error = await failing(of, known("..", "login"))
    assert (type(error), error.code) == (NeedsPerson, Code.UNUSABLE_IDENTIFIER)


@pytest.mark.parametrize("path", ["/says/none", "/says/null", "/nocontent", "/status/404"])
async def test_nobody_is_what_the_api_says_with_an_empty_answer(api: str, path: str) -> None:
    assert await find(tickets(api, path)) == []


# --- trouble -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind", "code"),
    [
        ("/says/garbage", Unavailable, Code.GARBLED),
        ("/says/empty", Unavailable, Code.GARBLED),
        ("/says/nan", Unavailable, Code.GARBLED),
        ("/says/deep", Unavailable, Code.GARBLED),
        ("/says/surrogate", Unavailable, Code.GARBLED),
        ("/says/error", Unavailable, Code.UNEXPECTED_ANSWER),
        ("/says/fields", Unavailable, Code.UNEXPECTED_ANSWER),
        ("/says/strings", Unavailable, Code.UNEXPECTED_ANSWER),
        ("/says/nokey", Rejected, Code.UNEXPECTED_ANSWER),
        ("/says/unbound", Rejected, Code.UNBINDABLE),
        ("/half", Unavailable, Code.GARBLED),
        ("/huge", Rejected, Code.TOO_LARGE),
        ("/html404", Rejected, Code.UNEXPECTED_ANSWER),
        ("/redirect", Rejected, Code.REDIRECTED),
        ("/status/400", Rejected, Code.REFUSED),
        ("/status/401", Rejected, Code.NOT_AUTHORISED),
        ("/status/403", Rejected, Code.NOT_AUTHORISED),
        ("/status/408", Unavailable, Code.BUSY),
        ("/status/429", Unavailable, Code.BUSY),
        ("/status/500", Unavailable, Code.SERVER_ERROR),
        ("/status/503", Unavailable, Code.BUSY),
    ],
)
async def test_trouble_is_told_by_a_code_and_never_taken_for_nobody(
    api: str, path: str, kind: type[ConnectorError], code: Code
) -> None:
    error = await failing(tickets(api, path))
    assert (type(error), error.code) == (kind, code)


async def test_a_system_that_is_too_slow_is_unavailable(api: str) -> None:
    begun = perf_counter()
    error = await failing(tickets(api, "/slow/5", timeout_seconds=0.3))
    assert (type(error), error.code) == (Unavailable, Code.TIMEOUT)
    assert perf_counter() - begun < 2


async def test_a_system_that_is_not_there_is_unavailable(api: str) -> None:
    error = await failing(tickets("http://127.0.0.1:1", "/x"))
    assert (type(error), error.code) == (Unavailable, Code.UNREACHABLE)


@pytest.mark.parametrize(
    "base_url", ["http://169.254.169.254", "http://10.0.0.1", "https://[::1]", "http://[::ffff:10.0.0.1]"]
)
async def test_an_address_that_the_register_does_not_open_is_not_called(base_url: str) -> None:
    error = await failing(tickets("", "/x", base_url=base_url))
    assert (type(error), error.code) == (Rejected, Code.FORBIDDEN_ADDRESS)


async def test_a_network_that_may_never_be_opened_is_rejected(api: str) -> None:
    of = tickets(api, "/x").model_dump(mode="json")
    of["systems"]["desk"]["connector"]["allow_private"] = ["169.254.0.0/16"]
    error = await failing(Register.model_validate(of))
    assert (type(error), error.code) == (Rejected, Code.FORBIDDEN_ADDRESS)


# --- pace ----------------------------------------------------------------------------------------------------------


async def test_a_short_wait_that_the_system_asks_for_is_waited_in_place(api: str) -> None:
    begun = perf_counter()
    found = await find(tickets(api, "/retry/2/1"))
    assert len(found) == len(MINE)
    assert perf_counter() - begun >= 1.9


async def test_a_wait_holds_all_tasks_of_the_process_back(api: str) -> None:
    hub, of, other = connectors(), tickets(api, "/retry/1/1"), tickets(api, "/auth/none")
    waiting = asyncio.create_task(find(of, using=hub))
    await asyncio.sleep(0.2)
    begun = perf_counter()
    await find(other, using=hub)
    assert perf_counter() - begun >= 0.6
    await waiting
    await hub.close()


async def test_a_long_wait_puts_the_task_off(api: str) -> None:
    error = await failing(tickets(api, "/retry/9/3600"))
    assert isinstance(error, Unavailable)
    assert (error.code, error.retry_after) == (Code.BUSY, 3600.0)


async def test_a_date_is_a_wait_too(api: str) -> None:
    at = datetime(2099, 1, 1, tzinfo=UTC)
    error = await failing(tickets(api, "/retry/9/Thu,%2001%20Jan%202099%2000:00:00%20GMT"))
    assert isinstance(error, Unavailable)
    assert error.retry_after == pytest.approx((at - utc_now()).total_seconds(), abs=5)


async def test_a_system_that_goes_on_asking_for_waits_is_put_off(api: str) -> None:
    error = await failing(tickets(api, "/retry/99/0"))
    assert (type(error), error.code) == (Unavailable, Code.BUSY)
    assert look(api, "/stamps")["count"]["retry"] == 4


async def test_a_system_is_asked_no_faster_than_the_register_says(api: str) -> None:
    hub, of = connectors(), tickets(api, "/auth/none", rate_per_second=10)
    begun = perf_counter()
    await asyncio.gather(*(find(of, using=hub) for _ in range(16)))
    assert perf_counter() - begun >= 0.55
    assert len(look(api, "/stamps")["stamps"]) == 16
    await hub.close()


# --- probing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "reachable", "code"),
    [
        ("/auth/none", True, None),
        ("/status/404", True, None),
        ("/auth/bearer", True, Code.NOT_AUTHORISED),
        ("/says/error", True, Code.UNEXPECTED_ANSWER),
        ("/status/500", False, Code.SERVER_ERROR),
    ],
)
async def test_a_probe_asks_for_nobody_and_says_what_it_sees(
    api: str, path: str, reachable: bool, code: Code | None
) -> None:
    hub, of = connectors(), tickets(api, path)
    findings = await hub.get(ORG, "desk", of.systems["desk"]).probe()
    await hub.close()
    assert (findings.reachable, findings.code) == (reachable, code)

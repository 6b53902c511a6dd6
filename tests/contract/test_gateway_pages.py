"""The pages come through the same door: the same sessions, the same limits, and forms from our own pages only."""

import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter
from fastapi.responses import HTMLResponse, JSONResponse, Response

from gateway.portal import Door, portal_router
from gateway.portal_door import PortalDoor
from shared.ids import new_id, new_reference
from shared.vocabulary import Role
from tests.contract.gateway_house import BASE, ORG, House, Seen, fresh_sqlite, open_house, stream_of

CASE, PACKAGE = new_id(), new_id()
ORIGIN = {"origin": BASE}
INFO = {
    "organisation": {
        "id": ORG,
        "name": "Nordlys IT ApS",
        "address": "Havnegade 1, 8000 Aarhus C",
        "country": "DK",
        "timezone": "Europe/Copenhagen",
        "contact": {"email": "privatliv@nordlys.example"},
        "authority": {"name": "Datatilsynet", "url": "https://www.datatilsynet.dk"},
    },
    "questions": {"customer_number": {"label": {"da": "Kundenummer", "en": "Customer number"}, "ask": True}},
}
DATES = {"received_on": "2026-11-21", "due": "2026-12-21", "next_step": "verify"}
REQUEST = {"right": "access", "name": "Søren Østergård", "email": "soren@example.dk", "once": "abcdefgh12345678"}


def pages(door: PortalDoor) -> APIRouter:
    checked: Door = door
    return portal_router(checked, [ORG], secure=False)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(fresh_sqlite(tmp_path), portal=pages) as found:
        found.echoes["intake"].says("GET", "/organisation", INFO)
        yield found


def case(house: House) -> str:
    """Let intake know a case, and return its reference."""
    reference = new_reference()
    intake = house.echoes["intake"]
    intake.says("POST", "/requests", {"reference": reference, **DATES}, 202)
    intake.says("POST", f"/requests/{reference}/verification", {"case_id": CASE, "collection_code": "H7KM-2PQX-94RD"})
    intake.says("POST", f"/requests/{reference}/collection", None, 204)
    intake.says("GET", f"/requests/{reference}/package-id", {"package_id": PACKAGE})
    intake.answers["GET", f"/requests/{reference}"] = partial(status, reference)
    return reference


def status(reference: str, seen: Seen) -> Response:
    public = {"reference": reference, **DATES}
    told = {"right": "access", "state": "in_progress", "headline": "Vi leder", "paragraphs": ["Vent."], "language": "da",
            "package": {"ready": True, "expires_on": "2026-12-31", "collected_at": None}}  # fmt: skip
    return JSONResponse(public | told if seen.claims.case == CASE else public)


async def post(house: House, path: str, **fields: str) -> httpx.Response:
    return await house.client.post(f"/{ORG}{path}", data=fields, headers=ORIGIN)


async def prove(house: House, reference: str) -> httpx.Response:
    return await post(house, f"/requests/{reference}/code", code="12345678")


async def test_a_person_asks_proves_and_collects_through_the_pages(house: House) -> None:
    reference = case(house)
    assert "set-cookie" not in (await house.client.get(f"/{ORG}")).headers
    asked = await post(house, "/request", **REQUEST)
    assert (asked.status_code, asked.headers["location"].partition("?")[0]) == (
        303,
        f"/{ORG}/requests/{reference}/received",
    )
    assert "set-cookie" not in asked.headers
    opened = next(seen for seen in house.echoes["intake"].seen if seen.method == "POST")
    assert (opened.claims.subject, opened.headers["idempotency-key"]) == ("anonymous", REQUEST["once"])
    proven = await prove(house, reference)
    assert "H7KM-2PQX-94RD" in proven.text
    cookie = proven.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "Vi leder" in (await house.client.get(f"/{ORG}/requests/{reference}")).text
    early = await post(house, f"/requests/{reference}/package")
    assert early.headers["location"].partition("?")[0] == f"/{ORG}/requests/{reference}/collect"
    assert (await post(house, f"/requests/{reference}/collect", code="H7KM2PQX94RD")).status_code == 303
    exporter = house.echoes["exporter"]
    exporter.answers["GET", f"/packages/{PACKAGE}/archive"] = stream_of(2)
    package = await post(house, f"/requests/{reference}/package")
    assert (package.status_code, len(package.content)) == (200, 2 * 1024 * 1024)
    assert [seen.path for seen in exporter.seen] == [f"/packages/{PACKAGE}/archive", f"/packages/{PACKAGE}/collected"]
    assert exporter.seen[0].claims.level == "collect"
    left = await post(house, "/leave")
    assert left.status_code == 303
    house.client.cookies.clear()


async def test_a_person_offers_more_asks_for_a_new_code_and_withdraws_through_the_pages(house: House) -> None:
    reference = case(house)
    intake = house.echoes["intake"]
    intake.says("DELETE", f"/requests/{reference}", None, 204)
    assert (await post(house, f"/requests/{reference}/new-code")).status_code == 303
    assert (intake.seen[-1].method, intake.seen[-1].path) == ("POST", f"/requests/{reference}/code")
    await prove(house, reference)
    fields = {"identifier-customer_number": "K123456"}
    assert (await post(house, f"/requests/{reference}/identifiers", **fields)).status_code == 303
    assert json.loads(intake.seen[-1].body) == {"identifiers": [{"type": "customer_number", "value": "K123456"}]}
    assert intake.seen[-1].claims.case == CASE
    assert (await post(house, f"/requests/{reference}/withdraw")).status_code == 303
    assert (intake.seen[-1].method, intake.seen[-1].claims.case) == ("DELETE", CASE)


async def test_a_session_that_was_left_is_over(house: House) -> None:
    reference = case(house)
    await prove(house, reference)
    kept = dict(house.client.cookies)
    await post(house, "/leave")
    house.client.cookies.update(kept)
    page = await house.client.get(f"/{ORG}/requests/{reference}")
    assert page.status_code == 200
    assert "Vi leder" not in page.text


async def test_the_cookie_of_one_case_shows_nothing_of_another(house: House) -> None:
    mine, other = case(house), case(house)
    await prove(house, mine)
    page = await house.client.get(f"/{ORG}/requests/{other}")
    assert "Vi leder" not in page.text
    assert page.status_code == 200
    assert (await post(house, f"/requests/{other}/withdraw")).status_code == 303
    assert not [seen for seen in house.echoes["intake"].seen if seen.method == "DELETE"]


async def test_a_handler_s_token_in_the_cookie_is_no_person(house: House) -> None:
    reference = case(house)
    token = (await house.handler(Role.HANDLER))["authorization"].removeprefix("Bearer ")
    for value in (token, "x", "hbs_" + "A" * 43):
        house.client.cookies.set("habeas", value)
        assert "Vi leder" not in (await house.client.get(f"/{ORG}/requests/{reference}")).text
        assert (await post(house, f"/requests/{reference}/withdraw")).status_code == 303
    assert not [seen for seen in house.echoes["intake"].seen if seen.claims.subject.startswith("handler:")]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8001"},
        {"origin": BASE, "sec-fetch-site": "cross-site"},
        {"origin": BASE, "sec-fetch-site": "same-site"},
    ],
)
async def test_a_form_on_another_site_changes_nothing(house: House, headers: dict[str, str]) -> None:
    reference = case(house)
    await prove(house, reference)
    before = house.calls()
    answer = await house.client.post(f"/{ORG}/requests/{reference}/withdraw", data={"a": "b"}, headers=headers)
    assert answer.status_code == 403
    assert house.calls() == before


async def test_pages_take_forms_and_nothing_else(house: House) -> None:
    for content_type in ("text/plain", "application/json", "multipart/form-data; boundary=x"):
        answer = await house.client.post(
            f"/{ORG}/request", content=b"a=b", headers={**ORIGIN, "content-type": content_type}
        )
        assert answer.status_code == 415
    form = {**ORIGIN, "content-type": "application/x-www-form-urlencoded"}
    assert (await house.client.post(f"/{ORG}/request", content=b"a" * 70_000, headers=form)).status_code == 413

    async def unannounced() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b"a" * 10_000

    assert (await house.client.post(f"/{ORG}/request", content=unannounced(), headers=form)).status_code == 413
    assert [seen.path for seen in house.echoes["intake"].seen] in ([], ["/organisation"])


async def test_pages_carry_the_headers_and_their_own_files_may_be_kept(house: House) -> None:
    page = await house.client.get(f"/{ORG}")
    assert "script-src" not in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["referrer-policy"] == "same-origin", "or browsers would say `Origin: null` with our own forms"
    assert page.headers["cache-control"] == "no-store"
    assert len(page.headers.get_list("x-content-type-options")) == 1
    path = next(part for part in page.text.split('"') if part.startswith("/static/") and ".css" in part)
    assert "immutable" in (await house.client.get(path)).headers["cache-control"]


async def test_the_answer_is_shown_in_a_sandbox(house: House) -> None:
    reference = case(house)
    house.echoes["exporter"].answers["GET", f"/packages/{PACKAGE}/answer"] = lambda _: HTMLResponse("<h1>Svar</h1>")
    await prove(house, reference)
    await post(house, f"/requests/{reference}/collect", code="H7KM2PQX94RD")
    page = await house.client.get(f"/{ORG}/requests/{reference}/answer")
    assert (page.status_code, page.text) == (200, "<h1>Svar</h1>")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert house.echoes["exporter"].seen[-1].query == "lang=da"


async def test_pages_count_for_the_same_limits_as_the_api(tmp_path: Path) -> None:
    async with open_house(fresh_sqlite(tmp_path), portal=pages, open_per_minute=2) as house:
        house.echoes["intake"].says("GET", "/organisation", INFO)
        case(house)
        assert (await post(house, "/request", **REQUEST)).status_code == 303
        assert (await house.client.post(house.path("/requests"), json={})).status_code == 202
        refused = await post(house, "/request", **REQUEST)
        assert refused.status_code == 429
        assert "Søren" in refused.text, "what was written is still there"


async def test_who_answers_here_is_asked_once_in_half_a_minute(house: House) -> None:
    for _ in range(3):
        assert (await house.client.get(f"/{ORG}")).status_code == 200
    assert len(house.echoes["intake"].seen) == 1
    house.clock.forward(seconds=30)
    await house.client.get(f"/{ORG}")
    assert len(house.echoes["intake"].seen) == 2


async def test_an_unknown_page_is_a_page_and_an_unknown_address_of_the_api_a_problem(house: House) -> None:
    page = await house.client.get("/vestas/request")
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (404, "text/html")
    problem = await house.client.get("/v1/nordlys/nothing")
    assert problem.headers["content-type"] == "application/problem+json"

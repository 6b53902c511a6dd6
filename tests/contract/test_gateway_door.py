"""Who gets through the door, and what reaches the services: every route, every kind of caller."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi.responses import JSONResponse, Response

from gateway.keys import Scope
from gateway.routes import ROUTES, Route
from shared.ids import new_id, new_reference
from shared.vocabulary import Role
from tests.contract.gateway_house import ORG, Echo, House, Seen, fresh_sqlite, open_house

KINDS = ["anonymous", "subject", "subject-collect", *Role, *Scope]
LIMITS = ("open", "prove", "read", "sign_in", "system")
LIMITLESS: dict[str, Any] = {f"{name}_per_minute": 100_000 for name in LIMITS}
CASE, PACKAGE = new_id(), new_id()
FORWARDED = [route for route in ROUTES if not route.is_local]


def intake_says(seen: Seen) -> Response:
    if seen.path.endswith("/package-id"):
        return JSONResponse({"package_id": PACKAGE})
    if seen.path.endswith("/verification"):
        return JSONResponse({"case_id": CASE, "collection_code": "ABCD"})
    return JSONResponse({"service": "intake", "id": new_id(), "secret": "whsec_abc"})


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with open_house(fresh_sqlite(tmp_path_factory.mktemp("door")), **LIMITLESS) as found:
        found.echoes["intake"].otherwise = intake_says
        yield found


@pytest.fixture(autouse=True)
def _nothing_seen_yet(house: House) -> None:
    for echo in house.echoes.values():
        echo.seen.clear()


async def headers_of(house: House, kind: str, reference: str) -> dict[str, str]:
    if kind == "anonymous":
        return {}
    if kind.startswith("subject"):
        return (await house.subject("collect" if kind == "subject-collect" else "verified", reference))[1]
    return await (house.system(kind) if kind in set(Scope) else house.handler(Role(kind)))


def filled(route: Route, reference: str) -> str:
    values = {"organisation": ORG, "reference": reference, "verb": "approve", "system": "crm", "number": "1",
              "file": f"{CASE}:1:2"}  # fmt: skip
    parts = route.template.split("/")
    return "/".join(values.get(part.strip("{}"), CASE) if part.startswith("{") else part for part in parts)


async def call(house: House, route: Route, reference: str, headers: dict[str, str]) -> httpx.Response:
    headers = {**headers, "idempotency-key": new_id()} if route.once != "no" else headers
    content = {"json": b"{}", "stream": b"x"}.get(route.body)
    if content:
        headers = {
            **headers,
            "content-type": "application/json" if route.body == "json" else "application/octet-stream",
        }
    return await house.client.request(route.method, filled(route, reference), headers=headers, content=content)


@pytest.mark.parametrize("kind", KINDS)
async def test_every_route_opens_to_its_callers_and_to_nobody_else(house: House, kind: str) -> None:
    reference = new_reference()
    headers = await headers_of(house, kind, reference)
    grants = {"subject", "subject-collect"} if kind == "subject-collect" else {kind}
    for route in FORWARDED:
        before = house.calls()
        answer = await call(house, route, reference, headers)
        where = f"{kind} {route.method} {route.template}: {answer.status_code}"
        if grants & route.who or route.is_of_the_house:
            assert answer.status_code == 200, where
            assert house.echoes[route.service].seen[-1].claims.organisation in {ORG, "none"}, where
        else:
            assert answer.status_code == (401 if kind == "anonymous" else 403), where
            assert house.calls() == before, where
            assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("kind", KINDS)
async def test_the_door_s_own_actions_open_to_their_callers_and_to_nobody_else(house: House, kind: str) -> None:
    reference = new_reference()
    grants = {"subject", "subject-collect"} if kind == "subject-collect" else {kind}
    for route in ROUTES:
        if route.is_local:
            answer = await call(house, route, reference, await headers_of(house, kind, reference))
            allowed = answer.status_code not in {401, 403}
            assert allowed == (bool(grants & route.who) or route.is_of_the_house), (
                f"{kind} {route.method} {route.template}"
            )


async def test_a_service_sees_who_calls_and_nothing_else_that_the_caller_brought(house: House) -> None:
    reference, headers = await house.subject()
    house.client.cookies.set("session", "1")
    answer = await house.client.get(
        house.path(f"/requests/{reference.lower()}?lang=da"),
        headers={
            **headers,
            "x-forwarded-for": "1.2.3.4",
            "x-principal": "handler:1",
            "habeas-subject": "handler:1",
            "accept-language": "da",
            "referer": "http://127.0.0.1/secret",
        },
    )
    house.client.cookies.clear()
    (seen,) = house.echoes["intake"].seen
    assert (seen.path, seen.query) == (f"/requests/{reference}", "lang=da")
    assert (seen.claims.subject, seen.claims.case) == (f"subject:{house.cases[reference]}", house.cases[reference])
    assert (seen.claims.level, seen.claims.organisation, seen.claims.audience) == ("verified", ORG, "intake")
    assert seen.headers.keys() <= {"host", "authorization", "accept-language"}
    assert seen.headers["accept-language"] == "da"
    assert headers["authorization"] not in seen.headers.values()
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("kind", "subject", "roles"),
    [(Role.DPO, "handler:", {"dpo"}), (Scope.EVENTS, "system:", {"system", "events"})],
)
async def test_a_service_sees_the_roles_of_an_account_and_the_scopes_of_a_key(
    house: House, kind: str, subject: str, roles: set[str]
) -> None:
    path = "/events" if kind is Scope.EVENTS else "/audit"
    await house.client.get(house.path(path), headers=await headers_of(house, kind, new_reference()))
    claims = house.echoes["intake"].seen[-1].claims
    assert claims.subject.startswith(subject)
    assert claims.roles == roles
    assert claims.case is None


async def test_a_foreign_reference_and_an_unknown_one_are_the_same_404(house: House) -> None:
    _, mine = await house.subject("collect")
    theirs, _ = await house.subject()
    for tail in ("", "/answer", "/package"):
        foreign = await house.client.get(house.path(f"/requests/{theirs}{tail}"), headers=mine)
        unknown = await house.client.get(house.path(f"/requests/{new_reference()}{tail}"), headers=mine)
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.content == unknown.content
    for method, tail in (("DELETE", ""), ("POST", "/collection"), ("POST", "/identifiers"), ("POST", "/verification")):
        answer = await house.client.request(
            method, house.path(f"/requests/{theirs}{tail}"), headers=mine, json={} if method == "POST" else None
        )
        assert answer.status_code == 404
    assert house.calls() == 0


async def test_another_organisation_s_credentials_open_nothing(house: House) -> None:
    handler = await house.handler(Role.HANDLER)
    _, subject = await house.subject()
    key = await house.system(Scope.EVENTS)
    for headers in (handler, subject, key):
        answer = await house.client.get(house.path("/cases", "vestas"), headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert house.calls() == 0


async def test_unknown_addresses_and_wrong_methods_are_told_as_problems(house: House) -> None:
    unknown = await house.client.get("/v1/nordlys/config")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:habeas:problem:not-found")
    wrong = await house.client.patch(house.path("/requests"))
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["type"] == "urn:habeas:problem:method-not-allowed"
    for path in ("/", "/openapi.json", "/docs", "/v1", "/registers/1", "/nordlys/../v1"):
        assert (await house.client.get(path)).status_code == 404
    assert (await house.client.options(house.path("/requests"))).status_code == 405
    assert (await house.client.head(house.path("/cases"))).status_code == 405


async def test_inner_addresses_are_not_to_be_had_from_outside(house: House) -> None:
    headers = await house.handler(*Role)
    for method, tail in (
        ("GET", f"/registers/{CASE}"), ("PUT", f"/orders/{CASE}"), ("PUT", f"/packages/{CASE}"),
        ("PUT", f"/packages/{CASE}/release"), ("GET", f"/packages/{CASE}/archive"), ("DELETE", f"/packages/{CASE}"),
        ("GET", f"/requests/{new_reference()}/package-id"), ("POST", f"/packages/{CASE}/collected"),
    ):  # fmt: skip
        assert (await house.client.request(method, house.path(tail), headers=headers)).status_code == 404
    assert house.calls() == 0


async def test_proof_of_a_request_opens_a_session_for_that_request(house: House) -> None:
    reference = new_reference()
    proven = await house.client.post(house.path(f"/requests/{reference}/verification"), json={"code": "12345678"})
    assert proven.json().keys() == {"token", "expires_in", "collection_code"}
    assert (proven.json()["expires_in"], proven.json()["collection_code"]) == (1800, "ABCD")
    assert "set-cookie" not in proven.headers
    headers = {"authorization": f"Bearer {proven.json()['token']}"}
    assert (await house.client.get(house.path(f"/requests/{reference}"), headers=headers)).status_code == 200
    assert house.echoes["intake"].seen[-1].claims.case == CASE
    assert (await house.client.get(house.path(f"/requests/{reference}/package"), headers=headers)).status_code == 403
    second = await house.client.post(
        house.path(f"/requests/{reference}/collection"), json={"collection_code": "ABCD"}, headers=headers
    )
    assert second.json().keys() == {"token", "expires_in"}
    assert second.json()["expires_in"] == 900
    headers = {"authorization": f"Bearer {second.json()['token']}"}
    package = await house.client.get(house.path(f"/requests/{reference}/package"), headers=headers)
    assert package.status_code == 200
    assert [seen.path for seen in house.echoes["exporter"].seen] == [
        f"/packages/{PACKAGE}/archive",
        f"/packages/{PACKAGE}/collected",
    ]
    assert house.echoes["exporter"].seen[0].claims.level == "collect"


async def test_a_wrong_code_opens_no_session_and_its_problem_comes_through(house: House) -> None:
    reference = new_reference()
    path = f"/requests/{reference}/verification"
    house.echoes["intake"].says("POST", path, {"type": "urn:habeas:problem:wrong-code", "status": 422}, 422)
    answer = await house.client.post(house.path(path), json={"code": "00000000"})
    assert answer.status_code == 422
    assert "token" not in answer.json()


async def test_a_session_ends_in_time_and_by_leaving(house: House) -> None:
    reference, headers = await house.subject()
    left = await house.client.delete(house.path("/token"), headers=headers)
    assert (left.status_code, left.content) == (204, b"")
    assert (await house.client.delete(house.path(f"/requests/{reference}"), headers=headers)).status_code == 401
    reference, headers = await house.subject()
    house.clock.forward(minutes=30)
    assert (await house.client.delete(house.path(f"/requests/{reference}"), headers=headers)).status_code == 401


async def test_a_handler_s_session_ends_when_idle_and_after_a_day_s_work(house: House) -> None:
    headers = await house.handler(Role.HANDLER)

    async def status() -> int:
        return (await house.client.get(house.path("/cases"), headers=headers)).status_code

    for _ in range(29):
        house.clock.forward(minutes=24)
        assert await status() == 200
    house.clock.forward(minutes=25)
    assert await status() == 401, "twelve hours have passed"
    headers = await house.handler(Role.HANDLER)
    house.clock.forward(minutes=31)
    assert await status() == 401, "half an hour of silence"


async def test_the_public_keys_of_packages_are_asked_for_by_organisation(house: House) -> None:
    answer = await house.client.get(f"/.well-known/habeas-jwks.json?organisation={ORG}")
    assert answer.status_code == 200
    assert house.echoes["exporter"].seen[-1].path == "/jwks"
    assert house.echoes["exporter"].seen[-1].claims.organisation == ORG
    for query in ("?organisation=../x", "?organisation=", "?other=1", f"?organisation={ORG}&organisation=b"):
        assert (await house.client.get(f"/.well-known/habeas-jwks.json{query}")).status_code in {404, 422}


async def test_a_machine_needs_an_idempotency_key_to_open_a_request_and_a_person_does_not(house: House) -> None:
    body = {"right": "access"}
    assert (await house.client.post(house.path("/requests"), json=body)).status_code == 200
    headers = await house.system(Scope.REQUESTS)
    refused = await house.client.post(house.path("/requests"), json=body, headers=headers)
    assert refused.json()["type"] == "urn:habeas:problem:idempotency-key-missing"
    headers["idempotency-key"] = "order-0001"
    assert (await house.client.post(house.path("/requests"), json=body, headers=headers)).status_code == 200
    assert house.echoes["intake"].seen[-1].headers["idempotency-key"] == "order-0001"


async def test_a_service_can_set_no_cookie_and_loosen_no_header(house: House) -> None:
    def careless(_: Seen) -> Response:
        return Response(
            b"<p>hi</p>",
            media_type="text/html",
            headers={
                "set-cookie": "a=1",
                "access-control-allow-origin": "*",
                "content-security-policy": "script-src 'unsafe-inline'",
                "x-content-type-options": "none",
                "cache-control": "public",
                "server": "x",
                "location": "https://evil.example",
            },
        )

    house.echoes["exporter"].answers["GET", f"/packages/{PACKAGE}/answer"] = careless
    reference, headers = await house.subject("collect")
    answer = await house.client.get(house.path(f"/requests/{reference}/answer"), headers=headers)
    assert not {"set-cookie", "access-control-allow-origin", "server", "location"} & answer.headers.keys()
    assert "unsafe-inline" not in answer.headers["content-security-policy"]
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers["cache-control"] == "no-store"


async def test_a_service_that_refuses_our_own_token_is_our_failure_not_the_caller_s(house: House) -> None:
    house.echoes["intake"].says("GET", "/organisation", {"type": "urn:habeas:problem:unauthenticated"}, 401)
    answer = await house.client.get(house.path(""))
    del house.echoes["intake"].answers["GET", "/organisation"]
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:habeas:problem:service-failed")
    reference, headers = await house.subject("collect")
    house.echoes["intake"].says("GET", f"/requests/{reference}/package-id", {"title": "no"}, 401)
    answer = await house.client.get(house.path(f"/requests/{reference}/package"), headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:habeas:problem:service-failed")


async def test_a_service_that_breaks_is_told_as_a_problem_without_its_words(house: House) -> None:
    def breaks(_: Seen) -> Response:
        raise RuntimeError("søren@example.dk")

    house.echoes["intake"].answers["GET", "/organisation"] = breaks
    answer = await house.client.get(house.path(""))
    del house.echoes["intake"].answers["GET", "/organisation"]
    assert answer.status_code >= 500
    assert "søren" not in answer.text


async def test_an_unreached_service_is_unavailable(house: House) -> None:
    echoes: dict[str, Echo] = {name: house.echoes.pop(name) for name in list(house.echoes)}
    apps = house.post._apps  # type: ignore[attr-defined]
    removed = dict(apps)
    apps.clear()
    answer = await house.client.get(house.path(""))
    apps.update(removed)
    house.echoes.update(echoes)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:habeas:problem:not-reached")

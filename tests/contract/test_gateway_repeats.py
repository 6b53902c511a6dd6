"""Calls that are repeated, calls that come too often, and whether the house is well."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlmodel import select
from structlog.testing import capture_logs

from gateway.app import sweep
from gateway.tables import Idempotency, SubjectSession
from shared.ids import new_id, new_reference
from shared.vocabulary import Role
from tests.contract.gateway_house import ORG, House, fresh_sqlite, open_house

PASSWORD = "en lang sætning om vejret"
WEBHOOK = {"url": "https://erp.example/hook"}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(fresh_sqlite(tmp_path)) as found:
        found.echoes["intake"].says("POST", "/webhooks", {"id": "1", "secret": "whsec_abc"}, 201)
        yield found


async def make_account(house: House, headers: dict[str, str], key: str, username: str = "søren") -> httpx.Response:
    body = {"username": username, "password": PASSWORD, "roles": ["handler"]}
    return await house.client.post(house.path("/accounts"), json=body, headers={**headers, "idempotency-key": key})


async def add_webhook(house: House, headers: dict[str, str], key: str, **body: Any) -> httpx.Response:
    headers = {**headers, "idempotency-key": key}
    return await house.client.post(house.path("/webhooks"), json=body or WEBHOOK, headers=headers)


async def test_a_repeated_call_gets_the_first_answer_and_makes_nothing_twice(house: House) -> None:
    headers = await house.handler(Role.ADMINISTRATOR)
    first, second = await make_account(house, headers, "key-0001"), await make_account(house, headers, "key-0001")
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert second.json() == {"id": first.json()["id"], "roles": ["handler"]}
    assert len((await house.client.get(house.path("/accounts"), headers=headers)).json()["accounts"]) == 2


async def test_only_listed_fields_are_kept_for_a_repeated_call(house: House) -> None:
    await make_account(house, await house.handler(Role.ADMINISTRATOR), "key-0001")
    async with house.database.read(ORG) as session:
        row = (await session.exec(select(Idempotency))).one()
    assert row.answer is not None
    assert row.answer.keys() == {"id", "roles"}
    assert "key-0001" not in str(row.model_dump())
    assert "søren" not in str(row.model_dump())


async def test_an_answer_with_a_secret_is_not_repeated_and_nothing_is_made_twice(house: House) -> None:
    headers = await house.handler(Role.ADMINISTRATOR)
    first, second = await add_webhook(house, headers, "key-0001"), await add_webhook(house, headers, "key-0001")
    assert (first.status_code, first.json()["secret"]) == (201, "whsec_abc")
    assert (second.status_code, second.json()["type"]) == (409, "urn:habeas:problem:already-done")
    assert len(house.echoes["intake"].seen) == 1
    async with house.database.read(ORG) as session:
        assert (await session.exec(select(Idempotency))).one().answer is None


async def test_a_key_belongs_to_one_caller_one_body_and_one_address(house: House) -> None:
    one, two = await house.handler(Role.ADMINISTRATOR), await house.handler(Role.ADMINISTRATOR)
    assert (await add_webhook(house, one, "key-0001")).status_code == 201
    assert (await add_webhook(house, two, "key-0001")).status_code == 201
    assert (await make_account(house, one, "key-0001")).status_code == 201
    changed = await add_webhook(house, one, "key-0001", url="https://other.example")
    assert (changed.status_code, changed.json()["type"]) == (422, "urn:habeas:problem:idempotency-key-reused")
    assert len(house.echoes["intake"].seen) == 2


async def test_a_call_that_is_still_running_is_not_started_again(house: House) -> None:
    headers = await house.handler(Role.ADMINISTRATOR)
    answers = await asyncio.gather(*(make_account(house, headers, "key-0001") for _ in range(5)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len((await house.client.get(house.path("/accounts"), headers=headers)).json()["accounts"]) == 2


async def test_a_call_that_died_with_its_process_may_be_made_again(house: House) -> None:
    headers = await house.handler(Role.ADMINISTRATOR)
    await add_webhook(house, headers, "key-0001")
    async with house.database.write(ORG) as session:
        row = (await session.exec(select(Idempotency))).one()
        row.status = row.answer = None
        session.add(row)
        await session.flush()
    running = await add_webhook(house, headers, "key-0001")
    assert (running.status_code, running.headers["retry-after"]) == (409, "1")
    house.clock.forward(minutes=3)
    assert (await add_webhook(house, headers, "key-0001")).status_code == 201


@pytest.mark.parametrize("status", [409, 422, 500, 503])
async def test_a_call_that_failed_may_be_made_again(house: House, status: int) -> None:
    headers = await house.handler(Role.ADMINISTRATOR)
    house.echoes["intake"].says("POST", "/webhooks", {"title": "no"}, status)
    assert (await add_webhook(house, headers, "key-0001")).status_code == status
    house.echoes["intake"].says("POST", "/webhooks", {"id": "1"}, 201)
    assert (await add_webhook(house, headers, "key-0001")).status_code == 201


async def test_a_call_that_the_door_itself_refused_may_be_made_again(house: House) -> None:
    headers = {**await house.handler(Role.ADMINISTRATOR), "idempotency-key": "key-0001"}
    body = {"name": "ERP", "scopes": ["*"]}
    assert (await house.client.post(house.path("/keys"), json=body, headers=headers)).status_code == 422
    body = {"name": "ERP", "scopes": ["events"]}
    assert (await house.client.post(house.path("/keys"), json=body, headers=headers)).status_code == 201
    assert (await house.client.post(house.path("/keys"), json=body, headers=headers)).status_code == 409


async def test_after_a_day_a_key_is_forgotten(house: House) -> None:
    headers = await house.handler(Role.ADMINISTRATOR)
    await add_webhook(house, headers, "key-0001")
    house.clock.forward(hours=24, seconds=1)
    headers = await house.handler(Role.ADMINISTRATOR)
    await sweep(house.database, house.clock)
    async with house.database.read(ORG) as session:
        assert (await session.exec(select(Idempotency))).all() == []


@pytest.mark.parametrize("path", ["/requests", "/cases"])
async def test_what_intake_keeps_itself_goes_there_with_its_key_each_time(house: House, path: str) -> None:
    headers = await (house.system("requests") if path == "/requests" else house.handler(Role.HANDLER))
    missing = await house.client.post(house.path(path), json={}, headers=headers)
    assert missing.json()["type"] == "urn:habeas:problem:idempotency-key-missing"
    headers["idempotency-key"] = "short"
    bad = await house.client.post(house.path(path), json={}, headers=headers)
    assert bad.json()["type"] == "urn:habeas:problem:bad-idempotency-key"
    headers["idempotency-key"] = "key-0001"
    for _ in range(2):
        assert (await house.client.post(house.path(path), json={}, headers=headers)).status_code == 200
    assert [seen.headers["idempotency-key"] for seen in house.echoes["intake"].seen] == ["key-0001", "key-0001"]
    async with house.database.read(ORG) as session:
        assert (await session.exec(select(Idempotency))).all() == []


async def test_a_client_that_floods_is_told_to_wait_and_others_are_not(tmp_path: Path) -> None:
    async with open_house(fresh_sqlite(tmp_path), open_per_minute=3, prove_per_minute=2, read_per_minute=4) as house:
        reference = new_reference()

        async def post(tail: str) -> httpx.Response:
            return await house.client.post(house.path(tail), json={} if not tail.endswith("code") else None)

        assert [(await post("/requests")).status_code for _ in range(4)] == [200, 200, 200, 429]
        refused = await post("/requests")
        assert (refused.headers["retry-after"], refused.json()["type"]) == ("20", "urn:habeas:problem:too-many")
        assert [(await post(f"/requests/{reference}/code")).status_code for _ in range(3)] == [200, 200, 429]
        assert (await post(f"/requests/{reference}/verification")).status_code == 429
        assert [(await house.client.get(house.path(""))).status_code for _ in range(5)] == [200] * 4 + [429]
        forged = {"x-forwarded-for": "203.0.113.1", "forwarded": "for=203.0.113.1", "x-real-ip": "203.0.113.1"}
        assert (await house.client.post(house.path("/requests"), json={}, headers=forged)).status_code == 429
        other = httpx.ASGITransport(house.app, client=("198.51.100.9", 1))
        async with httpx.AsyncClient(transport=other, base_url="http://127.0.0.1:8000") as client:
            assert (await client.post(house.path("/requests"), json={})).status_code == 200
        system = {**await house.system("requests"), "idempotency-key": new_id()}
        assert (await house.client.post(house.path("/requests"), json={}, headers=system)).status_code == 200
        house.clock.forward(seconds=20)
        assert (await post("/requests")).status_code == 200


async def test_a_trusted_proxy_s_clients_are_counted_each_for_themselves(tmp_path: Path) -> None:
    async with open_house(fresh_sqlite(tmp_path), open_per_minute=1, trusted_proxies=["192.0.2.0/24"]) as house:

        async def status(client: str) -> int:
            headers = {"x-forwarded-for": client}
            return (await house.client.post(house.path("/requests"), json={}, headers=headers)).status_code

        assert [await status("203.0.113.1"), await status("203.0.113.2")] == [200, 200]
        assert [await status("203.0.113.1"), await status("9.9.9.9, 203.0.113.2")] == [429, 429]


async def test_wrong_credentials_are_counted_too(tmp_path: Path) -> None:
    async with open_house(fresh_sqlite(tmp_path), sign_in_per_minute=3) as house:
        headers = {"authorization": "Bearer hbh_" + "A" * 43}
        answers = [(await house.client.get(house.path("/cases"), headers=headers)).status_code for _ in range(4)]
        assert answers == [401, 401, 401, 429]


async def test_a_key_has_its_own_allowance(tmp_path: Path) -> None:
    async with open_house(fresh_sqlite(tmp_path), system_per_minute=2) as house:
        one, two = await house.system("events"), await house.system("events")
        path = house.path("/events")
        assert [(await house.client.get(path, headers=one)).status_code for _ in range(3)] == [200, 200, 429]
        assert (await house.client.get(path, headers=two)).status_code == 200


async def test_the_house_is_well_when_every_part_is(house: House) -> None:
    for odd in ({}, {"authorization": "Basic abc"}, {"authorization": "Bearer hbh_" + "A" * 43}):
        assert (await house.client.get("/health/live", headers=odd)).json() == {"status": "live"}
    ready = await house.client.get("/health/ready")
    parts = dict.fromkeys(("database", "intake", "locator", "exporter"), "ready")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "parts": parts})
    house.post._apps.pop("locator")  # type: ignore[attr-defined]
    assert (await house.client.get("/health/ready")).status_code == 200, "one look counts for a second"
    house.clock.forward(seconds=2)
    ill = await house.client.get("/health")
    assert (ill.status_code, ill.json()["parts"]["locator"]) == (503, "unavailable")
    assert (await house.client.get("/health/live")).status_code == 200


async def test_a_part_that_hangs_does_not_hang_the_question(tmp_path: Path) -> None:
    async with open_house(fresh_sqlite(tmp_path), ready_seconds=0.05) as house:

        async def hangs(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(30)

        house.post._apps["exporter"] = hangs  # type: ignore[attr-defined]
        ill = await house.client.get("/health/ready")
        assert (ill.status_code, ill.json()["parts"]["exporter"]) == (503, "unavailable")
        await house.database.close()
        await house.post.aclose()


async def test_a_database_that_is_gone_is_told() -> None:
    async with open_house("postgresql+psycopg://nobody@127.0.0.1:1/none") as house:
        ill = await house.client.get("/health/ready")
        assert (ill.status_code, ill.json()["parts"]["database"]) == (503, "unavailable")
        answer = await house.client.get(house.path("/cases"), headers={"authorization": "Bearer hbh_" + "A" * 43})
        assert (answer.status_code, answer.json()["type"]) == (500, "urn:habeas:problem:internal")


async def test_the_sweeper_runs_with_the_app(house_that_sweeps: House) -> None:
    await house_that_sweeps.subject()
    house_that_sweeps.clock.forward(hours=1)
    async with house_that_sweeps.app.router.lifespan_context(house_that_sweeps.app):
        await asyncio.sleep(0.2)
    async with house_that_sweeps.database.read(ORG) as session:
        assert (await session.exec(select(SubjectSession))).all() == []


async def test_a_sweep_that_fails_is_told_by_its_type_and_tried_again(house_that_sweeps: House) -> None:
    async with house_that_sweeps.database.write(None) as session:
        await (await session.connection()).execute(text("DROP TABLE gateway_idempotency"))
    with capture_logs() as logs:
        async with house_that_sweeps.app.router.lifespan_context(house_that_sweeps.app):
            await asyncio.sleep(0.2)
            assert (await house_that_sweeps.client.get("/health/live")).status_code == 200
    failed = [line for line in logs if line["event"] == "gateway.sweep_failed"]
    assert len(failed) > 1
    assert failed[0]["error"] == "OperationalError"


@pytest.fixture
async def house_that_sweeps(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(fresh_sqlite(tmp_path), sweep_seconds=0.01) as found:
        yield found

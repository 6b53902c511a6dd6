"""Accounts, passwords, lockouts and keys, through the door, on both databases."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlmodel import select

from gateway.accounts import Passwords
from gateway.app import sweep
from gateway.limits import ACCOUNT
from gateway.tables import OWNER, Account, ApiKey, HandlerSession, Lockout
from shared import ledger
from shared.migrating import differences, migrate
from shared.vocabulary import Role
from tests.contract.gateway_house import ORG, House, fresh_sqlite, open_house

PASSWORD = "en lang sætning om vejret"
SECOND = "en anden sætning om vinden"
_HASH: list[str] = []


async def password_hash() -> str:
    if not _HASH:
        _HASH.append(await Passwords().hash("mette", PASSWORD))
    return _HASH[0]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(fresh_sqlite(tmp_path), sign_in_per_minute=100_000) as found:
        yield found


async def sign_in(house: House, username: str, password: str = PASSWORD) -> httpx.Response:
    return await house.client.post(house.path("/token"), json={"username": username, "password": password})


async def mette(house: House, *roles: Role) -> str:
    return await house.account(*(roles or (Role.HANDLER,)), username="Mette", password_hash=await password_hash())


async def test_the_models_are_the_tables(database_url: str) -> None:
    migrate(database_url, (ledger.OWNER, OWNER))
    assert differences(database_url, (OWNER,)) == []


async def test_a_handler_signs_in_works_and_signs_out_on_either_database(database_url: str) -> None:
    migrate(database_url, (ledger.OWNER, OWNER))
    async with open_house(database_url) as house:
        await mette(house, Role.HANDLER, Role.DPO)
        answer = await sign_in(house, " METTE ")
        assert answer.status_code == 200
        body = answer.json()
        assert body == {"access_token": body["access_token"], "token_type": "bearer", "expires_in": 43200,
                        "roles": ["dpo", "handler"]}  # fmt: skip
        headers = {"authorization": f"Bearer {body['access_token']}"}
        assert (await house.client.get(house.path("/cases"), headers=headers)).status_code == 200
        me = (await house.client.get(house.path("/account"), headers=headers)).json()
        assert (me["username"], me["roles"]) == ("mette", ["dpo", "handler"])
        assert (await house.client.delete(house.path("/token"), headers=headers)).status_code == 204
        assert (await house.client.get(house.path("/cases"), headers=headers)).status_code == 401
        assert (await sign_in(house, "mette", "wrong password here")).status_code == 401
        reference, person = await house.subject()
        assert (await house.client.get(house.path(f"/requests/{reference}"), headers=person)).status_code == 200
        key = await house.system("events")
        assert (await house.client.get(house.path("/events"), headers=key)).status_code == 200


async def test_a_wrong_name_and_a_wrong_password_get_the_same_answer(house: House) -> None:
    await mette(house)
    wrong, unknown = await sign_in(house, "mette", "forkert kode her"), await sign_in(house, "nobody")
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.content == unknown.content


async def test_a_wrong_name_takes_as_long_as_a_wrong_password(house: House) -> None:
    await mette(house)

    async def seconds(username: str) -> float:
        began = time.perf_counter()
        await sign_in(house, username, "forkert kode her")
        return time.perf_counter() - began

    await seconds("warm")
    known = statistics.median([await seconds("mette") for _ in range(4)])
    unknown = statistics.median([await seconds(f"nobody{n}") for n in range(4)])
    assert 0.4 < unknown / known < 2.5


async def test_a_locked_account_looks_like_a_wrong_password(house: House) -> None:
    account_id = await mette(house)
    admin = await house.handler(Role.ADMINISTRATOR)
    assert (await house.client.post(house.path(f"/accounts/{account_id}/disable"), headers=admin)).status_code == 204
    answer = await sign_in(house, "mette")
    assert (answer.status_code, answer.json()["type"]) == (401, "urn:habeas:problem:wrong-password")
    assert (await house.client.post(house.path(f"/accounts/{account_id}/enable"), headers=admin)).status_code == 204
    assert (await sign_in(house, "mette")).status_code == 200


async def test_guessing_one_account_is_slowed_down_and_a_restart_does_not_forget_it(tmp_path: Path) -> None:
    url = fresh_sqlite(tmp_path)
    async with open_house(url, sign_in_per_minute=100_000) as house:
        await mette(house)
        for _ in range(5):
            assert (await sign_in(house, "mette", "forkert kode her")).status_code == 401
        blocked = await sign_in(house, "mette")
        assert (blocked.status_code, blocked.headers["retry-after"]) == (429, "30")
        unknown = [(await sign_in(house, "nobody")).status_code for _ in range(6)]
        assert unknown == [401] * 5 + [429], "an unknown name must not be told from a known one"
    async with open_house(url, sign_in_per_minute=100_000) as house:
        assert (await sign_in(house, "mette")).status_code == 429
        house.clock.forward(seconds=31)
        assert (await sign_in(house, "mette", "forkert kode her")).status_code == 401
        assert (await sign_in(house, "mette")).headers["retry-after"] == "60"
        house.clock.forward(seconds=61)
        assert (await sign_in(house, "mette")).status_code == 200
        assert (await sign_in(house, "mette", "forkert kode her")).status_code == 401, "a right one starts afresh"
        assert (await sign_in(house, "mette")).status_code == 200


async def test_guesses_at_the_same_moment_are_counted_before_they_are_tried(database_url: str) -> None:
    migrate(database_url, (ledger.OWNER, OWNER))
    async with open_house(database_url) as house:
        await mette(house)
        answers = await asyncio.gather(*(sign_in(house, "mette", f"forkert kode {n}") for n in range(12)))
        assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 7


async def test_guessing_many_accounts_is_slowed_down_per_client(house: House) -> None:
    await mette(house)
    for number in range(20):
        assert (await sign_in(house, f"name{number}", "forkert kode her")).status_code == 401
    assert (await sign_in(house, "mette")).status_code == 429
    elsewhere = httpx.ASGITransport(house.app, client=("198.51.100.9", 1))
    async with httpx.AsyncClient(transport=elsewhere, base_url="http://127.0.0.1:8000") as client:
        body = {"username": "mette", "password": PASSWORD}
        assert (await client.post(house.path("/token"), json=body)).status_code == 200


async def test_a_right_password_does_not_pay_for_guesses_elsewhere(house: House) -> None:
    """Whoever has one account must not get fresh tries at others by signing in to it."""
    await mette(house)
    for number in range(19):
        await sign_in(house, f"name{number}", "forkert kode her")
    assert (await sign_in(house, "mette")).status_code == 200
    assert (await sign_in(house, "name99", "forkert kode her")).status_code == 401
    assert (await sign_in(house, "mette")).status_code == 429


async def test_what_was_typed_as_a_name_is_not_kept(house: House) -> None:
    await sign_in(house, "hunter2-typed-in-the-wrong-field", "x")
    async with house.database.read(ORG) as session:
        rows = (await session.exec(select(Lockout))).all()
    assert len(rows) == 2
    assert "hunter2" not in str([row.model_dump() for row in rows])
    assert ACCOUNT.key(ORG, "hunter2-typed-in-the-wrong-field") in {row.id for row in rows}


async def test_a_new_password_ends_every_session_of_the_account(house: House) -> None:
    await mette(house)
    one, two = [(await sign_in(house, "mette")).json()["access_token"] for _ in range(2)]
    headers = [{"authorization": f"Bearer {token}"} for token in (one, two)]
    path = house.path("/account/password")
    wrong = await house.client.put(path, json={"current": "forkert", "password": SECOND}, headers=headers[0])
    assert wrong.status_code == 401
    weak = await house.client.put(path, json={"current": PASSWORD, "password": "kort"}, headers=headers[0])
    assert (weak.status_code, weak.json()["type"]) == (422, "urn:habeas:problem:weak-password")
    done = await house.client.put(path, json={"current": PASSWORD, "password": SECOND}, headers=headers[0])
    assert done.status_code == 204
    for old in headers:
        assert (await house.client.get(house.path("/cases"), headers=old)).status_code == 401
    assert (await sign_in(house, "mette")).status_code == 401
    assert (await sign_in(house, "mette", SECOND)).status_code == 200


async def test_a_password_changed_while_the_old_one_is_being_checked_opens_no_session(house: House) -> None:
    account_id = await mette(house)
    admin = await house.handler(Role.ADMINISTRATOR)
    change = house.client.put(house.path(f"/accounts/{account_id}/password"), json={"password": SECOND}, headers=admin)
    answers = await asyncio.gather(change, *(sign_in(house, "mette") for _ in range(3)))
    assert answers[0].status_code == 204
    for answer in answers[1:]:
        if answer.status_code == 200:
            headers = {"authorization": f"Bearer {answer.json()['access_token']}"}
            assert (await house.client.get(house.path("/cases"), headers=headers)).status_code == 401


async def test_an_administrator_gives_others_a_password_but_changes_their_own_with_the_present_one(
    house: House,
) -> None:
    account_id = await mette(house, Role.ADMINISTRATOR)
    headers = {"authorization": f"Bearer {(await sign_in(house, 'mette')).json()['access_token']}"}
    path = house.path(f"/accounts/{account_id}/password")
    assert (await house.client.put(path, json={"password": SECOND}, headers=headers)).status_code == 409
    disable = house.path(f"/accounts/{account_id}/disable")
    assert (await house.client.post(disable, headers=headers)).status_code == 409
    assert (await sign_in(house, "mette")).status_code == 200


async def test_a_disabled_handler_is_out_at_once(house: House) -> None:
    account_id = await mette(house)
    headers = {"authorization": f"Bearer {(await sign_in(house, 'mette')).json()['access_token']}"}
    admin = await house.handler(Role.ADMINISTRATOR)
    await house.client.post(house.path(f"/accounts/{account_id}/disable"), headers=admin)
    assert (await house.client.get(house.path("/cases"), headers=headers)).status_code == 401


async def test_an_administrator_creates_accounts_within_the_rules(house: House) -> None:
    admin = await house.handler(Role.ADMINISTRATOR)

    async def create(**body: Any) -> httpx.Response:
        return await house.client.post(house.path("/accounts"), json=body, headers=admin)

    made = await create(username="Søren", password=PASSWORD, roles=["handler", "dpo"])
    assert made.status_code == 201
    assert made.json() | {"id": "", "created_at": ""} == {
        "id": "", "username": "søren", "roles": ["dpo", "handler"], "created_at": "", "disabled_at": None,
    }  # fmt: skip
    assert (await sign_in(house, "søren")).json()["roles"] == ["dpo", "handler"]
    assert (await create(username="SØREN", password=PASSWORD, roles=["dpo"])).json()["type"].endswith("name-taken")
    weak = await create(username="anna", password="password1234"[:8], roles=["dpo"])
    assert (weak.status_code, weak.json()["type"]) == (422, "urn:habeas:problem:weak-password")
    for body in (
        {"username": "anna", "password": PASSWORD, "roles": []},
        {"username": "anna", "password": PASSWORD, "roles": ["root"]},
        {"username": "anna", "password": PASSWORD},
        {"username": "a", "password": PASSWORD, "roles": ["dpo"]},
        {"username": "an\nna", "password": PASSWORD, "roles": ["dpo"]},
        {"username": "anna", "password": PASSWORD, "roles": ["dpo"], "is_admin": True},
        {"username": 7, "password": PASSWORD, "roles": ["dpo"]},
    ):
        answer = await create(**body)
        assert answer.status_code == 422, body
        assert PASSWORD not in answer.text
    listed = (await house.client.get(house.path("/accounts"), headers=admin)).json()["accounts"]
    assert "søren" in {account["username"] for account in listed}


async def test_unknown_and_foreign_accounts_and_keys_are_the_same_404(house: House) -> None:
    foreign = await house.account(Role.HANDLER, organisation="vestas")
    admin = await house.handler(Role.ADMINISTRATOR)
    unknown = "0192f3a4-1111-7222-8333-444455556666"
    for method, tail, body in (
        ("POST", "/accounts/{}/disable", None), ("POST", "/accounts/{}/enable", None),
        ("PUT", "/accounts/{}/password", {"password": SECOND}), ("DELETE", "/keys/{}", None),
    ):  # fmt: skip
        answers = [
            await house.client.request(method, house.path(tail.format(name)), json=body, headers=admin)
            for name in (foreign, unknown)
        ]
        assert [answer.status_code for answer in answers] == [404, 404], tail
        assert answers[0].content == answers[1].content
    async with house.database.read("vestas") as session:
        account = (await session.exec(select(Account).where(Account.id == foreign))).one()
    assert account.disabled_at is None


async def test_a_key_is_shown_once_works_within_its_scopes_and_ends(house: House) -> None:
    admin = await house.handler(Role.ADMINISTRATOR)
    body = {"name": "ERP", "scopes": ["events"], "expires_in_days": 10}
    made = await house.client.post(house.path("/keys"), json=body, headers=admin)
    assert made.status_code == 201
    text, key_id = made.json()["key"], made.json()["id"]
    assert text.startswith(f"hbk_{made.json()['prefix']}_")
    headers = {"authorization": f"Bearer {text}"}
    assert (await house.client.get(house.path("/events"), headers=headers)).status_code == 200
    assert (await house.client.get(house.path("/cases"), headers=headers)).status_code == 403
    listed = (await house.client.get(house.path("/keys"), headers=admin)).json()["keys"]
    assert listed[0].keys() == made.json().keys() - {"key"}
    assert listed[0]["last_used_at"] is not None
    async with house.database.read(ORG) as session:
        stored = (await session.exec(select(ApiKey))).one()
    assert text.split("_", 2)[2] not in str(stored.model_dump())
    house.clock.forward(days=10)
    assert (await house.client.get(house.path("/events"), headers=headers)).status_code == 401, "expired"
    house.clock.forward(days=-9)
    admin = await house.handler(Role.ADMINISTRATOR)
    assert (await house.client.get(house.path("/events"), headers=headers)).status_code == 200
    assert (await house.client.delete(house.path(f"/keys/{key_id}"), headers=admin)).status_code == 204
    assert (await house.client.get(house.path("/events"), headers=headers)).status_code == 401, "revoked"
    assert (await house.client.delete(house.path(f"/keys/{key_id}"), headers=admin)).status_code == 404


async def test_a_key_with_the_right_prefix_and_a_wrong_secret_opens_nothing(house: House) -> None:
    text = (await house.system("events"))["authorization"]
    forged = text[:-4] + ("AAAA" if not text.endswith("AAAA") else "BBBB")
    assert (await house.client.get(house.path("/events"), headers={"authorization": forged})).status_code == 401


async def test_a_key_holds_known_scopes_for_a_bounded_time(house: House) -> None:
    admin = await house.handler(Role.ADMINISTRATOR)
    body: dict[str, Any] = {"name": "ERP", "scopes": ["events", "requests"]}
    changes: list[dict[str, Any]] = [{"scopes": ["*"]}, {"scopes": ["administrator"]}, {"scopes": []}, {"name": ""}]
    changes += [{"expires_in_days": days} for days in (0, 731, "7", 1.5)]
    assert (await house.client.post(house.path("/keys"), json=body, headers=admin)).status_code == 201
    for change in changes:
        bad = await house.client.post(house.path("/keys"), json=body | change, headers=admin)
        assert bad.status_code == 422, change


async def test_who_did_what_to_accounts_and_keys_is_in_the_ledger_without_names(house: House) -> None:
    account_id = await mette(house, Role.ADMINISTRATOR)
    headers = {"authorization": f"Bearer {(await sign_in(house, 'mette')).json()['access_token']}"}
    body = {"username": "anna", "password": PASSWORD, "roles": ["handler"]}
    other = (await house.client.post(house.path("/accounts"), json=body, headers=headers)).json()["id"]
    await house.client.put(house.path(f"/accounts/{other}/password"), json={"password": SECOND}, headers=headers)
    await house.client.post(house.path(f"/accounts/{other}/disable"), headers=headers)
    await house.client.post(house.path("/keys"), json={"name": "ERP", "scopes": ["events"]}, headers=headers)
    async with house.database.read(ORG) as session:
        entries = (await session.exec(select(ledger.Entry).order_by("id"))).all()
    assert [entry.kind for entry in entries] == [
        "account.created", "account.signed_in", "account.created", "account.password_changed", "account.disabled",
        "key.created",
    ]  # fmt: skip
    assert {entry.actor for entry in entries} == {"operator", f"handler:{account_id}"}
    assert "anna" not in str([entry.model_dump() for entry in entries])


async def test_the_sweep_deletes_what_has_expired_and_nothing_else(house: House) -> None:
    await house.handler(Role.HANDLER)
    _, person = await house.subject()
    await sign_in(house, "nobody")
    house.clock.forward(hours=25)
    await sweep(house.database, house.clock)
    async with house.database.read(ORG) as session:
        assert (await session.exec(select(HandlerSession))).all() == []
        assert (await session.exec(select(Lockout))).all() == []
        assert len((await session.exec(select(Account))).all()) == 1
    assert person

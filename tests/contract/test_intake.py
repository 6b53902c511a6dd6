import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlmodel import select

from services.intake import notify, orders, verification, work
from services.intake.letters import outbox
from services.intake.letters.smtp import Failed, Sent
from services.intake.tables import Identifier, Letter, Order
from shared import ledger
from shared.ids import new_id
from shared.problems import Conflict, Unavailable
from shared.vocabulary import Assurance, TaskState
from tests.support.intake import LEDGER_KEY, NOON, ORG, REGISTER, House, intake_house

PERSON = {"right": "access", "language": "da", "name": "Søren Østergård", "email": "soeren@example.dk"}
PLANTED = ("Østergård", "soeren@example.dk", "K100001", "+4520000001", "20000001", "min bil")


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with intake_house(database_url, tmp_path) as built:
        yield built


@pytest.fixture
async def sqlite_house(sqlite_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with intake_house(sqlite_url, tmp_path) as built:
        yield built


@asynccontextmanager
async def call(house: House, subject: str = "anonymous", **claims: Any) -> AsyncIterator[httpx.AsyncClient]:
    issuer = {"service:locator": house.locator, "service:exporter": house.exporter}.get(subject, house.gateway)
    token = issuer.issue("intake", subject, organisation=claims.pop("organisation", ORG), **claims)
    transport = httpx.ASGITransport(house.app, raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://intake", headers=headers) as client:
        yield client


def handler(house: House, name: str = "anna") -> Any:
    return call(house, f"handler:{name}", roles=["handler"])


async def opened(house: House, **more: Any) -> dict[str, Any]:
    async with call(house) as anyone:
        answer = await anyone.post("/requests", json=PERSON | more)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def mailed_code(house: House) -> str:
    await outbox.drain(house.desk)
    codes = [
        found for _to, letter, _id in house.mail.letters if (found := re.search(r"\b(\d{4}) ?(\d{4})\b", letter.text))
    ]
    return "".join(codes[-1].groups())


async def proven(house: House, **more: Any) -> dict[str, Any]:
    told = await opened(house, **more)
    async with call(house) as anyone:
        answer = await anyone.post(
            f"/requests/{told['reference']}/verification", json={"code": await mailed_code(house)}
        )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = told | answer.json()
    return found


async def order_of(house: House, case_id: str) -> Order:
    async with house.desk.database.read(ORG) as session:
        return (await session.exec(select(Order).where(Order.case_id == case_id).order_by(Order.id.desc()))).first()  # type: ignore[attr-defined,return-value]


def receipt(
    case_id: str, system: str, state: TaskState = TaskState.FOUND, records: int = 3, **more: Any
) -> dict[str, Any]:
    groups = [{"entity": "customer" if system == "crm" else "invoice", "records": records}] if records else []
    return {"organisation_id": ORG, "case_id": case_id, "system": system, "round": 1, "state": state.value, "groups": groups,
            "identifier_types": ["email"], "order_state": "open", "finished_at": NOON.isoformat()} | more  # fmt: skip


async def deliver(house: House, case_id: str, *receipts: dict[str, Any]) -> None:
    order = await order_of(house, case_id)
    async with call(house, "service:locator") as locator:
        for body in receipts:
            answer = await locator.put(f"/orders/{order.id}/receipts/{new_id()}/1", json=body)
            assert answer.status_code == 204, answer.text


async def located(house: House, case_id: str) -> Order:
    order = await order_of(house, case_id)
    await orders.send(house.desk, ORG, order.id, order.attempt)
    await deliver(house, case_id, receipt(case_id, "crm", order_state="located", tasks=2), receipt(case_id, "invoices"))
    return order


SEALED = {"records": 6, "withheld": 0, "unbound": 0, "bytes": 1000, "sha256": "a" * 64,
          "sealed_at": NOON.isoformat(), "expires_at": (NOON + timedelta(days=30)).isoformat()}  # fmt: skip


async def test_a_request_is_registered_with_its_clock_letters_and_ledger_in_one_step(house: House) -> None:
    told = await opened(house)
    assert told == {"reference": told["reference"], "received_on": "2026-03-05", "due": "2026-04-07",
                    "next_step": "verify", "right": "access", "language": "da"}  # fmt: skip
    case = await house.case(told["reference"])
    assert (case.state, case.identity, str(case.plan_date)) == ("received", "unproven", "2026-04-05")
    async with house.desk.database.read(ORG) as session:
        assert sorted((await session.exec(select(Letter.kind))).all()) == ["acknowledgement", "code"]
        assert (await session.exec(select(ledger.Entry.kind))).all() == ["case.received"]


async def test_the_same_key_and_body_is_the_same_case_and_another_body_is_refused(house: House) -> None:
    async with call(house) as anyone:
        first = await anyone.post("/requests", json=PERSON, headers={"idempotency-key": "0123456789"})
        again = await anyone.post("/requests", json=PERSON, headers={"idempotency-key": "0123456789"})
        other = await anyone.post("/requests", json=PERSON | {"name": "Bo"}, headers={"idempotency-key": "0123456789"})
    assert first.json() == again.json()
    assert other.status_code == 422
    assert other.json()["type"] == "urn:habeas:problem:idempotency-key-reused"


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"right": "everything"}, "/right"),
        ({"email": "not-an-address"}, "/email"),
        ({"email": None}, "/email"),
        ({"identifiers": [{"type": "phone", "value": "12"}]}, "/identifiers/0/value"),
        ({"identifiers": [{"type": "shoe_size", "value": "43"}]}, "/identifiers/0/value"),
        ({"identifiers": [{"type": "customer_number", "value": "hemmelig-værdi"}]}, "/identifiers/0/value"),
        ({"name": ""}, "/name"),
        ({"surprise": 1}, "/"),
        ({"language": "fr"}, "/language"),
    ],
)
async def test_bad_input_names_the_field_and_the_rule_and_never_the_value(
    sqlite_house: House, change: dict[str, Any], pointer: str
) -> None:
    async with call(sqlite_house) as anyone:
        answer = await anyone.post("/requests", json=PERSON | change)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["pointer"] == pointer
    for secret in ("not-an-address", "hemmelig", "everything", "shoe_size", "surprise"):
        assert secret not in answer.text
    async with sqlite_house.desk.database.read(ORG) as session:
        assert (await session.exec(select(Letter))).all() == []


async def test_an_unknown_organisation_is_not_found(sqlite_house: House) -> None:
    async with call(sqlite_house, organisation="elsewhere") as anyone:
        answer = await anyone.post("/requests", json=PERSON)
    assert answer.status_code == 404


async def test_a_marketing_objection_works_at_once_without_proof(house: House) -> None:
    told = await opened(house, right="marketing_objection")
    case = await house.case(told["reference"])
    assert (case.state, case.identity, case.urgent, told["next_step"]) == ("in_progress", "waived", True, "wait")
    order = await order_of(house, case.id)
    await orders.send(house.desk, ORG, order.id, 1)
    (_to, _method, _path, body) = house.post.sent[-1]
    assert body is not None
    assert body["verb"] == "person"
    assert body["identifiers"][0]["assurance"] == Assurance.CLAIMED


async def test_the_right_code_proves_the_person_and_starts_the_search(house: House) -> None:
    told = await proven(house, identifiers=[{"type": "customer_number", "value": "K100001"}])
    case = await house.case(told["reference"])
    assert (case.state, case.identity) == ("in_progress", "proven")
    assert re.fullmatch(r"[0-9A-Z]{4}(-[0-9A-Z]{4}){2}", told["collection_code"])
    order = await order_of(house, case.id)
    await orders.send(house.desk, ORG, order.id, 1)
    (exporter, locator) = house.post.sent
    assert exporter[:3] == ("exporter", "PUT", f"/packages/{order.id}")
    assert locator[:3] == ("locator", "PUT", f"/orders/{order.id}")
    assert locator[3] is not None
    assert locator[3]["identifiers"] == [
        {"type": "email", "value": "soeren@example.dk", "assurance": Assurance.CONTROLLED}
    ]


async def test_a_code_works_once_and_not_after_ten_minutes_and_not_after_five_tries(house: House) -> None:
    told = await opened(house)
    code = await mailed_code(house)
    path = f"/requests/{told['reference']}/verification"
    async with call(house) as anyone:
        wrong = f"{(int(code) + 1) % 10**8:08d}"
        for _ in range(4):
            assert (await anyone.post(path, json={"code": wrong})).status_code == 422
        assert (await anyone.post(path, json={"code": f"{code[:4]} {code[4:]}"})).status_code == 200
        assert (await anyone.post(path, json={"code": code})).status_code == 422
        await anyone.post(f"/requests/{told['reference']}/code")
        code = await mailed_code(house)
        for _ in range(5):
            assert (await anyone.post(path, json={"code": wrong})).status_code == 422
        assert (await anyone.post(path, json={"code": code})).status_code == 422
        await anyone.post(f"/requests/{told['reference']}/code")
        code = await mailed_code(house)
        house.clock.move(minutes=10, seconds=1)
    async with call(house) as anyone:
        assert (await anyone.post(path, json={"code": code})).status_code == 422


async def test_a_hundred_guesses_at_once_are_five_tries(sqlite_house: House) -> None:
    told = await opened(sqlite_house)
    code = await mailed_code(sqlite_house)
    path = f"/requests/{told['reference']}/verification"
    async with call(sqlite_house) as anyone:
        guesses = [f"{n:08d}" for n in range(20)]
        await asyncio.gather(*(anyone.post(path, json={"code": guess}) for guess in guesses))
        assert (await anyone.post(path, json={"code": code})).status_code == 422


async def test_an_unknown_reference_is_answered_like_a_wrong_code(sqlite_house: House) -> None:
    told = await opened(sqlite_house)
    async with call(sqlite_house) as anyone:
        wrong = await anyone.post(f"/requests/{told['reference']}/verification", json={"code": "00000000"})
        unknown = await anyone.post("/requests/2222-2222-2/verification", json={"code": "00000000"})
        assert (await anyone.post("/requests/2222-2222-2/code")).status_code == 202
    assert (wrong.status_code, wrong.json()) == (unknown.status_code, unknown.json())


async def test_an_address_gets_five_codes_an_hour_and_then_none_until_the_hour_is_over(sqlite_house: House) -> None:
    house = sqlite_house
    told = await opened(house)
    for _ in range(6):
        async with call(house) as anyone:
            assert (await anyone.post(f"/requests/{told['reference']}/code")).status_code == 202
        await outbox.drain(house.desk)
    states = await _letters(house)
    assert [state for kind, state in states if kind == "code"].count("sent") == verification.CODES_PER_HOUR
    assert ("code", "throttled") in states
    house.clock.move(hours=1, seconds=1)
    async with call(house) as anyone:
        await anyone.post(f"/requests/{told['reference']}/code")
    assert await outbox.drain(house.desk) == 1
    assert [state for kind, state in await _letters(house) if kind == "code"].count(
        "sent"
    ) == verification.CODES_PER_HOUR + 1


async def _letters(house: House) -> list[tuple[str, str]]:
    async with house.desk.database.read(ORG) as session:
        return [(row.kind, row.state) for row in (await session.exec(select(Letter).order_by(Letter.id))).all()]


async def test_before_proof_a_stranger_with_the_reference_sees_dates_only(sqlite_house: House) -> None:
    told = await proven(sqlite_house)
    async with call(sqlite_house) as anyone:
        seen = (await anyone.get(f"/requests/{told['reference']}")).json()
    assert set(seen) == {"reference", "received_on", "due", "next_step", "language"}


async def test_the_person_sees_their_status_and_nobody_elses(sqlite_house: House) -> None:
    mine = await proven(sqlite_house)
    other = await opened(sqlite_house, email="bo@example.dk")
    async with call(sqlite_house, f"subject:{mine['case_id']}", case=mine["case_id"]) as me:
        seen = (await me.get(f"/requests/{mine['reference']}")).json()
        foreign = await me.get(f"/requests/{other['reference']}")
        unknown = await me.get("/requests/2222-2222-2")
    assert seen["headline"] == "Vi har modtaget din anmodning"
    assert seen["paragraphs"] == ["Du får svar senest 7. april 2026.", "Du skal ikke gøre mere nu."]
    assert (foreign.status_code, foreign.json()["status"]) == (unknown.status_code, 404)


async def test_a_whole_case_is_located_decided_approved_released_and_collected(house: House) -> None:
    told = await proven(house)
    order = await located(house, told["case_id"])
    case = await house.case(told["reference"])
    assert (case.awaits_approval, case.state) == (True, "in_progress")
    async with handler(house) as anna:
        answer = await anna.post(f"/cases/{case.id}/approve")
        assert answer.status_code == 200, answer.text
        assert (await anna.post(f"/cases/{case.id}/approve")).status_code == 409
    house.post.answers["exporter", "release"] = {"package_id": order.id, **SEALED}
    await work.release(house.desk, ORG, order.id, (await order_of(house, case.id)).attempt)
    case = await house.case(told["reference"])
    assert (case.state, case.outcome, case.package) == ("fulfilled", "granted", "sealed")
    body = house.post.sent[-1][3]
    assert body is not None
    assert {(item["system"], item["records"]) for item in body["searched"]} == {("crm", 3), ("invoices", 3)}
    assert {item["article"] for item in body["decisions"]} == {"15"}
    async with call(house, f"subject:{case.id}", case=case.id) as me:
        wrong = await me.post(f"/requests/{told['reference']}/collection", json={"collection_code": "AAAA-AAAA-AAAA"})
        right = await me.post(
            f"/requests/{told['reference']}/collection", json={"collection_code": told["collection_code"].lower()}
        )
        package = await me.get(f"/requests/{told['reference']}/package-id")
    assert (wrong.status_code, right.status_code, package.json()) == (422, 204, {"package_id": order.id})
    async with call(house, "service:exporter") as exporter:
        for _ in range(2):
            assert (await exporter.put(f"/packages/{order.id}/collected")).status_code == 204
    async with call(house, f"subject:{case.id}", case=case.id) as me:
        assert (await me.get(f"/requests/{told['reference']}/package-id")).status_code == 410
    await outbox.drain(house.desk)
    assert [kind for kind, state in await _letters(house) if state == "sent"] == [
        "acknowledgement",
        "code",
        "ready",
        "collected",
    ]


async def test_receipts_may_come_twice_and_in_any_order(house: House) -> None:
    told = await proven(house)
    order = await order_of(house, told["case_id"])
    first, second = new_id(), new_id()
    last = receipt(told["case_id"], "invoices", order_state="located", tasks=2)
    early = receipt(told["case_id"], "crm", TaskState.NEEDS_PERSON, 0, code="unreachable")
    late = receipt(told["case_id"], "crm")
    async with call(house, "service:locator") as locator:
        for task, attempt, body in [
            (first, 1, last),
            (second, 2, late),
            (second, 1, early),
            (first, 1, last),
            (second, 2, late),
        ]:
            assert (await locator.put(f"/orders/{order.id}/receipts/{task}/{attempt}", json=body)).status_code == 204
    case = await house.case(told["reference"])
    assert (case.awaits_approval, case.awaits_task) == (True, False)
    async with house.desk.database.read(ORG) as session:
        kinds = (await session.exec(select(ledger.Entry.kind))).all()
    assert kinds.count("case.decide") == 1


async def test_a_system_that_could_not_be_searched_waits_for_a_person_and_is_named_in_the_answer(house: House) -> None:
    told = await proven(house)
    await deliver(
        house, told["case_id"], receipt(told["case_id"], "tickets", TaskState.NEEDS_PERSON, 0, code="unreachable")
    )
    assert (await house.case(told["reference"])).awaits_task
    async with handler(house) as anna:
        assert (await anna.post(f"/cases/{told['case_id']}/approve")).json()["type"].endswith("tasks-open")


async def test_who_confirmed_the_identity_cannot_approve_alone(house: House) -> None:
    told = await opened(house)
    case = await house.case(told["reference"])
    body = {"method": "callback", "identifiers": [{"type": "customer_number", "value": "K100001"}]}
    async with handler(house) as anna:
        assert (await anna.post(f"/cases/{case.id}/confirm-identity", json=body)).status_code == 200
        await located(house, case.id)
        refused = await anna.post(f"/cases/{case.id}/approve")
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:habeas:problem:second-person-needed")
    async with handler(house, "bent") as bent:
        assert (await bent.post(f"/cases/{case.id}/approve")).status_code == 200
    async with house.desk.database.read(ORG) as session:
        rows = (await session.exec(select(Identifier).where(Identifier.case_id == case.id))).all()
    assert {row.type: Assurance(row.assurance) for row in rows} == {
        "email": Assurance.CLAIMED,
        "customer_number": Assurance.DOCUMENTED,
    }


async def test_a_category_that_demands_more_than_a_mailbox_waits_for_a_documented_check(
    sqlite_url: str, tmp_path: Path
) -> None:
    register = REGISTER.read_text(encoding="utf-8").replace(
        "  contact:\n    label", "  contact:\n    assurance: documented\n    label", 1
    )
    register = re.sub(r"(?m)^  contact: ?\{", "  contact: {assurance: documented, ", register, count=1)
    assert "assurance: documented" in register
    async with intake_house(sqlite_url, tmp_path, register) as house:
        told = await proven(house)
        await located(house, told["case_id"])
        async with handler(house) as anna:
            refused = await anna.post(f"/cases/{told['case_id']}/approve")
            assert refused.json()["type"] == "urn:habeas:problem:assurance-too-low"
            body = {"method": "document_seen", "identifiers": [{"type": "email", "value": PERSON["email"]}]}
            assert (await anna.post(f"/cases/{told['case_id']}/confirm-identity", json=body)).status_code == 200
        await located(house, told["case_id"])
        async with handler(house, "bent") as bent:
            assert (await bent.post(f"/cases/{told['case_id']}/approve")).status_code == 200


async def test_an_unproven_case_is_never_searched(sqlite_house: House) -> None:
    told = await opened(sqlite_house)
    case = await sqlite_house.case(told["reference"])
    async with handler(sqlite_house) as anna:
        answer = await anna.post(f"/cases/{case.id}/plan")
    assert (answer.status_code, case.order_id) == (409, None)


async def test_nothing_is_approved_before_it_was_located_nor_what_people_carry_out(sqlite_house: House) -> None:
    access, erasure = await proven(sqlite_house), await proven(sqlite_house, right="erasure")
    async with handler(sqlite_house) as anna:
        answers = [await anna.post(f"/cases/{told['case_id']}/approve") for told in (access, erasure)]
    assert [(one.status_code, one.json()["type"]) for one in answers] == [
        (409, "urn:habeas:problem:nothing-to-approve")
    ] * 2


async def test_unopened_free_text_brings_the_case_back_to_a_person(house: House) -> None:
    told = await proven(house)
    order = await located(house, told["case_id"])
    async with handler(house) as anna:
        await anna.post(f"/cases/{told['case_id']}/approve")
    house.post.answers["exporter", "release"] = Conflict(code="needs-opening")
    await work.release(house.desk, ORG, order.id, (await order_of(house, told["case_id"])).attempt)
    case = await house.case(told["reference"])
    assert (case.awaits_approval, case.state) == (True, "in_progress")
    async with handler(house) as anna:
        assert (await anna.post(f"/cases/{told['case_id']}/approve")).status_code == 200


async def test_an_exporter_that_is_away_is_asked_again_by_the_sweep(house: House) -> None:
    told = await proven(house)
    order = await order_of(house, told["case_id"])
    house.post.answers["exporter", order.id] = Unavailable()
    with pytest.raises(Unavailable):
        await orders.send(house.desk, ORG, order.id, 1)
    house.clock.move(seconds=11)
    await orders.sweep(house.desk)
    again = await order_of(house, told["case_id"])
    assert (again.state, again.attempt) == ("pending", 2)
    house.post.answers.clear()
    house.post.sent.clear()
    await orders.send(house.desk, ORG, order.id, 1)
    assert house.post.sent == []
    await orders.send(house.desk, ORG, order.id, 2)
    assert (await order_of(house, told["case_id"])).state == "sent"


async def test_a_question_pauses_the_clock_and_its_answer_resumes_it(house: House) -> None:
    told = await opened(house)
    case = await house.case(told["reference"])
    house.clock.move(days=1)
    async with handler(house) as anna:
        asked = await anna.post(
            f"/cases/{case.id}/ask-clarification", json={"words": "Hvilken periode handler det om?"}
        )
        assert (asked.json()["due"], asked.json()["paused"]) == (None, True)
        house.clock.move(days=4)
    async with handler(house) as anna:
        resumed = await anna.post(f"/cases/{case.id}/resume", json={})
    assert (resumed.json()["due"], resumed.json()["paused"]) == ("2026-04-09", False)
    await outbox.drain(house.desk)
    assert "Hvilken periode" in house.mail.letters[-1][1].text


async def test_an_extension_is_told_with_reasons_once_and_in_time(house: House) -> None:
    told = await opened(house)
    case = await house.case(told["reference"])
    body = {"ground": "complexity", "words": "Vi skal søge i et stort papirarkiv."}
    async with handler(house) as anna:
        first = await anna.post(f"/cases/{case.id}/extend", json=body)
        second = await anna.post(f"/cases/{case.id}/extend", json=body)
    assert (first.json()["due"], second.status_code) == ("2026-06-05", 409)
    await outbox.drain(house.desk)
    assert "5. juni 2026" in house.mail.letters[-1][1].text


async def test_two_handlers_at_once_do_not_overwrite_one_another(house: House) -> None:
    told = await opened(house)
    case = await house.case(told["reference"])
    async with handler(house) as anna:
        etag = (await anna.get(f"/cases/{case.id}")).headers["etag"]
        body = {"ground": "complexity", "words": "Stort arkiv."}
        first = await anna.post(f"/cases/{case.id}/extend", json=body, headers={"if-match": etag})
        stale = await anna.post(f"/cases/{case.id}/withdraw", headers={"if-match": etag})
    assert (first.status_code, stale.status_code) == (200, 412)


async def test_a_withdrawn_case_stops_the_others(house: House) -> None:
    told = await proven(house)
    order = await order_of(house, told["case_id"])
    async with call(house, f"subject:{told['case_id']}", case=told["case_id"]) as me:
        assert (await me.delete(f"/requests/{told['reference']}")).status_code == 204
    now = await order_of(house, told["case_id"])
    assert now.state == "cancelling"
    await orders.withdraw(house.desk, ORG, order.id, now.attempt)
    assert [entry[:3] for entry in house.post.sent] == [
        ("locator", "DELETE", f"/orders/{order.id}"), ("exporter", "DELETE", f"/packages/{order.id}")
    ]  # fmt: skip
    await deliver(house, told["case_id"], receipt(told["case_id"], "crm", order_state="located", tasks=1))
    assert (await house.case(told["reference"])).state == "withdrawn"


async def test_a_refusal_is_a_persons_and_its_letter_shows_the_way_to_complain(house: House) -> None:
    told = await proven(house)
    body = {"article": "12(5)", "reason": "eu-gdpr:JustificationA12ManifestlyExcessive", "refused": "Indsigt",
            "words": "Det er den 40. anmodning i år.", "provision": "databeskyttelsesforordningens artikel 12, stk. 5"}  # fmt: skip
    async with call(house, f"subject:{told['case_id']}", case=told["case_id"]) as me:
        assert (await me.post(f"/cases/{told['case_id']}/refuse", json=body)).status_code == 403
    async with handler(house) as anna:
        answer = await anna.post(f"/cases/{told['case_id']}/refuse", json=body)
    assert answer.json()["state"] == "refused"
    await outbox.drain(house.desk)
    assert "Datatilsynet" in house.mail.letters[-1][1].text


async def test_a_letter_that_is_printed_can_be_read_by_who_posts_it_and_leads_to_no_page(house: House) -> None:
    body = PERSON | {"right": "erasure", "channel": "phone", "email": None}
    no = {"article": "17(3)(b)", "reason": "habeas:DK-BFL-12", "refused": "Fakturaer", "words": "Loven kræver dem.",
          "provision": "databeskyttelsesforordningens artikel 17, stk. 3, litra b"}  # fmt: skip
    async with handler(house) as anna:
        case = (await anna.post("/cases", json=body)).json()["id"]
        await anna.post(f"/cases/{case}/refuse", json=no)
        await outbox.drain(house.desk)
        letters = (await anna.get(f"/cases/{case}")).json()["letters"]
        refusal = next(one["id"] for one in letters if one["kind"] == "refusal")
        printed = (await anna.get(f"/cases/{case}/letters/{refusal}")).json()
    assert printed["state"] == "printed"
    assert "Loven kræver dem." in printed["text"]
    assert "http://" not in printed["text"].partition("Hvis du er uenig")[0]


async def test_a_doubt_is_recorded_with_its_kind_and_clarity_delays_only_access(house: House) -> None:
    access = await house.case((await opened(house))["reference"])
    erasure = await house.case((await opened(house, right="erasure"))["reference"])
    async with handler(house) as anna:
        bare = await anna.post(f"/cases/{access.id}/ask-identity", json={"words": "Hvem er du?"})
        asked = await anna.post(
            f"/cases/{access.id}/ask-identity", json={"words": "Hvem er du?", "doubt": "name_differs"}
        )
        waiting = await anna.post(f"/cases/{erasure.id}/ask-clarification", json={"words": "Hvad?"})
        running = await anna.post(f"/cases/{erasure.id}/ask-clarification", json={"words": "Hvad?", "pause": False})
    assert (bare.status_code, asked.json()["paused"]) == (422, True)
    assert (waiting.json()["errors"][0]["pointer"], running.json()["paused"]) == ("/pause", False)
    async with house.desk.database.read(ORG) as session:
        entries = (await session.exec(select(ledger.Entry).where(ledger.Entry.kind == "case.ask-identity"))).all()
    assert [entry.data["doubt"] for entry in entries] == ["name_differs"]


@pytest.mark.parametrize("right", ["marketing_objection", "consent_withdrawal"])
async def test_what_takes_effect_at_once_is_neither_questioned_nor_put_off(sqlite_house: House, right: str) -> None:
    case = await sqlite_house.case((await opened(sqlite_house, right=right))["reference"])
    async with handler(sqlite_house) as anna:
        for verb, body in (
            ("ask-identity", {"words": "Hvem?", "doubt": "other"}),
            ("extend", {"ground": "complexity", "words": "Svært."}),
        ):
            assert (await anna.post(f"/cases/{case.id}/{verb}", json=body)).json()["type"].endswith(":urgent")


async def test_a_lapse_is_told_with_its_reason_to_an_address_that_nobody_proved(house: House) -> None:
    case = await house.case((await opened(house))["reference"])
    async with handler(house) as anna:
        assert (await anna.post(f"/cases/{case.id}/lapse")).json()["state"] == "lapsed"
    await outbox.drain(house.desk)
    told = house.mail.letters[-1][1].text
    assert "hvem der har sendt den" in told
    assert "Datatilsynet" in told
    assert "Østergård" not in told


async def test_what_was_found_and_left_out_is_never_told_as_nothing(house: House) -> None:
    told = await proven(house)
    order = await located(house, told["case_id"])
    async with handler(house) as anna:
        await anna.post(f"/cases/{told['case_id']}/approve")
    house.post.answers["exporter", "release"] = SEALED | {"package_id": order.id, "records": 0, "withheld": 6}
    await work.release(house.desk, ORG, order.id, (await order_of(house, told["case_id"])).attempt)
    await outbox.drain(house.desk)
    letter = house.mail.letters[-1][1]
    assert "ligger klar" in letter.subject
    assert "Noget er ikke med" in letter.text


async def test_who_was_not_found_may_offer_more_and_is_looked_for_again(house: House) -> None:
    told = await proven(house)
    first = await order_of(house, told["case_id"])
    await orders.send(house.desk, ORG, first.id, first.attempt)
    await deliver(
        house, told["case_id"], receipt(told["case_id"], "crm", TaskState.NOTHING, 0, order_state="located", tasks=1)
    )
    async with handler(house) as anna:
        await anna.post(f"/cases/{told['case_id']}/approve")
    house.post.answers["exporter", "release"] = SEALED | {"package_id": first.id, "records": 0}
    await work.release(house.desk, ORG, first.id, (await order_of(house, told["case_id"])).attempt)
    assert (await house.case(told["reference"])).outcome == "not_found"
    number = {"type": "customer_number", "value": "K100001"}
    async with call(house, f"subject:{told['case_id']}", case=told["case_id"]) as me:
        offer = await me.post(f"/requests/{told['reference']}/identifiers", json={"identifiers": [number]})
    case = await house.case(told["reference"])
    assert (offer.status_code, case.state, case.package, case.closed_at) == (202, "in_progress", None, None)
    async with handler(house) as anna:
        body = {"method": "callback", "identifiers": [number]}
        assert (await anna.post(f"/cases/{case.id}/confirm-identity", json=body)).status_code == 200
    assert (await order_of(house, told["case_id"])).id != first.id


async def test_a_letter_is_tried_again_and_then_told_as_failed(house: House) -> None:
    await opened(house)
    house.mail.result = Failed("unreachable", permanent=False)
    for _ in range(outbox.MOST_TRIES + 1):
        await outbox.drain(house.desk)
        house.clock.move(hours=1, seconds=1)
    assert await _letters(house) == [("acknowledgement", "failed"), ("code", "failed")]
    assert len({message_id for _to, _letter, message_id in house.mail.letters}) == 2


async def test_a_bounce_is_noted(house: House) -> None:
    await opened(house)
    house.mail.result = Sent()
    await outbox.drain(house.desk)
    letter_id = house.mail.letters[0][2].strip("<>").partition("@")[0]
    assert await outbox.bounced(house.desk.database, ORG, letter_id, at=house.clock())
    assert not await outbox.bounced(house.desk.database, ORG, letter_id, at=house.clock())


async def test_a_case_by_phone_counts_from_when_it_was_said(house: House) -> None:
    body = PERSON | {"channel": "phone", "received_at": "2026-03-02T09:00:00+01:00", "email": None}
    async with handler(house) as anna:
        answer = await anna.post("/cases", json=body)
        future = await anna.post("/cases", json=body | {"received_at": "2026-04-02T09:00:00+01:00"})
        listed = (await anna.get("/cases")).json()
        seen = (await anna.get(f"/cases/{answer.json()['id']}")).json()
    assert (answer.status_code, answer.json()["received_on"]) == (201, "2026-03-02")
    assert (future.status_code, future.json()["errors"][0]["pointer"]) == (422, "/received_at")
    assert listed["cases"][0]["channel"] == "phone"
    assert seen["person"]["name"] == "Søren Østergård"
    await outbox.drain(house.desk)
    assert await _letters(house) == [("acknowledgement", "printed")]


async def test_the_work_list_is_paged_by_what_is_most_pressing(sqlite_house: House) -> None:
    for days in (3, 1, 2):
        body = PERSON | {"channel": "letter", "received_at": (NOON - timedelta(days=days)).isoformat()}
        async with handler(sqlite_house) as anna:
            await anna.post("/cases", json=body)
    seen, after = [], None
    async with handler(sqlite_house) as anna:
        for _ in range(3):
            page = (await anna.get("/cases", params={"limit": 1} | ({"after": after} if after else {}))).json()
            seen += [case["plan_date"] for case in page["cases"]]
            after = page["next"]
    assert seen == ["2026-04-02", "2026-04-03", "2026-04-04"]
    assert after is None


async def test_only_the_right_callers_get_in(sqlite_house: House) -> None:
    told = await proven(sqlite_house)
    order = await order_of(sqlite_house, told["case_id"])
    path = f"/orders/{order.id}/receipts/{new_id()}/1"
    async with handler(sqlite_house) as anna:
        assert (await anna.put(path, json=receipt(told["case_id"], "crm"))).status_code == 403
        assert (await anna.get("/audit")).status_code == 403
        assert (await anna.post("/webhooks", json={"url": "https://x.example"})).status_code == 403
    async with call(sqlite_house, "service:exporter") as exporter:
        assert (await exporter.put(path, json=receipt(told["case_id"], "crm"))).status_code == 403
    async with call(sqlite_house) as anyone:
        assert (await anyone.get("/cases")).status_code == 403
    transport = httpx.ASGITransport(sqlite_house.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://intake") as nobody:
        assert (await nobody.get("/cases")).status_code == 401


async def test_the_ledger_is_whole_and_a_changed_entry_is_seen(house: House) -> None:
    await proven(house)
    sealer = ledger.Sealer(house.desk.database, LEDGER_KEY)
    assert await sealer.seal_all() >= 4
    assert await sealer.seal_all() == 0
    verdict = await ledger.verify(house.desk.database, ORG, LEDGER_KEY)
    assert (verdict.whole, verdict.unsealed) == (True, 0)
    async with house.desk.database.write(ORG) as session:
        await session.exec(text("UPDATE ledger SET actor = 'handler:other' WHERE seq = 2"))  # type: ignore[call-overload]
    assert (await ledger.verify(house.desk.database, ORG, LEDGER_KEY)).broken_at == 2


async def test_a_webhook_is_told_what_happened_after_it_was_added_in_order(house: House) -> None:
    sealer = ledger.Sealer(house.desk.database, LEDGER_KEY)
    await opened(house)
    await sealer.seal_all()
    async with call(house, "handler:admin", roles=["administrator"]) as admin:
        added = (await admin.post("/webhooks", json={"url": "https://hooks.example/habeas"})).json()
        assert added["secret"].startswith("whsec_")
        assert "secret" not in (await admin.get("/webhooks")).text
    told = await proven(house)
    await sealer.seal_all()
    await notify.drain(house.desk)
    await notify.drain(house.desk)
    seen = [event["type"] for _endpoint, event in house.delivered]
    assert seen == ["habeas.case.received.v1", "habeas.case.verify.v1", "habeas.case.plan.v1"]
    assert {event["subject"] for _endpoint, event in house.delivered} == {told["case_id"]}
    async with call(house, "system:1", roles=["events"]) as system:
        replay = (await system.get("/events", params={"after": added["after"]})).json()
    assert [event["type"] for event in replay["events"]] == seen


async def test_nothing_that_names_a_person_lies_in_clear_in_the_database(sqlite_house: House, tmp_path: Path) -> None:
    told = await proven(
        sqlite_house, message="Jeg vil se alt om min bil", identifiers=[{"type": "phone", "value": "20 00 00 01"}]
    )
    await located(sqlite_house, told["case_id"])
    content = b"".join(path.read_bytes() for path in tmp_path.glob("habeas.sqlite*"))
    for planted in PLANTED:
        assert planted.encode() not in content


def test_the_demo_register_lies_where_tests_look_for_it() -> None:
    assert REGISTER.is_file()


async def test_a_right_is_not_closed_as_granted_when_a_system_was_given_up(sqlite_house: House) -> None:
    told = await proven(sqlite_house, right="erasure")
    order = await order_of(sqlite_house, told["case_id"])
    await orders.send(sqlite_house.desk, ORG, order.id, order.attempt)
    gave_up = receipt(
        told["case_id"], "archive", TaskState.NOT_SEARCHED, 0, code="retained-by-law", order_state="located", tasks=1
    )
    await deliver(sqlite_house, told["case_id"], gave_up)
    partly = {
        "outcome": "partly_granted",
        "refused": "Papirarkivet",
        "words": "Bilag gemmes i fem år.",
        "provision": "artikel 17, stk. 3, litra b",
    }
    async with handler(sqlite_house) as anna:
        refused = await anna.post(f"/cases/{told['case_id']}/close", json={"outcome": "granted"})
        assert refused.json()["type"] == "urn:habeas:problem:not-all-done"
        assert (await anna.post(f"/cases/{told['case_id']}/close", json=partly)).status_code == 200


async def test_a_recorded_doubt_outlives_its_answer_until_a_documented_check(sqlite_house: House) -> None:
    told = await opened(sqlite_house)
    case = await sqlite_house.case(told["reference"])
    code = await mailed_code(sqlite_house)
    async with handler(sqlite_house) as anna:
        asked = await anna.post(
            f"/cases/{case.id}/ask-identity", json={"words": "Hvem er du?", "doubt": "name_differs"}
        )
        assert asked.status_code == 200, asked.text
        assert (await anna.post(f"/cases/{case.id}/resume", json={})).status_code == 200
    async with call(sqlite_house) as anyone:
        await anyone.post(f"/requests/{told['reference']}/verification", json={"code": code})
    assert (await sqlite_house.case(told["reference"])).identity == "asked"

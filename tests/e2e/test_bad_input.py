"""Whatever is wrong gets its problem document or a plain message; nothing is lost, and no personal value comes back."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from habeas.keys import Keys
from shared.ids import new_id, new_reference
from tests.e2e.support.actors import Handler, Person
from tests.e2e.support.grep import found
from tests.e2e.support.planted import HERO
from tests.e2e.support.suite import Suite
from tests.e2e.support.walk import staff

SECRETS = {"Gunvor Hemmeligsen", "gunvor(at)hemmeligheden", "sort-flodhest", "21436587900"}
"""What a careless person may type in the wrong place; `found` looks for each in every answer."""


@pytest.fixture(autouse=True)
def _typed(suite: Suite) -> None:
    """What is typed here must stand nowhere in clear either."""
    suite.planted |= SECRETS


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check a problem document (RFC 9457) and return it."""
    told: dict[str, Any] = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, told["status"], told["type"]) == (status, status, f"urn:habeas:problem:{code}"), told
    assert told["title"] and told["detail"]
    assert found(SECRETS, answer.content + str(answer.headers).encode()) == set()
    return told


def asking(**changed: Any) -> dict[str, Any]:
    body = {"right": "access", "name": "Gunvor Hemmeligsen", "email": "gunvor@hemmeligheden.example", **changed}
    return {name: value for name, value in body.items() if value is not None}


@pytest.mark.parametrize(
    ("changed", "pointer"),
    [
        ({"right": "sort-flodhest"}, "/right"),
        ({"right": None}, "/right"),
        ({"email": "gunvor(at)hemmeligheden"}, "/email"),
        ({"email": "gunvor(at)hemmeligheden\r\nBcc: alle@hemmeligheden.example"}, "/email"),
        ({"email": None}, "/email"),
        ({"language": "sort-flodhest"}, "/language"),
        ({"name": ""}, "/name"),
        ({"identifiers": [{"type": "phone", "value": "21436587900sort-flodhest"}]}, "/identifiers/0/value"),
        ({"identifiers": [{"type": "sort-flodhest", "value": "21436587900"}]}, "/identifiers/0/value"),
        ({"identifiers": [{"type": "phone", "value": "1"}] * 11}, "/identifiers"),
        ({"name": {"sort-flodhest": "Gunvor Hemmeligsen"}}, "/name"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_and_its_value_is_not(suite: Suite, changed: dict[str, Any], pointer: str) -> None:
    answer = suite.call("POST", "/v1/fjordnet/requests", json=asking(**changed), expect=422)
    told = refused(answer, 422, "invalid")
    assert pointer in [error["pointer"] for error in told["errors"]], told


def test_an_unknown_field_is_refused_without_its_name(suite: Suite) -> None:
    answer = suite.call("POST", "/v1/fjordnet/requests", json=asking(**{"sort-flodhest": 1}), expect=422)
    refused(answer, 422, "invalid")


def test_a_body_that_is_no_json_too_large_too_deep_or_of_another_type_is_refused(suite: Suite) -> None:
    def send(content: bytes, kind: str = "application/json", expect: int = 400) -> httpx.Response:
        return suite.call(
            "POST", "/v1/fjordnet/requests", content=content, headers={"content-type": kind}, expect=expect
        )

    refused(send(b'{"name": "Gunvor Hemmeligsen'), 400, "malformed")
    whole = json.dumps(asking(message="sort-flodhest " * 10_000)).encode()
    refused(send(whole, expect=413), 413, "too-large")
    refused(send(b"[" * 2000 + b"]" * 2000), 400, "too-deep")
    refused(send(b"name=Gunvor Hemmeligsen", "application/x-www-form-urlencoded", 415), 415, "wrong-type")
    refused(send(b"<sort-flodhest/>", "application/xml", 415), 415, "wrong-type")


def test_an_unknown_organisation_or_address_is_not_there(suite: Suite) -> None:
    told = refused(
        suite.call("POST", "/v1/sort-flodhest/requests", json=asking(), expect=404), 404, "unknown-organisation"
    )
    assert "flodhest" not in str(told)
    suite.call("GET", "/v1/fjordnet/sort-flodhest", expect=404)
    suite.call("GET", "/v1/fjordnet/requests?sort-flodhest=1", expect=(404, 405))


# --- codes ---------------------------------------------------------------------------------------------------------


def test_a_code_works_once_and_a_wrong_or_unknown_one_says_no_more_than_that(suite: Suite) -> None:
    person = Person(suite, "fjordnet", "Gunvor Hemmeligsen", "gunvor1@hemmeligheden.example")
    person.ask("access")
    code = suite.mail.boxes.code(person.email, person.reference)
    verification, wrong = person.path("/verification"), f"{(int(code) + 1) % 10**8:08d}"
    unknown = f"/v1/fjordnet/requests/{new_reference()}/verification"
    said = [
        refused(suite.call("POST", verification, json={"code": wrong}, expect=422), 422, "code-wrong"),
        refused(suite.call("POST", verification, json={"code": "sort-flodhest"}, expect=422), 422, "code-wrong"),
        refused(suite.call("POST", unknown, json={"code": wrong}, expect=422), 422, "code-wrong"),
    ]
    person.prove()
    said.append(refused(suite.call("POST", verification, json={"code": code}, expect=422), 422, "code-wrong"))
    assert len({json.dumps(one) for one in said}) == 1, "every wrong code gets the same words"


def test_an_expired_code_is_refused_and_a_new_one_works(suite: Suite) -> None:
    person = Person(suite, "fjordnet", "Gunvor Hemmeligsen", "gunvor2@hemmeligheden.example")
    person.ask("access")
    code = suite.mail.boxes.code(person.email, person.reference)
    letters = len(suite.mail.boxes.to(person.email))
    with database(suite) as connection:  # eleven minutes go by
        case = connection.execute("SELECT id FROM intake_case WHERE reference = ?", [person.reference]).fetchone()[0]
        changed = connection.execute(
            "UPDATE intake_code SET expires_at = '2026-01-01 00:00:00.000000' WHERE case_id = ?", [case]
        )
        assert changed.rowcount == 1
    answer = suite.call("POST", person.path("/verification"), json={"code": code}, expect=422)
    refused(answer, 422, "code-wrong")
    assert person.status()["next_step"] == "verify"
    suite.call("POST", person.path("/code"), expect=202)
    fresh = suite.mail.boxes.code(person.email, person.reference, after=letters)
    suite.call("POST", person.path("/verification"), json={"code": fresh}, expect=200)


def test_after_five_wrong_tries_even_the_right_code_is_refused(suite: Suite) -> None:
    person = Person(suite, "fjordnet", "Gunvor Hemmeligsen", "gunvor3@hemmeligheden.example")
    person.ask("access")
    code = suite.mail.boxes.code(person.email, person.reference)
    for tried in range(1, 6):
        wrong = f"{(int(code) + tried) % 10**8:08d}"
        suite.call("POST", person.path("/verification"), json={"code": wrong}, expect=422)
    refused(suite.call("POST", person.path("/verification"), json={"code": code}, expect=422), 422, "code-wrong")


@contextmanager
def database(suite: Suite) -> Iterator[sqlite3.Connection]:
    """The installation's file, as whoever can write to it could change it."""
    connection = sqlite3.connect(suite.folder / "habeas.sqlite", timeout=30)
    with connection:
        yield connection
    connection.close()


# --- what belongs to others ----------------------------------------------------------------------------------------


def test_another_organisations_case_and_one_that_never_was_look_the_same(suite: Suite) -> None:
    anna = staff(suite)["anna"]
    karla = Handler(suite, "kystnet", suite.handler("kystnet", "karla", "handler"))
    person = Person(suite, "fjordnet", "Gunvor Hemmeligsen", "gunvor4@hemmeligheden.example")
    person.ask("access")
    case = anna.case(person.reference)["id"]
    for method, tail in (
        ("GET", ""),
        ("POST", "/approve"),
        ("POST", "/withdraw"),
        ("GET", "/records"),
        ("GET", "/review"),
    ):
        foreign, unknown = (
            suite.call(method, f"/v1/kystnet/cases/{one}{tail}", token=karla.token, expect=404)
            for one in (case, new_id())
        )
        assert foreign.json() == unknown.json()
        assert {**foreign.headers, "date": "", "x-request-id": ""}.keys() == {
            **unknown.headers,
            "date": "",
            "x-request-id": "",
        }.keys()
    suite.call("GET", f"/v1/fjordnet/cases/{case}", token=karla.token, expect=(401, 403))
    suite.call("GET", f"/v1/fjordnet/cases/{case}", expect=(401, 403))
    assert anna.case(person.reference)["state"] == "received"


def test_a_persons_token_opens_no_other_persons_request(suite: Suite) -> None:
    mine = Person(suite, "fjordnet", "Gunvor Hemmeligsen", "gunvor5@hemmeligheden.example")
    other = Person(suite, "fjordnet", "Gunvor Hemmeligsen", "gunvor6@hemmeligheden.example")
    mine.ask("access")
    other.ask("access")
    mine.prove()
    for method, tail in (("GET", ""), ("DELETE", ""), ("GET", "/package")):
        suite.call(method, other.path(tail), token=mine.token, expect=(401, 403, 404))
    assert other.status()["next_step"] == "verify"


# --- parts ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def waiting(four_processes: Suite) -> tuple[Suite, Handler, dict[str, Any]]:
    """A case whose cabinet waits to be searched, and its manual task."""
    anna = staff(four_processes)["anna"]
    person = Person(four_processes, "fjordnet", HERO.name, HERO.email)
    person.ask("access")
    person.prove()
    return four_processes, anna, anna.task(anna.waiting(person.reference, "task")["id"], "cabinet")


def test_a_part_sent_twice_counts_once_and_a_late_one_not_at_all(
    waiting: tuple[Suite, Handler, dict[str, Any]],
) -> None:
    """At the exporter's own door, with the locator's key: nobody else can knock there."""
    suite, anna, task = waiting
    token = (
        Keys("locator", suite.folder / "keys").issuer().issue("exporter", "service:locator", organisation="fjordnet")
    )
    record = {"system": "cabinet", "entity": "letter", "key": "1", "bound": {"customer_no": HERO.customer_no},
              "evidence": "manual", "fields": {"title": "sort-flodhest"}}  # fmt: skip
    other = {**record, "key": "2"}
    work, case = new_id(), task["case_id"]
    before = anna.call("GET", f"/cases/{case}/review")["groups"]

    def send(attempt: int, *records: dict[str, Any]) -> httpx.Response:
        path = f"/packages/{task['order_id']}/tasks/{work}/attempts/{attempt}/parts/1"
        return suite.http.put(
            suite.environment["HABEAS_EXPORTER_URL"] + path, content="\n".join(map(json.dumps, records)),
            headers={"authorization": f"Bearer {token}", "content-type": "application/x-ndjson"},
        )  # fmt: skip

    first, again = send(2, record), send(2, record)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    refused(send(2, record, other), 409, "part-differs")
    refused(send(1, other), 409, "late-attempt")
    refused(send(3, {"sort-flodhest": 1}), 422, "bad-record")
    assert anna.call("GET", f"/cases/{case}/review")["groups"] == before, "nothing counts that was not committed"
    strange = suite.http.put(f"{suite.environment['HABEAS_EXPORTER_URL']}/packages/{new_id()}", json={})
    assert strange.status_code == 401, "a service answers nobody without a token"


def test_a_file_attached_twice_is_one_and_gaps_and_strangers_are_refused(
    waiting: tuple[Suite, Handler, dict[str, Any]],
) -> None:
    suite, anna, task = waiting
    path = f"/v1/fjordnet/tasks/{task['id']}"
    anna.attach(task["id"], 1, "sort-flodhest.pdf", b"%PDF")
    anna.attach(task["id"], 1, "sort-flodhest.pdf", b"%PDF")

    def send(
        number: int, content: bytes, name: str = "sort-flodhest.pdf", token: str | None = anna.token
    ) -> httpx.Response:
        headers = {
            "habeas-file-name": name,
            "habeas-file-type": "application/pdf",
            "content-type": "application/octet-stream",
        }
        return suite.call("PUT", f"{path}/uploads/{number}", token=token, content=content, headers=headers,
                          expect=(401, 409, 422))  # fmt: skip

    refused(send(1, b"something else"), 409, "part-differs")
    refused(send(3, b"%PDF"), 409, "upload-gap")
    refused(send(2, b"%PDF", name="sort%0Aflodhest"), 422, "bad-file-name")
    assert send(2, b"%PDF", token=None).status_code == 401
    assert len(anna.call("GET", f"/tasks/{task['id']}")["uploads"]) == 1
    wrong = {"entity": "letter", "key": "1", "fields": {"sort-flodhest": "Gunvor Hemmeligsen"}, "files": []}
    complete = f"{path}/complete"
    told = suite.call("POST", complete, token=anna.token, json={"outcome": "found", "records": [wrong]}, expect=422)
    assert refused(told, 422, "record-does-not-fit")["errors"][0]["pointer"] == "/records/0/fields"


# --- registers -----------------------------------------------------------------------------------------------------


def test_a_broken_register_is_told_by_line_and_key_and_starts_nothing(suite: Suite, tmp_path: Path) -> None:
    text = (suite.folder / "registers" / "fjordnet.yaml").read_text(encoding="utf-8")
    number, line = next((n, one) for n, one in enumerate(text.splitlines(), 1) if one.startswith("      customer:"))
    broken = text.replace("purposes: [delivery, invoicing]", "purposes: [sort-flodhest]").replace(
        "  timezone: ", "  tidszone: "
    )
    (tmp_path / "registers").mkdir()
    file = tmp_path / "registers" / "fjordnet.yaml"
    file.write_text(broken, encoding="utf-8")
    told = suite.command("check-register", str(file), expect=1)
    assert "organisation.timezone" in told and "sort-flodhest" not in told
    file.write_text(text.replace("purposes: [delivery, invoicing]", "purposes: [sort-flodhest]"), encoding="utf-8")
    told = suite.command("check-register", str(file), expect=1)
    assert f"{file}:{number + 7}:" in told and "systems.customers.entities.customer.purposes" in told, (
        number,
        line,
        told,
    )
    shutil.copytree(suite.folder / "keys", tmp_path / "keys")
    started = suite.command(
        "up", expect=2, HABEAS_INTAKE_REGISTERS=str(tmp_path / "registers"), HABEAS_PORT="0",
        HABEAS_DATABASE_URL=f"sqlite+aiosqlite:///{tmp_path / 'habeas.sqlite'}",
    )  # fmt: skip
    assert "fjordnet.yaml" in started and "systems.customers.entities.customer.purposes" in started
    assert "Traceback" not in started and "sort-flodhest" not in started

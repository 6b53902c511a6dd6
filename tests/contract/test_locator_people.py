"""How does a person do a task? Read, attach, answer once; nothing is shown or taken that should not be."""

import asyncio
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from services.locator.connectors.base import Code
from shared.ids import new_id
from shared.problems import Unavailable as NotNow
from shared.register import Register
from shared.vocabulary import Assurance, Right, TaskState
from tests.support.locator import House, known, locator_house, proof
from tests.support.registers import entity, manual, register, sql

PAPER = entity(
    {"id": {}, "title": {}, "number": {}, "text": {"free_text": True}}, key="id", find_by={"email": "title"},
    yields={"customer_number": "number"},
)  # fmt: skip
ARCHIVE = manual({"paper": PAPER})
CRM = sql({"customer": entity(["id"], key="id", find_by={"email": "email"})})
CELLAR = manual({"box": entity(["id", "what"], find_by={"customer_number": "what"})}, respondent="r7")


def archive(**more: Any) -> Register:
    return register({"archive": ARCHIVE, **more})


def paper(key: str = "1", **more: Any) -> dict[str, Any]:
    return {"entity": "paper", "key": key, "fields": {"id": key, "title": "Aftale", "text": "Åse skrev under"}, **more}


async def waiting(house: House, of: Register | None = None, **order: Any) -> str:
    await house.put(house.order(of or archive(), **order))
    return (await house.task("archive", TaskState.NEEDS_PERSON)).id


async def complete(
    house: House, task: str, status: int = 200, client: httpx.AsyncClient | None = None, **body: Any
) -> dict[str, Any]:
    async with client or house.handler as caller:
        answer = await caller.post(f"/tasks/{task}/complete", json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def attach(
    house: House, task: str, number: int, content: bytes = b"%PDF", status: int = 200, **headers: str
) -> dict[str, Any]:
    sent = {
        "habeas-file-name": quote("Åses aftale.pdf"),
        "habeas-file-type": "application/pdf",
        "content-type": "application/octet-stream",
    }
    async with house.handler as caller:
        answer = await caller.put(
            f"/tasks/{task}/uploads/{number}",
            content=content,
            headers={**sent, **{k.replace("_", "-"): v for k, v in headers.items()}},
        )
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


# --- reading -------------------------------------------------------------------------------------------------------


async def test_a_task_says_what_to_look_for_and_the_ledger_who_looked(database_url: str) -> None:
    async with locator_house(database_url) as house:
        task = await waiting(house)
        async with house.handler as client:
            listed = (await client.get("/tasks", params={"state": "needs_person"})).json()
            seen = (await client.get(f"/tasks/{task}")).json()
        assert [one["id"] for one in listed["tasks"]] == [task]
        assert "aase@" not in str(listed)
        assert (seen["system"], seen["state"], seen["code"], seen["attempt"]) == (
            "archive",
            "needs_person",
            "manual",
            2,
        )
        assert seen["instructions"] == {"da": "Se i skabet", "en": "Se i skabet"}
        assert seen["search_for"]["name"] == "Åse Ørsted"
        (identifier,) = seen["search_for"]["identifiers"]
        assert (identifier["type"], identifier["value"], identifier["assurance"]) == (
            "email",
            "aase@example.dk",
            "controlled",
        )
        assert [field["name"] for field in seen["entities"][0]["fields"]] == ["id", "title", "number", "text"]
        read = [entry for entry in await house.entries() if entry.kind == "task.read"]
        assert [(entry.actor, entry.data["task"]) for entry in read] == [("handler:h1", task)]


async def test_a_finished_task_shows_nobody(sqlite_url: str) -> None:
    async with locator_house(sqlite_url) as house:
        task = await waiting(house)
        await complete(house, task, outcome="nothing")
        async with house.handler as client:
            seen = await client.get(f"/tasks/{task}")
        assert seen.json()["search_for"] is None
        assert "aase@" not in seen.text
        assert len([entry for entry in await house.entries() if entry.kind == "task.read"]) == 0


async def test_tasks_are_listed_page_by_page_and_by_what_is_asked(sqlite_url: str) -> None:
    async with locator_house(sqlite_url) as house:
        case = new_id()
        for _number in range(3):
            await house.put(house.order(archive(), case_id=case))
        await house.put(house.order(archive()))
        async with house.handler as client:
            first = (await client.get("/tasks", params={"limit": 3})).json()
            rest = (await client.get("/tasks", params={"limit": 3, "after": first["next"]})).json()
            assert [len(first["tasks"]), len(rest["tasks"]), rest["next"]] == [3, 1, None]
            assert len((await client.get("/tasks", params={"case": case})).json()["tasks"]) == 3
            assert (await client.get("/tasks", params={"system": "crm"})).json() == {"tasks": [], "next": None}
            assert (await client.get("/tasks", params={"state": "found"})).json()["tasks"] == []
            for wrong in ({"state": "lost"}, {"limit": 0}, {"limit": 1000}, {"after": "'; --"}):
                assert (await client.get("/tasks", params=wrong)).status_code == 422


async def test_a_foreign_task_and_an_unknown_one_look_the_same(sqlite_url: str) -> None:
    async with locator_house(sqlite_url) as house:
        task = await waiting(house)
        async with house.client("handler:h1", "handler", organisation="sydlys") as stranger:
            foreign, unknown = await stranger.get(f"/tasks/{task}"), await stranger.get(f"/tasks/{new_id()}")
            assert (await stranger.get("/tasks")).json()["tasks"] == []
            assert (await stranger.post(f"/tasks/{task}/complete", json={"outcome": "nothing"})).status_code == 404
        assert (foreign.status_code, foreign.json()) == (unknown.status_code, unknown.json())
        assert foreign.status_code == 404


@pytest.mark.parametrize("roles", [(), ("auditor",), ("administrator",)])
async def test_who_has_no_task_to_do_sees_none(sqlite_url: str, roles: tuple[str, ...]) -> None:
    async with locator_house(sqlite_url) as house:
        task = await waiting(house)
        async with house.client("handler:h2", *roles) as client:
            assert (await client.get("/tasks")).status_code == 403
            assert (await client.get(f"/tasks/{task}")).status_code == 403
            assert (await client.post(f"/tasks/{task}/complete", json={"outcome": "nothing"})).status_code == 403
            assert (await client.put(f"/tasks/{task}/uploads/1", content=b"x")).status_code == 403


async def test_a_respondent_sees_and_answers_their_own_tasks_only(sqlite_url: str) -> None:
    async with locator_house(sqlite_url) as house:
        number = known("K1", "customer_number")
        other = await waiting(house, archive(cellar=CELLAR), identifiers=(known("aase@example.dk"), number))
        task = (await house.task("cellar", TaskState.NEEDS_PERSON)).id
        async with house.client("handler:r7", "respondent") as client:
            assert [one["id"] for one in (await client.get("/tasks")).json()["tasks"]] == [task]
            assert (await client.get(f"/tasks/{task}")).status_code == 200
            assert (await client.get(f"/tasks/{other}")).status_code == 404
        await complete(house, other, 404, house.client("handler:r7", "respondent"), outcome="nothing")
        await complete(house, task, 404, house.client("handler:r8", "respondent"), outcome="nothing")
        done = await complete(house, task, 200, house.client("handler:r7", "respondent"), outcome="nothing")
        assert done["state"] == "nothing"


# --- answering -----------------------------------------------------------------------------------------------------


async def test_records_that_a_person_writes_go_the_same_way(database_url: str) -> None:
    async with locator_house(database_url) as house:
        task = await waiting(house)
        done = await complete(house, task, outcome="found", records=[paper("1"), paper("2")])
        assert (done["state"], done["records"], done["attempt"]) == ("found", 2, 2)
        assert house.intake.located
        told = house.intake.receipts[task, 2]
        assert [(group.entity, group.records, group.to_open) for group in told.groups] == [("paper", 2, 2)]
        assert (told.identifier_types, told.tasks) == (("email",), 1)
        records = house.exporter.committed()
        assert [(record.key, record.evidence, record.bound) for record in records] == [
            ("1", "manual", {"email": "aase@example.dk"}), ("2", "manual", {"email": "aase@example.dk"}),
        ]  # fmt: skip
        assert house.exporter.proofs() == {proof("email", "aase@example.dk")}
        completed = next(entry for entry in await house.entries() if entry.kind == "task.found")
        assert (completed.actor, completed.data["records"]) == ("handler:h1", 2)


async def test_what_a_person_finds_opens_further_systems(sqlite_url: str) -> None:
    async with locator_house(sqlite_url) as house:
        task = await waiting(house, archive(cellar=CELLAR))
        record = paper("1")
        record["fields"]["number"] = "K9"
        await complete(house, task, outcome="found", records=[record])
        cellar = await house.task("cellar", TaskState.NEEDS_PERSON)
        async with house.handler as client:
            seen = (await client.get(f"/tasks/{cellar.id}")).json()
        assert {one["value"] for one in seen["search_for"]["identifiers"]} == {"aase@example.dk", "K9"}
        await complete(house, cellar.id, outcome="nothing")
        assert house.intake.located


async def test_the_same_answer_twice_is_one_and_another_is_refused(sqlite_url: str) -> None:
    async with locator_house(sqlite_url) as house:
        task = await waiting(house)
        answer = await complete(house, task, outcome="found", records=[paper()])
        again = await complete(house, task, outcome="found", records=[paper()])
        assert again == answer
        refused = await complete(house, task, 409, outcome="nothing")
        assert refused["type"] == "urn:habeas:problem:answered-already"
        await house.until(lambda: len(house.intake.receipts) == 2)
        assert sorted(number for _task, number in house.intake.receipts) == [1, 2]


async def test_of_two_answers_at_once_one_is_taken(sqlite_url: str) -> None:
    async with locator_house(sqlite_url) as house:
        task = await waiting(house)

        async def answer(key: str) -> int:
            async with house.handler as client:
                return (
                    await client.post(f"/tasks/{task}/complete", json={"outcome": "found", "records": [paper(key)]})
                ).status_code

        assert sorted(await asyncio.gather(answer("1"), answer("2"), answer("3"))) == [200, 409, 409]
        assert len(house.exporter.committed()) == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"outcome": "found"}, 422, "invalid"),
        ({"outcome": "nothing", "records": [paper()]}, 422, "invalid"),
        ({"outcome": "not_searched"}, 422, "invalid"),
        ({"outcome": "not_searched", "note_code": "fordi Åse"}, 422, "invalid"),
        ({"outcome": "done"}, 422, "outcome-does-not-fit"),
        (
            {"outcome": "found", "records": [{"entity": "x", "key": "1", "fields": {"id": 1}}]},
            422,
            "record-does-not-fit",
        ),
        (
            {"outcome": "found", "records": [{"entity": "paper", "key": "1", "fields": {"hemmeligt": 1}}]},
            422,
            "record-does-not-fit",
        ),
        ({"outcome": "found", "records": [{"entity": "paper", "key": "1", "fields": {}}]}, 422, "record-does-not-fit"),
        ({"outcome": "found", "records": [paper(), paper()]}, 422, "record-does-not-fit"),
        ({"outcome": "found", "records": [paper(files=["ikke der.pdf"])]}, 409, "files-do-not-fit"),
        ({"outcome": "found", "records": [{**paper(), "hvad": 1}]}, 422, "invalid"),
    ],
)
async def test_an_answer_that_does_not_fit_is_refused_without_quoting_it(
    sqlite_url: str, body: dict[str, Any], status: int, code: str
) -> None:
    async with locator_house(sqlite_url) as house:
        task = await waiting(house)
        refused = await complete(house, task, status, **body)
        assert refused["type"] == f"urn:habeas:problem:{code}"
        for value in ("Åse", "hemmeligt", "ikke der"):
            assert value not in str(refused)
        assert (await house.task("archive")).state == TaskState.NEEDS_PERSON
        assert house.exporter.tasks == {}


async def test_a_task_that_a_connector_works_on_waits_for_nobody(sqlite_url: str) -> None:
    async with locator_house(sqlite_url, start=False) as house:
        await house.put(house.order(register({"crm": CRM})))
        task = (await house.task("crm")).id
        assert (await complete(house, task, 409, outcome="nothing"))["type"] == "urn:habeas:problem:task-not-open"
        assert (await attach(house, task, 1, status=409))["type"] == "urn:habeas:problem:task-not-open"


async def test_an_exporter_in_trouble_loses_no_answer(sqlite_url: str) -> None:
    async with locator_house(sqlite_url) as house:
        task = await waiting(house)
        house.exporter.faults["commit"] = [NotNow()]
        await complete(house, task, 503, outcome="found", records=[paper()])
        assert (await house.task("archive")).state == TaskState.NEEDS_PERSON
        done = await complete(house, task, outcome="found", records=[paper()])
        assert (done["state"], done["attempt"]) == ("found", 2)
        assert len(house.exporter.committed()) == 1


async def test_another_answer_after_a_half_delivered_one_starts_over(sqlite_url: str) -> None:
    async with locator_house(sqlite_url) as house:
        task = await waiting(house)
        house.exporter.faults["commit"] = [NotNow()]
        await complete(house, task, 503, outcome="found", records=[paper("1")])
        refused = await complete(house, task, 409, outcome="found", records=[paper("2")])
        assert refused["type"] == "urn:habeas:problem:start-over"
        done = await complete(house, task, outcome="found", records=[paper("2")])
        assert done["attempt"] == 3
        assert [record.key for record in house.exporter.committed()] == ["2"]


# --- attaching -----------------------------------------------------------------------------------------------------


async def test_files_belong_to_the_records_that_name_them(sqlite_url: str) -> None:
    async with locator_house(sqlite_url) as house:
        task = await waiting(house)
        stored = await attach(house, task, 1, b"%PDF-1" * 1000)
        assert stored["bytes"] == 6000
        assert await attach(house, task, 1, b"%PDF-1" * 1000) == stored
        await attach(house, task, 2, b"billede", habeas_file_name=quote("scan 2.png"), habeas_file_type="image/PNG")
        async with house.handler as client:
            seen = (await client.get(f"/tasks/{task}")).json()
        assert [(one["number"], one["bytes"]) for one in seen["uploads"]] == [(1, 6000), (2, 7)]
        await complete(house, task, 409, outcome="found", records=[paper(files=["Åses aftale.pdf"])])
        done = await complete(
            house,
            task,
            outcome="found",
            records=[paper("1", files=["Åses aftale.pdf"]), paper("2", files=["scan 2.png"])],
        )
        assert done["attempt"] == 2
        attempt = house.exporter.tasks[task][2]
        assert attempt.files == {1: ("Åses aftale.pdf", "application/pdf"), 2: ("scan 2.png", "image/png")}
        assert [record.files for record in attempt.records] == [("Åses aftale.pdf",), ("scan 2.png",)]
        assert house.intake.receipts[task, 2].groups[0].to_open == 2


async def test_who_answers_without_what_was_attached_leaves_it_behind(sqlite_url: str) -> None:
    async with locator_house(sqlite_url) as house:
        task = await waiting(house)
        await attach(house, task, 1)
        done = await complete(house, task, outcome="nothing")
        assert done["attempt"] == 3
        assert house.exporter.tasks[task][3].commit is not None
        assert house.exporter.tasks[task][2].commit is None
        assert house.exporter.committed() == []
        assert house.intake.located


@pytest.mark.parametrize(
    ("number", "headers", "status", "code"),
    [
        (2, {}, 409, "upload-gap"),
        (1, {"habeas_file_name": ""}, 422, "bad-file-name"),
        (1, {"habeas_file_name": "%FF"}, 422, "bad-file-name"),
        (1, {"habeas_file_name": quote("a\nb")}, 422, "bad-file-name"),
        (1, {"habeas_file_name": "x" * 300}, 422, "bad-file-name"),
        (1, {"habeas_file_type": "pdf"}, 422, "bad-file-type"),
        (0, {}, 422, "invalid"),
    ],
)
async def test_a_file_that_does_not_fit_is_refused(
    sqlite_url: str, number: int, headers: dict[str, Any], status: int, code: str
) -> None:
    async with locator_house(sqlite_url) as house:
        task = await waiting(house)
        refused = await attach(house, task, number, status=status, **headers)
        assert refused["type"] == f"urn:habeas:problem:{code}"
        assert house.exporter.sizes == []


async def test_files_are_bounded_in_size_and_number(sqlite_url: str) -> None:
    async with locator_house(sqlite_url, upload_bytes=2000, uploads=1) as house:
        task = await waiting(house)
        assert (await attach(house, task, 1, b"x" * 2001, 413))["type"] == "urn:habeas:problem:too-large"
        await attach(house, task, 1, b"x" * 2000)
        assert (await attach(house, task, 2, status=409))["type"] == "urn:habeas:problem:too-many-uploads"


async def test_another_file_under_a_used_number_is_refused(sqlite_url: str) -> None:
    async with locator_house(sqlite_url) as house:
        task = await waiting(house)
        await attach(house, task, 1, b"den ene")
        assert (await attach(house, task, 1, b"den anden", 409))["type"] == "urn:habeas:problem:part-differs"


# --- rights that people carry out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("right", [right for right in Right if right not in {Right.ACCESS, Right.PORTABILITY}])
async def test_a_right_that_people_carry_out_tells_them_what_to_do(sqlite_url: str, right: Right) -> None:
    async with locator_house(sqlite_url) as house:
        claimed = (known("aase@example.dk", assurance=Assurance.CLAIMED),)
        task = await waiting(house, archive(cellar=CELLAR), right=right, verb="person", identifiers=claimed)
        await house.until(lambda: len(house.intake.receipts) == 2)
        assert {receipt.state for receipt in house.intake.receipts.values()} == {TaskState.NEEDS_PERSON}
        async with house.handler as client:
            seen = (await client.get(f"/tasks/{task}")).json()
        assert seen["code"] == Code.PERSON
        assert all(len(seen["instructions"][language]) > 30 for language in ("da", "en"))
        assert seen["search_for"]["identifiers"][0]["assurance"] == "claimed"
        assert (await complete(house, task, 422, outcome="found", records=[paper()]))["type"].endswith(
            "outcome-does-not-fit"
        )
        done = await complete(house, task, outcome="done")
        assert (done["state"], done["code"]) == ("found", "done")
        cellar = await house.task("cellar", TaskState.NEEDS_PERSON)
        await complete(house, cellar.id, outcome="not_searched", note_code="retained-by-law")
        assert house.intake.located
        assert house.exporter.tasks == {}


async def test_a_right_that_people_carry_out_hands_over_no_files(sqlite_url: str) -> None:
    async with locator_house(sqlite_url) as house:
        task = await waiting(house, right=Right.ERASURE, verb="person")
        assert (await attach(house, task, 1, status=422))["type"] == "urn:habeas:problem:no-files-here"
        assert house.exporter.sizes == []


# --- administrators ------------------------------------------------------------------------------------------------


async def test_an_administrator_sees_and_probes_the_systems_of_the_register_in_force(sqlite_url: str) -> None:
    async with locator_house(sqlite_url) as house:
        house.intake.registers["current"] = archive()
        async with house.client("handler:a1", "administrator") as client:
            listed = (await client.get("/systems")).json()["systems"]
            assert [(one["id"], one["kind"]) for one in listed] == [("archive", "manual")]
            checked = (await client.post("/systems/archive/check", json={})).json()
            assert (checked["reachable"], checked["code"]) == (True, None)
            assert (await client.post("/systems/crm/check")).status_code == 404
        for role in ("handler", "dpo", "auditor", "respondent"):
            async with house.client("handler:h1", role) as client:
                assert (await client.get("/systems")).status_code == 403
                assert (await client.post("/systems/archive/check", json={})).status_code == 403
        assert [entry.kind for entry in await house.entries()] == ["system.checked"]


async def test_a_probe_of_a_system_without_its_secret_says_so(sqlite_url: str) -> None:
    async with locator_house(sqlite_url) as house:
        house.intake.registers["current"] = register({"crm": CRM})
        async with house.client("handler:a1", "administrator") as client:
            checked = (await client.post("/systems/crm/check", json={})).json()
        assert (checked["reachable"], checked["code"]) == (False, "secret-missing")


async def test_without_a_current_register_the_newest_that_a_case_cited_is_shown(sqlite_url: str) -> None:
    async with locator_house(sqlite_url) as house, house.client("handler:a1", "administrator") as client:
        assert (await client.get("/systems")).status_code == 422
        await house.put(house.order(archive()))
        assert [one["id"] for one in (await client.get("/systems")).json()["systems"]] == ["archive"]

"""What handlers see, and what their marks do, over the exporter's own doors."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.exporter.tables import Mark
from shared.identifiers import digest
from shared.messages import Record
from shared.vocabulary import REASONS
from tests.contract.exporter_house import (
    EMAIL,
    NUMBER,
    House,
    customer,
    exporter_house,
    fresh_sqlite,
    letter,
    message,
    record,
)

REASON = "habeas:A15-4-third-party"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with exporter_house(fresh_sqlite(tmp_path), tmp_path) as found:
        yield found


async def review(house: House, package: str) -> dict[tuple[str, str], dict[str, Any]]:
    told = await house.call("GET", f"/packages/{package}/review", by="handler")
    assert told.status == 200, told.body
    return {(group["system"], group["entity"]): group for group in told.json["groups"]}


async def keys(house: House, package: str, query: str = "") -> list[str]:
    return [row["key"] for row in (await house.records(package, query))["records"]]


# --- summary -------------------------------------------------------------------------------------------------------


async def test_the_summary_counts_by_system_and_entity(house: House) -> None:
    package = await house.package()
    await house.fill(
        package,
        [
            customer("1"),
            customer("2", doubt="ambiguous"),
            customer("3", bound={"email": "anna@example.dk"}),
            record("crm", "order", "9", bound={"email": EMAIL}, evidence="join"),
        ],
        task="a",
    )
    await house.fill(package, [message("1"), message("2"), message("3", body="")], task="b")
    await house.commit(package, "c", [], 0, system="archive", state="not_searched", code="unreachable")
    groups = await review(house, package)
    assert {key: group["records"] for key, group in groups.items()} == {
        ("crm", "customer"): 3,
        ("crm", "order"): 1,
        ("tickets", "message"): 3,
    }
    found = groups["crm", "customer"]
    assert (found["doubtful"], found["unbound"], found["to_open"]) == (1, 1, 0)
    found = groups["tickets", "message"]
    assert (found["to_open"], found["opened"], found["unopened"]) == (2, 0, 2)
    told = await house.call("GET", f"/packages/{package}/review", by="dpo")
    assert told.json["searched"][-1] == {
        "system": "archive",
        "state": "not_searched",
        "records": 0,
        "code": "unreachable",
    }


async def test_an_empty_package_has_an_empty_summary(house: House) -> None:
    package = await house.package()
    assert await review(house, package) == {}
    assert await house.records(package) == {"records": [], "next": None}


async def test_a_record_that_two_rounds_found_counts_once(house: House) -> None:
    package = await house.package()
    number = digest(house.binding_key, "customer_number", NUMBER)
    await house.fill(package, [customer("1")], task="a", proofs=[number])
    await house.fill(package, [customer("1", bound={"customer_number": NUMBER}), customer("2")], task="b")
    group = (await review(house, package))["crm", "customer"]
    assert (group["records"], group["repeated"]) == (3, 1)
    assert (await house.release(package)).json["records"] == 2


async def test_an_unbound_twin_does_not_hide_the_sound_one(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer("1", bound={}), customer("2", doubt="ambiguous")], task="a")
    await house.fill(package, [customer("1"), customer("2")], task="b")
    assert (await house.release(package)).json["records"] == 2


# --- pages ---------------------------------------------------------------------------------------------------------


async def test_records_come_in_pages_that_lose_and_repeat_nothing(house: House) -> None:
    package = await house.package()
    parts = [await house.put(package, "a", [customer(f"a{n}-{i}") for i in range(7)], number=n) for n in (1, 2, 3)]
    await house.commit(package, "a", parts, 21)
    await house.fill(package, [message(f"m{i}") for i in range(5)], task="b")
    seen: list[str] = []
    after, pages = "", 0
    while True:
        page = await house.records(package, f"?limit=4{after}")
        seen += [row["key"] for row in page["records"]]
        pages += 1
        assert len(page["records"]) <= 4
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == [f"a{n}-{i}" for n in (1, 2, 3) for i in range(7)] + [f"m{i}" for i in range(5)]
    assert pages <= 8


async def test_a_page_is_filtered_by_system_and_entity(house: House) -> None:
    package = await house.package()
    order = record("crm", "order", "o", bound={"email": EMAIL}, evidence="join")
    await house.fill(package, [customer("1"), order, customer("2")], task="a")
    await house.fill(package, [message("m")], task="b")
    assert await keys(house, package, "?system=crm&entity=customer") == ["1", "2"]
    assert await keys(house, package, "?entity=order") == ["o"]
    assert await keys(house, package, "?system=tickets") == ["m"]
    assert await keys(house, package, "?system=archive") == []
    page = await house.records(package, "?entity=customer&limit=1")
    assert await keys(house, package, f"?entity=customer&after={page['next']}") == ["2"]


async def test_a_page_has_a_hard_cap_in_records_bytes_and_parts(tmp_path: Path) -> None:
    async with exporter_house(fresh_sqlite(tmp_path), tmp_path, page_records=3, page_bytes=1 << 20) as house:
        package = await house.package()
        await house.fill(package, [customer(str(n)) for n in range(5)], task="a")
        page = await house.records(package, "?limit=1000")
        assert len(page["records"]) == 3
        big = await house.package()
        await house.fill(big, [message(str(n), body="x" * 900_000) for n in range(4)], task="a")
        assert len((await house.records(big))["records"]) == 2
        many = await house.package()
        parts = [await house.put(many, "a", [customer(str(n))], number=n) for n in range(20)]
        await house.commit(many, "a", parts, 20)
        first = await house.records(many, "?entity=order")
        assert first == {"records": [], "next": None}


async def test_a_page_over_many_small_parts_may_be_short_and_goes_on(tmp_path: Path) -> None:
    async with exporter_house(fresh_sqlite(tmp_path), tmp_path) as house:
        package = await house.package()
        parts = [await house.put(package, "a", [customer(str(n))], number=n) for n in range(20)]
        await house.commit(package, "a", parts, 20)
        first = await house.records(package)
        assert len(first["records"]) == 16
        rest = await house.records(package, f"?after={first['next']}")
        assert (len(rest["records"]), rest["next"]) == (4, None)


@pytest.mark.parametrize("query", ["?limit=0", "?limit=1001", "?limit=x"])
async def test_a_limit_is_a_small_number(house: House, query: str) -> None:
    package = await house.package()
    told = await house.call("GET", f"/packages/{package}/records{query}", by="handler")
    assert told.status == 422


@pytest.mark.parametrize("after", ["x", "t:1:1", "t:1:1:-1", "../..:1:1:1", "t:1:1:9999999999"])
async def test_a_foreign_place_to_go_on_from_is_unknown(house: House, after: str) -> None:
    package = await house.package()
    told = await house.call("GET", f"/packages/{package}/records?after={after}", by="handler")
    assert told.status == 404


async def test_each_reading_is_in_the_ledger_with_ids_and_counts_alone(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer("1"), customer("2")])
    await house.records(package)
    (entry,) = await house.ledger("package.records_read")
    assert (entry.actor, entry.case_id) == ("handler:h1", "case-1")
    assert entry.data == {
        "package": package,
        "entity": None,
        "count": 2,
        "first": "task-1:1:1:0",
        "last": "task-1:1:1:1",
    }


async def test_a_tampered_part_is_told_as_damaged(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer("1")])
    (path,) = house.objects(package)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    for told in (
        await house.call("GET", f"/packages/{package}/records", by="handler"),
        await house.call("GET", f"/packages/{package}/review", by="handler"),
        await house.release(package),
    ):
        assert (told.status, told.code) == (500, "vault-damaged")
        assert str(path) not in told.body.decode()


# --- marks ---------------------------------------------------------------------------------------------------------


async def first(house: House, package: str, query: str = "") -> dict[str, Any]:
    return dict((await house.records(package, query))["records"][0])


async def test_a_withheld_record_shows_its_reason_until_it_is_restored(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer("1"), customer("2")])
    row = await first(house, package)
    for _ in range(2):
        assert (await house.mark(package, row["id"], "withhold", reason=REASON)).json == {"records": 1}
    assert (await first(house, package))["withheld"] == REASON
    assert (await review(house, package))["crm", "customer"]["withheld"] == 1
    await house.mark(package, row["id"], "withhold", reason="habeas:not-the-person")
    assert (await first(house, package))["withheld"] == "habeas:not-the-person"
    assert len(await house.rows(Mark)) == 1
    for _ in range(2):
        assert (await house.mark(package, row["id"], "restore")).status == 200
    assert (await first(house, package))["withheld"] is None


async def test_a_field_is_withheld_by_itself(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer("1")])
    row = await first(house, package)
    await house.mark(package, row["id"], "withhold", field="score", reason=REASON)
    row = await first(house, package)
    assert (row["withheld"], row["withheld_fields"]) == (None, {"score": REASON})
    assert (await review(house, package))["crm", "customer"]["withheld_fields"] == 1
    await house.mark(package, row["id"], "restore", field="score")
    assert (await first(house, package))["withheld_fields"] == {}


async def test_a_doubtful_record_is_confirmed(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer("1", doubt="name_mismatch"), customer("2")])
    one, two = (await house.records(package))["records"]
    assert (await house.mark(package, one["id"], "confirm")).status == 200
    told = await house.mark(package, two["id"], "confirm")
    assert (told.status, told.code) == (409, "not-doubtful")
    assert (await first(house, package))["confirmed"]
    assert (await house.release(package, released_by="handler:h2")).json["records"] == 2


async def test_several_records_are_opened_at_once_or_none(house: House) -> None:
    package = await house.package()
    await house.fill(package, [message("1"), message("2"), message("3", body=None)])
    rows = (await house.records(package))["records"]
    told = await house.mark(package, None, "open", records=[row["id"] for row in rows])
    assert (told.status, told.code) == (409, "nothing-to-open")
    assert (await review(house, package))["tickets", "message"]["opened"] == 0
    told = await house.mark(package, rows[0]["id"], "open", records=[row["id"] for row in rows[:2]])
    assert told.json == {"records": 2}
    assert (await review(house, package))["tickets", "message"]["unopened"] == 0


@pytest.mark.parametrize(
    "marking",
    [
        {"verb": "withhold"},
        {"verb": "withhold", "reason": "because"},
        {"verb": "withhold", "reason": REASON, "field": "cpr"},
        {"verb": "restore", "reason": REASON},
        {"verb": "open", "reason": REASON},
        {"verb": "open", "field": "body"},
        {"verb": "confirm", "field": "body"},
        {"verb": "open", "reason": "because"},
    ],
)
async def test_a_mark_that_makes_no_sense_is_refused(house: House, marking: dict[str, str]) -> None:
    package = await house.package()
    await house.fill(package, [message("1")])
    row = await first(house, package)
    told = await house.call("POST", f"/packages/{package}/marks", by="handler", body={"record": row["id"], **marking})
    assert (told.status, told.code) == (422, "bad-mark")
    assert await house.rows(Mark) == []


@pytest.mark.parametrize("body", [{}, {"verb": "erase", "record": "t:1:1:0"}, {"verb": "open", "who": "me"}, [], "x"])
async def test_a_malformed_mark_is_refused_without_echo(house: House, body: object) -> None:
    package = await house.package()
    told = await house.call("POST", f"/packages/{package}/marks", by="handler", body=body)
    assert told.status == 422
    assert "erase" not in told.body.decode()


async def test_every_reason_of_the_vocabulary_withholds(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer("1")])
    row = await first(house, package)
    for reason in sorted(REASONS):
        assert (await house.mark(package, row["id"], "withhold", reason=reason)).status == 200


@pytest.mark.parametrize(
    "record_id", ["nothing", "t:1:1:0", "task-1:1:1:1", "task-1:1:2:0", "task-1:0:1:0 ", "task-1:1:1:1:1"]
)
async def test_an_unknown_record_is_not_found(house: House, record_id: str) -> None:
    package = await house.package()
    await house.fill(package, [customer("1")])
    told = await house.mark(package, record_id, "withhold", reason=REASON)
    assert told.status in {404, 409}
    assert await house.rows(Mark) == []


async def test_a_mark_without_a_record_is_refused(house: House) -> None:
    package = await house.package()
    told = await house.mark(package, None, "open")
    assert (told.status, told.code) == (422, "bad-mark")


async def test_marks_survive_a_second_attempt_by_the_records_key(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer("1"), customer("2"), customer("3")], attempt=1)
    rows = {row["key"]: row["id"] for row in (await house.records(package))["records"]}
    await house.mark(package, rows["2"], "withhold", reason=REASON)
    await house.fill(package, [customer("3"), customer("2")], attempt=2)
    after = {row["key"]: row["withheld"] for row in (await house.records(package))["records"]}
    assert after == {"3": None, "2": REASON}


async def test_a_record_of_a_replaced_attempt_is_never_taken_for_another(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer("1")], attempt=1)
    old = (await first(house, package))["id"]
    await house.fill(package, [customer("another")], attempt=2)
    told = await house.mark(package, old, "withhold", reason=REASON)
    assert (told.status, told.code) == (409, "record-changed")
    assert (await first(house, package))["withheld"] is None


async def test_each_mark_is_in_the_ledger(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer("1")])
    row = await first(house, package)
    await house.mark(package, row["id"], "withhold", field="name", reason=REASON)
    (entry,) = await house.ledger("package.records_marked")
    assert entry.actor == "handler:h1"
    assert entry.data == {
        "package": package, "verb": "withhold", "field": "name", "reason": REASON, "count": 1, "records": [row["id"]],
    }  # fmt: skip


async def test_marks_know_a_record_without_its_key(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer("customer-key-0102031234")])
    await house.mark(package, (await first(house, package))["id"], "withhold", reason=REASON)
    (row,) = await house.rows(Mark)
    assert "0102031234" not in row.model_dump_json()


# --- files ---------------------------------------------------------------------------------------------------------


async def _with_file(house: House, content: bytes) -> tuple[str, Record]:
    package = await house.package()
    one = letter("1", files=("Opsigelse æøå.pdf",))
    part = await house.put(package, "t", [one])
    file = await house.put_file(package, "t", content, "Opsigelse æøå.pdf")
    assert (await house.commit(package, "t", [part, file], 1, system="archive")).status == 200
    return package, one


async def test_a_handler_reads_the_file_that_is_to_be_opened(house: House) -> None:
    content = b"%PDF" + bytes(range(256)) * 10_000
    package, _ = await _with_file(house, content)
    row = await first(house, package)
    assert row["to_open"]
    (file,) = row["files"]
    assert (file["name"], file["type"], file["bytes"]) == ("Opsigelse æøå.pdf", "application/pdf", len(content))
    told = await house.call("GET", f"/packages/{package}/files/{file['id']}", by="handler")
    assert told.body == content
    assert told.headers["content-type"] == "application/octet-stream"
    assert told.headers["content-disposition"] == "attachment"
    (entry,) = await house.ledger("package.file_read")
    assert entry.data == {"package": package, "file": file["id"]}


@pytest.mark.parametrize("file_id", ["t:1:1", "t:1:8", "u:1:9", "t:2:9", "x", "..:1:1"])
async def test_what_is_no_file_is_not_found(house: House, file_id: str) -> None:
    package, _ = await _with_file(house, b"%PDF")
    told = await house.call("GET", f"/packages/{package}/files/{file_id}", by="handler")
    assert told.status == 404


# --- after release -------------------------------------------------------------------------------------------------


async def test_review_ends_with_the_release(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer("1")])
    row = await first(house, package)
    assert (await house.release(package)).status == 200
    for told in (
        await house.call("GET", f"/packages/{package}/review", by="handler"),
        await house.call("GET", f"/packages/{package}/records", by="handler"),
        await house.mark(package, row["id"], "withhold", reason=REASON),
    ):
        assert (told.status, told.code) == (409, "already-sealed")
    await house.call("DELETE", f"/packages/{package}")
    told = await house.call("GET", f"/packages/{package}/records", by="handler")
    assert (told.status, told.code) == (410, "package-destroyed")

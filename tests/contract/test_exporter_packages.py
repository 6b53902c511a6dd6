"""Plans, parts, attempts and commits, over the exporter's own doors."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from services.exporter.tables import OWNER, Attempt, Package, Part
from shared import ledger
from shared.identifiers import digest
from shared.ids import new_id
from shared.migrating import differences, migrate
from shared.problems import NotFound
from tests.contract.exporter_house import (
    EMAIL,
    NUMBER,
    House,
    customer,
    exporter_house,
    fresh_sqlite,
    letter,
    message,
    ndjson,
    record,
    release_body,
    sha256,
)
from tests.contract.test_vault import SmallDisk


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with exporter_house(fresh_sqlite(tmp_path), tmp_path) as found:
        yield found


@pytest.fixture
async def either(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    """A house on SQLite and one on PostgreSQL."""
    migrate(database_url, (ledger.OWNER, OWNER))
    async with exporter_house(database_url, tmp_path) as found:
        yield found


def test_the_migrations_make_the_tables_that_the_models_describe(database_url: str) -> None:
    migrate(database_url, (ledger.OWNER, OWNER))
    assert differences(database_url, (OWNER,)) == []


# --- plans ---------------------------------------------------------------------------------------------------------


async def test_the_same_plan_twice_is_one_package(either: House) -> None:
    package, plan = new_id(), either.plan()
    answers = await asyncio.gather(*(either.call("PUT", f"/packages/{package}", body=plan) for _ in range(5)))
    assert [told.status for told in answers] == [204] * 5
    assert len(await either.rows(Package)) == 1


async def test_another_plan_under_the_same_id_is_refused(house: House) -> None:
    package = await house.package()
    told = await house.call("PUT", f"/packages/{package}", body=house.plan(case="case-2"))
    assert (told.status, told.code) == (409, "plan-differs")


async def test_a_destroyed_package_is_not_planned_again(house: House) -> None:
    package = await house.package()
    assert (await house.call("DELETE", f"/packages/{package}")).status == 204
    told = await house.call("PUT", f"/packages/{package}", body=house.plan())
    assert (told.status, told.code) == (410, "package-destroyed")


@pytest.mark.parametrize("key", ["", "short", "!!!", "AAAA", "å" * 44])
async def test_a_binding_key_has_32_bytes(house: House, key: str) -> None:
    told = await house.call("PUT", f"/packages/{new_id()}", body=house.plan(binding_key=key))
    assert (told.status, told.code) == (422, "bad-plan")


async def test_a_plan_is_for_the_callers_own_organisation(house: House) -> None:
    told = await house.call("PUT", f"/packages/{new_id()}", body=house.plan(organisation_id="fjordvik"))
    assert (told.status, told.code) == (422, "bad-plan")


async def test_an_unknown_register_is_told_at_the_plan(house: House) -> None:
    told = await house.call("PUT", f"/packages/{new_id()}", body=house.plan(register_version="v999"))
    assert (told.status, told.code) == (422, "unknown-register")
    told = await house.call("PUT", f"/packages/{new_id()}", body=house.plan(register_version="broken"))
    assert (told.status, told.code) == (503, "unreadable-register")


async def test_the_register_is_fetched_once_and_kept(house: House, tmp_path: Path) -> None:
    house.intake.down = True
    told = await house.call("PUT", f"/packages/{new_id()}", body=house.plan())
    assert told.status == 503
    house.intake.down = False
    await asyncio.gather(*(house.package() for _ in range(3)))
    house.intake.down = True
    await house.package()
    async with exporter_house(house.database.url, tmp_path) as after_a_restart:
        after_a_restart.intake.down = True
        await after_a_restart.package()


# --- parts ---------------------------------------------------------------------------------------------------------


async def test_a_part_is_stored_and_its_commit_tells_facts_only(either: House) -> None:
    package = await either.package()
    records = [customer("1"), customer("2", doubt="name_mismatch"), customer("3", bound={"email": "anna@example.dk"})]
    told = await either.put(package, "t", records)
    assert told.json == {"bytes": len(ndjson(records)), "sha256": sha256(ndjson(records))}
    committed = await either.commit(package, "t", [told], 3)
    assert committed.json == {
        "groups": [{"entity": "customer", "records": 3, "doubtful": 1, "to_open": 0}],
        "unbound": 1,
    }


async def test_the_same_part_twice_is_kept_once(either: House) -> None:
    package = await either.package()
    first = await either.put(package, "t", [customer()])
    assert (await either.put(package, "t", [customer()])).json == first.json
    assert len(either.objects(package)) == 1
    assert (await either.commit(package, "t", [first], 1)).status == 200
    assert (await either.put(package, "t", [customer()])).json == first.json
    assert len(either.objects(package)) == 1


async def test_the_same_part_at_the_same_time_is_kept_once(either: House) -> None:
    package = await either.package()
    answers = await asyncio.gather(*(either.put(package, "t", [customer()]) for _ in range(6)))
    assert {told.status for told in answers} == {200}
    assert len(either.objects(package)) == len(await either.rows(Part)) == 1


async def test_another_part_under_the_same_number_is_refused_and_leaves_nothing(house: House) -> None:
    package = await house.package()
    await house.put(package, "t", [customer()])
    told = await house.put(package, "t", [customer("2")])
    assert (told.status, told.code) == (409, "part-differs")
    assert len(house.objects(package)) == 1


async def test_a_new_part_of_a_committed_attempt_is_refused(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer()], task="t")
    told = await house.put(package, "t", [customer("2")], number=2)
    assert (told.status, told.code) == (409, "already-committed")
    assert len(house.objects(package)) == 1


async def test_a_task_finds_records_of_one_system(house: House) -> None:
    package = await house.package()
    await house.put(package, "t", [customer()])
    told = await house.put(package, "t", [message()], number=2)
    assert (told.status, told.code) == (409, "other-system")
    told = await house.put(package, "u", [customer(), message()])
    assert (told.status, told.code) == (409, "other-system")
    assert len(house.objects(package)) == 1


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"not a record\n", 422, "bad-record"),
        (ndjson([record("payroll", "salary", "1")]), 422, "not-in-register"),
        (ndjson([message(body="x" * (1 << 20))]), 413, "record-too-long"),
    ],
)
async def test_a_bad_part_is_refused_and_leaves_nothing(house: House, content: bytes, status: int, code: str) -> None:
    package = await house.package()
    told = await house.put(package, "t", ndjson([message("0")]) * 0 + content)
    assert (told.status, told.code) == (status, code)
    assert house.objects(package) == []
    assert await house.rows(Part) == []


async def test_a_part_larger_than_the_door_is_refused_with_and_without_a_length(tmp_path: Path) -> None:
    async with exporter_house(fresh_sqlite(tmp_path), tmp_path, part_bytes=1 << 20) as house:
        package = await house.package()
        data = ndjson([customer(str(number)) for number in range(6000)])
        assert len(data) > 1 << 20

        async def unsaid() -> AsyncIterator[bytes]:
            for start in range(0, len(data), 50_000):
                yield data[start : start + 50_000]

        told = await house.put(package, "t", data)
        assert (told.status, told.code) == (413, "too-large")
        told = await house.call(
            "PUT", f"/packages/{package}/tasks/t/attempts/1/parts/1", by="locator", content=unsaid(),
            headers={"content-type": "application/x-ndjson"},
        )  # fmt: skip
        assert (told.status, told.code) == (413, "too-large")
        assert house.objects(package) == []


async def test_an_upload_that_breaks_off_leaves_nothing(house: House) -> None:
    package = await house.package()

    async def cut() -> AsyncIterator[bytes]:
        yield ndjson([customer(str(number)) for number in range(3000)])
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await house.call(
            "PUT", f"/packages/{package}/tasks/t/attempts/1/parts/1", by="locator", content=cut(),
            headers={"content-type": "application/x-ndjson"},
        )  # fmt: skip
    for _ in range(50):
        await asyncio.sleep(0.02)
        if not house.objects(package):
            break
    assert house.objects(package) == []
    assert await house.rows(Part) == []
    assert (await house.put(package, "t", [customer()])).status == 200


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "multipart/form-data", ""])
async def test_a_part_has_one_of_two_content_types(house: House, kind: str) -> None:
    package = await house.package()
    told = await house.call(
        "PUT", f"/packages/{package}/tasks/t/attempts/1/parts/1", by="locator", content=b"{}",
        headers={"content-type": kind} if kind else {},
    )  # fmt: skip
    assert told.status == 415


async def test_a_full_disk_is_unavailable_and_nothing_half_done_stays(tmp_path: Path) -> None:
    store = SmallDisk(tmp_path / "vault", 1 << 20, 28)
    async with exporter_house(fresh_sqlite(tmp_path), tmp_path, store=store) as house:
        package = await house.package()
        data = [customer(str(number)) for number in range(9000)]
        told = await house.put(package, "t", data)
        assert (told.status, told.code) == (503, "storage-full")
        assert house.objects(package) == []
        assert await house.rows(Part) == []
        store.room = 1 << 30
        told = await house.put(package, "t", data)
        assert (await house.commit(package, "t", [told], 9000)).status == 200


# --- files ---------------------------------------------------------------------------------------------------------


async def test_a_file_belongs_to_the_record_that_names_it(house: House) -> None:
    package = await house.package()
    part = await house.put(package, "t", [letter(files=("Opsigelse, Mette Østergård.pdf",))])
    file = await house.put_file(package, "t", b"%PDF", "Opsigelse, Mette Østergård.pdf")
    told = await house.commit(package, "t", [part, file], 1, system="archive")
    assert told.json["groups"] == [{"entity": "letter", "records": 1, "doubtful": 0, "to_open": 1}]


async def test_a_files_name_is_the_same_however_its_letters_are_composed(house: House) -> None:
    package = await house.package()
    part = await house.put(package, "t", [letter(files=("a\u030arhus.pdf",))])
    file = await house.put_file(package, "t", b"%PDF", "\u00e5rhus.pdf")
    assert (await house.commit(package, "t", [part, file], 1, system="archive")).status == 200
    (row,) = (await house.records(package))["records"]
    assert row["files"][0]["bytes"] == 4


async def test_a_file_that_no_record_names_or_that_is_missing_is_told_at_the_commit(house: House) -> None:
    package = await house.package()
    part = await house.put(package, "t", [letter(files=("a.pdf",))])
    told = await house.commit(package, "t", [part], 1, system="archive")
    assert (told.status, told.code) == (409, "files-differ")
    file = await house.put_file(package, "t", b"%PDF", "b.pdf")
    told = await house.commit(package, "t", [part, file], 1, system="archive")
    assert (told.status, told.code) == (409, "files-differ")


async def test_two_files_of_one_attempt_have_two_names(house: House) -> None:
    package = await house.package()
    part = await house.put(package, "t", [letter(files=("a.pdf",))])
    files = [await house.put_file(package, "t", b"x", "a.pdf", number=number) for number in (8, 9)]
    told = await house.commit(package, "t", [part, *files], 1, system="archive")
    assert (told.status, told.code) == (409, "files-differ")


async def test_a_file_sent_again_under_another_name_is_another_file(house: House) -> None:
    package = await house.package()
    assert (await house.put_file(package, "t", b"x", "a.pdf")).status == 200
    assert (await house.put_file(package, "t", b"x", "a.pdf")).status == 200
    told = await house.put_file(package, "t", b"x", "b.pdf")
    assert (told.status, told.code) == (409, "part-differs")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"habeas-file-name": "a.pdf"},
        {"habeas-file-type": "application/pdf"},
        {"habeas-file-name": "%FF%FE", "habeas-file-type": "application/pdf"},
        {"habeas-file-name": "a%0d%0ab", "habeas-file-type": "application/pdf"},
        {"habeas-file-name": "a%E2%80%A8b", "habeas-file-type": "application/pdf"},
        {"habeas-file-name": "x" * 256, "habeas-file-type": "application/pdf"},
        {"habeas-file-name": "a.pdf", "habeas-file-type": "pdf"},
        {"habeas-file-name": "a.pdf", "habeas-file-type": "text/html; charset=x"},
    ],
)
async def test_a_file_needs_a_plain_name_and_type(house: House, headers: dict[str, str]) -> None:
    package = await house.package()
    told = await house.call(
        "PUT", f"/packages/{package}/tasks/t/attempts/1/parts/1", by="locator", content=b"x",
        headers={"content-type": "application/octet-stream", **headers},
    )  # fmt: skip
    assert (told.status, told.code) == (422, "bad-file-label")


async def test_a_file_larger_than_the_door_is_refused(tmp_path: Path) -> None:
    async with exporter_house(fresh_sqlite(tmp_path), tmp_path, file_bytes=1 << 20) as house:
        package = await house.package()
        told = await house.put_file(package, "t", os.urandom((1 << 20) + 1), "a.pdf")
        assert (told.status, told.code) == (413, "too-large")


# --- commits -------------------------------------------------------------------------------------------------------


async def test_the_same_commit_twice_is_one(either: House) -> None:
    package = await either.package()
    part = await either.put(package, "t", [customer()])
    first = await either.commit(package, "t", [part], 1)
    assert (await either.commit(package, "t", [part], 1)).json == first.json
    told = await either.commit(package, "t", [part], 1, code="other")
    assert (told.status, told.code) == (409, "already-committed")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"parts": []}, "parts-differ"),
        ({"parts": ["0" * 64]}, "parts-differ"),
        ({"records": 2}, "records-differ"),
        ({"system": "tickets"}, "other-system"),
    ],
)
async def test_a_commit_that_does_not_fit_what_arrived_counts_nothing(
    house: House, change: dict[str, object], code: str
) -> None:
    package = await house.package()
    part = await house.put(package, "t", [customer()])
    body = {"system": "crm", "state": "found", "parts": [part.json["sha256"]], "records": 1} | change
    told = await house.call("PUT", f"/packages/{package}/tasks/t/attempts/1", by="locator", body=body)
    assert (told.status, told.code) == (409, code)
    (attempt,) = await house.rows(Attempt)
    assert attempt.committed_at is None


async def test_parts_count_in_the_order_of_their_numbers(house: House) -> None:
    package = await house.package()
    two = await house.put(package, "t", [customer("2")], number=2)
    one = await house.put(package, "t", [customer("1")], number=1)
    told = await house.commit(package, "t", [two, one], 2)
    assert (told.status, told.code) == (409, "parts-differ")
    assert (await house.commit(package, "t", [one, two], 2)).status == 200
    assert [row["key"] for row in (await house.records(package))["records"]] == ["1", "2"]


@pytest.mark.parametrize("state", ["nothing", "not_searched"])
async def test_a_task_that_found_nothing_sends_nothing(house: House, state: str) -> None:
    package = await house.package()
    assert (await house.commit(package, "t", [], 0, state=state, code="unreachable")).json["groups"] == []
    part = await house.put(package, "u", [customer()])
    told = await house.commit(package, "u", [part], 1, state=state)
    assert (told.status, told.code) == (422, "state-differs")
    told = await house.commit(package, "v", [], 0, state="found")
    assert (told.status, told.code) == (422, "state-differs")


async def test_a_discovered_identifier_binds_records_of_other_tasks_too(house: House) -> None:
    package = await house.package()
    facts = await house.fill(package, [letter()], task="t2")
    assert facts["unbound"] == 1
    await house.fill(package, [customer()], task="t1", proofs=[digest(house.binding_key, "customer_number", NUMBER)])
    (row,) = (await house.records(package, "?system=archive"))["records"]
    assert row["bound"]


# --- attempts ------------------------------------------------------------------------------------------------------


async def test_a_higher_committed_attempt_replaces_a_lower_one(either: House) -> None:
    package = await either.package()
    await either.fill(package, [customer("old")], task="t", attempt=1)
    part = await either.put(package, "t", [customer("new")], attempt=2)
    assert [row["key"] for row in (await either.records(package))["records"]] == ["old"]
    await either.commit(package, "t", [part], 1, attempt=2)
    assert [row["key"] for row in (await either.records(package))["records"]] == ["new"]


async def test_a_zombie_attempt_can_neither_send_nor_commit(either: House) -> None:
    package = await either.package()
    part = await either.put(package, "t", [customer("old")], attempt=1)
    await either.put(package, "t", [customer("new")], attempt=2)
    for told in (
        await either.put(package, "t", [customer("late")], attempt=1, number=2),
        await either.put(package, "t", [customer("old")], attempt=1),
        await either.commit(package, "t", [part], 1, attempt=1),
    ):
        assert (told.status, told.code) == (409, "late-attempt")
    assert len(either.objects(package)) == 2


async def test_an_attempt_overtaken_while_it_sends_leaves_nothing(either: House) -> None:
    package = await either.package()
    overtaken = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield ndjson([customer(str(number)) for number in range(10)])
        await overtaken.wait()
        yield ndjson([customer("last")])

    sending = asyncio.ensure_future(
        either.call(
            "PUT", f"/packages/{package}/tasks/t/attempts/1/parts/1", by="locator", content=slow(),
            headers={"content-type": "application/x-ndjson"},
        )
    )  # fmt: skip
    await asyncio.sleep(0.2)
    assert (await either.commit(package, "t", [], 0, attempt=2)).status == 200
    overtaken.set()
    told = await sending
    assert (told.status, told.code) == (409, "late-attempt")
    assert either.objects(package) == []


# --- who may -------------------------------------------------------------------------------------------------------


CALLERS = ("intake", "locator", "handler", "dpo", "auditor", "administrator", "respondent", "system", "anonymous",
           "subject:case-1", "claimed:case-1", "subject:case-2")  # fmt: skip
STAFF = {"handler", "dpo"}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/packages/{p}", {"intake"}),
        ("PUT", "/packages/{p}/release", {"intake"}),
        ("PUT", "/packages/{p}/tasks/t/attempts/1/parts/1", {"locator"}),
        ("PUT", "/packages/{p}/tasks/t/attempts/1", {"locator"}),
        ("GET", "/packages/{p}/review", STAFF),
        ("GET", "/packages/{p}/records", STAFF),
        ("GET", "/packages/{p}/files/t:1:1", STAFF),
        ("POST", "/packages/{p}/marks", STAFF),
        ("GET", "/packages/{p}/answer", STAFF | {"subject:case-1"}),
        ("GET", "/packages/{p}/archive", STAFF | {"subject:case-1"}),
        ("POST", "/packages/{p}/collected", STAFF | {"subject:case-1"}),
        ("GET", "/jwks", set(CALLERS)),
        ("DELETE", "/packages/{p}", {"intake"}),
    ],
)
async def test_each_door_opens_for_its_callers_alone(house: House, method: str, path: str, allowed: set[str]) -> None:
    package = await house.package()
    bodies: dict[str, object] = {
        "/packages/{p}": house.plan(),
        "/packages/{p}/release": release_body(released_by="nobody"),
        "/packages/{p}/marks": {"verb": "open"},
        "/packages/{p}/tasks/t/attempts/1": {"system": "crm", "state": "nothing"},
    }
    body = None if method == "DELETE" else bodies.get(path)
    for by in sorted(CALLERS, key=lambda by: by in allowed):
        told = await house.call(method, path.format(p=package), by=by, body=body)
        if by in allowed:
            assert told.status not in {401, 403}, by
        else:
            # Whose case it is not, is told that there is nothing; who may not do it at all, that they may not.
            assert told.status == 403 or (told.status == 404 and told.code == "not-found"), (by, told.body)


async def test_an_unknown_package_and_another_organisations_answer_alike(house: House) -> None:
    package = await house.package()
    for path in ("review", "records", "answer", "archive"):
        unknown = await house.call("GET", f"/packages/{new_id()}/{path}", by="handler")
        foreign = await house.call("GET", f"/packages/{package}/{path}", by="handler", organisation="fjordvik")
        assert (unknown.status, unknown.body) == (foreign.status, foreign.body) == (404, unknown.body)
    told = await house.call("DELETE", f"/packages/{package}", organisation="fjordvik")
    assert told.status == 404
    assert (await house.call("GET", f"/packages/{package}/review", by="handler")).status == 200


@pytest.mark.parametrize("bad", ["..", "a.b", "a%2Fb", "%2e%2e", "x" * 65, "å"])
async def test_an_id_that_could_be_a_path_reaches_nothing(house: House, bad: str) -> None:
    try:
        told = await house.call("GET", f"/packages/{quote(bad, safe='%.')}/review", by="handler")
    except NotFound:
        return
    assert told.status in {404, 422}
    assert EMAIL not in told.body.decode()


# --- size ----------------------------------------------------------------------------------------------------------


async def test_a_hundred_thousand_records_pass_at_constant_memory(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer()], task="warm")
    before = psutil.Process().memory_info().rss
    peak, parts, size = before, [], 0
    for number in range(10):
        start = number * 10_000
        data = ndjson(
            record("crm", "order", str(key), fields={"id": key, **{f"column_{n}": f"Værdi {key} i kolonne {n}" for n in range(8)}},
                   bound={"email": EMAIL}, evidence="join")
            for key in range(start, start + 10_000)
        )  # fmt: skip
        size += len(data)
        parts.append(await house.put(package, "t", data, number=number))
        peak = max(peak, psutil.Process().memory_info().rss)
        del data
    assert (await house.commit(package, "t", parts, 100_000)).status == 200
    assert (await house.call("GET", f"/packages/{package}/review", by="handler")).json["groups"][0][
        "records"
    ] == 100_000
    told = await house.release(package)
    assert told.json["records"] == 100_001
    peak = max(peak, psutil.Process().memory_info().rss)
    assert size > 30_000_000
    assert peak - before < 150_000_000


# --- what is kept --------------------------------------------------------------------------------------------------


async def test_no_value_lies_readable_in_database_or_vault(house: House) -> None:
    package = await house.package()
    part = await house.put(
        package, "t", [letter(fields={"id": "1", "title": "Hemmelig sag"}, files=("Mette Østergård.pdf",))]
    )
    file = await house.put_file(package, "t", b"%PDF planted-content", "Mette Østergård.pdf")
    await house.commit(package, "t", [part, file], 1, system="archive")
    await house.fill(package, [message(body="planted-value")], task="u")
    planted = ["Hemmelig sag", "planted", EMAIL, NUMBER, "Østergård", "\\u00d8sterg", house.plan()["binding_key"]]
    stored = [path.read_bytes() for path in house.objects(package)]
    database = Path(house.database.url.removeprefix("sqlite+aiosqlite:///"))
    stored += [path.read_bytes() for path in database.parent.glob(database.name + "*")]
    for value in planted:
        assert not any(value.encode() in content for content in stored), value
    assert len(stored) > 3

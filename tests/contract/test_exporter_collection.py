"""The person reads, collects once, and everything is destroyed when due."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from sqlmodel import col, update

from services.exporter.sweeps import all_sweeps
from services.exporter.tables import OWNER, Attempt, Mark, Package, Part
from shared import ledger
from shared.http import AnswerCut
from shared.ids import new_id
from shared.migrating import migrate
from shared.post import Reply
from tests.contract.exporter_house import (
    ORG,
    House,
    customer,
    exporter_house,
    fresh_sqlite,
    letter,
    release_body,
    sha256,
)

PERSON = "subject:case-1"


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


async def sweep(house: House, name: str) -> object:
    return await all_sweeps(house.means)[f"exporter.{name}"]()


async def large(house: House) -> str:
    """A sealed package of a few megabytes that no compression makes small."""
    package = await house.package()
    part = await house.put(package, "t", [letter(files=("a.pdf",), bound={"email": "mette.østergaard@example.dk"})])
    file = await house.put_file(package, "t", os.urandom(5 << 20), "a.pdf")
    await house.commit(package, "t", [part, file], 1, system="archive")
    (row,) = (await house.records(package))["records"]
    await house.mark(package, row["id"], "open")
    assert (await house.release(package)).status == 200
    return package


async def get(house: House, package: str, tail: str = "archive", by: str = PERSON) -> tuple[int, str]:
    told = await house.call("GET", f"/packages/{package}/{tail}", by=by)
    return told.status, told.code if told.status >= 400 else ""


async def confirm(house: House, package: str, by: str = PERSON) -> tuple[int, str]:
    told = await house.call("POST", f"/packages/{package}/collected", by=by)
    return told.status, told.code if told.status >= 400 else ""


async def told_intake(house: House) -> list[tuple[str, str]]:
    for _ in range(100):
        if house.intake.collected:
            break
        await asyncio.sleep(0.02)
    return house.intake.collected


# --- reading -------------------------------------------------------------------------------------------------------


async def test_the_answer_is_a_page_in_the_persons_language_or_the_other(house: House) -> None:
    package = await house.sealed([customer()])
    for query, language in (("", "da"), ("?lang=da", "da"), ("?lang=en", "en")):
        told = await house.call("GET", f"/packages/{package}/answer{query}", by=PERSON)
        assert told.status == 200
        assert f'<html lang="{language}">'.encode() in told.body
        assert int(told.headers["content-length"]) == len(told.body)
        assert told.headers["content-type"] == "text/html; charset=utf-8"
        assert told.headers["cache-control"] == "no-store"
        assert told.headers["content-security-policy"].startswith("default-src 'none'")
    told = await house.call("GET", f"/packages/{package}/answer?lang=de", by=PERSON)
    assert told.status == 422
    assert [entry.actor for entry in await house.ledger("package.answer_read")] == [PERSON] * 3


async def test_before_the_release_there_is_nothing_to_read_or_collect(house: House) -> None:
    package = await house.package()
    for tail in ("answer", "archive"):
        assert await get(house, package, tail) == (409, "not-sealed")
    assert await confirm(house, package) == (409, "not-sealed")


async def test_only_the_second_proof_opens_the_package(house: House) -> None:
    package = await house.sealed([customer()])
    for tail in ("answer", "archive"):
        assert await get(house, package, tail, by="claimed:case-1") == (403, "forbidden")
        assert await get(house, package, tail, by="subject:case-2") == (404, "not-found")
        assert await get(house, package, tail, by="anonymous") == (404, "not-found")
        assert await get(house, package, tail, by="auditor") == (404, "not-found")


# --- collecting ----------------------------------------------------------------------------------------------------


async def test_the_package_is_collected_once_and_intake_hears_of_it(either: House) -> None:
    package = await either.sealed([customer()])
    told = await either.call("GET", f"/packages/{package}/archive", by=PERSON)
    assert told.headers["content-type"] == "application/zip"
    assert told.headers["content-disposition"] == 'attachment; filename="habeas-7kq4-m2xb-9.zip"'
    assert int(told.headers["content-length"]) == len(told.body)
    (row,) = await either.rows(Package)
    assert sha256(told.body) == row.sha256
    assert await confirm(either, package) == (204, "")
    assert await told_intake(either) == [(ORG, package)]
    assert await get(either, package) == (410, "collected")
    assert await confirm(either, package) == (204, "")
    assert (await get(either, package, "answer"))[0] == 200
    (entry,) = await either.ledger("package.collected")
    assert (entry.actor, entry.data) == (PERSON, {"package": package})
    assert either.intake.collected == [(ORG, package)]


async def test_of_downloads_at_once_one_wins(either: House) -> None:
    package = await large(either)
    answers = await asyncio.gather(*(get(either, package) for _ in range(5)))
    assert sorted(answers) == [(200, ""), *[(409, "collecting")] * 4]


async def test_a_broken_download_can_be_tried_again_at_once(house: House) -> None:
    package = await large(house)
    async with download(house, package) as reply:
        async for _ in reply.aiter():
            break
    for _ in range(100):
        told = await get(house, package)
        if told[0] == 200:
            break
        await asyncio.sleep(0.02)
    assert told == (200, "")
    assert await confirm(house, package) == (204, "")


async def test_what_was_never_sent_in_whole_is_not_collected(house: House) -> None:
    package = await large(house)
    assert await confirm(house, package) == (409, "not-sent")
    assert await get(house, package) == (200, "")
    assert await confirm(house, package) == (204, "")


async def test_a_whole_download_that_nobody_confirms_can_be_tried_again_after_a_while(house: House) -> None:
    package = await house.sealed([customer()])
    assert await get(house, package) == (200, "")
    assert await get(house, package) == (409, "collecting")
    house.clock.forward(seconds=31)
    assert await get(house, package) == (200, "")


def download(house: House, package: str) -> AbstractAsyncContextManager[Reply]:
    token = house.token(PERSON)
    return house.posts["gateway"].stream(
        "exporter", "GET", f"/packages/{package}/archive", organisation=ORG, token=token
    )


async def test_a_slow_download_keeps_its_lease(house: House) -> None:
    package, size = await large(house), 0
    async with download(house, package) as reply:
        async for chunk in reply.aiter():
            size += len(chunk)
            await asyncio.sleep(0.05)
            house.clock.forward(seconds=12)
            if size < 5 << 20:
                assert await get(house, package) == (409, "collecting")
    (row,) = await house.rows(Package)
    assert size == row.size


async def test_a_stalled_download_loses_its_lease_and_never_comes_to_its_end(house: House) -> None:
    package = await large(house)
    async with download(house, package) as reply:
        chunks = reply.aiter()
        await anext(chunks)
        await asyncio.sleep(0.2)
        house.clock.forward(seconds=31)
        assert await get(house, package) == (200, "")
        with pytest.raises(AnswerCut):
            async for _ in chunks:
                pass


async def test_a_large_archive_tampered_with_breaks_off_and_is_not_collected(house: House) -> None:
    package = await large(house)
    (row,) = await house.rows(Package)
    path = house.settings.vault / ORG / package / row.archive
    content = bytearray(path.read_bytes())
    content[-(1 << 20)] ^= 1
    path.write_bytes(content)
    with pytest.raises(AnswerCut):
        await house.call("GET", f"/packages/{package}/archive", by=PERSON)
    assert await confirm(house, package) == (409, "not-sent")


async def test_a_handler_gets_a_copy_that_does_not_count_as_collected(house: House) -> None:
    package = await house.sealed([customer()])
    for _ in range(2):
        assert await get(house, package, by="handler") == (200, "")
    assert len(await house.ledger("package.copied")) == 2
    assert await get(house, package) == (200, "")


async def test_a_handler_notes_that_the_package_was_handed_over_in_another_way(house: House) -> None:
    package = await house.sealed([customer()])
    assert await confirm(house, package, by="handler") == (204, "")
    assert await get(house, package) == (410, "collected")
    assert await told_intake(house) == [(ORG, package)]


# --- notices -------------------------------------------------------------------------------------------------------


async def test_a_notice_that_intake_did_not_hear_is_repeated_until_it_does(house: House) -> None:
    package = await house.sealed([customer()])
    house.intake.down = True
    await confirm(house, package, by="handler")
    assert await sweep(house, "notices") == 0
    house.intake.down = False
    assert await sweep(house, "notices") == 1
    assert await sweep(house, "notices") == 0
    assert house.intake.collected == [(ORG, package)]


async def test_a_case_that_intake_does_not_know_is_not_asked_about_for_ever(house: House) -> None:
    package = await house.sealed([customer()])
    house.intake.says = 404
    await confirm(house, package, by="handler")
    await told_intake(house)
    await asyncio.sleep(0.1)
    assert await sweep(house, "notices") == 0
    (row,) = await house.rows(Package)
    assert row.notified_at is not None
    assert package == row.id


# --- the end -------------------------------------------------------------------------------------------------------


async def test_a_package_is_destroyed_when_due_with_its_key_and_objects(either: House) -> None:
    package = await either.sealed([customer()])
    kept = await either.sealed()
    async with either.database.write(ORG) as session:
        await session.exec(
            update(Package).where(col(Package.id) == kept).values(expires_at=either.clock.now.replace(year=2027))
        )
    assert await sweep(either, "due") == 0
    either.clock.forward(days=30)
    for tail in ("archive", "answer"):
        assert await get(either, package, tail) == (410, "expired")
    assert await sweep(either, "due") == 1
    assert await sweep(either, "due") == 0
    row = next(row for row in await either.rows(Package) if row.id == package)
    assert (row.state, row.data_key, row.binding_key, row.proofs, row.answers) == ("destroyed", None, None, [], {})
    assert either.objects(package) == []
    assert len(either.objects(kept)) == 3
    assert {one.package_id for one in await either.rows(Attempt)} <= {kept}
    for tail in ("archive", "answer", "review"):
        assert await get(either, package, tail, by="handler") == (410, "package-destroyed")
    told = await either.call("PUT", f"/packages/{package}/release", body=release_body())
    assert (told.status, told.code) == (410, "package-destroyed")
    (entry,) = await either.ledger("package.destroyed")
    assert (entry.actor, entry.data) == ("service:exporter", {"package": package})


async def test_intake_destroys_an_open_package_and_twice_is_no_error(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer()])
    (row,) = (await house.records(package))["records"]
    await house.mark(package, row["id"], "withhold", reason="habeas:not-the-person")
    for _ in range(2):
        assert (await house.call("DELETE", f"/packages/{package}")).status == 204
    assert house.objects(package) == []
    assert await house.rows(Part) == await house.rows(Attempt) == await house.rows(Mark) == []
    assert len(await house.ledger("package.destroyed")) == 1
    told = await house.put(package, "t", [customer()])
    assert (told.status, told.code) == (410, "package-destroyed")
    assert (await house.call("DELETE", f"/packages/{new_id()}")).status == 404


async def test_what_the_vault_could_not_remove_is_removed_by_the_sweep(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer()])
    (left,) = house.objects(package)
    content = left.read_bytes()
    await house.call("DELETE", f"/packages/{package}")
    left.parent.mkdir()
    left.write_bytes(content)
    os.utime(left, (0, 0))
    assert await sweep(house, "orphans") == 1
    assert house.objects(package) == []


# --- sweeps --------------------------------------------------------------------------------------------------------


def age(path: Path, house: House) -> None:
    old = house.clock().timestamp() - 2 * house.settings.leftover_seconds
    os.utime(path, (old, old))


async def test_objects_without_a_row_are_removed_once_they_are_old(house: House) -> None:
    open_package, sealed = await house.package(), await house.sealed([customer()])
    await house.fill(open_package, [customer()])
    orphans = [
        house.settings.vault / ORG / package / name
        for package in (open_package, sealed)
        for name in ("orphan", ".tmp-x")
    ]
    for path in orphans:
        path.write_bytes(b"left by a crash")
        os.utime(path, (house.clock().timestamp(),) * 2)
    assert await sweep(house, "orphans") == 0
    for path in [*orphans, *house.objects(open_package), *house.objects(sealed)]:
        age(path, house)
    assert await sweep(house, "orphans") == 2
    assert not any(path.exists() for path in orphans)
    assert (len(house.objects(open_package)), len(house.objects(sealed))) == (1, 3)
    assert await get(house, sealed) == (200, "")
    assert (await house.release(open_package)).status == 200


async def test_objects_of_a_package_that_has_no_row_are_left_alone(house: House) -> None:
    folder = house.settings.vault / ORG / new_id()
    folder.mkdir(parents=True)
    (folder / "another-installations").write_bytes(b"x")
    os.utime(folder / "another-installations", (0, 0))
    assert await sweep(house, "orphans") == 0
    assert (folder / "another-installations").exists()


async def test_overtaken_attempts_are_removed_with_their_parts(either: House) -> None:
    package = await either.package()
    await either.fill(package, [customer("1")], task="a", attempt=1)
    await either.fill(package, [customer("2")], task="a", attempt=2)
    await either.fill(package, [customer("3")], task="b", attempt=1)
    await either.put(package, "b", [customer("4")], attempt=2)
    await either.put(package, "c", [customer("5")], attempt=1)
    await either.put(package, "c", [customer("6")], attempt=3)
    assert await sweep(either, "overtaken") == 2
    assert await sweep(either, "overtaken") == 0
    left = {(one.task_id, one.attempt) for one in await either.rows(Part)}
    assert left == {("a", 2), ("b", 1), ("b", 2), ("c", 3)}
    assert len(either.objects(package)) == 4
    assert {row["key"] for row in (await either.records(package))["records"]} == {"2", "3"}


async def test_the_engine_is_given_every_sweep(house: House) -> None:
    assert set(all_sweeps(house.means)) == {
        "exporter.due",
        "exporter.notices",
        "exporter.overtaken",
        "exporter.orphans",
    }
    began = time.monotonic()
    for name in all_sweeps(house.means):
        await all_sweeps(house.means)[name]()
    assert time.monotonic() - began < 5

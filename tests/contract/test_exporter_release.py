"""Sealing a package: what is in it, who wins, and what happens when something breaks."""

import asyncio
import io
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import pytest
from sqlmodel import update

from services.exporter.signing import Keys
from services.exporter.tables import OWNER, Attempt, Mark, Package, Part
from services.exporter.vault import FolderStore, Place
from services.exporter.verify import verify_package
from shared import ledger
from shared.identifiers import digest
from shared.migrating import migrate
from tests.contract.exporter_house import (
    EMAIL,
    GROUPS,
    NUMBER,
    ORG,
    House,
    Installation,
    customer,
    exporter_house,
    fresh_sqlite,
    letter,
    message,
    record,
    sha256,
)
from tests.contract.test_vault import SmallDisk

REASON = "habeas:A15-4-third-party"


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


class Gate(FolderStore):
    """A store whose writers wait, once the gate is shut, before each new object."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.open_gate = threading.Event()
        self.open_gate.set()
        self.waiting = threading.Event()
        self.fail: Exception | None = None

    @contextmanager
    def create(self, place: Place) -> Iterator[BinaryIO]:
        self.waiting.set()
        self.open_gate.wait(30)
        if self.fail:
            raise self.fail
        with super().create(place) as file:
            yield file

    def shut(self) -> None:
        self.open_gate.clear()
        self.waiting.clear()

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.waiting.wait, 10)


@pytest.fixture
async def gated(tmp_path: Path) -> AsyncIterator[tuple[House, Gate]]:
    gate = Gate(tmp_path / "vault")
    async with exporter_house(fresh_sqlite(tmp_path), tmp_path, store=gate, lease_seconds=2) as found:
        yield found, gate
        gate.open_gate.set()


async def archive(house: House, package: str) -> zipfile.ZipFile:
    told = await house.call("GET", f"/packages/{package}/archive", by="handler")
    assert told.status == 200, told.body
    return zipfile.ZipFile(io.BytesIO(told.body))


def rows(found: zipfile.ZipFile, tail: str) -> list[dict[str, Any]]:
    names = [name for name in found.namelist() if name.endswith(tail)]
    return [msgspec.json.decode(line) for name in names for line in found.read(name).splitlines()]


def everything(found: zipfile.ZipFile) -> bytes:
    return b"".join(found.read(name) for name in found.namelist())


# --- what is in it -------------------------------------------------------------------------------------------------


async def test_a_package_is_sealed_and_its_facts_fit_its_bytes(either: House, tmp_path: Path) -> None:
    package = await either.package()
    await either.fill(package, [customer("1"), customer("2")])
    told = await either.release(package)
    sealed = told.json
    assert (sealed["package_id"], sealed["records"], sealed["withheld"], sealed["unbound"]) == (package, 2, 0, 0)
    assert (sealed["sealed_at"], sealed["expires_at"]) == ("2026-11-21T12:00:00Z", "2026-12-21T12:00:00Z")
    got = await either.call("GET", f"/packages/{package}/archive", by="handler")
    assert (len(got.body), sha256(got.body)) == (sealed["bytes"], sealed["sha256"])
    keys = (await either.call("GET", "/jwks", by="anonymous")).body.decode()
    file = tmp_path / "package.zip"
    file.write_bytes(got.body)
    report = verify_package(file, Keys.parse(keys))
    assert report.ok, report
    assert [row["key"] for row in rows(zipfile.ZipFile(file), "crm/customer.ndjson")] == ["1", "2"]


async def test_what_may_not_leave_does_not(house: House) -> None:
    package = await house.package()
    records = [
        customer("kept"),
        customer("withheld", fields={"id": "w", "name": "planted-withheld"}),
        customer("field", fields={"id": "f", "name": "kept-name", "score": "planted-field"}),
        customer("unbound", fields={"id": "u", "name": "planted-unbound"}, bound={"email": "anna@example.dk"}),
        customer("doubtful", fields={"id": "d", "name": "planted-doubtful"}, doubt="ambiguous"),
        customer("moved", fields={"id": "m", "name": "planted-moved", "email": "anna@example.dk"}),
        customer("confirmed", doubt="name_mismatch"),
    ]
    await house.fill(package, records)
    ids = {row["key"]: row["id"] for row in (await house.records(package))["records"]}
    await house.mark(package, ids["withheld"], "withhold", reason=REASON)
    await house.mark(package, ids["field"], "withhold", field="score", reason=REASON)
    await house.mark(package, ids["confirmed"], "confirm")
    alone = await house.release(package, released_by="handler:h1")
    assert (alone.status, alone.json["type"]) == (409, "urn:habeas:problem:second-person-needed")
    sealed = (await house.release(package, released_by="handler:h2")).json
    assert (sealed["records"], sealed["withheld"], sealed["unbound"], sealed["doubtful"]) == (3, 2, 2, 1)
    found = await archive(house, package)
    assert [row["key"] for row in rows(found, "crm/customer.ndjson")] == ["kept", "field", "confirmed"]
    content = everything(found)
    for planted in (b"planted-withheld", b"planted-field", b"planted-unbound", b"planted-doubtful", b"planted-moved"):
        assert planted not in content
    assert b"kept-name" in content
    assert REASON.encode() in content
    for language in ("da", "en"):
        page = await house.call("GET", f"/packages/{package}/answer?lang={language}", by="handler")
        assert f'lang="{language}"'.encode() in page.body
        assert b"planted" not in page.body
        assert b"kept-name" in page.body


async def test_free_text_and_files_do_not_leave_unopened(house: House) -> None:
    package = await house.package()
    number = digest(house.binding_key, "customer_number", NUMBER)
    await house.fill(package, [message("1"), message("2")], task="a", proofs=[number])
    part = await house.put(package, "b", [letter("1", files=("a.pdf",))])
    file = await house.put_file(package, "b", b"%PDF planted", "a.pdf")
    await house.commit(package, "b", [part, file], 1, system="archive", proofs=[number])
    told = await house.release(package)
    assert (told.status, told.code, told.json["records"]) == (409, "needs-opening", 3)
    ids = [row["id"] for row in (await house.records(package))["records"]]
    await house.mark(package, None, "open", records=ids[:2])
    assert (await house.release(package)).json["records"] == 1
    await house.mark(package, ids[2], "open")
    assert (await house.release(package)).json["records"] == 3
    found = await archive(house, package)
    (name,) = [name for name in found.namelist() if "/files/" in name]
    assert found.read(name) == b"%PDF planted"


async def test_what_is_withheld_or_held_back_need_not_be_opened(house: House) -> None:
    package = await house.package()
    records = [message("1"), message("2"), message("3", doubt="ambiguous"), message("4", bound={})]
    await house.fill(package, records)
    ids = [row["id"] for row in (await house.records(package))["records"]]
    await house.mark(package, ids[0], "withhold", reason=REASON)
    for field in ("body", "staff_note"):
        await house.mark(package, ids[1], "withhold", field=field, reason=REASON)
    assert (await house.release(package)).json["records"] == 1
    assert b"vil gerne klage" not in everything(await archive(house, package))


async def test_a_package_with_nothing_in_it_is_an_answer_too(house: House) -> None:
    package = await house.package()
    await house.commit(package, "t", [], 0)
    sealed = (await house.release(package)).json
    assert sealed["records"] == 0
    found = await archive(house, package)
    assert any("/letter/" in name for name in found.namelist())
    assert (await house.call("GET", f"/packages/{package}/answer", by="handler")).status == 200


async def test_a_package_that_no_task_ever_filled_seals_as_well(house: House) -> None:
    package = await house.package()
    assert (await house.release(package)).json["records"] == 0


async def test_portability_hands_over_only_what_was_provided_under_consent_or_contract(house: House) -> None:
    package = await house.package(right="portability")
    number = digest(house.binding_key, "customer_number", NUMBER)
    debt = record(
        "crm",
        "debt",
        "d",
        fields={"id": "d", "number": NUMBER, "amount": "planted-debt"},
        bound={"customer_number": NUMBER},
    )
    await house.fill(
        package,
        [customer("1", fields={"id": "1", "name": "kept", "score": "planted-score"}), debt],
        task="a",
        proofs=[number],
    )
    note = message("1", body=None, fields={"id": "1", "sender": EMAIL, "body": None, "staff_note": "planted-note"})
    await house.fill(package, [note], task="b")
    part = await house.put(package, "c", [letter("1", files=("a.pdf",))])
    file = await house.put_file(package, "c", b"planted-file", "a.pdf")
    await house.commit(package, "c", [part, file], 1, system="archive", proofs=[number])
    told = await house.release(package)
    # The note by staff is derived and the paper not automated: neither leaves, so neither need be opened for it.
    if told.status == 409:
        assert told.code == "needs-opening"
        (row,) = (await house.records(package, "?system=tickets"))["records"]
        await house.mark(package, row["id"], "open")
        told = await house.release(package)
    assert told.json["records"] == 2
    content = everything(await archive(house, package))
    assert b"planted" not in content
    assert b"kept" in content


@pytest.mark.parametrize("outcome", ["refused", "deferred", "referred", "forwarded", "not_applicable"])
async def test_a_group_that_was_refused_does_not_leave(house: House, outcome: str) -> None:
    package = await house.package()
    await house.fill(package, [customer("1", fields={"id": "1", "name": "planted"})], task="a")
    await house.fill(package, [message("1", fields={"id": "1", "body": "unread"})], task="b")
    decisions = [
        {"system": s, "entity": e, "purpose": p, "article": "15", "reason": REASON,
         "outcome": outcome if s in {"crm", "tickets"} else "granted"}
        for s, e, p in GROUPS
    ]  # fmt: skip
    told = await house.release(package, decisions=decisions)
    assert (told.status, told.json["records"]) == (200, 0)
    assert b"planted" not in everything(await archive(house, package))


async def test_one_purpose_that_is_granted_opens_its_group(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer("1")])
    usual = {"system": "crm", "entity": "customer", "article": "15"}
    decisions = [
        usual | {"purpose": "claims", "outcome": "refused"},
        usual | {"purpose": "delivery", "outcome": "partly_granted"},
    ]
    assert (await house.release(package, decisions=decisions)).json["records"] == 1


async def test_a_group_without_a_decision_stops_the_release(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer("1")])
    told = await house.release(package, decisions=[])
    assert (told.status, told.code) == (409, "undecided")
    assert (await house.release(package)).status == 200


async def test_a_right_that_is_not_answered_by_a_package_is_refused(house: House) -> None:
    package = await house.package(right="erasure")
    told = await house.release(package)
    assert (told.status, told.code) == (409, "not-packaged")


async def test_only_the_attempt_that_counts_is_packaged(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer("old")], attempt=1)
    await house.fill(package, [customer("new")], attempt=2)
    await house.put(package, "task-1", [customer("begun")], attempt=3)
    await house.put(package, "never-committed", [customer("never")])
    assert (await house.release(package)).json["records"] == 1
    assert [row["key"] for row in rows(await archive(house, package), "crm/customer.ndjson")] == ["new"]


async def test_packages_sealed_at_the_same_time_never_mix(either: House) -> None:
    packages = {}
    for number in range(6):
        either.binding_key = bytes([number]) * 32
        email = f"person{number}@example.dk"
        package = await either.package(
            case=f"case-{number}", reference=f"REF-{number}", proofs=[digest(either.binding_key, "email", email)]
        )
        fields = {"id": "1", "name": f"planted-{number}", "email": email}
        await either.fill(package, [customer(str(key), fields=fields, bound={"email": email}) for key in range(300)])
        packages[number] = package
    answers = await asyncio.gather(*(either.release(package) for package in packages.values()))
    assert [told.json["records"] for told in answers] == [300] * 6
    for number, package in packages.items():
        content = everything(await archive(either, package))
        assert [other for other in packages if f"planted-{other}".encode() in content] == [number]
    boxes = [either.means.unlock(row) for row in await either.rows(Package)]
    assert len({box.binding_key for box in boxes}) == 6


# --- once ----------------------------------------------------------------------------------------------------------


async def test_the_same_release_again_tells_the_same(either: House) -> None:
    package = await either.sealed([customer()])
    first = await either.release(package)
    either.clock.forward(days=3)
    assert (await either.release(package, answered_on="2026-11-24")).json == first.json
    told = await either.release(package, released_by="handler:h2")
    assert (told.status, told.code) == (409, "already-sealed")
    assert len(await either.ledger("package.sealed")) == 1


@pytest.mark.parametrize("by", ["", "me", "handler:", "handler:Mette Østergaard", "handler:a@b.dk"])
async def test_a_release_says_who_released_in_a_way_that_the_ledger_may_hold(house: House, by: str) -> None:
    package = await house.package()
    told = await house.release(package, released_by=by)
    assert (told.status, told.code) == (422, "bad-release")


async def test_a_second_call_while_sealing_is_told_to_wait(gated: tuple[House, Gate]) -> None:
    house, gate = gated
    package = await house.package()
    await house.fill(package, [customer()])
    gate.shut()
    sealing = asyncio.ensure_future(house.release(package))
    await gate.reached()
    for told in (
        await house.release(package),
        await house.put(package, "late", [customer()]),
        await house.commit(package, "late", [], 0),
        await house.call("GET", f"/packages/{package}/records", by="handler"),
    ):
        assert (told.status, told.code) == (409, "sealing")
        assert int(told.headers["retry-after"]) >= 1
    gate.open_gate.set()
    first = await sealing
    assert first.status == 200
    assert (await house.release(package)).json == first.json


async def test_many_releases_at_once_seal_once(either: House) -> None:
    package = await either.package()
    await either.fill(package, [customer()])
    answers = await asyncio.gather(*(either.release(package) for _ in range(6)))
    assert {told.status for told in answers} <= {200, 409}
    assert sum(told.status == 200 for told in answers) >= 1
    assert len(await either.ledger("package.sealed")) == 1
    assert len(either.objects(package)) == 3


async def test_a_caller_that_leaves_does_not_stop_the_work(gated: tuple[House, Gate]) -> None:
    house, gate = gated
    package = await house.package()
    await house.fill(package, [customer()])
    gate.shut()
    sealing = asyncio.ensure_future(house.release(package))
    await gate.reached()
    sealing.cancel()
    await asyncio.gather(sealing, return_exceptions=True)
    gate.open_gate.set()
    for _ in range(100):
        told = await house.release(package)
        if told.status == 200:
            break
        await asyncio.sleep(0.05)
    assert told.status == 200
    assert len(await house.ledger("package.sealed")) == 1


async def test_the_lease_is_renewed_while_the_work_goes_on(gated: tuple[House, Gate]) -> None:
    house, gate = gated
    package = await house.package()
    gate.shut()
    sealing = asyncio.ensure_future(house.release(package))
    await gate.reached()
    house.clock.forward(seconds=1.5)
    await asyncio.sleep(0.9)
    house.clock.forward(seconds=1.5)
    told = await house.release(package)
    assert (told.status, told.code) == (409, "sealing")
    gate.open_gate.set()
    assert (await sealing).status == 200


async def test_a_sealer_that_lost_its_lease_enters_nothing(gated: tuple[House, Gate]) -> None:
    house, gate = gated
    package = await house.package()
    await house.fill(package, [customer()])
    gate.shut()
    frozen = asyncio.ensure_future(house.release(package))
    await gate.reached()
    async with house.database.write(ORG) as session:
        await session.exec(update(Package).values(lease_until=house.clock()))
    gate.open_gate.set()
    second = await house.release(package)
    first = await frozen
    assert sorted([first.status, second.status]) == [200, 503]
    assert {first.status: first, second.status: second}[503].code == "sealing-interrupted"
    assert len(await house.ledger("package.sealed")) == 1
    assert len(house.objects(package)) == 3
    assert (await house.call("GET", f"/packages/{package}/archive", by="handler")).status == 200


# --- after it ------------------------------------------------------------------------------------------------------


async def test_the_parts_are_gone_after_the_release_and_late_ones_are_refused(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer()])
    assert (await house.release(package)).status == 200
    assert await house.rows(Part) == []
    assert await house.rows(Mark) == []
    assert len(house.objects(package)) == 3
    for told in (
        await house.put(package, "task-1", [customer()]),
        await house.put(package, "task-1", [customer("2")], attempt=2),
        await house.put_file(package, "task-1", b"x", "a.pdf"),
        await house.commit(package, "task-1", [], 0, attempt=2),
    ):
        assert (told.status, told.code) == (409, "already-sealed")
    assert len(house.objects(package)) == 3


# --- when something breaks -----------------------------------------------------------------------------------------


async def test_a_full_disk_while_sealing_leaves_an_open_package(tmp_path: Path) -> None:
    store = SmallDisk(tmp_path / "vault", 1 << 30, 28)
    async with exporter_house(fresh_sqlite(tmp_path), tmp_path, store=store) as house:
        package = await house.package()
        await house.fill(package, [customer()])
        store.room = 2000
        told = await house.release(package)
        assert (told.status, told.code) == (503, "storage-full")
        assert len(house.objects(package)) == 1
        assert (await house.put(package, "more", [], attempt=1)).status in {200, 503}
        store.room = 1 << 30
        assert (await house.release(package)).json["records"] == 1


async def test_a_full_disk_at_the_second_object_leaves_nothing_of_the_first(gated: tuple[House, Gate]) -> None:
    house, gate = gated
    package = await house.package()
    await house.fill(package, [customer()])
    gate.fail = OSError(28, "no space")
    told = await house.release(package)
    assert (told.status, told.code) == (503, "storage-full")
    gate.fail = None
    assert (await house.release(package)).status == 200


async def test_an_unexpected_error_leaves_an_open_package_and_no_text(gated: tuple[House, Gate]) -> None:
    house, gate = gated
    package = await house.package()
    await house.fill(package, [customer()])
    gate.fail = RuntimeError("planted-secret")
    told = await house.release(package)
    assert (told.status, told.code) == (500, "internal")
    assert "planted-secret" not in told.body.decode()
    gate.fail = None
    assert (await house.release(package)).json["records"] == 1


async def test_a_package_destroyed_while_it_is_sealed_stays_destroyed(gated: tuple[House, Gate]) -> None:
    house, gate = gated
    package = await house.package()
    await house.fill(package, [customer()])
    gate.shut()
    sealing = asyncio.ensure_future(house.release(package))
    await gate.reached()
    assert (await house.call("DELETE", f"/packages/{package}")).status == 204
    gate.open_gate.set()
    told = await sealing
    assert (told.status, told.code) in {(410, "package-destroyed"), (500, "vault-damaged")}
    assert house.objects(package) == []
    assert await house.ledger("package.sealed") == []


async def test_the_end_of_the_process_interrupts_sealing_and_another_takes_it_up(tmp_path: Path) -> None:
    url, installation = fresh_sqlite(tmp_path), Installation()
    gate = Gate(tmp_path / "vault")
    async with exporter_house(url, tmp_path, store=gate, installation=installation) as house:
        package = await house.package()
        await house.fill(package, [customer(str(n)) for n in range(2000)])
        gate.shut()
        sealing = asyncio.ensure_future(house.release(package))
        await gate.reached()
        asyncio.get_running_loop().call_later(0.2, gate.open_gate.set)
    told = await asyncio.gather(sealing, return_exceptions=True)
    assert isinstance(told[0], BaseException) or told[0].status == 503
    async with exporter_house(url, tmp_path, installation=installation) as house:
        assert (await house.release(package)).json["records"] == 2000


async def test_a_crash_while_sealing_is_healed_by_the_next_call_once_the_lease_ran_out(house: House) -> None:
    package = await house.package()
    await house.fill(package, [customer()])
    async with house.database.write(ORG) as session:
        await session.exec(update(Package).values(state="sealing", lease="dead", lease_until=house.clock()))
    half = house.settings.vault / ORG / package / ".tmp-half"
    half.write_bytes(b"left by the crash")
    assert (await house.release(package)).json["records"] == 1
    assert (await house.rows(Attempt))[0].records == 1


async def test_a_tampered_archive_or_answer_is_told_instead_of_sent(house: House) -> None:
    package = await house.sealed([customer()])
    for path in house.objects(package):
        content = bytearray(path.read_bytes())
        content[-20] ^= 1
        path.write_bytes(content)
    for tail in ("archive", "answer"):
        told = await house.call("GET", f"/packages/{package}/{tail}", by="subject:case-1")
        assert (told.status, told.code) == (500, "vault-damaged")
    (row,) = await house.rows(Package)
    assert (row.state, row.lease, row.sent_at) == ("sealed", None, None)


# --- keys ----------------------------------------------------------------------------------------------------------


async def test_packages_are_signed_with_the_newest_key_and_retired_ones_stay_published(house: House) -> None:
    assert (await house.call("GET", "/jwks", by="anonymous")).json == {"keys": []}
    await house.sealed()
    (old,) = (await house.call("GET", "/jwks", by="anonymous")).json["keys"]
    await house.means.keys.rotate(ORG)
    package = await house.sealed()
    keys = (await house.call("GET", "/jwks", by="anonymous")).json["keys"]
    assert keys[0]["kid"] == old["kid"]
    assert all("d" not in key for key in keys)
    jws = (await archive(house, package)).read("habeas-7kq4-m2xb-9/signatures/bundle.jws").decode()
    assert Keys.parse(msgspec.json.encode({"keys": keys}).decode()).verify(jws)[1] == keys[1]["kid"]
    assert (await house.call("GET", "/jwks", by="anonymous", organisation="fjordvik")).json == {"keys": []}


async def test_two_first_seals_at_once_make_one_key(either: House) -> None:
    packages = [await either.package() for _ in range(4)]
    assert {told.status for told in await asyncio.gather(*(either.release(one) for one in packages))} == {200}
    assert len((await either.call("GET", "/jwks", by="anonymous")).json["keys"]) == 1

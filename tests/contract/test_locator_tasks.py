"""How does an order become records, receipts and nothing else? The locator with a real database and the real engine."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import create_engine, inspect, text, update
from sqlalchemy.engine.url import make_url
from sqlmodel import col, select

from services.locator.connectors.base import Code, Rejected, Unavailable
from services.locator.connectors.http import Answer
from services.locator.tables import Identifier, Receipt, Task
from shared.ids import new_id
from shared.problems import Invalid
from shared.problems import Unavailable as NotNow
from shared.register import Register, System
from shared.vocabulary import Assurance, TaskState
from tests.support.locator import Around, House, known, locator_house, proof
from tests.support.registers import ORG, entity, http, manual, register, sql

CRM = sql(
    {
        "customer": entity(
            {"id": {}, "number": {"on_file": True}, "name": {}, "email": {"on_file": True}, "note": {"free_text": True}},
            table="customers", key="id", name_fields=["name"], find_by={"email": "email", "customer_number": "number"},
            yields={"customer_number": "number"},
        ),
        "order": entity(["id", "what"], table="orders", key="id", via={"entity": "customer", "parent_field": "id", "field": "customer_id"}),
    }
)  # fmt: skip
INVOICES = sql(
    {"invoice": entity(["id", "number", "amount"], table="invoices", key="id", find_by={"customer_number": "number"})},
    secret="invoices_url",
)
ARCHIVE = manual(
    {"paper": entity({"id": {}, "title": {}, "text": {"free_text": True}}, find_by={"customer_number": "title"})}
)

CUSTOMERS = """
create table customers(id integer primary key, number text, name text, email text, note text);
create table orders(id integer primary key, customer_id integer, what text);
insert into customers values (1, 'K1', 'Aase Oersted', 'aase@example.dk', 'ringede'), (2, 'K2', 'Bo Lund', 'bo@example.dk', null);
insert into orders values (10, 1, 'bog'), (11, 1, 'kop'), (12, 2, 'sko');
"""
BILLS = """
create table invoices(id integer primary key, number text, amount text);
insert into invoices values (100, 'K1', '12.50'), (101, 'K2', '99.00');
"""


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, str]:
    """Two filled databases; secret name → URL."""
    found = {}
    for name, script in (("crm_url", CUSTOMERS), ("invoices_url", BILLS)):
        path = tmp_path / f"{name}.sqlite"
        with sqlite3.connect(path) as connection:
            connection.executescript(script)
        connection.close()
        found[name] = f"sqlite:///{path}"
    return found


def change(secrets: dict[str, str], script: str, name: str = "crm_url") -> None:
    with sqlite3.connect(secrets[name].removeprefix("sqlite:///")) as connection:
        connection.executescript(script)
    connection.close()


def shop(**systems: Any) -> Register:
    return register({"crm": CRM, "invoices": INVOICES, **systems})


def keys(house: House) -> list[str]:
    return sorted(f"{record.system}:{record.entity}:{record.key}" for record in house.exporter.committed())


EVERYTHING = ["crm:customer:1", "crm:order:10", "crm:order:11", "invoices:invoice:100"]


def everything_stored(url: str) -> str:
    """All that lies in every table, the engine's too, as text."""
    engine = create_engine(make_url(url).set(drivername="sqlite" if "sqlite" in url else "postgresql+psycopg"))
    with engine.connect() as connection:
        schemas = [None] if "sqlite" in url else ["public", "dbos"]
        tables = [
            f"{schema}.{name}" if schema else name
            for schema in schemas
            for name in inspect(engine).get_table_names(schema)
        ]
        found = " ".join(repr(connection.execute(text(f"select * from {table}")).all()) for table in tables)
    engine.dispose()
    return found


# --- the walk ------------------------------------------------------------------------------------------------------


async def test_one_order_is_searched_round_by_round_to_its_end(database_url: str, secrets: dict[str, str]) -> None:
    async with locator_house(database_url, secrets=secrets) as house:
        order_id = await house.put(house.order(shop()))
        await house.located()
        assert keys(house) == EVERYTHING
        told = house.intake.by_system()
        crm, invoices = told["crm", 1], told["invoices", 2]
        assert (crm.state, invoices.state) == (TaskState.FOUND, TaskState.FOUND)
        facts = {group.entity: (group.records, group.doubtful, group.to_open) for group in crm.groups}
        assert facts == {"customer": (1, 0, 1), "order": (2, 0, 0)}
        assert (crm.identifier_types, crm.on_file) == (("customer_number", "email"), ("email",))
        assert [receipt.tasks for receipt in told.values()].count(2) == 1
        assert {proof("email", "aase@example.dk"), proof("customer_number", "K1")} == house.exporter.proofs()
        row = await house.row(order_id)
        assert (row.state, row.data_key, row.person) == ("located", None, None)
        async with house.database.read(ORG) as session:
            assert (await session.exec(select(Identifier))).all() == []
        kinds = [entry.kind for entry in await house.entries()]
        assert kinds == ["order.accepted", "task.found", "task.found", "order.located"]
    stored = everything_stored(database_url)
    for planted in ("aase@", "Aase", "Oersted", "Åse", "K1'", "ringede", "sqlite:///", "12.50"):
        assert planted not in stored


async def test_while_an_order_is_open_the_person_lies_sealed(sqlite_url: str, secrets: dict[str, str]) -> None:
    async with locator_house(sqlite_url, secrets=secrets, start=False) as house:
        await house.put(house.order(shop()))
        assert (await house.task("crm")).state == TaskState.QUEUED
        stored = everything_stored(sqlite_url)
        assert "aase@" not in stored
        assert "rsted" not in stored


async def test_the_same_order_twice_is_one(sqlite_url: str, secrets: dict[str, str]) -> None:
    async with locator_house(sqlite_url, secrets=secrets) as house:
        order, order_id = house.order(shop()), new_id()
        await asyncio.gather(*(house.put(order, order_id) for _ in range(5)))
        await house.located()
        assert await house.put(order, order_id) == order_id
        assert keys(house) == EVERYTHING
        assert len(house.exporter.tasks) == 2
        async with house.from_intake as client:
            other = order.model_copy(update={"name": "En Anden"}).model_dump(mode="json")
            answer = await client.put(f"/orders/{order_id}", json=other)
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:habeas:problem:order-differs")
        assert "Anden" not in answer.text


async def test_only_intake_gives_orders_and_only_for_its_organisation(sqlite_url: str) -> None:
    async with locator_house(sqlite_url, start=False) as house:
        order = house.order(shop())
        body, path = order.model_dump(mode="json"), f"/orders/{new_id()}"
        for client, status in (
            (house.handler, 403),
            (house.client("service:exporter", issuer="exporter"), 401),
            (house.client("service:intake", issuer="intake", organisation="sydlys"), 403),
            (house.client("handler:h1", issuer="intake"), 403),
        ):
            async with client as caller:
                assert (await caller.put(path, json=body)).status_code == status
        async with house.from_intake as caller:
            caller.headers.pop("authorization")
            assert (await caller.put(path, json=body)).status_code == 401


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"binding_key": "a29ydA=="}, 422, "bad-binding-key"),
        ({"binding_key": "æøå"}, 422, "bad-binding-key"),
        ({"register_version": "unheard-of"}, 422, "unknown-register"),
        ({"verb": "erase"}, 422, "invalid"),
    ],
)
async def test_a_wrong_order_is_refused(sqlite_url: str, change: dict[str, Any], status: int, code: str) -> None:
    async with locator_house(sqlite_url, start=False) as house:
        body = {**house.order(shop()).model_dump(mode="json"), **change}
        async with house.from_intake as client:
            answer = await client.put(f"/orders/{new_id()}", json=body)
        assert (answer.status_code, answer.json()["type"]) == (status, f"urn:habeas:problem:{code}")
        assert "example.dk" not in answer.text


async def test_a_register_is_fetched_once_and_kept(sqlite_url: str, secrets: dict[str, str]) -> None:
    around = Around()
    async with locator_house(sqlite_url, secrets=secrets, around=around) as house:
        await house.put(house.order(shop()))
        await house.located()
        assert house.intake.asked == 1
    async with locator_house(sqlite_url, secrets=secrets, around=around) as house:
        house.intake.receipts.clear()
        await house.put(house.order(shop()))
        await house.located()
        assert house.intake.asked == 1


# --- who is searched for -------------------------------------------------------------------------------------------


async def test_an_order_without_anything_to_search_for_is_done_at_once_and_says_why(sqlite_url: str) -> None:
    async with locator_house(sqlite_url) as house:
        claimed = (known("aase@example.dk", assurance=Assurance.CLAIMED),)
        order_id = await house.put(house.order(shop(), identifiers=claimed))
        await house.located()
        told = house.intake.by_system()
        assert {(receipt.state, receipt.code) for receipt in told.values()} == {(TaskState.NOTHING, "no-identifier")}
        assert set(told) == {("crm", 1), ("invoices", 1)}
        assert (await house.row(order_id)).data_key is None


async def test_an_unknown_person_is_told_what_was_searched(sqlite_url: str, secrets: dict[str, str]) -> None:
    async with locator_house(sqlite_url, secrets=secrets) as house:
        await house.put(house.order(shop(archive=ARCHIVE), identifiers=(known("nobody@example.dk"),)))
        await house.located()
        told = {system: (receipt.state, receipt.code) for (system, _round), receipt in house.intake.by_system().items()}
        assert told == {
            "crm": (TaskState.NOTHING, None),
            "invoices": (TaskState.NOTHING, "no-identifier"),
            "archive": (TaskState.NOTHING, "no-identifier"),
        }
        assert keys(house) == []


async def test_an_identifier_found_in_a_system_opens_that_system_again_in_the_same_attempt(
    sqlite_url: str, secrets: dict[str, str]
) -> None:
    change(
        secrets,
        "insert into customers values (3, 'K1', 'Åse Ørsted', 'gammel@example.dk', null); insert into orders values (13, 3, 'hat')",
    )
    async with locator_house(sqlite_url, secrets=secrets) as house:
        await house.put(house.order(shop()))
        await house.located()
        assert keys(house) == [
            "crm:customer:1",
            "crm:customer:3",
            "crm:order:10",
            "crm:order:11",
            "crm:order:13",
            "invoices:invoice:100",
        ]
        bound = {record.key: record.bound for record in house.exporter.committed() if record.system == "crm"}
        assert bound["3"] == {"customer_number": "K1"}
        assert bound["13"] == {"customer_number": "K1"}
        assert len(house.intake.last()) == 2


async def test_a_doubtful_record_opens_nothing_and_a_person_is_asked(sqlite_url: str, secrets: dict[str, str]) -> None:
    async with locator_house(sqlite_url, secrets=secrets) as house:
        await house.put(house.order(shop(), name="Bo Lund"))
        task = await house.task("invoices", TaskState.NEEDS_PERSON)
        assert task.code == Code.DOUBTFUL_SOURCE
        assert {record.doubt for record in house.exporter.committed()} == {"name_mismatch"}
        crm = house.intake.by_system()["crm", 1]
        assert {group.doubtful for group in crm.groups} == {1, 2}
        assert (crm.identifier_types, crm.on_file) == (("email",), ())


async def test_hops_inherit_the_weakest_assurance(sqlite_url: str, secrets: dict[str, str]) -> None:
    async with locator_house(sqlite_url, secrets=secrets) as house:
        given = (known("aase@example.dk", assurance=Assurance.DOCUMENTED),)
        await house.put(house.order(shop(archive=ARCHIVE), identifiers=given))
        await house.task("archive", TaskState.NEEDS_PERSON)
        async with house.database.read(ORG) as session:
            rows = (await session.exec(select(Identifier.type, Identifier.assurance, Identifier.hop))).all()
        assert set(rows) == {("email", Assurance.DOCUMENTED, 0), ("customer_number", Assurance.DOCUMENTED, 1)}


# --- parts ---------------------------------------------------------------------------------------------------------


async def test_many_records_leave_in_parts_of_bounded_size(sqlite_url: str, secrets: dict[str, str]) -> None:
    rows = ",".join(f"({number}, 1, '{'æ' * 100}')" for number in range(1000, 6000))
    change(secrets, f"insert into orders values {rows}")
    async with locator_house(sqlite_url, secrets=secrets, part_bytes=100_000, part_records=400) as house:
        await house.put(house.order(shop()))
        await house.located()
        assert len(keys(house)) == len(EVERYTHING) + 5000
        assert len(house.exporter.sizes) > 12
        assert max(house.exporter.sizes) <= 100_000
        assert all(
            len(part.splitlines()) <= 400 for task in house.exporter.tasks.values() for part in task[1].parts.values()
        )


# --- failing systems -----------------------------------------------------------------------------------------------

Ask = Callable[[str], Awaitable[Any]]


class FakeWeb:
    """Stands where an API is; `ask` gets the URL and gives the answer."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def request(self, method: str, url: str, headers: Any, body: bytes | None = None) -> Answer:
        content = await self._ask(url)
        return Answer(200, {"content-type": "application/json"}, msgspec.json.encode(content))

    async def close(self) -> None:
        pass


def web(ask: Ask) -> Callable[[System], FakeWeb]:
    return lambda _system: FakeWeb(ask)


def api(name: str = "api", **rest: Any) -> dict[str, Any]:
    ticket = entity(
        ["id", "email"], key="id", records="$.tickets", find_by={"email": {"field": "email", "path": f"/{name}"}}
    )
    return http({"ticket": ticket}, base_url="https://api.example", **rest)


MINE = {"tickets": [{"id": 1, "email": "aase@example.dk"}]}


async def test_a_system_that_fails_for_a_while_is_tried_again(sqlite_url: str) -> None:
    asked = []

    async def ask(_url: str) -> Any:
        asked.append(asyncio.get_running_loop().time())
        if len(asked) < 4:
            raise Unavailable(Code.UNREACHABLE)
        return MINE

    async with locator_house(sqlite_url, open_web=web(ask)) as house:
        await house.put(house.order(register({"api": api()})))
        await house.located()
        task = await house.task("api")
        assert (task.state, task.attempt, task.failures, task.code) == (TaskState.FOUND, 4, 3, None)
        assert keys(house) == ["api:ticket:1"]
        assert list(house.intake.receipts) == [(task.id, 4)]


async def test_a_system_that_keeps_failing_becomes_a_persons_task_and_is_never_nothing_found(
    sqlite_url: str, secrets: dict[str, str]
) -> None:
    async def ask(_url: str) -> Any:
        raise Unavailable(Code.TIMEOUT)

    async with locator_house(sqlite_url, secrets=secrets, open_web=web(ask)) as house:
        await house.put(house.order(shop(api=api(tries=3))))
        task = await house.task("api", TaskState.NEEDS_PERSON)
        assert (task.attempt, task.failures, task.code) == (4, 3, Code.TIMEOUT)
        await house.until(lambda: (task.id, 3) in house.intake.receipts)
        told = house.intake.receipts[task.id, 3]
        assert (told.state, told.code, told.order_state) == (TaskState.NEEDS_PERSON, "timeout", "open")
        await house.until(lambda: len(house.intake.last()) == 3)
        assert keys(house) == EVERYTHING
        assert house.intake.located is False
        async with house.handler as client:
            answer = await client.post(
                f"/tasks/{task.id}/complete", json={"outcome": "not_searched", "note_code": "system-broken"}
            )
        assert answer.status_code == 200, answer.text
        await house.located()
        last = house.intake.receipts[task.id, 4]
        assert (last.state, last.code, last.order_state, last.tasks) == (
            TaskState.NOT_SEARCHED,
            "system-broken",
            "located",
            3,
        )


@pytest.mark.parametrize("error", [Rejected(Code.NOT_AUTHORISED), Rejected(Code.SCHEMA_CHANGED)])
async def test_a_system_that_says_no_becomes_a_persons_task_at_once(sqlite_url: str, error: Rejected) -> None:
    async def ask(_url: str) -> Any:
        raise error

    async with locator_house(sqlite_url, open_web=web(ask)) as house:
        await house.put(house.order(register({"api": api()})))
        task = await house.task("api", TaskState.NEEDS_PERSON)
        assert (task.attempt, task.code) == (2, error.code)


async def test_a_missing_secret_becomes_a_persons_task(sqlite_url: str) -> None:
    async with locator_house(sqlite_url) as house:
        await house.put(house.order(register({"crm": CRM})))
        assert (await house.task("crm", TaskState.NEEDS_PERSON)).code == Code.SECRET_MISSING


async def test_a_wait_that_the_system_asks_for_is_honoured(sqlite_url: str) -> None:
    asked = []

    async def ask(_url: str) -> Any:
        asked.append(asyncio.get_running_loop().time())
        if len(asked) == 1:
            raise Unavailable(Code.BUSY, 1.0)
        return MINE

    async with locator_house(sqlite_url, open_web=web(ask)) as house:
        await house.put(house.order(register({"api": api()})))
        assert (await house.task("api", TaskState.RETRY)).code == Code.BUSY
        await house.located()
        assert asked[1] - asked[0] >= 0.95


async def test_an_error_of_our_own_making_is_tried_again_and_then_handed_over_without_its_text(
    sqlite_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async def ask(_url: str) -> Any:
        raise ZeroDivisionError("aase@example.dk")

    async with locator_house(sqlite_url, open_web=web(ask)) as house:
        await house.put(house.order(register({"api": api(tries=2)})))
        task = await house.task("api", TaskState.NEEDS_PERSON)
        assert (task.failures, task.code) == (2, Code.INTERNAL)
        assert "aase@" not in everything_stored(sqlite_url)
    printed = capfd.readouterr()
    assert "aase@" not in printed.out + printed.err


# --- a failing house -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["part", "arrived", "commit"])
async def test_an_exporter_in_trouble_is_not_the_systems_fault(
    sqlite_url: str, secrets: dict[str, str], place: str
) -> None:
    async with locator_house(sqlite_url, secrets=secrets) as house:
        house.exporter.faults[place] = [NotNow(), NotNow()]
        await house.put(house.order(shop()))
        await house.located()
        assert keys(house) == EVERYTHING
        crm = next(row for row in [await house.task("crm")])
        assert (crm.attempt, crm.failures) == (3, 0)


async def test_a_commit_whose_answer_was_lost_is_made_again_and_counts_once(
    sqlite_url: str, secrets: dict[str, str]
) -> None:
    async with locator_house(sqlite_url, secrets=secrets) as house:
        lost: list[int] = []

        async def lose(_task: str, number: int) -> None:
            if not lost:
                lost.append(number)
                raise NotNow

        house.exporter.after_commit = lose
        await house.put(house.order(shop()))
        await house.located()
        assert lost == [1]
        assert keys(house) == EVERYTHING
        assert max(house.exporter.tasks[(await house.task("crm")).id]) == 2


async def test_records_that_the_exporter_refuses_go_to_a_person(sqlite_url: str, secrets: dict[str, str]) -> None:
    async with locator_house(sqlite_url, secrets=secrets) as house:
        house.exporter.faults["part"] = [Invalid()]
        await house.put(house.order(shop()))
        task = await house.task("crm", TaskState.NEEDS_PERSON)
        assert task.code == Code.NOT_ACCEPTED


async def test_receipts_that_intake_does_not_take_are_delivered_later(sqlite_url: str, secrets: dict[str, str]) -> None:
    async with locator_house(sqlite_url, secrets=secrets) as house:
        house.intake.down = [NotNow(), NotNow(), NotNow()]
        await house.put(house.order(shop()))
        await house.located()
        assert house.intake.deliveries >= 5
        async with house.database.read(ORG) as session:
            left = (await session.exec(select(Receipt).where(col(Receipt.delivered_at).is_(None)))).all()
        assert left == []


async def test_an_attempt_whose_worker_died_is_taken_up_by_another_process(sqlite_url: str) -> None:
    around, hanging = Around(), asyncio.Event()

    async def hang(_url: str) -> Any:
        hanging.set()
        await asyncio.Event().wait()

    async def ask(_url: str) -> Any:
        return MINE

    async with locator_house(sqlite_url, open_web=web(hang), around=around, lease_seconds=1) as first:
        order = first.order(register({"api": api()}))
        order_id = await first.put(order)
        await hanging.wait()
    async with locator_house(sqlite_url, open_web=web(ask), around=around) as second:
        await second.located()
        task = await second.task("api")
        assert (task.order_id, task.state, task.attempt, task.failures) == (order_id, TaskState.FOUND, 2, 0)


async def test_a_crash_between_the_commit_and_the_receipt_loses_and_repeats_nothing(
    sqlite_url: str, secrets: dict[str, str]
) -> None:
    around, committed = Around(), asyncio.Event()

    async def hang(_task: str, _number: int) -> None:
        committed.set()
        await asyncio.Event().wait()

    around.exporter.after_commit = hang
    async with locator_house(sqlite_url, secrets=secrets, around=around, lease_seconds=1) as first:
        await first.put(first.order(shop()))
        await committed.wait()
    assert around.intake.receipts == {}
    assert len(around.exporter.committed()) == 3
    around.exporter.after_commit = None
    async with locator_house(sqlite_url, secrets=secrets, around=around) as second:
        await second.located()
        assert keys(second) == EVERYTHING
        crm = await second.task("crm")
        assert (crm.attempt, crm.failures) == (2, 0)
        assert sorted(around.exporter.tasks[crm.id]) == [1, 2]


async def test_a_receipt_that_a_crash_kept_back_is_delivered_after_the_restart(
    sqlite_url: str, secrets: dict[str, str]
) -> None:
    around = Around()
    around.intake.down = [NotNow() for _ in range(100)]
    async with locator_house(sqlite_url, secrets=secrets, around=around) as first:
        await first.put(first.order(shop()))
        await first.until(lambda: around.intake.deliveries >= 2)
    around.intake.down.clear()
    async with locator_house(sqlite_url, secrets=secrets, around=around) as second:
        await second.located()
        assert keys(second) == EVERYTHING


async def test_an_attempt_that_comes_too_late_changes_nothing(sqlite_url: str) -> None:
    arrived, release = asyncio.Event(), asyncio.Event()
    calls = []

    async def ask(_url: str) -> Any:
        calls.append(1)
        if len(calls) == 1:
            arrived.set()
            await release.wait()
            return {"tickets": [{"id": 666, "email": "aase@example.dk"}]}
        return MINE

    async with locator_house(sqlite_url, open_web=web(ask), lease_seconds=60) as house:
        await house.put(house.order(register({"api": api()})))
        await arrived.wait()
        task = await house.task("api", TaskState.RUNNING)
        # As if this worker had been frozen until its lease ran out: another attempt begins and ends meanwhile.
        async with house.database.write(ORG) as session:
            await session.exec(update(Task).values(attempt=2))
        await house.app.state.worker.perform(ORG, task.id, 2)
        assert house.intake.located
        release.set()
        await asyncio.sleep(0.3)
        after = await house.task("api")
        assert (after.state, after.attempt, after.records) == (TaskState.FOUND, 2, 1)
        assert keys(house) == ["api:ticket:1"]
        assert list(house.intake.receipts) == [(task.id, 2)]


async def test_an_attempt_is_stopped_once_its_lease_is_lost(sqlite_url: str) -> None:
    arrived, stopped = asyncio.Event(), asyncio.Event()

    async def ask(_url: str) -> Any:
        arrived.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with locator_house(sqlite_url, open_web=web(ask), lease_seconds=0.6, sweep_seconds=60) as house:
        await house.put(house.order(register({"api": api()})))
        await arrived.wait()
        async with house.database.write(ORG) as session:
            await session.exec(update(Task).values(attempt=7))
        async with asyncio.timeout(5):
            await stopped.wait()
        assert (await house.task("api")).attempt == 7


async def test_a_task_that_kills_its_workers_is_given_up_and_handed_to_a_person(sqlite_url: str) -> None:
    begun = []

    async def ask(_url: str) -> Any:
        begun.append(1)
        await asyncio.Event().wait()

    async with locator_house(sqlite_url, open_web=web(ask), lease_seconds=60, most_attempts=3) as house:
        await house.put(house.order(register({"api": api()})))
        for attempt in (1, 2, 3):
            await house.until(partial(lambda number: len(begun) == number, attempt))
            async with house.database.write(ORG) as session:
                await session.exec(update(Task).values(lease_until=col(Task.at)))
        task = await house.task("api", TaskState.NEEDS_PERSON)
        assert (task.attempt, task.code) == (4, Code.INTERNAL)
        await house.until(lambda: (task.id, 3) in house.intake.receipts)


# --- calling off ---------------------------------------------------------------------------------------------------


async def test_a_cancelled_order_stops_and_forgets(sqlite_url: str) -> None:
    arrived, stopped = asyncio.Event(), asyncio.Event()

    async def ask(_url: str) -> Any:
        arrived.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with locator_house(sqlite_url, open_web=web(ask)) as house:
        order_id = await house.put(house.order(register({"api": api(), "archive": manual({"p": entity(["t"])})})))
        await arrived.wait()
        await house.until(lambda: house.intake.receipts)
        async with house.from_intake as client:
            for _time in range(2):
                assert (await client.delete(f"/orders/{order_id}")).status_code == 204
            assert (await client.delete(f"/orders/{new_id()}")).status_code == 404
            assert (await client.put(f"/orders/{order_id}", json={})).status_code == 422
        async with asyncio.timeout(5):
            await stopped.wait()
        assert (await house.row(order_id)).data_key is None
        for system in ("api", "archive"):
            task = await house.task(system)
            assert (task.state, task.lease_until) == (TaskState.CANCELLED, None)
        async with house.handler as client:
            task = await house.task("archive")
            seen = (await client.get(f"/tasks/{task.id}")).json()
            assert (seen["state"], seen["search_for"]) == ("cancelled", None)
            answer = await client.post(f"/tasks/{task.id}/complete", json={"outcome": "nothing"})
            assert answer.json()["type"] == "urn:habeas:problem:task-not-open"
        await asyncio.sleep(0.5)
        assert len(house.intake.receipts) == 1


# --- many at once --------------------------------------------------------------------------------------------------


async def test_a_hundred_slow_systems_are_done_within_three_seconds(sqlite_url: str) -> None:
    async def ask(_url: str) -> Any:
        await asyncio.sleep(0.5)
        return MINE

    many = register({f"api{number}": api() for number in range(100)})
    async with locator_house(sqlite_url, open_web=web(ask), polling=0.2, sweep_seconds=1, lease_seconds=60) as house:
        await house.put(house.order(many, case_id=new_id()))
        begun = asyncio.get_running_loop().time()
        await house.located(30)
        took = asyncio.get_running_loop().time() - begun
        print(f"100 systems x 0.5 s: {took:.2f} s")
        assert len(keys(house)) == 100
        assert took < 6, "twice what it takes on a machine that does nothing else"


async def test_no_more_tasks_are_at_one_system_than_the_register_allows(sqlite_url: str) -> None:
    at_once = most = 0

    async def ask(_url: str) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.1)
        at_once -= 1
        return MINE

    async with locator_house(sqlite_url, open_web=web(ask)) as house:
        one = register({"api": api(concurrency=2)})
        for _number in range(8):
            await house.put(house.order(one))
        await house.until(lambda: len(house.intake.receipts) == 8)
        assert most == 2

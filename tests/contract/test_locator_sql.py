"""Does the sql connector find everything that is one person's in a real database, and change nothing there?"""

import asyncio
import gc
import sqlite3
import tracemalloc
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.engine.url import make_url

from services.locator.connectors.base import Code, Found, NeedsPerson, Rejected, Search, Unavailable
from services.locator.connectors.snapshots import Snapshot, open_source
from services.locator.connectors.sql import SqlConnector
from services.locator.parts import _encoder
from shared.messages import Identifier
from shared.register import Register
from shared.vocabulary import Assurance
from tests.support.registers import entity, register, sql

SHOP: dict[str, Any] = {
    "line": entity(["id", "order_id", "what"], table="lines", key="id", via={"entity": "order", "parent_field": "id", "field": "order_id"}),
    "order": entity(
        ["id", "customer_id", "login", "placed_at", "amount", "scan"], table="order", key="id",
        find_by={"login": "login"}, via={"entity": "customer", "parent_field": "id", "field": "customer_id"},
    ),
    "customer": entity(
        {"id": {}, "number": {}, "name": {}, "email": {}, "phone": {}, "cpr": {}, "city": {"column": "By"}},
        table="customers", key="id", name_fields=["name"],
        find_by={"email": "email", "phone": "phone", "cpr": "cpr", "customer_number": "number"},
        yields={"customer_number": "number"},
    ),
    "visit": entity(["page"], table="visits", via={"entity": "customer", "parent_field": "email", "field": "who"}),
}  # fmt: skip

TABLES = """
create table customers(id integer primary key, number integer, name text, email text, phone text, cpr text, "By" text, secret text);
create table "order"(id integer primary key, customer_id integer, login text, placed_at {timestamp}, amount numeric(9,2), scan {bytes});
create table lines(id integer primary key, order_id integer, what text);
create table visits(page text, who text)
"""
ROWS = """
insert into customers values (1, 1001, 'Åse Ørsted', 'Aase@Example.DK', '12 34 56 78', '010203-1234', 'Skagen', 'never read');
insert into customers values (2, 1002, 'Bo Lund', 'bo@example.dk', '+4587654321', '0405061234', 'Aalborg', 'never read');
insert into customers values (3, 1003, 'Åse Ørsted', 'aase@example.dk', null, null, 'Ribe', 'never read');
insert into "order" values (10, 1, 'aase', '2024-05-01 10:00:00', 12.50, null);
insert into "order" values (11, 2, 'bo', '2024-05-02 10:00:00', 99.00, null);
insert into "order" values (12, 3, null, '2024-05-03 10:00:00', 1.25, null);
insert into "order" values (13, null, 'AASE', '2024-05-04 10:00:00', 7.00, null);
insert into lines values (100, 10, 'bog');
insert into lines values (101, 11, 'kop');
insert into lines values (102, 13, 'sko');
insert into lines values (103, 12, 'hat');
insert into visits values ('/forside', 'Aase@Example.DK');
insert into visits values ('/forside', 'bo@example.dk');
insert into visits values ('/kurv', 'Aase@Example.DK')
"""


def shop(**system: Any) -> Register:
    return register({"crm": sql(SHOP, **system)})


def known(kind: str, value: str) -> Identifier:
    return Identifier(type=kind, value=value, assurance=Assurance.CONTROLLED)


def synchronous(url: str) -> sa.Engine:
    parsed = make_url(url)
    return sa.create_engine(parsed.set(drivername=parsed.drivername.replace("+aiosqlite", "")))


def execute(url: str, script: str) -> None:
    engine = synchronous(url)
    with engine.begin() as connection:
        for statement in filter(str.strip, script.split(";\n")):
            connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.fixture(params=["aiosqlite", "thread", "postgresql"])
def shop_url(request: pytest.FixtureRequest) -> str:
    """A filled database, by each of the ways in which one is read."""
    url: str = request.getfixturevalue("postgres_url" if request.param == "postgresql" else "sqlite_url")
    postgres = request.param == "postgresql"
    execute(url, TABLES.format(timestamp="timestamptz" if postgres else "text", bytes="bytea" if postgres else "blob"))
    execute(url, ROWS)
    return url.replace("+aiosqlite", "+pysqlite") if request.param == "thread" else url


@pytest.fixture(params=["sqlite", "postgresql"])
def guarded_url(request: pytest.FixtureRequest) -> str:
    """A filled database that itself can be told to refuse writes; for others an account that may only read is the guard."""
    url: str = request.getfixturevalue("postgres_url" if request.param == "postgresql" else "sqlite_url")
    postgres = request.param == "postgresql"
    script = TABLES.format(timestamp="timestamptz" if postgres else "text", bytes="bytea" if postgres else "blob")
    execute(url, script if postgres else f"pragma journal_mode=wal;\n{script}")
    execute(url, ROWS)
    return url


def connect(url: str, of: Register | None = None, *, timeout: float = 10) -> SqlConnector:
    system = (of or shop()).systems["crm"]
    return SqlConnector(system, lambda: open_source(url, connections=4, timeout=timeout))


async def find(
    connector: SqlConnector, *wanted: Identifier, of: Register | None = None, earlier: tuple[Identifier, ...] = ()
) -> list[Found]:
    async with aclosing(connector.locate(Search.of(of or shop(), "crm", wanted, earlier))) as stream:
        found = [one async for one in stream]
    await connector.close()
    return found


def keys(found: list[Found]) -> list[str]:
    return sorted(f"{one.record.entity}:{one.record.key}" for one in found if one.record.entity != "visit")


async def test_everything_that_hangs_under_a_person_is_found_and_nothing_of_others(shop_url: str) -> None:
    found = await find(connect(shop_url), known("email", "aase@example.dk"))
    assert keys(found) == ["customer:1", "customer:3", "line:100", "line:103", "order:10", "order:12"]
    order = next(one.record for one in found if one.record.key == "10")
    assert (order.evidence, order.bound) == ("join", {"email": "aase@example.dk"})
    customer = next(one.record for one in found if one.record.entity == "customer" and one.record.key == "1")
    assert (customer.evidence, customer.bound) == ("field", {"email": "aase@example.dk"})
    assert customer.fields["city"] == "Skagen"
    assert [one.ancestors[0].name for one in found if one.record.key == "100"] == [("Åse Ørsted",)]


async def test_parents_come_before_what_hangs_under_them(shop_url: str) -> None:
    found = await find(connect(shop_url), known("email", "aase@example.dk"))
    order = list(dict.fromkeys(one.record.entity for one in found))
    assert order.index("customer") < order.index("order") < order.index("line")


async def test_an_entity_without_a_key_gets_one_and_repeats_nothing(shop_url: str) -> None:
    execute(
        shop_url.replace("+pysqlite", ""),
        "insert into customers values (4, 1004, 'Åse Ørsted', 'Aase@Example.DK', null, null, null, null)",
    )
    found = [one.record for one in await find(connect(shop_url), known("email", "aase@example.dk"))]
    visits = [record for record in found if record.entity == "visit"]
    assert sorted(record.fields["page"] for record in visits) == ["/forside", "/kurv"]
    assert len({record.key for record in visits}) == 2


async def test_one_row_found_in_two_ways_comes_once(shop_url: str) -> None:
    found = await find(
        connect(shop_url), known("email", "aase@example.dk"), known("login", "aase"), known("phone", "+4512345678")
    )
    assert keys(found) == [
        "customer:1",
        "customer:3",
        "line:100",
        "line:102",
        "line:103",
        "order:10",
        "order:12",
        "order:13",
    ]
    order = next(one.record for one in found if one.record.key == "10")
    assert (order.evidence, order.bound) == ("field", {"login": "aase"})
    customer = next(one.record for one in found if one.record.key == "1")
    assert customer.bound == {"email": "aase@example.dk", "phone": "+4512345678"}


@pytest.mark.parametrize(
    "wanted",
    [
        known("phone", "+4512345678"),
        known("cpr", "0102031234"),
        known("customer_number", "1001"),
        known("login", "aase"),
    ],
)
async def test_a_value_is_found_however_it_is_written(shop_url: str, wanted: Identifier) -> None:
    assert await find(connect(shop_url), wanted)


@pytest.mark.parametrize(
    "wanted",
    [
        known("phone", "+4511111111"),
        known("customer_number", "K1'; --"),
        known("customer_number", "9" * 30),
        known("email", "%@example.dk"),
        known("account", "1"),
    ],
)
async def test_nobody_is_found_by_what_nobody_has(shop_url: str, wanted: Identifier) -> None:
    assert await find(connect(shop_url), wanted) == []


async def test_what_was_handed_over_in_an_earlier_round_is_left_out(shop_url: str) -> None:
    execute(shop_url.replace("+pysqlite", ""), "update customers set number = 1001 where id = 2")
    found = await find(
        connect(shop_url), known("customer_number", "1001"), earlier=(known("email", "aase@example.dk"),)
    )
    assert keys(found) == ["customer:2", "line:101", "order:11"]


async def test_only_declared_fields_leave_the_database(shop_url: str) -> None:
    found = await find(connect(shop_url), known("email", "aase@example.dk"))
    assert "never read" not in repr(found)
    declared = {name: set(one["fields"]) for name, one in SHOP.items()}
    assert all(set(one.record.fields) <= declared[one.record.entity] for one in found)


async def test_a_row_that_the_database_takes_for_the_persons_but_is_not_is_dropped(sqlite_url: str) -> None:
    execute(sqlite_url, "create table people(id integer, login text collate nocase)")
    execute(sqlite_url, "insert into people values (1, 'Anna')")
    of = register({"crm": sql({"p": entity(["id", "login"], table="people", key="id", find_by={"account": "login"})})})
    assert await find(connect(sqlite_url, of), known("account", "anna"), of=of) == []


async def test_values_become_json_as_they_are(postgres_url: str) -> None:
    execute(
        postgres_url,
        "create table t(id uuid, who text, day date, at timestamptz, amount numeric, raw bytea, tags text[], doc jsonb, ip inet, span int4range, ok bool, wait interval)",
    )
    execute(
        postgres_url,
        "insert into t values ('018f3f66-0000-7000-8000-000000000001', 'a@x.dk', '2024-02-29', '2024-02-29 12:00+00', 12.50, '\\x00ff', '{a,b}', '{\"a\": [1]}', '10.0.0.1', '[1,5)', true, '1 day')",
    )
    fields = ["id", "day", "at", "amount", "raw", "tags", "doc", "ip", "span", "ok", "wait"]
    of = register({"crm": sql({"t": entity(fields, key="id", find_by={"email": "who"})})})
    (found,) = await find(connect(postgres_url, of), known("email", "a@x.dk"), of=of)
    assert found.record.key == "018f3f66-0000-7000-8000-000000000001"
    told = msgspec.json.decode(_encoder.encode(found.record))["fields"]
    at = datetime.fromisoformat(told.pop("at"))
    assert at == datetime(2024, 2, 29, 12, tzinfo=UTC)
    assert told == {
        "id": "018f3f66-0000-7000-8000-000000000001", "day": "2024-02-29", "amount": "12.50", "raw": "AP8=",
        "tags": ["a", "b"], "doc": {"a": [1]}, "ip": "10.0.0.1", "span": "[1, 5)", "ok": True, "wait": "P1D",
    }  # fmt: skip


async def test_text_in_an_old_encoding_is_read(sqlite_url: str) -> None:
    execute(sqlite_url, "create table customers(id integer, email text, note text)")
    with sqlite3.connect(make_url(sqlite_url).database or "") as connection:
        connection.execute("insert into customers values (1, 'a@x.dk', cast(x'C573656E' as text))")
    connection.close()
    of = register({"crm": sql({"customers": entity(["id", "note"], key="id", find_by={"email": "email"})})})
    (found,) = await find(connect(sqlite_url, of), known("email", "a@x.dk"), of=of)
    assert found.record.fields["note"] == "Åsen"


async def test_a_capital_letter_beyond_ascii_is_found(sqlite_url: str) -> None:
    execute(sqlite_url, "create table customers(id integer, email text)")
    execute(sqlite_url, "insert into customers values (1, 'ØRSTED@X.DK')")
    of = register({"crm": sql({"customers": entity(["id"], key="id", find_by={"email": "email"})})})
    assert len(await find(connect(sqlite_url, of), known("email", "ørsted@x.dk"), of=of)) == 1


# --- changing nothing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", ["delete from customers", "insert into visits values ('x', 'y')", "drop table lines"])
async def test_the_database_itself_refuses_to_be_changed(guarded_url: str, write: str) -> None:
    source = open_source(guarded_url, connections=1, timeout=5)
    with pytest.raises(Rejected, match=Code.REFUSED.value):
        async with source.snapshot() as snapshot:
            await snapshot._connection.execute(sa.text(write))  # type: ignore[attr-defined]
    await source.close()


async def test_one_search_sees_one_moment(guarded_url: str) -> None:
    source = open_source(guarded_url, connections=1, timeout=5)
    query = sa.select(sa.func.count()).select_from(sa.table("customers"))

    async def count(snapshot: Snapshot) -> Any:
        rows = [row async for batch in snapshot.batches(query) for row in batch]
        return rows[0][0]

    async with source.snapshot() as snapshot:
        assert await count(snapshot) == 3
        await asyncio.to_thread(execute, guarded_url, "insert into visits values ('/x', 'x');\ndelete from customers")
        assert await count(snapshot) == 3
    async with source.snapshot() as snapshot:
        assert await count(snapshot) == 0
    await source.close()


# --- what can go wrong ---------------------------------------------------------------------------------------------


async def failing(connector: SqlConnector, *, of: Register | None = None) -> tuple[type[Exception], str]:
    try:
        await find(connector, known("email", "a@x.dk"), of=of)
    except (Unavailable, NeedsPerson, Rejected) as error:
        await connector.close()
        assert error.__cause__ is None
        return type(error), str(error)
    raise AssertionError("it did not fail")


async def test_a_file_that_is_not_there_is_no_empty_database(tmp_path: Path) -> None:
    gone = tmp_path / "gone.sqlite"
    assert await failing(connect(f"sqlite:///{gone}")) == (Unavailable, "unreachable")
    assert not gone.exists()


async def test_a_file_that_is_no_database_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_bytes(b"Kunde;Anna\n" * 1000)
    assert await failing(connect(f"sqlite:///{tmp_path / 'x.sqlite'}")) == (Rejected, "unexpected-answer")


async def test_a_server_that_does_not_answer_is_unavailable() -> None:
    assert await failing(connect("postgresql://u:hemmelig@127.0.0.1:1/x")) == (Unavailable, "unreachable")


async def test_a_database_that_does_not_exist_is_rejected(postgres_url: str) -> None:
    url = make_url(postgres_url).set(database="findes_ikke").render_as_string(hide_password=False)
    assert await failing(connect(url)) == (Rejected, "schema-changed")


@pytest.mark.parametrize(
    "url", ["nonsense", "oracle+nothing://x", "nosuchdb://x", "sqlite://", "mysql+pymysql://u@127.0.0.1/x"]
)
async def test_a_url_that_cannot_be_used_goes_to_a_person(url: str) -> None:
    assert await failing(connect(url)) == (NeedsPerson, "unknown-kind")


@pytest.mark.parametrize("change", ["drop table lines", 'alter table "order" rename column login to brugernavn'])
async def test_a_table_or_column_that_is_gone_is_told_and_not_taken_for_nothing(shop_url: str, change: str) -> None:
    execute(shop_url.replace("+pysqlite", ""), change)
    assert await failing(connect(shop_url)) == (Rejected, "schema-changed")


async def test_a_schema_that_changes_while_it_is_remembered_is_noticed(shop_url: str) -> None:
    connector = connect(shop_url)
    search = Search.of(shop(), "crm", (known("email", "aase@example.dk"),))
    assert [one async for one in connector.locate(search)]
    execute(shop_url.replace("+pysqlite", ""), 'alter table "order" rename column login to brugernavn')
    with pytest.raises(Rejected, match="schema-changed"):
        [one async for one in connector.locate(search)]
    await connector.close()


async def test_an_account_that_may_not_read_is_told(postgres_url: str) -> None:
    execute(postgres_url, TABLES.format(timestamp="timestamptz", bytes="bytea"))
    execute(postgres_url, "create role nobody_at_all login password 'hemmelig'")
    try:
        url = make_url(postgres_url).set(username="nobody_at_all", password="hemmelig")
        assert await failing(connect(url.render_as_string(hide_password=False))) == (Rejected, "not-authorised")
    finally:
        execute(postgres_url, "drop role nobody_at_all")


async def test_a_statement_that_takes_too_long_is_ended(postgres_url: str) -> None:
    execute(postgres_url, "create view slow as select 1 as id, 'a@x.dk'::text as email, pg_sleep(30)::text as note")
    of = register({"crm": sql({"slow": entity(["id", "note"], key="id", find_by={"email": "email"})})})
    begun = perf_counter()
    assert await failing(connect(postgres_url, of, timeout=0.5), of=of) == (Unavailable, "timeout")
    assert perf_counter() - begun < 5


async def test_a_slow_sqlite_statement_is_interrupted(sqlite_url: str) -> None:
    count = "with recursive c(n) as (select 1 union all select n + 1 from c where n < 2000000000) select max(n) from c"
    execute(sqlite_url, f"create view slow as select 1 as id, 'a@x.dk' as email, ({count}) as note")
    of = register({"crm": sql({"slow": entity(["id", "note"], key="id", find_by={"email": "email"})})})
    begun = perf_counter()
    assert await failing(connect(sqlite_url, of, timeout=0.2), of=of) == (Unavailable, "timeout")
    assert perf_counter() - begun < 10


# --- probing -------------------------------------------------------------------------------------------------------


async def test_a_probe_tells_what_the_register_does_not(shop_url: str) -> None:
    execute(shop_url.replace("+pysqlite", ""), "alter table lines rename column what to hvad")
    connector = connect(shop_url)
    findings = await connector.probe()
    await connector.close()
    assert (findings.reachable, findings.code) == (True, Code.SCHEMA_CHANGED)
    by_name = {one.entity: one for one in findings.entities}
    assert (by_name["line"].missing, by_name["line"].undeclared) == (("what",), ("hvad",))
    assert (by_name["customer"].missing, by_name["customer"].undeclared) == ((), ("secret",))
    assert by_name["order"].missing == ()


async def test_a_probe_of_nothing_says_why(tmp_path: Path) -> None:
    findings = await connect(f"sqlite:///{tmp_path / 'gone'}").probe()
    assert (findings.reachable, findings.code) == (False, Code.UNREACHABLE)


# --- a person with many records ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_hundred_thousand_records_stream_at_constant_memory(kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgres_url" if kind == "postgresql" else "sqlite_url")
    series = (
        "generate_series(1, 100000) as n"
        if kind == "postgresql"
        else "(with recursive c(n) as (select 1 union all select n + 1 from c where n < 100000) select n from c)"
    )
    execute(
        url, "create table events(id integer primary key, email text, at text, amount numeric, what text, note text)"
    )
    filler = "repeat('æøå lang tekst ', 25)" if kind == "postgresql" else f"'{'æøå lang tekst ' * 25}'"
    execute(url, f"insert into events select n, 'a@x.dk', '2024-01-01', 12.5, 'hændelse ' || n, {filler} from {series}")
    execute(url, "create index ev on events(lower(email))")
    of = register(
        {
            "crm": sql(
                {
                    "events": entity(
                        ["id", "email", "at", "amount", "what", "note"], key="id", find_by={"email": "email"}
                    )
                }
            )
        }
    )
    connector, count, size = connect(url, of), 0, 0
    search = Search.of(of, "crm", (known("email", "a@x.dk"),))
    begun = perf_counter()
    async with aclosing(connector.locate(search)) as stream:
        async for found in stream:
            count, size = count + 1, size + len(_encoder.encode(found.record))
    speed = size / (perf_counter() - begun) / 1e6
    assert count == 100_000
    print(f"{kind}: {speed:.0f} MB/s, {size / 1e6:.0f} MB")
    assert speed > 5, "a tenth of what it does alone on a machine"
    gc.collect()
    tracemalloc.start()
    async with aclosing(connector.locate(search)) as stream:
        async for _found in stream:
            count += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    await connector.close()
    assert peak < 16e6

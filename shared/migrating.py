"""How do the tables get their shape? One Alembic history per owner, all through one helper."""

from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, create_engine, inspect, text
from sqlalchemy.engine.url import make_url


@dataclass(frozen=True)
class Owner:
    """Whose tables: `name` prefixes them and names the version table; `package` holds `versions/`."""

    name: str
    package: str
    metadata: MetaData


class Outdated(RuntimeError):
    """The database's tables are older or newer than this version of Habeas: run `habeas migrate`."""


def migrate(url: str, owners: tuple[Owner, ...]) -> None:
    """Bring every owner's tables to the newest version, each history in one transaction."""
    with _connect(url) as connection:
        for owner in owners:
            with connection.begin():
                command.upgrade(_config(owner, connection), "head")
            if connection.dialect.name == "postgresql":
                with connection.begin():
                    _row_level_security(connection, owner)


def check(url: str, owners: tuple[Owner, ...]) -> None:
    """Raise `Outdated` unless every owner's tables are at the newest version."""
    with _connect(url) as connection:
        for owner in owners:
            script = ScriptDirectory.from_config(_config(owner, connection))
            options = {"version_table": f"{owner.name}_alembic"}
            if MigrationContext.configure(connection, opts=options).get_current_revision() != script.get_current_head():
                raise Outdated(f"the {owner.name} tables are not at this version: run `habeas migrate`")


def heads(owner: Owner) -> tuple[str, ...]:
    """Return the ends of an owner's history: exactly one, unless two branches were merged carelessly."""
    return tuple(ScriptDirectory.from_config(_config(owner)).get_heads())


def differences(url: str, owners: tuple[Owner, ...]) -> list[Any]:
    """Return what `alembic check` would: how models and tables differ, per owner."""
    found: list[Any] = []
    with _connect(url) as connection:
        for owner in owners:
            options = {
                "include_name": partial(_is_of, owner),
                "compare_type": True,
                "version_table": f"{owner.name}_alembic",
            }
            found += compare_metadata(MigrationContext.configure(connection, opts=options), owner.metadata)
    return found


def _is_of(owner: Owner, name: str | None, kind: str, _parents: object) -> bool:
    """Whether a table of the database is this owner's, also one that its models no longer know."""
    return kind != "table" or name in owner.metadata.tables or (name or "").startswith(f"{owner.name}_")


def revise(url: str, owner: Owner, message: str) -> None:
    """Write the next migration of `owner` from what its models say; a person reads it before it is committed."""
    with _connect(url) as connection:
        try:
            command.revision(_config(owner, connection), message=message, autogenerate=True)
        except CommandError as error:
            raise Outdated(str(error)) from error


def _config(owner: Owner, connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("shared") / "migrations"))
    config.set_main_option("version_locations", str(files(owner.package) / "migrations" / "versions"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(owner=owner, connection=connection)
    return config


def _connect(url: str) -> Connection:
    """A synchronous connection: Alembic knows no other, and migrations run before anything is served."""
    synchronous = make_url(url)
    if synchronous.get_backend_name() == "sqlite":
        synchronous = synchronous.set(drivername="sqlite")
    return create_engine(synchronous, poolclass=None).connect()


_SEEN = """organisation_id = current_setting('habeas.organisation', true)
    OR current_setting('habeas.organisation', true) = '*'"""


def _row_level_security(connection: Connection, owner: Owner) -> None:
    """Each row is seen only by its organisation, by the table's owner too (design §1.9)."""
    for table in owner.metadata.tables.values():
        if "organisation_id" not in table.columns or not inspect(connection).has_table(table.name):
            continue
        for statement in (
            f"ALTER TABLE {table.name} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table.name} FORCE ROW LEVEL SECURITY",
            f"DROP POLICY IF EXISTS one_organisation ON {table.name}",
            f"CREATE POLICY one_organisation ON {table.name} USING ({_SEEN})",
        ):
            connection.execute(text(statement))

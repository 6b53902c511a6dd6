"""Which PostgreSQL role may do what? One a service: it owns nothing, uses its own tables, and reads no other's (design §6).

Superusers pass by row-level security; these roles do not. `habeas migrate --roles FOLDER` makes them, and every
`habeas migrate` grants them what they need.
"""

from collections.abc import Iterator
from pathlib import Path

from psycopg import sql
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine.url import make_url

from habeas.keys import SERVICES
from habeas.owners import OWNERS
from shared import ledger
from shared.engine import prepare

WORKERS = ("intake", "locator", "exporter")
"""Services whose processes run the engine."""
USE = "SELECT, INSERT, UPDATE, DELETE"


class NoPassword(RuntimeError):
    """A role needs a password: one file a service, named as the service."""


def role(service: str) -> str:
    """Return the name of a service's role."""
    return f"habeas_{service}"


def make(url: str, folder: Path) -> None:
    """Make the four roles, or give them new passwords, from the files `folder`/<service>. Raises `NoPassword`.

    Run it as a superuser, or as a role that may create roles.
    """
    passwords = {service: _password(folder / service) for service in SERVICES}
    engine = create_engine(url)
    with engine.begin() as connection:
        cursor = connection.connection.cursor()
        for service, password in passwords.items():
            name = sql.Identifier(role(service))
            if not _exists(connection, role(service)):
                cursor.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
            cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(name, sql.Literal(password)))
    engine.dispose()


def _password(file: Path) -> str:
    password = file.read_text().strip() if file.is_file() else ""
    if not password:
        raise NoPassword(f"{file} is missing or empty: each service's role needs a password there")
    return password


def grant(url: str) -> tuple[str, ...]:
    """Give the roles that exist what their services need, and no more; return their names. Nothing on SQLite.

    Run it as the owner of the tables, after they were migrated.
    """
    if make_url(url).get_backend_name() != "postgresql":
        return ()
    engine = create_engine(url)
    with engine.begin() as connection:
        present = tuple(service for service in SERVICES if _exists(connection, role(service)))
        for service in present:
            for statement in grants(service):
                connection.execute(text(statement))
    engine.dispose()
    for service in present:
        if service in WORKERS:
            prepare(url, role=role(service))
    return tuple(role(service) for service in present)


def grants(service: str) -> Iterator[str]:
    """Yield the statements that make a service's role what it should be, whatever it was before."""
    name = role(service)
    for owner in OWNERS:
        yield f"GRANT SELECT ON {owner.name}_alembic TO {name}"  # so that a process sees whether it fits the tables
        for table in owner.metadata.tables:
            yield f"REVOKE ALL ON {table} FROM {name}"
            if owner is ledger.OWNER:
                # Everybody adds to the ledger; intake alone seals and shows it, and nobody takes away.
                yield f"GRANT {'SELECT, INSERT, UPDATE' if service == 'intake' else 'INSERT'} ON {table} TO {name}"
            elif owner.name == service:
                yield f"GRANT {USE} ON {table} TO {name}"


def passes_by_security(url: str) -> bool:
    """Whether the role of `url` is one that row-level security does not hold."""
    engine = create_engine(url)
    with engine.connect() as connection:
        mine = text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
        found = bool(connection.execute(mine).scalar_one())
    engine.dispose()
    return found


def _exists(connection: Connection, name: str) -> bool:
    return connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": name}).first() is not None

"""Which PostgreSQL role may do what? One a service: it owns nothing, uses its own tables, and reads no other's (design §6).

Superusers and whoever owns a table without FORCE pass by row-level security; these roles do not. An administrator makes
them (docs/install.md); `habeas migrate` grants.
"""

from collections.abc import Iterator

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine.url import make_url

from habeas.keys import SERVICES
from habeas.owners import OWNERS
from shared import ledger
from shared.engine import prepare

WORKERS = ("intake", "locator", "exporter")
"""Services whose processes run the engine."""
USE = "SELECT, INSERT, UPDATE, DELETE"


def role(service: str) -> str:
    """Return the name of a service's role."""
    return f"habeas_{service}"


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

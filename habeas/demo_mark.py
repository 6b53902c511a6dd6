"""Is this the demo's database? A mark in the SQLite file's header, for ever: demo data and real data never meet."""

import sqlite3
from pathlib import Path

from sqlalchemy.engine.url import make_url

MARK = 0x48444D4F  # "HDMO" in the header field that SQLite keeps for applications


class WrongDatabase(RuntimeError):
    """A demo database is only for `habeas demo`, and `habeas demo` only for a demo database."""


def put(path: Path) -> None:
    """Mark a database that does not exist yet; leave a marked one. Raises `WrongDatabase` for any other."""
    if path.exists() and not is_marked(path):
        raise WrongDatabase(f"{path} is not a demo database; the demo does not touch it")
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA application_id = {MARK}")


def is_marked(path: Path) -> bool:
    """Whether the SQLite file at `path` was made by the demo."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        return bool(connection.execute("PRAGMA application_id").fetchone()[0] == MARK)


def refuse(url: str) -> None:
    """Raise `WrongDatabase` if `url` is a demo's database."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        path = Path(parsed.database)
        if path.exists() and is_marked(path):
            raise WrongDatabase(f"{path} is a demo database: start it with `habeas demo`")

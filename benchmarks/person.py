"""How fast and in how much memory is a person answered who has 500,000 records (250 MB)?

The records lie in one PostgreSQL table; Habeas runs embedded on SQLite. Times are the ledger's, memory is the process's.
"""

import psycopg

from benchmarks.cases import email
from benchmarks.figures import Figure
from benchmarks.house import Memory, house, postgres
from benchmarks.registers import crm, register

WIDTH = 500
"""Bytes of one record as the source holds it."""


def measure(*, short: bool = False) -> list[Figure]:
    """Return MB/s from search to sealed package, MB/s of sealing alone, and the peak of memory above idle."""
    count = 500 if short else 500_000
    with postgres() as url:
        _fill(url, count)
        with house(register({"crm": crm()}), secrets={"crm_url": url}) as built:
            with Memory(built.servers) as memory:
                case = built.open_proven("Søren Østergård 0", email(0))
                built.until("package.sealed", 1, 600)
            began, decided, sealed = (
                built.moments(kind)[case] for kind in ("case.plan", "case.decide", "package.sealed")
            )
    size = count * WIDTH / 1e6
    return [
        Figure("large person: search to sealed package", size / (sealed - began), "MB/s", 10,
               note=f"{count:,} records, {size:.0f} MB in {sealed - began:.1f} s"),
        Figure("large person: sealing alone", size / (sealed - decided), "MB/s", 40,
               note=f"{sealed - decided:.1f} s, with one polling interval"),
        Figure("large person: peak memory above idle", memory.peak - memory.before, "MB", 150, "≤"),
    ]  # fmt: skip


def _fill(url: str, count: int) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as server:
        server.execute("CREATE TABLE customers (id integer PRIMARY KEY, name text, email text UNIQUE, address text)")
        server.execute(
            "CREATE TABLE events (id integer PRIMARY KEY, customer_id integer, at text, kind text, text text)"
        )
        server.execute("INSERT INTO customers VALUES (0, 'Søren Østergård 0', %s, 'Nørregade 1')", [email(0)])
        server.execute(
            "INSERT INTO events SELECT n, 0, '2026-03-05', 'call', rpad(md5(n::text) || ' måleraflæsning ', %s, md5((-n)::text))"
            " FROM generate_series(1, %s) n",
            [WIDTH - 40, count],
        )
        server.execute("CREATE INDEX events_customer ON events (customer_id)")
        server.execute("ANALYZE")

"""How long does one case take, and how many does a worker finish in a minute? From proven identity to sealed package.

Approval is automatic, and there is one system: a customer database in SQLite with six rows a person. Times are those of
the ledger, so that nothing which only looks on is measured.
"""

import contextlib
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.figures import Figure, spread
from benchmarks.house import House, house, postgres
from benchmarks.registers import crm, register
from habeas.wiring import ALL
from services.intake.app import QUEUE

ROWS = 5
TOGETHER = (ALL,)


def email(number: int) -> str:
    """Return the address of a person in the customer database."""
    return f"person{number}@example.dk"


def fill(path: Path, people: int) -> str:
    """Make a customer database; return its URL."""
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        file.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, email TEXT UNIQUE, address TEXT)")
        file.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, customer_id INTEGER, at TEXT, kind TEXT, text TEXT)")
        file.execute("CREATE INDEX events_customer ON events (customer_id)")
        file.executemany(
            "INSERT INTO customers VALUES (?, ?, ?, ?)",
            ((n, f"Søren Østergård {n}", email(n), f"Nørregade {n}, 9990 Skagen") for n in range(people)),
        )
        file.executemany(
            "INSERT INTO events (customer_id, at, kind, text) VALUES (?, ?, ?, ?)",
            (
                (n, "2026-03-05", "call", "Ringede om måleraflæsning " * 4)
                for n in range(people)
                for _row in range(ROWS)
            ),
        )
    return f"sqlite+aiosqlite:///{path}"


def measure_one(*, short: bool = False) -> list[Figure]:
    """Return the workflows of one case, its median time, and how that compares with the polling interval."""
    count = 2 if short else 15
    with TemporaryDirectory(prefix="habeas-bench-") as name:
        secrets = {"crm_url": fill(Path(name) / "crm.sqlite", count)}
        with house(register({"crm": crm()}), secrets=secrets) as built:
            for number in range(count):
                built.open_proven(f"Søren Østergård {number}", email(number))
                built.until("package.sealed", number + 1, 30)
            workflows = built.workflows() / count
            times = _times(built, "case.plan", "package.sealed")
            inner = _times(built, "order.accepted", "package.sealed")
    allowed = 0.25 + workflows * QUEUE.polling
    return [
        Figure("one case: engine workflows", workflows, "", 3, "≤"),
        Figure("one case: order placed to package sealed", median(times), "s", allowed, "≤",
               f"{spread(times, 's')}; from the locator's acceptance {median(inner):.2f} s"),
        Figure("one case: polling interval", QUEUE.polling, "s"),
        Figure("one case: beyond one interval a workflow", median(times) - workflows * QUEUE.polling, "s", 0.25, "≤"),
    ]  # fmt: skip


def _times(built: House, begin: str, end: str) -> list[float]:
    began, ended = built.moments(begin), built.moments(end)
    return [ended[case] - began[case] for case in ended]


def measure_queue(*, short: bool = False) -> list[Figure]:
    """Return how many queued cases a minute are sealed, embedded and on PostgreSQL."""
    count = 4 if short else 200
    embedded = _queue(None, TOGETHER, count)
    with postgres() as url:
        apart = _queue(url, [[name] for name in ALL], count)
    return [
        Figure("queued cases: embedded on SQLite", embedded.rate, "/min", 400, note=embedded.note),
        Figure("queued cases: on PostgreSQL, one process a service", apart.rate, "/min", 800, note=apart.note),
    ]


class Queue:
    """How a filled queue was worked off."""

    def __init__(self, built: House, began: float, cpu: float) -> None:
        sealed = built.moments("package.sealed")
        self.rate = 60 * len(sealed) / (max(sealed.values()) - began)
        self.note = (
            f"{len(sealed)} cases; {1000 * cpu / len(sealed):.0f} ms of processor a case, database server not counted"
        )


def _queue(url: str | None, processes: Sequence[Sequence[str]], count: int) -> Queue:
    with TemporaryDirectory(prefix="habeas-bench-") as name:
        secrets = {"crm_url": fill(Path(name) / "crm.sqlite", count)}
        with house(register({"crm": crm()}), url=url, secrets=secrets, processes=processes, hold=True) as built:
            with ThreadPoolExecutor(4) as people:
                list(
                    people.map(
                        built.open_proven, (f"Søren Østergård {n}" for n in range(count)), map(email, range(count))
                    )
                )
            time.sleep(1)
            cpu = built.cpu()
            began = built.release()
            built.until("package.sealed", count, 300)
            return Queue(built, began, built.cpu() - cpu)

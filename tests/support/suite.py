"""The whole suite in one process on a small installation, and the people who come to its door."""

import asyncio
import io
import re
import sqlite3
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import yaml
from pydantic import SecretStr

import gateway.settings
import services.exporter.settings
import services.intake.settings
import services.locator.settings
from gateway.accounts import Passwords, create_account
from habeas import keys
from habeas.demo import Mailbox
from habeas.installation import Installation
from habeas.owners import OWNERS
from habeas.wiring import Demo, Process, ServiceSettings, build
from services.intake.letters import outbox
from shared.clock import utc_now
from shared.database import Database
from shared.engine import prepare
from shared.migrating import migrate
from shared.vocabulary import Role
from tests.support.registers import document, entity, sql

ORG, OTHER = "nordlys", "sydlys"
BASE = "http://127.0.0.1:8000"
PASSWORD = "et langt kodeord til prøven"
MANY = 1_000_000
ACCOUNTS = {
    "anna": Role.HANDLER,
    "bent": Role.HANDLER,
    "dorte": Role.AUDITOR,
    "admin": Role.ADMINISTRATOR,
    "rasmus": Role.RESPONDENT,
}
CUSTOMERS = (
    # number, name, e-mail, address, note
    ("K1", "Søren Østergård", "soeren@example.dk", "Polarvej 1", None),
    ("K2", "Mette Lund", "familie@example.dk", "planted-mette", None),
    ("K3", "Lars Lund", "familie@example.dk", "planted-lars", None),
    ("K4", "Gerda Gammelgaard", "genbrugt@example.dk", "planted-gerda", None),
    ("K5", "Eva Ond", "eva@example.dk", "<script>alert('planted')</script>", '=HYPERLINK("http://evil.example")'),
    # Each address gets five codes an hour, so tests that need somebody ordinary take one each.
    *((f"S{n}", "Søren Østergård", f"soeren{n}@example.dk", "Polarvej 2", None) for n in range(100)),
)  # fmt: skip


@dataclass
class Suite:
    """The running suite."""

    process: Process
    mailbox: Mailbox
    folder: Path
    client: httpx.AsyncClient
    tokens: dict[str, str] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    """Bodies of all answers that were an error."""
    taken: Iterator[int] = field(default_factory=count)

    async def call(
        self, method: str, path: str, *, by: str | None = None, org: str = ORG, **more: Any
    ) -> httpx.Response:
        """Call the public API; `by` is an account, or a token."""
        headers = dict(more.pop("headers", {}))
        if by is not None:
            headers["authorization"] = f"Bearer {self.tokens.get(by, by)}"
        if method == "POST" and "json" not in more and "content" not in more and not path.endswith("/code"):
            more["json"] = {}
        answer = await self.client.request(method, f"/v1/{org}{path}", headers=headers, **more)
        if answer.status_code >= 400:
            self.refusals.append(answer.text)
        return answer

    # --- people ----------------------------------------------------------------------------------------------------

    def somebody(self) -> str:
        """Return the address of a customer called Søren Østergård whom no other test has taken."""
        return f"soeren{next(self.taken)}@example.dk"

    async def ask(self, **more: Any) -> str:
        """Send a request and return its reference."""
        body = {"right": "access", "language": "da", "name": "Søren Østergård", "email": self.somebody()} | more
        answer = await self.call("POST", "/requests", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["reference"])

    async def code(self, reference: str) -> str:
        """Wait for the newest code that was mailed for a request."""

        async def mailed() -> str | None:
            await outbox.drain(self.process.apps["intake"].state.desk)  # sooner than the sweep would
            for letter in await self.mailbox.letters():
                found = re.search(r"\b(\d{4}) ?(\d{4})\b", letter.text)
                if reference in letter.text and found:
                    return "".join(found.groups())
            return None

        found: str = await until(mailed)
        return found

    async def verify(self, reference: str, code: str | None = None) -> dict[str, Any]:
        """Type the code; return the token and what came with it."""
        code = code or await self.code(reference)
        answer = await self.call("POST", f"/requests/{reference}/verification", json={"code": code})
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def proven(self, **more: Any) -> tuple[str, str, dict[str, Any]]:
        """Ask and prove it; return reference, case and session."""
        reference = await self.ask(**more)
        session = await self.verify(reference)
        return reference, (await self.case(reference))["id"], session

    # --- staff -----------------------------------------------------------------------------------------------------

    async def case(self, reference: str) -> dict[str, Any]:
        """Find a case as a handler."""
        after = ""
        while True:
            page = (await self.call("GET", f"/cases?limit=200{after}", by="anna")).json()
            for one in page["cases"]:
                if one["reference"] == reference:
                    return dict(one)
            assert page["next"], "no such case"
            after = f"&after={page['next']}"

    async def written_down(self, **more: Any) -> tuple[str, str]:
        """Have Anna register a request by phone; return reference and case."""
        body = {"right": "access", "name": "Søren Østergård", "email": "anna.privat@example.com", "channel": "phone"}
        headers = {"idempotency-key": uuid4().hex}
        answer = await self.call("POST", "/cases", by="anna", json=body | more, headers=headers)
        assert answer.status_code == 201, answer.text
        return answer.json()["reference"], answer.json()["id"]

    async def confirm(self, case: str, kind: str, value: str, *, by: str = "anna") -> httpx.Response:
        body = {"method": "callback", "identifiers": [{"type": kind, "value": value}]}
        return await self.call("POST", f"/cases/{case}/confirm-identity", by=by, json=body)

    async def waiting(self, reference: str) -> dict[str, Any]:
        """Wait until a case waits for approval."""

        async def is_waiting() -> dict[str, Any] | None:
            case = await self.case(reference)
            return case if "approval" in case["outstanding"] else None

        found: dict[str, Any] = await until(is_waiting)
        return found

    async def records(self, case: str) -> list[dict[str, Any]]:
        answer = await self.call("GET", f"/cases/{case}/records", by="anna")
        assert answer.status_code == 200, answer.text
        return list(answer.json()["records"])

    async def mark(self, case: str, record: str, verb: str, *, by: str = "anna", **more: Any) -> None:
        answer = await self.call("POST", f"/cases/{case}/marks", by=by, json={"record": record, "verb": verb, **more})
        assert answer.status_code == 200, answer.text

    async def approve(self, case: str, *, by: str = "bent") -> httpx.Response:
        return await self.call("POST", f"/cases/{case}/approve", by=by)

    async def answered(self, reference: str) -> None:
        """Wait until the answer is sealed."""

        async def is_sealed() -> bool:
            return (await self.case(reference))["state"] in {"fulfilled", "partly_fulfilled"}

        await until(is_sealed)

    async def package(self, case: str) -> zipfile.ZipFile:
        """Return the package as a handler's copy."""
        answer = await self.call("GET", f"/cases/{case}/package", by="anna")
        assert answer.status_code == 200, answer.text
        return zipfile.ZipFile(io.BytesIO(answer.content))

    # --- what it wrote down ----------------------------------------------------------------------------------------

    def traces(self) -> str:
        """Return everything in the database, the engine's tables too, and every error that anybody was told."""
        with sqlite3.connect(self.folder / "habeas.sqlite") as connection:
            names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            rows = [repr(connection.execute(f'SELECT * FROM "{name}"').fetchall()) for name in names]
        connection.close()
        return "\n".join([*rows, *self.refusals])


async def until(found: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    """Wait until `found` finds something."""
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        if result := await found():
            return result
        await asyncio.sleep(0.05)
    raise TimeoutError


@asynccontextmanager
async def running_suite(folder: Path) -> AsyncIterator[Suite]:
    """Build and run the suite in `folder`, wired as `habeas up` wires it, letters apart."""
    url = f"sqlite+aiosqlite:///{folder / 'habeas.sqlite'}"
    migrate(url, OWNERS)
    prepare(url)
    keys.create(folder / "keys")
    _write_register(folder / "registers")
    mailbox = Mailbox()
    demo = Demo(mailbox.send, mailbox.letters, ("", ""))
    process = build(_installation(folder, url), settings=_settings(folder), demo=demo)
    async with process.running():
        await _accounts(url)
        transport = httpx.ASGITransport(process.apps["gateway"], raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            suite = Suite(process, mailbox, folder, client)
            for name in ACCOUNTS:
                answer = await suite.call("POST", "/token", json={"username": name, "password": PASSWORD})
                suite.tokens[name] = answer.json()["access_token"]
            yield suite


def _installation(folder: Path, url: str) -> Installation:
    return Installation(database_url=url, keys=folder / "keys", organisations=(ORG, OTHER))


def _settings(folder: Path) -> ServiceSettings:
    customers = SecretStr(f"sqlite+aiosqlite:///{_customers(folder / 'crm.sqlite')}")
    secrets = {organisation: {"crm_url": customers} for organisation in (ORG, OTHER)}
    return ServiceSettings(
        gateway=gateway.settings.Settings(
            public_url=BASE, open_per_minute=MANY, prove_per_minute=MANY, sign_in_per_minute=MANY
        ),
        intake=services.intake.settings.Settings(registers=folder / "registers", public_url=BASE),
        locator=services.locator.settings.Settings(secrets=secrets),
        exporter=services.exporter.settings.Settings(vault=folder / "vault"),
    )


def _customers(path: Path, rows: Iterable[tuple[Any, ...]] = CUSTOMERS) -> Path:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customers (number TEXT PRIMARY KEY, name, email, address, note)")
        connection.executemany("INSERT INTO customers VALUES (?, ?, ?, ?, ?)", rows)
        connection.execute("CREATE TABLE invoices (id TEXT PRIMARY KEY, number, amount)")
        connection.executemany("INSERT INTO invoices VALUES (?, ?, ?)", [(f"F{row[0]}", row[0], 100) for row in rows])
    connection.close()
    return path


def _write_register(folder: Path) -> None:
    folder.mkdir()
    customer = entity(
        {"number": {}, "name": {}, "email": {"on_file": True}, "address": {}, "note": {"free_text": True}},
        table="customers", key="number", name_fields=["name"], yields={"customer_number": "number"},
        find_by={"email": {"field": "email"}, "customer_number": {"field": "number"}},
    )  # fmt: skip
    invoice = entity(["id", "number", "amount"], table="invoices", key="id",
                     find_by={"customer_number": {"field": "number"}})  # fmt: skip
    policy = {"approval": {"access": "person", "portability": "automatic", "not_found": "person"}}
    for organisation in (ORG, OTHER):
        register = document({"crm": sql({"customer": customer, "invoice": invoice})}, policy=policy)
        register["organisation"]["id"] = organisation
        (folder / f"{organisation}.yaml").write_text(yaml.safe_dump(register, allow_unicode=True), encoding="utf-8")


async def _accounts(url: str) -> None:
    database = Database(url)
    hashed = await Passwords().hash("anna", PASSWORD)
    for name, role in ACCOUNTS.items():
        async with database.write(ORG) as session:
            await create_account(
                session, organisation=ORG, username=name, password_hash=hashed, roles=(role,), actor="operator",
                now=utc_now(),
            )  # fmt: skip
    await database.close()

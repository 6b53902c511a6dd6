"""An exporter with a real database and a real vault, called as intake, the locator, handlers and the person call it."""

import atexit
import base64
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, Response
from sqlmodel import SQLModel, select

from services.exporter.app import create_app
from services.exporter.means import Means
from services.exporter.settings import Settings
from services.exporter.tables import OWNER
from services.exporter.vault import Store
from shared import ledger
from shared.database import Database
from shared.engine import Engine, QueueRule
from shared.identifiers import digest
from shared.ids import new_id
from shared.ledger import Entry
from shared.messages import Record
from shared.migrating import migrate
from shared.post import BridgePost
from shared.sealing import Keyring, Sealer
from shared.service import CallerDep, create_service
from shared.tokens import Issuer, Verifier, generate_key

ORG = "nordlys"
EMAIL = "mette.østergaard@example.dk"
NUMBER = "K000042"
TEXT = {"da": "Tekst", "en": "Text"}


def text(da: str, en: str) -> dict[str, str]:
    return {"da": da, "en": en}


def _purpose(basis: str, *, automated: bool = True) -> dict[str, Any]:
    return {
        "label": text("At levere ydelsen", "To deliver the service"),
        "legal_basis": {"stated": "Artikel 6", "normalised": basis},
        "automated": automated,
        "retention": {"label": text("5 år", "5 years")},
    }


def _fields(**rules: dict[str, Any]) -> dict[str, Any]:
    return {name: {"category": "contact", **rule} for name, rule in rules.items()}


REGISTER: dict[str, Any] = {
    "habeas": 1,
    "organisation": {
        "id": ORG,
        "name": "Nordlys IT ApS",
        "address": "Polarvej 7, 9990 Skagen",
        "country": "DK",
        "timezone": "Europe/Copenhagen",
        "contact": {"email": "privatliv@nordlys.example"},
        "authority": {"name": "Datatilsynet", "url": "https://www.datatilsynet.dk"},
    },
    "policy": {"package_days": 30},
    "identifiers": {
        "email": {"kind": "email", "label": text("E-mail", "E-mail")},
        "phone": {"kind": "phone", "label": text("Telefon", "Phone")},
        "customer_number": {"label": text("Kundenummer", "Customer number"), "assigned_by": "controller"},
    },
    "categories": {"contact": {"label": text("Kontakt", "Contact")}},
    "purposes": {
        "delivery": _purpose("A6-1-b"),
        "claims": _purpose("A6-1-f"),
        "paper": _purpose("A6-1-b", automated=False),
    },
    "systems": {
        "crm": {
            "label": text("Kundesystemet", "The customer system"),
            "connector": {"kind": "sql", "url_secret": "crm_url"},
            "entities": {
                "customer": {
                    "label": text("Kundekort", "Customer record"),
                    "table": "customers",
                    "key": "id",
                    "find_by": {"email": "email", "customer_number": "number"},
                    "name_fields": ["name"],
                    "purposes": ["delivery"],
                    "fields": _fields(
                        id={"provided": "derived"}, number={"provided": "derived"}, name={}, email={}, score={"provided": "derived"}
                    ),
                },
                "order": {
                    "label": text("Ordre", "Order"),
                    "table": "orders",
                    "key": "id",
                    "via": {"entity": "customer", "parent_field": "id", "field": "customer_id"},
                    "purposes": ["delivery"],
                    "fields": _fields(
                        id={}, customer_id={}, item={}, amount={}, **{f"column_{n}": {} for n in range(8)}
                    ),
                },
                "debt": {
                    "label": text("Krav", "Claim"),
                    "table": "debts",
                    "key": "id",
                    "find_by": {"customer_number": "number"},
                    "purposes": ["claims"],
                    "fields": _fields(id={}, number={}, amount={}),
                },
            },
        },
        "tickets": {
            "label": text("Supportsystemet", "The support system"),
            "connector": {"kind": "http", "base_url": "https://tickets.example"},
            "entities": {
                "message": {
                    "label": text("Besked", "Message"),
                    "key": "id",
                    "find_by": {"email": {"field": "sender", "path": "/messages"}},
                    "purposes": ["delivery"],
                    "fields": _fields(id={}, sender={}, subject={}, body={"free_text": True}, staff_note={
                        "free_text": True, "provided": "derived"}),
                },
            },
        },
        "archive": {
            "label": text("Papirarkivet", "The paper archive"),
            "connector": {"kind": "manual", "instructions": TEXT},
            "entities": {
                "letter": {
                    "label": text("Brev", "Letter"),
                    "key": "id",
                    "find_by": {"customer_number": "number"},
                    "purposes": ["paper"],
                    "fields": _fields(id={}, number={}, title={}),
                },
            },
        },
    },
}  # fmt: skip

GROUPS = [
    (system, entity, purpose)
    for system, block in REGISTER["systems"].items()
    for entity, rules in block["entities"].items()
    for purpose in rules["purposes"]
]


class Moment:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **span: float) -> None:
        self.now += timedelta(**span)


class SmallIntake:
    """Knows one version of the register, and hears what was collected."""

    def __init__(self, verifier: Verifier) -> None:
        self.collected: list[tuple[str, str]] = []
        self.asked = 0
        self.down = False
        self.says = 204
        router = APIRouter()
        router.add_api_route("/registers/{version}", self._register, methods=["GET"])
        router.add_api_route("/packages/{package}/collected", self._collected, methods=["PUT"])
        self.app: FastAPI = create_service("intake", verifier=verifier, routers=[router])

    async def _register(self, caller: CallerDep, version: str) -> Response:
        caller.require_service("exporter")
        self.asked += 1
        if self.down:
            return JSONResponse({}, 503)
        if version == "broken":
            return JSONResponse({"habeas": 2})
        return JSONResponse(REGISTER) if version == "v1" else JSONResponse({}, 404)

    async def _collected(self, caller: CallerDep, package: str, body: dict[str, str]) -> Response:
        caller.require_service("exporter")
        if self.down:
            return JSONResponse({}, 503)
        assert set(body) == {"collected_at"}
        self.collected.append((caller.organisation, package))
        return Response(status_code=self.says)


@dataclass
class Told:
    """What a door answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        """The code of a problem document."""
        assert self.headers["content-type"] == "application/problem+json", (self.status, self.body[:200])
        return str(self.json["type"]).removeprefix("urn:habeas:problem:")


@dataclass
class House:
    app: FastAPI
    database: Database
    settings: Settings
    clock: Moment
    intake: SmallIntake
    posts: dict[str, BridgePost]
    issuers: dict[str, Issuer]
    binding_key: bytes = field(default_factory=lambda: os.urandom(32))

    @property
    def means(self) -> Means:
        means: Means = self.app.state.means
        return means

    async def call(
        self,
        method: str,
        path: str,
        *,
        by: str = "intake",
        body: Any = None,
        content: AsyncIterator[bytes] | bytes | None = None,
        headers: dict[str, str] | None = None,
        organisation: str = ORG,
    ) -> Told:
        """Call the exporter. `by` is a service, or `handler`, `subject:<case>`, `claimed:<case>`, `auditor`, `anonymous`."""
        if body is not None:
            content, headers = msgspec.json.encode(body), {"content-type": "application/json", **(headers or {})}
        async with self.posts["gateway"].stream(
            "exporter", method, path, organisation=organisation, content=content, headers=headers,
            token=self.token(by, organisation),
        ) as reply:  # fmt: skip
            return Told(reply.status, dict(reply.headers), b"".join([chunk async for chunk in reply.aiter()]))

    def token(self, by: str, organisation: str = ORG) -> str:
        if by in self.issuers and by != "gateway":
            return self.issuers[by].issue("exporter", f"service:{by}", organisation=organisation)
        kind, _, case = by.partition(":")
        gateway = self.issuers["gateway"]
        if kind in {"subject", "claimed"}:
            level = "collect" if kind == "subject" else "verified"
            return gateway.issue("exporter", f"subject:{case}", organisation=organisation, case=case, level=level)
        if kind == "anonymous":
            return gateway.issue("exporter", "anonymous", organisation=organisation)
        return gateway.issue("exporter", f"{kind}:{case or 'h1'}", organisation=organisation, roles=[kind])

    # --- the usual walk --------------------------------------------------------------------------------------------

    def plan(self, case: str = "case-1", **changed: Any) -> dict[str, Any]:
        return {
            "organisation_id": ORG,
            "case_id": case,
            "reference": "7KQ4-M2XB-9",
            "right": "access",
            "language": "da",
            "register_version": "v1",
            "binding_key": base64.b64encode(self.binding_key).decode(),
            "proofs": [digest(self.binding_key, "email", EMAIL)],
        } | changed

    async def package(self, **changed: Any) -> str:
        """Plan a package and return its id."""
        package = new_id()
        told = await self.call("PUT", f"/packages/{package}", body=self.plan(**changed))
        assert told.status == 204, told.body
        return package

    async def put(
        self, package: str, task: str, records: Iterable[Record] | bytes, *, attempt: int = 1, number: int = 1
    ) -> Told:
        content = records if isinstance(records, bytes) else ndjson(records)
        return await self.call(
            "PUT", f"/packages/{package}/tasks/{task}/attempts/{attempt}/parts/{number}", by="locator",
            content=content, headers={"content-type": "application/x-ndjson"},
        )  # fmt: skip

    async def put_file(
        self, package: str, task: str, content: bytes, name: str, *, attempt: int = 1, number: int = 9,
        media_type: str = "application/pdf",
    ) -> Told:  # fmt: skip
        return await self.call(
            "PUT", f"/packages/{package}/tasks/{task}/attempts/{attempt}/parts/{number}", by="locator",
            content=content,
            headers={"content-type": "application/octet-stream", "habeas-file-name": quote(name),
                     "habeas-file-type": media_type},
        )  # fmt: skip

    async def commit(
        self, package: str, task: str, parts: list[Told], records: int, *, attempt: int = 1, system: str = "crm",
        proofs: Iterable[str] = (), **changed: Any,
    ) -> Told:  # fmt: skip
        body = {
            "system": system,
            "state": "found" if records else "nothing",
            "parts": [told.json["sha256"] for told in parts],
            "records": records,
            "proofs": list(proofs),
        } | changed
        return await self.call("PUT", f"/packages/{package}/tasks/{task}/attempts/{attempt}", by="locator", body=body)

    async def fill(
        self, package: str, records: list[Record], *, task: str = "task-1", attempt: int = 1, **changed: Any
    ) -> dict[str, Any]:
        """Send one committed part of records."""
        told = await self.put(package, task, records, attempt=attempt)
        assert told.status == 200, told.body
        committed = await self.commit(
            package, task, [told], len(records), attempt=attempt, system=records[0].system, **changed
        )
        assert committed.status == 200, committed.body
        return dict(committed.json)

    async def release(self, package: str, **changed: Any) -> Told:
        return await self.call("PUT", f"/packages/{package}/release", body=release_body() | changed)

    async def sealed(self, records: list[Record] | None = None, **changed: Any) -> str:
        """A sealed package."""
        package = await self.package(**changed)
        if records:
            await self.fill(package, records)
        told = await self.release(package)
        assert told.status == 200, told.body
        return package

    async def records(self, package: str, query: str = "") -> dict[str, Any]:
        told = await self.call("GET", f"/packages/{package}/records{query}", by="handler")
        assert told.status == 200, told.body
        return dict(told.json)

    async def mark(self, package: str, record: str | None, verb: str, **changed: Any) -> Told:
        body = {"record": record, "verb": verb} | changed
        return await self.call("POST", f"/packages/{package}/marks", by="handler", body=body)

    # --- looking inside --------------------------------------------------------------------------------------------

    async def ledger(self, kind: str | None = None) -> list[Entry]:
        async with self.database.read(ORG) as session:
            found = (await session.exec(select(Entry).order_by("id"))).all()
        return [entry for entry in found if kind is None or entry.kind == kind]

    async def rows(self, table: type[SQLModel]) -> list[Any]:
        async with self.database.read(None) as session:
            return list((await session.exec(select(table))).all())

    def objects(self, package: str) -> list[Path]:
        folder = self.settings.vault / ORG / package
        return sorted(folder.iterdir()) if folder.exists() else []


def release_body(**changed: Any) -> dict[str, Any]:
    return {
        "released_by": "handler:h1",
        "name": "Mette Østergaard",
        "received_on": "2026-11-01",
        "answered_on": "2026-11-21",
        "searched": [{"system": "crm", "state": "found", "records": 1}],
        "decisions": [
            {
                "system": system,
                "entity": entity,
                "purpose": purpose,
                "outcome": "granted",
                "article": "15",
                "records": 1,
            }
            for system, entity, purpose in GROUPS
        ],
        "search_terms": ["email"],
    } | changed


def customer(key: str = "1", **changed: Any) -> Record:
    fields = {"id": key, "number": NUMBER, "name": "Mette Østergaard", "email": EMAIL.title(), "score": 7}
    return record("crm", "customer", key, **{"fields": fields, "bound": {"email": EMAIL}} | changed)


def message(key: str = "1", body: str | None = "Hej, jeg vil gerne klage.", **changed: Any) -> Record:
    fields = {"id": key, "sender": EMAIL, "subject": "Klage", "body": body, "staff_note": None}
    return record("tickets", "message", key, **{"fields": fields, "bound": {"email": EMAIL}} | changed)


def letter(key: str = "1", **changed: Any) -> Record:
    fields = {"id": key, "number": NUMBER, "title": "Aftale"}
    usual = {"fields": fields, "bound": {"customer_number": NUMBER}, "evidence": "manual"}
    return record("archive", "letter", key, **usual | changed)


def record(system: str, entity: str, key: str, **rest: Any) -> Record:
    return Record(system=system, entity=entity, key=key, **{"bound": {}, "evidence": "field", "fields": {}} | rest)


def ndjson(records: Iterable[Record]) -> bytes:
    return b"".join(msgspec.json.encode(one) + b"\n" for one in records)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


_TEMPLATE: list[Path] = []


def fresh_sqlite(folder: Path) -> str:
    """Return the URL of a migrated SQLite file; the migrations run once a test run."""
    if not _TEMPLATE or not _TEMPLATE[0].exists():
        original = Path(tempfile.mkdtemp(prefix="habeas-exporter-")) / "template.sqlite"
        migrate(f"sqlite+aiosqlite:///{original}", (ledger.OWNER, OWNER))
        _TEMPLATE[:] = [original]
        atexit.register(shutil.rmtree, original.parent, ignore_errors=True)
    copy = folder / "exporter.sqlite"
    shutil.copy(_TEMPLATE[0], copy)
    return f"sqlite+aiosqlite:///{copy}"


@dataclass(frozen=True)
class Installation:
    """What several exporters of one installation have in common: keys, the clock, and intake."""

    keyring: Keyring = field(default_factory=Keyring.generate)
    clock: Moment = field(default_factory=Moment)


@asynccontextmanager
async def exporter_house(
    url: str, folder: Path, *, store: Store | None = None, installation: Installation | None = None, **chosen: Any
) -> AsyncIterator[House]:
    """Start an exporter on this migrated database, with its vault in this folder."""
    installation = installation or Installation()
    database, clock = Database(url), installation.clock
    keys = {name: generate_key() for name in ("gateway", "intake", "locator", "exporter")}
    public = {kid: (name, pem) for name, (_, pem, kid) in keys.items()}
    issuers = {name: Issuer(name, private, kid, clock=clock) for name, (private, _, kid) in keys.items()}
    apps: dict[str, Any] = {}
    posts = {name: BridgePost(apps, issuer) for name, issuer in issuers.items()}
    intake = SmallIntake(Verifier("intake", public, clock=clock))
    settings = Settings(vault=folder / "vault", **chosen)
    app = create_app(
        settings,
        database=database,
        engine=Engine(url, queues=[QueueRule("test")]),
        post=posts["exporter"],
        sealer=Sealer(installation.keyring),
        verifier=Verifier("exporter", public, clock=clock),
        store=store,
        clock=clock,
    )
    apps |= {"intake": intake.app, "exporter": app}
    async with app.router.lifespan_context(app):
        yield House(app, database, settings, clock, intake, posts, issuers)
    for post in posts.values():
        await post.aclose()
    await database.close()

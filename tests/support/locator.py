"""A locator with a real database and the real engine; intake and exporter are fakes behind the real post."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from httpx import ASGITransport
from pydantic import SecretStr
from sqlmodel import select

from services.locator.app import QUEUE, create_app
from services.locator.desk import Desk
from services.locator.settings import Settings
from services.locator.tables import OWNER, Order, Task
from shared import ledger, messages
from shared.clock import utc_now
from shared.database import Database
from shared.engine import Engine, QueueRule, prepare
from shared.identifiers import digest
from shared.ids import new_id
from shared.ledger import Entry
from shared.migrating import migrate
from shared.post import BridgePost
from shared.register import Register
from shared.sealing import Keyring, Sealer
from shared.tokens import Issuer, Verifier, generate_key
from shared.vocabulary import Assurance, Language, Right, TaskState
from tests.fakes.far_services import FarExporter, FarIntake
from tests.support.registers import ORG

KEY = b"b" * 32
FAST = {
    "lease_seconds": 2, "sweep_seconds": 0.1, "first_retry_seconds": 0.1, "longest_retry_seconds": 0.4,
}  # fmt: skip


@dataclass
class House:
    """The locator and what a test reaches around it."""

    app: Any
    desk: Desk
    database: Database
    engine: Engine
    intake: FarIntake
    exporter: FarExporter
    issuers: dict[str, Issuer]
    registers: dict[str, Register] = field(default_factory=dict)

    def client(self, subject: str, *roles: str, issuer: str = "gateway", organisation: str = ORG) -> httpx.AsyncClient:
        token = self.issuers[issuer].issue("locator", subject, organisation=organisation, roles=roles)
        return httpx.AsyncClient(
            transport=ASGITransport(self.app), base_url="http://locator", headers={"authorization": f"Bearer {token}"}
        )

    @property
    def handler(self) -> httpx.AsyncClient:
        return self.client("handler:h1", "handler")

    @property
    def from_intake(self) -> httpx.AsyncClient:
        return self.client("service:intake", issuer="intake")

    def order(self, register: Register, *, version: str = "v1", **changes: Any) -> messages.Order:
        """An order for Åse Ørsted, known by her controlled e-mail address."""
        self.intake.registers[version] = register
        given = {
            "organisation_id": ORG, "case_id": new_id(), "right": Right.ACCESS, "verb": "export",
            "language": Language.DANISH, "register_version": version, "package_id": new_id(), "name": "Åse Ørsted",
            "identifiers": (known("aase@example.dk"),), "binding_key": base64.b64encode(KEY).decode(),
        }  # fmt: skip
        return messages.Order(**{**given, **changes})

    async def put(self, order: messages.Order, order_id: str | None = None) -> str:
        order_id = order_id or new_id()
        async with self.from_intake as client:
            answer = await client.put(f"/orders/{order_id}", json=order.model_dump(mode="json"))
        assert answer.status_code == 200, answer.text
        return order_id

    async def until(self, what: Callable[[], Any], seconds: float = 15) -> None:
        """Wait until something is true."""
        async with asyncio.timeout(seconds):
            while not what():
                await asyncio.sleep(0.02)

    async def located(self, seconds: float = 15) -> None:
        await self.until(lambda: self.intake.located, seconds)

    async def task(self, system: str, state: TaskState | None = None, seconds: float = 15) -> Task:
        """The newest task of a system, once it stands so."""
        async with asyncio.timeout(seconds):
            while True:
                async with self.database.read(ORG) as session:
                    found = (await session.exec(select(Task).where(Task.system == system).order_by(Task.id))).all()
                if found and (state is None or found[-1].state == state):
                    return found[-1]
                await asyncio.sleep(0.02)

    async def row(self, order_id: str) -> Order:
        async with self.database.read(ORG) as session:
            return (await session.exec(select(Order).where(Order.id == order_id))).one()

    async def entries(self) -> list[Entry]:
        async with self.database.read(ORG) as session:
            return list((await session.exec(select(Entry).order_by(Entry.id))).all())


def known(value: str, kind: str = "email", assurance: Assurance = Assurance.CONTROLLED) -> messages.Identifier:
    return messages.Identifier(type=kind, value=value, assurance=assurance)


def proof(kind: str, value: str) -> str:
    return digest(KEY, kind, value)


class Around:
    """What a locator stands in and a restart of it does not change: keys, and the services far away."""

    def __init__(self) -> None:
        keys = {name: generate_key() for name in ("gateway", "intake", "locator", "exporter")}
        self.issuers = {name: Issuer(name, private, kid) for name, (private, _public, kid) in keys.items()}
        self.public = {kid: (name, pem) for name, (_private, pem, kid) in keys.items()}
        self.intake = FarIntake(Verifier("intake", self.public))
        self.exporter = FarExporter(Verifier("exporter", self.public))
        self.sealer = Sealer(Keyring.generate())


@asynccontextmanager
async def locator_house(
    url: str,
    *,
    secrets: dict[str, str] | None = None,
    start: bool = True,
    open_web: Any = None,
    around: Around | None = None,
    polling: float = 0.05,
    **settings: Any,
) -> AsyncIterator[House]:
    """Build the locator on `url` with a running engine."""
    migrate(url, (ledger.OWNER, OWNER))
    prepare(url)
    far = around or Around()
    post = BridgePost({"intake": far.intake.app, "exporter": far.exporter.app}, far.issuers["locator"])
    database = Database(url)
    engine = Engine(url, queues=[QueueRule(QUEUE.name, QUEUE.concurrency, QUEUE.partition_concurrency, polling)])
    app = create_app(
        Settings(
            secrets={ORG: {name: SecretStr(value) for name, value in (secrets or {}).items()}},
            **{**FAST, **settings},
        ),
        database=database, engine=engine, post=post, sealer=far.sealer,
        verifier=Verifier("locator", far.public), clock=utc_now, **({"open_web": open_web} if open_web else {}),
    )  # fmt: skip
    async with app.router.lifespan_context(app):
        if start:
            await engine.start()
        try:
            yield House(app, app.state.desk, database, engine, far.intake, far.exporter, far.issuers)
        finally:
            await engine.stop(0.5)
            await post.aclose()
            await database.close()

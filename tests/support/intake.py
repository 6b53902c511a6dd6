"""Intake on a real database, with the other services at arm's length."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from sqlmodel import select

import services.intake.tables
from services.intake.app import QUEUE, create_app
from services.intake.desk import Desk
from services.intake.letters.compose import Letter
from services.intake.letters.smtp import Failed, Sent
from services.intake.settings import Settings
from services.intake.tables import Case
from services.intake.webhooks import DeliveryResult, Endpoint
from shared import ledger
from shared.database import Database
from shared.engine import Engine, prepare
from shared.migrating import migrate
from shared.problems import Problem
from shared.sealing import Keyring, Sealer
from shared.tokens import Issuer, Verifier, generate_key

ORG = "nordlys"
REGISTER = Path(__file__).parents[2] / "examples" / "registers" / "demo.yaml"
NOON = datetime(2026, 3, 5, 11, 0, tzinfo=UTC)
LEDGER_KEY = b"k" * 32


class Clock:
    """A clock that a test moves."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


class FarPost:
    """Stands where the other services are: keeps what was sent, answers what the test says."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, str, dict[str, Any] | None]] = []
        self.answers: dict[tuple[str, str], dict[str, Any] | Problem] = {}

    async def send(
        self,
        to: str,
        method: str,
        path: str,
        *,
        organisation: str,
        body: BaseModel | Mapping[str, Any] | None = None,
        token: str | None = None,
    ) -> dict[str, Any]:
        self.sent.append((to, method, path, body.model_dump(mode="json") if isinstance(body, BaseModel) else None))
        answer = self.answers.get((to, path.rpartition("/")[2]), {})
        if isinstance(answer, Problem):
            raise answer
        return answer


@dataclass
class Mail:
    """Stands where the mail server is."""

    letters: list[tuple[str, Letter, str]] = field(default_factory=list)
    result: Sent | Failed = field(default_factory=Sent)

    async def send(self, to: str, letter: Letter, message_id: str) -> Sent | Failed:
        self.letters.append((to, letter, message_id))
        return self.result


@dataclass
class House:
    """Intake, and what a test reaches around it."""

    app: Any
    desk: Desk
    clock: Clock
    post: FarPost
    mail: Mail
    gateway: Issuer
    locator: Issuer
    exporter: Issuer
    delivered: list[tuple[Endpoint, dict[str, Any]]]

    async def case(self, reference: str) -> Case:
        async with self.desk.database.read(ORG) as session:
            return (await session.exec(select(Case).where(Case.reference == reference))).one()


@asynccontextmanager
async def intake_house(url: str, folder: Path, register: str | None = None) -> AsyncIterator[House]:
    """Build intake on `url`; the engine is not started, so a test performs its work itself."""
    migrate(url, (ledger.OWNER, services.intake.tables.OWNER))
    prepare(url)
    registers = folder / "registers"
    registers.mkdir()
    (registers / "nordlys.yaml").write_text(register or REGISTER.read_text(encoding="utf-8"), encoding="utf-8")
    clock, post, mail = Clock(), FarPost(), Mail()
    delivered: list[tuple[Endpoint, dict[str, Any]]] = []

    async def deliver(endpoint: Endpoint, event: dict[str, Any]) -> DeliveryResult:
        delivered.append((endpoint, event))
        return DeliveryResult(delivered=True)

    keys = {name: generate_key() for name in ("gateway", "locator", "exporter")}
    issuers = {name: Issuer(name, private, kid, clock=clock) for name, (private, _public, kid) in keys.items()}
    verifier = Verifier("intake", {kid: (name, public) for name, (_p, public, kid) in keys.items()}, clock=clock)
    database = Database(url)
    app = create_app(
        Settings(registers=registers, public_url="https://rights.example.dk", mail_from="rights@nordlys.example"),
        database=database,
        engine=Engine(url, queues=[QUEUE]),
        post=post,  # type: ignore[arg-type]
        sealer=Sealer(Keyring.generate()),
        verifier=verifier,
        ledger_key=LEDGER_KEY,
        send_letter=mail.send,
        deliver=deliver,
        clock=clock,
    )
    async with app.router.lifespan_context(app):
        yield House(app, app.state.desk, clock, post, mail, delivered=delivered, **issuers)
    await database.close()

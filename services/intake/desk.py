"""What does every use case of intake hold in its hands?"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.intake.letters.compose import Letter
from services.intake.letters.smtp import Failed, Sent
from services.intake.registers import Registers
from services.intake.settings import Settings
from services.intake.tables import Case
from services.intake.webhooks import DeliveryResult, Endpoint
from shared.clock import Clock
from shared.database import Database
from shared.engine import Engine
from shared.post import Post
from shared.sealing import Sealer

SendLetter = Callable[[str, Letter, str], Awaitable[Sent | Failed]]
"""Sends one letter: address, letter, Message-ID."""

Deliver = Callable[[Endpoint, dict[str, Any]], Awaitable[DeliveryResult]]
"""Delivers one event to one endpoint."""


@dataclass(frozen=True)
class Desk:
    """Wired once in `app.create_app`; a test may replace any of it there."""

    settings: Settings
    database: Database
    sealer: Sealer
    post: Post
    engine: Engine
    registers: Registers
    clock: Clock
    send_letter: SendLetter
    deliver: Deliver

    def now(self) -> datetime:
        return self.clock()

    def seal(self, organisation: str, purpose: str, context: str, facts: dict[str, Any]) -> bytes:
        """Seal a small JSON object; `context` is the row it belongs to."""
        return self.sealer.seal(organisation, purpose, context, json.dumps(facts, ensure_ascii=False).encode())

    def unseal(self, organisation: str, purpose: str, context: str, sealed: bytes) -> dict[str, Any]:
        """Open what `seal` closed. Raises `SealBroken`."""
        facts: dict[str, Any] = json.loads(self.sealer.open(organisation, purpose, context, sealed))
        return facts

    def person(self, case: Case) -> dict[str, Any]:
        """Return who asked: `name`, `email` (or null), `message` (or null)."""
        return self.unseal(case.organisation_id, "person", case.id, case.person)

"""What does every use case of the locator hold in its hands?"""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from services.locator.connectors import Connectors
from services.locator.registers import Registers
from services.locator.settings import Settings
from shared.clock import Clock
from shared.database import Database
from shared.engine import Engine
from shared.post import Post
from shared.register import System
from shared.sealing import Sealer

SERVICE = "locator"
LOCATE = "locate"
"""Kind of the engine's work: one attempt at one task."""


@dataclass(frozen=True)
class Desk:
    """Wired once in `app.create_app`; a test may replace any of it there."""

    settings: Settings
    database: Database
    sealer: Sealer
    post: Post
    engine: Engine
    connectors: Connectors
    registers: Registers
    clock: Clock
    gates: dict[tuple[str, str], asyncio.Semaphore] = field(default_factory=dict)
    arrived: list[tuple[str, int]] = field(default_factory=list)
    """Receipts (task, attempt) that intake has taken and that are not noted yet."""

    def now(self) -> datetime:
        return self.clock()

    def gate(self, organisation: str, system_id: str, system: System) -> asyncio.Semaphore:
        """Return what lets only as many tasks at a system at once as the register says, in this process."""
        return self.gates.setdefault((organisation, system_id), asyncio.Semaphore(system.concurrency))

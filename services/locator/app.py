"""How is the locator put together? Everything that a test may replace is an argument of `create_app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from services.locator import receipts, tasks
from services.locator.connectors import Connectors, OpenWeb
from services.locator.connectors.web import EgressWeb
from services.locator.desk import LOCATE, Desk
from services.locator.registers import Registers
from services.locator.routes import router
from services.locator.secrets import Secrets
from services.locator.settings import Settings
from shared.clock import Clock, utc_now
from shared.database import Database
from shared.engine import Engine, QueueRule
from shared.post import Post
from shared.sealing import Sealer
from shared.service import create_service
from shared.tokens import Verifier

QUEUE = QueueRule("locator", concurrency=150, partition_concurrency=30)
"""Mostly waiting for others: many at once, but one partition of systems cannot take all the places."""


def create_app(
    settings: Settings,
    *,
    database: Database,
    engine: Engine,
    post: Post,
    sealer: Sealer,
    verifier: Verifier,
    open_web: OpenWeb = EgressWeb,
    clock: Clock = utc_now,
) -> FastAPI:
    """Build the locator. The engine is started by whoever runs the process, after every service has said what it does."""
    secrets = Secrets(settings.secrets, settings.secrets_dir)
    connectors = Connectors(secrets, open_web, clock)
    registers = Registers(database, post, clock)
    desk = Desk(settings, database, sealer, post, engine, connectors, registers, clock)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await receipts.note(desk)
        await connectors.close()

    app = create_service("locator", verifier=verifier, routers=[router], lifespan=lifespan)
    app.state.desk = desk
    app.state.worker = tasks.Worker(desk)
    engine.on(LOCATE, app.state.worker.perform, queue=QUEUE.name)
    engine.every(settings.sweep_seconds, "locator-tasks", partial(tasks.sweep, desk))
    engine.every(settings.sweep_seconds, "locator-receipts", partial(receipts.sweep, desk))
    return app

"""How is the exporter put together? Everything that a test may replace is an argument of `create_app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from services.exporter.keys import SigningKeys
from services.exporter.means import Background, Means
from services.exporter.registers import Registers
from services.exporter.routes import router
from services.exporter.settings import Settings
from services.exporter.sweeps import all_sweeps
from services.exporter.vault import FolderStore, Store
from shared.clock import Clock, utc_now
from shared.database import Database
from shared.engine import Engine
from shared.post import Post
from shared.sealing import Sealer
from shared.service import create_service
from shared.tokens import Verifier


def create_app(
    settings: Settings,
    *,
    database: Database,
    engine: Engine,
    post: Post,
    sealer: Sealer,
    verifier: Verifier,
    store: Store | None = None,
    clock: Clock = utc_now,
) -> FastAPI:
    """Build the exporter. It enqueues nothing: the engine only repeats its sweeps."""
    means = Means(
        database=database,
        store=store or FolderStore(settings.vault),
        sealer=sealer,
        registers=Registers(database, post),
        keys=SigningKeys(database, sealer, clock),
        post=post,
        clock=clock,
        settings=settings,
        background=Background(settings.sealers),
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await means.background.stop()

    app = create_service("exporter", verifier=verifier, routers=[router], lifespan=lifespan)
    app.state.means = means
    for name, sweep in all_sweeps(means).items():
        engine.every(settings.sweep_seconds, name, sweep)
    return app

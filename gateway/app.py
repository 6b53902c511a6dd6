"""What is the gateway, as one app? Guard, then door, then pages."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import structlog
from fastapi import APIRouter, FastAPI

from gateway import idempotency, limits, sessions
from gateway.door import Door
from gateway.entrance import Entrance
from gateway.guard import Guard
from gateway.portal_door import PortalDoor
from gateway.routes import Table
from gateway.settings import Settings
from shared.clock import Clock, utc_now
from shared.database import Database
from shared.post import Post
from shared.service import add_problem_handlers
from shared.tokens import Issuer

log = structlog.get_logger()

Portal = Callable[[PortalDoor], APIRouter]
"""Makes the pages once the door stands."""


def create_app(
    settings: Settings,
    *,
    database: Database,
    post: Post,
    issuer: Issuer,
    clock: Clock = utc_now,
    portal: Portal | None = None,
) -> FastAPI:
    """Build the gateway. `issuer` signs as `gateway`; `portal` adds the pages; `database` holds its own tables."""
    door = Door(settings, database=database, post=post, issuer=issuer, clock=clock, table=Table())

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_sweep_for_ever(database, settings, clock))
        yield
        sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await sweeping

    app = FastAPI(
        title="Habeas",
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,
        # The guard logs a line without addresses; spans would carry paths and queries (libraries.md §0.2).
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    add_problem_handlers(app)
    if portal is not None:
        app.include_router(portal(PortalDoor(door, database, clock)))
    app.add_middleware(Entrance, door=door, settings=settings)
    app.add_middleware(Guard, settings=settings)
    return app


async def sweep(database: Database, clock: Clock) -> None:
    """Delete expired sessions, old failures and used idempotency keys."""
    now = clock()
    async with database.write(None) as session:
        await sessions.sweep(session, now)
        await limits.sweep(session, now)
        await idempotency.sweep(session, now)


async def _sweep_for_ever(database: Database, settings: Settings, clock: Clock) -> None:
    while True:
        await asyncio.sleep(settings.sweep_seconds)
        try:
            await sweep(database, clock)
        except Exception as error:  # noqa: BLE001 — a failed sweep is repeated; it must not stop the door
            log.warning("gateway.sweep_failed", error=type(error).__name__)

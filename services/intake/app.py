"""How is intake put together? Everything that a test may replace is an argument of `create_app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from services.intake import notify, orders, work
from services.intake.desk import Deliver, Desk, SendLetter
from services.intake.letters import outbox
from services.intake.register import load
from services.intake.registers import Registers
from services.intake.routes import router
from services.intake.settings import Settings
from shared.clock import Clock, utc_now
from shared.database import Database
from shared.engine import Engine, QueueRule
from shared.ledger import Sealer as LedgerSealer
from shared.post import Post
from shared.sealing import Sealer
from shared.service import create_service
from shared.tokens import Verifier

QUEUE = QueueRule("intake", concurrency=20)


def create_app(  # noqa: PLR0913 - what a test may replace
    settings: Settings,
    *,
    database: Database,
    engine: Engine,
    post: Post,
    sealer: Sealer,
    verifier: Verifier,
    ledger_key: bytes,
    send_letter: SendLetter,
    deliver: Deliver,
    clock: Clock = utc_now,
) -> FastAPI:
    """Build intake. The engine is started by whoever runs the process, after every service has said what it does."""
    registers = Registers(database, clock)
    desk = Desk(settings, database, sealer, post, engine, registers, clock, send_letter, deliver)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await registers.put_in_force(load(path) for path in sorted(settings.registers.glob("*.yaml")))
        yield

    app = create_service("intake", verifier=verifier, routers=[router], lifespan=lifespan)
    app.state.desk, app.state.ledger_key = desk, ledger_key
    engine.on(orders.SEND, partial(orders.send, desk), queue=QUEUE.name)
    engine.on(orders.RELEASE, partial(work.release, desk), queue=QUEUE.name)
    engine.on(orders.CANCEL, partial(orders.withdraw, desk), queue=QUEUE.name)
    engine.every(0.5, "ledger", LedgerSealer(database, ledger_key).seal_all)
    engine.every(1.0, "letters", partial(outbox.drain, desk))
    engine.every(1.0, "webhooks", partial(notify.drain, desk))
    engine.every(5.0, "orders", partial(orders.sweep, desk))
    engine.every(3600.0, "packages", partial(work.expire, desk))
    return app

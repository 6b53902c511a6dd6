"""What could this machine do at best? A FastAPI endpoint that inserts one row with SQLModel, and nothing else.

`python -m benchmarks.bare FILE PORT`: the same framework, driver, pragmas and server as Habeas, without what Habeas does.
"""

import sys
from datetime import UTC, datetime
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import Field, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

PRAGMAS = ("journal_mode=WAL", "busy_timeout=10000", "synchronous=FULL", "foreign_keys=ON")


class Asked(BaseModel):
    """The body."""

    right: str
    language: str
    name: str
    email: str


class Request(SQLModel, table=True):
    """The row."""

    id: int | None = Field(default=None, primary_key=True)
    right: str
    language: str
    name: str
    email: str
    at: datetime


def create_app(path: str) -> FastAPI:
    """Return the app on the SQLite file at `path`."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=1, max_overflow=0)
    app = FastAPI()

    @event.listens_for(engine.sync_engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @app.post("/requests", status_code=202)
    async def receive(body: Asked) -> dict[str, int | None]:
        async with AsyncSession(engine, expire_on_commit=False) as session:
            row = Request(**body.model_dump(), at=datetime.now(UTC))
            session.add(row)
            await session.commit()
        return {"id": row.id}

    @app.get("/health")
    async def health() -> dict[str, str]:
        async with engine.begin() as connection:
            await connection.run_sync(SQLModel.metadata.create_all)
        return {"status": "live"}

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)

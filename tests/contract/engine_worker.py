"""What does a worker look like that dies or freezes at work? A process of its own, for tests/contract/test_leases.py."""

import asyncio
import sys
from datetime import datetime, timedelta

from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from shared.clock import utc_now
from shared.database import Database, Utc
from shared.engine import Engine, QueueRule
from shared.leases import Attempt, renew, settle

ORGANISATION = "nordlys"
KIND = "test.task"
QUEUE = QueueRule("test", concurrency=4, partition_concurrency=1, polling=0.05)


class Base(SQLModel, registry=registry()):
    """A registry of its own."""


class Task(Base, table=True):
    """The least that a leased row has, and what its handler wrote."""

    __tablename__ = "test_task"

    organisation_id: str
    id: str = Field(primary_key=True)
    system: str = "crm"
    attempt: int = 1
    lease_until: datetime | None = Field(default=None, sa_type=Utc)
    result: str | None = None


async def work(url: str, lease: float) -> None:
    """Serve the queue; every attempt takes its lease once, says so, waits for a line, and tries to write."""
    database = Database(url)
    engine = Engine(url, queues=[QUEUE])
    loop = asyncio.get_running_loop()

    async def handler(organisation: str, id: str, number: int) -> None:
        attempt = Attempt(organisation, id, number)
        async with database.write(organisation) as session:
            await renew(session, Task, attempt, utc_now() + timedelta(seconds=lease))
        print("working", number, flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        async with database.write(organisation) as session:
            print("wrote", await settle(session, Task, attempt, result=f"worker {number}"), flush=True)

    engine.on(KIND, handler, queue=QUEUE.name)
    await engine.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], float(sys.argv[2])))

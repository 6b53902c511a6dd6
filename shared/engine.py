"""How does work that outlives a request get done, and done again after a crash? Through one engine.

DBOS behind one door. A service's own task rows say what is to be done, which attempt is running and until when it may
be silent (`shared.leases`); the engine only carries (kind, organisation, id, attempt) to a handler, at least once.
Nothing else about a case ever reaches the engine's tables: no personal data, no result, no error text (design §6).
"""

import asyncio
import json
import logging
import re
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, TypeVar, cast

import structlog
from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions, Serializer
from dbos import _serialization as dbos_serialization
from sqlalchemy import Connection, CursorResult, create_engine, event, text
from sqlalchemy import Engine as SyncEngine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.engine.url import URL, make_url
from sqlalchemy.pool import ConnectionPoolEntry

from shared.clock import Clock, utc_now
from shared.database import WriteSession

T = TypeVar("T")
Handler = Callable[[str, str, int], Awaitable[None]]
"""`handler(organisation_id, id, attempt)`. It may run twice: its first act is a conditional write on its own row."""
Sweep = Callable[[], Awaitable[object]]

APPLICATION, WORKFLOW = "habeas", "habeas_run"
MOST_QUEUES = 4
"""100 queues cost half a core at rest, four next to nothing: partition by system instead (design §6)."""

KIND = re.compile(r"[a-z][a-z0-9_.-]{1,40}")
ORGANISATION = re.compile(r"[a-z][a-z0-9-]{1,62}")
PARTITION = re.compile(r"[a-z][a-z0-9_.:-]{0,126}")
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
CODE = re.compile(r"[a-z][a-z0-9-]{0,40}")

FINISHED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
# What DBOS's own cancel writes, here as one statement so that it can run in the caller's transaction.
CANCEL = (
    "UPDATE {schema}workflow_status SET status = 'CANCELLED', queue_name = NULL, owner_xid = NULL,"
    " deduplication_id = NULL, started_at_epoch_ms = NULL, updated_at = :now, completed_at = :now"
    " WHERE status IN ('ENQUEUED', 'PENDING', 'DELAYED') AND name = 'habeas_run'"
)

log = structlog.get_logger()
_random = secrets.SystemRandom()


@dataclass(frozen=True)
class QueueRule:
    """How fast one class of work may run.

    `concurrency` is per process, `partition_concurrency` per partition over all processes (None: not partitioned),
    `polling` is in seconds and bounds how long finished enqueueing waits for its start.
    """

    name: str
    concurrency: int = 20
    partition_concurrency: int | None = None
    polling: float = 0.2


class StepFailed(Exception):
    """A step did not succeed. Carries a code from a closed list, never text."""

    def __init__(self, code: str) -> None:
        if not CODE.fullmatch(code):
            raise ValueError("a code is a short word, never text")
        self.code = code
        super().__init__(code)


class _Json(Serializer):
    """What DBOS stores: JSON, and of an exception its code alone."""

    def name(self) -> str:
        return "habeas_json"

    def serialize(self, data: Any) -> str:
        if isinstance(data, BaseException):
            data = {"failed": data.code if isinstance(data, StepFailed) else "engine"}
        return json.dumps(data, separators=(",", ":"))

    def deserialize(self, serialized_data: str) -> Any:
        data = json.loads(serialized_data)
        if isinstance(data, dict) and "failed" in data:
            return StepFailed(data["failed"])
        return data


def _refuse_pickle(_serializer: Serializer, _text: str) -> Any:
    raise StepFailed("pickle-refused")


# DBOS unpickles any row that says it is pickled, whatever serializer is set: whoever can write a row could run code.
# Refusing must still let DBOS write that the row failed, so its pickling writes JSON.
dbos_serialization.DefaultSerializer.deserialize = _refuse_pickle  # type: ignore[method-assign,assignment]
dbos_serialization.DefaultSerializer.serialize = _Json.serialize  # type: ignore[method-assign,assignment]


class _Terse(logging.Handler):
    """Says where DBOS complained and about which type of error; its messages may quote values."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0] if record.exc_info else None
        if error is None or not issubclass(error, StepFailed):
            log.warning(
                "engine.notice",
                level_name=record.levelname,
                where=f"{record.module}:{record.lineno}",
                error=error.__name__ if error else None,
            )


def _silence() -> None:
    """No banner, no console handler, no message text; only complaints, tersely."""
    logger = logging.getLogger("dbos")
    logger.handlers = [_Terse()]
    logger.propagate = False
    logger.setLevel(logging.WARNING)


_silence()


def workflow_id(kind: str, id: str, attempt: int) -> str:
    """Return the engine's name for one attempt. Used once for ever: a second enqueue under it does nothing."""
    return f"{kind}:{id}:{attempt}"


def check_ids(kind: str, organisation_id: str, id: str, attempt: int) -> None:
    """Raise ValueError unless these are ids and a number: nothing that describes a person fits the patterns."""
    wrong = [
        name
        for name, value, pattern in (
            ("kind", kind, KIND),
            ("organisation_id", organisation_id, ORGANISATION),
            ("id", id, ID),
        )
        if not isinstance(value, str) or not pattern.fullmatch(value)
    ]
    if type(attempt) is not int or not 0 < attempt < 1_000_000:
        wrong.append("attempt")
    if wrong:
        raise ValueError(f"the engine takes ids only: {', '.join(wrong)}")


class Engine:
    """The engine of this process. One runs at a time; its handlers and sweeps run on the loop that started it."""

    running: ClassVar["Engine | None"] = None

    def __init__(
        self,
        database_url: str,
        *,
        queues: Sequence[QueueRule],
        executor_id: str | None = None,
        application_version: str = "1",
        migrate: bool = True,
        clock: Clock = utc_now,
    ) -> None:
        """`database_url` is `sqlite+aiosqlite:///path` or `postgresql+psycopg://…`, the database of the services' rows.

        `executor_id` is random unless given: DBOS would hand a returning id its old work behind the leases' back.
        `application_version` stays pinned: what another version enqueued waits for its lease to run out. `migrate=False` where the role
        may not change the schema; `prepare` was then run by one that may.
        """
        if len({queue.name for queue in queues}) != len(queues) or not 0 < len(queues) <= MOST_QUEUES:
            raise ValueError(f"a process serves one to {MOST_QUEUES} queues with different names")
        self._url = make_url(database_url)
        self._queues = {queue.name: queue for queue in queues}
        self._executor = executor_id or secrets.token_hex(16)
        self._version = application_version
        self._migrate = migrate
        self._clock = clock
        self._schema = "" if self._url.get_backend_name() == "sqlite" else "dbos."
        self._handlers: dict[str, tuple[Handler, QueueRule]] = {}
        self._sweeps: list[tuple[float, str, Sweep]] = []
        self._loops: list[asyncio.Task[None]] = []
        self._attempts: dict[str, asyncio.Task[Any]] = {}
        self._clients: dict[SyncEngine, DBOSClient] = {}
        self._stopping = asyncio.Event()
        self._system: SyncEngine | None = None
        self._dbos: DBOS | None = None

    # --- what there is to do ---------------------------------------------------------------------------------------

    def on(self, kind: str, handler: Handler, *, queue: str) -> None:
        """Say who does work of this kind. Kinds are unique in a process, e.g. `locator.task`."""
        if not KIND.fullmatch(kind) or kind in self._handlers:
            raise ValueError("a kind is a short word and has one handler")
        self._handlers[kind] = handler, self._queues[queue]

    def every(self, seconds: float, name: str, sweep: Sweep) -> None:
        """Run `sweep` about every so often while the engine runs, first within five seconds. One failing stops none.

        Every process runs its own: a sweep claims rows by conditional UPDATE.
        """
        self._sweeps.append((seconds, name, sweep))

    # --- inside the caller's transaction ---------------------------------------------------------------------------

    async def enqueue(
        self,
        session: WriteSession,
        kind: str,
        *,
        organisation_id: str,
        id: str,
        attempt: int = 1,
        partition: str | None = None,
    ) -> None:
        """Start the handler of `kind` once the caller's transaction commits; a rollback leaves nothing.

        The same (kind, id, attempt) twice is one run. `partition` (a system's id) is needed where the queue's rule
        limits partitions. Raises ValueError for anything that is not an id.
        """
        check_ids(kind, organisation_id, id, attempt)
        _handler, rule = self._handlers[kind]
        if partition is None and rule.partition_concurrency is not None:
            raise ValueError("this queue is partitioned: DBOS never runs what has no partition")
        options: EnqueueOptions = {
            "workflow_name": WORKFLOW,
            "queue_name": rule.name,
            "workflow_id": workflow_id(kind, id, attempt),
            "application_name": APPLICATION,
            "app_version": self._version,
        }
        if partition is not None:
            if not PARTITION.fullmatch(partition):
                raise ValueError("a partition is the id of a system")
            options["queue_partition_key"] = partition
        connection = await session.connection()
        await connection.run_sync(self._enqueue, options, (kind, organisation_id, id, attempt))

    async def replace(
        self,
        session: WriteSession,
        kind: str,
        *,
        organisation_id: str,
        id: str,
        attempt: int,
        partition: str | None = None,
    ) -> None:
        """Withdraw the attempt before `attempt` and enqueue `attempt`, in the caller's transaction.

        Withdrawing frees the slot that a dead worker holds in its partition.
        """
        check_ids(kind, organisation_id, id, attempt)
        await self.withdraw(session, kind, id=id, attempt=attempt - 1)
        await self.enqueue(session, kind, organisation_id=organisation_id, id=id, attempt=attempt, partition=partition)

    async def withdraw(self, session: WriteSession, kind: str, *, id: str, attempt: int) -> None:
        """Cancel one attempt in the caller's transaction; if it runs in this process it is interrupted on commit.

        The caller moved its row on: that fences whoever else is still at it.
        """
        name = workflow_id(kind, id, attempt)
        connection = await session.connection()
        await connection.execute(self._cancel_one(), {"id": name, "now": self._now()})
        event.listen(session.sync_session, "after_commit", lambda _session: self._interrupt(name), once=True)

    async def cancel_all(self, session: WriteSession) -> int:
        """Cancel whatever is unfinished, in the caller's transaction; returns how many.

        For a database that was restored: nothing runs again until its task rows are enqueued anew (design §6).
        """
        connection = await session.connection()
        result = await connection.execute(text(CANCEL.format(schema=self._schema)), {"now": self._now()})
        return cast("CursorResult[Any]", result).rowcount

    # --- on its own ------------------------------------------------------------------------------------------------

    async def cancel(self, kind: str, id: str, attempt: int) -> None:
        """Cancel one attempt, queued or running. In this process its handler is interrupted; elsewhere its fence holds.

        Opens a transaction of its own: never call it inside one (SQLite would wait for itself).
        """
        name = workflow_id(kind, id, attempt)
        await _threaded(self._execute, self._cancel_one(), {"id": name, "now": self._now()})
        self._interrupt(name)

    async def sweep_finished(self, older_than: timedelta, *, batch: int = 200, most: int = 10_000) -> int:
        """Delete workflows that finished longer ago than this, `batch` in a transaction; returns how many.

        At most `most` in one call. DBOS keeps every one for ever. An id is free again afterwards: keep them for days.
        """
        before = (self._clock() - older_than).isoformat()
        deleted = 0
        while deleted < most and not self._stopping.is_set():
            found = await _threaded(_delete_finished, before, min(batch, most - deleted))
            deleted += found
            if found < batch:
                break
        return deleted

    # --- start and stop --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up work. Handlers and sweeps run on the loop that calls this."""
        if Engine.running is not None:
            raise RuntimeError("a process runs one engine")
        Engine.running = self
        self._stopping.clear()
        try:
            self._system = _system_engine(self._url)
            await _threaded(self._prepare)
            self._dbos = DBOS(config=self._config())
            DBOS.listen_queues(list(self._queues))
            # On the loop's own thread, because DBOS runs coroutines on the loop that it was launched from.
            DBOS.launch()
        except BaseException:
            await self.stop()
            raise
        self._loops = [asyncio.create_task(self._sweep(*sweep), name=f"sweep-{sweep[1]}") for sweep in self._sweeps]

    async def stop(self, grace: float = 10.0) -> None:
        """Take up nothing more, give what runs `grace` seconds, interrupt the rest (its lease will expire), let go."""
        if Engine.running is not self:
            return
        self._stopping.set()
        if self._dbos is not None:
            for flag in self._dbos.background_thread_stop_events:
                flag.set()
            await _threaded(_join_queue_threads)
        await _finish([*self._loops, *self._at_work()], grace)
        await _threaded(DBOS.destroy)
        if self._system is not None:
            self._system.dispose()
        self._system = self._dbos = None
        self._loops.clear()
        self._clients.clear()
        Engine.running = None

    # --- the one workflow ------------------------------------------------------------------------------------------

    async def perform(self, kind: str, organisation_id: str, id: str, attempt: int) -> None:
        """Run one attempt. Raises StepFailed with a code, whatever the handler raised."""
        code = await self._attempt(kind, organisation_id, id, attempt)
        if code is not None:  # raised here, so that nothing hangs on to the error and what it quotes
            raise StepFailed(code)

    async def _attempt(self, kind: str, organisation_id: str, id: str, attempt: int) -> str | None:
        try:
            check_ids(kind, organisation_id, id, attempt)
        except ValueError:
            return "not-an-id"
        if kind not in self._handlers:
            return "unknown-kind"
        self._track(workflow_id(kind, id, attempt))
        try:
            await self._handlers[kind][0](organisation_id, id, attempt)
        except Exception as error:  # noqa: BLE001 - the edge of a task: only the type of the error is told
            code = _code(error)
            log.warning(
                "engine.attempt_failed", kind=kind, id=id, attempt=attempt, error=type(error).__name__, code=code
            )
            return code
        return None

    def _track(self, name: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._attempts[name] = task
        task.add_done_callback(lambda _task: self._attempts.pop(name, None))

    def _at_work(self) -> list[asyncio.Task[Any]]:
        """Every workflow of this process, also those that have not reached their handler or are being recorded."""
        return [] if self._dbos is None else list(self._dbos._workflow_tasks)  # noqa: SLF001 - the only full list

    def _interrupt(self, name: str) -> None:
        task = self._attempts.get(name)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def _sweep(self, seconds: float, name: str, sweep: Sweep) -> None:
        pause = min(seconds, 5.0) * _random.random()
        while not await self._stops_within(pause):
            try:
                await sweep()
            except Exception as error:  # noqa: BLE001 - one failing sweep must not end the loop
                log.warning("engine.sweep_failed", sweep=name, error=type(error).__name__)
            pause = seconds * _random.uniform(0.9, 1.1)

    async def _stops_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    # --- DBOS ------------------------------------------------------------------------------------------------------

    def _config(self) -> DBOSConfig:
        return {
            "name": APPLICATION,
            "system_database_engine": self._system,
            "application_version": self._version,
            "executor_id": self._executor,
            "serializer": _Json(),
            "run_migrations": False,
            # Nothing here waits for messages; LISTEN would cost a connection and a hundred wake-ups a second.
            "use_listen_notify": False,
            "notification_listener_polling_interval_sec": 0.25,
            "scheduler_polling_interval_sec": 3600.0,
            "max_executor_threads": 4,
            "enable_otlp": False,
            "log_level": "WARNING",
        }

    def _prepare(self) -> None:
        if self._migrate:
            prepare(self._url.render_as_string(hide_password=False))
        assert self._system is not None
        client = DBOSClient(system_database_engine=self._system, application_name=APPLICATION, lazy=True)
        # Before launch, or DBOS would notice a new queue only a second later.
        for rule in self._queues.values():
            client.register_queue(
                rule.name,
                worker_concurrency=rule.concurrency,
                partition_concurrency=rule.partition_concurrency,
                polling_interval_sec=rule.polling,
            )

    def _enqueue(self, connection: Connection, options: EnqueueOptions, ids: tuple[str, str, str, int]) -> None:
        client = self._clients.get(connection.engine)
        if client is None:
            # A client on the caller's own engine shares its dialect, so DBOS may reuse its compiled statements.
            client = self._clients[connection.engine] = DBOSClient(
                system_database_engine=connection.engine, serializer=_Json(), lazy=True
            )
        client.enqueue_in_transaction(connection, options, *ids)

    def _cancel_one(self) -> Any:
        return text(CANCEL.format(schema=self._schema) + " AND workflow_uuid = :id")

    def _execute(self, statement: Any, values: dict[str, Any]) -> None:
        assert self._system is not None, "the engine is not running"
        with self._system.begin() as connection:
            connection.execute(statement, values)

    def _now(self) -> int:
        return int(self._clock().timestamp() * 1000)


@DBOS.workflow(name=WORKFLOW)
async def _habeas_run(kind: str, organisation_id: str, id: str, attempt: int) -> None:
    """The only workflow there is; without steps, because task rows own attempts."""
    assert Engine.running is not None
    await Engine.running.perform(kind, organisation_id, id, attempt)


def prepare(database_url: str, *, role: str | None = None) -> None:
    """Create or upgrade DBOS's own tables: in the same file on SQLite, in the schema `dbos` on PostgreSQL.

    `role` is a PostgreSQL role that may then use them without owning them. Blocks; safe to run many times at once.
    """
    DBOS.migrate(_sync_url(make_url(database_url)).render_as_string(hide_password=False), application_role=role)


def _sync_url(url: URL) -> URL:
    return url.set(drivername="sqlite" if url.get_backend_name() == "sqlite" else "postgresql+psycopg")


def _system_engine(url: URL) -> SyncEngine:
    """Return the connections on which DBOS polls, claims and records."""
    sqlite = url.get_backend_name() == "sqlite"
    options = {} if sqlite else {"pool_pre_ping": True, "connect_args": {"application_name": "habeas-engine"}}
    engine = create_engine(_sync_url(url), pool_size=8, max_overflow=0, **options)
    event.listen(engine, "connect", _connect_sqlite if sqlite else _connect_postgres)
    return engine


def _connect_sqlite(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    # NORMAL is safe here: a claim or an outcome lost with the power is done again, and no later commit can survive it.
    connection.isolation_level = "IMMEDIATE"
    for pragma in ("journal_mode=WAL", "busy_timeout=30000", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _connect_postgres(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    # A frozen process must not hold locks for ever.
    connection.execute("SET idle_in_transaction_session_timeout = 60000")
    connection.commit()


def _delete_finished(before: str, most: int) -> int:
    found = DBOS.list_workflows(
        status=FINISHED, completed_before=before, limit=most, load_input=False, load_output=False
    )
    if found:
        DBOS.delete_workflows([workflow.workflow_id for workflow in found])
    return len(found)


def _join_queue_threads() -> None:
    """Wait until no queue is polled: what was claimed has then been handed to the loop."""
    for thread in threading.enumerate():
        if thread.name.endswith("(queue_thread)") and thread.is_alive():
            thread.join(15.0)  # it has started, and itself waits for, the thread of each queue


def _code(error: Exception) -> str:
    code = error.code if isinstance(error, StepFailed) else getattr(error, "problem_code", "")
    return code if CODE.fullmatch(code) else "unexpected"


async def _finish(tasks: Iterable[asyncio.Task[Any]], grace: float) -> None:
    """Wait for tasks, then interrupt those that are left."""
    waiting = set(tasks)
    for patience in (grace, 5.0):
        if waiting:
            _done, waiting = await asyncio.wait(waiting, timeout=patience)
        for task in waiting:
            task.cancel()


async def _threaded(function: Callable[..., T], *arguments: Any) -> T:
    """Run in a thread, without the caller's context: DBOS would record a step if it found a workflow there."""
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)

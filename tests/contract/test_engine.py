"""Does the engine keep what design §6 promises, on the real DBOS and both databases?"""

import asyncio
import base64
import json
import logging
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import dbos
import pytest
import structlog
from dbos import _serialization as dbos_serialization
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine.url import make_url

from shared import engine as engine_module
from shared.database import Database
from shared.engine import Engine, QueueRule, StepFailed, prepare, workflow_id
from shared.ids import new_id
from shared.problems import Unavailable

ROOT = Path(__file__).parents[2]
KIND = "test.task"
FAST = QueueRule("fast", concurrency=10, polling=0.05)
NARROW = QueueRule("narrow", concurrency=10, partition_concurrency=2, polling=0.05)
SECRET = "Signe Åkjær, signe@example.dk, 010203-1234"

Call = tuple[str, str, int]


class Bench:
    """One engine, its database, and what its handlers saw."""

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        self.database = Database(url)
        self.engine = Engine(url, queues=(FAST, NARROW), **options)
        self.calls: list[Call] = []
        self.engine.on(KIND, self.record, queue="fast")

    async def record(self, organisation: str, id: str, attempt: int) -> None:
        self.calls.append((organisation, id, attempt))

    async def enqueue(self, id: str, attempt: int = 1, *, kind: str = KIND, partition: str | None = None) -> None:
        async with self.database.write("nordlys") as session:
            await self.engine.enqueue(
                session, kind, organisation_id="nordlys", id=id, attempt=attempt, partition=partition
            )

    def sql(self, statement: str, **values: Any) -> list[Any]:
        """Run one statement on DBOS's tables, which `{dbos}` stands for."""
        schema = "" if self.database.dialect == "sqlite" else "dbos."
        system = create_engine(sync_url(self.url))
        try:
            with system.begin() as connection:
                result = connection.execute(text(statement.replace("{dbos}", schema)), values)
                return [tuple(row) for row in result] if result.returns_rows else []
        finally:
            system.dispose()

    def status(self, id: str, attempt: int = 1, kind: str = KIND) -> str | None:
        rows = self.sql(
            "SELECT status FROM {dbos}workflow_status WHERE workflow_uuid = :id", id=workflow_id(kind, id, attempt)
        )
        return rows[0][0] if rows else None

    def everything(self) -> str:
        """Every value that DBOS holds, as one text."""
        schema = None if self.database.dialect == "sqlite" else "dbos"
        system = create_engine(sync_url(self.url))
        try:
            tables = inspect(system).get_table_names(schema)
        finally:
            system.dispose()
        return "\n".join(str(self.sql(f"SELECT * FROM {{dbos}}{table}")) for table in tables)

    async def close(self) -> None:
        await self.engine.stop(grace=2)
        await self.database.close()


def sync_url(url: str) -> str:
    parsed = make_url(url)
    driver = "sqlite" if parsed.get_backend_name() == "sqlite" else "postgresql+psycopg"
    return parsed.set(drivername=driver).render_as_string(hide_password=False)


async def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


@pytest.fixture
async def benches() -> AsyncIterator[Callable[..., Bench]]:
    """Makes benches and closes them, also when the test fails."""
    made: list[Bench] = []

    def make(url: str, **options: Any) -> Bench:
        made.append(Bench(url, **options))
        return made[-1]

    yield make
    for bench in made:
        await bench.close()


@pytest.fixture
async def bench(database_url: str, benches: Callable[..., Bench]) -> Bench:
    """A started engine."""
    bench = benches(database_url)
    await bench.engine.start()
    return bench


# --- enqueueing ----------------------------------------------------------------------------------------------------


async def test_a_committed_enqueue_runs_once_on_the_loop_of_the_application(bench: Bench) -> None:
    seen: list[tuple[asyncio.AbstractEventLoop, threading.Thread]] = []

    async def handler(_organisation: str, _id: str, _attempt: int) -> None:
        seen.append((asyncio.get_running_loop(), threading.current_thread()))

    bench.engine.on("test.loop", handler, queue="fast")
    id = new_id()
    await bench.enqueue(id)
    await bench.enqueue(new_id(), kind="test.loop")
    await until(lambda: bool(bench.calls and seen))
    assert bench.calls == [("nordlys", id, 1)]
    assert seen == [(asyncio.get_running_loop(), threading.current_thread())]
    await until(lambda: bench.status(id) == "SUCCESS")


async def test_a_rollback_leaves_no_workflow(bench: Bench) -> None:
    id, kept = new_id(), new_id()
    with pytest.raises(RuntimeError, match="changed my mind"):
        async with bench.database.write("nordlys") as session:
            await bench.engine.enqueue(session, KIND, organisation_id="nordlys", id=id)
            raise RuntimeError("changed my mind")
    await bench.enqueue(kept)
    await until(lambda: bool(bench.calls))
    assert bench.status(id) is None
    assert bench.calls == [("nordlys", kept, 1)]


async def test_a_second_enqueue_under_the_same_id_does_not_run_and_the_next_attempt_does(bench: Bench) -> None:
    id = new_id()
    await bench.enqueue(id)
    await until(lambda: bench.status(id) == "SUCCESS")
    await bench.enqueue(id)
    await bench.enqueue(id, 2)
    await until(lambda: bench.status(id, 2) == "SUCCESS")
    assert bench.calls == [("nordlys", id, 1), ("nordlys", id, 2)]


async def test_an_enqueue_twice_in_one_transaction_is_one_run(bench: Bench) -> None:
    id = new_id()
    async with bench.database.write("nordlys") as session:
        for _ in range(2):
            await bench.engine.enqueue(session, KIND, organisation_id="nordlys", id=id)
    await until(lambda: bench.status(id) == "SUCCESS")
    assert len(bench.calls) == 1


@pytest.mark.parametrize(
    ("organisation", "id", "attempt"),
    [
        ("nordlys", "010203-1234", 1),
        ("nordlys", "signe@example.dk", 1),
        ("nordlys", "Signe Åkjær", 1),
        ("nordlys", "", 1),
        ("nordlys", "0199D0A2-7B5C-7AAA-8BBB-0123456789AB", 1),
        ("Nordlys IT ApS", "0199d0a2-7b5c-7aaa-8bbb-0123456789ab", 1),
        ("signe@example.dk", "0199d0a2-7b5c-7aaa-8bbb-0123456789ab", 1),
        ("nordlys", "0199d0a2-7b5c-7aaa-8bbb-0123456789ab\n", 1),
        ("nordlys", "0199d0a2-7b5c-7aaa-8bbb-0123456789ab", 0),
        ("nordlys", "0199d0a2-7b5c-7aaa-8bbb-0123456789ab", True),
        ("nordlys", "0199d0a2-7b5c-7aaa-8bbb-0123456789ab", "1"),
        ("nordlys", None, 1),
    ],
)
async def test_only_ids_get_into_the_engine_and_what_was_refused_is_not_repeated(
    sqlite_url: str, organisation: Any, id: Any, attempt: Any, benches: Callable[..., Bench]
) -> None:
    bench = benches(sqlite_url)
    prepare(sqlite_url)
    async with bench.database.write("nordlys") as session:
        with pytest.raises(ValueError, match="ids only") as refused:
            await bench.engine.enqueue(session, KIND, organisation_id=organisation, id=id, attempt=attempt)
    assert not id or str(id) not in str(refused.value)
    assert bench.sql("SELECT count(*) FROM {dbos}workflow_status") == [(0,)]


async def test_a_partition_is_needed_where_partitions_are_limited_and_is_the_id_of_a_system(
    sqlite_url: str, benches: Callable[..., Bench]
) -> None:
    bench = benches(sqlite_url)
    prepare(sqlite_url)
    bench.engine.on("test.narrow", bench.record, queue="narrow")
    for partition in (None, "signe@example.dk"):
        with pytest.raises(ValueError, match="partition"):
            await bench.enqueue(new_id(), kind="test.narrow", partition=partition)


async def test_work_can_be_enqueued_before_the_engine_runs(database_url: str, benches: Callable[..., Bench]) -> None:
    bench = benches(database_url)
    prepare(database_url)
    id = new_id()
    await bench.enqueue(id)
    await bench.engine.start()
    await until(lambda: bench.calls == [("nordlys", id, 1)])


async def test_a_process_takes_nothing_from_a_queue_that_it_does_not_serve(bench: Bench) -> None:
    other = Engine(bench.url, queues=[QueueRule("foreign")])
    other.on("foreign.task", bench.record, queue="foreign")
    id = new_id()
    async with bench.database.write("nordlys") as session:
        await other.enqueue(session, "foreign.task", organisation_id="nordlys", id=id)
    await bench.enqueue(new_id())
    await until(lambda: len(bench.calls) == 1)
    await asyncio.sleep(0.5)
    assert bench.status(id, kind="foreign.task") == "ENQUEUED"


# --- what DBOS gets to keep ----------------------------------------------------------------------------------------


async def test_neither_inputs_nor_results_nor_errors_reach_the_tables_of_the_engine(bench: Bench) -> None:
    async def fails(_organisation: str, _id: str, _attempt: int) -> None:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise RuntimeError(f"no such person: {SECRET}") from error

    async def returns(_organisation: str, _id: str, _attempt: int) -> Any:
        return SECRET

    bench.engine.on("test.fails", fails, queue="fast")
    bench.engine.on("test.returns", returns, queue="fast")
    id = new_id()
    with structlog.testing.capture_logs() as logs:
        await bench.enqueue(id, kind="test.fails")
        await bench.enqueue(id, kind="test.returns")
        await until(lambda: bench.status(id, kind="test.fails") == "ERROR")
        await until(lambda: bench.status(id, kind="test.returns") == "SUCCESS")
    stored = bench.everything()
    assert '{"failed":"unexpected"}' in stored
    for word in ("Signe", "example.dk", "010203", "KeyError", "Traceback"):
        assert word not in stored
        assert word not in str(logs)
    assert [(entry["event"], entry["error"], entry["code"]) for entry in logs] == [
        ("engine.attempt_failed", "RuntimeError", "unexpected")
    ]


async def test_of_a_failure_its_code_is_kept(bench: Bench) -> None:
    async def fails(_organisation: str, _id: str, _attempt: int) -> None:
        raise StepFailed("connector-away")

    async def refused(_organisation: str, _id: str, _attempt: int) -> None:
        raise Unavailable

    bench.engine.on("test.step", fails, queue="fast")
    bench.engine.on("test.problem", refused, queue="fast")
    id = new_id()
    await bench.enqueue(id, kind="test.step")
    await bench.enqueue(id, kind="test.problem")
    await until(lambda: bench.status(id, kind="test.step") == bench.status(id, kind="test.problem") == "ERROR")
    errors = sorted(row[0] for row in bench.sql("SELECT error FROM {dbos}workflow_output"))
    assert errors == ['{"failed":"connector-away"}', '{"failed":"unavailable"}']


def test_a_code_is_never_text() -> None:
    with pytest.raises(ValueError, match="never text"):
        StepFailed(SECRET)


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("serialization", ["py_pickle", "portable_json", None])
async def test_a_planted_row_runs_no_code_and_reaches_no_handler(
    bench: Bench, tmp_path: Path, serialization: str | None
) -> None:
    target = tmp_path / "pwned"
    payload = base64.b64encode(pickle.dumps({"args": (Bomb(target),), "kwargs": {}})).decode()
    if serialization != "py_pickle":
        arguments = [KIND, "x", "x", 1]
        payload = json.dumps({"positionalArgs": arguments, "args": arguments, "kwargs": {}})
    bench.sql(
        "INSERT INTO {dbos}workflow_status (workflow_uuid, status, name, queue_name, serialization, priority,"
        " created_at, updated_at, recovery_attempts, application_name)"
        " VALUES ('planted', 'ENQUEUED', 'habeas_run', 'fast', :serialization, 0, 1, 1, 0, 'habeas')",
        serialization=serialization,
    )
    bench.sql("INSERT INTO {dbos}workflow_input (workflow_uuid, inputs) VALUES ('planted', :inputs)", inputs=payload)
    await until(
        lambda: bench.sql("SELECT status FROM {dbos}workflow_status WHERE workflow_uuid = 'planted'") == [("ERROR",)]
    )
    assert not target.exists()
    assert bench.calls == []
    code = "pickle-refused" if serialization == "py_pickle" else "not-an-id"
    assert f'"{code}"' in bench.sql("SELECT error FROM {dbos}workflow_output")[0][0]
    await bench.enqueue(new_id())
    await until(lambda: len(bench.calls) == 1)


def test_what_the_planted_payload_does_where_pickle_is_not_refused(tmp_path: Path) -> None:
    target = tmp_path / "pwned"
    payload = pickle.dumps(Bomb(target))
    with pytest.raises(StepFailed, match="pickle-refused"):
        dbos_serialization.deserialize_value(base64.b64encode(payload).decode(), "py_pickle", engine_module._Json())
    assert not target.exists()
    pickle.loads(payload)
    assert target.exists()


def test_dbos_pickles_nowhere_else() -> None:
    package = Path(dbos.__file__).parent
    using = [path.name for path in package.rglob("*.py") if "pickle." in path.read_text()]
    assert using == ["_serialization.py"]


async def test_a_kind_without_handler_fails_by_code(bench: Bench) -> None:
    other = Engine(bench.url, queues=[FAST])
    other.on("test.other", bench.record, queue="fast")
    id = new_id()
    async with bench.database.write("nordlys") as session:
        await other.enqueue(session, "test.other", organisation_id="nordlys", id=id)
    await until(lambda: bench.status(id, kind="test.other") == "ERROR")
    assert bench.sql("SELECT error FROM {dbos}workflow_output") == [('{"failed":"unknown-kind"}',)]


# --- limits --------------------------------------------------------------------------------------------------------


async def test_a_partition_never_runs_more_than_its_limit_and_does_not_hold_up_others(bench: Bench) -> None:
    running: dict[str, int] = {}
    most: dict[str, int] = {}
    systems: dict[str, str] = {}
    done: list[str] = []

    async def handler(_organisation: str, id: str, _attempt: int) -> None:
        system = systems[id]
        running[system] = running.get(system, 0) + 1
        most[system] = max(most.get(system, 0), running[system])
        await asyncio.sleep(0.1)
        running[system] -= 1
        done.append(system)

    bench.engine.on("test.narrow", handler, queue="narrow")
    async with bench.database.write("nordlys") as session:
        for system in ("crm", "crm", "crm", "crm", "crm", "crm", "invoices"):
            id = new_id()
            systems[id] = system
            await bench.engine.enqueue(session, "test.narrow", organisation_id="nordlys", id=id, partition=system)
    await until(lambda: len(done) == 7)
    assert most == {"crm": 2, "invoices": 1}
    assert "invoices" in done[:4]


def test_a_process_serves_at_most_four_queues_with_different_names() -> None:
    for queues in ([QueueRule(str(n)) for n in range(5)], [FAST, FAST], []):
        with pytest.raises(ValueError, match="one to 4"):
            Engine("sqlite+aiosqlite:///x", queues=queues)


def test_a_kind_has_one_handler_and_a_plain_name() -> None:
    engine = Engine("sqlite+aiosqlite:///x", queues=[FAST])

    async def handler(_organisation: str, _id: str, _attempt: int) -> None: ...

    engine.on(KIND, handler, queue="fast")
    for kind in (KIND, "Signe Åkjær"):
        with pytest.raises(ValueError, match="kind"):
            engine.on(kind, handler, queue="fast")


# --- calling off and clearing away -----------------------------------------------------------------------------------


async def test_a_cancelled_attempt_does_not_start(database_url: str, benches: Callable[..., Bench]) -> None:
    bench = benches(database_url)
    await bench.engine.start()
    slow = asyncio.Event()

    async def handler(_organisation: str, _id: str, _attempt: int) -> None:
        await slow.wait()

    bench.engine.on("test.slow", handler, queue="narrow")
    ids = [new_id() for _ in range(3)]
    for id in ids:
        await bench.enqueue(id, kind="test.slow", partition="crm")
    await until(lambda: [bench.status(id, kind="test.slow") for id in ids].count("PENDING") == 2)
    waiting = next(id for id in ids if bench.status(id, kind="test.slow") == "ENQUEUED")
    await bench.engine.cancel("test.slow", waiting, 1)
    slow.set()
    await until(lambda: [bench.status(id, kind="test.slow") for id in ids].count("SUCCESS") == 2)
    assert bench.status(waiting, kind="test.slow") == "CANCELLED"


async def test_a_cancelled_attempt_of_this_process_is_interrupted(bench: Bench) -> None:
    seen: list[str] = []

    async def handler(_organisation: str, _id: str, _attempt: int) -> None:
        seen.append("started")
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("interrupted")

    bench.engine.on("test.slow", handler, queue="fast")
    id = new_id()
    await bench.enqueue(id, kind="test.slow")
    await until(lambda: seen == ["started"])
    await bench.engine.cancel("test.slow", id, 1)
    await until(lambda: seen == ["started", "interrupted"])
    assert bench.status(id, kind="test.slow") == "CANCELLED"


async def test_withdrawing_belongs_to_the_transaction(bench: Bench) -> None:
    seen: list[str] = []

    async def handler(_organisation: str, _id: str, _attempt: int) -> None:
        seen.append("started")
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("interrupted")

    bench.engine.on("test.slow", handler, queue="fast")
    id = new_id()
    await bench.enqueue(id, kind="test.slow")
    await until(lambda: seen == ["started"])
    with pytest.raises(RuntimeError):
        async with bench.database.write("nordlys") as session:
            await bench.engine.withdraw(session, "test.slow", id=id, attempt=1)
            raise RuntimeError
    await asyncio.sleep(0.1)
    assert (seen, bench.status(id, kind="test.slow")) == (["started"], "PENDING")
    async with bench.database.write("nordlys") as session:
        await bench.engine.withdraw(session, "test.slow", id=id, attempt=1)
    await until(lambda: seen == ["started", "interrupted"])
    assert bench.status(id, kind="test.slow") == "CANCELLED"


async def test_a_restored_database_starts_held(database_url: str, benches: Callable[..., Bench]) -> None:
    bench = benches(database_url)
    prepare(database_url)
    ids = [new_id() for _ in range(5)]
    for id in ids:
        await bench.enqueue(id)
    bench.sql(
        "UPDATE {dbos}workflow_status SET status = 'PENDING', executor_id = 'gone' WHERE workflow_uuid = :id",
        id=workflow_id(KIND, ids[0], 1),
    )
    async with bench.database.write(None) as session:
        assert await bench.engine.cancel_all(session) == 5
    await bench.engine.start()
    await bench.enqueue(ids[4], 2)
    await until(lambda: bool(bench.calls))
    assert bench.calls == [("nordlys", ids[4], 2)]
    assert {bench.status(id) for id in ids} == {"CANCELLED"}


async def test_finished_workflows_are_deleted_when_old_enough_in_bounded_batches(bench: Bench) -> None:
    release = asyncio.Event()

    async def slow(_organisation: str, _id: str, _attempt: int) -> None:
        await release.wait()

    async def fails(_organisation: str, _id: str, _attempt: int) -> None:
        raise StepFailed("no-luck")

    bench.engine.on("test.slow", slow, queue="fast")
    bench.engine.on("test.fails", fails, queue="fast")
    running = new_id()
    await bench.enqueue(running, kind="test.slow")
    for _ in range(6):
        await bench.enqueue(new_id())
    await bench.enqueue(new_id(), kind="test.fails")
    finished = "SELECT count(*) FROM {dbos}workflow_status WHERE status IN ('SUCCESS', 'ERROR')"
    await until(lambda: bench.sql(finished) == [(7,)])
    assert await bench.engine.sweep_finished(timedelta(hours=1)) == 0
    await asyncio.sleep(0.01)
    assert await bench.engine.sweep_finished(timedelta(0), batch=2, most=3) == 3
    assert await bench.engine.sweep_finished(timedelta(0), batch=2) == 4
    for table in ("workflow_status", "workflow_input"):
        assert bench.sql(f"SELECT count(*) FROM {{dbos}}{table}") == [(1,)]
    assert bench.sql("SELECT count(*) FROM {dbos}workflow_output") == [(0,)]
    release.set()
    await until(lambda: bench.status(running, kind="test.slow") == "SUCCESS")


# --- sweeps of this process ----------------------------------------------------------------------------------------


async def test_a_failing_sweep_stops_neither_itself_nor_others_and_only_its_type_is_logged(
    sqlite_url: str, benches: Callable[..., Bench]
) -> None:
    bench = benches(sqlite_url)
    counts = {"good": 0, "bad": 0}

    async def good() -> None:
        counts["good"] += 1

    async def bad() -> None:
        counts["bad"] += 1
        raise LookupError(SECRET)

    bench.engine.every(0.02, "good", good)
    bench.engine.every(0.02, "bad", bad)
    with structlog.testing.capture_logs() as logs:
        await bench.engine.start()
        await until(lambda: min(counts.values()) >= 3)
        await bench.close()
    failed = [entry for entry in logs if entry["event"] == "engine.sweep_failed"]
    assert failed[0]["error"] == "LookupError"
    assert "Signe" not in str(logs)
    after = dict(counts)
    await asyncio.sleep(0.1)
    assert counts == after


async def test_a_sweep_that_outlasts_the_grace_is_interrupted(sqlite_url: str, benches: Callable[..., Bench]) -> None:
    bench = benches(sqlite_url)
    seen: list[str] = []

    async def stuck() -> None:
        seen.append("started")
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("ended")

    bench.engine.every(0.01, "stuck", stuck)
    await bench.engine.start()
    await until(lambda: seen == ["started"])
    await bench.engine.stop(grace=0.05)
    assert seen == ["started", "ended"]


# --- start and stop ------------------------------------------------------------------------------------------------


async def test_stopping_lets_work_finish_within_the_grace_and_leaves_no_thread(
    database_url: str, benches: Callable[..., Bench]
) -> None:
    before = {thread.name for thread in threading.enumerate()}
    bench = benches(database_url)
    started = asyncio.Event()

    async def handler(organisation: str, id: str, attempt: int) -> None:
        started.set()
        await asyncio.sleep(0.3)
        await bench.record(organisation, id, attempt)

    bench.engine.on("test.slow", handler, queue="fast")
    await bench.engine.start()
    id = new_id()
    await bench.enqueue(id, kind="test.slow")
    await started.wait()
    await bench.engine.stop()
    assert bench.calls == [("nordlys", id, 1)]
    assert bench.status(id, kind="test.slow") == "SUCCESS"
    await bench.database.close()

    def left() -> set[str]:
        names = {thread.name for thread in threading.enumerate()} - before
        return {name for name in names if not name.startswith("asyncio_")}

    await until(lambda: not left())
    assert await asyncio.to_thread(lambda: "the loop's own threads still work")


async def test_work_that_outlasts_the_grace_is_interrupted_and_left_to_its_lease(bench: Bench) -> None:
    seen: list[str] = []

    async def handler(_organisation: str, _id: str, _attempt: int) -> None:
        seen.append("started")
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("interrupted")

    bench.engine.on("test.slow", handler, queue="fast")
    id = new_id()
    await bench.enqueue(id, kind="test.slow")
    await until(lambda: seen == ["started"])
    begun = time.monotonic()
    await bench.engine.stop(grace=0.1)
    assert time.monotonic() - begun < 5
    assert seen == ["started", "interrupted"]
    assert bench.status(id, kind="test.slow") == "PENDING"


async def test_a_process_runs_one_engine_and_may_start_it_again(bench: Bench) -> None:
    with pytest.raises(RuntimeError, match="one engine"):
        await Engine(bench.url, queues=[FAST]).start()
    await bench.engine.stop()
    await bench.engine.stop()
    id = new_id()
    await bench.enqueue(id)
    await bench.engine.start()
    await until(lambda: bench.calls == [("nordlys", id, 1)])


async def test_an_engine_that_cannot_start_lets_go_of_everything(
    database_url: str, benches: Callable[..., Bench]
) -> None:
    broken = Engine(database_url, queues=[FAST], migrate=False)
    with pytest.raises(Exception, match=r"queues|workflow|no such table|does not exist"):
        await broken.start()
    bench = benches(database_url)
    await bench.engine.start()
    await bench.enqueue(new_id())
    await until(lambda: len(bench.calls) == 1)


async def test_executor_ids_are_random_and_the_version_stays_pinned(
    database_url: str, benches: Callable[..., Bench]
) -> None:
    for bench in (benches(database_url), benches(database_url)):
        await bench.engine.start()
        id = new_id()
        await bench.enqueue(id)
        await until(lambda bench=bench, id=id: bench.status(id) == "SUCCESS")  # type: ignore[misc]
        await bench.engine.stop()
    assert len(bench.sql("SELECT DISTINCT executor_id FROM {dbos}workflow_status WHERE length(executor_id) = 32")) == 2
    assert bench.sql("SELECT DISTINCT application_version FROM {dbos}workflow_status") == [("1",)]


async def test_on_postgresql_a_role_that_owns_nothing_can_run_the_engine(
    postgres_url: str, benches: Callable[..., Bench]
) -> None:
    role = "r" + new_id().replace("-", "")
    owner = benches(postgres_url)
    owner.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'p@ss/w:rd'")
    prepare(postgres_url, role=role)
    limited = make_url(postgres_url).set(username=role, password="p@ss/w:rd").render_as_string(hide_password=False)
    bench = benches(limited, migrate=False)
    await bench.engine.start()
    id = new_id()
    await bench.enqueue(id)
    await until(lambda: bench.calls == [("nordlys", id, 1)])
    assert owner.sql("SELECT DISTINCT schemaname FROM pg_tables WHERE tablename = 'workflow_status'") == [("dbos",)]
    owner.sql(f"DROP OWNED BY {role}")
    owner.sql(f"DROP ROLE {role}")


QUIET = """
import asyncio, sys
calls = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind"):
        calls.append(event)
sys.addaudithook(hook)
from shared.database import Database
from shared.engine import Engine, QueueRule
from shared.ids import new_id

async def main():
    done = asyncio.Event()
    async def handler(organisation, id, attempt):
        done.set()
    engine = Engine(sys.argv[1], queues=[QueueRule("fast")])
    engine.on("test.task", handler, queue="fast")
    database = Database(sys.argv[1])
    await engine.start()
    async with database.write("nordlys") as session:
        await engine.enqueue(session, "test.task", organisation_id="nordlys", id=new_id())
    await asyncio.wait_for(done.wait(), 10)
    await engine.stop()
    await database.close()
asyncio.run(main())
assert not calls, calls
"""


def test_the_engine_prints_nothing_and_opens_no_connection(sqlite_url: str) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", QUIET, sqlite_url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


async def test_complaints_of_dbos_are_logged_without_their_words(
    sqlite_url: str, benches: Callable[..., Bench]
) -> None:
    bench = benches(sqlite_url)
    await bench.engine.start()
    with structlog.testing.capture_logs() as logs:
        try:
            raise LookupError(SECRET)
        except LookupError:
            logging.getLogger("dbos").exception("it concerned %s", SECRET)
    assert logs[0]["event"] == "engine.notice"
    assert logs[0]["error"] == "LookupError"
    assert "Signe" not in str(logs)

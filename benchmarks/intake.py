"""How many people can ask at once? `POST /v1/{organisation}/requests` through gateway and intake, beside a bare endpoint.

The two take turns, each with the same client over loopback; the ratio is of neighbouring runs, so that a busy machine
slows both.
"""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil

from benchmarks.client import Answers, Job, ask
from benchmarks.figures import Figure, spread
from benchmarks.house import house, spawn, stop, until_healthy
from benchmarks.registers import ORGANISATION, crm, register
from habeas.demo import free_port

BODY = '{"right": "access", "language": "da", "name": "Søren Østergård", "email": "person{n}@example.dk"}'


def measure(*, short: bool = False) -> list[Figure]:
    """Return requests a second, the ratio to a bare endpoint, and processor time a request."""
    runs, count = (1, 40) if short else (5, 1200)
    with house(register({"crm": crm()})) as built, _bare(built.folder) as (bare_port, bare_process):
        path = f"/v1/{ORGANISATION}/requests"
        ours, bare = [], []
        for _run in range(runs):
            ours.append(_run_one(Job(built.port, path, BODY, count), built.servers[0]))
            bare.append(_run_one(Job(bare_port, "/requests", BODY, count), bare_process))
    rate, bare_rate = median(run.rate for run in ours), median(run.rate for run in bare)
    ratios = [mine.rate / other.rate for mine, other in zip(ours, bare, strict=True)]
    return [
        Figure("intake: requests", rate, "/s", 120, note=spread([run.rate for run in ours], "/s")),
        Figure("intake: beside a bare endpoint", median(ratios), "×", 0.25, note=f"bare FastAPI + SQLModel {bare_rate:.0f}/s"),
        Figure("intake: processor time a request", median(run.cpu for run in ours) * 1000, "ms",
               note=f"bare {median(run.cpu for run in bare) * 1000:.2f} ms; an answer takes {median(run.latency for run in ours) * 1000:.0f} ms at 16 connections"),
    ]  # fmt: skip


class Run:
    """One run against one server."""

    def __init__(self, answers: Answers, cpu: float) -> None:
        if set(answers.statuses) != {202}:
            raise RuntimeError(f"not every request was taken: {answers.statuses}")
        self.rate, self.latency = answers.per_second, answers.median
        self.cpu = cpu / len(answers.latencies)


def _run_one(job: Job, server: "subprocess.Popen[bytes]") -> Run:
    process = psutil.Process(server.pid)
    before = process.cpu_times()
    answers = asyncio.run(ask(job))
    after = process.cpu_times()
    return Run(answers, after.user + after.system - before.user - before.system)


@contextlib.contextmanager
def _bare(folder: Path) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    port = free_port()
    with TemporaryDirectory(prefix="habeas-bench-bare-") as name:
        process = spawn([sys.executable, "-m", "benchmarks.bare", f"{name}/bare.sqlite", str(port)], folder)
        try:
            until_healthy(port, process)
            yield port, process
        finally:
            stop([process])

"""Who asks? A process of its own that sends requests over a few connections and notes how long each answer took.

`python -m benchmarks.client` reads one `Job` as JSON from standard input and writes one `Answers` to standard output.
It costs about a tenth of what it measures, so that it is not the bottleneck.
"""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator
from subprocess import PIPE

import msgspec


class Job(msgspec.Struct, frozen=True):
    """What to send: `count` times POST `path`, the body with `{n}` replaced by the number of the request."""

    port: int
    path: str
    body: str
    count: int
    connections: int = 16
    seconds: float = 60.0
    """No request begins after so long."""


class Answers(msgspec.Struct, frozen=True):
    """What came back. `latencies` are in seconds, sorted."""

    seconds: float
    latencies: list[float]
    statuses: dict[int, int]

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def median(self) -> float:
        return self.latencies[len(self.latencies) // 2]


async def ask(job: Job) -> Answers:
    """Run the job in a process of its own."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "benchmarks.client", stdin=PIPE, stdout=PIPE)
    out, _ = await process.communicate(msgspec.json.encode(job))
    return msgspec.json.decode(out, type=Answers)


async def _work(job: Job) -> Answers:
    numbers, statuses, latencies = iter(range(job.count)), Counter[int](), list[float]()
    began = time.perf_counter()
    await asyncio.gather(*(_connection(job, numbers, began, statuses, latencies) for _ in range(job.connections)))
    return Answers(time.perf_counter() - began, sorted(latencies), dict(statuses))


async def _connection(
    job: Job, numbers: Iterator[int], began: float, statuses: Counter[int], latencies: list[float]
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", job.port)
    for number in numbers:
        sent = time.perf_counter()
        if sent - began > job.seconds:
            break
        writer.write(_request(job, number))
        statuses[await _answer(reader)] += 1
        latencies.append(time.perf_counter() - sent)
    writer.close()


def _request(job: Job, number: int) -> bytes:
    body = job.body.replace("{n}", str(number)).encode()
    head = f"POST {job.path} HTTP/1.1\r\nhost: 127.0.0.1:{job.port}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def _answer(reader: asyncio.StreamReader) -> int:
    """Read one answer with Content-Length; return its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length))
    return int(head[9:12])


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(_work(asked))))

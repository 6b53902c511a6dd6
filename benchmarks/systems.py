"""How long does an order take whose 100 systems each answer after half a second?"""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator

from benchmarks.figures import Figure
from benchmarks.house import house
from benchmarks.registers import register, slow_api
from habeas.demo import free_port

DELAY = 0.5


def measure(*, short: bool = False) -> list[Figure]:
    """Return the seconds from the order's acceptance to the last system's receipt."""
    count = 3 if short else 100
    with _slow_server() as base_url:
        systems = {f"system_{number}": slow_api(base_url, number) for number in range(count)}
        with house(register(systems)) as built:
            case = built.open_proven("Søren Østergård", "soeren@example.dk")
            built.until("order.located", 1, 60)
            took = built.moments("order.located")[case] - built.moments("order.accepted")[case]
    return [
        Figure(
            f"{count} systems that answer after {DELAY} s",
            took,
            "s",
            3,
            "≤",
            "from the order accepted to the last system done",
        )
    ]


@contextlib.contextmanager
def _slow_server() -> Iterator[str]:
    """Serve one person for every system, late, from a thread of its own."""
    port, ready, loop = free_port(), threading.Event(), asyncio.new_event_loop()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(DELAY)
                body = json.dumps({"people": [{"id": 1, "email": "soeren@example.dk", "name": "Søren"}]}).encode()
                head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
        writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", port)
        ready.set()
        async with server:
            await server.serve_forever()

    def run() -> None:
        asyncio.set_event_loop(loop)
        task = loop.create_task(serve())
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
        thread.join(10)

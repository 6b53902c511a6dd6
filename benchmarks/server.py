"""What is measured? A process with one, some or all services, wired as `habeas up` and `habeas serve` wire them.

`python -m benchmarks.server` reads one `Plan` as JSON from standard input. What differs from a real installation: letters
are composed but go nowhere except for their codes, one client may ask as often as it likes, and the engine can be held until
SIGUSR1, so that a queue can be filled before it is worked off.
"""

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import uvicorn
from pydantic import SecretStr

import gateway.settings
import services.exporter.settings
import services.intake.settings
import services.locator.settings
from gateway.portal.letters import Letter as ShownLetter
from gateway.server import server_config
from habeas.installation import Installation
from habeas.logs import configure
from habeas.wiring import Demo, Process, ServiceSettings, build, freeze
from services.intake.letters import outbox
from services.intake.letters.compose import Letter
from services.intake.letters.smtp import Sent
from shared.engine import Engine

MANY = 10_000_000
_CODE = re.compile(r"\b(\d{4}) ?(\d{4})\b")


class Plan(msgspec.Struct, frozen=True):
    """What to run. `ports` are those of all services, `names` the ones that this process holds."""

    names: list[str]
    folder: str
    database_url: str
    organisation: str
    ports: dict[str, int]
    secrets: dict[str, str]
    hold: bool = False

    @property
    def port(self) -> int:
        return self.ports["gateway" if "gateway" in self.names else self.names[0]]


async def _send(codes: Path, to: str, letter: Letter, _message_id: str) -> Sent:
    """Leave a letter's one-time code where the measuring process finds it."""
    if found := _CODE.search(letter.text):
        fresh = codes / f".{to}"
        fresh.write_text("".join(found.groups()))
        fresh.rename(codes / to)
    return Sent()


async def _letters() -> Sequence[ShownLetter]:
    return []


def assemble(plan: Plan) -> Process:
    """Wire what the plan says."""
    folder = Path(plan.folder)
    url = {name: f"http://127.0.0.1:{port}" for name, port in plan.ports.items()}
    installation = Installation(
        database_url=plan.database_url, keys=folder / "keys", host="127.0.0.1", port=plan.port,
        intake_url=url["intake"], locator_url=url["locator"], exporter_url=url["exporter"],
        organisations=(plan.organisation,),
    )  # fmt: skip
    settings = ServiceSettings(
        gateway=gateway.settings.Settings(
            public_url=url["gateway"], open_per_minute=MANY, prove_per_minute=MANY, read_per_minute=MANY
        ),
        intake=services.intake.settings.Settings(registers=folder / "registers", public_url=url["gateway"]),
        locator=services.locator.settings.Settings(
            secrets={plan.organisation: {name: SecretStr(text) for name, text in plan.secrets.items()}}
        ),
        exporter=services.exporter.settings.Settings(vault=folder / "vault"),
    )
    return build(
        installation, plan.names, settings=settings, demo=Demo(partial(_send, folder / "codes"), _letters, ("", ""))
    )


def _config(process: Process, plan: Plan) -> uvicorn.Config:
    if "gateway" in process.apps:
        return server_config(process.apps["gateway"], host="127.0.0.1", port=plan.port, lifespan="off", log_config=None)
    return uvicorn.Config(
        process.apps[plan.names[0]], host="127.0.0.1", port=plan.port, lifespan="off", log_config=None,
        access_log=False, proxy_headers=False, ws="none", server_header=False,
    )  # fmt: skip


async def serve(plan: Plan) -> None:
    """Run until SIGTERM."""
    process = assemble(plan)
    held: Engine | None = None
    if plan.hold:
        held, process.engine = process.engine, None
    go = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, go.set)
    async with process.running():
        freeze()
        posting = asyncio.create_task(_post(process, go)) if plan.hold and "intake" in process.apps else None
        releasing = asyncio.create_task(_release(held, go, Path(plan.folder) / "began"))
        await uvicorn.Server(_config(process, plan)).serve()
        releasing.cancel()
        if posting is not None:
            posting.cancel()
        if held is not None:
            await held.stop()


async def _post(process: Process, go: asyncio.Event) -> None:
    """Send letters while the engine that would do so is held: people need their codes."""
    while not go.is_set():
        await outbox.drain(process.apps["intake"].state.desk)
        await asyncio.sleep(0.05)


async def _release(held: Engine | None, go: asyncio.Event, began: Path) -> None:
    await go.wait()
    if held is not None:
        await held.start()
        with contextlib.suppress(FileExistsError):
            began.touch(exist_ok=False)


if __name__ == "__main__":
    configure()
    asyncio.run(serve(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)))

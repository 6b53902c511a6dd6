"""`habeas up`, `habeas demo`, `habeas serve`: start something and stay until interrupted."""

import asyncio
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import structlog
import typer
import uvicorn
from pydantic import ValidationError

from gateway.server import server_config
from habeas import demo_mark
from habeas.installation import Installation
from habeas.keys import KeysMissing
from habeas.logs import configure
from habeas.wiring import ALL, NotConfigured, Process, build, freeze
from services.intake.register import BrokenRegister
from shared.engine import prepare
from shared.migrating import Outdated, check, migrate

Port = Annotated[int, typer.Option("--port", help="Port to listen on.")]
Folder = Annotated[Path, typer.Option("--folder", help="Where the demo keeps its files.")]
Service = Annotated[str, typer.Argument(metavar="NAME", help="gateway, intake, locator or exporter.")]


def up() -> None:
    """Start the whole suite in one process on one SQLite file (HABEAS_DATABASE_URL), for a real organisation.

    Needs HABEAS_KEYS, HABEAS_INTAKE_REGISTERS, HABEAS_INTAKE_PUBLIC_URL, HABEAS_EXPORTER_VAULT and a mail server.
    """
    installation = _installation()
    if not installation.embedded:
        raise _refused(
            "`habeas up` runs on one SQLite file; for PostgreSQL start each service with `habeas serve NAME`"
        )
    try:
        demo_mark.refuse(installation.url)
    except demo_mark.WrongDatabase as error:
        raise _refused(str(error)) from None
    from habeas.owners import OWNERS

    migrate(installation.url, OWNERS)
    prepare(installation.url)
    _run(_built(installation, ALL))


def serve(name: Service) -> None:
    """Start one service over HTTP; any number of each can run on one PostgreSQL."""
    if name not in ALL:
        raise _refused("NAME must be gateway, intake, locator or exporter")
    installation = _installation()
    if installation.embedded:
        raise _refused("services that run apart need PostgreSQL; one process on SQLite is `habeas up`")
    from habeas import roles
    from habeas.owners import OWNERS

    try:
        check(installation.url, OWNERS)
    except Outdated as error:
        raise _refused(str(error)) from None
    if roles.passes_by_security(installation.url):
        typer.secho(
            f"Warning: this database role passes by row-level security; use {roles.role(name)} (docs/install.md).",
            err=True, fg=typer.colors.YELLOW,
        )  # fmt: skip
    _run(_built(installation, [name]))


def demo(port: Port = 8000, folder: Folder = Path("var/demo")) -> None:
    """Start the demo: an invented IT provider, 1,000 customers, four systems, on this machine alone."""
    from habeas import demo as demo_

    try:
        process, tickets = demo_.set_up(folder.resolve(), port)
    except (demo_mark.WrongDatabase, demo_.NotACheckout) as error:
        raise _refused(str(error)) from None
    with demo_.ticket_program(folder.resolve(), tickets):
        _run(process, welcome=demo_.welcome(port))


def _installation() -> Installation:
    try:
        return Installation()
    except ValidationError as error:
        raise _missing(error, "HABEAS_") from None


def _built(installation: Installation, names: Sequence[str]) -> Process:
    try:
        return build(installation, names)
    except ValidationError as error:
        raise _missing(error, f"HABEAS_{error.title.upper()}_") from None
    except (KeysMissing, NotConfigured) as error:
        raise _refused(str(error)) from None


def _missing(error: ValidationError, prefix: str) -> typer.Exit:
    wrong = [f"  {prefix}{'_'.join(map(str, item['loc'])).upper()}: {item['msg']}" for item in error.errors()]
    return _refused("settings are missing or wrong (docs/settings.md):\n" + "\n".join(wrong))


def _refused(message: str) -> typer.Exit:
    typer.secho(message, err=True, fg=typer.colors.RED)
    return typer.Exit(2)


def _run(process: Process, welcome: str | None = None) -> None:
    configure()
    try:
        asyncio.run(_serve(process, welcome))
    except BrokenRegister as error:
        raise _refused(f"{error.detail}\nAll of them: habeas check-register FILE") from None


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would raise them again before what runs beside it is put away."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(process: Process, welcome: str | None) -> None:
    where = {"host": process.installation.host, "port": process.installation.port}
    if "gateway" in process.apps:
        config = server_config(process.apps["gateway"], **where, lifespan="off", log_config=None)  # type: ignore[arg-type]
    else:
        (app,) = process.apps.values()
        config = uvicorn.Config(
            app, **where, lifespan="off", log_config=None, access_log=False, proxy_headers=False, ws="none",  # type: ignore[arg-type]
            server_header=False, timeout_graceful_shutdown=20,
        )  # fmt: skip
    server = _Server(config)
    for stop in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(stop, server.handle_exit, stop, None)
    async with process.running():
        serving = asyncio.create_task(server.serve())
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn tells in no other way
            await asyncio.sleep(0.02)
        freeze()
        if welcome and server.started:
            typer.echo(welcome)
        await serving
    if not server.started:
        structlog.get_logger().error("could not listen", port=process.installation.port)
        raise typer.Exit(1)

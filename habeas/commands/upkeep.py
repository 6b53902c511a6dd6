"""`habeas keys`, `habeas migrate`, `habeas account`, `habeas audit verify`, `habeas bounce`, `habeas health`: an operator's errands."""

import asyncio
import http.client
import sys
from pathlib import Path
from typing import Annotated

import typer

from habeas import keys as keyring
from habeas.commands.running import _installation, _refused
from habeas.keys import Keys, KeysMissing, create
from shared import ledger
from shared.clock import utc_now
from shared.database import Database
from shared.engine import prepare
from shared.vocabulary import Role

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="The key folder; it must not exist, except with --rotate.")
]
Organisation = Annotated[str, typer.Argument(metavar="ORGANISATION", help="The organisation's id in its register.")]


def keys(
    folder: Folder,
    rotate: Annotated[  # noqa: FBT002 - typer makes a flag of it
        bool, typer.Option("--rotate", help="Add a new current key to an existing folder; restart the services then.")
    ] = False,
) -> None:
    """Make the key folder of an installation. Back it up apart from the database: without it nothing can be read."""
    if rotate:
        try:
            keyring.rotate(folder)
        except KeysMissing as error:
            raise _refused(str(error)) from None
        typer.echo(f"New values will be sealed with new keys. Keep {folder} whole: the old keys open the old values.")
        return
    try:
        create(folder)
    except FileExistsError:
        raise _refused(f"{folder} exists already; keys are never overwritten") from None
    typer.echo(f"Made {folder}. Set HABEAS_KEYS={folder.resolve()} and back it up apart from the database.")


def migrate(
    role_folder: Annotated[
        Path | None,
        typer.Option(
            "--roles",
            metavar="FOLDER",
            help="PostgreSQL: also make each service's role, with the passwords in FOLDER/gateway, …/intake, ….",
        ),
    ] = None,
) -> None:
    """Bring the database's tables to this version; on PostgreSQL also grant each service's role what it needs."""
    from habeas import roles
    from habeas.owners import OWNERS
    from shared import migrating

    url = _installation().url
    migrating.migrate(url, OWNERS)
    prepare(url)
    if role_folder is not None:
        try:
            roles.make(url, role_folder)
        except roles.NoPassword as error:
            raise _refused(str(error)) from None
    granted = roles.grant(url)
    typer.echo("The tables are at this version." + (f" Granted: {', '.join(granted)}." if granted else ""))


def account(
    organisation: Organisation,
    username: Annotated[str, typer.Argument(metavar="USERNAME", help="The name to sign in with.")],
    role: Annotated[list[Role], typer.Option("--role", help="May be given several times.")],
    password: Annotated[
        str, typer.Option(prompt=True, hide_input=True, confirmation_prompt=True, help="At least 12 characters.")
    ],
) -> None:
    """Create a handler's account; the first administrator is made here, others through the API."""
    asyncio.run(_account(organisation, username, role, password))
    typer.echo(f"{username} can sign in at POST /v1/{organisation}/token.")


async def _account(organisation: str, username: str, roles: list[Role], password: str) -> None:
    from gateway.accounts import Passwords, create_account
    from shared.problems import Problem

    database = Database(_installation().url)
    try:
        hashed = await Passwords().hash(username, password)
        async with database.write(organisation) as session:
            await create_account(
                session, organisation=organisation, username=username, password_hash=hashed, roles=roles,
                actor="operator", now=utc_now(),
            )  # fmt: skip
    except Problem as problem:
        raise _refused(problem.detail) from None
    finally:
        await database.close()


def audit_verify(organisation: Organisation) -> None:
    """Walk an organisation's ledger and check every link of its chain. Exit code 1 if it was changed."""
    installation = _installation()

    async def walk() -> ledger.Verdict:
        database = Database(installation.url)
        try:
            return await ledger.verify(database, organisation, Keys("intake", installation.keys).ledger_key())
        finally:
            await database.close()

    verdict = asyncio.run(walk())
    if not verdict.whole:
        typer.secho(f"Broken at entry {verdict.broken_at}: it was changed, removed or put in.", fg=typer.colors.RED)
        raise typer.Exit(1)
    typer.echo(f"Whole: {verdict.sealed} entries in one chain, {verdict.unsealed} not sealed yet.")


def bounce(organisation: Organisation) -> None:
    """Read a returned letter (RFC 3464) from standard input and note it on its case; for a mail server's alias.

    Exit code 1 if it is not a returned letter of ours.
    """
    from services.intake.letters.outbox import bounced
    from services.intake.letters.smtp import MAX_BOUNCE, parse_bounce

    message_id = parse_bounce(sys.stdin.buffer.read(MAX_BOUNCE))
    letter = (message_id or "").strip("<>").partition("@")[0]
    url = _installation().url

    async def note() -> bool:
        database = Database(url)
        try:
            return await bounced(database, organisation, letter, at=utc_now())
        finally:
            await database.close()

    if not letter or not asyncio.run(note()):
        raise typer.Exit(1)


def health(
    port: Annotated[int, typer.Option("--port", envvar="HABEAS_PORT", help="Port to ask on this machine.")] = 8000,
) -> None:
    """Ask the service on this machine whether it lives. Exit code 1 if not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", "/health", headers={"host": "127.0.0.1"})
        well = connection.getresponse().status == http.client.OK
    except OSError:
        well = False
    finally:
        connection.close()
    if not well:
        raise typer.Exit(1)

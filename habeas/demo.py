"""What does `habeas demo` set up? An invented IT provider with four systems, on this machine alone."""

import asyncio
import contextlib
import secrets
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr

import gateway.settings
import services.exporter.settings
import services.intake.settings
import services.locator.settings
from gateway.accounts import Passwords, create_account
from gateway.portal.letters import Letter as ShownLetter
from habeas import demo_data, demo_mark, keys
from habeas.installation import Installation
from habeas.owners import OWNERS
from habeas.wiring import Demo, Process, ServiceSettings, build
from services.intake.letters.compose import Letter
from services.intake.letters.smtp import Sent
from shared.clock import utc_now
from shared.database import Database
from shared.engine import prepare
from shared.migrating import migrate
from shared.vocabulary import Role

ORGANISATION = "nordlys"
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MOST_LETTERS = 500


class Account(NamedTuple):
    """Somebody who works at the demo organisation. The password is no secret: the demo listens on loopback alone."""

    username: str
    password: str
    roles: tuple[Role, ...]


PASSWORD = "nordlys-demo-2026"  # noqa: S105 - no secret: the demo listens on loopback alone
ACCOUNTS = (
    Account("anna", PASSWORD, (Role.HANDLER,)),
    Account("bent", PASSWORD, (Role.HANDLER,)),
    Account("dorte", PASSWORD, (Role.DPO, Role.AUDITOR)),
    Account("admin", PASSWORD, (Role.ADMINISTRATOR,)),
)


class NotACheckout(RuntimeError):
    """The demo's register and ticket program lie in `examples/`: run it from a checkout of the project."""


class Mailbox:
    """Letters that would have been sent, newest first; for the page `/demo/letters`."""

    def __init__(self) -> None:
        self._letters: deque[ShownLetter] = deque(maxlen=MOST_LETTERS)

    async def send(self, to: str, letter: Letter, message_id: str) -> Sent:
        shown = ShownLetter(
            id=message_id.strip("<>").partition("@")[0],
            to=to,
            subject=letter.subject,
            text=letter.text,
            sent_at=utc_now().isoformat(timespec="seconds"),
            html=letter.html,
        )
        self._letters.appendleft(shown)
        return Sent()

    async def letters(self) -> Sequence[ShownLetter]:
        return list(self._letters)


def set_up(folder: Path, port: int) -> tuple[Process, str]:
    """Make (or find again) the demo in `folder`; return its process and the ticket program's token.

    Raises `WrongDatabase` if another database lies there.
    """
    if not (EXAMPLES / "registers" / "demo.yaml").is_file():
        raise NotACheckout("the demo needs the folder examples/: run it from a checkout of the project")
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / "habeas.sqlite"
    first = not database.exists()
    demo_mark.put(database)
    url = f"sqlite+aiosqlite:///{database}"
    migrate(url, OWNERS)
    prepare(url)
    if not (folder / "keys").exists():
        keys.create(folder / "keys")
    if not (folder / "tickets.json").exists():
        demo_data.write(folder)
    if first:
        asyncio.run(_accounts(url))
    return _process(folder, url, port)


async def _accounts(url: str) -> None:
    database, passwords = Database(url), Passwords()
    for account in ACCOUNTS:
        hashed = await passwords.hash(account.username, account.password)
        async with database.write(ORGANISATION) as session:
            await create_account(
                session, organisation=ORGANISATION, username=account.username, password_hash=hashed,
                roles=account.roles, actor="operator", now=utc_now(),
            )  # fmt: skip
    await database.close()


def _process(folder: Path, url: str, port: int) -> tuple[Process, str]:
    token, ticket_port = secrets.token_urlsafe(24), free_port()
    registers = folder / "registers"
    registers.mkdir(exist_ok=True)
    declared = (EXAMPLES / "registers" / "demo.yaml").read_text(encoding="utf-8")
    register = declared.replace("http://127.0.0.1:8701", f"http://127.0.0.1:{ticket_port}")
    (registers / "nordlys.yaml").write_text(register, encoding="utf-8")
    public_url, mailbox = f"http://127.0.0.1:{port}", Mailbox()
    settings = ServiceSettings(
        gateway=gateway.settings.Settings(public_url=public_url, hosts=("localhost",)),
        intake=services.intake.settings.Settings(
            registers=registers,
            public_url=public_url,
            webhook_networks=("127.0.0.0/8", "::1/128"),
        ),
        locator=services.locator.settings.Settings(
            secrets={
                ORGANISATION: {
                    "crm_url": SecretStr(f"sqlite+aiosqlite:///{folder / 'crm.sqlite'}"),
                    "invoices_url": SecretStr(f"sqlite+aiosqlite:///{folder / 'invoices.sqlite'}"),
                    "tickets_token": SecretStr(token),
                }
            }
        ),
        exporter=services.exporter.settings.Settings(vault=folder / "vault"),
    )
    installation = Installation(
        database_url=url, keys=folder / "keys", host="127.0.0.1", port=port, organisations=(ORGANISATION,)
    )
    person = (demo_data.HERO.name, demo_data.HERO.email)
    process = build(installation, settings=settings, demo=Demo(mailbox.send, mailbox.letters, person))
    return process, f"{ticket_port}:{token}"


def free_port() -> int:
    """Return a port on loopback that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def ticket_program(folder: Path, where: str) -> Iterator[None]:
    """Run the example ticket program beside the demo, and end it with it."""
    port, _, token = where.partition(":")
    command = [sys.executable, str(EXAMPLES / "ticket_api.py"), "--data", str(folder / "tickets.json"), "--port", port]
    with subprocess.Popen([*command, "--token", token], stdout=subprocess.DEVNULL) as program:  # noqa: S603
        try:
            yield
        finally:
            program.terminate()


def welcome(port: int) -> str:
    """Return what the terminal says: where to click, and how to sign in."""
    url = f"http://127.0.0.1:{port}"
    people = "\n".join(
        f"    {account.username:<6} {account.password:<18} {', '.join(account.roles)}" for account in ACCOUNTS
    )
    return f"""
  Habeas demo: Nordlys IT ApS (invented), on this machine alone.

  As a person      {url}/{ORGANISATION}
                   ask as {demo_data.HERO.name}, {demo_data.HERO.email}
  Their letters    {url}/demo/letters
                   the code comes here instead of by mail
  As a handler     JSON API under {url}/v1/{ORGANISATION}; sign in at POST /token with
{people}
                   docs/walk.md shows one request from beginning to end with curl

  Stop with Ctrl-C.
"""

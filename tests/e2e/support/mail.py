"""The mail server of the tests: a real one that insists on STARTTLS, and the mailboxes behind it."""

import re
import ssl
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP
from cryptography.x509 import IPAddress

from tests.e2e.support.processes import free_port, until
from tests.support.certificates import self_signed

CODE = re.compile(r"(?<![\w-])(\d{4})[ \u00a0]?(\d{4})(?![\w-])")


@dataclass
class Letter:
    """A letter as its addressee reads it."""

    to: str
    subject: str
    text: str
    html: str


@dataclass
class Mailboxes:
    """Everything that arrived, oldest first."""

    letters: list[Letter] = field(default_factory=list)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        del server
        assert session.ssl is not None, "a letter came in clear"
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        bodies = [part.get_content() for part in message.iter_parts()]
        self.letters += [Letter(to, message["Subject"], bodies[0], bodies[1]) for to in envelope.rcpt_tos]
        return "250 OK"

    def to(self, address: str) -> list[Letter]:
        """Letters to an address, in any spelling."""
        return [letter for letter in list(self.letters) if letter.to.casefold() == address.casefold()]

    def wait(self, address: str, containing: str, *, after: int = 0, seconds: float = 30) -> Letter:
        """Wait for a letter that says something; the first `after` letters to this address do not count."""

        def found() -> Letter | None:
            return next((one for one in self.to(address)[after:] if containing in one.subject + one.text), None)

        return until(found, seconds=seconds, why="the letter did not come")

    def code(self, address: str, reference: str, *, after: int = 0) -> str:
        """Wait for the newest one-time code for a request."""

        def found() -> str | None:
            letters = [one for one in self.to(address)[after:] if reference in one.subject + one.text]
            codes = [match for one in letters for match in CODE.finditer(one.text.replace(reference, ""))]
            return "".join(codes[-1].groups()) if codes else None

        return until(found, why="the code did not come")


class MailServer:
    """Listens on loopback in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.boxes = Mailboxes()
        self.authorities = folder / "mail-authority.pem"
        context = _certificate(folder, self.authorities)
        boxes = self.boxes

        class _Controller(Controller):
            def factory(self) -> SMTP:
                return SMTP(boxes, tls_context=context, require_starttls=True, enable_SMTPUTF8=True)

        self.port = free_port()
        self._controller = _Controller(boxes, hostname="127.0.0.1", port=self.port)
        self._controller.start()

    def stop(self) -> None:
        self._controller.stop()


def _certificate(folder: Path, authorities: Path) -> ssl.SSLContext:
    private = folder / "mail-key.pem"
    self_signed(authorities, private, "mail.fjordnet.example", IPAddress(ip_address("127.0.0.1")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authorities, private)
    return context

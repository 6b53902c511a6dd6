"""The mail server of the tests: a real one that insists on STARTTLS, and the mailboxes behind it."""

import re
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.e2e.support.processes import free_port, until

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
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail.fjordnet.example")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    authorities.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = folder / "mail-key.pem"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authorities, private)
    return context

"""The one door to SMTP, against a real mail server (aiosmtpd) with and without TLS."""

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult
from cryptography.x509 import IPAddress

from services.intake.letters.compose import Letter
from services.intake.letters.smtp import Failed, Sent, SmtpSettings, send
from tests.support.certificates import self_signed

LETTER = Letter(
    "Svaret på din anmodning 7KQ4-M2XB-9", "Kære Søren\n" + "æ" * 300 + "\n", "<p>Kære Søren</p>", "Nordlys, IT ApS", "privatliv@nordlys.example"
)  # fmt: skip
MESSAGE_ID = "<0199aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee@nordlys.example>"
NOW = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)


@dataclass
class Mailbox:
    """A handler that keeps what arrives, and answers as told."""

    rcpt: str = "250 OK"
    data: str = "250 OK"
    mail: str = "250 OK"
    envelopes: list[Any] = field(default_factory=list)

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        envelope.mail_from = address
        return self.mail

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if self.rcpt.startswith("2"):
            envelope.rcpt_tos.append(address)
        return self.rcpt

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.envelopes.append((envelope, session.ssl is not None))
        return self.data

    def message(self) -> EmailMessage:
        ((envelope, _secure),) = self.envelopes
        found = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(found, EmailMessage)
        return found

    def bodies(self) -> list[str]:
        return [part.get_content().replace("\r\n", "\n") for part in self.message().iter_parts()]


class Server(Controller):
    def __init__(self, handler: Mailbox, *, utf8: bool = True, **options: Any) -> None:
        self.options = {"enable_SMTPUTF8": utf8, **options}
        super().__init__(handler, hostname="127.0.0.1", port=free_port())

    def factory(self) -> SMTP:
        return SMTP(self.handler, **self.options)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-made certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("smtp")
    files = folder / "certificate.pem", folder / "key.pem"
    self_signed(*files, "mail.example", IPAddress(ip_address("127.0.0.1")))
    return files


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def server(mailbox: Mailbox, tls: ssl.SSLContext) -> Iterator[Server]:
    """A server that offers STARTTLS."""
    running = Server(mailbox, tls_context=tls)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def plain(mailbox: Mailbox) -> Iterator[Server]:
    """A server that knows no TLS."""
    running = Server(mailbox)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def settings(server: Server, certificate: tuple[Path, Path]) -> SmtpSettings:
    return SmtpSettings("127.0.0.1", "habeas@nordlys.example", server.port, authorities=certificate[0], timeout=5)


async def deliver(settings: SmtpSettings, to: str = "soren@example.dk", letter: Letter = LETTER) -> Sent | Failed:
    return await send(settings, to, letter, MESSAGE_ID, clock=lambda: NOW)


async def test_a_letter_arrives_over_tls_in_both_forms(settings: SmtpSettings, mailbox: Mailbox) -> None:
    assert await deliver(settings) == Sent()
    ((envelope, secure),) = mailbox.envelopes
    assert secure
    assert (envelope.mail_from, envelope.rcpt_tos) == ("habeas@nordlys.example", ["soren@example.dk"])
    message = mailbox.message()
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert mailbox.bodies() == [LETTER.text, LETTER.html + "\n"]


async def test_its_headers_say_who_writes_and_that_no_robot_need_answer(
    settings: SmtpSettings, mailbox: Mailbox
) -> None:
    await deliver(settings)
    headers = {name: str(value) for name, value in mailbox.message().items()}
    assert headers["Subject"] == "Svaret på din anmodning 7KQ4-M2XB-9"
    assert headers["From"] == '"Nordlys, IT ApS" <habeas@nordlys.example>'
    assert headers["To"] == "soren@example.dk"
    assert headers["Reply-To"] == '"Nordlys, IT ApS" <privatliv@nordlys.example>'
    assert headers["Message-ID"] == MESSAGE_ID
    assert headers["Auto-Submitted"] == "auto-generated"
    assert headers["Date"] == "Thu, 05 Mar 2026 09:00:00 +0000"


async def test_a_server_without_starttls_gets_nothing(plain: Server, settings: SmtpSettings, mailbox: Mailbox) -> None:
    outcome = await deliver(replace(settings, port=plain.port))
    assert outcome == Failed("no-starttls", permanent=False)
    assert mailbox.envelopes == []


async def test_the_demo_may_send_without_tls(plain: Server, settings: SmtpSettings, mailbox: Mailbox) -> None:
    assert await deliver(replace(settings, port=plain.port, encryption="none")) == Sent()
    assert mailbox.message()["To"] == "soren@example.dk"


async def test_a_certificate_that_nobody_vouches_for_is_refused(settings: SmtpSettings, mailbox: Mailbox) -> None:
    outcome = await deliver(replace(settings, authorities=None))
    assert outcome == Failed("bad-certificate", permanent=False)
    assert mailbox.envelopes == []


async def test_a_certificate_for_another_name_is_refused(settings: SmtpSettings, mailbox: Mailbox) -> None:
    outcome = await deliver(replace(settings, host="localhost"))
    assert outcome == Failed("bad-certificate", permanent=False)
    assert mailbox.envelopes == []


async def test_tls_from_the_first_byte_works_too(settings: SmtpSettings, mailbox: Mailbox, tls: ssl.SSLContext) -> None:
    running = Server(mailbox)
    running.ssl_context = tls
    running.start()
    try:
        assert await deliver(replace(settings, port=running.port, encryption="tls")) == Sent()
    finally:
        running.stop()


@pytest.mark.parametrize(
    ("stage", "answer", "outcome"),
    [
        ("rcpt", "550 5.1.1 soren@example.dk: no such user", Failed("recipient-refused-550", permanent=True)),
        ("rcpt", "451 4.7.1 Greylisted", Failed("recipient-refused-451", permanent=False)),
        ("rcpt", "452 4.2.2 Mailbox full", Failed("recipient-refused-452", permanent=False)),
        ("data", "554 5.7.1 Looks like spam", Failed("message-refused-554", permanent=True)),
        ("data", "451 4.3.0 Try later", Failed("message-refused-451", permanent=False)),
        ("mail", "553 5.7.1 Not your domain", Failed("sender-refused-553", permanent=False)),
    ],
)
async def test_what_the_server_says_decides_whether_to_try_again(
    settings: SmtpSettings, mailbox: Mailbox, stage: str, answer: str, outcome: Failed
) -> None:
    setattr(mailbox, stage, answer)
    assert await deliver(settings) == outcome


async def test_a_server_that_is_not_there_is_tried_again(settings: SmtpSettings) -> None:
    assert await deliver(replace(settings, port=free_port())) == Failed("unreachable", permanent=False)


async def test_a_server_that_never_answers_is_tried_again(settings: SmtpSettings) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        deaf = replace(settings, port=silent.getsockname()[1], timeout=0.2)
        assert await deliver(deaf) == Failed("unreachable", permanent=False)


async def test_we_sign_in_only_over_tls_and_a_wrong_password_is_tried_again(
    settings: SmtpSettings, mailbox: Mailbox, tls: ssl.SSLContext
) -> None:
    def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=data.login == b"habeas" and data.password == b"rigtig", handled=False)

    running = Server(mailbox, tls_context=tls, authenticator=authenticate, auth_required=True, auth_require_tls=True)
    running.start()
    right = replace(settings, port=running.port, username="habeas", password="rigtig")
    try:
        assert await deliver(replace(right, password="forkert")) == Failed("not-signed-in", permanent=False)
        assert mailbox.envelopes == []
        assert await deliver(right) == Sent()
    finally:
        running.stop()
    assert "rigtig" not in repr(right)


@pytest.mark.parametrize(
    "to",
    [
        "",
        "soren",
        "soren@example.dk\r\nBcc: evil@example.org",
        "soren@example.dk\nRCPT TO:<evil@example.org>",
        "soren@example.dk>\r\nDATA\r\n",
        "soren@example.dk, evil@example.org",
        "soren@example.dk evil@example.org",
        "<soren@example.dk>",
        "Søren <soren@example.dk>",
        '"soren\r\nRSET"@example.dk',
        "soren@example.dk\x00",
        "soren@\u2028example.dk",
        "@evil.example:soren@example.dk",
        "soren@[127.0.0.1]",
        "a" * 400 + "@example.dk",
    ],
)
async def test_what_is_not_one_address_reaches_no_server(settings: SmtpSettings, mailbox: Mailbox, to: str) -> None:
    assert await deliver(settings, to) == Failed("bad-address", permanent=True)
    assert mailbox.envelopes == []


@pytest.mark.parametrize(
    "broken",
    [
        replace(LETTER, subject="Svar\r\nBcc: evil@example.org"),
        replace(LETTER, sender_name="Nordlys\r\nBcc: evil@example.org"),
        replace(LETTER, reply_to="privatliv@nordlys.example\r\nBcc: evil@example.org"),
        replace(LETTER, reply_to="nobody"),
    ],
)
async def test_a_header_cannot_be_smuggled_in(settings: SmtpSettings, mailbox: Mailbox, broken: Letter) -> None:
    assert await deliver(settings, letter=broken) == Failed("bad-letter", permanent=True)
    assert mailbox.envelopes == []


@pytest.mark.parametrize("message_id", ["", "x", "<x>", "<x@y>\r\nBcc: evil@example.org", "<x y@z>"])
async def test_a_message_id_must_be_one(settings: SmtpSettings, mailbox: Mailbox, message_id: str) -> None:
    assert await send(settings, "soren@example.dk", LETTER, message_id) == Failed("bad-letter", permanent=True)
    assert mailbox.envelopes == []


async def test_a_line_with_a_dot_does_not_end_the_letter(settings: SmtpSettings, mailbox: Mailbox) -> None:
    text = "Hej\n.\nMAIL FROM:<evil@example.org>\nRCPT TO:<evil@example.org>\n"
    assert await deliver(settings, letter=replace(LETTER, text=text)) == Sent()
    assert mailbox.bodies()[0] == text


async def test_a_danish_domain_goes_out_in_ascii(settings: SmtpSettings, mailbox: Mailbox) -> None:
    assert await deliver(settings, "kontakt@smørrebrød.dk") == Sent()
    ((envelope, _secure),) = mailbox.envelopes
    assert envelope.rcpt_tos == ["kontakt@xn--smrrebrd-64af.dk"]


async def test_an_international_mailbox_needs_a_server_that_knows_them(
    settings: SmtpSettings, mailbox: Mailbox, tls: ssl.SSLContext
) -> None:
    assert await deliver(settings, "søren@example.dk") == Sent()
    assert mailbox.message()["To"] == "søren@example.dk"
    running = Server(mailbox, tls_context=tls, utf8=False)
    running.start()
    try:
        old = replace(settings, port=running.port)
        assert await deliver(old, "søren@example.dk") == Failed("smtputf8", permanent=True)
    finally:
        running.stop()


async def test_neither_address_nor_letter_is_logged(settings: SmtpSettings, mailbox: Mailbox) -> None:
    mailbox.rcpt = "550 soren@example.dk is unknown"
    with structlog.testing.capture_logs() as logs:
        await deliver(settings)
        await deliver(settings, "soren@example.dk\r\n")
    assert logs
    assert not any(secret in str(logs) for secret in ("soren", "example.dk'", "Kære", "Svaret"))

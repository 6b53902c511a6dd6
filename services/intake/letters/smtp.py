"""How does a letter leave, and how is it known that it did not arrive? The one door to SMTP (aiosmtplib).

STARTTLS is required and the certificate checked, unless the demo says otherwise: no server talks us out of it. An
address with a control character, or that is not exactly one address, is refused before anything is opened; headers are
made of parsed addresses by the standard library; only `send_message` is called, with sender and recipient given apart
from the headers (CVE-2026-55558).
"""

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage, Message
from email.utils import format_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import aiosmtplib
import structlog
from email_validator import EmailNotValidError, validate_email

from services.intake.letters.compose import Letter
from shared.clock import Clock, utc_now

MAX_BOUNCE = 256 * 1024
MESSAGE_ID = re.compile(r"<[A-Za-z0-9._-]{1,64}@[A-Za-z0-9.-]{1,255}>")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SmtpSettings:
    """The mail server that takes our letters."""

    host: str
    sender: str
    """The address in From and in the envelope; bounces come back to it."""
    port: int = 587
    encryption: Literal["starttls", "tls", "none"] = "starttls"
    """`starttls` (port 587), `tls` from the first byte (port 465), or `none`: for the demo alone."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout: float = 30
    authorities: Path | None = None
    """Certificate authorities (PEM) to trust instead of the system's."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The server has taken the letter over."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The letter did not leave. `permanent`: sending it again to this address is no use."""

    code: str
    """`bad-address`, `bad-letter`, `unreachable`, `no-starttls`, `bad-certificate`, `not-signed-in`,
    `sender-refused-NNN`, `recipient-refused-NNN`, `message-refused-NNN`, `smtputf8`, `protocol`."""
    permanent: bool


async def send(
    settings: SmtpSettings, to: str, letter: Letter, message_id: str, *, clock: Clock = utc_now
) -> Sent | Failed:
    """Send one letter and return what became of it; nothing is raised, and nothing of address or letter is logged.

    `message_id` is `<id@domain>`; the same for every try, so that a repeated letter is one letter, and `parse_bounce`
    finds it again.
    """
    try:
        recipient = parse_address(to)
    except ValueError:
        return Failed("bad-address", permanent=True)
    try:
        message = _message(settings, recipient, letter, message_id, clock)
    except ValueError:
        return Failed("bad-letter", permanent=True)
    outcome = await _deliver(settings, message, recipient)
    log.info("letter.handed_over" if outcome == Sent() else "letter.failed", letter=message_id, outcome=repr(outcome))
    return outcome


def parse_address(text: str) -> str:
    """Return the one address in `text` as it goes on the wire, its domain in ASCII. Raises ValueError."""
    if not text.isprintable() or len(text) > 320:
        raise ValueError("an address must be one short line")
    try:
        found = validate_email(text, check_deliverability=False, allow_smtputf8=True)
    except EmailNotValidError:
        raise ValueError("an address must be one address such as name@example.dk") from None
    return found.ascii_email or f"{found.local_part}@{found.ascii_domain}"


def parse_bounce(raw: bytes) -> str | None:
    """Return the Message-ID of the letter that a delivery status notification (RFC 3464) says has failed, or None.

    Only the first 256 KiB are read, in memory. A notice of delay is no bounce; anything odd is None.
    """
    try:
        report = message_from_bytes(raw[:MAX_BOUNCE], policy=policy.default)
        if report.get_content_type() != "multipart/report" or not report.is_multipart():
            return None
        parts = list(report.iter_parts())[:8]
        return _returned_id(parts) if any(map(_says_failed, parts)) else None
    except (MessageError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return None


def _message(settings: SmtpSettings, recipient: str, letter: Letter, message_id: str, clock: Clock) -> EmailMessage:
    if not MESSAGE_ID.fullmatch(message_id):
        raise ValueError("a Message-ID must be <id@domain>")
    sender = parse_address(settings.sender)
    message = EmailMessage(policy=policy.SMTP)
    message["From"] = _mailbox(letter.sender_name, sender)
    message["To"] = _mailbox("", recipient)
    message["Reply-To"] = _mailbox(letter.sender_name, parse_address(letter.reply_to))
    message["Subject"] = letter.subject
    message["Date"] = format_datetime(clock())
    message["Message-ID"] = message_id
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(letter.text)
    message.add_alternative(letter.html, subtype="html")
    return message


def _mailbox(name: str, address: str) -> Address:
    local, _, domain = address.rpartition("@")
    return Address(name, username=local, domain=domain)


async def _deliver(settings: SmtpSettings, message: EmailMessage, recipient: str) -> Sent | Failed:
    try:
        async with _client(settings) as client:
            await _secure(settings, client)
            await client.send_message(message, sender=parse_address(settings.sender), recipients=[recipient])
    except (aiosmtplib.SMTPException, ssl.SSLError, OSError) as error:
        return _failure(error)
    return Sent()


def _client(settings: SmtpSettings) -> aiosmtplib.SMTP:
    return aiosmtplib.SMTP(
        hostname=settings.host,
        port=settings.port,
        use_tls=settings.encryption == "tls",
        start_tls=False,  # `_secure` does it, and knows what a refusal means
        timeout=settings.timeout,
        tls_context=_tls(settings.authorities),
    )


class _NoStartTls(aiosmtplib.SMTPException):
    """The server does not offer STARTTLS, or somebody on the way hides that it does."""


async def _secure(settings: SmtpSettings, client: aiosmtplib.SMTP) -> None:
    if settings.encryption == "starttls":
        await client.ehlo()
        if not client.supports_extension("starttls"):
            raise _NoStartTls("no STARTTLS")
        await client.starttls()
    if settings.username is not None:
        await client.login(settings.username, settings.password or "")


@lru_cache(maxsize=4)
def _tls(authorities: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _failure(error: Exception) -> Failed:
    """Say what went wrong in a closed list of words: a server's answer may repeat the address."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused) and error.recipients:
        error = error.recipients[0]
    for kind, what in _REFUSED.items():
        if isinstance(error, kind):
            return _refused(what, error.code)
    if _is_certificate(error):
        return Failed("bad-certificate", permanent=False)
    for other, code in _OTHERWISE.items():
        if isinstance(error, other):
            return Failed(code, permanent=other is aiosmtplib.SMTPNotSupported)
    return Failed("protocol", permanent=False)


_REFUSED: dict[type[aiosmtplib.SMTPResponseException], str] = {
    aiosmtplib.SMTPRecipientRefused: "recipient",
    aiosmtplib.SMTPSenderRefused: "sender",
    aiosmtplib.SMTPDataError: "message",
}
_OTHERWISE: dict[type[Exception], str] = {
    _NoStartTls: "no-starttls",
    aiosmtplib.SMTPNotSupported: "smtputf8",
    aiosmtplib.SMTPAuthenticationError: "not-signed-in",
    OSError: "unreachable",  # also a lost connection and a timeout
}


def _refused(what: str, code: int) -> Failed:
    # 5xx is final (RFC 5321 §4.2.1), except that a refused sender is our own setting and will be mended.
    return Failed(f"{what}-refused-{code}", permanent=500 <= code < 600 and what != "sender")


def _is_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _says_failed(part: Message) -> bool:
    if part.get_content_type() != "message/delivery-status":
        return False
    blocks = part.get_payload()
    return isinstance(blocks, list) and any(
        isinstance(block, Message) and str(block.get("Action", "")).strip().lower() == "failed" for block in blocks
    )


def _returned_id(parts: Sequence[Message]) -> str | None:
    for part in parts:
        kind = part.get_content_type()
        if kind == "text/rfc822-headers":
            headers: Any = part.get_payload(decode=True)
            return _our_id(message_from_bytes(headers, policy=policy.default))
        if kind == "message/rfc822":
            returned: Any = part.get_payload(0)
            return _our_id(returned)
    return None


def _our_id(returned: Message) -> str | None:
    found = str(returned.get("Message-ID", "")).strip()
    return found if MESSAGE_ID.fullmatch(found) else None

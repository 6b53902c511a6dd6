"""A bounce names the letter that came back; anything else is nobody's business."""

from email.message import EmailMessage

import pytest

from services.intake.letters.smtp import parse_bounce

LETTER = "<0199aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee@nordlys.example>"


def report(
    action: str = "failed", returned: str = "message/rfc822", message_id: str = LETTER, kind: str = "delivery-status"
) -> bytes:
    headers = f"From: privatliv@nordlys.example\r\nMessage-ID: {message_id}\r\nSubject: Din kode\r\n\r\n"
    body = headers + "Hemmeligt indhold\r\n" if returned == "message/rfc822" else headers
    return (
        f"From: mailer-daemon@mx.example\r\nTo: privatliv@nordlys.example\r\nSubject: Undelivered\r\n"
        f'MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type={kind}; boundary="b"\r\n\r\n'
        "--b\r\nContent-Type: text/plain\r\n\r\nSorry.\r\n"
        "--b\r\nContent-Type: message/delivery-status\r\n\r\n"
        "Reporting-MTA: dns; mx.example\r\n\r\n"
        f"Final-Recipient: rfc822; nobody@example.dk\r\nAction: {action}\r\nStatus: 5.1.1\r\n"
        f"--b\r\nContent-Type: {returned}\r\n\r\n{body}\r\n--b--\r\n"
    ).encode()


@pytest.mark.parametrize("returned", ["message/rfc822", "text/rfc822-headers"])
def test_a_failed_delivery_names_its_letter(returned: str) -> None:
    assert parse_bounce(report(returned=returned)) == LETTER


@pytest.mark.parametrize("action", ["delayed", "relayed", "delivered", "expanded", ""])
def test_a_notice_that_nothing_failed_is_no_bounce(action: str) -> None:
    assert parse_bounce(report(action=action)) is None


@pytest.mark.parametrize(
    "message_id",
    ["", "no-brackets@nordlys.example", "<a b@nordlys.example>", "<" + "a" * 300 + "@x>", "<'; drop@x>"],
)
def test_an_odd_message_id_is_nobodys(message_id: str) -> None:
    assert parse_bounce(report(message_id=message_id)) is None


def test_an_ordinary_message_is_no_bounce() -> None:
    message = EmailMessage()
    message["Message-ID"] = LETTER
    message.set_content("Action: failed")
    assert parse_bounce(message.as_bytes()) is None


def test_a_report_without_the_returned_letter_names_nothing() -> None:
    assert parse_bounce(report(returned="text/plain")) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe\x00",
        b"Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\n",
        b"Content-Type: multipart/report\r\n\r\nno boundary",
        b"Content-Type: multipart/report; boundary=b\r\n\r\n" + b"--b\r\nContent-Type: message/rfc822\r\n\r\n" * 4000,
        b'Content-Type: multipart/report; boundary="b"\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n--b--',
        report().replace(b"text/plain", b"text/plain; charset=unknown-8bit"),
        b"Content-Type: message/rfc822\r\n\r\n" * 5000,
    ],
    ids=["empty", "binary", "cut off", "no boundary", "nested", "empty status", "odd charset", "russian doll"],
)
def test_hostile_mail_is_read_without_harm(raw: bytes) -> None:
    assert parse_bounce(raw) in {None, LETTER}


def test_only_the_beginning_of_a_huge_mail_is_read() -> None:
    huge = report().replace(b"Sorry.", b"Sorry. " * 60_000)
    assert len(huge) > 256 * 1024
    assert parse_bounce(huge) is None

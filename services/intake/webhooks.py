"""How does an event reach another system? Standard Webhooks signatures over a CloudEvents-shaped body, ids only."""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from shared.clock import Clock, utc_now
from shared.http import ANY_PORT, EgressClient, EgressFailed, EgressRule

MOST_ASKED = timedelta(days=1)
"""The longest wait that a receiver may ask for."""


@dataclass(frozen=True)
class Endpoint:
    """Where to deliver, and the secret to sign with (`whsec_…`)."""

    url: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class DeliveryResult:
    """What became of one delivery. `gone` (410): the endpoint wants no more; `retry_after`: when it wants to be asked."""

    delivered: bool
    gone: bool = False
    retry_after: timedelta | None = None
    code: str = ""
    """Why not, as an enumerated word: `status-500`, or an `EgressCode`."""


def rule(networks: tuple[str, ...] = ()) -> EgressRule:
    """Return where deliveries may go: any public address over TLS, and those `networks` (CIDR) of the operator's own."""
    return EgressRule(ports=ANY_PORT, networks=networks, read_seconds=15, total_seconds=20)


async def deliver(
    client: EgressClient, endpoint: Endpoint, event: dict[str, Any], *, clock: Clock = utc_now
) -> DeliveryResult:
    """Deliver a cloud event once. The caller keeps order, counts failures and waits; `event["id"]` stays on a repeat.

    The answer's body is never read. `event` is serialised once, and those bytes are signed and sent.
    """
    body = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    timestamp = int(clock().timestamp())
    headers = {
        "content-type": "application/cloudevents+json",
        "webhook-id": event["id"],
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(endpoint.secret, event["id"], timestamp, body),
    }
    try:
        async with client.stream("POST", endpoint.url, headers=headers, content=body) as reply:
            return _result(reply.status, reply.headers, clock())
    except EgressFailed as failed:
        return DeliveryResult(delivered=False, code=failed.code.value)


def _result(status: int, headers: Mapping[str, str], now: datetime) -> DeliveryResult:
    if 200 <= status < 300:
        return DeliveryResult(delivered=True)
    wait = _asked_wait(headers.get("retry-after", ""), now)
    return DeliveryResult(delivered=False, gone=status == 410, retry_after=wait, code=f"status-{status}")


def _asked_wait(text: str, now: datetime) -> timedelta | None:
    """Read `Retry-After` (RFC 9110 §10.2.3): seconds or a date; None if it is neither, or past."""
    if text.isdecimal():
        wait = timedelta(seconds=min(int(text[:9]), int(MOST_ASKED.total_seconds())))
    else:
        try:
            wait = parsedate_to_datetime(text).astimezone(UTC) - now
        except (ValueError, OverflowError):
            return None
    return min(wait, MOST_ASKED) if wait > timedelta() else None


def new_secret() -> str:
    """Return a signing secret as the Standard Webhooks specification writes it."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def cloud_event(
    *,
    id: str,
    organisation: str,
    kind: str,
    case_id: str | None,
    at: datetime,
    seq: int,
    data: dict[str, Any],
) -> dict[str, Any]:
    """Return CloudEvents 1.0 in structured JSON. `seq` lets the receiver see gaps and replay."""
    return {
        "specversion": "1.0",
        "id": id,
        "source": f"urn:habeas:{organisation}",
        "type": f"habeas.{kind}.v1",
        "subject": case_id,
        "time": at.isoformat(),
        "datacontenttype": "application/json",
        "seq": seq,
        "data": data,
    }


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the `webhook-signature` header: `v1,` and the base64 HMAC-SHA256 over `id.timestamp.body`."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()

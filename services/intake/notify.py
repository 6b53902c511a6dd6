"""Who else wants to know? Webhooks: each endpoint has its own cursor over the sealed ledger, so none blocks another.

At least once and in order: the cursor moves only after a 2xx. An endpoint that fails is asked again after a doubling
wait, one that answers 410 is disabled. `GET /events` replays from any `seq`.
"""

from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints
from sqlalchemy import delete, insert, update
from sqlmodel import col, select

from services.intake import webhooks
from services.intake.desk import Desk
from services.intake.tables import Webhook
from shared import ledger
from shared.database import WriteSession
from shared.ids import new_id
from shared.ledger import Entry
from shared.problems import Invalid, NotFound

BATCH = 50
LEASE = timedelta(minutes=5)
MOST_WAIT = timedelta(hours=6)
EVENTS = ("case.", "letter.failed", "letter.bounced")
NOT_TOLD = frozenset({"case.read"})


class NewWebhook(BaseModel):
    """An endpoint to tell. Only https, except in the demo."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$", max_length=500)]


def is_event(entry: Entry) -> bool:
    """Whether an entry is told to others; who read what stays inside."""
    return entry.kind.startswith(EVENTS) and entry.kind not in NOT_TOLD


def envelope(entry: Entry) -> dict[str, Any]:
    """Return an entry as a CloudEvent: ids, counts and enums only."""
    assert entry.seq is not None
    return webhooks.cloud_event(
        id=entry.id, organisation=entry.organisation_id, kind=entry.kind, case_id=entry.case_id, at=entry.at,
        seq=entry.seq, data=entry.data,
    )  # fmt: skip


async def add(desk: Desk, organisation: str, new: NewWebhook, *, actor: str) -> dict[str, Any]:
    """Add an endpoint, which is told everything from now on; its secret is shown this once."""
    if not webhooks.rule(desk.settings.webhook_networks).admits(new.url):
        raise Invalid(
            errors=({"pointer": "/url", "detail": "must be https, or lie in a network that the operator allowed"},)
        )
    webhook_id, secret, now = new_id(), webhooks.new_secret(), desk.now()
    async with desk.database.write(organisation) as session:
        newest = select(Entry.seq).where(col(Entry.seq).is_not(None)).order_by(col(Entry.seq).desc()).limit(1)
        cursor = (await session.exec(newest)).first() or 0
        await session.exec(
            insert(Webhook).values(
                id=webhook_id, organisation_id=organisation, cursor=cursor, failures=0, state="active", next_at=now,
                created_at=now,
                url=desk.sealer.seal(organisation, "webhook-url", webhook_id, new.url.encode()),
                secret=desk.sealer.seal(organisation, "webhook-secret", webhook_id, secret.encode()),
            )
        )  # fmt: skip
        await _told(session, desk, organisation, "webhook.added", webhook_id, actor)
    return {"id": webhook_id, "url": new.url, "secret": secret, "after": cursor}


async def listed(desk: Desk, organisation: str) -> list[dict[str, Any]]:
    """Return the endpoints without their secrets."""
    async with desk.database.read(organisation) as session:
        rows = (await session.exec(select(Webhook).order_by(col(Webhook.id)))).all()
    return [
        {"id": row.id, "url": _open(desk, row, "webhook-url", row.url), "state": row.state, "delivered": row.cursor,
         "failures": row.failures}
        for row in rows
    ]  # fmt: skip


async def remove(desk: Desk, organisation: str, webhook_id: str, *, actor: str) -> None:
    """Forget an endpoint. Raises `NotFound`."""
    async with desk.database.write(organisation) as session:
        if (await session.exec(delete(Webhook).where(col(Webhook.id) == webhook_id))).rowcount != 1:
            raise NotFound
        await _told(session, desk, organisation, "webhook.removed", webhook_id, actor)


async def _told(session: WriteSession, desk: Desk, organisation: str, kind: str, webhook_id: str, actor: str) -> None:
    await ledger.record(
        session, organisation_id=organisation, service="intake", kind=kind, actor=actor, at=desk.now(),
        data={"webhook": webhook_id},
    )  # fmt: skip


def _open(desk: Desk, row: Webhook, purpose: str, sealed: bytes) -> str:
    return desk.sealer.open(row.organisation_id, purpose, row.id, sealed).decode()


async def drain(desk: Desk) -> None:
    """Tell every endpoint that is due what it does not know yet. Several processes may run it."""
    now = desk.now()
    async with desk.database.read(None) as session:
        due = select(Webhook).where(Webhook.state == "active", col(Webhook.next_at) <= now)
        rows = (await session.exec(due)).all()
    for row in rows:
        async with desk.database.read(row.organisation_id) as session:
            entries = await ledger.page(session, after=row.cursor, limit=BATCH)
        if entries and await _claim(desk, row):
            await _deliver(desk, row, entries)


async def _claim(desk: Desk, row: Webhook) -> bool:
    async with desk.database.write(row.organisation_id) as session:
        claimed = await session.exec(
            update(Webhook)
            .where(col(Webhook.id) == row.id, col(Webhook.cursor) == row.cursor, col(Webhook.next_at) == row.next_at)
            .values(next_at=desk.now() + LEASE)
        )
    return bool(claimed.rowcount == 1)


async def _deliver(desk: Desk, row: Webhook, entries: list[Entry]) -> None:
    """Deliver until one fails; then remember how far it came and when to go on."""
    endpoint = webhooks.Endpoint(
        _open(desk, row, "webhook-url", row.url), _open(desk, row, "webhook-secret", row.secret)
    )
    cursor, values = row.cursor, {"failures": 0, "next_at": desk.now(), "state": "active"}
    for entry in entries:
        if is_event(entry):
            result = await desk.deliver(endpoint, envelope(entry))
            if not result.delivered:
                wait = result.retry_after or min(MOST_WAIT, timedelta(seconds=5) * 2 ** min(row.failures, 12))
                values = {"failures": row.failures + 1, "next_at": desk.now() + wait,
                          "state": "disabled" if result.gone else "active"}  # fmt: skip
                break
        assert entry.seq is not None
        cursor = entry.seq
    async with desk.database.write(row.organisation_id) as session:
        await session.exec(update(Webhook).where(col(Webhook.id) == row.id).values(cursor=cursor, **values))

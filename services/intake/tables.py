"""Which rows does intake keep? Nothing that names a person lies here in clear: sealed, or as a blind index."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import Index, UniqueConstraint
from sqlmodel import Field

from shared.database import Json, Row, Utc, own_registry
from shared.migrating import Owner


class Base(Row, registry=own_registry()):
    """Intake's own metadata."""


class Case(Base, table=True):
    """One request's life. Changed only through `cases.change`, which checks and raises `version`."""

    __tablename__ = "intake_case"
    __table_args__ = (
        UniqueConstraint("organisation_id", "reference"),
        Index("ix_intake_case_due", "organisation_id", "state", "plan_date", "id"),
        Index("ix_intake_case_contact", "organisation_id", "contact_index", "recorded_at"),
    )

    id: str = Field(primary_key=True, max_length=36)
    reference: str = Field(max_length=12)
    version: int = 1
    right: str = Field(max_length=30)
    state: str = Field(max_length=20)
    outcome: str | None = Field(default=None, max_length=20)
    channel: str = Field(max_length=10)
    language: str = Field(max_length=2)
    urgent: bool = False
    register_version: str = Field(max_length=64)
    received_at: datetime = Field(sa_type=Utc)
    recorded_at: datetime = Field(sa_type=Utc)
    recorded_by: str = Field(max_length=80)
    due: date | None = None
    """The legal date (`effective_due` of deadlines.md); null while the clock is paused."""
    plan_date: date
    """The strictest date: no suspension, no roll. What the work list is ordered by."""
    promise_due: date | None = None
    identity: str = Field(default="unproven", max_length=10)
    """unproven, asked (a person recorded doubt), proven, waived (21(2), 7(3))."""
    identity_by: str | None = Field(default=None, max_length=80)
    awaits_clarification: bool = False
    awaits_task: bool = False
    awaits_approval: bool = False
    person: bytes
    """Sealed JSON: name, email, message."""
    contact_index: str | None = Field(default=None, max_length=64)
    collection_hash: str | None = Field(default=None, max_length=200)
    collection_tries: int = 0
    order_id: str | None = Field(default=None, max_length=36)
    package: str | None = Field(default=None, max_length=10)
    """sealed, collected or destroyed."""
    package_expires: date | None = None
    package_collected_at: datetime | None = Field(default=None, sa_type=Utc)
    closed_at: datetime | None = Field(default=None, sa_type=Utc)


class ClockEvent(Base, table=True):
    """What stopped, resumed or extended a case's clock, in order."""

    __tablename__ = "intake_clock_event"
    __table_args__ = (Index("ix_intake_clock_event_case", "case_id", "at"),)

    id: str = Field(primary_key=True, max_length=36)
    case_id: str = Field(max_length=36)
    kind: str = Field(max_length=10)
    """suspend, resume or extend."""
    at: datetime = Field(sa_type=Utc)
    reason: str | None = Field(default=None, max_length=60)
    actor: str = Field(max_length=80)


class Identifier(Base, table=True):
    """One identifier of a case with its own assurance."""

    __tablename__ = "intake_identifier"
    __table_args__ = (UniqueConstraint("case_id", "type", "value_index"),)

    id: str = Field(primary_key=True, max_length=36)
    case_id: str = Field(max_length=36)
    type: str = Field(max_length=63)
    value: bytes
    value_index: str = Field(max_length=64)
    assurance: int
    proven_by: str | None = Field(default=None, max_length=80)
    at: datetime = Field(sa_type=Utc)


class Code(Base, table=True):
    """A one-time code that went out. The code itself is nowhere: only its salted slow hash."""

    __tablename__ = "intake_code"
    __table_args__ = (
        Index("ix_intake_code_case", "case_id", "sent_at"),
        Index("ix_intake_code_contact", "organisation_id", "contact_index", "sent_at"),
    )

    id: str = Field(primary_key=True, max_length=36)
    case_id: str = Field(max_length=36)
    contact_index: str = Field(max_length=64)
    hash: str = Field(max_length=200)
    sent_at: datetime = Field(sa_type=Utc)
    expires_at: datetime = Field(sa_type=Utc)
    tries: int = 0
    used_at: datetime | None = Field(default=None, sa_type=Utc)


class Key(Base, table=True):
    """An Idempotency-Key that opened a case: the same key and body is the same case."""

    __tablename__ = "intake_key"

    id: str = Field(primary_key=True, max_length=64)
    """Digest of organisation, caller and key."""
    body: str = Field(max_length=64)
    case_id: str = Field(max_length=36)
    at: datetime = Field(sa_type=Utc)


class Letter(Base, table=True):
    """A letter on its way. Written with what it tells, sent in batches, kept as sent or failed."""

    __tablename__ = "intake_letter"
    __table_args__ = (Index("ix_intake_letter_next", "state", "next_at"), Index("ix_intake_letter_case", "case_id"))

    id: str = Field(primary_key=True, max_length=36)
    case_id: str = Field(max_length=36)
    kind: str = Field(max_length=20)
    state: str = Field(default="queued", max_length=10)
    """queued, sent, failed, bounced, throttled, printed (no e-mail address: a handler sends it by post)."""
    facts: bytes | None = None
    """Sealed JSON of what the letter tells beyond the case itself; kept, so that what was told can be shown (5(2))."""
    tries: int = 0
    next_at: datetime = Field(sa_type=Utc)
    at: datetime = Field(sa_type=Utc)
    sent_at: datetime | None = Field(default=None, sa_type=Utc)
    code: str | None = Field(default=None, max_length=40)


class Order(Base, table=True):
    """What intake asked of the locator for a case, and how far that is."""

    __tablename__ = "intake_order"
    __table_args__ = (Index("ix_intake_order_next", "state", "next_at"), Index("ix_intake_order_case", "case_id"))

    id: str = Field(primary_key=True, max_length=36)
    case_id: str = Field(max_length=36)
    verb: str = Field(max_length=10)
    state: str = Field(default="pending", max_length=10)
    """pending → sent → located → releasing → sealed; or cancelled."""
    attempt: int = 1
    next_at: datetime = Field(sa_type=Utc)
    tasks: int | None = None
    released_by: str | None = Field(default=None, max_length=80)
    at: datetime = Field(sa_type=Utc)


class Receipt(Base, table=True):
    """The newest receipt of one task: facts, never what was found."""

    __tablename__ = "intake_receipt"
    __table_args__ = (Index("ix_intake_receipt_order", "order_id"),)

    task_id: str = Field(primary_key=True, max_length=36)
    order_id: str = Field(max_length=36)
    attempt: int
    system: str = Field(max_length=63)
    state: str = Field(max_length=20)
    facts: dict[str, Any] = Field(sa_type=Json)
    at: datetime = Field(sa_type=Utc)


class Decision(Base, table=True):
    """What was decided for one record group, with article and reason."""

    __tablename__ = "intake_decision"
    __table_args__ = (Index("ix_intake_decision_case", "case_id"),)

    id: str = Field(primary_key=True, max_length=36)
    case_id: str = Field(max_length=36)
    order_id: str | None = Field(default=None, max_length=36)
    system: str = Field(max_length=63)
    entity: str = Field(max_length=63)
    purpose: str = Field(max_length=63)
    outcome: str = Field(max_length=20)
    article: str = Field(max_length=20)
    reason: str | None = Field(default=None, max_length=60)
    records: int = 0


class RegisterVersion(Base, table=True):
    """A version of the register that some case may cite."""

    __tablename__ = "intake_register"
    __table_args__ = (UniqueConstraint("organisation_id", "version"),)

    id: str = Field(primary_key=True, max_length=36)
    version: str = Field(max_length=64)
    content: str
    """JSON of `shared.register.Register` in the file's order; it names secrets but holds none."""
    at: datetime = Field(sa_type=Utc)


class Webhook(Base, table=True):
    """An endpoint that is told what happened. Its own cursor: a failing one blocks nobody else."""

    __tablename__ = "intake_webhook"
    __table_args__ = (Index("ix_intake_webhook_next", "state", "next_at"),)

    id: str = Field(primary_key=True, max_length=36)
    url: bytes
    secret: bytes
    state: str = Field(default="active", max_length=10)
    """active or disabled."""
    cursor: int = 0
    """The last `seq` that was delivered."""
    failures: int = 0
    next_at: datetime = Field(sa_type=Utc)
    created_at: datetime = Field(sa_type=Utc)


OWNER = Owner("intake", "services.intake", Base.metadata)

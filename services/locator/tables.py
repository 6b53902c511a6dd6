"""Which rows does the locator keep? Orders, tasks and receipts; of the person only identifiers, sealed.

What names the person is sealed under a key of the order's own. When the order closes, the key and the sealed values
are deleted: what is left are ids, counts, times and enums.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Index, UniqueConstraint
from sqlmodel import Field

from shared.database import Json, Row, Utc, own_registry
from shared.migrating import Owner


class Base(Row, registry=own_registry()):
    """The locator's own metadata."""


class Order(Base, table=True):
    """What intake asked for: find this person. Inserted once for each id, which makes the message's arrival once."""

    __tablename__ = "locator_order"
    __table_args__ = (Index("ix_locator_order_case", "organisation_id", "case_id"),)

    id: str = Field(primary_key=True, max_length=36)
    case_id: str = Field(max_length=36)
    package_id: str = Field(max_length=36)
    right: str = Field(max_length=30)
    verb: str = Field(max_length=10)
    language: str = Field(max_length=2)
    register_version: str = Field(max_length=64)
    state: str = Field(default="open", max_length=10)
    """open, located or cancelled."""
    fingerprint: str = Field(max_length=64)
    """Keyed digest of the message: another message under the same id is noticed."""
    data_key: bytes | None = None
    """Wrapped by the installation's keyring; null once the order is closed."""
    person: bytes | None = None
    """Sealed JSON: name, binding_key. Null once the order is closed."""
    at: datetime = Field(sa_type=Utc)
    closed_at: datetime | None = Field(default=None, sa_type=Utc)


class Identifier(Base, table=True):
    """One identifier of an order, given or discovered. Deleted when the order closes."""

    __tablename__ = "locator_identifier"
    __table_args__ = (UniqueConstraint("order_id", "type", "value_digest"),)

    id: str = Field(primary_key=True, max_length=36)
    order_id: str = Field(max_length=36)
    type: str = Field(max_length=63)
    value: bytes
    value_digest: str = Field(max_length=64)
    """Under the order's binding key: the same identifier twice is one row."""
    assurance: int
    hop: int = 0
    """How many links of the register lie between it and what the person proved."""


class Task(Base, table=True):
    """One verb at one system in one round of one order. `attempt` is the fencing token everywhere."""

    __tablename__ = "locator_task"
    __table_args__ = (
        UniqueConstraint("order_id", "system", "round", "verb"),
        Index("ix_locator_task_lease", "lease_until"),
        Index("ix_locator_task_state", "organisation_id", "state", "id"),
        Index("ix_locator_task_case", "organisation_id", "case_id"),
    )

    id: str = Field(primary_key=True, max_length=36)
    order_id: str = Field(max_length=36)
    case_id: str = Field(max_length=36)
    system: str = Field(max_length=63)
    round: int
    verb: str = Field(max_length=10)
    right: str = Field(max_length=30)
    state: str = Field(max_length=20)
    attempt: int = 1
    failures: int = 0
    """How often the system failed; our own failures do not count."""
    lease_until: datetime | None = Field(default=None, sa_type=Utc)
    """When the attempt counts as dead, or a retry is due (`shared.leases`). Null: a person's, or final."""
    claimed_until: datetime | None = Field(default=None, sa_type=Utc)
    """While a person's answer is being taken: nobody else's is."""
    partition: str = Field(max_length=127)
    code: str | None = Field(default=None, max_length=40)
    identifiers: list[str] = Field(default_factory=list, sa_type=Json)
    """Ids of the identifiers that this task searches, or searched."""
    records: int = 0
    doubtful: int = 0
    """Doubtful records that would have yielded identifiers."""
    respondent: str | None = Field(default=None, max_length=80)
    answer: str | None = Field(default=None, max_length=64)
    """Keyed digest of what the person answered: the same answer twice is one."""
    at: datetime = Field(sa_type=Utc)
    changed_at: datetime = Field(sa_type=Utc)


class Receipt(Base, table=True):
    """Facts on one attempt that intake is to know; kept until they have arrived."""

    __tablename__ = "locator_receipt"
    __table_args__ = (Index("ix_locator_receipt_next", "delivered_at", "next_at"),)

    task_id: str = Field(primary_key=True, max_length=36)
    attempt: int = Field(primary_key=True)
    order_id: str = Field(max_length=36)
    body: dict[str, Any] = Field(sa_type=Json)
    tries: int = 0
    next_at: datetime = Field(sa_type=Utc)
    delivered_at: datetime | None = Field(default=None, sa_type=Utc)


class Upload(Base, table=True):
    """A file that a person attached to a task; it lies in the exporter's vault, with its name."""

    __tablename__ = "locator_upload"

    task_id: str = Field(primary_key=True, max_length=36)
    attempt: int = Field(primary_key=True)
    number: int = Field(primary_key=True)
    bytes: int
    sha256: str = Field(max_length=64)
    name_digest: str = Field(max_length=64)
    """Under the order's binding key: records name their files, and names may be personal."""
    at: datetime = Field(sa_type=Utc)


class RegisterCopy(Base, table=True):
    """A version of the register as intake has it. Versions never change, so a copy never is stale."""

    __tablename__ = "locator_register"

    organisation_id: str = Field(primary_key=True, max_length=63)
    version: str = Field(primary_key=True, max_length=64)
    content: dict[str, Any] = Field(sa_type=Json)
    at: datetime = Field(sa_type=Utc)


OWNER = Owner("locator", "services.locator", Base.metadata)

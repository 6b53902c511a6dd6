"""Which rows does the exporter own? Packages, the attempts and parts they are made of, the marks of review, keys.

No row holds personal data in clear: records and files lie in the vault, file names are sealed, marks know a record by
a keyed digest. Ids are primary keys within their organisation, so another organisation's id is simply unknown.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Index, LargeBinary
from sqlmodel import Field

from shared.database import Json, Row, Utc, own_registry
from shared.migrating import Owner


class Base(Row, registry=own_registry()):
    """The exporter's own metadata."""


OWNER = Owner("exporter", "services.exporter", Base.metadata)


class PackageState(StrEnum):
    """What may be done with a package."""

    OPEN = "open"
    SEALING = "sealing"
    SEALED = "sealed"
    COLLECTED = "collected"
    DESTROYED = "destroyed"


class PartKind(StrEnum):
    """What a part holds."""

    RECORDS = "records"
    FILE = "file"


class MarkKind(StrEnum):
    """What a person decided on a record or one of its fields."""

    WITHHELD = "withheld"
    OPENED = "opened"
    CONFIRMED = "confirmed"


class Package(Base, table=True):
    """One order's package. `data_key` wraps the key of all its objects; without it they are noise."""

    __tablename__ = "exporter_package"
    organisation_id: str = Field(primary_key=True, max_length=63)
    id: str = Field(primary_key=True, max_length=64)
    case_id: str = Field(max_length=64)
    reference: str = Field(max_length=32)
    right: str = Field(max_length=32)
    language: str = Field(max_length=2)
    register_version: str = Field(max_length=64)
    plan_hash: str = Field(max_length=64)
    proofs: list[str] = Field(sa_type=Json)
    data_key: bytes | None = Field(default=None, sa_type=LargeBinary)
    binding_key: bytes | None = Field(default=None, sa_type=LargeBinary)
    state: str = Field(default=PackageState.OPEN, max_length=16)
    created_at: datetime = Field(sa_type=Utc)
    lease: str | None = Field(default=None, max_length=36)
    """Random name of the call that seals or sends the package just now."""
    lease_until: datetime | None = Field(default=None, sa_type=Utc)
    release_hash: str | None = Field(default=None, max_length=64)
    archive: str | None = Field(default=None, max_length=64)
    answers: dict[str, dict[str, Any]] = Field(default_factory=dict, sa_type=Json)
    """Language → `{"name", "bytes"}` of the answer as HTML."""
    records: int = 0
    withheld: int = 0
    unbound: int = 0
    doubtful: int = 0
    size: int = Field(default=0, sa_type=BigInteger)
    """Plain bytes of the archive."""
    sha256: str | None = Field(default=None, max_length=64)
    sealed_at: datetime | None = Field(default=None, sa_type=Utc)
    expires_at: datetime | None = Field(default=None, sa_type=Utc)
    sent_at: datetime | None = Field(default=None, sa_type=Utc)
    """When the archive left here in whole."""
    collected_at: datetime | None = Field(default=None, sa_type=Utc)
    notified_at: datetime | None = Field(default=None, sa_type=Utc)
    """When intake was told of the collection."""
    destroyed_at: datetime | None = Field(default=None, sa_type=Utc)
    __table_args__ = (
        Index("ix_exporter_package_due", "state", "expires_at"),
        Index("ix_exporter_package_notice", "state", "notified_at"),
    )


class Attempt(Base, table=True):
    """One attempt of one task to fill its share of a package; counts once it is committed."""

    __tablename__ = "exporter_attempt"
    organisation_id: str = Field(primary_key=True, max_length=63)
    package_id: str = Field(primary_key=True, max_length=64)
    task_id: str = Field(primary_key=True, max_length=64)
    attempt: int = Field(primary_key=True)
    system: str | None = Field(default=None, max_length=63)
    begun_at: datetime = Field(sa_type=Utc)
    committed_at: datetime | None = Field(default=None, sa_type=Utc)
    commit_hash: str | None = Field(default=None, max_length=64)
    state: str | None = Field(default=None, max_length=16)
    code: str | None = Field(default=None, max_length=64)
    records: int = 0
    proofs: list[str] = Field(default_factory=list, sa_type=Json)


class Part(Base, table=True):
    """One part of an attempt: NDJSON of records, or one file. `stored_as` names it in the vault."""

    __tablename__ = "exporter_part"
    organisation_id: str = Field(primary_key=True, max_length=63)
    package_id: str = Field(primary_key=True, max_length=64)
    task_id: str = Field(primary_key=True, max_length=64)
    attempt: int = Field(primary_key=True)
    number: int = Field(primary_key=True)
    kind: str = Field(max_length=8)
    stored_as: str = Field(max_length=64)
    size: int = Field(sa_type=BigInteger)
    """Plain bytes."""
    sha256: str = Field(max_length=64)
    records: int = 0
    facts: list[dict[str, Any]] = Field(default_factory=list, sa_type=Json)
    """Per entity: records, doubtful, to_open, and the binding digests found with how often."""
    files: list[str] = Field(default_factory=list, sa_type=Json)
    """Keyed digests of the names of the files that the records name, or of this file's own name."""
    file_name: bytes | None = Field(default=None, sa_type=LargeBinary)
    """Sealed with the package's key."""
    file_type: str | None = Field(default=None, max_length=127)


class Mark(Base, table=True):
    """What a person decided. The record is known by `binding.record_digest`, so that a mark outlives an attempt."""

    __tablename__ = "exporter_mark"
    organisation_id: str = Field(primary_key=True, max_length=63)
    package_id: str = Field(primary_key=True, max_length=64)
    record: str = Field(primary_key=True, max_length=32)
    field: str = Field(primary_key=True, max_length=63)
    """Empty: the whole record."""
    kind: str = Field(primary_key=True, max_length=16)
    system: str = Field(max_length=63)
    entity: str = Field(max_length=63)
    reason: str | None = Field(default=None, max_length=64)
    actor: str = Field(max_length=80)
    made_at: datetime = Field(sa_type=Utc)


class RegisterCopy(Base, table=True):
    """A version of the register, fetched from intake once; versions never change."""

    __tablename__ = "exporter_register"
    organisation_id: str = Field(primary_key=True, max_length=63)
    version: str = Field(primary_key=True, max_length=64)
    content: dict[str, Any] = Field(sa_type=Json)


class SigningKey(Base, table=True):
    """A key that signs an organisation's packages; the highest number signs, retired ones stay published."""

    __tablename__ = "exporter_signing_key"
    organisation_id: str = Field(primary_key=True, max_length=63)
    number: int = Field(primary_key=True)
    kid: str = Field(max_length=64)
    private: bytes = Field(sa_type=LargeBinary)
    """The PEM, sealed."""
    public: dict[str, Any] = Field(sa_type=Json)
    """The JWK."""
    created_at: datetime = Field(sa_type=Utc)

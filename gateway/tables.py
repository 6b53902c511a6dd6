"""What does the door remember? Accounts, sessions, keys, lockouts and idempotency keys; never a secret in clear."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index, UniqueConstraint
from sqlmodel import Field

from shared.database import Json, Row, Utc, own_registry
from shared.migrating import Owner


class Base(Row, registry=own_registry()):
    """The gateway's own metadata."""


class Account(Base, table=True):
    """A handler's local account. `epoch` changes with the password and with every lock: older sessions end."""

    __tablename__ = "gateway_account"
    __table_args__ = (UniqueConstraint("organisation_id", "username"),)

    id: str = Field(primary_key=True, max_length=36)
    username: str = Field(max_length=120)
    password_hash: str = Field(max_length=200)
    roles: list[str] = Field(sa_type=Json)
    epoch: str = Field(max_length=36)
    created_at: datetime = Field(sa_type=Utc)
    disabled_at: datetime | None = Field(default=None, sa_type=Utc)


class HandlerSession(Base, table=True):
    """A signed-in handler. `id` is the SHA-256 of the bearer token."""

    __tablename__ = "gateway_session"

    id: str = Field(primary_key=True, max_length=64)
    account_id: str = Field(foreign_key="gateway_account.id", index=True, max_length=36)
    epoch: str = Field(max_length=36)
    created_at: datetime = Field(sa_type=Utc)
    seen_at: datetime = Field(sa_type=Utc)
    expires_at: datetime = Field(sa_type=Utc, index=True)


class SubjectSession(Base, table=True):
    """A person who proved themselves for one case. `level` is `verified` or `collect`."""

    __tablename__ = "gateway_subject_session"

    id: str = Field(primary_key=True, max_length=64)
    case_id: str = Field(max_length=36)
    reference: str = Field(max_length=11)
    level: str = Field(max_length=8)
    expires_at: datetime = Field(sa_type=Utc, index=True)


class ApiKey(Base, table=True):
    """Another system's key. `prefix` names it in lists and finds it; `secret_hash` is the SHA-256 of the secret."""

    __tablename__ = "gateway_key"

    id: str = Field(primary_key=True, max_length=36)
    prefix: str = Field(unique=True, max_length=12)
    secret_hash: str = Field(max_length=64)
    name: str = Field(max_length=120)
    scopes: list[str] = Field(sa_type=Json)
    created_by: str = Field(max_length=80)
    created_at: datetime = Field(sa_type=Utc)
    expires_at: datetime = Field(sa_type=Utc)
    last_used_at: datetime | None = Field(default=None, sa_type=Utc)
    revoked_at: datetime | None = Field(default=None, sa_type=Utc)


class Lockout(Base, table=True):
    """Failed sign-ins of one account or one client. `id` is a digest of whom it counts."""

    __tablename__ = "gateway_lockout"

    id: str = Field(primary_key=True, max_length=64)
    failures: int
    blocked_until: datetime = Field(sa_type=Utc)
    last_at: datetime = Field(sa_type=Utc, index=True)


class Idempotency(Base, table=True):
    """One use of an Idempotency-Key. `status` is null while the first call is under way."""

    __tablename__ = "gateway_idempotency"
    __table_args__ = (Index("ix_gateway_idempotency_began_at", "began_at"),)

    id: str = Field(primary_key=True, max_length=64)
    """Digest of organisation, principal, route and key: another caller's key is another key."""
    body_hash: str = Field(max_length=64)
    began_at: datetime = Field(sa_type=Utc)
    status: int | None = None
    answer: dict[str, Any] | None = Field(default=None, sa_type=Json)


OWNER = Owner("gateway", "gateway", Base.metadata)

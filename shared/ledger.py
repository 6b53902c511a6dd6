"""What happened, in which order, and has anybody changed the record? Audit and events in one chain per organisation.

Every service inserts entries, unsequenced, in the transaction of what they tell. One sealer per organisation (intake's)
gives them a gap-free `seq` and a keyed hash over the one before, within a second (design §6). An entry holds ids,
counts, times and enums only.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Index, func, text
from sqlmodel import Field, col, select

from shared.database import Database, Json, ReadSession, Row, Utc, WriteSession, own_registry
from shared.ids import new_id
from shared.migrating import Owner

SEAL_BATCH = 500
_ATOM = re.compile(r"[A-Za-z0-9_.:/()+-]{0,120}\Z")
"""What a text in an entry may look like: an id, an enum, a date. No space and no `@`, so neither a full name nor an e-mail address can slip in."""
_PERSONS_NUMBER = re.compile(r"\d{6}-?\d{4}|\+\d{6,15}", re.ASCII)
"""A Danish national number or a phone number; ids of ours never look like that."""


class Base(Row, registry=own_registry()):
    """The ledger's own metadata: every service inserts, none owns."""


class Entry(Base, table=True):
    """One fact. `seq` and `hash` are null until the sealer has been there."""

    __tablename__ = "ledger"
    __table_args__ = (
        Index("ix_ledger_organisation_seq", "organisation_id", "seq", unique=True),
        Index("ix_ledger_unsealed", "organisation_id", "id", postgresql_where=text("seq IS NULL"),
              sqlite_where=text("seq IS NULL")),
        Index("ix_ledger_case", "organisation_id", "case_id"),
    )  # fmt: skip

    id: str = Field(primary_key=True, max_length=36)
    seq: int | None = None
    at: datetime = Field(sa_type=Utc)
    service: str = Field(max_length=20)
    kind: str = Field(max_length=60)
    actor: str = Field(max_length=80)
    case_id: str | None = Field(default=None, max_length=36)
    case_version: int | None = None
    data: dict[str, Any] = Field(sa_type=Json)
    hash: str | None = Field(default=None, max_length=64)


OWNER = Owner("ledger", "shared", Base.metadata)


class PersonalData(ValueError):
    """A ledger entry may hold ids, counts, times and enums only."""


async def record(  # noqa: PLR0913 - every fact of an entry is named by the caller
    session: WriteSession,
    *,
    organisation_id: str,
    service: str,
    kind: str,
    actor: str,
    at: datetime,
    case_id: str | None = None,
    case_version: int | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Insert one entry in the caller's transaction. Raises `PersonalData` for a value that is no id, count or enum."""
    facts = dict(data or {})
    for value in (kind, actor, *facts, *facts.values()):
        _refuse_free_text(value)
    await session.put(Entry, {
        "id": new_id(), "organisation_id": organisation_id, "at": at, "service": service, "kind": kind, "actor": actor,
        "case_id": case_id, "case_version": case_version, "data": facts,
    })  # fmt: skip


def _refuse_free_text(value: object) -> None:
    if isinstance(value, str):
        if _ATOM.match(value) is None or _PERSONS_NUMBER.fullmatch(value):
            raise PersonalData("a ledger entry may hold ids, counts, times and enums only")
    elif isinstance(value, (list, tuple)):
        for item in value:
            _refuse_free_text(item)
    elif not (value is None or isinstance(value, (bool, int, float))):
        raise PersonalData("a ledger entry may hold ids, counts, times and enums only")


def entry_hash(key: bytes, previous: str, entry: Entry) -> str:
    """HMAC-SHA256 over the previous hash and the entry's canonical JSON: whoever lacks the key cannot re-chain."""
    body = json.dumps(
        [entry.organisation_id, entry.seq, entry.id, entry.at.isoformat(), entry.service, entry.kind, entry.actor,
         entry.case_id, entry.case_version, entry.data],
        sort_keys=True, separators=(",", ":"), ensure_ascii=False,
    )  # fmt: skip
    return hmac.new(key, f"{previous}\n{body}".encode(), hashlib.sha256).hexdigest()


class Sealer:
    """Gives entries their place in the chain. Any process may run it: the database lets one at a time."""

    def __init__(self, database: Database, key: bytes) -> None:
        self._database = database
        self._key = key

    async def seal_all(self) -> int:
        """Seal what is unsealed, per organisation, in bounded batches; return how many entries got their place."""
        async with self._database.read(None) as session:
            waiting = (
                await session.exec(select(Entry.organisation_id).where(col(Entry.seq).is_(None)).distinct())
            ).all()
        return sum([await self.seal(organisation) for organisation in waiting])

    async def seal(self, organisation: str) -> int:
        """Seal up to `SEAL_BATCH` entries of one organisation in one transaction."""
        async with self._database.write(organisation) as session:
            if self._database.dialect == "postgresql":
                lock = int.from_bytes(hashlib.sha256(f"ledger:{organisation}".encode()).digest()[:8], signed=True)
                await session.exec(select(func.pg_advisory_xact_lock(lock)))
            seq, previous = await _tail(session)
            unsealed = select(Entry).where(col(Entry.seq).is_(None)).order_by(col(Entry.id)).limit(SEAL_BATCH)
            entries = (await session.exec(unsealed)).all()
            for entry in entries:
                seq += 1
                entry.seq = seq
                previous = entry.hash = entry_hash(self._key, previous, entry)
            await session.flush()
        return len(entries)


async def _tail(session: WriteSession) -> tuple[int, str]:
    newest = select(Entry.seq, Entry.hash).where(col(Entry.seq).is_not(None)).order_by(col(Entry.seq).desc()).limit(1)
    row = (await session.exec(newest)).first()
    return (0, "") if row is None else (row[0] or 0, row[1] or "")


@dataclass(frozen=True)
class Verdict:
    """What a check of one organisation's chain found. `broken_at` is the first `seq` that does not fit."""

    organisation_id: str
    sealed: int
    unsealed: int
    broken_at: int | None

    @property
    def whole(self) -> bool:
        return self.broken_at is None


async def verify(database: Database, organisation: str, key: bytes) -> Verdict:
    """Walk the whole chain of one organisation at constant memory."""
    sealed, previous, broken = 0, "", None
    while broken is None:
        async with database.read(organisation) as session:
            page = (await session.exec(
                select(Entry).where(col(Entry.seq) > sealed).order_by(col(Entry.seq)).limit(SEAL_BATCH)
            )).all()  # fmt: skip
        if not page:
            break
        for entry in page:
            if entry.seq != sealed + 1 or entry.hash != entry_hash(key, previous, entry):
                broken = sealed + 1
                break
            sealed, previous = sealed + 1, entry.hash
    async with database.read(organisation) as session:
        unsealed = (await session.exec(select(func.count()).where(col(Entry.seq).is_(None)).select_from(Entry))).one()
    return Verdict(organisation, sealed, unsealed, broken)


async def page(session: ReadSession, *, after: int = 0, limit: int = 100, case_id: str | None = None) -> list[Entry]:
    """Return sealed entries of the session's organisation after `seq` `after`, oldest first."""
    query = select(Entry).where(col(Entry.seq) > after).order_by(col(Entry.seq)).limit(limit)
    if case_id is not None:
        query = query.where(Entry.case_id == case_id)
    return list((await session.exec(query)).all())

"""How does a case begin, change and end? Every change is one conditional update, with its ledger entry beside it."""

import hashlib
import re
import unicodedata
from datetime import datetime
from typing import Annotated, Any, NamedTuple, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy import update
from sqlmodel import col, select

from services.intake import deadlines, orders
from services.intake.desk import Desk
from services.intake.registers import Version
from services.intake.tables import Case, ClockEvent, Identifier, Key, Letter
from services.intake.transitions import CLOSED, target
from shared import ledger
from shared.database import ReadSession, WriteSession
from shared.identifiers import BadIdentifier, normalise
from shared.ids import new_id, new_reference
from shared.problems import Conflict, Invalid, NotFound, PreconditionFailed, RuleBroken
from shared.register import Register
from shared.vocabulary import URGENT, Assurance, CaseState, Channel, Language, Right

SERVICE = "intake"
MOST_IDENTIFIERS = 10
"""In one call."""
MOST_OF_A_CASE = 50


class CaseNotFound(NotFound):
    """There is no such case here."""

    code = "case-not-found"


class TooManyIdentifiers(Conflict):
    """This request has as many identifiers as a request may have."""

    code = "too-many-identifiers"


class KeyReused(Invalid):
    """This Idempotency-Key was used with another body."""

    code = "idempotency-key-reused"


def _plain(text: str) -> str:
    """Refuse control characters and those that turn the reading direction: they make a name read as another."""
    if any(unicodedata.category(char) in {"Cc", "Cs"} or char in _TURNING for char in text):
        raise RuleBroken("must not contain control characters")
    return text


_TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_plain)]
Prose = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]


class GivenIdentifier(BaseModel):
    """An identifier as a person gave it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Annotated[str, StringConstraints(max_length=63)]
    value: Annotated[str, StringConstraints(max_length=320)]


class Opening(BaseModel):
    """What a person asks. The same for the known and the unknown; nothing is looked up before proof."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    right: Right
    language: Language = Language.DANISH
    name: Line
    email: Annotated[str, StringConstraints(max_length=320)] | None = None
    identifiers: Annotated[tuple[GivenIdentifier, ...], Field(max_length=MOST_IDENTIFIERS)] = ()
    message: Prose | None = None


class HandlerOpening(Opening):
    """What a handler writes down of a request by phone, letter, e-mail or at the counter."""

    channel: Channel
    received_at: datetime | None = None

    @model_validator(mode="after")
    def _aware(self) -> Self:
        if self.received_at is not None and self.received_at.tzinfo is None:
            raise RuleBroken("received_at must carry an offset, such as 2026-03-05T10:00+01:00")
        return self


class Opened(NamedTuple):
    """What the door tells: the same whether or not the person is known."""

    case_id: str
    reference: str
    received_on: str
    due: str
    next_step: str
    right: str
    language: str


class _Normal(NamedTuple):
    type: str
    value: str


def proven_enough(case: Case) -> bool:
    """Whether the guard on every executing transition is met: identity is proven, or the law asks for none."""
    return case.identity in {"proven", "waived"}


async def open_case(
    desk: Desk,
    organisation: str,
    opening: Opening,
    *,
    channel: Channel,
    actor: str,
    received_at: datetime | None = None,
    key: str | None = None,
) -> Opened:
    """Register a request: case, clock, ledger entry and acknowledgement in one transaction.

    `key` is the caller's Idempotency-Key: the same key and body give the same case. Raises `Invalid` naming the field,
    `UnknownOrganisation`, `KeyReused`.
    """
    version, now = desk.registers.current(organisation), desk.now()
    received = _received(received_at, now)
    identifiers = _identifiers(version.register, opening, channel)
    case = _new_case(desk, version, opening, channel, actor, received, now)
    seen = _key_digests(desk, organisation, actor, opening, key)
    async with desk.database.write(organisation) as session:
        if seen and (earlier := await _earlier(session, *seen)) is not None:
            return told(earlier, version.register)
        await _insert(desk, session, case, identifiers, actor)
        if seen:
            row = {"id": seen[0], "organisation_id": organisation, "body": seen[1], "case_id": case.id, "at": now}
            await session.put(Key, row)
        if case.identity == "waived":
            order_id = await orders.start(desk, session, case)
            await session.exec(update(Case).where(col(Case.id) == case.id).values(order_id=order_id))
    return told(case, version.register)


def _received(received_at: datetime | None, now: datetime) -> datetime:
    if received_at is not None and received_at > now:
        raise Invalid(errors=({"pointer": "/received_at", "detail": "must not lie in the future"},))
    return received_at or now


def _identifiers(register: Register, opening: Opening, channel: Channel) -> list[_Normal]:
    """Return the given identifiers in normal form, the e-mail address first. Raises `Invalid` for all that are wrong."""
    errors: list[dict[str, str]] = []
    found: list[_Normal] = []
    if opening.email is None and channel in {Channel.WEB, Channel.API}:
        errors.append({"pointer": "/email", "detail": "must be given: the answer is announced there"})
    given = [("/email", "email", opening.email)] if opening.email else []
    given += [(f"/identifiers/{n}/value", item.type, item.value) for n, item in enumerate(opening.identifiers)]
    for pointer, kind, value in given:
        try:
            normal = _Normal(kind, normal_value(register, kind, value))
        except BadIdentifier as error:
            errors.append({"pointer": pointer, "detail": str(error)})
        else:
            found += [normal] if normal not in found else []
    if errors:
        raise Invalid(errors=tuple(errors))
    return found


def normal_value(register: Register, kind: str, value: str) -> str:
    """Return an identifier's normal form. Raises `BadIdentifier` for an unknown type or a value that breaks its rule."""
    declared = register.identifiers.get(kind)
    if declared is None:
        if kind != "email":
            raise BadIdentifier("must be one of the identifier types of this organisation")
        return normalise("email", value)
    normal = normalise(declared.kind, value, region=register.organisation.country)
    if declared.pattern and re.fullmatch(declared.pattern, normal) is None:
        raise BadIdentifier("must look as the organisation writes this number")
    return normal


def _new_case(
    desk: Desk, version: Version, opening: Opening, channel: Channel, actor: str, received: datetime, now: datetime
) -> Case:
    register, case_id = version.register, new_id()
    organisation = register.organisation.id
    clock = deadlines.compute(received, place(register), rules=rules(register))
    urgent = opening.right in URGENT
    email = normalise("email", opening.email) if opening.email else None
    person = {"name": opening.name, "email": email, "message": opening.message}
    return Case(
        id=case_id,
        organisation_id=organisation,
        reference=new_reference(),
        right=opening.right.value,
        state=(CaseState.IN_PROGRESS if urgent else CaseState.RECEIVED).value,
        channel=channel.value,
        language=opening.language.value,
        urgent=urgent,
        register_version=version.version,
        received_at=received,
        recorded_at=now,
        recorded_by=actor,
        due=clock.effective_due,
        plan_date=clock.plan_date,
        promise_due=clock.promise_due,
        identity="waived" if urgent else "unproven",
        person=desk.seal(organisation, "person", case_id, person),
        contact_index=desk.sealer.index(organisation, "email", email) if email else None,
    )


def place(register: Register) -> deadlines.Place:
    """Where the organisation is established: its clock and its public holidays."""
    return deadlines.Place.of(register.organisation, register.policy)


def rules(register: Register) -> deadlines.Rules:
    """The organisation's choices for its time limits."""
    return deadlines.Rules(answer_within_days=register.policy.answer_within_days)


def _key_digests(
    desk: Desk, organisation: str, actor: str, opening: Opening, key: str | None
) -> tuple[str, str] | None:
    if key is None:
        return None
    body = desk.sealer.index(organisation, "idempotency", opening.model_dump_json())
    return hashlib.sha256(f"{organisation}\n{actor}\n{key}".encode()).hexdigest(), body


async def _earlier(session: WriteSession, key: str, body: str) -> Case | None:
    found = (await session.exec(select(Key).where(Key.id == key))).first()
    if found is None:
        return None
    if found.body != body:
        raise KeyReused
    return (await session.exec(select(Case).where(Case.id == found.case_id))).one()


async def _insert(desk: Desk, session: WriteSession, case: Case, identifiers: list[_Normal], actor: str) -> None:
    await session.put(Case, case.model_dump())
    if identifiers:
        await add_identifiers(desk, session, case, identifiers, Assurance.CLAIMED, None)
    kinds = ["acknowledgement"] + (["code"] if case.identity == "unproven" and case.contact_index else [])
    await queue_letters(session, case, kinds, case.recorded_at)
    await ledger.record(
        session, organisation_id=case.organisation_id, service=SERVICE, kind="case.received", actor=actor,
        case_id=case.id, case_version=1, at=case.recorded_at,
        data={"right": case.right, "channel": case.channel, "due": str(case.due), "urgent": case.urgent},
    )  # fmt: skip


async def add_identifiers(
    desk: Desk,
    session: WriteSession,
    case: Case,
    identifiers: list[Any],
    assurance: Assurance,
    proven_by: str | None,
) -> None:
    """Insert identifiers `(type, value)` in normal form; one that the case has already only gains assurance.

    Raises `TooManyIdentifiers`.
    """
    organisation = case.organisation_id
    known = select(Identifier.type, Identifier.value_index).where(Identifier.case_id == case.id)
    have = set((await session.exec(known)).all()) if case.version > 1 else set()
    if len(have) + len(identifiers) > MOST_OF_A_CASE:
        raise TooManyIdentifiers
    rows = []
    for kind, value in identifiers:
        index = desk.sealer.index(organisation, f"identifier:{kind}", value)
        if (kind, index) in have:
            await _raise_assurance(session, case, kind, index, assurance, proven_by)
            continue
        row_id = new_id()
        rows.append({
            "id": row_id, "organisation_id": organisation, "case_id": case.id, "type": kind, "value_index": index,
            "value": desk.sealer.seal(organisation, "identifier", row_id, value.encode()),
            "assurance": int(assurance), "proven_by": proven_by, "at": desk.now(),
        })  # fmt: skip
    if rows:
        await session.put(Identifier, *rows)


async def _raise_assurance(
    session: WriteSession, case: Case, kind: str, index: str, assurance: Assurance, proven_by: str | None
) -> None:
    await session.exec(
        update(Identifier)
        .where(
            col(Identifier.case_id) == case.id,
            col(Identifier.type) == kind,
            col(Identifier.value_index) == index,
            col(Identifier.assurance) < int(assurance),
        )
        .values(assurance=int(assurance), proven_by=proven_by)
    )


async def queue_letters(
    session: WriteSession, case: Case, kinds: list[str], at: datetime, facts: bytes | None = None
) -> None:
    """Put letters in the outbox, in the caller's transaction."""
    rows = [
        {"id": new_id(), "organisation_id": case.organisation_id, "case_id": case.id, "kind": kind, "state": "queued",
         "facts": facts, "tries": 0, "next_at": at, "at": at}
        for kind in kinds
    ]  # fmt: skip
    await session.put(Letter, *rows)


def told(case: Case, register: Register) -> Opened:
    """Return what the door tells about a case that was just opened."""
    return Opened(
        case_id=case.id,
        reference=case.reference,
        received_on=_local_day(case.received_at, register),
        due=str(case.due),
        next_step="wait" if proven_enough(case) or case.contact_index is None else "verify",
        right=case.right,
        language=case.language,
    )


def _local_day(at: datetime, register: Register) -> str:
    return at.astimezone(ZoneInfo(register.organisation.timezone)).date().isoformat()


async def get_case(session: ReadSession | WriteSession, case_id: str) -> Case:
    """Return a case of the session's organisation. Raises `CaseNotFound`, for a foreign case too."""
    case = (await session.exec(select(Case).where(Case.id == case_id))).first()
    if case is None:
        raise CaseNotFound
    return case


async def find_case(session: ReadSession | WriteSession, reference: str) -> Case:
    """Return a case by its reference. Raises `CaseNotFound`."""
    case = (await session.exec(select(Case).where(Case.reference == reference))).first()
    if case is None:
        raise CaseNotFound
    return case


async def change(
    session: WriteSession,
    case: Case,
    verb: str,
    *,
    actor: str,
    at: datetime,
    to: CaseState | None = None,
    data: dict[str, Any] | None = None,
    **values: Any,
) -> Case:
    """Do one transition: check it, update the row if nobody else did meanwhile, write the ledger entry.

    Returns the case as it is now. Raises `WrongState`, `PreconditionFailed`.
    """
    state = target(CaseState(case.state), verb, to)
    if state in CLOSED and CaseState(case.state) not in CLOSED:
        values |= {"closed_at": at, "awaits_task": False, "awaits_approval": False, "awaits_clarification": False}
    values |= {"state": state.value, "version": case.version + 1}
    done = await session.exec(
        update(Case).where(col(Case.id) == case.id, col(Case.version) == case.version).values(**values)
    )
    if done.rowcount != 1:
        raise PreconditionFailed
    await ledger.record(
        session, organisation_id=case.organisation_id, service=SERVICE, kind=f"case.{verb}", actor=actor,
        case_id=case.id, case_version=case.version + 1, at=at, data={"state": state.value, **(data or {})},
    )  # fmt: skip
    return Case(**{**case.model_dump(), **values})


async def move_clock(
    session: WriteSession, case: Case, register: Register, kind: str, *, at: datetime, actor: str, reason: str | None
) -> dict[str, Any]:
    """Add one event to a case's clock and return the columns that it changes. Raises `Conflict` if it may not happen."""
    query = select(ClockEvent).where(ClockEvent.case_id == case.id).order_by(col(ClockEvent.at), col(ClockEvent.id))
    events = [deadlines.Event(row.kind, row.at) for row in (await session.exec(query)).all()]  # type: ignore[arg-type]
    try:
        clock = deadlines.compute(
            case.received_at, place(register), [*events, deadlines.Event(kind, at)], rules=rules(register)  # type: ignore[arg-type]
        )  # fmt: skip
    except deadlines.BadDeadlineInput as error:
        raise Conflict(str(error), code="clock") from None
    if kind == "extend" and (clock.extension != "in_time" or clock.paused or "extension-twice" in clock.warnings):
        raise Conflict(
            "an extension must be told before the time limit is out, once, and not while the clock is paused (Art. 12(3))",
            code="clock",
        )
    await session.put(ClockEvent, {
        "id": new_id(), "organisation_id": case.organisation_id, "case_id": case.id, "kind": kind, "at": at,
        "reason": reason, "actor": actor,
    })  # fmt: skip
    return {"due": clock.effective_due, "plan_date": clock.plan_date, "promise_due": clock.promise_due}

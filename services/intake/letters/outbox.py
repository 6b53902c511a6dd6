"""Which letters wait, and what became of them? Sent in batches under a lease, retried, each logged as sent or failed."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import func, update
from sqlmodel import col, select

from services.intake import verification
from services.intake.desk import Desk
from services.intake.letters.compose import Letter as Composed
from services.intake.letters.compose import LetterFacts, compose
from services.intake.letters.smtp import Failed
from services.intake.tables import Case, Identifier, Letter, Receipt
from shared import ledger
from shared.database import Database
from shared.messages import was_searched
from shared.register import IdentifierType, Register, System
from shared.vocabulary import Language, Outcome, Right, TaskState

log = structlog.get_logger()
BATCH = 20
LEASE = timedelta(minutes=2)
ACKNOWLEDGED_PER_HOUR = 5
"""Requests of one address that are acknowledged by mail."""
MOST_TRIES = 12
"""With doubling waits from 15 s this is about half a day of a mail server that is down."""


async def drain(desk: Desk) -> int:
    """Send what is due, up to `BATCH` letters; return how many were tried. Several processes may run it."""
    now = desk.now()
    async with desk.database.read(None) as session:
        due = (
            select(Letter.organisation_id, Letter.id, Letter.tries)
            .where(Letter.state == "queued", col(Letter.next_at) <= now)
            .order_by(col(Letter.next_at))
            .limit(BATCH)
        )
        rows = (await session.exec(due)).all()
    for organisation, letter_id, tries in rows:
        await _one(desk, organisation, letter_id, tries, now)
    return len(rows)


async def _one(desk: Desk, organisation: str, letter_id: str, tries: int, now: datetime) -> None:
    async with desk.database.write(organisation) as session:
        claimed = await session.exec(
            update(Letter)
            .where(col(Letter.id) == letter_id, col(Letter.state) == "queued", col(Letter.tries) == tries)
            .values(tries=tries + 1, next_at=now + LEASE)
        )
        if claimed.rowcount != 1:  # another process was faster
            return
        letter = (await session.exec(select(Letter).where(Letter.id == letter_id))).one()
        case = (await session.exec(select(Case).where(Case.id == letter.case_id))).one()
    address = desk.person(case)["email"]
    if address is None:
        await _done(desk, letter, case, "printed", None)
        return
    facts = None if await _flooded(desk, letter, case) else await _facts(desk, letter, case)
    if facts is None:
        await _done(desk, letter, case, "throttled", f"too-many-{letter.kind}s")
        return
    composed = compose(letter.kind, case.language, facts)
    result = await desk.send_letter(address, composed, message_id(desk, letter))
    if not isinstance(result, Failed):
        await _done(desk, letter, case, "sent", None)
    elif result.permanent or tries + 1 >= MOST_TRIES:
        await _done(desk, letter, case, "failed", result.code)
    else:
        await _later(desk, letter, tries, result.code)


async def _flooded(desk: Desk, letter: Letter, case: Case) -> bool:
    """Whether this is one acknowledgement too many: requests in a stranger's name must not fill their mailbox.

    The request stands, and its page says what the letter would have said.
    """
    if letter.kind != "acknowledgement" or case.contact_index is None:
        return False
    earlier = select(func.count()).where(
        Case.contact_index == case.contact_index,
        col(Case.recorded_at) > case.recorded_at - timedelta(hours=1),
        col(Case.id) < case.id,
    )
    async with desk.database.read(case.organisation_id) as session:
        return (await session.exec(earlier)).one() >= ACKNOWLEDGED_PER_HOUR


def message_id(desk: Desk, letter: Letter) -> str:
    """Return a Message-ID that a second sending repeats and a bounce names."""
    return f"<{letter.id}@{desk.settings.mail_domain}>"


async def _done(desk: Desk, letter: Letter, case: Case, state: str, code: str | None) -> None:
    at = desk.now()
    async with desk.database.write(letter.organisation_id) as session:
        await session.exec(
            update(Letter)
            .where(col(Letter.id) == letter.id, col(Letter.state) == "queued")
            .values(state=state, code=code, sent_at=at if state == "sent" else None)
        )
        await ledger.record(
            session, organisation_id=case.organisation_id, service="intake", kind=f"letter.{state}", actor="automatic",
            case_id=case.id, at=at, data={"letter": letter.id, "kind": letter.kind, "code": code},
        )  # fmt: skip


async def _later(desk: Desk, letter: Letter, tries: int, code: str) -> None:
    log.warning("letter not sent, will be tried again", letter=letter.id, code=code, tries=tries + 1)
    wait = timedelta(seconds=min(3600, 15 * 2**tries))
    async with desk.database.write(letter.organisation_id) as session:
        await session.exec(
            update(Letter)
            .where(col(Letter.id) == letter.id, col(Letter.state) == "queued")
            .values(next_at=desk.now() + wait, code=code)
        )


async def bounced(
    database: Database, organisation: str, letter_id: str, *, at: datetime, case_id: str | None = None
) -> bool:
    """Note that a letter came back; whether it was one of ours (of `case_id`, if given) that had been sent."""
    async with database.write(organisation) as session:
        sent = [col(Letter.id) == letter_id, col(Letter.state) == "sent"]
        if case_id is not None:
            sent.append(col(Letter.case_id) == case_id)
        noted = await session.exec(update(Letter).where(*sent).values(state="bounced").returning(col(Letter.case_id)))
        case_id = noted.scalar_one_or_none()
        if case_id is not None:
            await ledger.record(
                session, organisation_id=organisation, service="intake", kind="letter.bounced", actor="automatic",
                case_id=case_id, at=at, data={"letter": letter_id},
            )  # fmt: skip
    return case_id is not None


async def written(desk: Desk, organisation: str, letter_id: str) -> tuple[Letter, Composed | None]:
    """Return a letter that a handler prints, composed afresh; None for a code, which is never shown to a handler."""
    async with desk.database.read(organisation) as session:
        letter = (await session.exec(select(Letter).where(Letter.id == letter_id))).one()
        case = (await session.exec(select(Case).where(Case.id == letter.case_id))).one()
    if letter.kind == "code":
        return letter, None
    facts = await _facts(desk, letter, case)
    assert facts is not None
    return letter, compose(letter.kind, case.language, facts)


async def _facts(desk: Desk, letter: Letter, case: Case) -> LetterFacts | None:
    """Gather what this letter tells. None if the throttle holds a code back."""
    register = (await desk.registers.cited(case.organisation_id, case.register_version)).register
    zone = ZoneInfo(register.organisation.timezone)
    told: dict[str, Any] = (
        desk.unseal(case.organisation_id, "letter", letter.case_id, letter.facts) if letter.facts else {}
    )
    if letter.kind == "code":
        told["code"] = await verification.issue(desk, case)
        if told["code"] is None:
            return None
    elif letter.kind == "nothing_held" or (letter.kind == "done" and case.identity == "proven"):
        told |= await _search(desk, register, case)
    elif letter.kind == "ready":
        told["partly"] = case.outcome == Outcome.PARTLY_GRANTED
    elif letter.kind == "collected":
        told["collected_at"] = letter.at.astimezone(zone)
    if case.identity == "proven" and letter.kind not in {"acknowledgement", "code"}:
        told["name"] = desk.person(case)["name"]
    if letter.kind == "extension":
        told |= {key: date.fromisoformat(told[key]) for key in ("due", "new_due")}
    always = {
        "due": case.due,
        "promise_due": case.promise_due,
        "paused": case.due is None,
        "verify": case.identity == "unproven" and case.contact_index is not None,
    }
    return LetterFacts(
        organisation=register.organisation,
        right=Right(case.right),
        reference=case.reference,
        received_on=case.received_at.astimezone(zone).date(),
        link=_link(desk, letter, case),
        expires_on=case.package_expires,
        **(always | told),
    )


def _link(desk: Desk, letter: Letter, case: Case) -> str | None:
    """Where the next step is. A link opens nothing by itself: it names the case, the code proves the person.

    Whoever gave no e-mail address can get no code, so that a printed letter leads to no page.
    """
    if case.contact_index is None:
        return None
    page = {"code": "/code", "acknowledgement": "/code", "ready": "/collect"}.get(letter.kind, "")
    return f"{desk.settings.public_url}/{case.organisation_id}/requests/{case.reference}{page}?lang={case.language}"


def _looked(receipt: Receipt) -> bool:
    return was_searched(TaskState(receipt.state), receipt.facts["code"])


async def _search(desk: Desk, register: Register, case: Case) -> dict[str, Any]:
    """What was and was not searched, in the letter's language: a negative answer names its own limits."""
    language = Language(case.language)
    async with desk.database.read(case.organisation_id) as session:
        receipts = (await session.exec(select(Receipt).where(Receipt.order_id == case.order_id))).all()
        given = (await session.exec(select(Identifier.type).where(Identifier.case_id == case.id))).all()
    missing = {receipt.system for receipt in receipts if not _looked(receipt)}
    kinds = {kind for receipt in receipts for kind in receipt.facts["identifier_types"]}
    systems = {receipt.system for receipt in receipts}
    return {
        "searched": _labels(register.systems, systems - missing, language),
        "not_searched": _labels(register.systems, missing, language),
        "search_terms": _labels(register.identifiers, kinds, language),
        "terms_unused": _labels(register.identifiers, set(given) - kinds, language),
    }


def _labels(
    declared: Mapping[str, System] | Mapping[str, IdentifierType], names: set[str], language: Language
) -> tuple[str, ...]:
    return tuple(sorted(declared[name].label.in_(language) if name in declared else name for name in names))

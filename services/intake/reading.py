"""What may each reader see of a case? The person, the handler, anybody before proof."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlmodel import col, select, tuple_

from services.intake import status
from services.intake.cases import CaseNotFound, get_case
from services.intake.desk import Desk
from services.intake.letters.compose import Letter as Composed
from services.intake.tables import Case, ClockEvent, Decision, Identifier, Letter, Receipt
from services.intake.transitions import TRANSITIONS
from shared import ledger
from shared.database import ReadSession
from shared.problems import Malformed
from shared.register import Register
from shared.vocabulary import OPEN_STATES, Assurance, CaseState, Language, Right


async def before_proof(desk: Desk, case: Case) -> dict[str, Any]:
    """Reference, dates and next step only: whoever has the reference may be anybody."""
    register = (await desk.registers.cited(case.organisation_id, case.register_version)).register
    return {
        "reference": case.reference,
        "received_on": status.received_on(case, register).isoformat(),
        "due": case.due.isoformat() if case.due else None,
        "next_step": "verify" if case.contact_index is not None else "wait",
        "language": case.language,
    }


async def for_person(desk: Desk, case: Case, language: Language | None) -> dict[str, Any]:
    """Status in plain words for the proven person, in the language of the request or the one asked for."""
    register = (await desk.registers.cited(case.organisation_id, case.register_version)).register
    spoken = language or Language(case.language)
    told = status.compose(case, register, spoken)
    package = case.package and {
        "ready": case.package == "sealed",
        "expires_on": case.package_expires and case.package_expires.isoformat(),
        "collected_at": case.package_collected_at and case.package_collected_at.isoformat(),
    }
    return {
        **await before_proof(desk, case),
        "next_step": "collect"
        if case.package == "sealed"
        else "verify"
        if told.outstanding == ("identity",)
        else "wait",
        "right": case.right,
        "state": case.state,
        "outcome": case.outcome,
        "headline": told.headline,
        "paragraphs": list(told.paragraphs),
        "outstanding": list(told.outstanding),
        "may_withdraw": CaseState(case.state) in OPEN_STATES,
        "package": package,
        "language": spoken.value,
    }


def organisation(register: Register) -> dict[str, Any]:
    """What the public pages need to know of a register: who answers and what the form asks; never its systems."""
    return {
        "organisation": register.organisation.model_dump(mode="json"),
        "questions": {
            name: item.model_dump(mode="json")
            for name, item in register.identifiers.items()
            if item.ask and name != "email"  # the form always asks for the e-mail address itself
        },
        "languages": list(Language),
        "answer_within_days": register.policy.answer_within_days,
    }


@dataclass(frozen=True)
class Wanted:
    """Which cases, and from where in the list. `after` is the `next` of the page before."""

    state: CaseState | None
    right: Right | None
    urgent: bool | None
    due_before: date | None
    after: str | None
    limit: int


async def work_list(desk: Desk, organisation_id: str, wanted: Wanted) -> dict[str, Any]:
    """Return one page of cases, the most pressing first: by plan date, then by age."""
    query = select(Case).order_by(col(Case.plan_date), col(Case.id)).limit(wanted.limit + 1)
    if wanted.state is not None:
        query = query.where(Case.state == wanted.state.value)
    if wanted.right is not None:
        query = query.where(Case.right == wanted.right.value)
    if wanted.urgent is not None:
        query = query.where(Case.urgent == wanted.urgent)
    if wanted.due_before is not None:
        query = query.where(col(Case.plan_date) < wanted.due_before)
    if wanted.after is not None:
        query = query.where(tuple_(col(Case.plan_date), col(Case.id)) > _place(wanted.after))
    async with desk.database.read(organisation_id) as session:
        cases = (await session.exec(query)).all()
    page = cases[: wanted.limit]
    more = len(cases) > wanted.limit
    return {
        "cases": [summary(case) for case in page],
        "next": f"{page[-1].plan_date}~{page[-1].id}" if more else None,
    }


def _place(after: str) -> tuple[date, str]:
    day, _, case_id = after.partition("~")
    try:
        return date.fromisoformat(day), case_id
    except ValueError:
        raise Malformed("`after` is the `next` of the page before") from None


def summary(case: Case) -> dict[str, Any]:
    """A case without who it is about."""
    waits = {
        "identity": case.identity in {"unproven", "asked"},
        "clarification": case.awaits_clarification,
        "task": case.awaits_task,
        "approval": case.awaits_approval,
    }
    return {
        "id": case.id,
        "reference": case.reference,
        "version": case.version,
        "right": case.right,
        "state": case.state,
        "outcome": case.outcome,
        "channel": case.channel,
        "language": case.language,
        "urgent": case.urgent,
        "received_at": case.received_at.isoformat(),
        "due": case.due and case.due.isoformat(),
        "paused": case.due is None,
        "plan_date": case.plan_date.isoformat(),
        "promise_due": case.promise_due and case.promise_due.isoformat(),
        "identity": case.identity,
        "outstanding": [name for name, waiting in waits.items() if waiting and case.closed_at is None],
        "order_id": case.order_id,
        "package": case.package,
        "closed_at": case.closed_at and case.closed_at.isoformat(),
    }


async def for_handler(desk: Desk, organisation_id: str, case_id: str, *, actor: str) -> tuple[Case, dict[str, Any]]:
    """Return everything on a case, the person too; the reading is a ledger entry."""
    async with desk.database.write(organisation_id) as session:
        case = await get_case(session, case_id)
        await ledger.record(
            session, organisation_id=organisation_id, service="intake", kind="case.read", actor=actor, case_id=case_id,
            case_version=case.version, at=desk.now(),
        )  # fmt: skip
    async with desk.database.read(organisation_id) as session:
        body = summary(case) | await _parts(desk, session, case)
    person = desk.person(case)
    allowed = [verb for verb, rule in TRANSITIONS.items() if CaseState(case.state) in rule.sources]
    return case, body | {"person": person, "verbs": sorted(set(allowed) - _NOT_FOR_HANDLERS)}


_NOT_FOR_HANDLERS = {"verify", "locate", "decide", "release", "return", "collect", "offer-identifiers", "reopen"}


async def _parts(desk: Desk, session: ReadSession, case: Case) -> dict[str, Any]:
    identifiers = (await session.exec(select(Identifier).where(Identifier.case_id == case.id))).all()
    clock = (
        await session.exec(select(ClockEvent).where(ClockEvent.case_id == case.id).order_by(col(ClockEvent.at)))
    ).all()
    letters = (await session.exec(select(Letter).where(Letter.case_id == case.id).order_by(col(Letter.id)))).all()
    decisions = (
        await session.exec(select(Decision).where(Decision.case_id == case.id).order_by(col(Decision.id)))
    ).all()
    receipts = (await session.exec(select(Receipt).where(Receipt.order_id == case.order_id))).all()
    return {
        "identifiers": [
            {"type": row.type, "value": _masked(desk, row), "assurance": Assurance(row.assurance).name.lower(),
             "proven_by": row.proven_by}
            for row in identifiers
        ],
        "clock": [{"kind": row.kind, "at": row.at.isoformat(), "reason": row.reason} for row in clock],
        "letters": [
            {"id": row.id, "kind": row.kind, "state": row.state, "code": row.code,
             "sent_at": row.sent_at and row.sent_at.isoformat()}
            for row in letters
        ],
        "decisions": [
            row.model_dump(include={"system", "entity", "purpose", "outcome", "article", "reason", "records"})
            for row in decisions
        ],
        "systems": [
            {"system": row.system, "state": row.state, "code": row.facts["code"], "groups": row.facts["groups"]}
            for row in receipts
        ],
    }  # fmt: skip


def _masked(desk: Desk, row: Identifier) -> str:
    """A national number is shown as DDMMYY-xxxx (law.md §10)."""
    value = desk.sealer.open(row.organisation_id, "identifier", row.id, row.value).decode()
    return f"{value[:6]}-xxxx" if row.type == "cpr" else value


Written = Callable[[Desk, str, str], Awaitable[tuple[Letter, Composed | None]]]


async def letter(desk: Desk, organisation_id: str, case_id: str, letter_id: str, written: Written) -> dict[str, Any]:
    """Return a letter that a handler prints and posts. A one-time code is never shown to a handler."""
    async with desk.database.read(organisation_id) as session:
        row = (await session.exec(select(Letter).where(Letter.id == letter_id, Letter.case_id == case_id))).first()
    if row is None:
        raise CaseNotFound
    found, composed = await written(desk, organisation_id, letter_id)
    body: dict[str, Any] = {"id": found.id, "kind": found.kind, "state": found.state}
    if composed is not None:
        body |= {"subject": composed.subject, "text": composed.text, "html": composed.html}
    return body

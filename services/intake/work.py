"""How does a proven request become an answer? Plan, locate, decide, approve, release (design §3)."""

from collections import Counter
from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import delete, func, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col, select

from services.intake import orders, rights
from services.intake.cases import change, proven_enough, queue_letters
from services.intake.desk import Desk
from services.intake.tables import Case, Decision, Identifier, Order, Receipt
from shared import messages
from shared.database import ReadSession, WriteSession
from shared.ids import new_id
from shared.problems import Conflict, Forbidden, NotFound, Problem, Unavailable
from shared.register import Register
from shared.vocabulary import EXECUTED, FINAL_TASK_STATES, Assurance, CaseState, Outcome, Right, TaskState


class NotProven(Conflict):
    """Nothing is looked up or handed over before the requester is proven (design §1.8)."""

    code = "identity-not-proven"


class NobodyAlone(Forbidden):
    """Whoever confirmed the identity alone may not also approve the answer: another handler must."""

    code = "second-person-needed"


class NotWaiting(Conflict):
    """This case does not wait for an approval."""

    code = "nothing-to-approve"


class AssuranceTooLow(Conflict):
    """Something that was found demands a stronger proof of identity: record a documented check, then approve."""

    code = "assurance-too-low"


class TasksOpen(Conflict):
    """A system is still being searched; complete or give up its task first."""

    code = "tasks-open"


async def plan(desk: Desk, session: WriteSession, case: Case, *, actor: str) -> Case:
    """Start (or start again) the search for a proven person, in the caller's transaction."""
    if not proven_enough(case):
        raise NotProven
    await _not_releasing(session, case)
    await session.exec(delete(Decision).where(col(Decision.case_id) == case.id))
    order_id = await orders.start(desk, session, case)
    return await change(
        session, case, "plan", actor=actor, at=desk.now(), data={"order": order_id}, order_id=order_id,
        awaits_approval=False, awaits_task=False,
    )  # fmt: skip


async def receive(
    desk: Desk, organisation: str, order_id: str, task_id: str, attempt: int, receipt: messages.Receipt
) -> None:
    """Take a receipt of the locator. Idempotent, in any order; a lower attempt than the known one changes nothing.

    When the last one is in, the case is decided in the same transaction. Raises `NotFound` for an unknown order.
    """
    async with desk.database.write(organisation) as session:
        # Locked: of two last receipts at once, each would else miss the other's and nobody would decide.
        order = (await session.exec(select(Order).where(Order.id == order_id).with_for_update())).first()
        if order is None or order.case_id != receipt.case_id:
            raise NotFound
        if order.state in {"cancelled", "cancelling"} or not await _keep(
            desk, session, order, task_id, attempt, receipt
        ):
            return
        if receipt.tasks is not None:
            order.tasks = receipt.tasks  # written when the transaction ends
        await _on_file(session, order.case_id, receipt)
        states = await _states(session, order_id)
        if TaskState.NEEDS_PERSON in states.values():
            await _await_task(session, order.case_id)
        if order.tasks is not None and len(states) >= order.tasks and FINAL_TASK_STATES.issuperset(states.values()):
            await _located(desk, session, order)


async def _keep(
    desk: Desk, session: WriteSession, order: Order, task_id: str, attempt: int, receipt: messages.Receipt
) -> bool:
    """Insert or replace the task's receipt; whether it was news."""
    values: dict[str, Any] = {
        "task_id": task_id, "organisation_id": order.organisation_id, "order_id": order.id, "attempt": attempt,
        "system": receipt.system, "state": receipt.state.value, "at": receipt.finished_at,
        "facts": {"groups": [group.model_dump() for group in receipt.groups], "code": receipt.code,
                  "identifier_types": list(receipt.identifier_types)},
    }  # fmt: skip
    upsert = (postgresql if desk.database.dialect == "postgresql" else sqlite).insert(Receipt).values(values)
    done = await session.exec(
        upsert.on_conflict_do_update(
            index_elements=["task_id"],
            set_={name: upsert.excluded[name] for name in ("attempt", "state", "facts", "at")},
            where=col(Receipt.attempt) < upsert.excluded.attempt,
        ).returning(col(Receipt.task_id))
    )
    return done.first() is not None


async def _on_file(session: WriteSession, case_id: str, receipt: messages.Receipt) -> None:
    """A controlled identifier that a system holds where the person cannot edit it alone is on file (design §1.8).

    A receipt names types. Where two of a type were searched, it does not say which of them the system holds.
    """
    searched = select(Identifier.id, Identifier.type, Identifier.assurance).where(
        Identifier.case_id == case_id,
        col(Identifier.type).in_(receipt.on_file),
        col(Identifier.assurance) >= int(Assurance.CONTROLLED),
    )
    rows = (await session.exec(searched)).all() if receipt.on_file else ()
    of_type = Counter(kind for _id, kind, _level in rows)
    meant = [id_ for id_, kind, level in rows if level == Assurance.CONTROLLED and of_type[kind] == 1]
    if meant:
        await session.exec(
            update(Identifier)
            .where(col(Identifier.id).in_(meant))
            .values(assurance=int(Assurance.ON_FILE), proven_by=f"system:{receipt.system}")
        )


async def _states(session: WriteSession | ReadSession, order_id: str) -> dict[str, TaskState]:
    rows = (await session.exec(select(Receipt.task_id, Receipt.state).where(Receipt.order_id == order_id))).all()
    return {task: TaskState(state) for task, state in rows}


async def _await_task(session: WriteSession, case_id: str) -> None:
    await session.exec(
        update(Case).where(col(Case.id) == case_id, col(Case.awaits_task).is_(False)).values(awaits_task=True)
    )


async def _located(desk: Desk, session: WriteSession, order: Order) -> None:
    """Everything is searched: decide, then release or wait for a person."""
    moved = await session.exec(
        update(Order)
        .where(col(Order.id) == order.id, col(Order.state).in_(("pending", "sent")))
        .values(state="located")
    )
    if moved.rowcount != 1:
        return
    case, now = (await session.exec(select(Case).where(Case.id == order.case_id))).one(), desk.now()
    if Right(case.right) not in EXECUTED:
        await change(session, case, "locate", actor="service:locator", at=now, awaits_task=False, awaits_approval=True)
        return
    register = (await desk.registers.cited(case.organisation_id, case.register_version)).register
    receipts = (await session.exec(select(Receipt).where(Receipt.order_id == order.id))).all()
    decided = await _decide(session, case, order, register, receipts)
    states, known = _by_system(receipts), facts(receipts)
    person = rights.needs_person(Right(case.right), register, decided, known, states)
    person = person or await _level(session, case) < rights.demanded(register, known)
    # A doubt that came up meanwhile, or a handler's word alone, is never released by itself.
    person = person or not proven_enough(case) or bool(await _identified_by(session, case))
    case = await change(
        session, case, "decide", actor="automatic", at=now, awaits_task=False, awaits_approval=person,
        data={"groups": len(decided), "records": sum(fact.records for fact in known),
              "approval": "person" if person else "automatic"},
    )  # fmt: skip
    if not person:
        await _release(desk, session, order, actor="automatic")


async def _decide(
    session: WriteSession, case: Case, order: Order, register: Register, receipts: Sequence[Receipt]
) -> tuple[rights.GroupDecision, ...]:
    decided = rights.decide(Right(case.right), register, facts(receipts))
    await session.exec(delete(Decision).where(col(Decision.case_id) == case.id))
    if decided:
        rows = [
            {"id": new_id(), "organisation_id": case.organisation_id, "case_id": case.id, "order_id": order.id,
             "system": item.system, "entity": item.entity, "purpose": item.purpose, "outcome": item.outcome.value,
             "article": item.article, "reason": item.reason, "records": item.records}
            for item in decided
        ]  # fmt: skip
        await session.put(Decision, *rows)
    return decided


def facts(receipts: Sequence[Receipt]) -> list[rights.Facts]:
    """Return what the systems told, one entry for each system and entity (rounds added up)."""
    found: dict[tuple[str, str], rights.Facts] = {}
    for receipt in receipts:
        for group in receipt.facts["groups"]:
            place = (receipt.system, group["entity"])
            before = found.get(place, rights.Facts(*place, records=0))
            found[place] = rights.Facts(
                *place,
                records=before.records + group["records"],
                doubtful=before.doubtful + group["doubtful"],
                to_open=before.to_open + group["to_open"],
            )
    return list(found.values())


def _by_system(receipts: Sequence[Receipt]) -> dict[str, TaskState]:
    """Return each system's state; one round that failed outweighs others that found something."""
    order = (TaskState.NOTHING, TaskState.FOUND, TaskState.CANCELLED, TaskState.NOT_SEARCHED)
    states: dict[str, TaskState] = {}
    for receipt in receipts:
        new, old = TaskState(receipt.state), states.get(receipt.system, TaskState.NOTHING)
        states[receipt.system] = max(new, old, key=order.index)
    return states


async def approve(desk: Desk, session: WriteSession, case: Case, *, actor: str) -> Case:
    """A person approves the decisions; the package is sealed next. Raises `NobodyAlone`, `NotWaiting`, `TasksOpen`."""
    if Right(case.right) not in EXECUTED:
        raise NotWaiting("a person carries this right out: close the case with its outcome")
    if not proven_enough(case):
        raise NotProven
    if actor in await _identified_by(session, case):
        raise NobodyAlone
    if case.awaits_task:
        raise TasksOpen
    order = await _order(session, case)
    if not case.awaits_approval or order is None or order.state != "located":
        raise NotWaiting
    register = (await desk.registers.cited(case.organisation_id, case.register_version)).register
    receipts = (await session.exec(select(Receipt).where(Receipt.order_id == order.id))).all()
    if await _level(session, case) < rights.demanded(register, facts(receipts)):
        raise AssuranceTooLow
    case = await change(session, case, "approve", actor=actor, at=desk.now(), awaits_approval=False)
    await _release(desk, session, order, actor=actor)
    return case


async def _level(session: WriteSession, case: Case) -> int:
    """Return the strongest assurance that the case's person has given."""
    strongest = select(func.max(Identifier.assurance)).where(Identifier.case_id == case.id)
    return (await session.exec(strongest)).one() or 0


async def _identified_by(session: WriteSession, case: Case) -> set[str]:
    """The handlers by whose word the person is known: of each identifier, whoever proved the identity last."""
    proven = select(Identifier.proven_by).where(
        Identifier.case_id == case.id, col(Identifier.proven_by).startswith("handler:")
    )
    found = {actor for actor in (await session.exec(proven)).all() if actor}
    return found | ({case.identity_by} if (case.identity_by or "").startswith("handler:") else set())  # type: ignore[arg-type]


async def given_up(session: WriteSession, case: Case) -> bool:
    """Whether a system of the case's order was not searched or not treated."""
    wanted = select(Receipt.task_id).where(
        Receipt.order_id == case.order_id, Receipt.state == TaskState.NOT_SEARCHED.value
    )
    return (await session.exec(wanted)).first() is not None


async def _order(session: WriteSession | ReadSession, case: Case) -> Order | None:
    if case.order_id is None:
        return None
    return (await session.exec(select(Order).where(Order.id == case.order_id))).first()


async def _not_releasing(session: WriteSession, case: Case) -> None:
    order = await _order(session, case)
    if order is not None and order.state == "releasing":  # a sealed one ended the case; reopened, it is searched anew
        raise Conflict("the answer is already approved", code="already-approved")


async def _release(desk: Desk, session: WriteSession, order: Order, *, actor: str) -> None:
    attempt = order.attempt + 1
    await session.exec(
        update(Order)
        .where(col(Order.id) == order.id, col(Order.state) == "located")
        .values(state="releasing", attempt=attempt, next_at=desk.now() + orders.LEASE, released_by=actor)
    )
    await desk.engine.enqueue(
        session, orders.RELEASE, organisation_id=order.organisation_id, id=order.id, attempt=attempt
    )


async def release(desk: Desk, organisation: str, order_id: str, attempt: int) -> None:
    """Engine handler: have the exporter seal the package, then end the case and announce the answer."""
    order, case = await orders.read(desk, organisation, order_id)
    if order.state != "releasing" or order.attempt != attempt:
        return
    if not proven_enough(case):  # somebody recorded a doubt after the approval
        await _hand_back(desk, order, NotProven.code)
        return
    register = (await desk.registers.cited(organisation, case.register_version)).register
    async with desk.database.read(organisation) as session:
        receipts = (await session.exec(select(Receipt).where(Receipt.order_id == order_id))).all()
        decided = (await session.exec(select(Decision).where(Decision.order_id == order_id))).all()
    body = _release_message(desk, register, order, case, receipts, decided)
    try:
        answer = await desk.post.send(
            "exporter", "PUT", f"/packages/{order_id}/release", organisation=organisation, body=body
        )
    except Problem as problem:
        await _not_released(desk, order, problem)
        return
    await _released(desk, order, case, receipts, messages.Sealed.model_validate(answer))


def _release_message(
    desk: Desk, register: Register, order: Order, case: Case, receipts: Sequence[Receipt], decided: Sequence[Decision]
) -> messages.Release:
    zone = ZoneInfo(register.organisation.timezone)
    counts: dict[str, int] = {}
    for fact in facts(receipts):
        counts[fact.system] = counts.get(fact.system, 0) + fact.records
    codes = {receipt.system: receipt.facts["code"] for receipt in receipts if receipt.facts["code"]}
    return messages.Release(
        released_by=order.released_by or "automatic",
        name=desk.person(case)["name"],
        received_on=case.received_at.astimezone(zone).date().isoformat(),
        answered_on=desk.now().astimezone(zone).date().isoformat(),
        searched=tuple(
            messages.Searched(system=system, state=state, records=counts.get(system, 0), code=codes.get(system))
            for system, state in _by_system(receipts).items()
        ),
        decisions=tuple(
            messages.Decision(
                system=item.system, entity=item.entity, purpose=item.purpose, outcome=Outcome(item.outcome),
                article=item.article, reason=item.reason, records=item.records,
            )
            for item in decided
        ),
        search_terms=tuple(sorted({kind for receipt in receipts for kind in receipt.facts["identifier_types"]})),
    )  # fmt: skip


async def _not_released(desk: Desk, order: Order, problem: Problem) -> None:
    """What passes is tried again; what does not, such as unopened free text, goes back to a person."""
    if isinstance(problem, Unavailable) or problem.problem_code == "sealing":
        await orders.put_off(desk, order)
        raise problem
    await _hand_back(desk, order, problem.problem_code)


async def _hand_back(desk: Desk, order: Order, code: str) -> None:
    async with desk.database.write(order.organisation_id) as session:
        moved = await session.exec(
            update(Order)
            .where(col(Order.id) == order.id, col(Order.attempt) == order.attempt, col(Order.state) == "releasing")
            .values(state="located")
        )
        if moved.rowcount == 1:
            case = (await session.exec(select(Case).where(Case.id == order.case_id))).one()
            await change(
                session, case, "return", actor="service:exporter", at=desk.now(), awaits_approval=True,
                data={"code": code},
            )  # fmt: skip


async def _released(desk: Desk, order: Order, case: Case, receipts: Sequence[Receipt], sealed: messages.Sealed) -> None:
    organisation = order.organisation_id
    async with desk.database.write(organisation) as session:
        moved = await session.exec(
            update(Order)
            .where(col(Order.id) == order.id, col(Order.attempt) == order.attempt, col(Order.state) == "releasing")
            .values(state="sealed")
        )
        if moved.rowcount != 1:
            return
        case = (await session.exec(select(Case).where(Case.id == order.case_id))).one()
        decided = (await session.exec(select(Decision).where(Decision.order_id == order.id))).all()
        groups = [
            rights.GroupDecision(d.system, d.entity, d.purpose, Outcome(d.outcome), d.article, d.reason, d.records)
            for d in decided
        ]
        outcome = rights.ending(groups, withheld=sealed.withheld + sealed.unbound, states=_by_system(receipts))
        to = CaseState.PARTLY_FULFILLED if outcome is Outcome.PARTLY_GRANTED else CaseState.FULFILLED
        case = await change(
            session, case, "release", to=to, actor=order.released_by or "automatic", at=desk.now(),
            outcome=outcome.value, package="sealed", package_expires=sealed.expires_at.date(),
            data={"records": sealed.records, "withheld": sealed.withheld, "unbound": sealed.unbound,
                  "bytes": sealed.bytes, "sha256": sealed.sha256, "outcome": outcome.value},
        )  # fmt: skip
        # What was found but is left out was found all the same: only where nothing was, a letter may say so.
        nothing = not groups and not sealed.records
        await queue_letters(session, case, ["nothing_held" if nothing else "ready"], desk.now())


async def collected(desk: Desk, organisation: str, order_id: str) -> None:
    """The exporter tells that the person has the package. Idempotent."""
    async with desk.database.write(organisation) as session:
        query = select(Case).where(Case.order_id == order_id)
        case = (await session.exec(query)).first()
        if case is None:
            raise NotFound
        if case.package != "sealed":
            return
        case = await change(
            session,
            case,
            "collect",
            actor=f"subject:{case.id}",
            at=desk.now(),
            package="collected",
            package_collected_at=desk.now(),
        )
        await queue_letters(session, case, ["collected"], desk.now())


async def expire(desk: Desk) -> None:
    """Note on cases that their package was destroyed uncollected: the status page must not promise it any longer."""
    today = desk.now().date()
    async with desk.database.write(None) as session:
        await session.exec(
            update(Case)
            .where(col(Case.package) == "sealed", col(Case.package_expires) < today)
            .values(package="destroyed", version=Case.version + 1)
        )

"""What does a handler do to a case? One function a verb, each one transaction, each with its ledger entry."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from services.intake import cases, orders, work
from services.intake.cases import GivenIdentifier, Prose, change, get_case, move_clock, queue_letters
from services.intake.desk import Desk
from services.intake.tables import Case
from shared.database import WriteSession
from shared.identifiers import BadIdentifier
from shared.problems import Conflict, Invalid, PreconditionFailed
from shared.register import Register
from shared.vocabulary import EXECUTED, Assurance, CaseState, Outcome, Right


class Urgent(Conflict):
    """Marketing stops and a withdrawn consent ends at once: no proof is asked for, and nothing waits (21(3), 7(3))."""

    code = "urgent"


class Input(BaseModel):
    """Base of the verbs' bodies: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ConfirmIdentity(Input):
    """A documented check: how, and which identifiers are now proven."""

    method: Literal["known_customer", "callback", "counter", "document_seen", "digital_signature", "other"]
    identifiers: Annotated[tuple[GivenIdentifier, ...], Field(min_length=1, max_length=cases.MOST_IDENTIFIERS)]


class Ask(Input):
    """A question to the person, in the handler's own words."""

    words: Prose
    pause: bool = True
    """Whether the clock stops: a recorded doubt (12(6)), or for access a necessary clarification (recital 63)."""


class AskIdentity(Ask):
    """A question about who asks. Only reasonable doubt allows it: the handler says which, and the ledger keeps it."""

    doubt: Literal["name_differs", "contact_unknown", "contact_changed", "shared_contact", "sensitive_data", "other"]


class Resume(Input):
    """The answer has come. `answered_at` when it came earlier than now."""

    answered_at: AwareDatetime | None = None


class Extend(Input):
    """Two further months, with reasons, told within the first (Art. 12(3))."""

    ground: Literal["complexity", "number_of_requests"]
    words: Prose


class Refuse(Input):
    """A refusal by a person, with facts and provision (Art. 12(4), law.md §1.3)."""

    article: Annotated[str, Field(pattern=r"^[0-9]{1,2}(\([0-9a-z]\)){0,2}$")]
    reason: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9:-]{2,59}$")]
    refused: Prose
    words: Prose
    provision: Annotated[str, Field(min_length=3, max_length=200)]


class Close(Input):
    """How a right ended that a person carried out; `words` tell the person what was done, or why not.

    Less than `granted` needs `words` and `provision`; `refused` says what is refused and `done` what was done anyway.
    """

    outcome: Literal["granted", "partly_granted", "refused"]
    words: Prose | None = None
    refused: Prose | None = None
    done: Prose | None = None
    provision: Annotated[str, Field(min_length=3, max_length=200)] | None = None


class Nothing(Input):
    """No body."""


async def confirm_identity(desk: Desk, session: WriteSession, case: Case, body: ConfirmIdentity, actor: str) -> Case:
    """Record a documented check of who asks, and start the search."""
    register = (await desk.registers.cited(case.organisation_id, case.register_version)).register
    identifiers = _normal(register, body.identifiers)
    values: dict[str, Any] = {}
    if case.identity == "asked":
        values = {"collection_hash": None}  # whoever was doubted may hold the code: the person is told a new one
    if case.identity == "asked" and case.due is None:
        values |= await move_clock(session, case, register, "resume", at=desk.now(), actor=actor, reason="identity")
    case = await change(
        session, case, "confirm-identity", to=CaseState.IN_PROGRESS, actor=actor, at=desk.now(), identity="proven",
        identity_by=actor, data={"method": body.method, "identifiers": sorted({kind for kind, _ in identifiers})},
        **values,
    )  # fmt: skip
    await cases.add_identifiers(desk, session, case, identifiers, Assurance.DOCUMENTED, actor)
    return await work.plan(desk, session, case, actor=actor)


def _normal(register: Register, given: tuple[GivenIdentifier, ...]) -> list[tuple[str, str]]:
    found, errors = [], []
    for n, item in enumerate(given):
        try:
            found.append((item.type, cases.normal_value(register, item.type, item.value)))
        except BadIdentifier as error:
            errors.append({"pointer": f"/identifiers/{n}/value", "detail": str(error)})
    if errors:
        raise Invalid(errors=tuple(errors))
    return found


async def offer_identifiers(
    desk: Desk, session: WriteSession, case: Case, given: tuple[GivenIdentifier, ...], actor: str
) -> Case:
    """The person offers more to be found by (Art. 11(2)). Claimed only: a handler proves them, or a code does.

    After an answer that found nothing, or whose package is gone, the case is worked on again. Raises `WrongState`.
    """
    if _may_reopen(case):
        case = await change(
            session, case, "reopen", actor=actor, at=desk.now(), outcome=None, closed_at=None, package=None,
            package_expires=None, package_collected_at=None,
        )  # fmt: skip
    register = (await desk.registers.cited(case.organisation_id, case.register_version)).register
    case = await change(
        session, case, "offer-identifiers", actor=actor, at=desk.now(), data={"identifiers": len(given)}
    )
    await cases.add_identifiers(desk, session, case, _normal(register, given), Assurance.CLAIMED, None)
    return case


def _may_reopen(case: Case) -> bool:
    """An answer that waits to be collected stays as it is: a new request brings the rest."""
    answered = CaseState(case.state) in {CaseState.FULFILLED, CaseState.PARTLY_FULFILLED}
    waits = case.package == "sealed" and case.outcome != Outcome.NOT_FOUND
    return answered and Right(case.right) in EXECUTED and not waits


async def ask_identity(desk: Desk, session: WriteSession, case: Case, body: AskIdentity, actor: str) -> Case:
    """A person records reasonable doubt about who asks; only that pauses the clock (12(6))."""
    _not_urgent(case)
    return await _ask(desk, session, case, body, actor, "identity", {"identity": "asked"})


async def ask_clarification(desk: Desk, session: WriteSession, case: Case, body: Ask, actor: str) -> Case:
    """Ask the person to specify. Only access to a large quantity of data may wait for the answer (recital 63)."""
    if body.pause and Right(case.right) is not Right.ACCESS:
        raise Invalid(errors=({"pointer": "/pause", "detail": "only access may wait for a clarification"},))
    return await _ask(desk, session, case, body, actor, "clarification", {"awaits_clarification": True})


async def _ask(
    desk: Desk, session: WriteSession, case: Case, body: Ask, actor: str, about: str, values: dict[str, Any]
) -> Case:
    register, now = (await desk.registers.cited(case.organisation_id, case.register_version)).register, desk.now()
    if body.pause:
        values = values | await move_clock(session, case, register, "suspend", at=now, actor=actor, reason=about)
    case = await change(
        session,
        case,
        f"ask-{about}",
        actor=actor,
        at=now,
        data={"paused": values.get("due", case.due) is None, "doubt": getattr(body, "doubt", None)},
        **values,
    )
    await _letter(desk, session, case, "question", {"asks": about, "words": body.words})
    return case


async def resume(desk: Desk, session: WriteSession, case: Case, body: Resume, actor: str) -> Case:
    """The answer came: the clock runs on. A recorded doubt is settled by a documented check, not by this."""
    register, now = (await desk.registers.cited(case.organisation_id, case.register_version)).register, desk.now()
    at: datetime = body.answered_at or now
    if at > now:
        raise Invalid(errors=({"pointer": "/answered_at", "detail": "must not lie in the future"},))
    if case.due is not None:
        raise Conflict("the clock is not paused", code="clock")
    values = await move_clock(session, case, register, "resume", at=at, actor=actor, reason=None)
    return await change(
        session,
        case,
        "resume",
        actor=actor,
        at=now,
        awaits_clarification=False,
        data={"due": str(values["due"])},
        **values,
    )


async def extend(desk: Desk, session: WriteSession, case: Case, body: Extend, actor: str) -> Case:
    """Extend by two months; the notice with the reasons goes out in the same transaction."""
    _not_urgent(case)
    register, now = (await desk.registers.cited(case.organisation_id, case.register_version)).register, desk.now()
    before, values = (
        case.due,
        await move_clock(session, case, register, "extend", at=now, actor=actor, reason=body.ground),
    )
    case = await change(
        session, case, "extend", actor=actor, at=now, data={"ground": body.ground, "due": str(values["due"])}, **values
    )
    await _letter(desk, session, case, "extension", {"due": str(before), "new_due": str(case.due), "words": body.words})
    return case


async def plan(desk: Desk, session: WriteSession, case: Case, _body: Nothing, actor: str) -> Case:
    """Search again, with every identifier that is proven by now."""
    return await work.plan(desk, session, case, actor=actor)


async def approve(desk: Desk, session: WriteSession, case: Case, _body: Nothing, actor: str) -> Case:
    """Approve the decisions; the package is sealed and the person is told."""
    return await work.approve(desk, session, case, actor=actor)


async def refuse(desk: Desk, session: WriteSession, case: Case, body: Refuse, actor: str) -> Case:
    """Refuse the whole request, by a person, with a letter that shows the way to complain."""
    case = await _end(desk, session, case, "refuse", actor, CaseState.REFUSED, Outcome.REFUSED,
                      {"article": body.article, "reason": body.reason})  # fmt: skip
    await _letter(
        desk, session, case, "refusal", {"refused": body.refused, "words": body.words, "provision": body.provision}
    )
    return case


async def close(desk: Desk, session: WriteSession, case: Case, body: Close, actor: str) -> Case:
    """End a right that a person carried out through tasks."""
    if Right(case.right) in EXECUTED:
        raise Conflict("this right ends when its answer is released", code="wrong-state")
    if case.awaits_task or not case.awaits_approval:
        raise work.TasksOpen
    if body.outcome == "granted" and await work.given_up(session, case):
        raise Conflict("a system was given up: close it as partly granted, with the provision", code="not-all-done")
    if body.outcome != "granted" and not (body.words and body.provision):
        raise Invalid(errors=({"pointer": "/words", "detail": "a refusal needs its facts and its provision (12(4))"},))
    state = {"granted": CaseState.FULFILLED, "partly_granted": CaseState.PARTLY_FULFILLED, "refused": CaseState.REFUSED}
    case = await _end(desk, session, case, "close", actor, state[body.outcome], Outcome(body.outcome), {})
    if body.outcome == "granted":
        await _letter(desk, session, case, "done", {"words": body.words})
    else:
        facts = {"refused": body.refused, "words": body.words, "provision": body.provision, "done_anyway": body.done}
        await _letter(desk, session, case, "refusal", facts | {"partly": body.outcome == "partly_granted"})
    return case


async def withdraw(desk: Desk, session: WriteSession, case: Case, _body: Nothing, actor: str) -> Case:
    """The person takes the request back; what was found is forgotten."""
    case = await _end(desk, session, case, "withdraw", actor, CaseState.WITHDRAWN, Outcome.WITHDRAWN, {})
    await queue_letters(session, case, ["withdrawn"], desk.now())
    return case


async def lapse(desk: Desk, session: WriteSession, case: Case, _body: Nothing, actor: str) -> Case:
    """Close a request whose requester never proved who they are (12(2), 12(6)); by a person, with the letter of 12(4)."""
    case = await _end(desk, session, case, "lapse", actor, CaseState.LAPSED, None, {})
    await queue_letters(session, case, ["lapsed"], desk.now())
    return case


async def _end(
    desk: Desk, session: WriteSession, case: Case, verb: str, actor: str, to: CaseState, outcome: Outcome | None,
    data: dict[str, Any],
) -> Case:  # fmt: skip
    await orders.cancel(desk, session, case)
    return await change(
        session, case, verb, to=to, actor=actor, at=desk.now(), outcome=outcome and outcome.value, data=data
    )


def _not_urgent(case: Case) -> None:
    if case.urgent:
        raise Urgent


async def _letter(desk: Desk, session: WriteSession, case: Case, kind: str, facts: dict[str, Any]) -> None:
    sealed = desk.seal(case.organisation_id, "letter", case.id, facts)
    await queue_letters(session, case, [kind], desk.now(), sealed)


Verb = Callable[[Desk, WriteSession, Case, Any, str], Awaitable[Case]]

VERBS: dict[str, tuple[type[Input], Verb]] = {
    "confirm-identity": (ConfirmIdentity, confirm_identity),
    "ask-identity": (AskIdentity, ask_identity),
    "ask-clarification": (Ask, ask_clarification),
    "resume": (Resume, resume),
    "extend": (Extend, extend),
    "plan": (Nothing, plan),
    "approve": (Nothing, approve),
    "refuse": (Refuse, refuse),
    "close": (Close, close),
    "withdraw": (Nothing, withdraw),
    "lapse": (Nothing, lapse),
}
"""What `POST /cases/{id}/{verb}` knows. `collection-code` answers with a code and stands by itself."""


async def act(
    desk: Desk, organisation: str, case_id: str, verb: str, body: Input, *, actor: str, version: int | None
) -> Case:
    """Do a verb in one transaction. `version` is the caller's If-Match. Raises what the verb raises."""
    _model, function = VERBS[verb]
    async with desk.database.write(organisation) as session:
        case = await get_case(session, case_id)
        if version is not None and version != case.version:
            raise PreconditionFailed
        return await function(desk, session, case, body, actor)

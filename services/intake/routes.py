"""Intake's door: parse, call, answer. Callers are the gateway's principals and the other services."""

from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from services.intake import handling, notify, reading, verification, work
from services.intake.cases import (
    MOST_IDENTIFIERS,
    GivenIdentifier,
    HandlerOpening,
    Opened,
    Opening,
    find_case,
    get_case,
    open_case,
)
from services.intake.desk import Desk
from services.intake.letters import outbox
from services.intake.tables import Case
from shared import ledger, messages
from shared.ids import parse_reference
from shared.problems import Conflict, Forbidden, Invalid, NotFound
from shared.service import Caller, CallerDep, names_in, told
from shared.vocabulary import CaseState, Channel, Language, Right

router = APIRouter()
Id = Annotated[str, Path(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Limit = Annotated[int, Query(ge=1, le=200)]
IdempotencyKey = Annotated[str | None, Header(min_length=8, max_length=200)]
WORKERS = ("handler", "dpo")
READERS = ("handler", "dpo", "auditor", "administrator")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CodeBody(_Body):
    """A one-time code as typed; spaces are fine."""

    code: Annotated[str, StringConstraints(min_length=1, max_length=40)]


class CollectionBody(_Body):
    """The collection code as typed."""

    collection_code: Annotated[str, StringConstraints(min_length=1, max_length=40)]


class OfferBody(_Body):
    """More identifiers that the person may be known by."""

    identifiers: Annotated[tuple[GivenIdentifier, ...], Body(min_length=1, max_length=MOST_IDENTIFIERS)]


def desk_of(request: Request) -> Desk:
    """Return what the app was wired with."""
    desk: Desk = request.app.state.desk
    return desk


def opened_body(opened: Opened) -> dict[str, str]:
    """The answer to whoever asked; the case's id stays inside."""
    body = opened._asdict()
    del body["case_id"]
    return body


# --- the public door -----------------------------------------------------------------------------------------------


@router.post("/requests", status_code=202)
async def open_request(
    request: Request, caller: CallerDep, body: Opening, idempotency_key: IdempotencyKey = None
) -> dict[str, str]:
    system = caller.subject.startswith("system:")
    if not system and caller.subject != "anonymous":
        raise Forbidden("handlers register requests under /cases")
    channel = Channel.API if system else Channel.WEB
    opened = await open_case(
        desk_of(request), caller.organisation, body, channel=channel, actor=caller.subject, key=idempotency_key
    )
    return opened_body(opened)


@router.post("/requests/{reference}/code", status_code=202)
async def send_code(request: Request, caller: CallerDep, reference: str) -> dict[str, str]:
    await verification.resend(desk_of(request), caller.organisation, _reference(reference))
    return {"next_step": "verify"}


@router.post("/requests/{reference}/verification")
async def verify(request: Request, caller: CallerDep, reference: str, body: CodeBody) -> dict[str, Any]:
    _only_gateway(caller)
    proven = await verification.verify(desk_of(request), caller.organisation, _reference(reference), body.code)
    return proven._asdict()


@router.get("/requests/{reference}")
async def status(request: Request, caller: CallerDep, reference: str, lang: Language | None = None) -> dict[str, Any]:
    desk = desk_of(request)
    async with desk.database.read(caller.organisation) as session:
        case = await find_case(session, _reference(reference))
    if caller.subject == "anonymous":
        return await reading.before_proof(desk, case)
    caller.require_case(case.id)
    return await reading.for_person(desk, case, lang)


@router.delete("/requests/{reference}", status_code=204)
async def withdraw(request: Request, caller: CallerDep, reference: str) -> None:
    desk, case = desk_of(request), await _own_case(request, caller, reference)
    await handling.act(
        desk, caller.organisation, case.id, "withdraw", handling.Nothing(), actor=caller.subject, version=None
    )


@router.post("/requests/{reference}/identifiers", status_code=202)
async def offer(request: Request, caller: CallerDep, reference: str, body: OfferBody) -> dict[str, str]:
    desk, case = desk_of(request), await _own_case(request, caller, reference)
    async with desk.database.write(caller.organisation) as session:
        case = await get_case(session, case.id)
        await handling.offer_identifiers(desk, session, case, body.identifiers, caller.subject)
    return {"next_step": "wait"}


@router.post("/requests/{reference}/collection", status_code=204)
async def collection(request: Request, caller: CallerDep, reference: str, body: CollectionBody) -> None:
    case = await _own_case(request, caller, reference)
    await verification.check_collection(desk_of(request), caller.organisation, case.id, body.collection_code)


@router.get("/requests/{reference}/package-id")
async def package_id(request: Request, caller: CallerDep, reference: str) -> dict[str, str]:
    desk, case = desk_of(request), await _own_case(request, caller, reference)
    async with desk.database.read(caller.organisation) as session:
        return {"package_id": await verification.package_of(session, case.id)}


@router.get("/organisation")
async def organisation(request: Request, caller: CallerDep) -> dict[str, Any]:
    return reading.organisation(desk_of(request).registers.current(caller.organisation).register)


async def _own_case(request: Request, caller: Caller, reference: str) -> Case:
    async with desk_of(request).database.read(caller.organisation) as session:
        case = await find_case(session, _reference(reference))
    caller.require_case(case.id)
    return case


def _reference(text: str) -> str:
    reference = parse_reference(text)
    if reference is None:
        raise NotFound
    return reference


def _only_gateway(caller: Caller) -> None:
    if caller.claims.issuer != "gateway":
        raise Forbidden


# --- handlers ------------------------------------------------------------------------------------------------------


@router.get("/cases")
async def list_cases(
    request: Request,
    caller: CallerDep,
    state: CaseState | None = None,
    right: Right | None = None,
    urgent: bool | None = None,  # noqa: FBT001 - a query parameter
    due_before: date | None = None,
    after: Annotated[str | None, Query(max_length=80)] = None,
    limit: Limit = 50,
) -> dict[str, Any]:
    caller.require(*READERS)
    wanted = reading.Wanted(state, right, urgent, due_before, after, limit)
    return await reading.work_list(desk_of(request), caller.organisation, wanted)


@router.post("/cases", status_code=201)
async def register_case(
    request: Request, caller: CallerDep, body: HandlerOpening, idempotency_key: IdempotencyKey = None
) -> dict[str, str]:
    caller.require(*WORKERS)
    opened = await open_case(
        desk_of(request), caller.organisation, body, channel=body.channel, actor=caller.subject,
        received_at=body.received_at, key=idempotency_key,
    )  # fmt: skip
    return {"id": opened.case_id, **opened_body(opened)}


@router.get("/cases/{case_id}")
async def read_case(request: Request, response: Response, caller: CallerDep, case_id: Id) -> dict[str, Any]:
    caller.require("handler", "dpo")
    case, body = await reading.for_handler(desk_of(request), caller.organisation, case_id, actor=caller.subject)
    response.headers["etag"] = f'"{case.version}"'
    return body


@router.get("/cases/{case_id}/package-id")
async def case_package_id(request: Request, caller: CallerDep, case_id: Id) -> dict[str, str]:
    caller.require(*WORKERS)
    async with desk_of(request).database.read(caller.organisation) as session:
        case = await get_case(session, case_id)
    if case.order_id is None:
        raise Conflict("nothing was searched yet", code="not-planned")
    return {"package_id": case.order_id}


@router.get("/cases/{case_id}/letters/{letter_id}")
async def read_letter(request: Request, caller: CallerDep, case_id: Id, letter_id: Id) -> dict[str, Any]:
    caller.require(*WORKERS)
    return await reading.letter(desk_of(request), caller.organisation, case_id, letter_id, outbox.written)


@router.post("/cases/{case_id}/collection-code")
async def new_collection_code(request: Request, caller: CallerDep, case_id: Id) -> dict[str, str]:
    caller.require(*WORKERS)
    code = await verification.renew_collection_code(
        desk_of(request), caller.organisation, case_id, actor=caller.subject
    )
    return {"collection_code": code}


@router.post("/cases/{case_id}/letters/{letter_id}/bounced", status_code=204)
async def note_bounce(request: Request, caller: CallerDep, case_id: Id, letter_id: Id) -> None:
    caller.require(*WORKERS)
    desk = desk_of(request)
    if not await outbox.bounced(desk.database, caller.organisation, letter_id, at=desk.now(), case_id=case_id):
        raise NotFound


@router.post("/cases/{case_id}/{verb}")
async def act(
    request: Request,
    response: Response,
    caller: CallerDep,
    case_id: Id,
    verb: str,
    body: Annotated[dict[str, Any] | None, Body()] = None,
    if_match: Annotated[str | None, Header(pattern=r'^"[0-9]{1,9}"$')] = None,
) -> dict[str, Any]:
    caller.require(*WORKERS)
    if verb not in handling.VERBS:
        raise NotFound
    parsed = _parse(handling.VERBS[verb][0], body or {})
    version = int(if_match.strip('"')) if if_match else None
    case = await handling.act(
        desk_of(request), caller.organisation, case_id, verb, parsed, actor=caller.subject, version=version
    )
    response.headers["etag"] = f'"{case.version}"'
    return reading.summary(case)


def _parse(model: type[handling.Input], body: dict[str, Any]) -> handling.Input:
    try:
        return TypeAdapter(model).validate_python(body)
    except ValidationError as error:
        names = names_in(model.model_json_schema())
        errors = tuple(told(item, names) for item in error.errors(include_input=False, include_url=False))
        raise Invalid(errors=errors) from None


# --- services ------------------------------------------------------------------------------------------------------


@router.get("/registers/{version}")
async def register_version(request: Request, caller: CallerDep, version: str) -> Response:
    """Return the version that a case cites, or the one that new cases cite now (`current`)."""
    caller.require_service("locator", "exporter")
    registers = desk_of(request).registers
    in_force = version == "current"
    found = registers.current(caller.organisation) if in_force else await registers.cited(caller.organisation, version)
    return Response(found.content, media_type="application/json")


@router.put("/orders/{order_id}/receipts/{task_id}/{attempt}", status_code=204)
async def take_receipt(
    request: Request, caller: CallerDep, order_id: Id, task_id: Id, attempt: int, body: messages.Receipt
) -> None:
    caller.require_service("locator")
    if body.organisation_id != caller.organisation:
        raise NotFound
    await work.receive(desk_of(request), caller.organisation, order_id, task_id, attempt, body)


@router.put("/packages/{order_id}/collected", status_code=204)
async def package_collected(request: Request, caller: CallerDep, order_id: Id) -> None:
    caller.require_service("exporter")
    await work.collected(desk_of(request), caller.organisation, order_id)


# --- what happened -------------------------------------------------------------------------------------------------


@router.get("/events")
async def events(
    request: Request, caller: CallerDep, after: Annotated[int, Query(ge=0)] = 0, limit: Limit = 100
) -> dict[str, Any]:
    caller.require("administrator", "auditor", "events")
    async with desk_of(request).database.read(caller.organisation) as session:
        entries = await ledger.page(session, after=after, limit=limit)
    told = [notify.envelope(entry) for entry in entries if notify.is_event(entry)]
    return {"events": told, "after": entries[-1].seq if entries else after}


@router.get("/audit")
async def audit(
    request: Request,
    caller: CallerDep,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Limit = 100,
    case: Annotated[str | None, Query(max_length=36)] = None,
) -> dict[str, Any]:
    caller.require("auditor", "dpo")
    async with desk_of(request).database.read(caller.organisation) as session:
        entries = await ledger.page(session, after=after, limit=limit, case_id=case)
    items = [entry.model_dump(mode="json", exclude={"organisation_id"}) for entry in entries]
    return {"entries": items, "after": entries[-1].seq if entries else after}


@router.get("/audit/verify")
async def audit_verify(request: Request, caller: CallerDep) -> dict[str, Any]:
    caller.require("auditor", "dpo")
    verdict = await ledger.verify(desk_of(request).database, caller.organisation, request.app.state.ledger_key)
    return {
        "whole": verdict.whole,
        "sealed": verdict.sealed,
        "unsealed": verdict.unsealed,
        "broken_at": verdict.broken_at,
    }


@router.post("/webhooks", status_code=201)
async def add_webhook(request: Request, caller: CallerDep, body: notify.NewWebhook) -> dict[str, Any]:
    caller.require("administrator")
    return await notify.add(desk_of(request), caller.organisation, body, actor=caller.subject)


@router.get("/webhooks")
async def list_webhooks(request: Request, caller: CallerDep) -> dict[str, Any]:
    caller.require("administrator")
    return {"webhooks": await notify.listed(desk_of(request), caller.organisation)}


@router.delete("/webhooks/{webhook_id}", status_code=204)
async def remove_webhook(request: Request, caller: CallerDep, webhook_id: Id) -> None:
    caller.require("administrator")
    await notify.remove(desk_of(request), caller.organisation, webhook_id, actor=caller.subject)

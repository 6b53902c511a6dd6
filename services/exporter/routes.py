"""Which doors does the exporter have, and who may use them? Parse, check the caller, call, answer."""

import re
import unicodedata
from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import unquote

import msgspec
from fastapi import APIRouter, Path, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from services.exporter import collection, packages, release, review
from services.exporter.answer import POLICY
from services.exporter.collection import Handover
from services.exporter.means import Means
from services.exporter.packages import Committed, FileLabel, Slot
from services.exporter.review import Marked, Marking, RecordId, Review
from shared.messages import Commit, PackagePlan, PartStored, Release, Sealed
from shared.problems import Forbidden, Invalid, Malformed, TooLarge, WrongType
from shared.service import Caller, CallerDep
from shared.vocabulary import Language, Role

NDJSON, OCTETS = "application/x-ndjson", "application/octet-stream"
REVIEWERS = (Role.HANDLER, Role.DPO)
PRIVATE = {"cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}

_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,63}/[a-z0-9!#$&^_.+-]{1,63}", re.ASCII)

Id = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Number = Annotated[int, Path(ge=0, le=999_999_999)]
Limit = Annotated[int, Query(ge=1, le=1000)]

router = APIRouter()


class UploadCut(Malformed):
    """The upload broke off: send it again."""

    code = "upload-cut"


class BadFileLabel(Invalid):
    """A file needs a name (`habeas-file-name`, percent-encoded UTF-8) and a media type (`habeas-file-type`)."""

    code = "bad-file-label"


def means_of(request: Request) -> Means:
    """What the use cases work with."""
    found: Means = request.app.state.means
    return found


# --- from intake ---------------------------------------------------------------------------------------------------


@router.put("/packages/{package_id}", status_code=204)
async def plan(request: Request, caller: CallerDep, package_id: Id, body: PackagePlan) -> None:
    caller.require_service("intake")
    await packages.plan(means_of(request), caller.organisation, package_id, body)


@router.put("/packages/{package_id}/release")
async def seal(request: Request, caller: CallerDep, package_id: Id, body: Release) -> Sealed:
    caller.require_service("intake")
    return await release.release(means_of(request), caller.organisation, package_id, body)


@router.delete("/packages/{package_id}", status_code=204)
async def destroy(request: Request, caller: CallerDep, package_id: Id) -> None:
    caller.require_service("intake")
    await packages.destroy(means_of(request), caller.organisation, package_id, actor=caller.subject)


# --- from the locator ----------------------------------------------------------------------------------------------


@router.put("/packages/{package_id}/tasks/{task_id}/attempts/{attempt}/parts/{number}")
async def put_part(
    request: Request, caller: CallerDep, package_id: Id, task_id: Id, attempt: Number, number: Number
) -> PartStored:
    caller.require_service("locator")
    means = means_of(request)
    slot = Slot(caller.organisation, package_id, task_id, attempt, number)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == NDJSON:
        _check_length(request, means.settings.part_bytes)
        return await packages.put_records(means, slot, _body(request))
    if kind == OCTETS:
        _check_length(request, means.settings.file_bytes)
        return await packages.put_file(means, slot, _body(request), _label(request))
    raise WrongType


@router.put("/packages/{package_id}/tasks/{task_id}/attempts/{attempt}")
async def commit(
    request: Request, caller: CallerDep, package_id: Id, task_id: Id, attempt: Number, body: Commit
) -> Committed:
    caller.require_service("locator")
    slot = Slot(caller.organisation, package_id, task_id, attempt)
    return await packages.commit(means_of(request), slot, body)


def _check_length(request: Request, limit: int) -> None:
    """Refuse at once what says that it is too large; what does not say so is counted."""
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > limit:
        raise TooLarge


async def _body(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect:
        raise UploadCut from None


def _label(request: Request) -> FileLabel:
    media_type = request.headers.get("habeas-file-type", "").lower()
    try:
        name = unquote(request.headers.get("habeas-file-name", ""), errors="strict")
    except UnicodeDecodeError:
        raise BadFileLabel from None
    hidden = any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in name)
    if not 0 < len(name) <= 255 or hidden or not _MEDIA_TYPE.fullmatch(media_type):
        raise BadFileLabel
    return FileLabel(name, media_type)


# --- from handlers -------------------------------------------------------------------------------------------------


@router.get("/packages/{package_id}/review")
async def show_review(request: Request, caller: CallerDep, package_id: Id) -> Review:
    caller.require(*REVIEWERS)
    return await review.summary(means_of(request), caller.organisation, package_id)


@router.get("/packages/{package_id}/records")
async def list_records(
    request: Request,
    caller: CallerDep,
    package_id: Id,
    system: str | None = None,
    entity: str | None = None,
    after: str | None = None,
    limit: Limit = 50,
) -> Response:
    caller.require(*REVIEWERS)
    query = review.Query(system, entity, RecordId.parse(after) if after else None, limit)
    page = await review.records(means_of(request), caller.organisation, caller.subject, package_id, query)
    return Response(msgspec.json.encode(page), media_type="application/json", headers=PRIVATE)


@router.get("/packages/{package_id}/files/{file_id}")
async def read_file(request: Request, caller: CallerDep, package_id: Id, file_id: str) -> Response:
    caller.require(*REVIEWERS)
    content = await review.file(means_of(request), caller.organisation, caller.subject, package_id, file_id)
    return StreamingResponse(content, media_type=OCTETS, headers={**PRIVATE, "content-disposition": "attachment"})


@router.post("/packages/{package_id}/marks")
async def mark(request: Request, caller: CallerDep, package_id: Id, body: Marking) -> Marked:
    caller.require(*REVIEWERS)
    return await review.mark(means_of(request), caller.organisation, caller.subject, package_id, body)


# --- from the person -----------------------------------------------------------------------------------------------


@router.get("/packages/{package_id}/answer")
async def answer(request: Request, caller: CallerDep, package_id: Id, lang: Language | None = None) -> Response:
    means = means_of(request)
    await _require_person(means, caller, package_id)
    page = await collection.answer(means, caller.organisation, caller.subject, package_id, lang)
    headers = {**PRIVATE, "content-length": str(page.bytes), "content-security-policy": POLICY}
    return StreamingResponse(page.content, media_type="text/html; charset=utf-8", headers=headers)


@router.get("/packages/{package_id}/archive")
async def archive(request: Request, caller: CallerDep, package_id: Id) -> Response:
    means = means_of(request)
    if await _require_person(means, caller, package_id):
        handover = await collection.collect(means, caller.organisation, package_id)
    else:
        handover = await collection.copy(means, caller.organisation, caller.subject, package_id)
    return HandoverResponse(handover)


@router.post("/packages/{package_id}/collected", status_code=204)
async def collected(request: Request, caller: CallerDep, package_id: Id) -> None:
    means = means_of(request)
    download = await _require_person(means, caller, package_id)
    await collection.confirm(means, caller.organisation, caller.subject, package_id, download=download)


async def _require_person(means: Means, caller: Caller, package_id: str) -> bool:
    """Let the person through with the second proof (True), and those who hand over by other means (False)."""
    if caller.claims.roles.intersection(REVIEWERS):
        return False
    package = await collection.package_of(means, caller.organisation, package_id)
    caller.require_case(package.case_id)
    if caller.claims.level != "collect":
        raise Forbidden
    return True


class HandoverResponse(StreamingResponse):
    """Sends a package, and lets go of it in the end, whatever happened to the connection."""

    def __init__(self, handover: Handover) -> None:
        super().__init__(
            aiter(handover),
            media_type="application/zip",
            headers={
                **PRIVATE,
                "content-length": str(handover.size),
                "content-disposition": f'attachment; filename="{handover.file_name}"',
            },
        )
        self._handover = handover

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._handover.end()


# --- from anybody --------------------------------------------------------------------------------------------------


@router.get("/jwks")
async def jwks(request: Request, caller: CallerDep) -> Response:
    """The public keys that sign the organisation's packages, retired ones too."""
    keys = await means_of(request).keys.published(caller.organisation)
    return Response(msgspec.json.encode(keys), media_type="application/jwk-set+json")

"""Which doors does the locator have? Intake's orders, people's tasks, administrators' systems."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict

from services.locator import answers, orders, people, systems, uploads
from services.locator.desk import Desk
from services.locator.people import Filter, Reader
from shared.messages import Accepted, Order
from shared.service import Caller, CallerDep
from shared.vocabulary import Role, TaskState

router = APIRouter()

Id = Annotated[str, Path(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")]
Name = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
IdQuery = Annotated[str | None, Query(pattern=r"^[0-9a-f-]{36}$")]


class Nothing(BaseModel):
    """An empty JSON object."""

    model_config = ConfigDict(extra="forbid")


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def _reader(caller: Caller) -> Reader:
    """Handlers see every task of their organisation, respondents those that the register gives to them."""
    caller.require(Role.HANDLER, Role.DPO, Role.RESPONDENT)
    if caller.claims.roles.isdisjoint({Role.HANDLER, Role.DPO}):
        return Reader(caller.organisation, caller.subject, caller.subject.partition(":")[2])
    return Reader(caller.organisation, caller.subject)


# --- intake --------------------------------------------------------------------------------------------------------


@router.put("/orders/{order_id}")
async def put_order(request: Request, caller: CallerDep, order_id: Id, body: Order) -> Accepted:
    caller.require_service("intake")
    return await orders.accept(_desk(request), caller.organisation, order_id, body)


@router.delete("/orders/{order_id}", status_code=204)
async def delete_order(request: Request, caller: CallerDep, order_id: Id) -> None:
    caller.require_service("intake")
    await orders.cancel(_desk(request), caller.organisation, order_id, actor=caller.subject)


# --- people --------------------------------------------------------------------------------------------------------


@router.get("/tasks")
async def list_tasks(
    request: Request,
    caller: CallerDep,
    state: TaskState | None = None,
    system: Annotated[str | None, Query(max_length=63)] = None,
    case: IdQuery = None,
    after: IdQuery = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> dict[str, Any]:
    return await people.list_tasks(_desk(request), _reader(caller), Filter(state, system, case, after, limit))


@router.get("/tasks/{task_id}")
async def read_task(request: Request, caller: CallerDep, task_id: Id) -> dict[str, Any]:
    return await people.read_task(_desk(request), _reader(caller), task_id)


@router.post("/tasks/{task_id}/complete")
async def complete(request: Request, caller: CallerDep, task_id: Id, body: answers.Answer) -> dict[str, Any]:
    return await answers.complete(_desk(request), _reader(caller), task_id, body)


@router.put("/tasks/{task_id}/uploads/{number}")
async def upload(
    request: Request, caller: CallerDep, task_id: Id, number: Annotated[int, Path(ge=1, le=100_000)]
) -> dict[str, Any]:
    """Attach a file: its bytes are the body, its name and type the headers `habeas-file-name` and `habeas-file-type`."""
    file = uploads.File(
        number,
        request.headers.get("habeas-file-name", ""),
        request.headers.get("habeas-file-type", "application/octet-stream"),
        request.stream(),
    )
    return await uploads.upload(_desk(request), _reader(caller), task_id, file)


# --- administrators ------------------------------------------------------------------------------------------------


@router.get("/systems")
async def list_systems(request: Request, caller: CallerDep) -> dict[str, Any]:
    caller.require(Role.ADMINISTRATOR)
    return await systems.list_systems(_desk(request), caller.organisation)


@router.post("/systems/{system}/check")
async def check_system(
    request: Request, caller: CallerDep, system: Name, body: Nothing | None = None
) -> dict[str, Any]:
    del body
    caller.require(Role.ADMINISTRATOR)
    return await systems.check(_desk(request), caller.organisation, system, actor=caller.subject)

"""What has every service in common? Signed callers only, problem documents, and nothing personal in an error."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException  # noqa: TID251 - caught, never raised
from starlette.responses import JSONResponse, Response

from shared.problems import Forbidden, Invalid, Malformed, NotFound, Problem, TooLarge, Unauthenticated, WrongType
from shared.tokens import BadToken, Claims, Verifier

log = structlog.get_logger()
MEDIA_TYPE = "application/problem+json"


Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
"""What FastAPI runs around serving."""


@dataclass(frozen=True)
class Caller:
    """Who calls, as the signed token says; nothing in a request can add to it."""

    claims: Claims

    @property
    def organisation(self) -> str:
        return self.claims.organisation

    @property
    def subject(self) -> str:
        """`handler:<id>`, `subject:<case>`, `system:<key>`, `service:<name>` or `anonymous`."""
        return self.claims.subject

    def require(self, *roles: str) -> None:
        """Raise `Forbidden` unless the caller holds one of the roles."""
        if not self.claims.roles.intersection(roles):
            raise Forbidden

    def require_service(self, *names: str) -> None:
        """Raise `Forbidden` unless one of these services calls for itself."""
        if self.claims.issuer not in names or self.subject != f"service:{self.claims.issuer}":
            raise Forbidden

    def require_case(self, case_id: str) -> None:
        """Raise `NotFound` unless the caller is the data subject of this case: a foreign case looks like none."""
        if self.claims.case != case_id or self.subject != f"subject:{case_id}":
            raise NotFound


async def caller(request: Request) -> Caller:
    """Verify the token that the gateway or another service signed for this one."""
    verifier: Verifier = request.app.state.verifier
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated
    try:
        return Caller(verifier.verify(token))
    except BadToken:
        raise Unauthenticated from None


CallerDep = Annotated[Caller, Depends(caller)]


def create_service(
    name: str,
    *,
    verifier: Verifier,
    routers: Sequence[APIRouter],
    lifespan: Lifespan | None = None,
) -> FastAPI:
    """Build a service's app: its routers behind token checks, `/health` open, errors as RFC 9457."""
    app = FastAPI(
        title=f"Habeas {name}",
        lifespan=lifespan,
        openapi_url=None,
        telemetry={"logs": False, "operation_spans": False, "auto_configure": False},
    )
    app.state.verifier = verifier
    for router in routers:
        app.include_router(router, dependencies=[Depends(caller)])

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"service": name, "status": "live"}

    add_problem_handlers(app)
    return app


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error as a problem document without personal data, values or exception texts."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StarletteHTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def problem_response(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """Render a problem; `Retry-After` where it says when to try again."""
    headers = dict(headers or {})
    if problem.retry_after is not None:
        headers["retry-after"] = str(problem.retry_after)
    if problem.status == Unauthenticated.status:
        headers.setdefault("www-authenticate", "Bearer")
    return JSONResponse(problem.document(), problem.status, headers, media_type=MEDIA_TYPE)


async def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if any(item["type"] == "json_invalid" for item in error.errors()):
        return problem_response(Malformed("the body is not valid JSON"))
    return problem_response(Invalid(errors=tuple(_told(item) for item in error.errors())))


def _told(item: dict[str, Any]) -> dict[str, str]:
    """Name the field and the rule. pydantic's message may quote the value, so only safe kinds keep it."""
    where = "/".join(str(part) for part in item["loc"][1:]) or str(item["loc"][0])
    safe = item["type"] not in {"value_error", "assertion_error", "enum", "literal_error", "extra_forbidden"}
    rules = {
        "enum": f"must be one of {item.get('ctx', {}).get('expected', 'the known values')}",
        "literal_error": f"must be one of {item.get('ctx', {}).get('expected', 'the known values')}",
        "extra_forbidden": "is not a known field",
    }
    if item["type"] == "extra_forbidden":
        where = "/".join(str(part) for part in item["loc"][1:-1])
    detail = item["msg"] if safe else rules.get(item["type"], str(item.get("ctx", {}).get("error", "is not valid")))
    return {"pointer": f"/{where}", "detail": detail}


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    known = {404: NotFound, 413: TooLarge, 415: WrongType, 422: Invalid, 400: Malformed}
    if error.status_code in known:
        return problem_response(known[error.status_code]())
    body = {"type": "about:blank", "title": "Method not allowed" if error.status_code == 405 else "Error",
            "status": error.status_code}  # fmt: skip
    return JSONResponse(body, error.status_code, dict(error.headers or {}), media_type=MEDIA_TYPE)


async def _unexpected(_request: Request, error: Exception) -> Response:
    log.error("unexpected error", error=type(error).__name__)
    return problem_response(Problem("something went wrong here; it has been logged and nothing was changed"))

"""What has every service in common? Signed callers only, problem documents, and nothing personal in an error."""

from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Any, get_args

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic_core.core_schema import ErrorType
from starlette.exceptions import HTTPException as StarletteHTTPException  # noqa: TID251 - caught, never raised
from starlette.responses import JSONResponse, Response

from shared.problems import (
    Forbidden,
    Invalid,
    Malformed,
    NotFound,
    Problem,
    RuleBroken,
    TooLarge,
    Unauthenticated,
    WrongType,
)
from shared.tokens import BadToken, Claims, Verifier

log = structlog.get_logger()
MEDIA_TYPE = "application/problem+json"
_PLAIN = frozenset(get_args(ErrorType)) - {"uuid_parsing", "timezone_offset", "custom_error"}
"""pydantic's own errors whose message is made of the rule alone; the ones left out quote what was given."""


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


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        return problem_response(Malformed("the body is not valid JSON"))
    state = request.app.state
    if not hasattr(state, "field_names"):
        state.field_names = names_in(request.app.openapi())
    # The first part of a place says whether it is the body, the query or the path.
    errors = tuple(told({**item, "loc": item["loc"][1:]}, state.field_names) for item in found)
    return problem_response(Invalid(errors=errors))


def names_in(schema: object) -> frozenset[str]:
    """Return every field and parameter that a JSON Schema or an OpenAPI document knows by name."""
    if isinstance(schema, list):
        return frozenset[str]().union(*map(names_in, schema))
    if not isinstance(schema, dict):
        return frozenset()
    own = set(schema["properties"]) if isinstance(schema.get("properties"), dict) else set()
    if isinstance(schema.get("in"), str) and isinstance(schema.get("name"), str):
        own.add(schema["name"])
    return frozenset(own).union(*map(names_in, schema.values()))


def told(item: Mapping[str, Any], names: Container[str]) -> dict[str, str]:
    """Tell one of pydantic's errors: the field and the rule, never what was given.

    A place keeps only `names` that the code knows and numbers: a key of an object may be anybody's. pydantic's own
    message is kept where it is made of the rule alone.
    """
    where = [str(part) for part in item["loc"] if isinstance(part, int) or part in names]
    return {"pointer": "/" + "/".join(where), "detail": _rule(item)}


def _rule(item: Mapping[str, Any]) -> str:
    kind, context = item["type"], item.get("ctx", {})
    broken = context.get("error")
    if kind in {"value_error", "assertion_error"}:
        return str(broken) if isinstance(broken, RuleBroken) else "is not valid"
    if kind in {"enum", "literal_error"}:
        return f"must be one of {context['expected']}"
    if kind == "union_tag_invalid":
        return f"must be one of {context['expected_tags']}"
    if kind == "extra_forbidden":
        return "is not a known field"
    return str(item["msg"]) if kind in _PLAIN else "is not valid"


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

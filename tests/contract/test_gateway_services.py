"""The door and the services agree: every address of the table has a route behind it, every verb is one of intake's."""

from typing import Any

import pytest
from fastapi import APIRouter
from starlette.routing import Match

from gateway.routes import CASE_VERBS, ROUTES, Route, inner_path
from services.exporter.routes import router as exporter
from services.intake.handling import VERBS
from services.intake.routes import router as intake
from services.locator.routes import router as locator
from shared.ids import new_id, new_reference

ROUTERS: dict[str, APIRouter] = {"intake": intake, "locator": locator, "exporter": exporter}
FORWARDED = [route for route in ROUTES if not route.is_local]
VALUES = {"reference": new_reference(), "verb": "approve", "system": "crm", "number": "1", "file": "1:2:3"}


def is_served(service: str, method: str, path: str) -> bool:
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
    return any(route.matches(scope)[0] is Match.FULL for route in ROUTERS[service].routes)


@pytest.mark.parametrize("route", FORWARDED, ids=lambda route: f"{route.method} {route.template}")
def test_behind_every_address_there_is_a_route(route: Route) -> None:
    names = [part.strip("{}") for part in route.inner.split("/") if part.startswith("{")]
    path = inner_path(route, {name: VALUES.get(name, new_id()) for name in names}, {})
    assert is_served(route.service, route.method, path)


@pytest.mark.parametrize("path", [f"/requests/{new_reference()}/package-id", f"/cases/{new_id()}/package-id"])
def test_intake_tells_which_package_belongs_to_a_case(path: str) -> None:
    assert is_served("intake", "GET", path)


def test_the_verbs_of_the_door_are_those_of_intake() -> None:
    assert VERBS.keys() | {"collection-code"} == CASE_VERBS

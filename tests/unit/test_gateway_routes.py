"""The route table: what stands in it exists, what does not stand in it does not."""

from urllib.parse import urlencode

import pytest

from gateway.callers import ANONYMOUS, COLLECT, SUBJECT
from gateway.desk import ACTIONS
from gateway.keys import Scope
from gateway.routes import ROUTES, NoSuchAddress, Route, Table, UnknownQuery, WrongMethod, check_query, inner_path
from shared.ids import new_id, new_reference
from shared.vocabulary import Role

TABLE = Table()
CASE, REFERENCE = new_id(), new_reference()


def test_every_route_says_who_may_call_it_and_only_known_callers_are_named() -> None:
    known = {ANONYMOUS, SUBJECT, COLLECT, *Role, *Scope}
    assert all(route.who and route.who <= known for route in ROUTES)


def test_no_two_routes_share_a_method_and_an_address() -> None:
    assert len({(route.method, route.template) for route in ROUTES}) == len(ROUTES)


def test_every_action_of_the_door_stands_in_the_table_and_every_action_named_there_exists() -> None:
    assert {route.inner for route in ROUTES if route.is_local} == set(ACTIONS)


def test_inner_paths_ask_only_for_what_the_public_path_or_the_case_gives() -> None:
    for route in ROUTES:
        wanted = {part.strip("{}") for part in route.inner.split("/") if part.startswith("{")} - {"package"}
        assert all(f"{{{name}}}" in route.path for name in wanted), route.template
        if "{package}" in route.inner:
            assert "{reference}" in route.path or "{case}" in route.path


def test_only_respondents_uploads_take_anything_but_json() -> None:
    assert [route.path for route in ROUTES if route.body not in {"json", "none"}] == ["/tasks/{task}/uploads/{number}"]


def test_answers_with_secrets_are_never_kept_for_a_repeated_call() -> None:
    secret = {"/keys", "/webhooks", "/token", "/requests/{reference}/verification", "/requests/{reference}/collection"}
    assert all(route.keeps is None for route in ROUTES if route.path in secret)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.template}")
def test_a_route_is_found_by_its_own_address(route: Route) -> None:
    values = {"organisation": "nordlys", "reference": REFERENCE, "verb": "approve", "system": "crm", "number": "1",
              "file": f"{CASE}:1:2"}  # fmt: skip
    path = "/".join(
        values.get(part.strip("{}"), CASE) if part.startswith("{") else part for part in route.template.split("/")
    )
    found, params = TABLE.find(route.method, path)
    assert found is route
    assert all("/" not in value for value in params.values())


@pytest.mark.parametrize(
    "path",
    [
        "/v1/nordlys/nothing",
        "/v1/nordlys/requests/",
        "/v1/nordlys/requests/7KQ4-M2XB-0",
        "/v1/nordlys/requests/not a reference",
        f"/v1/nordlys/cases/{CASE.upper()}",
        f"/v1/nordlys/cases/{CASE}\n",
        "/v1/nordlys/cases/1",
        f"/v1/nordlys/cases/{CASE}/records/1",
        "/v1/Nordlys/requests",
        "/v1/n/requests",
        "/v1/nordlys\n/requests",
        "/v1//requests",
        "/v1",
        "/v2/nordlys/requests",
        "/V1/nordlys/requests",
        f"/v1/nordlys/tasks/{CASE}/uploads/0",
        f"/v1/nordlys/tasks/{CASE}/uploads/01",
        f"/v1/nordlys/tasks/{CASE}/uploads/١",
        "/v1/nordlys/systems/CRM/check",
        "/health/",
        "/healthz",
    ],
)
def test_an_address_that_is_not_in_the_table_does_not_exist(path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        with pytest.raises(NoSuchAddress):
            TABLE.find(method, path)


def test_a_case_is_moved_by_the_verbs_of_the_table_only() -> None:
    assert TABLE.find("POST", f"/v1/nordlys/cases/{CASE}/approve")[1]["verb"] == "approve"
    with pytest.raises(NoSuchAddress):
        TABLE.find("POST", f"/v1/nordlys/cases/{CASE}/delete")


def test_a_wrong_method_is_told_which_ones_there_are() -> None:
    with pytest.raises(WrongMethod) as refused:
        TABLE.find("PATCH", f"/v1/nordlys/requests/{REFERENCE}")
    assert refused.value.allow == {"GET", "DELETE"}


def test_a_reference_is_understood_as_people_write_it() -> None:
    typed = REFERENCE.lower().replace("-", "")
    assert TABLE.find("GET", f"/v1/nordlys/requests/{typed}")[1]["reference"] == REFERENCE


def test_a_query_may_only_have_names_that_the_address_knows_each_once() -> None:
    assert check_query(b"", ("limit",)) == {}
    assert check_query(b"limit=5&after=a%2Bb", ("limit", "after")) == {"limit": "5", "after": "a+b"}
    for bad in (
        b"x=1",
        b"limit=1&limit=2",
        b"limit",
        b"limit=%0a",
        b"limit=%ff",
        b"limit=\xff",
        b"limit=" + b"a" * 201,
    ):
        with pytest.raises(UnknownQuery):
            check_query(bad, ("limit", "after"))


def test_a_query_is_written_anew_for_the_service() -> None:
    route, params = TABLE.find("GET", "/v1/nordlys/cases")
    query = {"after": "a&limit=9#?", "limit": "1"}
    assert inner_path(route, params, query) == f"/cases?{urlencode(query)}"

"""Does every service refuse alike: signed callers only, problem documents only, and never what it was given?"""

from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import httpx
import pytest
from fastapi import APIRouter, Query
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from structlog.testing import capture_logs

from shared.identifiers import normalise
from shared.problems import Conflict, RuleBroken, TooMany
from shared.service import CallerDep, create_service
from shared.tokens import Issuer, Verifier, generate_key

CPR = "0101901234"
MEDIA_TYPE = "application/problem+json"


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["a", "b"]
    number: int = 1


class Tagged(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tag: Literal["tagged"]
    size: int


class Other(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tag: Literal["other"]


class Body(BaseModel):
    """One field of every kind whose refusal could repeat what was given."""

    model_config = ConfigDict(extra="forbid")

    colour: Colour = Colour.RED
    choice: Literal["yes", "no"] = "yes"
    count: Annotated[int, Field(ge=0, le=9)] = 0
    short: Annotated[str, Field(max_length=5, pattern="^[a-z]*$")] = ""
    email: str | None = None
    own_words: str | None = None
    id: UUID | None = None
    inner: Inner | None = None
    many: list[Inner] = []
    by_name: dict[str, int] = {}
    one_of: Annotated[Tagged | Other, Field(discriminator="tag")] | None = None
    either: Inner | list[int] | None = None

    @field_validator("email")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        return value and normalise("email", value)

    @model_validator(mode="after")
    def _no_words(self) -> Self:
        if self.own_words:
            raise RuleBroken("own_words must stay empty")
        return self


class Careless(BaseModel):
    """A validator that quotes its input, as library code and hurried code do."""

    value: str

    @field_validator("value")
    @classmethod
    def _quotes(cls, value: str) -> str:
        raise ValueError(f"{value} is not good")


router = APIRouter()


@router.post("/bodies")
async def take(caller: CallerDep, body: Body) -> dict[str, str]:
    return {"organisation": caller.organisation, "subject": caller.subject}


@router.post("/careless")
async def careless(body: Careless) -> None: ...


@router.get("/limits")
async def limits(limit: Annotated[int, Query(ge=1, le=200)], colour: Colour = Colour.RED) -> None: ...


@router.get("/things/{number}")
async def thing(number: int) -> None: ...


@router.get("/busy")
async def busy() -> None:
    raise TooMany(retry_after=7)


@router.get("/conflict")
async def conflict() -> None:
    raise Conflict(code="wrong-state")


@router.get("/broken")
async def broken() -> None:
    raise RuntimeError(f"could not read {CPR} of Søren Østergård")


@router.get("/roles/{name}")
async def roles(caller: CallerDep, name: str) -> None:
    {
        "handler": lambda: caller.require("handler", "dpo"),
        "service": lambda: caller.require_service("locator"),
        "case": lambda: caller.require_case("c1"),
    }[name]()


class House:
    """The service, and those who may and may not call it."""

    def __init__(self) -> None:
        self.keys = {name: generate_key() for name in ("gateway", "locator", "intake", "stranger")}
        known = {kid: (name, public) for name, (_private, public, kid) in self.keys.items() if name != "stranger"}
        self.app = create_service("intake", verifier=Verifier("intake", known), routers=[router])

    def issuer(self, name: str = "gateway", key: str | None = None) -> Issuer:
        private, _public, kid = self.keys[key or name]
        return Issuer(name, private, kid)

    def token(self, subject: str = "anonymous", **claims: Any) -> str:
        return self.issuer().issue("intake", subject, organisation="nordlys", **claims)


@pytest.fixture(scope="module")
def house() -> House:
    return House()


@pytest.fixture(scope="module")
async def client(house: House) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(house.app, raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {house.token()}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://intake", headers=headers) as client:
        yield client


def problem(reply: httpx.Response, status: int) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == MEDIA_TYPE
    document: dict[str, Any] = reply.json()
    assert document["status"] == status
    return document


# --- 422 and 400 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        ({"colour": CPR}, "/colour", "must be one of 'red' or 'green'"),
        ({"choice": CPR}, "/choice", "must be one of 'yes' or 'no'"),
        ({CPR: 1}, "/", "is not a known field"),
        ({"inner": {"kind": "a", CPR: 1}}, "/inner", "is not a known field"),
        ({"inner": {"kind": CPR}}, "/inner/kind", "must be one of 'a' or 'b'"),
        ({"many": [{"kind": "a"}, {"kind": CPR}]}, "/many/1/kind", "must be one of 'a' or 'b'"),
        ({"email": CPR}, "/email", "must be an e-mail address such as name@example.dk"),
        ({"one_of": {"tag": CPR}}, "/one_of", "must be one of 'tagged', 'other'"),
        ({"by_name": {CPR: "x"}}, "/by_name", "Input should be a valid integer, unable to parse string as an integer"),
        ({"id": CPR}, "/id", "is not valid"),
        ({"own_words": CPR}, "/", "own_words must stay empty"),
    ],
)
async def test_the_field_and_the_rule_are_told(
    client: httpx.AsyncClient, body: dict[str, Any], pointer: str, detail: str
) -> None:
    reply = await client.post("/bodies", json=body)
    assert problem(reply, 422)["errors"] == [{"pointer": pointer, "detail": detail}]
    assert CPR not in reply.text


@pytest.mark.parametrize(
    "body",
    [
        {"count": CPR + "x"},
        {"count": int(CPR)},
        {"short": CPR},
        {"by_name": {CPR: "x"}},
        {"one_of": {"tag": CPR}},
        {"one_of": {"tag": "tagged", "size": CPR + "x"}},
        {"either": CPR},
        {"either": {"kind": CPR, CPR: CPR}},
        {"many": CPR},
        {"inner": CPR},
        [CPR],
        CPR,
    ],
)
async def test_no_refusal_repeats_a_value_or_a_name_that_was_given(client: httpx.AsyncClient, body: Any) -> None:
    reply = await client.post("/bodies", json=body)
    problem(reply, 422)
    assert CPR not in reply.text


async def test_a_validator_that_quotes_its_input_is_not_repeated(client: httpx.AsyncClient) -> None:
    reply = await client.post("/careless", json={"value": CPR})
    assert problem(reply, 422)["errors"] == [{"pointer": "/value", "detail": "is not valid"}]


@pytest.mark.parametrize("query", [f"limit={CPR}", f"limit={CPR}x", f"limit=1&colour={CPR}", ""])
async def test_a_bad_query_is_not_repeated(client: httpx.AsyncClient, query: str) -> None:
    reply = await client.get(f"/limits?{query}")
    assert problem(reply, 422)["errors"]
    assert CPR not in reply.text


async def test_a_bad_path_is_not_repeated(client: httpx.AsyncClient) -> None:
    reply = await client.get(f"/things/{CPR}x")
    assert problem(reply, 422)["errors"][0]["pointer"] == "/number"
    assert CPR not in reply.text


@pytest.mark.parametrize(
    "content",
    [b'{"email": "' + CPR.encode(), b"{0101901234: 1}", b"\xff\xfe0101901234", b'{"a": "\x00"}', CPR.encode() + b"x"],
)
async def test_what_is_no_json_is_told_without_the_text_around_the_mistake(
    client: httpx.AsyncClient, content: bytes
) -> None:
    reply = await client.post("/bodies", content=content, headers={"content-type": "application/json"})
    assert problem(reply, 400)["detail"] == "the body is not valid JSON"
    assert CPR not in reply.text


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
async def test_a_body_of_another_type_is_not_read_as_json(client: httpx.AsyncClient, kind: str) -> None:
    reply = await client.post(
        "/bodies", content=b'{"count": 1, "email": "%s"}' % CPR.encode(), headers={"content-type": kind}
    )
    assert reply.status_code in {415, 422}
    assert reply.headers["content-type"] == MEDIA_TYPE
    assert CPR not in reply.text


PLANTED = st.recursive(
    st.sampled_from([CPR, f"Søren {CPR}", int(CPR), float(CPR), None, True, f"{CPR}@example", [CPR]]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from([*Body.model_fields, CPR, "kind", "number", "tag", "size", f"{CPR}/{CPR}"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=PLANTED)
async def test_whatever_is_planted_in_a_body_never_comes_back(client: httpx.AsyncClient, body: Any) -> None:
    with capture_logs() as logs:
        reply = await client.post("/bodies", json=body)
    assert reply.status_code in {200, 422}
    assert CPR not in reply.text
    assert CPR not in str(logs)


# --- 500, 404, 405, 409, 429 ---------------------------------------------------------------------------------------


async def test_an_unexpected_error_says_nothing_and_is_logged_by_its_type(client: httpx.AsyncClient) -> None:
    with capture_logs() as logs:
        reply = await client.get("/broken")
    document = problem(reply, 500)
    assert document["type"] == "urn:habeas:problem:internal"
    assert "RuntimeError" not in reply.text
    assert CPR not in reply.text + str(logs)
    assert [entry["error"] for entry in logs if entry["log_level"] == "error"] == ["RuntimeError"]


async def test_an_unknown_address_is_a_problem_that_does_not_repeat_it(client: httpx.AsyncClient) -> None:
    reply = await client.get(f"/people/{CPR}")
    assert problem(reply, 404)["type"] == "urn:habeas:problem:not-found"
    assert CPR not in reply.text


async def test_another_method_is_told_which_ones_there_are(client: httpx.AsyncClient) -> None:
    reply = await client.delete("/conflict")
    assert problem(reply, 405)["title"] == "Method not allowed"
    assert reply.headers["allow"] == "GET"


async def test_a_problem_of_a_use_case_goes_out_as_it_is(client: httpx.AsyncClient) -> None:
    assert problem(await client.get("/conflict"), 409)["type"] == "urn:habeas:problem:wrong-state"
    reply = await client.get("/busy")
    problem(reply, 429)
    assert reply.headers["retry-after"] == "7"


async def test_a_service_describes_itself_to_nobody(client: httpx.AsyncClient) -> None:
    for path in ("/openapi.json", "/docs", "/redoc"):
        problem(await client.get(path), 404)


# --- who calls -----------------------------------------------------------------------------------------------------


async def test_health_is_open_and_says_only_that_it_lives(house: House) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(house.app), base_url="http://intake") as client:
        assert (await client.get("/health")).json() == {"service": "intake", "status": "live"}


async def test_a_call_without_a_token_or_with_a_foreign_one_is_turned_away_alike(house: House) -> None:
    gateway = house.issuer()
    headers = [
        "",
        "Basic YTpi",
        "Bearer",
        "Bearer ",
        "Bearer x.y.z",
        f"Bearer {gateway.issue('exporter', 'anonymous', organisation='nordlys')}",
        f"Bearer {house.issuer('gateway', 'stranger').issue('intake', 'anonymous', organisation='nordlys')}",
        f"Bearer {house.issuer('gateway', 'locator').issue('intake', 'anonymous', organisation='nordlys')}",
        f"Token {house.token()}",
    ]
    bodies = set()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(house.app), base_url="http://intake") as client:
        for header in headers:
            for method, path in (("POST", "/bodies"), ("GET", "/busy"), ("GET", f"/things/{CPR}")):
                reply = await client.request(method, path, headers={"authorization": header} if header else {})
                problem(reply, 401)
                assert reply.headers["www-authenticate"] == "Bearer"
                bodies.add(reply.text)
    assert len(bodies) == 1


async def test_a_good_token_says_who_calls_and_for_whom(house: House, client: httpx.AsyncClient) -> None:
    token = house.token("handler:7", roles=("handler",))
    reply = await client.post("/bodies", json={}, headers={"authorization": f"Bearer {token}"})
    assert reply.json() == {"organisation": "nordlys", "subject": "handler:7"}


@pytest.mark.parametrize(
    ("door", "subject", "claims", "status"),
    [
        ("handler", "handler:7", {"roles": ("handler",)}, 200),
        ("handler", "handler:7", {"roles": ("dpo", "auditor")}, 200),
        ("handler", "handler:7", {"roles": ("auditor",)}, 403),
        ("handler", "anonymous", {}, 403),
        ("case", "subject:c1", {"case": "c1"}, 200),
        ("case", "subject:c2", {"case": "c2"}, 404),
        ("case", "handler:7", {"roles": ("handler",)}, 404),
        ("case", "anonymous", {}, 404),
        ("service", "handler:7", {"roles": ("handler",)}, 403),
        ("service", "anonymous", {}, 403),
    ],
)
async def test_each_door_lets_in_whom_it_should(
    house: House, client: httpx.AsyncClient, door: str, subject: str, claims: dict[str, Any], status: int
) -> None:
    headers = {"authorization": f"Bearer {house.token(subject, **claims)}"}
    assert (await client.get(f"/roles/{door}", headers=headers)).status_code == status


async def test_a_service_speaks_for_itself_and_the_gateway_for_no_service(
    house: House, client: httpx.AsyncClient
) -> None:
    own = house.issuer("locator").issue("intake", "service:locator", organisation="nordlys")
    reply = await client.get("/roles/service", headers={"authorization": f"Bearer {own}"})
    assert reply.status_code == 200
    borrowed = house.issuer("locator").issue("intake", "service:exporter", organisation="nordlys")
    assert (await client.get("/roles/service", headers={"authorization": f"Bearer {borrowed}"})).status_code in {
        401,
        403,
    }

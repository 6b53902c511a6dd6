"""The pure parts of connectors: spellings, statements, pages, paths, pace, back-off, secrets."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy.dialects import mysql, postgresql, sqlite

from services.locator.backoff import BackOff
from services.locator.connectors.base import Code, NeedsPerson, Rejected, Search, Unavailable
from services.locator.connectors.matching import Matcher, spellings
from services.locator.connectors.pace import Pace
from services.locator.connectors.paging import Page, Pager, next_link
from services.locator.connectors.paths import find, records
from services.locator.connectors.statements import Reading, chains
from services.locator.secrets import Secrets
from shared.messages import Identifier
from shared.register import Paging
from shared.vocabulary import Assurance
from tests.support.registers import entity, register, sql


def known(kind: str, value: str) -> Identifier:
    return Identifier(type=kind, value=value, assurance=Assurance.CONTROLLED)


# --- identifiers ---------------------------------------------------------------------------------------------------


def test_a_phone_number_is_searched_in_every_usual_spelling() -> None:
    found = spellings("phone", "+4512345678", "DK")
    assert found[0] == "+4512345678"
    assert {"12345678", "12 34 56 78", "12-34-56-78", "1234 5678", "004512345678", "+45 12 34 56 78"} <= set(found)
    assert len(found) == len(set(found))
    assert not {"12345678", "12 34 56 78"} & set(spellings("phone", "+4512345678", "SE"))


def test_a_cpr_number_is_searched_with_and_without_its_hyphen() -> None:
    assert spellings("cpr", "0102031234", "DK") == ("0102031234", "010203-1234", "010203 1234")


def test_values_are_compared_by_their_normal_form() -> None:
    types = register({"crm": sql({"c": entity(["id"])})}).identifiers
    matcher = Matcher(types, "DK", [known("email", "åse@x.dk"), known("phone", "+4512345678")])
    assert matcher.bound([("email", "ÅSE@X.dk"), ("phone", "12 34 56 78")]) == {
        "email": "åse@x.dk",
        "phone": "+4512345678",
    }
    assert matcher.bound([("email", ["b@x.dk", "Åse@x.dk"])]) == {"email": "åse@x.dk"}
    assert matcher.bound([("email", "ase@x.dk"), ("phone", None), ("phone", True), ("email", {"a": 1})]) == {}
    assert matcher.bound([("unheard_of", "åse@x.dk")]) == {}


# --- statements ----------------------------------------------------------------------------------------------------

HOSTILE = 'kunde"; drop table x; --'
FAMILY = register(
    {
        "crm": sql(
            {
                "order_line": entity(
                    ["id"], table="lines", key="id", via={"entity": "order", "parent_field": "id", "field": "order_id"}
                ),
                "order": entity(
                    ["id", "login"],
                    table="order",
                    key="id",
                    find_by={"login": "login"},
                    via={"entity": "customer", "parent_field": "id", "field": "customer_id"},
                ),
                "customer": entity(
                    {"id": {}, "email": {"column": "E-mail"}},
                    table=HOSTILE,
                    key="id",
                    find_by={"email": "email", "customer_number": "number"},
                ),
            },
            schema="sa les",
        )
    }
)
SHAPES = {
    "customer": {"E-mail": "text", "id": "integer", "number": "integer"},
    "order": {"login": "text"},
    "order_line": {},
}


def sql_of(
    chain: tuple[str, ...], *wanted: Identifier, dialect: Any = postgresql, earlier: tuple[Identifier, ...] = ()
) -> Any:
    search = Search.of(FAMILY, "crm", wanted, earlier)
    statement = Reading(
        search, chain, {name: SHAPES[name] for name in chain}, dialect=dialect.__name__.split(".")[-1]
    ).statement()
    return (
        None
        if statement is None
        else statement.compile(dialect=dialect.dialect(), compile_kwargs={"render_postcompile": True})
    )


def test_parents_are_read_before_what_hangs_under_them() -> None:
    types = {"email", "login"}
    assert list(chains(FAMILY.systems["crm"], types)) == [
        ("customer",),
        ("order",),
        ("order", "customer"),
        ("order_line", "order"),
        ("order_line", "order", "customer"),
    ]
    assert list(chains(FAMILY.systems["crm"], {"phone"})) == []


@pytest.mark.parametrize("dialect", [postgresql, sqlite, mysql])
def test_values_are_bound_and_names_are_quoted(dialect: Any) -> None:
    compiled = sql_of(("customer",), known("email", "a'; drop table x; --@x.dk"), dialect=dialect)
    assert "drop table x; --@" not in str(compiled)
    assert "a'; drop table x; --@x.dk" in compiled.params.values()
    quote = "`" if dialect is mysql else '"'
    assert f"{quote}sa les{quote}.{quote}kunde" in str(compiled)
    assert (HOSTILE.replace('"', '""') if dialect is not mysql else HOSTILE) in str(compiled)


def test_case_is_folded_for_addresses_unless_the_register_says_exact() -> None:
    assert "lower(" in str(sql_of(("customer",), known("email", "a@x.dk")))
    customer = FAMILY.systems["crm"].entities["customer"]
    exact = customer.find_by["email"].model_copy(update={"exact": True})
    entities = {**FAMILY.systems["crm"].entities, "customer": customer.model_copy(update={"find_by": {"email": exact}})}
    changed = FAMILY.systems["crm"].model_copy(update={"entities": entities})
    search = Search.of(FAMILY.model_copy(update={"systems": {"crm": changed}}), "crm", (known("email", "a@x.dk"),))
    assert "lower(" not in str(Reading(search, ("customer",), SHAPES, dialect="postgresql").statement())


def test_a_value_that_no_number_column_can_hold_is_not_asked_for() -> None:
    assert sql_of(("customer",), known("customer_number", "K12")) is None
    assert 12 in sql_of(("customer",), known("customer_number", "12")).params.values()


def test_a_longer_route_leaves_out_what_a_shorter_one_finds() -> None:
    compiled = sql_of(("order", "customer"), known("email", "a@x.dk"), known("login", "anna"))
    assert "NOT IN" in str(compiled)
    assert "IS NULL" in str(compiled)
    assert "NOT IN" not in str(sql_of(("order",), known("login", "anna")))


def test_what_an_earlier_search_found_is_left_out() -> None:
    compiled = sql_of(("customer",), known("customer_number", "12"), earlier=(known("email", "a@x.dk"),))
    assert 'lower(t0."E-mail") NOT IN' in str(compiled).replace("(lower", "lower")
    assert "a@x.dk" in compiled.params.values()


# --- pages ---------------------------------------------------------------------------------------------------------


def page(*items: Any, content: Any = None, link: str | None = None, url: str = "https://api.example/x") -> Page:
    return Page(list(items), content, link, url)


def test_pages_are_counted_until_one_is_empty() -> None:
    pager = Pager(Paging(kind="page", parameter="p", start=0, size_parameter="n", size=2), "https://api.example")
    assert pager.begin().parameters == {"n": "2", "p": "0"}
    # Shorter than asked for, and yet not the last.
    assert (step := pager.follow(page("a"))) is not None
    assert step.parameters == {"n": "2", "p": "1"}
    assert pager.follow(page()) is None


def test_offsets_grow_by_what_came_and_begin_at_zero() -> None:
    pager = Pager(Paging(kind="offset", parameter="from"), "https://api.example")
    assert pager.begin().parameters == {"from": "0"}
    assert (step := pager.follow(page("a", "b", "c"))) is not None
    assert step.parameters == {"from": "3"}
    assert pager.follow(page()) is None


def test_a_cursor_is_followed_until_there_is_none() -> None:
    pager = Pager(Paging(kind="cursor", parameter="c", next="$.meta.next"), "https://api.example")
    assert pager.begin().parameters == {}
    assert (step := pager.follow(page("a", content={"meta": {"next": 7}}))) is not None
    assert step.parameters == {"c": "7"}
    ends: list[dict[str, Any]] = [{"meta": {"next": None}}, {"meta": {"next": ""}}, {"meta": {}}, {}]
    for end in ends:
        assert (
            Pager(Paging(kind="cursor", parameter="c", next="$.meta.next"), "https://x.dk").follow(
                page("a", content=end)
            )
            is None
        )


def test_a_link_is_followed_within_the_system_only() -> None:
    pager = Pager(Paging(kind="link"), "https://api.example/base")
    assert (step := pager.follow(page("a", link='</x?p=2>; rel="next", </x?p=9>; rel="last"'))) is not None
    assert step.url == "https://api.example/x?p=2"
    assert pager.follow(page("a", link='</x?p=1>; rel="prev"')) is None
    for elsewhere in (
        "https://evil.example/x",
        "http://api.example/x",
        "//evil.example/x",
        "https://api.example:8443/",
    ):
        with pytest.raises(Rejected, match=Code.REDIRECTED.value):
            Pager(Paging(kind="link"), "https://api.example/base").follow(page("a", link=f'<{elsewhere}>; rel="next"'))


def test_links_are_read_as_they_are_written() -> None:
    assert next_link('<a>; rel="prev", <b>; title="next"; rel=next') == "b"
    assert next_link('<a>; rel="prev next"') == "a"
    assert next_link('<a>; rel="nextish"') is None
    assert next_link(None) is None


@pytest.mark.parametrize(
    ("paging", "answer"),
    [
        (Paging(kind="page"), page("a")),
        (Paging(kind="cursor", next="$.n"), page("a", content={"n": "same"})),
        (Paging(kind="link"), page("a", link="</x>; rel=next")),
    ],
)
def test_a_walk_in_a_circle_is_noticed(paging: Paging, answer: Page) -> None:
    pager = Pager(paging, "https://api.example")
    assert pager.follow(answer) is not None
    with pytest.raises(Rejected, match=Code.PAGING_LOOP.value):
        pager.follow(answer)


def test_a_walk_without_an_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.locator.connectors.paging.MAX_PAGES", 3)
    pager = Pager(Paging(kind="page"), "https://api.example")
    assert pager.follow(page(1))
    assert pager.follow(page(2))
    with pytest.raises(Rejected, match=Code.TOO_MANY_PAGES.value):
        pager.follow(page(3))


# --- paths ---------------------------------------------------------------------------------------------------------


def test_records_lie_where_the_register_says() -> None:
    assert records("$.a", {"a": [1, 2]}) == [1, 2]
    assert records("$.a[*]", {"a": [1, 2]}) == [1, 2]
    assert records("$.a[?@.k=='x']", {"a": [{"k": "x"}, {"k": "y"}]}) == [{"k": "x"}]
    assert records(None, [{"id": 1}]) == [{"id": 1}]
    assert records("$", {"id": 1}) == [{"id": 1}]
    assert find("$.a.b", {"a": {"b": 1}}) == [1]
    assert find("$.a['b']", {"a": {"b": 1}}) == [1]


def test_an_empty_place_is_empty() -> None:
    assert records("$.a", {"a": []}) == []
    assert records("$.a", {"a": None}) == []
    assert records("$.a[*]", {"a": []}) == []
    assert records("$.a[*]", {"a": None}) == []
    assert records("$.a[?@.k=='x']", {"a": [{"k": "y"}]}) == []


@pytest.mark.parametrize("path", ["$.a", "$.a[*]", "$.a[?@.k]"])
@pytest.mark.parametrize("content", [{}, {"error": "db down"}, "oops", 7, None])
def test_a_missing_place_is_no_empty_one(path: str, content: Any) -> None:
    with pytest.raises(Unavailable, match=Code.UNEXPECTED_ANSWER.value):
        records(path, content)


def test_a_path_that_is_none_says_so() -> None:
    with pytest.raises(Rejected, match=Code.SCHEMA_CHANGED.value):
        find("$.a[", {})


# --- time ----------------------------------------------------------------------------------------------------------


def test_delays_double_with_jitter_up_to_a_cap() -> None:
    rule = BackOff(timedelta(seconds=2), timedelta(minutes=1))
    assert [rule.delay(n, None, lambda: 0.999999).total_seconds() for n in (1, 2, 3, 9)] == pytest.approx(
        [2, 4, 8, 60], rel=0.01
    )
    assert rule.delay(3, None, lambda: 0.0) == timedelta(seconds=4)
    assert rule.delay(10_000, None, lambda: 0.0) == timedelta(seconds=30)


def test_what_a_system_asks_for_is_honoured_within_reason() -> None:
    rule = BackOff(timedelta(seconds=2), timedelta(minutes=1))
    assert rule.delay(1, 300.0, lambda: 0.5) == timedelta(seconds=300)
    assert rule.delay(1, 1e9, lambda: 0.5) == timedelta(hours=6)
    assert rule.delay(1, -5.0, lambda: 0.0) == timedelta(seconds=1)


async def test_a_bucket_lets_so_many_through_and_then_one_at_a_time() -> None:
    pace = Pace(50)
    waits = [pace._take(100.0) for _ in range(52)]
    assert waits[:50] == [0.0] * 50
    assert waits[50] == pytest.approx(0.02)
    assert pace._take(100.021) == 0.0
    assert pace._take(100.022) > 0


async def test_a_bucket_that_is_held_lets_nothing_through() -> None:
    pace = Pace(1000)
    pace.hold(0.05)
    import asyncio

    begun = asyncio.get_running_loop().time()
    await pace.turn()
    assert asyncio.get_running_loop().time() - begun >= 0.045


# --- secrets -------------------------------------------------------------------------------------------------------


def test_an_organisation_gets_its_own_secrets_only(tmp_path: Path) -> None:
    (tmp_path / "nordlys").mkdir()
    (tmp_path / "nordlys" / "token").write_text("from a file\n", encoding="utf-8")
    (tmp_path / "other").write_text("not yours", encoding="utf-8")
    secrets = Secrets({"nordlys": {"url": SecretStr("from settings")}}, tmp_path)
    assert secrets.get("nordlys", "url") == "from settings"
    assert secrets.get("nordlys", "token") == "from a file"
    for organisation, name in (
        ("sydlys", "url"),
        ("nordlys", "../other"),
        ("nordlys", "none"),
        ("nordlys", None),
        ("..", "x"),
    ):
        with pytest.raises(NeedsPerson, match=Code.SECRET_MISSING.value):
            secrets.get(organisation, name)
    assert "from settings" not in repr(secrets.__dict__)

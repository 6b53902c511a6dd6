"""What is a mistake in a form, and is it told at its field, in the person's language?"""

from collections.abc import Iterable

import pytest
from starlette.requests import Request
from starlette.types import Message

from gateway.portal.forms import (
    MAX_BODY,
    BrokenForm,
    FormTooLarge,
    NotAForm,
    check_identifiers,
    check_request,
    offered,
    read_code,
    read_form,
    read_reference,
)
from gateway.portal.languages import Words
from shared.vocabulary import Language, Right
from tests.fakes.door import REFERENCE, organisation

DANISH, ENGLISH = Words(Language.DANISH), Words(Language.ENGLISH)
GOOD = {"right": "access", "name": "Søren Kierkegård", "email": "soren@eksempel.dk"}


def request_with(chunks: Iterable[bytes], content_type: str = "application/x-www-form-urlencoded") -> Request:
    waiting = list(chunks)

    async def receive() -> Message:
        body = waiting.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    headers = [(b"content-type", content_type.encode())]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)


async def test_a_form_is_read_in_unicode_with_umlauts_whatever_chunks_it_comes_in() -> None:
    form = await read_form(request_with([b"name=S%C3%B8ren+", b"Kierkeg%C3%A5rd&message=one%0D%0Atwo&email="]))
    assert form == {"name": "Søren Kierkegård", "message": "one\ntwo", "email": ""}


async def test_decomposed_letters_are_composed_and_edges_trimmed() -> None:
    assert await read_form(request_with([b"name=%20A%CC%8Ase%20"])) == {"name": "Åse"}


async def test_of_a_field_given_twice_the_first_counts() -> None:
    assert await read_form(request_with([b"right=access&right=erasure"])) == {"right": "access"}


async def test_only_urlencoded_forms_are_read() -> None:
    with pytest.raises(NotAForm):
        await read_form(request_with([b"{}"], "application/json"))
    with pytest.raises(NotAForm):
        await read_form(request_with([b""], "multipart/form-data; boundary=x"))


async def test_a_form_that_is_too_large_is_refused_before_it_is_all_read() -> None:
    with pytest.raises(FormTooLarge):
        await read_form(request_with([b"x" * MAX_BODY, b"x"] + [b"never read"] * 3))


@pytest.mark.parametrize("body", [b"\xff=1", b"name=%FF", b"&".join(b"a%d=1" % n for n in range(60))])
async def test_a_broken_form_is_refused(body: bytes) -> None:
    with pytest.raises(BrokenForm):
        await read_form(request_with([body]))


def test_a_good_form_becomes_a_request_with_only_the_identifiers_that_were_filled_in() -> None:
    values = {**GOOD, "identifier-phone": "12 34 56 78", "identifier-cpr": "", "message": "Hej"}
    new, mistakes = check_request(values, organisation(), DANISH)
    assert mistakes == []
    assert new is not None
    assert (new.right, new.language, new.name, new.email, new.message) == (
        Right.ACCESS, Language.DANISH, "Søren Kierkegård", "soren@eksempel.dk", "Hej",
    )  # fmt: skip
    assert [(i.type, i.value) for i in new.identifiers] == [("phone", "12 34 56 78")]


def test_identifiers_that_the_organisation_does_not_ask_for_are_left_alone() -> None:
    assert offered({"identifier-passport": "X1", "identifier-phone": "12345678"}, organisation())[0].type == "phone"


def test_an_empty_form_names_every_compulsory_field_in_the_order_of_the_page() -> None:
    new, mistakes = check_request({}, organisation(), DANISH)
    assert new is None
    assert [(m.field, m.text) for m in mistakes] == [
        ("right", "Vælg, hvad du beder om"),
        ("name", "Skriv dit navn"),
        ("email", "Skriv din e-mailadresse"),
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("right", "everything"),
        ("name", "x" * 201),
        ("name", "Ole\x00Olsen"),
        ("name", "Ole\nOlsen"),
        ("name", "Ole \u202enesslO"),
        ("email", "soren"),
        ("email", "a@b@c"),
        ("message", "x" * 4001),
        ("identifier-phone", "12"),
        ("identifier-cpr", "99"),
        ("identifier-cpr", "4513702222"),
        ("identifier-customer_number", "123"),
    ],
)
def test_each_broken_rule_is_told_at_its_field_in_both_languages_without_the_value(field: str, value: str) -> None:
    for words in (DANISH, ENGLISH):
        new, mistakes = check_request({**GOOD, field: value}, organisation(), words)
        assert new is None
        assert [m.field for m in mistakes] == [field]
        assert value not in mistakes[0].text
    assert check_request({**GOOD, field: value}, organisation(), DANISH)[1] != mistakes


def test_a_mistake_in_an_identifier_names_the_identifier() -> None:
    mistakes = check_identifiers({"identifier-customer_number": "123"}, organisation(), DANISH)
    assert mistakes[0].text.startswith("Kundenummer: ")


@pytest.mark.parametrize("name", ["Bjørn Ærø-Åkjær", "O’Brien", "علي\u200cرضا", "李小龍", "X Æ A-12"])
def test_names_of_all_the_world_are_names(name: str) -> None:
    new, mistakes = check_request({**GOOD, "name": name}, organisation(), DANISH)
    assert mistakes == []
    assert new is not None


def test_a_code_is_read_without_what_people_put_between_the_digits() -> None:
    assert read_code("1234 5678") == read_code(" 1234-5678") == read_code("1234–5678") == "12345678"


def test_a_reference_is_read_however_it_is_typed_and_refused_where_the_check_character_is_wrong() -> None:
    assert read_reference("7kq4 m2xb r") == REFERENCE
    assert read_reference("7KQ4-M2XB-9") is None
    assert read_reference("") is None
    assert read_reference("7" * 5000) is None

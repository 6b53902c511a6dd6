"""When are two identifiers the same, and is a bad one refused without being repeated?"""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.identifiers import MAX_LENGTH, BadIdentifier, digest, normalise

KINDS = ("email", "phone", "cpr", "exact", "casefold")
KEY = b"k" * 32


@pytest.mark.parametrize(
    ("kind", "given_", "normal"),
    [
        ("email", "Soeren@Example.DK", "soeren@example.dk"),
        ("email", "  soeren@example.dk\n", "soeren@example.dk"),
        ("email", "søren@blåbær.dk", "søren@blåbær.dk"),
        ("email", "soeren@xn--blbr-roah.dk", "soeren@blåbær.dk"),
        ("phone", "20 00 00 01", "+4520000001"),
        ("phone", "+45 20 00 00 01", "+4520000001"),
        ("phone", "0045 20000001", "+4520000001"),
        ("phone", "+49 (30) 901820", "+4930901820"),
        ("cpr", "010190-1234", "0101901234"),
        ("cpr", "0101901234", "0101901234"),
        ("cpr", "610190 1234", "6101901234"),
        ("exact", " K100001 ", "K100001"),
        ("exact", "K100001\u0301", "K100001\u0301"),
        ("casefold", "SØREN", "søren"),
        ("casefold", "Straße", "strasse"),
    ],
)
def test_the_normal_form(kind: str, given_: str, normal: str) -> None:
    assert normalise(kind, given_) == normal


def test_composed_and_decomposed_letters_are_the_same() -> None:
    for kind in ("exact", "casefold"):
        assert normalise(kind, unicodedata.normalize("NFD", "Åse Ærø")) == normalise(kind, "Åse Ærø")
    assert normalise("email", unicodedata.normalize("NFD", "åse@example.dk")) == "åse@example.dk"


def test_exact_means_exact() -> None:
    assert normalise("exact", "k100001") != normalise("exact", "K100001")


def test_a_phone_number_without_a_prefix_belongs_to_the_organisations_country() -> None:
    assert normalise("phone", "030 901820", region="DE") == "+4930901820"
    assert normalise("phone", "20000001", region="DK") == "+4520000001"


@pytest.mark.parametrize(
    ("kind", "text", "rule"),
    [
        ("email", "soeren.example.dk", "must be an e-mail address such as name@example.dk"),
        ("email", "soeren@", "must be an e-mail address such as name@example.dk"),
        ("email", "soeren@localhost", "must be an e-mail address such as name@example.dk"),
        ("email", "a@b@c.dk", "must be an e-mail address such as name@example.dk"),
        ("email", "Søren <soeren@example.dk>", "must be an e-mail address such as name@example.dk"),
        ("phone", "12", "must be a phone number such as +45 12 34 56 78"),
        ("phone", "ring til mig", "must be a phone number such as +45 12 34 56 78"),
        ("phone", "+45 1234 5678 9012 3456", "must be a phone number such as +45 12 34 56 78"),
        ("cpr", "320190-1234", "must begin with a date, DDMMYY-SSSS"),
        ("cpr", "011390-1234", "must begin with a date, DDMMYY-SSSS"),
        ("cpr", "000190-1234", "must begin with a date, DDMMYY-SSSS"),
        ("cpr", "010190-123", "must be ten digits, DDMMYY-SSSS"),
        ("cpr", "٠١٠١٩٠١٢٣٤", "must be ten digits, DDMMYY-SSSS"),
        ("exact", "", "must not be empty"),
        ("exact", "   ", "must not be empty"),
        ("exact", "x" * 321, "must have at most 320 characters"),
        ("exact", "a\x00b", "must not contain control characters"),
        ("exact", "a\u202eb", "must not contain control characters"),
        ("casefold", "a\nb", "must not contain control characters"),
        ("email", "soeren@exam\u200bple.dk", "must not contain control characters"),
    ],
)
def test_a_bad_one_is_refused_by_the_rule_it_breaks(kind: str, text: str, rule: str) -> None:
    with pytest.raises(BadIdentifier) as caught:
        normalise(kind, text)
    assert str(caught.value) == rule
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.sampled_from(KINDS), st.text(min_size=4, max_size=400))
def test_whatever_is_given_there_is_a_normal_form_or_a_rule_that_never_repeats_it(kind: str, text: str) -> None:
    try:
        normal = normalise(kind, text)
    except BadIdentifier as error:
        assert text not in str(error)
    else:
        assert normal
        assert normal == normal.strip()
        assert unicodedata.is_normalized("NFC", normal) or kind == "casefold"


@given(st.sampled_from(KINDS), st.text(max_size=60))
def test_a_normal_form_is_its_own_normal_form(kind: str, text: str) -> None:
    try:
        normal = normalise(kind, text)
    except BadIdentifier:
        return
    assert normalise(kind, normal) == normal


@given(st.emails())
def test_an_ordinary_address_is_the_same_in_capitals(address: str) -> None:
    try:
        normal = normalise("email", address)
    except BadIdentifier:
        return
    assert normalise("email", address.upper()) == normal


@given(st.integers(20_000_000, 99_999_999), st.sampled_from(["{}", "+45{}", "0045 {}", "+45 {}"]))
def test_a_danish_number_is_the_same_however_it_is_written(number: int, form: str) -> None:
    assert normalise("phone", form.format(number)) == f"+45{number}"


def test_the_longest_is_still_accepted() -> None:
    assert len(normalise("exact", "x" * MAX_LENGTH)) == MAX_LENGTH


def test_a_digest_depends_on_key_kind_and_value_and_mixes_none_up() -> None:
    one = digest(KEY, "email", "a@example.dk")
    assert len(one) == 64
    assert one == digest(KEY, "email", "a@example.dk")
    others = {
        digest(b"l" * 32, "email", "a@example.dk"),
        digest(KEY, "login", "a@example.dk"),
        digest(KEY, "email", "b@example.dk"),
        digest(KEY, "emai", "la@example.dk"),
    }
    assert one not in others
    assert len(others) == 4

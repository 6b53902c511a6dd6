"""Does the ledger refuse whatever could be about a person, and does its hash cover every part of an entry?"""

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.ids import new_id, new_reference
from shared.ledger import Entry, PersonalData, _refuse_free_text, entry_hash
from shared.vocabulary import CaseState, Outcome, Right

KEY = b"k" * 32


@pytest.mark.parametrize(
    "value",
    [
        "Søren Østergård",
        "Soeren Oestergaard",
        "soeren@example.dk",
        "SOEREN@EXAMPLE",
        "Ring til mig.",
        "Åse",
        "a\nb",
        "tab\there",
        "x" * 121,
        "<script>",
        'say "hi"',
        "0101901234",
        "010190-1234",
        "+4520000001",
        ["fine", "not fine"],
        ("fine", ["soeren@example.dk"]),
        {"name": "Søren"},
        {"any": "mapping"},
        b"bytes",
        datetime(2026, 3, 5, tzinfo=UTC),
        date(2026, 3, 5),
        object(),
    ],
)
def test_free_text_addresses_and_numbers_of_people_are_refused(value: object) -> None:
    with pytest.raises(PersonalData) as caught:
        _refuse_free_text(value)
    assert str(caught.value) == "a ledger entry may hold ids, counts, times and enums only"


@pytest.mark.parametrize(
    "value",
    [
        "",
        new_id(),
        new_reference(),
        f"handler:{new_id()}",
        "case.received",
        *Right,
        *CaseState,
        *Outcome,
        "habeas:A15-4-third-party",
        "20(1)(a)",
        "2026-04-07",
        "2026-03-05T10:00:00+01:00",
        "nordlys",
        "a" * 64,
        7,
        0.5,
        True,
        None,
        ["email", "customer_number"],
        (1, 2),
        [],
    ],
)
def test_ids_counts_times_and_enums_are_accepted(value: object) -> None:
    _refuse_free_text(value)


@given(st.text(max_size=150))
def test_whatever_is_accepted_has_no_space_no_at_sign_and_no_letter_beyond_ascii(text: str) -> None:
    try:
        _refuse_free_text(text)
    except PersonalData:
        return
    assert text.isascii()
    assert len(text) <= 120
    assert not set(text) & set(" @\n\t\"'<>,;")


def entry(**changes: Any) -> Entry:
    values: dict[str, Any] = {
        "id": "018f0000-0000-7000-8000-000000000001", "organisation_id": "alfa", "seq": 1,
        "at": datetime(2026, 3, 5, 12, tzinfo=UTC), "service": "intake", "kind": "case.received", "actor": "anonymous",
        "case_id": "c1", "case_version": 1, "data": {"right": "access", "count": 2},
    }  # fmt: skip
    return Entry(**(values | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "018f0000-0000-7000-8000-000000000002"},
        {"organisation_id": "beta"},
        {"seq": 2},
        {"at": datetime(2026, 3, 5, 12, 0, 0, 1, tzinfo=UTC)},
        {"service": "locator"},
        {"kind": "case.read"},
        {"actor": "handler:1"},
        {"case_id": "c2"},
        {"case_id": None},
        {"case_version": 2},
        {"data": {"right": "access", "count": 3}},
        {"data": {"right": "access"}},
        {"data": {"right": "access", "count": "2"}},
    ],
)
def test_every_part_of_an_entry_is_in_its_hash(changes: dict[str, Any]) -> None:
    assert entry_hash(KEY, "", entry(**changes)) != entry_hash(KEY, "", entry())


def test_the_hash_covers_the_one_before_and_needs_the_key() -> None:
    assert len({entry_hash(KEY, "", entry()), entry_hash(KEY, "00", entry()), entry_hash(b"x" * 32, "", entry())}) == 3


def test_the_order_of_an_entrys_data_does_not_matter() -> None:
    assert entry_hash(KEY, "", entry(data={"count": 2, "right": "access"})) == entry_hash(KEY, "", entry())

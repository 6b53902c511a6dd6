"""The snapshot of public holidays is what the pinned library says."""

import json
from datetime import date

import pytest

from services.intake.public_holidays import SNAPSHOT, Calendar, UnknownPlace, build_snapshot, check_place


def test_the_snapshot_equals_the_pinned_library() -> None:
    assert json.loads(SNAPSHOT.read_text("utf-8")) == build_snapshot()


def test_store_bededag_was_a_holiday_for_the_last_time_in_2023() -> None:
    denmark = Calendar("DK")
    assert denmark.off(date(2023, 5, 5)) is not None
    assert denmark.off(date(2024, 4, 26)) is None


def test_a_region_has_its_own_list() -> None:
    reformation = date(2025, 10, 31)
    assert Calendar("DE").off(reformation) is None
    assert Calendar("DE", "TH").off(reformation) == "Reformation Day"


def test_years_outside_the_snapshot_ask_the_library() -> None:
    assert Calendar("DK").off(date(2050, 12, 25)) == "Christmas Day"


def test_working_days_are_counted_forwards_and_backwards() -> None:
    denmark = Calendar("DK")
    assert denmark.shift(date(2026, 4, 1), 1) == date(2026, 4, 7)
    assert denmark.shift(date(2026, 4, 7), -1) == date(2026, 4, 1)
    assert denmark.shift(date(2026, 4, 5), 0) == date(2026, 4, 5)


@pytest.mark.parametrize(("country", "region"), [("dk", None), ("", None), ("EU", None), ("DE", "BYX"), ("DK", "84X")])
def test_an_unknown_place_has_no_calendar(country: str, region: str | None) -> None:
    with pytest.raises(UnknownPlace):
        check_place(country, region)


def test_countries_outside_the_eea_are_known_to_the_library() -> None:
    check_place("GB", "SCT")
    assert Calendar("GB", "SCT").off(date(2026, 11, 30)) is not None

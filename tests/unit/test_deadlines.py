"""Art. 12(3): the vectors of an independent oracle, and what must hold for every request."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dateutil.relativedelta import relativedelta
from hypothesis import given, settings
from hypothesis import strategies as st

from services.intake.deadlines import (
    BadDeadlineInput,
    Deadline,
    Event,
    Place,
    Rules,
    compute,
    parse_event,
    parse_instant,
    report,
    targets,
)
from services.intake.public_holidays import Calendar, UnknownPlace
from services.intake.register import load

VECTORS: list[dict[str, Any]] = json.loads(Path("tests/data/deadline_vectors.json").read_text("utf-8"))["vectors"]
DENMARK = Place("DK", "Europe/Copenhagen")
RECEIVED = datetime.fromisoformat("2026-09-01T10:00:00+02:00")


def ids(vectors: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", vectors, ids=[vector["id"] for vector in vectors])


def events_of(vector: dict[str, Any]) -> list[Event]:
    return [Event(event["type"], datetime.fromisoformat(event["at"])) for event in vector["events"]]


def solve(vector: dict[str, Any], rules: Rules | None = None, extra: tuple[str, ...] = ()) -> Deadline:
    place = Place(vector["country"], vector["timezone"], extra_holidays=extra)
    return compute(datetime.fromisoformat(vector["received_at"]), place, events_of(vector), rules=rules or Rules())


def iso(day: date | None) -> str | None:
    return None if day is None else day.isoformat()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text + "+02:00")


@ids(VECTORS)
def test_every_vector_of_the_oracle_is_met(vector: dict[str, Any]) -> None:
    found = solve(vector)
    assert iso(found.received_local) == vector["received_local"]
    assert iso(found.nominal_due) == vector["nominal_due"]
    assert iso(found.due) == vector["expected_due"]
    assert iso(found.extended_due) == vector["expected_extended_due"]
    assert iso(found.effective_due) == vector["effective_due"]
    assert found.suspended_days == vector["suspended_days"]
    assert list(found.rolled_over) == vector["rolled_over"]
    in_time = vector.get("extension_notice_in_time")
    assert found.extension == {None: "none", True: "in_time", False: "too_late"}[in_time]
    assert found.warnings == (("extension-late",) if in_time is False else ())


@ids([vector for vector in VECTORS if "alt" in vector])
def test_contested_days_off_count_only_when_the_organisation_lists_them(vector: dict[str, Any]) -> None:
    found = solve(vector, extra=tuple(vector["alt"]["extra_holidays"]))
    assert iso(found.due) == vector["alt"]["expected_due"]
    assert iso(found.extended_due) == vector["alt"]["expected_extended_due"]


@ids([vector for vector in VECTORS if "alt_models" in vector])
def test_the_other_readings_of_a_pause_can_be_chosen(vector: dict[str, Any]) -> None:
    restart = solve(vector, Rules(suspension="restart"))
    none = solve(vector, Rules(suspension="none"))
    assert iso(restart.due) == vector["alt_models"]["restart_on_answer"]
    assert iso(none.due) == vector["alt_models"]["no_suspension"]
    assert none.suspended_days == 0


def test_extra_holidays_may_also_stand_in_the_register() -> None:
    loaded = load(Path("examples/registers/demo.yaml")).register
    place = Place.of(loaded.organisation, loaded.policy)
    assert place == DENMARK


def test_a_question_sent_after_the_due_date_does_not_stop_the_clock() -> None:
    late = [Event("suspend", at("2026-10-02T09:00")), Event("resume", at("2026-10-12T09:00"))]
    found = compute(RECEIVED, DENMARK, late)
    assert (found.due, found.suspended_days) == (date(2026, 10, 1), 0)
    assert found.warnings == ("question-after-due",)


def test_a_question_not_asked_without_undue_delay_does_not_stop_the_clock_unless_so_chosen() -> None:
    late = [Event("suspend", at("2026-09-09T09:00")), Event("resume", at("2026-09-12T09:00"))]
    found = compute(RECEIVED, DENMARK, late)
    assert (found.due, found.suspended_days, found.warnings) == (date(2026, 10, 1), 0, ("question-late",))
    chosen = compute(RECEIVED, DENMARK, late, rules=Rules(late_question="pause"))
    assert (chosen.nominal_due, chosen.suspended_days) == (date(2026, 10, 4), 3)
    assert chosen.warnings == ("question-late",)


def test_a_question_on_the_fifth_working_day_is_asked_in_time() -> None:
    asked = [Event("suspend", at("2026-09-08T23:00")), Event("resume", at("2026-09-10T09:00"))]
    assert compute(RECEIVED, DENMARK, asked).suspended_days == 2


def test_a_second_question_is_measured_against_the_answer_before_it() -> None:
    two = [
        Event("suspend", at("2026-09-02T09:00")),
        Event("resume", at("2026-09-15T09:00")),
        Event("suspend", at("2026-09-16T09:00")),
        Event("resume", at("2026-09-20T09:00")),
    ]
    found = compute(RECEIVED, DENMARK, two)
    assert (found.suspended_days, found.warnings) == (17, ())


def test_a_late_follow_up_stops_the_clock_and_is_warned_of() -> None:
    two = [
        Event("suspend", at("2026-09-02T09:00")),
        Event("resume", at("2026-09-03T09:00")),
        Event("suspend", at("2026-09-16T09:00")),
        Event("resume", at("2026-09-20T09:00")),
    ]
    found = compute(RECEIVED, DENMARK, two)
    assert (found.suspended_days, found.warnings) == (5, ("question-late",))


def test_a_question_answered_the_same_day_costs_no_day() -> None:
    asked = [Event("suspend", at("2026-09-02T09:00")), Event("resume", at("2026-09-02T17:00"))]
    assert compute(RECEIVED, DENMARK, asked).suspended_days == 0


def test_while_a_question_is_open_the_due_date_is_only_projected() -> None:
    asked = [Event("suspend", at("2026-09-03T09:00"))]
    found = compute(RECEIVED, DENMARK, asked, now=at("2026-09-10T12:00"))
    assert found.paused
    assert (found.due, found.extended_due, found.effective_due, found.suspended_days) == (None, None, None, None)
    assert found.projected_due == date(2026, 10, 8)
    early = compute(RECEIVED, DENMARK, asked, now=at("2026-09-02T12:00"))
    assert early.projected_due == date(2026, 10, 1)
    assert targets(found, DENMARK).escalate_on == ()


def test_an_extension_may_be_told_while_a_question_is_open_and_holds_once_answered() -> None:
    events = [
        Event("suspend", at("2026-09-02T09:00")),
        Event("extend", at("2026-10-05T09:00")),
        Event("resume", at("2026-10-06T09:00")),
    ]
    found = compute(RECEIVED, DENMARK, events)
    assert found.extension == "in_time"
    assert found.effective_due == found.extended_due == date(2027, 1, 4)


def test_an_extension_cannot_be_used_twice() -> None:
    twice = [Event("extend", at("2026-09-20T09:00")), Event("extend", at("2026-11-20T09:00"))]
    found = compute(RECEIVED, DENMARK, twice)
    assert (found.effective_due, found.warnings) == (date(2026, 12, 1), ("extension-twice",))


def test_a_notice_on_the_rolled_day_is_late_under_the_strict_reading() -> None:
    received = datetime.fromisoformat("2026-01-15T10:00:00+01:00")
    notice = [Event("extend", datetime.fromisoformat("2026-02-16T09:00:00+01:00"))]
    assert compute(received, DENMARK, notice).extension == "in_time"
    assert compute(received, DENMARK, notice, rules=Rules(notice_by="nominal")).extension == "too_late"


def test_the_extension_may_be_counted_from_the_due_date() -> None:
    received = datetime.fromisoformat("2025-01-31T12:00:00+01:00")
    assert compute(received, DENMARK).extended_due == date(2025, 4, 30)
    assert compute(received, DENMARK, rules=Rules(extension_base="due")).extended_due == date(2025, 4, 28)
    february = datetime.fromisoformat("2026-01-31T12:00:00+01:00")
    assert compute(february, DENMARK, rules=Rules(extension_base="rolled_due")).extended_due == date(2026, 5, 4)


def test_the_plan_date_is_the_strictest_reading() -> None:
    asked = [Event("suspend", at("2026-09-02T09:00")), Event("resume", at("2026-09-20T09:00"))]
    assert compute(RECEIVED, DENMARK, asked).plan_date == date(2026, 10, 1)
    easter = compute(datetime.fromisoformat("2026-03-05T10:00:00+01:00"), DENMARK)
    assert (easter.plan_date, easter.due) == (date(2026, 4, 5), date(2026, 4, 7))
    received = datetime.fromisoformat("2025-01-31T12:00:00+01:00")
    extended = compute(received, DENMARK, [Event("extend", received + timedelta(days=3))])
    assert (extended.plan_date, extended.effective_due) == (date(2025, 4, 28), date(2025, 4, 30))


def test_a_promise_shorter_than_the_law_is_kept_beside_it_and_never_rolls() -> None:
    found = compute(RECEIVED, DENMARK, rules=Rules(answer_within_days=11))
    assert (found.promise_due, found.due) == (date(2026, 9, 12), date(2026, 10, 1))
    assert found.promise_due is not None
    assert found.promise_due.weekday() == 5


def test_a_promise_longer_than_the_law_is_none() -> None:
    february = datetime.fromisoformat("2026-02-05T10:00:00+01:00")
    found = compute(february, DENMARK, rules=Rules(answer_within_days=30))
    assert (found.promise_due, found.warnings) == (None, ("promise-later-than-law",))


def test_internal_targets_count_working_days() -> None:
    found = targets(compute(RECEIVED, DENMARK), DENMARK)
    assert (found.acknowledge_by, found.ask_identity_by) == (date(2026, 9, 2), date(2026, 9, 4))
    assert found.answer_target == date(2026, 9, 15)
    assert found.escalate_on == (date(2026, 9, 22), date(2026, 9, 28), date(2026, 9, 30))


@pytest.mark.parametrize(
    ("place", "error"),
    [
        (Place("XX", "Europe/Copenhagen"), UnknownPlace),
        (Place("DE", "Europe/Berlin", "ZZ"), UnknownPlace),
        (Place("DK", "Europe/Kopenhagen"), BadDeadlineInput),
        (Place("DK", "../../etc/passwd"), BadDeadlineInput),
        (Place("DK", ""), BadDeadlineInput),
    ],
)
def test_an_unknown_place_is_refused_by_rule(place: Place, error: type[ValueError]) -> None:
    with pytest.raises(error):
        compute(RECEIVED, place)


@pytest.mark.parametrize(
    "events",
    [
        [Event("resume", at("2026-09-02T09:00"))],
        [Event("suspend", at("2026-08-31T09:00"))],
        [Event("suspend", datetime.fromisoformat("2026-09-02T09:00"))],
        [Event("extend", datetime.fromisoformat("9999-12-31T23:59:59+00:00"))],
    ],
    ids=["answer without question", "before receipt", "no offset", "absurd year"],
)
def test_events_that_make_no_life_are_refused(events: list[Event]) -> None:
    with pytest.raises(BadDeadlineInput):
        compute(RECEIVED, DENMARK, events)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-03-05", "2026-03-05T10:00", "2026-13-01T10:00+01:00"])
def test_a_time_must_be_complete(text: str) -> None:
    with pytest.raises(BadDeadlineInput):
        parse_instant(text)


@pytest.mark.parametrize("text", ["", "pause@2026-03-05T10:00+01:00", "suspend", "suspend@", "SUSPEND@2026"])
def test_an_event_must_be_kind_and_time(text: str) -> None:
    with pytest.raises(BadDeadlineInput):
        parse_event(text)


def test_events_are_told_in_order_of_time_whatever_their_order_in_the_list() -> None:
    told = [Event("resume", at("2026-09-10T15:00")), Event("suspend", at("2026-09-03T09:00"))]
    assert compute(RECEIVED, DENMARK, told).suspended_days == 7


def test_the_report_speaks_iso_dates() -> None:
    found = report(compute(RECEIVED, DENMARK))
    assert found["due"] == found["effective_due"] == "2026-10-01"
    assert json.loads(json.dumps(found)) == found


# --- what must hold for every request --------------------------------------------------------------------------------

places = st.sampled_from(
    [
        DENMARK,
        Place("DE", "Europe/Berlin"),
        Place("DE", "Europe/Berlin", "BY"),
        Place("SE", "Europe/Stockholm"),
        Place("IE", "Europe/Dublin", extra_holidays=("12-24",)),
        Place("BG", "Europe/Sofia"),
        Place("PT", "Atlantic/Azores"),
    ],
)
instants = st.datetimes(datetime(2016, 1, 1), datetime(2044, 1, 1), timezones=st.just(UTC))
pauses = st.tuples(st.integers(0, 4), st.integers(0, 60))


def paused(received: datetime, pause: tuple[int, int]) -> list[Event]:
    asked = received + timedelta(days=pause[0])
    return [Event("suspend", asked), Event("resume", asked + timedelta(days=pause[1]))]


@settings(deadline=None)
@given(received=instants, place=places, pause=pauses)
def test_the_due_date_is_a_working_day_never_before_the_nominal_one(
    received: datetime, place: Place, pause: Any
) -> None:
    found = compute(received, place, paused(received, pause))
    assert found.due is not None
    assert found.nominal_due <= found.due
    assert len(found.rolled_over) == (found.due - found.nominal_due).days
    assert Calendar(place.country, place.region, place.extra_holidays).off(found.due) is None
    assert found.plan_date <= found.nominal_due
    assert found.received_local < found.plan_date


@settings(deadline=None)
@given(received=instants, place=places, pause=pauses, more=st.integers(0, 40))
def test_a_longer_pause_never_brings_the_due_date_nearer(
    received: datetime, place: Place, pause: Any, more: int
) -> None:
    short = compute(received, place, paused(received, pause))
    long = compute(received, place, paused(received, (pause[0], pause[1] + more)))
    assert short.due is not None
    assert long.due is not None
    assert short.due <= long.due


@settings(deadline=None)
@given(received=instants, place=places, later=st.integers(0, 400))
def test_a_later_receipt_is_never_due_earlier(received: datetime, place: Place, later: int) -> None:
    first = compute(received, place)
    second = compute(received + timedelta(hours=later), place)
    assert first.effective_due is not None
    assert second.effective_due is not None
    assert first.effective_due <= second.effective_due


@settings(deadline=None)
@given(received=instants, place=places, pause=pauses)
def test_an_extension_never_shortens_and_no_pause_is_the_strictest(
    received: datetime, place: Place, pause: Any
) -> None:
    found = compute(received, place, paused(received, pause))
    strict = compute(received, place, paused(received, pause), rules=Rules(suspension="none"))
    assert found.due is not None
    assert found.extended_due is not None
    assert strict.due is not None
    assert found.due < found.extended_due
    assert strict.due <= found.due


@given(received=instants)
def test_months_are_added_as_an_independent_library_adds_them(received: datetime) -> None:
    found = compute(received, DENMARK)
    assert found.nominal_due == found.received_local + relativedelta(months=1)
    assert found.extended_due is not None
    assert found.extended_due >= found.received_local + relativedelta(months=3)


@settings(deadline=None)
@given(received=instants, place=places)
def test_the_offset_in_which_receipt_is_written_does_not_matter(received: datetime, place: Place) -> None:
    elsewhere = received.astimezone(datetime.fromisoformat("2026-01-01T00:00+09:00").tzinfo)
    assert compute(received, place) == compute(elsewhere, place)

"""`habeas due`: by when must a request be answered?"""

import json
from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any

import typer

from services.intake import deadlines
from services.intake.deadlines import BadDeadlineInput, Deadline, Place
from services.intake.public_holidays import UnknownPlace, check_place, is_day_of_year
from shared.clock import utc_now

ReceivedAt = Annotated[
    str, typer.Argument(metavar="RECEIVED_AT", help="When the request arrived, as 2026-03-05T10:00+01:00.")
]
Country = Annotated[
    str, typer.Option("--country", help="Where the organisation is established, as DK: its public holidays count.")
]
TimeZone = Annotated[str, typer.Option("--tz", help="The organisation's time zone, as Europe/Copenhagen.")]
Region = Annotated[str | None, typer.Option("--region", help="A region with holidays of its own, as BY in DE.")]
Events = Annotated[
    list[str] | None,
    typer.Option(
        "--event",
        help="What changed the clock: suspend@TIME (a question was sent), resume@TIME (it was answered), "
        "extend@TIME (the person was told of an extension). May be given several times.",
    ),
]
ExtraHolidays = Annotated[
    list[str] | None,
    typer.Option("--extra-holiday", help="A further day off as MM-DD, such as 06-05. May be given several times."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def due(
    received_at: ReceivedAt,
    country: Country,
    tz: TimeZone,
    region: Region = None,
    event: Events = None,
    extra_holiday: ExtraHolidays = None,
    as_json: AsJson = False,  # noqa: FBT002 - typer makes a flag of it
) -> None:
    """Tell by when a request must be answered (GDPR Art. 12(3), Regulation 1182/71)."""
    deadline = _compute(received_at, event or [], _place(country, tz, region, extra_holiday or []))
    if as_json:
        typer.echo(json.dumps(deadlines.report(deadline), indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(_told(deadline)))


def due_report(received_at: str, country: str, tz: str, events: Sequence[str] = ()) -> dict[str, Any]:
    """Return what `habeas due … --json` prints. Raises `typer.BadParameter`, which names the option and the rule."""
    return deadlines.report(_compute(received_at, events, _place(country, tz, None, [])))


def _place(country: str, tz: str, region: str | None, extra: Sequence[str]) -> Place:
    try:
        check_place(country)
    except UnknownPlace as unknown:
        raise _bad("--country", unknown) from None
    try:
        check_place(country, region)
    except UnknownPlace as unknown:
        raise _bad("--region", unknown) from None
    try:
        deadlines.zone(tz)
    except BadDeadlineInput as bad:
        raise _bad("--tz", bad) from None
    if not all(map(is_day_of_year, extra)):
        raise _bad("--extra-holiday", ValueError("must be a day of the year as MM-DD"))
    return Place(country, tz, region, tuple(extra))


def _compute(received_at: str, events: Sequence[str], place: Place) -> Deadline:
    try:
        received = deadlines.parse_instant(received_at)
        deadlines.compute(received, place)
    except BadDeadlineInput as bad:
        raise _bad("RECEIVED_AT", bad) from None
    try:
        return deadlines.compute(received, place, [deadlines.parse_event(text) for text in events], now=utc_now())
    except BadDeadlineInput as bad:
        raise _bad("--event", bad) from None


def _bad(option: str, rule: ValueError) -> typer.BadParameter:
    return typer.BadParameter(str(rule), param_hint=option)


# --- in plain words --------------------------------------------------------------------------------------------------

_WARNINGS = {
    "question-late": "A question was asked so late that it does not stop the clock.",
    "question-after-due": "A question was asked after the last day; it does not stop the clock.",
    "extension-late": "The extension was told too late; it is not valid.",
    "extension-twice": "An extension can be used only once; the later one has no effect.",
    "promise-later-than-law": "The organisation promises a later day than the law demands; the law holds.",
}


def _told(deadline: Deadline) -> list[str]:
    lines = [f"Received:     {_day(deadline.received_local)}"]
    lines += _paused(deadline) if deadline.effective_due is None else _dated(deadline, deadline.effective_due)
    lines.append(f"Plan for:     {_day(deadline.plan_date)}, when no reading of the law can find you late")
    return lines + [f"Note:         {_WARNINGS[code]}" for code in deadline.warnings]


def _paused(deadline: Deadline) -> list[str]:
    lines = ["Answer by:    the clock stands still until the open question is answered"]
    if deadline.projected_due is not None:
        lines.append(f"              if it were answered today: {_day(deadline.projected_due)}")
    return lines


def _dated(deadline: Deadline, effective: date) -> list[str]:
    assert deadline.due is not None
    assert deadline.extended_due is not None
    lines = [f"Answer by:    {_day(effective)}" + (" (extended)" if deadline.extension == "in_time" else "")]
    lines += [f"              not {day}" for day in deadline.rolled_over if effective == deadline.due]
    if deadline.suspended_days:
        lines.append(f"              the clock stood still for {deadline.suspended_days} days")
    if deadline.extension != "in_time":
        by = f"if the person is told why by {_day(deadline.due)}"
        lines.append(f"Extended to:  {_day(deadline.extended_due)} at most, {by}")
    return lines


def _day(day: date) -> str:
    return f"{day:%A} {day.day} {day:%B %Y}"

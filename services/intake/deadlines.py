"""When must the answer be given? The time limits of GDPR Art. 12(3)-(4), counted as Regulation (EEC) 1182/71 counts.

The day of receipt is the local date where the controller is established. One month later is the day with the same
number, or the last day of a shorter month; days for which the clock stood still are added; only then does a Saturday,
Sunday or public holiday move the end to the next working day (art. 3(2)(c), 3(4)): clip, shift, roll. All dates are
inclusive last days: the limit ends with that local day.

Where opinions differ, `Rules` holds the choice:

- `suspension`: a question asked because of doubt stops the clock for whole local days [asked, answered) (`pause`); or
  the month begins anew with the answer (`restart`); or nothing stops it (`none`, the strictest).
- `late_question`, `question_days`: a first question asked later than that many working days after receipt was not asked
  without undue delay and does not stop the clock (`ignore`), or does all the same (`pause`). A follow-up that late
  after the answer before it stops the clock and is warned of: whether it could have come earlier, a person judges.
- `extension_base`: three months from receipt (`receipt`), or two months from the unrolled (`due`) or the rolled last
  day (`rolled_due`).
- `notice_by`: the notice of extension is in time until the rolled (`due`) or only until the unrolled (`nominal`) day.
- `answer_within_days`: a promise shorter than the law, in calendar days, neither rolled nor suspended.
- contested days off are `Place.extra_holidays`; without them the earlier date holds, which is always safe.

Fixed: the day of receipt is the anchor (EDPB Guidelines 01/2022, art. 3(2)(c)), not the day after it; a request
received at night or on a holiday is received that day; the holidays are those of the establishment that handles the
request; which channel counts as receipt is the caller's, who passes the earliest.
"""

from calendar import monthrange
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from services.intake.public_holidays import Calendar, check_place
from shared.register import Organisation, Policy

FIRST_YEAR, LAST_YEAR = 2000, 2100


class BadDeadlineInput(ValueError):
    """The times do not make a request's life. `str()` names the rule, never the value."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the controller is established: its clock and its public holidays."""

    country: str
    timezone: str
    region: str | None = None
    extra_holidays: tuple[str, ...] = ()

    @classmethod
    def of(cls, organisation: Organisation, policy: Policy) -> Self:
        """Return the place that a register describes."""
        return cls(organisation.country, organisation.timezone, organisation.region, policy.extra_holidays)


@dataclass(frozen=True, slots=True)
class Event:
    """What changed the clock: a question was sent, a sufficient answer came, a notice of extension was sent."""

    kind: Literal["suspend", "resume", "extend"]
    at: datetime
    """Aware."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The choices where the law leaves or seems to leave one; see the module's docstring. The defaults are ours."""

    suspension: Literal["pause", "restart", "none"] = "pause"
    late_question: Literal["ignore", "pause"] = "ignore"
    question_days: int = 5
    extension_base: Literal["receipt", "due", "rolled_due"] = "receipt"
    notice_by: Literal["due", "nominal"] = "due"
    answer_within_days: int | None = None


OURS = Rules()


@dataclass(frozen=True, slots=True)
class Deadline:
    """The dates of one request. While a question is open the clock stands still and they are None (`paused`)."""

    received_local: date
    nominal_due: date
    """One month and the suspended days, before rolling; without suspended days while paused."""
    due: date | None
    """Legal last day without extension."""
    extended_due: date | None
    """Legal last day if validly extended (Art. 12(3): two further months)."""
    effective_due: date | None
    """The one that holds: `extended_due` if a notice was sent in time, else `due`."""
    suspended_days: int | None
    rolled_over: tuple[str, ...]
    """The days off between `nominal_due` and `due`, as `YYYY-MM-DD name`."""
    plan_date: date
    """Answer by then and no reading of the law finds you late: no suspension, no roll. For planning, not letters."""
    promise_due: date | None
    """What the organisation promised, if earlier than the law."""
    projected_due: date | None
    """`effective_due` if the open question were answered at `now`."""
    paused: bool
    extension: Literal["none", "in_time", "too_late"]
    warnings: tuple[str, ...]
    """Codes: `question-late`, `question-after-due`, `extension-late`, `extension-twice`, `promise-later-than-law`."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Internal targets (deadlines.md rule 9): dates that a handler is reminded of."""

    acknowledge_by: date
    ask_identity_by: date
    answer_target: date
    escalate_on: tuple[date, ...]


def compute(
    received_at: datetime,
    place: Place,
    events: Sequence[Event] = (),
    *,
    rules: Rules = OURS,
    now: datetime | None = None,
) -> Deadline:
    """Return the time limits of a request received at `received_at` (aware), given what happened since.

    `now` is only used for `projected_due`. Pure. Raises `BadDeadlineInput` for a naive or absurd time, an unknown time
    zone, an event before receipt and an answer without a question; `UnknownPlace` for a country without a list.
    """
    clock = _run(received_at, place, events, rules)
    paused = clock.asked is not None
    projected = _answered(clock, _local(now, zone(place.timezone))).effective_due() if paused and now else None
    return Deadline(
        received_local=clock.received,
        nominal_due=_months(clock.received, 1) if paused else clock.nominal(1),
        due=None if paused else clock.due(),
        extended_due=None if paused else clock.extended_due(),
        effective_due=None if paused else clock.effective_due(),
        suspended_days=None if paused else clock.suspended,
        rolled_over=() if paused else clock.rolled_over(),
        plan_date=clock.plan_date(),
        promise_due=_promise(clock),
        projected_due=projected,
        paused=paused,
        extension=clock.extension,
        warnings=_warnings(clock),
    )


def targets(deadline: Deadline, place: Place) -> Targets:
    """Return the internal targets of a request. While it is paused nothing escalates."""
    calendar, received, last = _calendar(place), deadline.received_local, deadline.effective_due
    return Targets(
        acknowledge_by=calendar.shift(received, 1),
        ask_identity_by=calendar.shift(received, 3),
        answer_target=received + timedelta(days=14),
        escalate_on=tuple(calendar.shift(last, -n) for n in (7, 3, 1)) if last else (),
    )


@dataclass(slots=True)
class _Clock:
    """The legal clock of one request while its events are told in order."""

    received: date
    calendar: Calendar
    rules: Rules
    asked: date | None = None
    questions: int = 0
    suspended: int = 0
    last_answer: date | None = None
    extension: Literal["none", "in_time", "too_late"] = "none"
    warnings: list[str] = field(default_factory=list)

    def nominal(self, months: int) -> date:
        """Return the unrolled last day of a limit of `months`."""
        if self.rules.suspension == "restart":
            return _months(self.last_answer or self.received, months)
        return _months(self.received, months) + timedelta(days=self.suspended)

    def due(self) -> date:
        return self.calendar.roll(self.nominal(1))

    def extended_due(self) -> date:
        if self.rules.extension_base == "receipt":
            return self.calendar.roll(self.nominal(3))
        return self.calendar.roll(
            _months(self.due() if self.rules.extension_base == "rolled_due" else self.nominal(1), 2)
        )

    def effective_due(self) -> date:
        return self.extended_due() if self.extension == "in_time" else self.due()

    def rolled_over(self) -> tuple[str, ...]:
        return tuple(f"{day} {why}" for day, why in self.calendar.skipped(self.nominal(1)))

    def plan_date(self) -> date:
        one = _months(self.received, 1)
        return min(_months(self.received, 3), _months(one, 2)) if self.extension == "in_time" else one

    def suspend(self, day: date) -> None:
        self.questions += 1
        if self.asked is not None or self.rules.suspension == "none":
            return
        if day > self.effective_due():
            self.warnings.append("question-after-due")
            return
        if late := day > self.calendar.shift(self.last_answer or self.received, self.rules.question_days):
            self.warnings.append("question-late")
        # Whether a follow-up came without undue delay, the answer before it decides, not the calendar: it only warns.
        if not late or self.last_answer or self.rules.late_question == "pause":
            self.asked = day

    def resume(self, day: date) -> None:
        if not self.questions:
            raise BadDeadlineInput("a resume needs an earlier suspend: there is no question that it answers")
        if self.asked is not None:
            self.suspended += (day - self.asked).days
            self.last_answer = day
        self.asked = None

    def extend(self, day: date) -> None:
        if self.extension == "in_time":
            self.warnings.append("extension-twice")
            return
        then = _answered(self, day)
        limit = then.nominal(1) if self.rules.notice_by == "nominal" else then.due()
        self.extension = "in_time" if day <= limit else "too_late"
        if self.extension == "too_late":
            self.warnings.append("extension-late")


_STEPS: dict[str, Callable[[_Clock, date], None]] = {
    "suspend": _Clock.suspend,
    "resume": _Clock.resume,
    "extend": _Clock.extend,
}


def _run(received_at: datetime, place: Place, events: Sequence[Event], rules: Rules) -> _Clock:
    check_place(place.country, place.region)
    here = zone(place.timezone)
    clock = _Clock(_local(received_at, here), _calendar(place), rules)
    for event in sorted(events, key=lambda event: _aware(event.at)):
        day = _local(event.at, here)
        if day < clock.received:
            raise BadDeadlineInput("an event cannot lie before the day of receipt")
        _STEPS[event.kind](clock, day)
    return clock


def _answered(clock: _Clock, day: date) -> _Clock:
    """Return the clock as it would stand if an open question were answered on `day`, or the same if none is open."""
    if clock.asked is None:
        return clock
    answered = replace(clock, warnings=[])
    answered.resume(max(day, clock.asked))
    return answered


def _promise(clock: _Clock) -> date | None:
    promised = _promised(clock)
    return promised if promised is not None and promised < clock.nominal(1) else None


def _warnings(clock: _Clock) -> tuple[str, ...]:
    promised = _promised(clock)
    late = promised is not None and promised > _months(clock.received, 1)
    return tuple(dict.fromkeys([*clock.warnings, *(["promise-later-than-law"] if late else [])]))


def _promised(clock: _Clock) -> date | None:
    days = clock.rules.answer_within_days
    return None if days is None else clock.received + timedelta(days=days)


def _months(day: date, months: int) -> date:
    """Return the same day-number `months` later, clipped to the month's end (art. 3(2)(c))."""
    years, month = divmod(day.month - 1 + months, 12)
    year = day.year + years
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def _calendar(place: Place) -> Calendar:
    return Calendar(place.country, place.region, place.extra_holidays)


def _local(at: datetime, here: ZoneInfo) -> date:
    aware = _aware(at)
    if not FIRST_YEAR <= aware.year <= LAST_YEAR:
        raise BadDeadlineInput(f"a time must lie in the years {FIRST_YEAR}-{LAST_YEAR}")
    return aware.astimezone(here).date()


def _aware(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise BadDeadlineInput("a time must carry its offset from UTC, such as 2026-03-05T10:00+01:00")
    return at


@lru_cache(maxsize=64)
def zone(name: str) -> ZoneInfo:
    """Return the time zone of that IANA name. Raises `BadDeadlineInput`."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadDeadlineInput("a time zone must be one of the IANA database, such as Europe/Copenhagen") from None


# --- for the command line --------------------------------------------------------------------------------------------


def parse_instant(text: str) -> datetime:
    """Return the aware instant that an RFC 3339 text names; the seconds may be missing. Raises `BadDeadlineInput`."""
    try:
        return _aware(datetime.fromisoformat(text.strip()))
    except BadDeadlineInput:
        raise
    except ValueError:
        raise BadDeadlineInput("a time must be written as 2026-03-05T10:00+01:00") from None


def parse_event(text: str) -> Event:
    """Return the event that `suspend@TIME`, `resume@TIME` or `extend@TIME` names. Raises `BadDeadlineInput`."""
    kind, _, at = text.strip().partition("@")
    for known in ("suspend", "resume", "extend"):
        if kind == known:
            return Event(known, parse_instant(at))
    raise BadDeadlineInput("an event must be suspend@TIME, resume@TIME or extend@TIME")


def report(deadline: Deadline) -> dict[str, Any]:
    """Return the dates as JSON: ISO dates, None while paused."""
    dates = ("nominal_due", "due", "extended_due", "effective_due")
    more = ("received_local", "plan_date", "promise_due", "projected_due")
    return {
        **{name: _iso(getattr(deadline, name)) for name in dates},
        "suspended_days": deadline.suspended_days,
        "rolled_over": list(deadline.rolled_over),
        **{name: _iso(getattr(deadline, name)) for name in more},
        "paused": deadline.paused,
        "extension": deadline.extension,
        "warnings": list(deadline.warnings),
    }


def _iso(day: date | None) -> str | None:
    return None if day is None else day.isoformat()

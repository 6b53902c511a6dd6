"""Which days does a place not work? Public holidays in the sense of Regulation 1182/71 art. 2(1).

For the EU and EEA states the lists lie beside this module as a snapshot of `holidays` 0.108 (2015-2045), so that a due
date never changes because a library did. Regions, other countries and other years ask the library itself.
`python -m services.intake.public_holidays` writes the snapshot anew; a test holds the two equal.
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

SNAPSHOT = Path(__file__).with_name("public_holidays.json")
YEARS = range(2015, 2046)
STATES = (
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE",
    "IS", "IT", "LI", "LT", "LU", "LV", "MT", "NL", "NO", "PL", "PT", "RO", "SE", "SI", "SK",
)  # fmt: skip
WEEKEND = {5: "Saturday", 6: "Sunday"}
EXTRA = "Holiday on the organisation's own list"


class UnknownPlace(ValueError):
    """No list of public holidays is known for this country or region. `str()` names the rule."""


@dataclass(frozen=True, slots=True)
class Calendar:
    """Working days of one place. `extra` are further days off, `MM-DD`, that the organisation counts as holidays."""

    country: str
    region: str | None = None
    extra: Collection[str] = ()

    def off(self, day: date) -> str | None:
        """Return why nobody works on `day` (an English name), or None for a working day (Reg. 1182/71 art. 2(2))."""
        listed = _holidays(self.country, self.region, day.year).get(day)
        return listed or self._extra(day) or WEEKEND.get(day.weekday())

    def skipped(self, day: date) -> Iterator[tuple[date, str]]:
        """Yield the days off, each with its name, from `day` up to the next working day (art. 3(4))."""
        while (why := self.off(day)) is not None:
            yield day, why
            day += timedelta(days=1)

    def roll(self, day: date) -> date:
        """Return the first working day on or after `day`."""
        return day + timedelta(days=sum(1 for _ in self.skipped(day)))

    def shift(self, day: date, working_days: int) -> date:
        """Return the day `working_days` working days after `day`, or before it if negative."""
        step = timedelta(days=1 if working_days > 0 else -1)
        for _ in range(abs(working_days)):
            day += step
            while self.off(day) is not None:
                day += step
        return day

    def _extra(self, day: date) -> str | None:
        return EXTRA if self.extra and f"{day:%m-%d}" in self.extra else None


def check_place(country: str, region: str | None = None) -> None:
    """Raise `UnknownPlace` unless the public holidays of `country` (ISO 3166), and of `region` in it, are known."""
    if country in STATES and region is None:
        return
    known = _supported()
    if country not in known:
        raise UnknownPlace("must be a country whose public holidays are known, in two capital letters such as DK")
    if region is not None and region not in known[country]:
        raise UnknownPlace("must be a region of that country, such as BY for Bavaria in DE")


def is_day_of_year(text: str) -> bool:
    """Whether `text` is a day of the year as `MM-DD`."""
    try:
        date.fromisoformat(f"2024-{text}")
    except ValueError:
        return False
    return len(text) == 5


def build_snapshot() -> dict[str, Any]:
    """Return the lists of all EU and EEA states from the installed library, in the form that the snapshot has."""
    names: dict[str, int] = {}
    days = {state: {str(year): _packed(state, year, names) for year in YEARS} for state in STATES}
    return {"library": f"holidays {_library().__version__}", "category": "public", "names": list(names), "days": days}


def _packed(state: str, year: int, names: dict[str, int]) -> str:
    found = sorted(_from_library(state, None, year).items())
    return " ".join(f"{day:%m%d}.{names.setdefault(name, len(names))}" for day, name in found)


@lru_cache(maxsize=4096)
def _holidays(country: str, region: str | None, year: int) -> dict[date, str]:
    if region is None and country in STATES and year in YEARS:
        return _from_snapshot(country, year)
    return _from_library(country, region, year)


def _from_snapshot(country: str, year: int) -> dict[date, str]:
    snapshot = _snapshot()
    pairs = (entry.split(".") for entry in snapshot["days"][country][str(year)].split())
    return {date(year, int(day[:2]), int(day[2:])): snapshot["names"][int(name)] for day, name in pairs}


def _from_library(country: str, region: str | None, year: int) -> dict[date, str]:
    found = _library().country_holidays(country, subdiv=region, years=year, language="en_US")
    return dict(found.items())


@lru_cache(maxsize=1)
def _snapshot() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(SNAPSHOT.read_text("utf-8"))
    return loaded


@lru_cache(maxsize=1)
def _supported() -> dict[str, list[str]]:
    supported: dict[str, list[str]] = _library().list_supported_countries(include_aliases=True)
    return supported


def _library() -> Any:
    # Late: importing it costs more than all of a Danish installation's due dates together.
    import holidays

    return holidays


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(build_snapshot(), indent=1, ensure_ascii=False) + "\n", "utf-8")

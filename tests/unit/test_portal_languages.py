"""Is every text there in both languages, and are days written as people write them?"""

import re
from datetime import UTC, date, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from gateway.portal.languages import Words, choose
from shared.vocabulary import Language

PORTAL = Path(str(files("gateway.portal")))
BOTH = (Language.DANISH, Language.ENGLISH)
METHODS = [("**.py", "python"), ("templates/**.html", "jinja2.ext:babel_extract")]
KEYWORDS = {"_": None, "gettext": None, "ngettext": (1, 2), "mark": None, "count": (1, 2)}


def said() -> set[str]:
    """Every text in the templates and the code; of plurals the singular."""
    options = {"templates/**.html": {"trimmed": "true", "silent": "false"}}
    found = extract_from_dir(PORTAL, METHODS, options, KEYWORDS)
    return {text if isinstance(text, str) else text[0] for _, _, text, _, _ in found}


def catalogue() -> dict[str, tuple[str, ...]]:
    """English, of plurals the singular → every Danish form."""
    with (PORTAL / "locale" / "da.po").open("rb") as file:
        messages = [message for message in read_po(file, locale="da") if message.id and not message.fuzzy]
    return {_forms(message.id)[0]: _forms(message.string) for message in messages}


def _forms(text: Any) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text)


def test_everything_that_is_said_is_said_in_danish_and_nothing_else_is() -> None:
    assert said() == set(catalogue())


def test_no_danish_text_is_empty_and_each_has_the_placeholders_of_the_english() -> None:
    for english, danish in catalogue().items():
        for form in danish:
            assert form, english
            assert set(re.findall(r"%\(\w+\)s", form)) == set(re.findall(r"%\(\w+\)s", english)), english
            assert set(re.findall(r"</?\w+>", form)) == set(re.findall(r"</?\w+>", english)), english


def test_no_text_uses_a_bare_percent_sign_because_all_are_filled_in() -> None:
    for english, danish in catalogue().items():
        for form in (english, *danish):
            assert "%" not in re.sub(r"%\(\w+\)s", "", form), english


@pytest.mark.parametrize(
    ("wanted", "accepted", "expected"),
    [
        (None, None, "da"),
        ("en", "da", "en"),
        ("de", None, "da"),
        (None, "en-GB,en;q=0.9,da;q=0.5", "en"),
        (None, "fr-FR, da;q=0.3, en;q=0.8", "en"),
        (None, "fr, de", "da"),
        (None, "en;q=0, da;q=0.1", "da"),
        (None, "en;q=oops", "da"),
        (None, "da-DK", "da"),
        ("", ",,;;q=,", "da"),
        (None, "x," * 5000 + "en", "da"),
    ],
)
def test_the_language_is_the_one_asked_for_else_the_browsers_else_the_organisations_first(
    wanted: str | None, accepted: str | None, expected: str
) -> None:
    assert choose(wanted, accepted, BOTH) == expected


def test_a_language_that_the_organisation_does_not_offer_is_not_chosen() -> None:
    assert choose("en", "en", (Language.DANISH,)) == "da"


def test_days_are_written_in_words_and_without_the_year_where_it_is_clear() -> None:
    danish, english = Words(Language.DANISH), Words(Language.ENGLISH)
    due = date(2026, 4, 7)
    assert danish.day(due, beside=date(2026, 3, 7)) == "7. april"
    assert english.day(due, beside=date(2026, 3, 7)) == "7 April"
    assert danish.day(date(2027, 1, 4), beside=date(2026, 12, 4)) == "4. januar 2027"
    assert english.day(due) == "7 April 2026"


def test_an_instant_belongs_to_the_day_of_the_organisation() -> None:
    late = datetime(2026, 4, 7, 22, 30, tzinfo=UTC)
    assert Words(Language.DANISH).day_at(late, "Europe/Copenhagen") == "8. april 2026"


def test_minutes_have_their_plural() -> None:
    danish = Words(Language.DANISH)
    one, many = "Wait %(num)s minute, then try again.", "Wait %(num)s minutes, then try again."
    assert danish.count(one, many, 1) == "Vent %(num)s minut, og prøv igen."
    assert danish.count(one, many, 5) == "Vent %(num)s minutter, og prøv igen."

"""In which language, and how are days written in it? Danish and English, chosen by the person.

Texts stand in English in the templates and in Danish in `locale/da.po`; a test holds the two together.
"""

from collections.abc import Sequence
from datetime import date, datetime
from functools import cache
from importlib.resources import files
from io import BytesIO
from zoneinfo import ZoneInfo

from babel.dates import format_date
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import NullTranslations, Translations

from shared.vocabulary import Language

_LOCALE = {Language.DANISH: "da_DK", Language.ENGLISH: "en_GB"}
_DAY = {Language.DANISH: "d. MMMM", Language.ENGLISH: "d MMMM"}


def mark(text: str) -> str:
    """Mark `text` for the catalogue; it is translated where it is shown."""
    return text


def choose(wanted: str | None, accepted: str | None, offered: Sequence[Language]) -> Language:
    """Return the language of a page.

    `wanted` is `?lang=`, `accepted` the header Accept-Language (RFC 9110 §12.5.4), `offered` the organisation's
    languages, best first.
    """
    for tag in (wanted or "", *_by_preference(accepted or "")):
        for language in offered:
            if tag.split("-")[0].lower() == language:
                return language
    return offered[0]


def _by_preference(header: str) -> list[str]:
    weighed = [_weigh(part) for part in header.split(",")[:20]]
    return [tag for weight, tag in sorted(weighed, key=lambda found: -found[0]) if weight > 0]


def _weigh(part: str) -> tuple[float, str]:
    tag, _, parameter = part.strip().partition(";")
    try:
        return float(parameter.strip().removeprefix("q=") or 1), tag.strip()
    except ValueError:
        return 0.0, tag


class Words:
    """One language: its texts and its days."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self.catalogue = _catalogue(language)

    def say(self, text: str) -> str:
        """Return `text`, written in English, in this language."""
        return str(self.catalogue.gettext(text))

    def count(self, one: str, many: str, number: int) -> str:
        """Return the plural form for `number`."""
        return str(self.catalogue.ngettext(one, many, number))

    def day(self, day: date, *, beside: date | None = None) -> str:
        """Return `7. april 2026`, or `7. april` where a day of the same year stands beside it."""
        pattern = _DAY[self.language] + ("" if beside and beside.year == day.year else " y")
        return format_date(day, pattern, locale=_LOCALE[self.language])

    def day_at(self, instant: datetime, timezone: str) -> str:
        """Return the day that `instant` belongs to in `timezone` (IANA name)."""
        return self.day(instant.astimezone(ZoneInfo(timezone)).date())


@cache
def words_in(language: Language) -> Words:
    """Return the words of `language`, read once."""
    return Words(language)


def _catalogue(language: Language) -> NullTranslations:
    if language is Language.ENGLISH:
        return NullTranslations()
    source = files("gateway.portal").joinpath("locale", f"{language}.po").read_bytes()
    compiled = BytesIO()
    write_mo(compiled, read_po(BytesIO(source), locale=_LOCALE[language]))
    compiled.seek(0)
    return Translations(compiled)

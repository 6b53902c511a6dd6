"""What did the person write, and what is missing? Every mistake names its field and the rule, in their language."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.requests import Request

from gateway.portal.door import NewRequest, OfferedIdentifier, OrganisationInfo
from gateway.portal.languages import Words, mark
from shared.identifiers import BadIdentifier, normalise
from shared.ids import parse_reference
from shared.problems import Malformed, TooLarge, WrongType
from shared.vocabulary import Right

MAX_BODY = 64 * 1024
MAX_FIELDS = 50
MAX_NAME = 200
MAX_MESSAGE = 4000
CODE_DIGITS = re.compile(r"[0-9]{8}")
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Signs that turn the reading direction around; joiners (also invisible) belong to names in several scripts."""

Values = Mapping[str, str]


class NotAForm(WrongType):
    """These pages take forms, sent as application/x-www-form-urlencoded."""


class FormTooLarge(TooLarge):
    """The form is larger than these pages accept."""


class BrokenForm(Malformed):
    """The form could not be read."""


@dataclass(frozen=True)
class Mistake:
    """`field` is the id of the input, `text` what to do about it. An empty field concerns the whole form."""

    field: str
    text: str


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of an urlencoded form, trimmed and in Unicode NFC; of a name given twice the first counts."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise NotAForm
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise FormTooLarge
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise BrokenForm from None
    return {name: _tidy(value) for name, value in reversed(pairs)}


def _tidy(value: str) -> str:
    return unicodedata.normalize("NFC", value.replace("\r\n", "\n")).strip()


def check_request(values: Values, info: OrganisationInfo, words: Words) -> tuple[NewRequest | None, list[Mistake]]:
    """Return what is asked for, or the mistakes in the order of the form. Intake checks again."""
    mistakes = [
        *_check("right", values, _right, words),
        *_check("name", values, _name, words),
        *_check("email", values, _email, words),
        *check_identifiers(values, info, words),
        *_check("message", values, _message, words),
    ]
    if mistakes:
        return None, mistakes
    return NewRequest(
        right=Right(values["right"]),
        language=words.language,
        name=values["name"],
        email=values["email"],
        identifiers=offered(values, info),
        message=values.get("message") or None,
    ), []


def offered(values: Values, info: OrganisationInfo) -> tuple[OfferedIdentifier, ...]:
    """Return the identifiers that were filled in."""
    filled = ((name, values.get(field_of(name), "")) for name in info.questions)
    return tuple(OfferedIdentifier(type=name, value=value) for name, value in filled if value)


def field_of(identifier: str) -> str:
    """Return the name of the input of an identifier type."""
    return f"identifier-{identifier}"


def check_identifiers(values: Values, info: OrganisationInfo, words: Words) -> list[Mistake]:
    """Return what is wrong with the identifiers; an empty one is not wrong."""
    mistakes = []
    for identifier in offered(values, info):
        asked = info.questions[identifier.type]
        if not _fits(identifier.value, asked.kind, asked.pattern, info.organisation.country):
            rule = words.say(_RULES[asked.kind]) % {"label": asked.label.in_(words.language)}
            mistakes.append(Mistake(field_of(identifier.type), rule))
    return mistakes


def _fits(value: str, kind: str, pattern: str | None, region: str) -> bool:
    try:
        normal = normalise(kind, value, region=region)
    except BadIdentifier:
        return False
    return pattern is None or re.fullmatch(pattern, normal) is not None


_RULES = {
    "email": mark("%(label)s: write the whole address, such as name@example.dk, or leave the field empty"),
    "phone": mark("%(label)s: write eight digits, or a number with its country code, or leave the field empty"),
    "cpr": mark("%(label)s: write ten digits, DDMMYY-XXXX, or leave the field empty"),
    "exact": mark("%(label)s: it does not look like the ones we give out. Check it, or leave the field empty"),
    "casefold": mark("%(label)s: it does not look like the ones we give out. Check it, or leave the field empty"),
}


def read_reference(text: str) -> str | None:
    """Return the reference that a person typed, or None. It comes as one line, whatever they put around it."""
    return parse_reference(text[:40])


def read_code(text: str) -> str:
    """Return a typed code without the spaces and hyphens that people put between the groups."""
    return re.sub(r"[\s\-‐‑–.]", "", text)[:200]


def _check(field: str, values: Values, rule: Callable[[str], str | None], words: Words) -> list[Mistake]:
    broken = rule(values.get(field, ""))
    return [Mistake(field, words.say(broken))] if broken else []


def _right(text: str) -> str | None:
    return None if text in set(Right) else mark("Choose what you ask for")


def _name(text: str) -> str | None:
    if not text:
        return mark("Write your name")
    if len(text) > MAX_NAME:
        return mark("Write your name with at most 200 characters")
    if any(unicodedata.category(c) in {"Cc", "Cs"} or c in _DIRECTIONS for c in text):
        return mark("Write your name on one line, without hidden characters")
    return None


def _email(text: str) -> str | None:
    if not text:
        return mark("Write your e-mail address")
    if not _fits(text, "email", None, ""):
        return mark("Write your whole e-mail address, such as name@example.dk")
    return None


def _message(text: str) -> str | None:
    return mark("Write a message of at most 4,000 characters") if len(text) > MAX_MESSAGE else None

"""When are two identifiers the same? Normal forms, and the keyed digests by which records are bound to a person."""

import hashlib
import hmac
import unicodedata
from collections.abc import Callable

import phonenumbers
from email_validator import EmailNotValidError, validate_email

from shared.problems import RuleBroken

MAX_LENGTH = 320


class BadIdentifier(RuleBroken):
    """The text is not an identifier of that kind. `str()` names the rule, never the value."""


def normalise(kind: str, text: str, *, region: str = "DK") -> str:
    """Return the normal form of `text` as `kind` (`email`, `phone`, `cpr`, `exact`, `casefold`).

    `region` is the ISO 3166 country that a phone number without a prefix belongs to.
    Raises `BadIdentifier`, whose text names the rule and never the value.
    """
    text = unicodedata.normalize("NFC", text).strip()
    if not text:
        raise BadIdentifier("must not be empty")
    if len(text) > MAX_LENGTH:
        raise BadIdentifier(f"must have at most {MAX_LENGTH} characters")
    if any(unicodedata.category(c) in {"Cc", "Cf", "Cs"} for c in text):
        raise BadIdentifier("must not contain control characters")
    return _NORMAL[kind](text, region)


def digest(key: bytes, kind: str, value: str) -> str:
    """Return the hex HMAC-SHA256 of a normalised identifier; `key` is the order's binding key, 32 bytes."""
    return hmac.new(key, f"{kind}\x1f{value}".encode(), hashlib.sha256).hexdigest()


def _email(text: str, _region: str) -> str:
    try:
        found = validate_email(text, check_deliverability=False, allow_smtputf8=True)
    except EmailNotValidError:
        raise BadIdentifier("must be an e-mail address such as name@example.dk") from None
    return found.normalized.casefold()


def _phone(text: str, region: str) -> str:
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        raise BadIdentifier("must be a phone number such as +45 12 34 56 78") from None
    if not phonenumbers.is_possible_number(number):
        raise BadIdentifier("must be a phone number such as +45 12 34 56 78")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _cpr(text: str, _region: str) -> str:
    digits = text.replace("-", "").replace(" ", "")
    if len(digits) != 10 or not (digits.isascii() and digits.isdigit()):
        raise BadIdentifier("must be ten digits, DDMMYY-SSSS")
    day, month = int(digits[:2]), int(digits[2:4])
    if not (1 <= day <= 31 or 61 <= day <= 91) or not 1 <= month <= 12:
        raise BadIdentifier("must begin with a date, DDMMYY-SSSS")
    return digits


_NORMAL: dict[str, Callable[[str, str], str]] = {
    "email": _email,
    "phone": _phone,
    "cpr": _cpr,
    "exact": lambda text, _region: text,
    "casefold": lambda text, _region: text.casefold(),
}

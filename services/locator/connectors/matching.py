"""Which identifiers does a row carry, and how may a system have spelt them? By normal form, and by usual spellings.

A system's own comparison is never trusted: a database may take ø for o, an API may ignore a filter. What comes back
is handed over only if the value that ties it to the person, brought to its normal form, is one that was searched.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import phonenumbers

from shared.identifiers import BadIdentifier, normalise
from shared.messages import Identifier
from shared.register import IdentifierType

FOLDED = frozenset({"email", "casefold"})
"""Kinds whose normal form is in lower case, so that a system may hold them in any case."""

REMEMBERED = 10_000
"""Raw values whose normal form is kept: a person's records mostly repeat the same few."""


class Matcher:
    """Compares values of one system with identifiers, by normal form."""

    def __init__(self, types: Mapping[str, IdentifierType], region: str, identifiers: Iterable[Identifier]) -> None:
        self._types = types
        self._region = region
        self._values: dict[str, set[str]] = {}
        self._normal: dict[tuple[str, str], str | None] = {}
        for identifier in identifiers:
            self._values.setdefault(identifier.type, set()).add(identifier.value)

    def bound(self, values: Iterable[tuple[str, Any]]) -> dict[str, str]:
        """Return type → normal form of the (type, raw value) pairs that were searched; lists match by item."""
        found: dict[str, str] = {}
        for kind, raw in values:
            for item in raw if isinstance(raw, (list, tuple)) else (raw,):
                normal = self.normal(kind, item)
                if normal is not None and normal in self._values.get(kind, ()):
                    found[kind] = normal
        return found

    def normal(self, kind: str, raw: Any) -> str | None:
        """Return the normal form of what a system holds as `kind`, or None if it is no such thing."""
        if raw is None or isinstance(raw, (bool, dict, list)):
            return None
        text = str(raw)
        known = (kind, text)
        if known not in self._normal:
            if len(self._normal) >= REMEMBERED:
                self._normal.clear()
            self._normal[known] = normal_form(self._types, kind, text, self._region)
        return self._normal[known]


def normal_form(types: Mapping[str, IdentifierType], kind: str, text: str, region: str) -> str | None:
    """Return the normal form of `text` as the identifier type `kind`, or None if it is none."""
    rule = types.get(kind)
    try:
        return normalise(rule.kind if rule else "exact", text, region=region)
    except BadIdentifier:
        return None


def spellings(kind: str, value: str, region: str) -> tuple[str, ...]:
    """Return how a system may have written an identifier of `kind`, the normal form first.

    A database compares texts: whoever searches only for +4512345678 misses "12 34 56 78" and calls it nothing found.
    """
    if kind == "cpr":
        return value, f"{value[:6]}-{value[6:]}", f"{value[:6]} {value[6:]}"
    if kind == "phone":
        return _phone_spellings(value, region)
    return (value,)


def _phone_spellings(value: str, region: str) -> tuple[str, ...]:
    number = phonenumbers.parse(value, region)
    code, national = str(number.country_code), phonenumbers.national_significant_number(number)
    grouped = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.INTERNATIONAL)
    pairs = [national[i : i + 2] for i in range(0, len(national), 2)]
    found = [value, value[1:], f"00{value[1:]}", grouped]
    found += [f"{prefix}{code} {rest}" for prefix in ("+", "00") for rest in (national, " ".join(pairs))]
    if number.country_code == phonenumbers.country_code_for_region(region):
        own = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
        found += [national, own, " ".join(pairs), "-".join(pairs), f"{national[:4]} {national[4:]}"]
    return tuple(dict.fromkeys(found))

"""Is a value there, however it was written down? Text, JSON, URLs, HTML, base64, hex, in any case."""

import html
import json
from base64 import b64encode
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

SHORTEST = 6
"""Characters; shorter values would be found by chance."""


def found(values: Iterable[str], hay: bytes) -> set[str]:
    """Return the values that stand in `hay` in one of the usual ways to write them."""
    folded = hay.lower()
    return {value for value in values if len(value) >= SHORTEST and _stands(value, hay, folded)}


def _stands(value: str, hay: bytes, folded: bytes) -> bool:
    if any(form in folded for form in _forms(value)):
        return True
    return any(form in hay for form in _base64(value.encode()))


def _forms(value: str) -> set[bytes]:
    """Return how a value may stand there, in lower case as `bytes.lower` makes it."""
    texts = {form for case in (value, value.lower(), value.upper()) for form in _written(case)}
    forms = {text.encode(code, "ignore").lower() for text in texts for code in ("utf-8", "latin-1", "utf-16-le")}
    forms.add(value.encode().hex().encode())
    return {form for form in forms if len(form) >= SHORTEST}


def _written(value: str) -> set[str]:
    escaped = json.dumps(value)[1:-1]
    entities = value.encode("ascii", "xmlcharrefreplace").decode()
    return {value, escaped, quote(value), quote_plus(value), quote(value, safe="@"), html.escape(value), entities}


def _base64(value: bytes) -> set[bytes]:
    """Return the middle of a value's base64, for each of the three places where it can begin."""
    forms = set()
    for shift in range(3):
        whole = b64encode(b"\0" * shift + value).rstrip(b"=")
        skipped = (shift * 8 + 5) // 6
        inner = whole[skipped : (shift + len(value)) * 8 // 6]
        if len(inner) >= 8:
            forms |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return forms

"""Is a value there, however it was written down? Text, JSON, URLs, HTML, base64, hex, in any case."""

import html
import json
import re
from base64 import b64decode
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

SHORTEST = 6
"""Characters; shorter values would be found by chance."""

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{12,}")
_HEX = re.compile(rb"[0-9A-Fa-f]{12,}")
_RUN = re.compile(r"[a-z0-9]+")


def found(values: Iterable[str], hay: bytes) -> set[str]:
    """Return the values that stand in `hay` in one of the usual ways to write them."""
    folded = b"\n".join([hay, *_decoded(hay)]).lower()
    return {value for value in values if len(value) >= SHORTEST and _stands(value, folded)}


def _decoded(hay: bytes) -> Iterator[bytes]:
    """Yield what base64 and hexadecimal digits in `hay` stand for, wherever they begin."""
    for run in _BASE64.findall(hay):
        plain = run.replace(b"-", b"+").replace(b"_", b"/")
        for shift in range(4):
            whole = plain[shift:]
            yield b64decode(whole + b"A" * (-len(whole) % 4) if len(whole) % 4 != 1 else whole[:-1])
    for run in _HEX.findall(hay):
        yield from (bytes.fromhex(run[shift:][: (len(run) - shift) // 2 * 2].decode()) for shift in range(2))


def _stands(value: str, folded: bytes) -> bool:
    # The longest run of plain letters looks the same in nearly every way to write: most values end here.
    run = max(_RUN.findall(value.lower()), key=len, default="")
    if len(run) >= 4 and run.encode() not in folded and run.encode("utf-16-le") not in folded:
        return False
    return any(form in folded for form in _forms(value))


def _forms(value: str) -> set[bytes]:
    """Return how a value may stand there, in lower case as `bytes.lower` makes it."""
    texts = {form for case in (value, value.lower(), value.upper()) for form in _written(case)}
    forms = {text.encode(code, "ignore").lower() for text in texts for code in ("utf-8", "latin-1", "utf-16-le")}
    return {form for form in forms if len(form) >= SHORTEST}


def _written(value: str) -> set[str]:
    escaped = json.dumps(value)[1:-1]
    entities = value.encode("ascii", "xmlcharrefreplace").decode()
    return {value, escaped, quote(value), quote_plus(value), quote(value, safe="@"), html.escape(value), entities}

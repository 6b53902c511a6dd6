"""How does a table become CSV that a spreadsheet shows but never runs?

RFC 4180, UTF-8, comma, CRLF, one header line. The rule for a text cell, documented in the package beside the tables:

* Where a spreadsheet may begin a cell (at the start, or inside after `;`, a tab or a line break, where other settings
  split), spaces and quotes skipped, a `= + - @` (also full-width) gets an apostrophe in front of it all.
* A cell that is nothing but a number (`-5`, `+4512345678`, `-1,25`) stays as it is.
* Line breaks become LF, other control characters U+FFFD. The verbatim value stands in `raw/`.
"""

import re
from collections.abc import Iterable, Iterator

import msgspec

SUSPECT = frozenset("=+-@＝＋－＠ '\"")
NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?", re.ASCII)
_RUN = "[\\s\"'\u200b-\u200d\u2060\ufeff]*[=+\\-@＝＋－＠]"
START = re.compile(_RUN)
SEMICOLON = re.compile(f";(?={_RUN})")
BREAK = re.compile(f"[\\t\\n](?={_RUN})")
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
CHUNK = 1 << 18
"""Characters (or bytes) gathered before they go on: large enough to be cheap, small enough to be nothing."""


def csv_row(values: Iterable[object]) -> str:
    """Return one line without its line end. None is an empty cell; booleans are `true`/`false`; lists are JSON."""
    cells = []
    for value in values:
        if value.__class__ is str:
            cell: str = value
            # This loop is the exporter's hottest: most cells are harmless, and a few C calls show it.
            if cell and (cell[0] in SUSPECT or ";" in cell or not cell.isprintable()):
                cell = neutral(cell)
            if "," in cell or '"' in cell or "\n" in cell:
                cell = '"' + cell.replace('"', '""') + '"'
        elif value is None:
            cell = ""
        else:
            cell = _other(value)
        cells.append(cell)
    return ",".join(cells)


def csv_chunks(header: Iterable[str], rows: Iterable[Iterable[object]]) -> Iterator[bytes]:
    """Yield a whole CSV file in pieces."""
    yield f"{csv_row(header)}\r\n".encode()
    batch: list[str] = []
    size = 0
    for line in map(csv_row, rows):
        batch.append(line)
        size += len(line)
        if size >= CHUNK:
            yield _joined(batch)
            batch.clear()
            size = 0
    if batch:
        yield _joined(batch)


def neutral(text: str) -> str:
    """Return what is shown for a text value: nothing in it that a spreadsheet would run."""
    printable = text.isprintable()
    if not printable:
        text = BREAK.sub(r"\g<0>'", CONTROL.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n")))
    if ";" in text:
        text = SEMICOLON.sub(";'", text)
    if (not printable or text[:1] in SUSPECT) and START.match(text) and not NUMBER.fullmatch(text):
        text = f"'{text}"
    return text


def _joined(batch: list[str]) -> bytes:
    return ("\r\n".join(batch) + "\r\n").encode()


def _other(value: object) -> str:
    if value.__class__ is bool:
        return "true" if value else "false"
    if value.__class__ in {int, float}:
        return str(value)
    # JSON holds no control characters and begins with a bracket, but a `;` inside may be followed by anything.
    return '"' + neutral(msgspec.json.encode(value).decode()).replace('"', '""') + '"'

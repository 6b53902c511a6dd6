"""What does a person read? The letter with everything Art. 15(1) asks for, and the answer with the data to read.

Both are single pages without scripts, pictures or links to load: they look the same inside the package, offline, and in
the browser, where `STYLE_SOURCE` lets a strict Content-Security-Policy allow exactly their one style sheet.
"""

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import msgspec
from babel.numbers import format_decimal
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from services.exporter import facts, words
from services.exporter.contents import SAMPLE, SHOWN, BundlePlan, RecordLine, Records, Sample, Tally
from shared.vocabulary import Language

TEMPLATES = Path(__file__).parent / "templates"
STYLE = (TEMPLATES / "answer.css").read_text(encoding="utf-8")
STYLE_SOURCE = f"'sha256-{b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
"""The source expression that a route puts into `style-src` (CSP Level 3 §2.3.1)."""
POLICY = f"default-src 'none'; style-src {STYLE_SOURCE}; base-uri 'none'; form-action 'none'"
"""The policy that the pages need: nothing but their style. They carry it themselves, for when a file is opened."""

LONGEST = 2_000
"""Characters of one value that a page shows; the file has the rest."""
CHUNK = 1 << 14


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"style": Markup(STYLE), "policy": POLICY}  # noqa: S704 - our own file
    return environment


_PAGES = _environment()


def render_letter(plan: BundlePlan, language: Language, tally: Tally) -> str:
    """Return the letter as an HTML page: for access with Art. 15(1)(a)-(h) and 15(2), for portability with Art. 20.

    What it says of purposes, recipients, storage and sources is the register's, for the groups of which something was
    found. It claims nothing about systems that were not searched.
    """
    return _PAGES.get_template("letter.html").render(_context(plan, language, tally))


def render_answer(
    plan: BundlePlan, records: Records, language: Language, tally: Tally, *, packaged: bool = False
) -> Iterator[bytes]:
    """Yield the answer to read, UTF-8: the letter, and up to `SHOWN` records of each group with their values.

    `packaged` adds links to the files beside it; without, the page stands alone in a browser.
    """
    context = _context(plan, language, tally)
    context |= {"groups": _groups(plan, records, language, tally), "packaged": packaged, "shown": SHOWN}
    waiting: list[str] = []
    size = 0
    for piece in _PAGES.get_template("answer.html").generate(context):
        waiting.append(piece)
        size += len(piece)
        if size >= CHUNK:
            yield "".join(waiting).encode()
            waiting.clear()
            size = 0
    yield "".join(waiting).encode()


def _context(plan: BundlePlan, language: Language, tally: Tally) -> dict[str, Any]:
    return {
        "language": language.value,
        "t": lambda da, en: da if language is Language.DANISH else en,
        "n": lambda count: format_decimal(count, locale=language.value),
        "plural": lambda count, one, many: one if count == 1 else many,
        "plan": plan,
        "facts": facts.gather(plan, language, tally),
        "tally": tally,
        "organisation": plan.register.organisation,
        "date": lambda iso: words.long_date(iso, language),
        "listed": lambda parts: words.listed(list(parts), language),
    }


# --- records -------------------------------------------------------------------------------------------------------


def _groups(plan: BundlePlan, records: Records, language: Language, tally: Tally) -> Iterator[dict[str, Any]]:
    """Yield each group with released records; its records are read while the page is written."""
    marks = {(mark.system, mark.entity, mark.key, mark.field) for mark in plan.withheld if mark.field is not None}
    for system, entity, group in plan.groups():
        count = tally.counts.get((system, entity), 0)
        if not count:
            continue
        columns = plan.released_fields(system, entity)
        fields = [(name, facts.label_of(group.fields[name], name, language)) for name in columns]
        lines = _sample(records(system, entity)).lines
        yield {
            "system": plan.register.systems[system].label.in_(language),
            "label": group.label.in_(language),
            "count": count,
            "shown": len(lines),
            "records": map(_record, lines, repeat(fields), repeat(marks)),
        }


def _sample(lines: Iterable[RecordLine]) -> Sample:
    sample = Sample(SAMPLE)
    for line in lines:
        sample.add(line)
        if sample.full:
            break
    return sample


def _record(
    line: RecordLine, fields: Iterable[tuple[str, str]], marks: set[tuple[str, str, str, str]]
) -> dict[str, Any]:
    record = line.record
    values = []
    for name, label in fields:
        if name in line.withheld or (record.system, record.entity, record.key, name) in marks:
            values.append({"label": label, "kind": "withheld"})
        elif name in record.fields:
            values.append({"label": label} | _value(record.fields[name]))
    return {"key": record.key, "values": values, "files": record.files}


def _value(value: object) -> dict[str, Any]:
    """Say how a value is shown: text is cut where nobody reads on, structures are indented JSON."""
    if value is None or value == "":
        return {"kind": "empty"}
    if isinstance(value, bool):
        return {"kind": "yes" if value else "no"}
    if isinstance(value, dict | list):
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
        return {"kind": "code", "text": text[:LONGEST], "cut": len(text) > LONGEST}
    text = str(value)
    return {"kind": "text", "text": text[:LONGEST], "cut": len(text) > LONGEST}

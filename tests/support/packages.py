"""Packages for tests: a plan over the demo register, records of an invented person, and the archive made of them."""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml

from services.exporter.bundle import BundlePlan, FileEntry, RecordLine, Tally, Withheld, write_bundle
from services.exporter.signing import Signer, new_key
from shared.messages import Decision, PackagePlan, Record, Release, Searched
from shared.register import Register
from shared.vocabulary import Language, Right, TaskState

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)
NAME = "habeas-7kq4-m2xb-9"
CUSTOMER = ("crm", "customer")
CONTRACT = ("crm", "contract")
INVOICE = ("invoices", "invoice")
MESSAGE = ("tickets", "message")
DOCUMENT = ("archive", "document")

Lines = Mapping[tuple[str, str], Sequence[RecordLine]]

SEARCHED = (
    Searched(system="crm", state=TaskState.FOUND, records=2),
    Searched(system="invoices", state=TaskState.NOTHING),
    Searched(system="tickets", state=TaskState.FOUND, records=1),
    Searched(system="archive", state=TaskState.NOT_SEARCHED, code="no-identifier"),
)

SIGNER = Signer(new_key())


def demo_register() -> Register:
    """The register of the demo."""
    text = (ROOT / "examples/registers/demo.yaml").read_text(encoding="utf-8")
    return Register.model_validate(yaml.safe_load(text))


REGISTER = demo_register()


def changed(change: Callable[[dict[str, Any]], None]) -> Register:
    """The demo's register after `change`."""
    document = REGISTER.model_dump(mode="json")
    change(document)
    return Register.model_validate(document)


def line(group: tuple[str, str], key: str, fields: Mapping[str, Any], withheld: Iterable[str] = ()) -> RecordLine:
    """A record as the exporter hands it over."""
    record = Record(
        system=group[0],
        entity=group[1],
        key=key,
        bound={"email": "soeren@kunde.example"},
        evidence="field",
        fields=dict(fields),
    )
    return RecordLine(msgspec.json.encode(record), frozenset(withheld))


def person() -> dict[tuple[str, str], list[RecordLine]]:
    """Everything about Søren Æblegård, who is invented."""
    customer = {
        "id": 17,
        "customer_number": "K001234",
        "name": "Søren Æblegård",
        "email": "soeren@kunde.example",
        "phone": "+4512345678",
        "address": "Rødgrødvej 3\n9990 Skagen",
        "created_at": "2021-03-04",
        "newsletter": True,
        "note": 'Siger "hej"; -venlig',
    }
    contract = {"id": 9, "customer_id": 17, "product": "Fiber 1000", "started_on": "2021-03-04", "monthly_price": 299.5}
    message = {"id": 3, "ticket_id": 1, "requester_email": "soeren@kunde.example", "body": "Min router <b>blinker</b>"}
    return {
        CUSTOMER: [line(CUSTOMER, "17", customer)],
        CONTRACT: [line(CONTRACT, "9", contract)],
        MESSAGE: [line(MESSAGE, "3", message)],
    }


def plan(
    right: Right = Right.ACCESS,
    language: Language = Language.DANISH,
    *,
    register: Register = REGISTER,
    searched: Sequence[Searched] = SEARCHED,
    decisions: Sequence[Decision] = (),
    withheld: Sequence[Withheld] = (),
    held_back: int = 0,
    released_by: str = "handler:1",
    name: str = "Søren Æblegård",
) -> BundlePlan:
    """The facts of a package."""
    package = PackagePlan(
        organisation_id="nordlys",
        case_id="c",
        reference="7KQ4-M2XB-9",
        right=right,
        language=language,
        register_version="3f2a9c1be07d",
        binding_key="",
        proofs=(),
    )
    release = Release(
        released_by=released_by,
        name=name,
        received_on="2026-11-01",
        answered_on="2026-11-21",
        searched=tuple(searched),
        decisions=tuple(decisions),
        search_terms=("email", "customer_number"),
    )
    return BundlePlan(
        register=register,
        package=package,
        release=release,
        withheld=withheld,
        held_back=held_back,
        jwks=SIGNER.jwks(),
    )


def tally(lines: Lines) -> Tally:
    """The counts of `lines`."""
    return Tally({group: len(found) for group, found in lines.items()})


def source(lines: Lines) -> Callable[[str, str], Iterable[RecordLine]]:
    """`lines` as the writer asks for them."""
    return lambda system, entity: lines.get((system, entity), ())


def packed(
    facts: BundlePlan, lines: Lines, files: Iterable[FileEntry] = (), sign: Callable[[bytes], str] = SIGNER.sign
) -> bytes:
    """The archive."""
    return b"".join(write_bundle(facts, source(lines), files, sign=sign, now=NOW))


def members(archive: bytes) -> dict[str, bytes]:
    """Path without the root folder → content."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {info.filename.removeprefix(f"{NAME}/"): file.read(info) for info in file.infolist()}


def repacked(contents: Mapping[str, bytes], root: str = NAME) -> bytes:
    """A ZIP of these members, as a tampering hand would make it."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        for path, content in contents.items():
            file.writestr(f"{root}/{path}", content)
    return target.getvalue()


def table(content: bytes) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def json_lines(content: bytes) -> Iterator[dict[str, Any]]:
    """The objects of an NDJSON file."""
    return map(json.loads, content.splitlines())

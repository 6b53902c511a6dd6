"""A package, judged by programs that we did not write: bagit, frictionless, and ECDSA by hand; and what is in it."""

import base64
import hashlib
import io
import json
import re
import resource
import shutil
import subprocess
import sys
import tracemalloc
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import bagit
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from services.exporter.bundle import FileEntry, RecordLine, Withheld, write_bundle
from services.exporter.bundle.writer import NotPackaged, RecordsChanged
from services.exporter.verify.bag import INFO
from shared.messages import Decision, Searched
from shared.vocabulary import Language, Outcome, Right, TaskState
from tests.support.packages import (
    CONTRACT,
    CUSTOMER,
    DOCUMENT,
    INVOICE,
    MESSAGE,
    NAME,
    NOW,
    ROOT,
    SIGNER,
    Lines,
    json_lines,
    line,
    members,
    packed,
    person,
    plan,
    source,
    table,
)

THIRD_PARTY = "habeas:A15-4-third-party"
PHOTO = b"\x89PNG" + bytes(range(256)) * 40


def file(name: str, content: bytes = b"hej", media_type: str = "text/plain") -> FileEntry:
    return FileEntry(
        system="tickets", entity="message", key="3", name=name, media_type=media_type, read=lambda: iter([content])
    )


FILES = [
    file("Søren Æblegård.eml"),
    file("photo.png", PHOTO, "image/png"),
    file("report.csv", b"\xe6;b\n1,,,", "text/csv"),
]


def whole(right: Right = Right.ACCESS, language: Language = Language.DANISH) -> bytes:
    marks = [Withheld(*CUSTOMER, "17", "note", THIRD_PARTY), Withheld(*MESSAGE, "4", None, THIRD_PARTY)]
    lines = person()
    lines[CUSTOMER] = [RecordLine(lines[CUSTOMER][0].raw, frozenset({"note"}))]
    return packed(plan(right, language, withheld=marks, held_back=1), lines, FILES)


@pytest.fixture(params=[Right.ACCESS, Right.PORTABILITY])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return unpacked(whole(request.param), tmp_path)


def unpacked(archive: bytes, where: Path) -> Path:
    with zipfile.ZipFile(io.BytesIO(archive)) as found:
        found.extractall(where)
    return where / NAME


# --- independent judges --------------------------------------------------------------------------------------------


def is_bag(folder: Path) -> bool:
    try:
        bagit.Bag(str(folder)).validate()
    except bagit.BagError:
        return False
    return True


def is_data_package(folder: Path) -> bool:
    command = [sys.executable, "-m", "frictionless", "validate", "datapackage.json"]
    return subprocess.run(command, cwd=folder / "data", capture_output=True, check=False).returncode == 0


def is_signed(folder: Path, jwk: dict[str, Any] | None = None) -> bool:
    """ES256 by hand (RFC 7518 §3.4), then the digests that the payload names."""
    key = jwk or SIGNER.public()
    head, body, signature = (folder / "signatures/bundle.jws").read_text().split(".")
    x, y = (int.from_bytes(decoded(key[part])) for part in "xy")
    raw = decoded(signature)
    der = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    public = EllipticCurvePublicNumbers(x, y, SECP256R1()).public_key()
    try:
        public.verify(der, f"{head}.{body}".encode(), ECDSA(SHA256()))
    except InvalidSignature:
        return False
    signed = json.loads(decoded(body))["files"]
    return all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for name, digest in signed.items())


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def test_a_package_is_a_bag_a_data_package_and_signed(folder: Path) -> None:
    assert is_bag(folder)
    assert is_data_package(folder)
    assert is_signed(folder)


def test_sha256sum_alone_can_check_a_package(folder: Path) -> None:
    for manifest in ("manifest-sha256.txt", "tagmanifest-sha256.txt"):
        subprocess.run(["sha256sum", "--quiet", "-c", manifest], cwd=folder, check=True)


@pytest.mark.skipif(shutil.which("unzip") is None, reason="no unzip here")
def test_unzip_reads_a_package(tmp_path: Path) -> None:
    (tmp_path / "p.zip").write_bytes(whole())
    subprocess.run(["unzip", "-tqq", "p.zip"], cwd=tmp_path, check=True)


def test_a_changed_record_is_seen_by_bag_and_data_package(folder: Path) -> None:
    path = folder / "data/records/crm.customer.csv"
    path.write_bytes(path.read_bytes().replace("Søren".encode(), b"Karla"))
    assert not is_bag(folder)
    assert not is_data_package(folder)


def test_a_changed_page_is_seen_by_bag_and_data_package(folder: Path) -> None:
    (folder / "data/index.html").write_text("<p>Alt er godt</p>")
    assert not is_bag(folder)
    assert not is_data_package(folder)


def test_a_changed_tag_file_is_seen_by_bag_and_signature(folder: Path) -> None:
    path = folder / "bag-info.txt"
    path.write_text(path.read_text().replace("Nordlys", "Sydlys"))
    assert not is_bag(folder)
    assert not is_signed(folder)


def test_a_missing_and_an_added_file_are_seen_by_the_bag(folder: Path) -> None:
    extra = folder / "data/files/more.txt"
    extra.parent.mkdir(exist_ok=True)
    extra.write_text("x")
    assert not is_bag(folder)
    extra.unlink()
    assert is_bag(folder)
    (folder / "data/meta/decisions.json").unlink()
    assert not is_bag(folder)


def test_a_package_remade_with_another_content_passes_all_but_the_signature(folder: Path) -> None:
    """Who changes everything consistently is caught by the signature alone."""
    page = folder / "data/index.html"
    page.write_bytes(page.read_bytes().replace(b"7KQ4", b"8KQ4"))
    descriptor = json.loads((folder / "data/datapackage.json").read_text())
    for found in descriptor["resources"]:
        content = (folder / "data" / found["path"]).read_bytes()
        found |= {"bytes": len(content), "hash": f"sha256:{hashlib.sha256(content).hexdigest()}"}
    (folder / "data/datapackage.json").write_text(json.dumps(descriptor))
    bagged_again(folder)
    assert is_bag(folder)
    assert is_data_package(folder)
    assert not is_signed(folder)


def test_a_cell_that_breaks_its_schema_is_seen_by_the_data_package_alone(folder: Path) -> None:
    path = folder / "data/records/fields.csv"
    path.write_bytes(path.read_bytes().replace(b",true,", b",perhaps,"))
    descriptor = json.loads((folder / "data/datapackage.json").read_text())
    for found in descriptor["resources"]:
        content = (folder / "data" / found["path"]).read_bytes()
        found |= {"bytes": len(content), "hash": f"sha256:{hashlib.sha256(content).hexdigest()}"}
    (folder / "data/datapackage.json").write_text(json.dumps(descriptor))
    bagged_again(folder)
    assert is_bag(folder)
    assert not is_data_package(folder)


def test_a_signature_by_another_key_is_seen_though_it_brings_its_own(folder: Path) -> None:
    head, body, signature = (folder / "signatures/bundle.jws").read_text().split(".")
    (folder / "signatures/bundle.jws").write_text(f"{head}.{body}.{signature[:-8]}AAAAAAAA")
    assert not is_signed(folder)


def bagged_again(folder: Path) -> None:
    for manifest, inside in (("manifest-sha256.txt", True), ("tagmanifest-sha256.txt", False)):
        paths = [path for path in folder.rglob("*") if path.is_file()]
        listed = [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n"
            for path in paths
            if str(path.relative_to(folder)).startswith("data/") is inside and path.name != "tagmanifest-sha256.txt"
        ]
        if inside:
            sizes = [path.stat().st_size for path in paths if "/data/" in str(path)]
            info = (folder / "bag-info.txt").read_text()
            oxum = f"Payload-Oxum: {sum(sizes)}.{len(sizes)}"
            (folder / "bag-info.txt").write_text(re.sub(r"Payload-Oxum: .*", oxum, info))
        (folder / manifest).write_text("".join(listed))


# --- what is in it -------------------------------------------------------------------------------------------------


def test_a_package_keeps_the_published_bagit_profile() -> None:
    profile = json.loads((ROOT / "docs/habeas-bagit-profile-1.0.json").read_text())
    contents = members(whole())
    info = dict(found.split(": ", 1) for found in contents["bag-info.txt"].decode().splitlines())
    required = {name for name, rule in profile["Bag-Info"].items() if rule["required"]}
    assert required == info.keys()
    assert set(INFO) == required
    for name, rule in profile["Bag-Info"].items():
        assert info[name] in rule.get("values", [info[name]])
    assert info["BagIt-Profile-Identifier"] == profile["BagIt-Profile-Info"]["BagIt-Profile-Identifier"]
    assert set(profile["Tag-Files-Required"]) <= contents.keys()
    assert set(profile["Payload-Files-Required"]) <= contents.keys()
    tags = {path for path in contents if not path.startswith(("data/", "manifest-", "tagmanifest-", "bag"))}
    assert tags == set(profile["Tag-Files-Allowed"])


def test_names_are_plain_and_tag_files_say_nothing_about_the_person() -> None:
    contents = members(whole())
    tags = b"".join(content for path, content in contents.items() if not path.startswith("data/"))
    for known in ("Søren", "Soeren", "soeren", "blegård", "kunde.example", "4512345678", "K001234"):
        assert known.encode() not in tags
        assert not any(known.casefold() in path.casefold() for path in contents)
    for path, content in contents.items():
        assert re.fullmatch(r"[a-zA-Z0-9._/-]{1,120}", path)
        assert unicodedata.normalize("NFC", path) == path
        if not path.startswith("data/"):
            assert b"\r" not in content


def test_a_table_has_one_row_a_record_and_the_verbatim_one_lies_beside() -> None:
    contents = members(packed(plan(), person()))
    (row,) = table(contents["data/records/crm.customer.csv"])
    assert row["_key"] == "17"
    assert row["name"] == "Søren Æblegård"
    assert row["newsletter"] == "true"
    assert row["note"] == 'Siger "hej";\' -venlig'
    assert contents["data/raw/crm/customer.ndjson"] == person()[CUSTOMER][0].raw + b"\n"


def test_every_field_is_explained() -> None:
    rows = table(members(packed(plan(), person()))["data/records/fields.csv"])
    found = {(row["system"], row["entity"], row["field"]): row for row in rows}
    email = found["crm", "customer", "email"]
    assert email["purposes"] == "delivery marketing development"
    assert email["legal_basis"] == "eu-gdpr:A6-1-b eu-gdpr:A6-1-a eu-gdpr:A6-1-f"
    assert email["provided_by_subject"] == "true"
    assert "Brevdue Mail Inc." in email["recipients"]
    assert "P5Y" in email["retention_period"]
    assert not any(system == "invoices" for system, _, _ in found)


def test_a_withheld_field_is_nowhere_in_the_package() -> None:
    secret = 'Siger "hej"; -venlig'
    archive = members(whole())
    assert not any(b"-venlig" in content or secret.encode() in content for content in archive.values())
    (raw,) = json_lines(archive["data/raw/crm/customer.ndjson"])
    assert "note" not in raw["fields"]
    assert "bound" not in raw
    assert table(archive["data/records/crm.customer.csv"])[0]["note"] == ""
    rows = table(archive["data/meta/redactions.csv"])
    assert [(row["record"], row["field"], row["reason"]) for row in rows] == [
        ("17", "note", THIRD_PARTY),
        ("4", "", THIRD_PARTY),
    ]
    assert "artikel 15, stk. 4" in rows[0]["provision"]


def test_a_field_that_the_register_does_not_describe_is_left_out_and_told() -> None:
    lines = {CONTRACT: [line(CONTRACT, "1", {"id": 1, "rumour": "hemmeligt"}), line(CONTRACT, "2", {"id": 2})]}
    contents = members(packed(plan(), lines))
    assert not any(b"hemmeligt" in content for content in contents.values())
    assert [raw["fields"] for raw in json_lines(contents["data/raw/crm/contract.ndjson"])] == [{"id": 1}, {"id": 2}]
    (row,) = table(contents["data/meta/redactions.csv"])
    assert (row["field"], row["reason"]) == ("rumour", "habeas:not-described")
    assert b"rumour" in contents["data/letter/answer.da.html"]


def test_portability_holds_only_what_article_20_covers() -> None:
    lines = person()
    lines[INVOICE] = [line(INVOICE, "1", {"id": 1, "amount": 4711})]
    contents = members(packed(plan(Right.PORTABILITY), lines))
    (raw,) = json_lines(contents["data/raw/crm/customer.ndjson"])
    assert raw.keys() == {"system", "entity", "key", "fields"}
    assert raw["fields"].keys() == {"name", "email", "phone", "address", "created_at", "newsletter"}
    header = contents["data/records/crm.customer.csv"].split(b"\r\n")[0]
    assert header == b"_key,name,email,phone,address,created_at,newsletter"
    assert "data/records/invoices.invoice.csv" not in contents
    assert not any(b"4711" in content for content in contents.values())
    reasons = {row["field"]: row["reason"] for row in table(contents["data/meta/redactions.csv"])}
    assert reasons["note"] == "habeas:A20-not-provided"


def test_portability_never_reads_a_group_of_which_nothing_is_portable() -> None:
    asked = []

    def records(system: str, entity: str) -> Sequence[RecordLine]:
        asked.append((system, entity))
        return ()

    for _ in write_bundle(plan(Right.PORTABILITY), records, sign=SIGNER.sign, now=NOW):
        pass
    assert CUSTOMER in asked
    assert INVOICE not in asked


def test_what_was_not_searched_is_named_with_its_reason() -> None:
    rows = {row["system"]: row for row in table(members(whole())["data/meta/searched.csv"])}
    assert rows["archive"]["state"] == "not_searched"
    assert rows["archive"]["records"] == ""
    assert "ingen bekræftet oplysning" in rows["archive"]["explanation"]
    assert rows["invoices"]["explanation"] == "Søgt, intet fundet"


def test_decisions_are_there_as_codes() -> None:
    decided = Decision(
        system="crm",
        entity="customer",
        purpose="delivery",
        outcome=Outcome.PARTLY_GRANTED,
        article="15(4)",
        reason=THIRD_PARTY,
        records=1,
    )
    found = json.loads(members(packed(plan(decisions=[decided]), person()))["data/meta/decisions.json"])
    assert found["right"] == "eu-gdpr:A15"
    assert found["decided"] == [decided.model_dump(mode="json")]
    assert {"system": "crm", "entity": "customer", "records": 1} in found["released"]


def test_every_dpv_term_exists() -> None:
    known = set(json.loads((ROOT / "tests/data/dpv_terms.json").read_text())["terms"])
    lines = person() | {INVOICE: [line(INVOICE, "1", {"id": 1})], DOCUMENT: [line(DOCUMENT, "1", {"id": 1})]}
    document = members(packed(plan(), lines))["data/meta/processing.jsonld"].decode()
    used = set(re.findall(r'"eu-gdpr:([^"]+)"', document))
    assert used >= {"A6-1-a", "A6-1-b", "A6-1-c", "A6-1-f", "A46-2-c", "A16"}
    assert used <= known


def test_files_lie_under_neutral_names_and_their_own_stand_in_a_list() -> None:
    hostile = [
        "../../../etc/passwd",
        "C:\\Windows\\a.exe",
        "a\x00\x1b[31m.pdf",
        "CON",
        "Søren Æblegård.pdf",
        "x" * 5000,
        "",
    ]
    contents = members(packed(plan(), person(), [file(name) for name in hostile]))
    listed = json.loads(contents["data/meta/files.json"])
    assert [found["name"] for found in listed] == hostile
    assert [found["path"] for found in listed] == [
        f"files/tickets/00000{number}.{extension}"
        for number, extension in enumerate(["bin", "bin", "pdf", "bin", "pdf", "bin", "bin"], start=1)
    ]
    for found in listed:
        content = contents[f"data/{found['path']}"]
        assert (len(content), hashlib.sha256(content).hexdigest()) == (found["bytes"], found["sha256"])


def test_what_is_packed_already_is_not_packed_again() -> None:
    noise = b"".join(hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(4000))
    archive = packed(plan(), {}, [file("a.png", noise + bytes(100_000)), file("a.txt", bytes(100_000))])
    with zipfile.ZipFile(io.BytesIO(archive)) as found:
        sizes = {info.filename.rpartition("/")[2]: (info.file_size, info.compress_size) for info in found.infolist()}
    assert sizes["000001.png"][1] >= sizes["000001.png"][0]
    assert sizes["000002.txt"][1] < 1000


def test_a_package_without_records_says_so_and_is_valid(tmp_path: Path) -> None:
    searched = [Searched(system="crm", state=TaskState.NOTHING)]
    archive = packed(plan(searched=searched), {})
    folder = unpacked(archive, tmp_path)
    assert is_bag(folder)
    assert is_data_package(folder)
    assert is_signed(folder)
    assert not [path for path in members(archive) if path.startswith(("data/raw/", "data/records/crm"))]
    assert "Vi har ikke fundet oplysninger om dig" in (folder / "data/index.html").read_text()


def test_a_package_of_which_everything_is_withheld_says_so_and_is_valid(tmp_path: Path) -> None:
    marks = [Withheld(*CUSTOMER, str(number), None, THIRD_PARTY) for number in range(3)]
    folder = unpacked(packed(plan(withheld=marks), {}), tmp_path)
    assert is_bag(folder)
    assert is_data_package(folder)
    assert "men vi udleverer dem ikke" in (folder / "data/index.html").read_text()


def test_the_same_input_gives_the_same_bytes() -> None:
    def sign(payload: bytes) -> str:
        return f"h.{hashlib.sha256(payload).hexdigest()}.s"

    first, second = (packed(plan(), person(), FILES, sign) for _ in range(2))
    assert first == second


def test_the_writer_returns_what_it_wrote() -> None:
    chunks = write_bundle(plan(), source(person()), FILES, sign=SIGNER.sign, now=NOW)
    while True:
        try:
            next(chunks)
        except StopIteration as end:
            tally = end.value
            break
    assert tally.counts == {CUSTOMER: 1, CONTRACT: 1, MESSAGE: 1}
    assert tally.records == 3
    assert [found.name for found in tally.files] == ["Søren Æblegård.eml", "photo.png", "report.csv"]


def test_other_rights_have_no_package() -> None:
    with pytest.raises(NotPackaged):
        packed(plan(Right.ERASURE), {})


def test_records_that_change_while_they_are_packed_stop_the_package() -> None:
    rounds = iter([person()[CUSTOMER], []])

    def records(system: str, entity: str) -> Sequence[RecordLine]:
        return next(rounds) if (system, entity) == CUSTOMER else ()

    with pytest.raises(RecordsChanged):
        for _ in write_bundle(plan(), records, sign=SIGNER.sign, now=NOW):
            pass


def test_a_source_that_fails_fails_the_package() -> None:
    def records(system: str, entity: str) -> Iterator[RecordLine]:
        yield person()[CUSTOMER][0]
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        for _ in write_bundle(plan(), records, sign=SIGNER.sign, now=NOW):
            pass


# --- size ----------------------------------------------------------------------------------------------------------


def many(count: int) -> Lines:
    """A sequence that makes its records as they are read."""

    class Made(Sequence[RecordLine]):
        def __len__(self) -> int:
            return count

        def __getitem__(self, index: Any) -> Any:
            raise NotImplementedError

        def __iter__(self) -> Iterator[RecordLine]:
            body = "Opkald om faktura, levering og udstyr. " * 8
            for number in range(count):
                yield line(MESSAGE, str(number), {"id": number, "ticket_id": number % 97, "body": f"{number} {body}"})

    return {MESSAGE: Made()}


def test_a_hundred_thousand_records_pass_in_constant_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = sum(map(len, write_bundle(plan(), source(many(100_000)), sign=SIGNER.sign, now=NOW)))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert size > 1_000_000
    assert grown < 40, f"{grown:.0f} MB"


def test_twice_the_records_need_no_more_memory() -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        for _ in write_bundle(plan(), source(many(count)), sign=SIGNER.sign, now=NOW):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(100)  # what is loaded once
    small, large = peak(2_500), peak(5_000)
    assert large < small * 1.2

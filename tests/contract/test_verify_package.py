"""`habeas verify-package` against what a tampering hand, a hostile ZIP and a wrong key can do."""

import hashlib
import io
import json
import re
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from habeas.commands import verify_package as command
from services.exporter.bundle import FileEntry
from services.exporter.signing import TYPE, BadKey, BadSignature, Keys, Signer, new_key
from services.exporter.verify import Limits, Report, verify_package
from shared.vocabulary import Right
from tests.support.packages import NAME, SIGNER, members, packed, person, plan, repacked

KEYS = Keys.parse(json.dumps(SIGNER.jwks()))
ATTACHED = FileEntry(
    system="tickets", entity="message", key="3", name="a.txt", media_type="text/plain", read=lambda: [b"hej"]
)
PACKAGE = packed(plan(), person(), [ATTACHED])
CUSTOMERS = "data/records/crm.customer.csv"
FIELDS = "data/records/fields.csv"

Tamper = Callable[[dict[str, bytes]], None]


def verified(tmp_path: Path, archive: bytes, keys: Keys | None = KEYS, limits: Limits | None = None) -> Report:
    path = tmp_path / "package.zip"
    path.write_bytes(archive)
    return verify_package(path, keys, limits=limits or Limits())


def rules(report: Report) -> set[str]:
    return {finding.rule for finding in report.findings}


def found(report: Report) -> set[tuple[str, str]]:
    return {(finding.rule, finding.member) for finding in report.findings}


@pytest.mark.parametrize("right", [Right.ACCESS, Right.PORTABILITY])
def test_a_package_as_it_was_made_is_valid(tmp_path: Path, right: Right) -> None:
    report = verified(tmp_path, packed(plan(right), person(), [ATTACHED]))
    assert report.findings == []
    assert report.ok
    assert (report.package, report.signed_by, report.key) == (NAME, "urn:habeas:nordlys", SIGNER.kid)
    assert report.files > 20
    assert report.rows > 20


def test_a_package_without_records_is_valid(tmp_path: Path) -> None:
    assert verified(tmp_path, packed(plan(), {})).ok


def test_a_package_unpacked_and_packed_again_by_another_program_is_valid(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(PACKAGE)) as archive:
        archive.extractall(tmp_path)
    command_line = [sys.executable, "-m", "zipfile", "-c", "again.zip", NAME]
    subprocess.run(command_line, cwd=tmp_path, check=True)
    assert verify_package(tmp_path / "again.zip", KEYS).ok


# --- tampering -----------------------------------------------------------------------------------------------------


def put(path: str, content: bytes) -> Tamper:
    return lambda contents: contents.__setitem__(path, content)


def drop(path: str) -> Tamper:
    return lambda contents: contents.__delitem__(path)


def swap(path: str, old: str, new: str) -> Tamper:
    def tamper(contents: dict[str, bytes]) -> None:
        assert old.encode() in contents[path]
        contents[path] = contents[path].replace(old.encode(), new.encode())

    return tamper


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (swap(CUSTOMERS, "Søren", "Karla"), {("bag-changed", CUSTOMERS), ("data-changed", CUSTOMERS)}),
        (put("data/index.html", b"Alt er godt"), {("bag-changed", "data/index.html"), ("bag-oxum", "bag-info.txt")}),
        (put("data/more.txt", b"x"), {("bag-unlisted", "data/more.txt"), ("data-undescribed", "data/more.txt")}),
        (drop("data/meta/decisions.json"), {("bag-missing", "data/meta/decisions.json")}),
        (drop("data/datapackage.json"), {("data-descriptor", "data/datapackage.json")}),
        (drop("data/schemas/crm.customer.schema.json"), {("data-schema", CUSTOMERS)}),
        (put("fetch.txt", b"https://evil.example/x 1 data/x\n"), {("bag-extra", "fetch.txt")}),
        (swap("bag-info.txt", "Nordlys", "Sydlys"), {("bag-changed", "bag-info.txt"), ("signature", "signatures/bundle.jws")}),
        (swap("bag-info.txt", NAME, "habeas-other"), {("bag-identifier", "bag-info.txt")}),
        (swap("bag-info.txt", "Contact-Email", "Contact-Mail"), {("bag-info", "bag-info.txt")}),
        (drop("bagit.txt"), {("bag-declaration", "bagit.txt")}),
        (swap("bagit.txt", "1.0", "0.97"), {("bag-declaration", "bagit.txt")}),
        (drop("manifest-sha256.txt"), {("bag-unlisted", CUSTOMERS), ("signature", "signatures/bundle.jws")}),
        (drop("tagmanifest-sha256.txt"), {("bag-unlisted", "bag-info.txt")}),
        (drop("signatures/bundle.jws"), {("signature", "signatures/bundle.jws")}),
        (put("signatures/bundle.jws", b"\xff"), {("signature", "signatures/bundle.jws")}),
        (put("signatures/jwks.json", b"{}"), {("bag-changed", "signatures/jwks.json")}),
        (put("manifest-sha256.txt", b"nonsense\n"), {("bag-manifest", "manifest-sha256.txt")}),
        (put("bag-info.txt", b"\xff\xfe"), {("bag-tag", "bag-info.txt")}),
    ],
)  # fmt: skip
def test_tampering_is_told_by_member_and_rule(tmp_path: Path, tamper: Tamper, expected: set[tuple[str, str]]) -> None:
    contents = members(PACKAGE)
    tamper(contents)
    report = verified(tmp_path, repacked(contents))
    assert expected <= found(report)
    assert not report.ok


def remade(tamper: Tamper, signer: Signer = SIGNER) -> bytes:
    """A package changed by somebody who makes everything fit again and holds `signer`."""
    contents = members(PACKAGE)
    tamper(contents)
    descriptor = json.loads(contents["data/datapackage.json"])
    for resource in descriptor.get("resources", []):
        if (content := contents.get(f"data/{resource['path']}")) is not None:
            resource |= {"bytes": len(content), "hash": f"sha256:{digest(content)}"}
    contents["data/datapackage.json"] = json.dumps(descriptor).encode()
    payload = {path: content for path, content in contents.items() if path.startswith("data/")}
    contents["manifest-sha256.txt"] = listed(payload)
    oxum = f"Payload-Oxum: {sum(map(len, payload.values()))}.{len(payload)}"
    contents["bag-info.txt"] = re.sub(r"Payload-Oxum: .*", oxum, contents["bag-info.txt"].decode()).encode()
    signed = {name: digest(contents[name]) for name in ("bag-info.txt", "bagit.txt", "manifest-sha256.txt")}
    statement = {"iss": "urn:habeas:nordlys", "iat": 1, "sub": NAME, "files": signed}
    contents["signatures/bundle.jws"] = signer.sign(json.dumps(statement).encode()).encode()
    contents["signatures/jwks.json"] = json.dumps(signer.jwks()).encode()
    tags = {p: c for p, c in contents.items() if not p.startswith("data/") and p != "tagmanifest-sha256.txt"}
    contents["tagmanifest-sha256.txt"] = listed(tags)
    return repacked(contents)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def listed(contents: dict[str, bytes]) -> bytes:
    return "".join(f"{digest(content)}  {path}\n" for path, content in contents.items()).encode()


def nothing(_: dict[str, bytes]) -> None:
    """Leave all as it is."""


def test_a_package_remade_without_a_change_is_valid(tmp_path: Path) -> None:
    assert verified(tmp_path, remade(nothing)).findings == []


def test_a_key_that_comes_inside_the_package_is_not_believed(tmp_path: Path) -> None:
    other = Signer(new_key())
    report = verified(tmp_path, remade(swap(CUSTOMERS, "Søren", "Karla"), other))
    assert found(report) == {("signature", "signatures/bundle.jws")}
    forged = Signer(new_key(), SIGNER.kid)
    report = verified(tmp_path, remade(nothing, forged))
    assert [finding.message for finding in report.findings] == ["it does not fit the given key"]
    assert report.signature == "invalid"


def test_a_signature_of_another_package_does_not_count(tmp_path: Path) -> None:
    archive = members(PACKAGE)
    report = verified(tmp_path, repacked(archive, root="habeas-other"))
    assert ("bag-identifier", "bag-info.txt") in found(report)
    assert "it was made for another package" in {finding.message for finding in report.findings}


@pytest.mark.parametrize("statement", [b"[]", b"{}", b"x"])
def test_a_signed_statement_must_say_what_it_signs(tmp_path: Path, statement: bytes) -> None:
    contents = members(PACKAGE)
    contents["signatures/bundle.jws"] = SIGNER.sign(statement).encode()
    assert verified(tmp_path, repacked(contents)).signature == "invalid"


def test_a_signed_statement_must_say_who_and_when(tmp_path: Path) -> None:
    contents = members(PACKAGE)
    signed = {name: digest(contents[name]) for name in ("bag-info.txt", "bagit.txt", "manifest-sha256.txt")}
    contents["signatures/bundle.jws"] = SIGNER.sign(json.dumps({"sub": NAME, "files": signed}).encode()).encode()
    assert verified(tmp_path, repacked(contents)).signature == "invalid"


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (swap(FIELDS, ",true,", ",perhaps,"), "provided_by_subject is no boolean"),
        (swap("data/meta/searched.csv", "found,2", "found,two"), "records is no integer"),
        (swap("data/meta/searched.csv", "archive,", ","), "has no system, which is required"),
        (swap(CUSTOMERS, "\r\n17,17,", "\r\n17,17,17,"), "has 11 cells, the schema has 10"),
        (swap(CUSTOMERS, "_key,", "key,"), "the header is not the one of the schema"),
        (
            lambda c: c.__setitem__(CUSTOMERS, c[CUSTOMERS] + c[CUSTOMERS].split(b"\r\n", 1)[1]),
            "_key stands in another row",
        ),
        (lambda c: c.__setitem__(CUSTOMERS, c[CUSTOMERS] + b'"x'), "is no CSV in UTF-8"),
        (lambda c: c.__setitem__(CUSTOMERS, c[CUSTOMERS] + b"\xff,1,1,1,1,1,1,1,1,1\r\n"), "is no CSV in UTF-8"),
        (put("data/schemas/crm.customer.schema.json", b"{"), "its schema is missing or not understood"),
        (
            put("data/schemas/crm.customer.schema.json", b'{"fields":[{"name":"a","constraints":{"minimum":1}}]}'),
            "its schema is missing or not understood",
        ),
        (
            put("data/schemas/crm.customer.schema.json", b'{"fields":[{"name":"a","type":"duration"}]}'),
            "not understood",
        ),
    ],
)
def test_a_table_that_breaks_its_schema_is_told_by_row_and_column(tmp_path: Path, tamper: Tamper, message: str) -> None:
    report = verified(tmp_path, remade(tamper))
    assert rules(report) <= {"data-table", "data-schema"}
    assert any(message in finding.message for finding in report.findings), report.findings
    assert "Æblegård" not in json.dumps(report.document(), ensure_ascii=False)


def test_a_broken_table_of_a_thousand_rows_is_told_in_a_few_lines(tmp_path: Path) -> None:
    report = verified(tmp_path, remade(lambda c: c.__setitem__(CUSTOMERS, c[CUSTOMERS] + b"x\r\n" * 1000)))
    assert len(report.findings) == 20


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda d: d["resources"].append(d["resources"][0]), "data-path"),
        (lambda d: d["resources"][0].update(path="../../etc/passwd"), "data-path"),
        (lambda d: d["resources"].pop(), "data-undescribed"),
        (lambda d: d.update(name="other"), "data-name"),
        (lambda d: d.pop("resources"), "data-descriptor"),
        (lambda d: d["resources"][0].update(path="records/none.csv"), "data-missing"),
    ],
)
def test_a_descriptor_that_does_not_fit_is_told(tmp_path: Path, change: Callable[[dict], object], rule: str) -> None:  # type: ignore[type-arg]
    def tamper(contents: dict[str, bytes]) -> None:
        descriptor = json.loads(contents["data/datapackage.json"])
        change(descriptor)
        contents["data/datapackage.json"] = json.dumps(descriptor).encode()

    assert rule in rules(verified(tmp_path, remade(tamper)))


# --- hostile archives ----------------------------------------------------------------------------------------------


def zipped(name: str, content: bytes = b"x", mode: int = 0, **about: int) -> bytes:
    target = io.BytesIO(PACKAGE)
    with zipfile.ZipFile(target, "a") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        info.compress_type = about.get("compress_type", zipfile.ZIP_DEFLATED)
        archive.writestr(info, content)
    return target.getvalue()


@pytest.mark.parametrize(
    ("archive", "rule"),
    [
        (b"", "zip"),
        (b"PK nonsense", "zip"),
        (PACKAGE[: len(PACKAGE) // 2], "zip"),
        (zipped(f"{NAME}/../../evil"), "zip-name"),
        (zipped("/etc/evil"), "zip-name"),
        (zipped(f"{NAME}/data\\evil"), "zip-name"),
        (zipped(f"{NAME}/data/\x1b[31m.txt"), "zip-name"),
        (zipped(f"{NAME}/data/ø.txt"), "zip-name"),
        (zipped("other/x.txt"), "zip-root"),
        (zipped(f"{NAME}/data/link", b"/etc/passwd", stat.S_IFLNK | 0o777), "zip-kind"),
        (zipped(f"{NAME}/data/pipe", b"", stat.S_IFIFO | 0o600), "zip-kind"),
        (zipped(f"{NAME}/data/x", compress_type=zipfile.ZIP_LZMA), "zip-method"),
        (b"#!/bin/sh\n" + PACKAGE, "zip-prefix"),
    ],
)
def test_a_hostile_archive_is_refused_before_it_is_unpacked(tmp_path: Path, archive: bytes, rule: str) -> None:
    report = verified(tmp_path, archive)
    assert rule in rules(report)
    assert report.files == 0
    assert "\x1b" not in json.dumps(report.document(), ensure_ascii=False)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["data/index.html", "DATA/index.html"])
def test_a_name_that_stands_there_twice_is_refused(tmp_path: Path, name: str) -> None:
    assert "zip-duplicate" in rules(verified(tmp_path, zipped(f"{NAME}/{name}")))


def test_an_empty_zip_a_comment_and_too_many_members_are_refused(tmp_path: Path) -> None:
    empty, commented = io.BytesIO(), io.BytesIO(PACKAGE)
    zipfile.ZipFile(empty, "w").close()
    with zipfile.ZipFile(commented, "a") as archive:
        archive.comment = b"hello"
    assert rules(verified(tmp_path, empty.getvalue())) == {"zip-empty"}
    assert rules(verified(tmp_path, commented.getvalue())) == {"zip-comment"}
    assert rules(verified(tmp_path, PACKAGE, limits=Limits(members=5))) == {"zip-members"}


def test_a_bomb_is_refused_by_ratio_and_by_total(tmp_path: Path) -> None:
    bomb = zipped(f"{NAME}/data/zeros", bytes(3 << 20))
    assert found(verified(tmp_path, bomb, limits=Limits(judged=1 << 20))) == {("zip-bomb", f"{NAME}/data/zeros")}
    assert found(verified(tmp_path, bomb, limits=Limits(total=1 << 20))) == {("zip-bomb", "")}


def test_a_bomb_that_lies_about_its_size_is_not_unpacked_beyond_it(tmp_path: Path) -> None:
    bomb = bytearray(zipped(f"{NAME}/data/zeros", bytes(3 << 20)))
    at = bomb.rindex(struct.pack("<I", 3 << 20))
    bomb[at : at + 4] = struct.pack("<I", 10)
    assert ("zip-content", "data/zeros") in found(verified(tmp_path, bytes(bomb)))


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    """Two entries of the directory that point at one member: how a small ZIP unpacks to a large one."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(f"{NAME}/a", b"x" * 1000)
        archive.writestr(f"{NAME}/b", b"y" * 1000)
        archive.infolist()[1].header_offset = 0
    assert "zip-overlap" in rules(verified(tmp_path, target.getvalue()))


def test_a_member_that_is_damaged_is_named(tmp_path: Path) -> None:
    archive = bytearray(PACKAGE)
    at = archive.index(b"/data/records/crm.customer.csv") + 100
    archive[at : at + 8] = bytes(8)
    report = verified(tmp_path, bytes(archive))
    assert ("zip-content", CUSTOMERS) in found(report)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    archive = bytearray(PACKAGE)
    entry = archive.index(b"PK\x01\x02")
    archive[entry + 8] |= 1
    assert "zip-method" in rules(verified(tmp_path, bytes(archive)))


def test_a_describing_file_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    report = verified(tmp_path, PACKAGE, limits=Limits(small=1000))
    assert ("data-descriptor", "data/datapackage.json") in found(report)


# --- keys ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"keys": []}',
        '{"keys": [{"kty": "oct", "k": "AAAA"}]}',
        '{"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}',
        '{"keys": [{"kty": "EC", "crv": "P-256"}]}',
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        new_key(),
    ],
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(BadKey):
        Keys.parse(text)


@pytest.mark.parametrize(("pem", "kid"), [("", None), ("x", None), (new_key(), "a b"), (new_key(), "x" * 65)])
def test_a_signer_needs_a_private_key_and_a_plain_id(pem: str, kid: str | None) -> None:
    with pytest.raises(BadKey):
        Signer(pem, kid)


@pytest.mark.parametrize("curve", ["secp384r1", "secp256k1"])
def test_a_key_on_another_curve_is_refused(curve: str) -> None:
    private = subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    public = subprocess.run(["openssl", "pkey", "-pubout"], input=private, capture_output=True, check=True, text=True)
    with pytest.raises(BadKey):
        Signer(private)
    with pytest.raises(BadKey):
        Keys.parse(public.stdout)


def header(**about: object) -> str:
    from joserfc import jws
    from joserfc.jwk import ECKey, OctKey

    made = {"alg": "ES256", "kid": SIGNER.kid, "typ": TYPE} | about
    algorithm = str(made["alg"])
    key = ECKey.generate_key("P-256") if algorithm == "ES256" else OctKey.generate_key(256)
    return jws.serialize_compact(made, b"{}", key, algorithms=[algorithm])


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b",
        "a.b.c",
        "eyJhbGciOiJub25lIn0.e30.",
        header(alg="HS256"),
        header(typ="JWT"),
        header(kid="other"),
        header(jku="https://evil.example/keys"),
        header(jwk=SIGNER.public()),
        header(),
    ],
)
def test_a_token_that_is_not_ours_is_refused(token: str) -> None:
    with pytest.raises(BadSignature):
        KEYS.verify(token)


def test_a_signature_is_checked_with_a_pem_key_too() -> None:
    from joserfc.jwk import ECKey

    pem = ECKey.import_key({name: SIGNER.public()[name] for name in ("kty", "crv", "x", "y")}).as_pem(private=False)
    assert Keys.parse(pem.decode()).verify(SIGNER.sign(b"hej")) == (b"hej", SIGNER.kid)


# --- the command ---------------------------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command("verify-package")(command.verify_package)
    app.command("other")(lambda: None)
    result = CliRunner().invoke(app, ["verify-package", *arguments])
    return result.exit_code, result.output


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "package.zip").write_bytes(PACKAGE)
    (tmp_path / "keys.json").write_text(json.dumps(SIGNER.jwks()))
    return tmp_path / "package.zip"


def test_the_command_says_that_a_package_is_valid_and_whose_it_is(package: Path) -> None:
    code, output = run(str(package), "--key", str(package.parent / "keys.json"))
    assert code == 0
    assert "The package is valid." in output
    assert "Signed by urn:habeas:nordlys at 2026-11-21 08:30 UTC" in output


def test_the_command_without_a_key_says_so_and_fails(package: Path) -> None:
    code, output = run(str(package))
    assert code == 3
    assert "Signature not checked: give a key" in output


def test_the_command_names_member_and_rule_of_what_is_broken(package: Path) -> None:
    contents = members(PACKAGE)
    contents["data/more.txt"] = b"x"
    package.write_bytes(repacked(contents))
    code, output = run(str(package), "--key", str(package.parent / "keys.json"))
    assert code == 1
    assert "BROKEN bag-unlisted: data/more.txt: manifest-sha256.txt does not list it." in output
    assert "The package is NOT valid." in output


def test_the_command_prints_json(package: Path) -> None:
    code, output = run(str(package), "--json", "--key", str(package.parent / "keys.json"))
    assert code == 0
    document = json.loads(output)
    assert document["ok"] is True
    assert document["signature"] == "valid"
    assert document["findings"] == []


@pytest.mark.parametrize(
    "key", ["missing.json", "http://example.org/keys", "ftp://example.org", "package.zip", "https://127.0.0.1:1/keys"]
)
def test_the_command_refuses_a_key_that_it_cannot_read(
    package: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.chdir(package.parent)
    code, output = run(str(package), "--key", key)
    assert code == 2
    assert "The key cannot be used" in output


def test_the_command_refuses_a_key_file_larger_than_any_key(package: Path) -> None:
    large = package.parent / "large"
    large.write_bytes(b"x" * (command.LARGEST_KEY + 1))
    code, output = run(str(package), "--key", str(large))
    assert (code, "larger than any key" in output) == (2, True)


def test_the_command_says_when_there_is_no_such_file(tmp_path: Path) -> None:
    code, output = run(str(tmp_path / "none.zip"))
    assert code == 2
    assert "The file cannot be read" in output

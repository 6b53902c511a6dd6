"""A package as its owner unpacks it, and the independent programs that check one."""

import hashlib
import json
import shutil
import zipfile
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import bagit
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from frictionless import Package as DataPackage

Group = tuple[str, str]


class Package:
    """An unpacked package."""

    def __init__(self, content: bytes, folder: Path) -> None:
        self.zip = folder / "svar.zip"
        self.zip.write_bytes(content)
        with zipfile.ZipFile(self.zip) as file:
            file.extractall(folder)
            (root,) = {name.partition("/")[0] for name in file.namelist()}
        self.folder = folder / root

    @cached_property
    def records(self) -> dict[Group, dict[str, dict[str, Any]]]:
        """(system, entity) → key → fields, verbatim."""
        found: dict[Group, dict[str, dict[str, Any]]] = {}
        for path in sorted((self.folder / "data" / "raw").rglob("*.ndjson")):
            for line in path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                group = found.setdefault((record["system"], record["entity"]), {})
                assert record["key"] not in group, "a record stands there twice"
                group[record["key"]] = record["fields"]
        return found

    @cached_property
    def everything(self) -> bytes:
        """All files one after the other, with their paths."""
        return b"\n".join(str(path).encode() + b"\n" + path.read_bytes() for path in self._files())

    def _files(self) -> Iterator[Path]:
        return (path for path in sorted(self.folder.rglob("*")) if path.is_file())

    def text(self, path: str) -> str:
        return (self.folder / "data" / path).read_text(encoding="utf-8")

    def changed(self, path: str, old: bytes, new: bytes, folder: Path, *, resum: bool = False) -> "Package":
        """Return a copy with other content in one file; `resum`: with sums that fit again, as a careful forger makes."""
        copy = folder / self.folder.name
        shutil.copytree(self.folder, copy)
        content = (copy / path).read_bytes()
        assert old in content
        (copy / path).write_bytes(content.replace(old, new))
        if resum:
            _resum(copy, "manifest-sha256.txt")
            _resum(copy, "tagmanifest-sha256.txt")
        packed = shutil.make_archive(str(folder / "changed"), "zip", folder, copy.name)
        again = folder / "again"
        again.mkdir()
        return Package(Path(packed).read_bytes(), again)

    def check(self, jwks: dict[str, Any]) -> None:
        """Ask programs that we did not write whether the package is sound. Raises what they raise."""
        bagit.Bag(str(self.folder)).validate(processes=1)
        report = DataPackage(str(self.folder / "data" / "datapackage.json")).validate()
        assert report.valid, report.flatten(["title", "message"])[:5]
        verify_jws((self.folder / "signatures" / "bundle.jws").read_text(), jwks)


def _resum(folder: Path, manifest: str) -> None:
    lines = [line.split(maxsplit=1) for line in (folder / manifest).read_text().splitlines()]
    sums = [f"{hashlib.sha256((folder / path).read_bytes()).hexdigest()}  {path}\n" for _, path in lines]
    (folder / manifest).write_text("".join(sums))


def verify_jws(compact: str, jwks: dict[str, Any]) -> bytes:
    """Verify an ES256 JWS in compact form (RFC 7515) with nothing but `cryptography`, and return its payload."""
    header, payload, signature = compact.strip().split(".")
    told = json.loads(_unpadded(header))
    assert told["alg"] == "ES256"
    (key,) = [key for key in jwks["keys"] if key["kid"] == told["kid"]]
    numbers = [int.from_bytes(_unpadded(key[part])) for part in ("x", "y")]
    raw = _unpadded(signature)
    halves = int.from_bytes(raw[:32]), int.from_bytes(raw[32:])
    public = EllipticCurvePublicNumbers(numbers[0], numbers[1], SECP256R1()).public_key()
    public.verify(encode_dss_signature(*halves), f"{header}.{payload}".encode(), ECDSA(SHA256()))
    return _unpadded(payload)


def _unpadded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))

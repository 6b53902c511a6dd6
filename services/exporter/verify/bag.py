"""Is the bag complete and unchanged (RFC 8493)? Every file listed, every listed file there, every digest right."""

import re
from dataclasses import dataclass

from services.exporter.bundle import tags
from services.exporter.verify.archive import Archive
from services.exporter.verify.report import Damaged, Report

MANIFEST = "manifest-sha256.txt"
TAG_MANIFEST = "tagmanifest-sha256.txt"
TAGS = frozenset({"bag-info.txt", "bagit.txt", MANIFEST, tags.SIGNATURE, tags.KEYS})
"""The tag files that a package has besides the tag manifest: these and no other."""
INFO = (
    "Source-Organization",
    "Organization-Address",
    "Contact-Email",
    "External-Identifier",
    "Bagging-Date",
    "Payload-Oxum",
    "BagIt-Profile-Identifier",
    "Habeas-Right",
    "Habeas-Language",
    "Habeas-Register-Version",
)
"""What docs/habeas-bagit-profile-1.0.json requires."""
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")


@dataclass(frozen=True, slots=True)
class Digests:
    """Sizes and SHA-256 of all files, as they are."""

    sizes: dict[str, int]
    sha256: dict[str, str]


def measure(archive: Archive, report: Report) -> Digests:
    """Unpack every file once, to nowhere."""
    digests = Digests({}, {})
    for path in archive.paths():
        try:
            digests.sizes[path], digests.sha256[path] = archive.digest(path)
        except Damaged:
            report.add("zip-content", path, "it does not unpack to what the ZIP declares")
    report.files = len(digests.sizes)
    report.bytes = sum(digests.sizes.values())
    return digests


def check(archive: Archive, digests: Digests, report: Report) -> None:
    """Check declaration, manifests and bag-info."""
    if _text(archive, "bagit.txt", report) != tags.BAGIT.decode():
        report.add("bag-declaration", "bagit.txt", "it does not declare BagIt 1.0 in UTF-8")
    payload = {path for path in archive.paths() if path.startswith("data/")}
    _check_manifest(archive, MANIFEST, payload, digests, report)
    found = set(archive.paths()) - payload - {TAG_MANIFEST}
    for extra in sorted(found - TAGS):
        report.add("bag-extra", extra, "a package has no such file")
    _check_manifest(archive, TAG_MANIFEST, set(TAGS), digests, report)
    _check_info(archive, payload, digests, report)


def _check_manifest(archive: Archive, name: str, expected: set[str], digests: Digests, report: Report) -> None:
    listed = _entries(_text(archive, name, report), name, report)
    for path in sorted(expected - listed.keys()):
        report.add("bag-unlisted", path, f"{name} does not list it")
    for path, sha256 in listed.items():
        if path not in expected or path not in digests.sha256:
            report.add("bag-missing", path, f"{name} lists it, but it is not there")
        elif digests.sha256[path] != sha256:
            report.add("bag-changed", path, f"its SHA-256 is not the one in {name}")


def _entries(text: str, name: str, report: Report) -> dict[str, str]:
    entries: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in entries:
            report.add("bag-manifest", name, f"line {number} is no entry, or one that stands there twice")
        else:
            entries[match[2]] = match[1]
    return entries


def _check_info(archive: Archive, payload: set[str], digests: Digests, report: Report) -> None:
    info = dict(line.partition(": ")[::2] for line in _text(archive, "bag-info.txt", report).splitlines())
    for label in INFO:
        if not info.get(label):
            report.add("bag-info", "bag-info.txt", f"{label} is missing")
    sizes = [digests.sizes[path] for path in payload if path in digests.sizes]
    if info.get("Payload-Oxum") != f"{sum(sizes)}.{len(sizes)}":
        report.add("bag-oxum", "bag-info.txt", "Payload-Oxum does not fit the payload")
    if info.get("External-Identifier") != archive.root:
        report.add("bag-identifier", "bag-info.txt", "External-Identifier is not the name of the root folder")


def _text(archive: Archive, path: str, report: Report) -> str:
    try:
        return archive.read(path).decode()
    except (Damaged, UnicodeDecodeError):
        report.add("bag-tag", path, "it is missing or not UTF-8")
        return ""

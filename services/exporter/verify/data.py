"""Does the data package describe what is there? Every file once, with its size and hash, and every table as its schema says."""

from typing import Any

import msgspec

from services.exporter.bundle.names import is_safe
from services.exporter.verify.archive import Archive
from services.exporter.verify.bag import Digests
from services.exporter.verify.report import Damaged, Report
from services.exporter.verify.tables import Table, parse_schema

DESCRIPTOR = "data/datapackage.json"


class Resource(msgspec.Struct):
    """One resource, as far as it is checked here."""

    name: str
    path: str
    bytes: int
    hash: str
    type: str | None = None
    schema: str | None = None


class Descriptor(msgspec.Struct):
    """The data package, as far as it is checked here."""

    name: str
    resources: list[Resource]


def check(archive: Archive, digests: Digests, report: Report) -> None:
    """Check the descriptor against the files, then each table against its schema."""
    descriptor = _descriptor(archive, report)
    if descriptor is None:
        return
    if descriptor.name != archive.root:
        report.add("data-name", DESCRIPTOR, "the data package has another name than the bag")
    described = {DESCRIPTOR}
    for resource in descriptor.resources:
        _check_resource(resource, digests, described, report)
        described |= {f"data/{path}" for path in (resource.path, resource.schema) if path}
    for path in sorted(digests.sha256):
        if path.startswith("data/") and path not in described:
            report.add("data-undescribed", path, "datapackage.json does not describe it")
    for resource in descriptor.resources:
        if resource.type == "table" and f"data/{resource.path}" in digests.sha256:
            _check_table(archive, resource, report)


def _descriptor(archive: Archive, report: Report) -> Descriptor | None:
    try:
        return msgspec.json.decode(archive.read(DESCRIPTOR), type=Descriptor)
    except (Damaged, msgspec.DecodeError):
        report.add("data-descriptor", DESCRIPTOR, "it is missing or no data package with sizes and hashes")
        return None


def _check_resource(resource: Resource, digests: Digests, described: set[str], report: Report) -> None:
    path = f"data/{resource.path}"
    if not is_safe(resource.path) or path in described:
        report.add("data-path", path, "the path is not plain, or described twice")
    elif path not in digests.sha256:
        report.add("data-missing", path, "datapackage.json describes it, but it is not there")
    elif resource.bytes != digests.sizes[path] or resource.hash != f"sha256:{digests.sha256[path]}":
        report.add("data-changed", path, "its size or hash is not the one in datapackage.json")


def _check_table(archive: Archive, resource: Resource, report: Report) -> None:
    path = f"data/{resource.path}"
    try:
        table = Table(parse_schema(archive.read(f"data/{resource.schema}")))
    except (Damaged, ValueError):
        report.add("data-schema", path, "its schema is missing or not understood")
        return
    with archive.open(path) as member:
        for breach in table.breaches(member):
            report.add("data-table", path, breach)
    report.rows += table.rows


def parsed(content: bytes) -> dict[str, Any]:
    """Read a JSON object. Raises `ValueError`."""
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ValueError("it is no JSON object") from error

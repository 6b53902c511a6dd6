"""Is this package whole, unchanged, well described and ours? Answers without unpacking it to disk and without trusting it."""

from pathlib import Path
from typing import Any

from services.exporter.bundle import tags
from services.exporter.signing import BadSignature, Keys
from services.exporter.verify import bag, data
from services.exporter.verify.archive import Archive, Limits, judge, opened
from services.exporter.verify.report import Damaged, Finding, Report

__all__ = ["Finding", "Limits", "Report", "verify_package"]

_LIMITS = Limits()


def verify_package(path: Path, keys: Keys | None, *, limits: Limits = _LIMITS) -> Report:
    """Check a package file: ZIP safety, bag, data package and tables, signature.

    `keys` are public keys that the caller trusts, never those inside. Without them the signature stays `unchecked`
    and the report is not `ok`. Raises `OSError` where the file cannot be read.
    """
    report = Report()
    try:
        file = opened(path)
    except Damaged:
        report.add("zip", "", "this is no readable ZIP file")
        return report
    with file:
        archive = judge(file, limits, report)
        if archive is not None:
            report.package = archive.root
            digests = bag.measure(archive, report)
            bag.check(archive, digests, report)
            data.check(archive, digests, report)
            _check_signature(archive, digests, keys, report)
    return report


def _check_signature(archive: Archive, digests: bag.Digests, keys: Keys | None, report: Report) -> None:
    if keys is None:
        return
    try:
        payload, report.key = keys.verify(archive.read(tags.SIGNATURE).decode("ascii"))
        statement = data.parsed(payload)
    except (Damaged, UnicodeDecodeError, ValueError):
        _refuse(report, "it is missing or not readable")
    except BadSignature as error:
        _refuse(report, str(error))
    else:
        _check_statement(archive, digests, statement, report)


def _check_statement(archive: Archive, digests: bag.Digests, statement: dict[str, Any], report: Report) -> None:
    """The signature must be about this package and about the bytes that are here."""
    if statement.get("sub") != archive.root:
        _refuse(report, "it was made for another package")
    elif statement.get("files") != {name: digests.sha256.get(name) for name in tags.SIGNED}:
        _refuse(report, "what it signs is not what is here")
    elif not isinstance(statement.get("iss"), str) or not isinstance(statement.get("iat"), int):
        _refuse(report, "it does not say who signed and when")
    else:
        report.signature = "valid"
        report.signed_by, report.signed_at = statement["iss"], statement["iat"]


def _refuse(report: Report, message: str) -> None:
    report.signature = "invalid"
    report.add("signature", tags.SIGNATURE, message)

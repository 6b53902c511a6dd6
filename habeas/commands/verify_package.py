"""`habeas verify-package`: is this package whole, unchanged and from whom it says?"""

import ssl
import urllib.error
import urllib.request
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from services.exporter import verify
from services.exporter.signing import BadKey, Keys

OK, BROKEN, USAGE, UNCHECKED = 0, 1, 2, 3
LARGEST_KEY = 1 << 20
SECONDS = 10


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key comes from the address that was given, or not at all."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def verify_package(
    file: Annotated[Path, typer.Argument(help="The package: a ZIP file.", metavar="FILE")],
    key: Annotated[
        str | None,
        typer.Option(
            help="The public key: a file (JWK set or PEM) or an https address, such as "
            "https://example.org/.well-known/habeas-jwks.json. Never the key inside the package.",
            metavar="FILE|URL",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Check a package: its ZIP, its bag, its data package with every table, and its signature.

    Exit code 0: all holds. 1: something is broken. 2: the file or the key cannot be read. 3: all holds, but no key was
    given, so nobody knows who made the package.
    """
    try:
        report = verify.verify_package(file, keys_from(key) if key else None)
    except BadKey as error:
        _stop(f"The key cannot be used: {error}.")
    except OSError as error:
        _stop(f"The file cannot be read: {error.strerror or 'no such file'}.")
    typer.echo(msgspec.json.encode(report.document()).decode() if as_json else told(report))
    raise typer.Exit(exit_code(report))


def exit_code(report: verify.Report) -> int:
    """Return the exit code that a report stands for."""
    if not report.sound:
        return BROKEN
    return OK if report.ok else UNCHECKED


def told(report: verify.Report) -> str:
    """Return a report in plain words."""
    lines = [f"{report.package or 'Package'}: {report.files} files, {report.bytes} bytes, {report.rows} table rows."]
    lines += [
        f"BROKEN {finding.rule}: {finding.member or 'the package'}: {finding.message}." for finding in report.findings
    ]
    if report.signature == "valid":
        signed = datetime.fromtimestamp(report.signed_at, UTC)
        lines.append(f"Signed by {ascii(report.signed_by)[1:-1]} at {signed:%Y-%m-%d %H:%M} UTC with key {report.key}.")
    elif report.signature == "unchecked":
        lines.append("Signature not checked: give a key with --key.")
    lines.append(
        {OK: "The package is valid.", BROKEN: "The package is NOT valid."}.get(
            exit_code(report), "Nothing is broken, but who made it is not known."
        )
    )
    return "\n".join(lines)


def keys_from(source: str) -> Keys:
    """Read keys from a file or an https address. Raises `BadKey`."""
    if source.startswith("https://"):
        return Keys.parse(_fetched(source))
    if "://" in source:
        raise BadKey("an address must begin with https://")
    try:
        content = Path(source).read_bytes()[: LARGEST_KEY + 1]
    except OSError:
        raise BadKey("the file cannot be read") from None
    return Keys.parse(_text(content))


def _fetched(url: str) -> str:
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=ssl.create_default_context()))
    try:
        with opener.open(url, timeout=SECONDS) as answer:
            return _text(answer.read(LARGEST_KEY + 1))
    except (OSError, HTTPException, ValueError):
        raise BadKey("the address does not answer with a key") from None


def _text(content: bytes) -> str:
    if len(content) > LARGEST_KEY:
        raise BadKey("it is larger than any key")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise BadKey("it is no text") from None


def _stop(message: str) -> None:
    typer.echo(message, err=True)
    raise typer.Exit(USAGE)

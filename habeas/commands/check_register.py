"""`habeas check-register`: is an organisation's register sound?"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from services.intake.register import Finding, check, load, plan

File = Annotated[Path, typer.Argument(metavar="FILE", help="The register: a YAML file.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def check_register(file: File, as_json: AsJson = False) -> None:  # noqa: FBT002 - typer makes a flag of it
    """Check a register: every error and every point that a person must look at, by line. Exit code 1 on errors."""
    found = check(file)
    errors = sum(finding.severity == "error" for finding in found)
    if as_json:
        typer.echo(json.dumps({"errors": errors, "findings": [asdict(finding) for finding in found]}, indent=2))
    else:
        typer.echo("\n".join([*(finding.at(file) for finding in found), *_summary(file, found, errors)]))
    if errors:
        raise typer.Exit(1)


def _summary(file: Path, found: list[Finding], errors: int) -> list[str]:
    warnings = len(found) - errors
    if errors:
        return [f"{errors} {_plural('error', errors)}, {warnings} {_plural('warning', warnings)}: it cannot be used."]
    loaded = load(file)
    noted = f"{warnings} {_plural('warning', warnings)}, version {loaded.version}"
    lines = [f"The register of {loaded.register.organisation.name} is sound: {noted}."]
    for kind, identifier in loaded.register.identifiers.items():
        if identifier.ask:
            rounds = [", ".join(sorted(each)) for each in plan(loaded.register, [kind])]
            lines.append(f"  {identifier.label.en}: " + (" → ".join(rounds) or "leads nowhere"))
    return lines


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"

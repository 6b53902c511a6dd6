"""Which register is in force? Reads, checks and versions an organisation's record of processing (docs/decisions/0002).

Every message names file, line, key and rule, and never a value: a register under edit may hold anything.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from services.intake.register_plan import Round, plan
from services.intake.register_rules import findings
from services.intake.register_yaml import Document, Finding, KeyPath, Unreadable, read, shown
from shared.problems import Invalid
from shared.register import Register

__all__ = ["BrokenRegister", "Finding", "LoadedRegister", "Round", "check", "load", "plan"]


class BrokenRegister(Invalid):
    """The register breaks rules: `habeas check-register FILE` lists them."""

    code = "broken-register"

    def __init__(self, path: Path, found: tuple[Finding, ...]) -> None:
        self.findings = found
        first = f" First: {found[0].at(path.name)}" if found else ""
        errors = tuple({"pointer": one.key, "detail": f"line {one.line}: {one.rule}"} for one in found)
        super().__init__(f"The register has {len(found)} errors.{first}", errors=errors)


@dataclass(frozen=True)
class LoadedRegister:
    """A register without errors."""

    register: Register
    warnings: tuple[Finding, ...] = ()

    @cached_property
    def canonical_json(self) -> str:
        """The whole register, defaults written out, as JSON with sorted keys: what a case stays bound to."""
        return json.dumps(
            self.register.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )

    @cached_property
    def version(self) -> str:
        """The first 16 hex characters of the SHA-256 of `canonical_json`. Comments and layout do not change it."""
        return hashlib.sha256(self.canonical_json.encode()).hexdigest()[:16]


def load(path: Path) -> LoadedRegister:
    """Return the register in `path` with its warnings. Raises `BrokenRegister` with every error found."""
    register, found = _read(path)
    errors = tuple(one for one in found if one.severity == "error")
    if register is None or errors:
        raise BrokenRegister(path, errors)
    return LoadedRegister(register, tuple(found))


def check(path: Path) -> list[Finding]:
    """Return all errors and warnings of the register in `path`, by line."""
    return _read(path)[1]


def _read(path: Path) -> tuple[Register | None, list[Finding]]:
    try:
        document = read(path)
    except Unreadable as error:
        return None, [error.finding]
    try:
        register = Register.model_validate(document.value)
    except ValidationError as error:
        return None, _by_line(_shape_error(document, details) for details in error.errors(include_input=False))
    return register, _by_line(_located(document, register))


def _located(document: Document, register: Register) -> Iterator[Finding]:
    for path, rule, severity in findings(register):
        yield Finding(document.line(path), shown(path), rule, severity)


def _by_line(found: Iterator[Finding]) -> list[Finding]:
    return sorted(found, key=lambda one: (one.line, one.key, one.rule))


# --- pydantic's errors, told without values --------------------------------------------------------------------------

_RULES = {
    "missing": "is missing",
    "extra_forbidden": "is not a key that this block knows",
    "string_type": "must be text; put quotes around a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "dict_type": "must be a block of keys",
    "model_type": "must be a block of keys",
    "model_attributes_type": "must be a block of keys",
    "tuple_type": "must be a list",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "union_tag_not_found": "needs `kind`: sql, http or manual",
    "union_tag_invalid": "must have a `kind` that is sql, http or manual",
}
_WITH_CONTEXT = {
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_long": "must have at most {max_length} characters",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "value_error": "{error}",
}


def _shape_error(document: Document, details: ErrorDetails) -> Finding:
    path = _in_file(document, details)
    rule = _RULES.get(details["type"]) or _WITH_CONTEXT.get(details["type"], "is not valid here")
    return Finding(document.line(path), shown(path), rule.format_map(details.get("ctx", {})))


def _in_file(document: Document, details: ErrorDetails) -> KeyPath:
    """Return pydantic's location without the steps that only pydantic knows (the kind of a connector, `[key]`)."""
    path: KeyPath = ()
    for step in details["loc"]:
        if (*path, step) in document.lines:
            path = (*path, step)
    missing = details["type"] == "missing"
    return (*path, details["loc"][-1]) if missing else path

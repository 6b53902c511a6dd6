"""What did the check find? Findings name the member and the rule; they never carry a value from the package."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

MOST = 100
"""Findings kept: a package that breaks more rules than this needs no longer list."""


class Damaged(Exception):
    """Checking cannot go on: what follows would rest on what is broken."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that is broken, by which member (empty: the package as a whole), and in which way."""

    rule: str
    member: str
    message: str


@dataclass(slots=True)
class Report:
    """What was checked and found."""

    package: str = ""
    signature: Literal["valid", "invalid", "unchecked"] = "unchecked"
    signed_by: str = ""
    """Issuer as the signature states it; true if `signature` is `valid`."""
    signed_at: int = 0
    """Seconds since the epoch."""
    key: str = ""
    files: int = 0
    bytes: int = 0
    rows: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether no rule is broken. Says nothing of a signature that was not checked."""
        return not self.findings

    @property
    def ok(self) -> bool:
        """Whether everything was checked and holds."""
        return self.sound and self.signature == "valid"

    def add(self, rule: str, member: str, message: str) -> None:
        """Keep a finding. Names are shown without anything that a terminal would obey."""
        if len(self.findings) < MOST:
            self.findings.append(Finding(rule, printable(member), message))

    def document(self) -> dict[str, Any]:
        """The report as JSON."""
        return {"ok": self.ok} | asdict(self)


def printable(name: str) -> str:
    """Return a name that is safe to print, at most 200 characters."""
    return ascii(name[:200])[1:-1]

"""Which systems does the register name, and are they there as it says? For administrators; nobody's data."""

from dataclasses import asdict
from typing import Any

from services.locator.connectors.base import ConnectorError, Findings
from services.locator.desk import SERVICE, Desk
from shared import ledger
from shared.problems import NotFound
from shared.register import System


class UnknownSystem(NotFound):
    """The register names no such system."""


async def list_systems(desk: Desk, organisation: str) -> dict[str, Any]:
    """Return the systems of the register in force."""
    register = await desk.registers.in_force(organisation)
    return {"systems": [_line(name, system) for name, system in register.systems.items()]}


def _line(name: str, system: System) -> dict[str, Any]:
    return {
        "id": name,
        "label": system.label.model_dump(),
        "kind": system.connector.kind,
        "entities": list(system.entities),
        "processor": system.processor,
        "rate_per_second": system.rate_per_second,
        "concurrency": system.concurrency,
        "timeout_seconds": system.timeout_seconds,
        "tries": system.tries,
    }


async def check(desk: Desk, organisation: str, name: str, *, actor: str) -> dict[str, Any]:
    """Probe one system and return what was seen: reachable, why not, columns missing and columns undeclared."""
    register = await desk.registers.in_force(organisation)
    if name not in register.systems:
        raise UnknownSystem
    try:
        findings = await desk.connectors.get(organisation, name, register.systems[name]).probe()
    except ConnectorError as error:
        findings = Findings(reachable=False, code=error.code)
    code = findings.code.value if findings.code else None
    async with desk.database.write(organisation) as session:
        await ledger.record(
            session, organisation_id=organisation, service=SERVICE, kind="system.checked", actor=actor,
            data={"system": name, "reachable": findings.reachable, "code": code}, at=desk.now(),
        )  # fmt: skip
    entities = [asdict(entity) for entity in findings.entities]
    checked_at = desk.now().isoformat()
    return {
        "system": name, "reachable": findings.reachable, "code": code, "entities": entities, "checked_at": checked_at
    }  # fmt: skip

"""Which kinds of connector are there? One line a kind; one connector for each system, shared by its tasks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from services.locator.connectors.base import Connector
from services.locator.connectors.http import HttpConnector, Web
from services.locator.connectors.manual import ManualConnector
from services.locator.connectors.pace import Pace
from services.locator.connectors.snapshots import open_source
from services.locator.connectors.sql import SqlConnector
from services.locator.secrets import Secrets
from shared.clock import Clock
from shared.register import System

OpenWeb = Callable[[System], Web]
"""Makes the way out to one system: which private networks it may lie in, how long it may take."""


@dataclass
class Connectors:
    """The connectors of this process. One is made at first use and kept as long as its block in the register is."""

    secrets: Secrets
    open_web: OpenWeb
    clock: Clock
    _made: dict[tuple[str, str, str], Connector] = field(default_factory=dict)
    _paces: dict[tuple[str, str], Pace] = field(default_factory=dict)

    def get(self, organisation: str, system_id: str, system: System) -> Connector:
        """Return the connector of one system, as this version of the register describes it."""
        known = organisation, system_id, system.model_dump_json()
        if known not in self._made:
            self._made[known] = KINDS[system.connector.kind](self, organisation, system_id, system)
        return self._made[known]

    def pace(self, organisation: str, system_id: str, system: System) -> Pace:
        """Return what all of this process's tasks at one system wait for."""
        return self._paces.setdefault((organisation, system_id), Pace(system.rate_per_second))

    async def close(self) -> None:
        """Give all connections back."""
        made, self._made = self._made, {}
        for connector in made.values():
            await connector.close()


def _sql(connectors: Connectors, organisation: str, _system_id: str, system: System) -> Connector:
    connector = system.connector
    assert connector.kind == "sql"
    name = connector.url_secret
    return SqlConnector(
        system,
        lambda: open_source(
            connectors.secrets.get(organisation, name),
            connections=system.concurrency,
            timeout=system.timeout_seconds,
        ),
    )


def _http(connectors: Connectors, organisation: str, system_id: str, system: System) -> Connector:
    pace = connectors.pace(organisation, system_id, system)
    secret = partial(connectors.secrets.get, organisation)
    return HttpConnector(system, connectors.open_web(system), pace, secret, connectors.clock)


def _manual(_connectors: Connectors, _organisation: str, _system_id: str, _system: System) -> Connector:
    return ManualConnector()


KINDS: Mapping[str, Callable[[Connectors, str, str, System], Connector]] = {
    "sql": _sql,
    "http": _http,
    "manual": _manual,
}

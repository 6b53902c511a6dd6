"""How does a connector get out of the house? Through the one egress client, under a rule for its system alone."""

from collections.abc import Mapping

from services.locator.connectors.base import Code, ConnectorError, Rejected, Unavailable
from services.locator.connectors.http import MOST_BYTES, Answer
from shared.http import EgressClient, EgressCode, EgressFailed, EgressRule
from shared.register import System

_MEANING: Mapping[EgressCode, tuple[type[ConnectorError], Code]] = {
    EgressCode.REFUSED: (Rejected, Code.FORBIDDEN_ADDRESS),
    EgressCode.UNRESOLVED: (Unavailable, Code.UNREACHABLE),
    EgressCode.NOT_REACHED: (Unavailable, Code.UNREACHABLE),
    EgressCode.TLS: (Rejected, Code.TLS_FAILED),
    EgressCode.TIMEOUT: (Unavailable, Code.TIMEOUT),
    EgressCode.REDIRECTED: (Rejected, Code.REDIRECTED),
    EgressCode.TOO_LARGE: (Rejected, Code.TOO_LARGE),
    EgressCode.BROKEN: (Unavailable, Code.GARBLED),
}


class EgressWeb:
    """The way to one system: to its hosts only, where the register says that it lies, no longer than it may take."""

    def __init__(self, system: System) -> None:
        """Raises `Rejected` if the register names an address that may never be called."""
        assert system.connector.kind == "http"
        connector = system.connector
        urls = [connector.base_url, *([connector.auth.token_url] if connector.auth.token_url else [])]
        try:
            rules = [EgressRule.for_url(url) for url in urls]
            self._client = EgressClient(
                EgressRule(
                    hosts=frozenset[str]().union(*(rule.hosts or () for rule in rules)),
                    ports=frozenset[int]().union(*(rule.ports or () for rule in rules)),
                    networks=connector.allow_private,
                    read_seconds=system.timeout_seconds,
                    total_seconds=system.timeout_seconds,
                    max_bytes=MOST_BYTES,
                )
            )
        except ValueError:
            raise Rejected(Code.FORBIDDEN_ADDRESS) from None

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """Send one request and read the whole answer. Raises `Unavailable` and `Rejected`."""
        try:
            status, answered, content = await self._client.request(method, url, headers=headers, content=body)
        except EgressFailed as failed:
            kind, code = _MEANING[failed.code]
            raise kind(code) from None
        return Answer(status, answered, content)

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

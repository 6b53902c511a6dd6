"""What does a system hold that only a person can search? The `manual` connector hands every search to one."""

from collections.abc import AsyncGenerator

from services.locator.connectors.base import Code, Findings, Found, NeedsPerson, Search


class ManualConnector:
    """Can do nothing by itself: a missing capability becomes a task for a person (design §1.7)."""

    capabilities: frozenset[str] = frozenset()

    def locate(self, search: Search) -> AsyncGenerator[Found, None]:
        """Raise `NeedsPerson`, always."""
        del search
        raise NeedsPerson(Code.MANUAL)

    async def probe(self) -> Findings:
        """Nothing can be wrong with a person's work before it is done."""
        return Findings(reachable=True)

    async def close(self) -> None:
        """Nothing is open."""

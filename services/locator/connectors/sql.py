"""What does a database hold on one person? The `sql` connector: any SQLAlchemy URL, read-only, streamed."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from time import monotonic

from services.locator.connectors.base import Code, ConnectorError, EntityFindings, Findings, Found, Rejected, Search
from services.locator.connectors.snapshots import Snapshot, Source
from services.locator.connectors.statements import Reading, Shape, chains, folded_name, needed_columns, table_name
from shared.register import System

SHAPES_KEPT = 300.0
"""Seconds for which the columns of a table are believed not to have changed."""


class SqlConnector:
    """Reads one database as the register describes it."""

    capabilities = frozenset({"locate", "export"})

    def __init__(self, system: System, open_source: Callable[[], Source]) -> None:
        """`open_source` is asked at first use, so that a missing secret fails the task and not the process."""
        assert system.connector.kind == "sql"
        self._system = system
        self._schema = system.connector.schema_name
        self._open_source = open_source
        self._source: Source | None = None
        self._shapes: dict[str, tuple[float, Shape | None]] = {}

    async def locate(self, search: Search) -> AsyncGenerator[Found, None]:
        """Yield every row that carries, or hangs under a row that carries, one of the identifiers."""
        source = self._opened()
        types = {identifier.type for identifier in search.wanted}
        async with source.snapshot() as snapshot:
            for chain in chains(search.system, types):
                shapes = {name: await self._checked_shape(snapshot, name) for name in chain}
                reading = Reading(search, chain, shapes, dialect=source.dialect)
                async with aclosing(self._read(snapshot, reading)) as records:
                    async for found in records:
                        yield found

    async def probe(self) -> Findings:
        """Connect, and compare every entity's columns with the register."""
        try:
            async with self._opened().snapshot() as snapshot:
                self._shapes.clear()
                shapes = {name: await self._shape(snapshot, name) for name in self._system.entities}
        except ConnectorError as error:
            return Findings(reachable=False, code=error.code)
        entities = tuple(self._compared(name, shape) for name, shape in shapes.items())
        broken = any(entity.missing for entity in entities)
        return Findings(reachable=True, code=Code.SCHEMA_CHANGED if broken else None, entities=entities)

    async def close(self) -> None:
        """Give the connections back."""
        if self._source is not None:
            await self._source.close()

    def _opened(self) -> Source:
        if self._source is None:
            self._source = self._open_source()
        return self._source

    async def _read(self, snapshot: Snapshot, reading: Reading) -> AsyncGenerator[Found, None]:
        statement = reading.statement()
        if statement is None:
            return
        found_in = reading.found()
        async with aclosing(snapshot.batches(statement)) as batches:
            async for rows in batches:
                for row in rows:
                    found = found_in(row)
                    if found is not None:
                        yield found

    async def _checked_shape(self, snapshot: Snapshot, name: str) -> Shape:
        shape = await self._shape(snapshot, name)
        if shape is None or not self._needed(name) <= shape.keys():
            self._shapes.pop(name, None)
            raise Rejected(Code.SCHEMA_CHANGED)
        return shape

    async def _shape(self, snapshot: Snapshot, name: str) -> Shape | None:
        asked, shape = self._shapes.get(name, (None, None))
        if asked is None or monotonic() - asked > SHAPES_KEPT:
            columns = await snapshot.columns(table_name(name, self._system.entities[name]), self._schema)
            shape = columns and {self._folded(column): kind for column, kind in columns.items()}
            self._shapes[name] = monotonic(), shape
        return shape

    def _compared(self, name: str, shape: Shape | None) -> EntityFindings:
        there, needed = set(shape or ()), self._needed(name)
        return EntityFindings(name, tuple(sorted(needed - there)), tuple(sorted(there - needed)))

    def _needed(self, name: str) -> set[str]:
        return {self._folded(column) for column in needed_columns(self._system, name)}

    def _folded(self, column: str) -> str:
        return folded_name(column, self._opened().dialect)

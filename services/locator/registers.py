"""What do the registers say that orders cite, and the one in force? Where do identifiers lead by them?"""

from collections import OrderedDict
from typing import Any

from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from services.locator.rounds import Atlas
from services.locator.tables import RegisterCopy
from shared.cited import KEPT, CitedRegisters, UnknownRegister, parsed
from shared.clock import Clock
from shared.database import Database
from shared.post import Post
from shared.problems import NotFound
from shared.register import Register


class Registers(CitedRegisters):
    """The versions of all organisations' registers that orders cite."""

    def __init__(self, database: Database, post: Post, clock: Clock) -> None:
        super().__init__(database, post)
        self._clock = clock
        self._atlases: OrderedDict[tuple[str, str], Atlas] = OrderedDict()

    def atlas(self, organisation: str, version: str, register: Register) -> Atlas:
        """Return where identifiers lead in one version, worked out once."""
        known = organisation, version
        if known not in self._atlases:
            self._atlases[known] = Atlas(register)
        self._atlases.move_to_end(known)
        if len(self._atlases) > KEPT:
            self._atlases.popitem(last=False)
        return self._atlases[known]

    async def in_force(self, organisation: str) -> Register:
        """Return the register that new cases cite now. Asks intake each time: it changes without notice.

        Raises `UnknownRegister` if intake knows of none and no case has cited one.
        """
        try:
            return parsed(await self._post.send("intake", "GET", "/registers/current", organisation=organisation))
        except NotFound:
            return await self._newest(organisation)

    async def _newest(self, organisation: str) -> Register:
        async with self._database.read(organisation) as session:
            query = select(RegisterCopy.content).order_by(col(RegisterCopy.at).desc()).limit(1)
            content = (await session.exec(query)).first()
        if content is None:
            raise UnknownRegister
        return parsed(content)

    def _query(self, version: str) -> SelectOfScalar[Any]:
        return select(RegisterCopy.content).where(RegisterCopy.version == version)

    def _copy(self, organisation: str, version: str, content: dict[str, Any]) -> RegisterCopy:
        return RegisterCopy(organisation_id=organisation, version=version, content=content, at=self._clock())

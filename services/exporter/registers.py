"""What did the register say when the case was opened? Fetches a version from intake once, then keeps it."""

from collections import OrderedDict

from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from services.exporter.tables import RegisterCopy
from shared.database import Database
from shared.post import Post
from shared.problems import Invalid, NotFound, Unavailable
from shared.register import Register

KEPT = 64
"""Versions in memory."""


class UnknownRegister(Invalid):
    """There is no such version of the register."""

    code = "unknown-register"


class UnreadableRegister(Unavailable):
    """The register came in a shape that this version of Habeas does not know."""

    code = "unreadable-register"


class Registers:
    """Versions of registers. A version never changes, so what was fetched once stays right."""

    def __init__(self, database: Database, post: Post) -> None:
        self._database = database
        self._post = post
        self._memory: OrderedDict[tuple[str, str], Register] = OrderedDict()

    async def get(self, organisation: str, version: str) -> Register:
        """Return a version. Raises `UnknownRegister`, or `Unavailable` if intake cannot be reached the first time."""
        known = (organisation, version)
        if known not in self._memory:
            self._memory[known] = await self._stored(*known) or await self._fetched(*known)
        self._memory.move_to_end(known)
        if len(self._memory) > KEPT:
            self._memory.popitem(last=False)
        return self._memory[known]

    async def _stored(self, organisation: str, version: str) -> Register | None:
        async with self._database.read(organisation) as session:
            row = (await session.exec(select(RegisterCopy).where(RegisterCopy.version == version))).first()
        return _parsed(row.content) if row else None

    async def _fetched(self, organisation: str, version: str) -> Register:
        try:
            content = await self._post.send("intake", "GET", f"/registers/{version}", organisation=organisation)
        except NotFound:
            raise UnknownRegister from None
        register = _parsed(content)
        try:
            async with self._database.write(organisation) as session:
                session.add(RegisterCopy(organisation_id=organisation, version=version, content=content))
        except IntegrityError:  # another call fetched the same version at the same time
            pass
        return register


def _parsed(content: object) -> Register:
    try:
        return Register.model_validate(content)
    except ValidationError:
        raise UnreadableRegister from None

"""What did the register say when the case was opened? Each version is fetched from intake once and kept."""

from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from services.locator.rounds import Atlas
from services.locator.tables import RegisterCopy
from shared.clock import Clock
from shared.database import Database
from shared.post import Post
from shared.problems import Invalid, NotFound, Unavailable
from shared.register import Register

KEPT = 64
"""Versions in memory; older ones are read from the database again."""


class UnknownRegister(Invalid):
    """There is no such version of the register."""

    code = "unknown-register"


class UnreadableRegister(Unavailable):
    """The register came in a shape that this version of Habeas does not know."""

    code = "unreadable-register"


class Registers:
    """The versions of all organisations' registers that orders cite."""

    def __init__(self, database: Database, post: Post, clock: Clock) -> None:
        self._database = database
        self._post = post
        self._clock = clock
        self._memory: dict[tuple[str, str], Register] = {}
        self._atlases: dict[tuple[str, str], Atlas] = {}

    async def cited(self, organisation: str, version: str) -> Register:
        """Return one version. Raises `UnknownRegister`, or `Unavailable` if intake is not reached the first time."""
        known = (organisation, version)
        register = self._memory.pop(known, None)
        if register is None:
            register = await self._stored(organisation, version) or await self._fetched(organisation, version)
        self._memory[known] = register
        while len(self._memory) > KEPT:
            oldest = next(iter(self._memory))
            del self._memory[oldest]
            self._atlases.pop(oldest, None)
        return register

    def atlas(self, organisation: str, version: str, register: Register) -> Atlas:
        """Return where identifiers lead in one version, worked out once."""
        known = organisation, version
        if known not in self._atlases:
            self._atlases[known] = Atlas(register)
        return self._atlases[known]

    async def in_force(self, organisation: str) -> Register:
        """Return the register that new cases cite now. Asks intake each time: it changes without notice.

        Raises `UnknownRegister` if intake knows of none and no case has cited one.
        """
        try:
            return _parsed(await self._post.send("intake", "GET", "/registers/current", organisation=organisation))
        except NotFound:
            return await self._newest(organisation)

    async def _newest(self, organisation: str) -> Register:
        async with self._database.read(organisation) as session:
            query = select(RegisterCopy).order_by(col(RegisterCopy.at).desc()).limit(1)
            row = (await session.exec(query)).first()
        if row is None:
            raise UnknownRegister
        return _parsed(row.content)

    async def _stored(self, organisation: str, version: str) -> Register | None:
        async with self._database.read(organisation) as session:
            row = (await session.exec(select(RegisterCopy).where(RegisterCopy.version == version))).first()
        return _parsed(row.content) if row is not None else None

    async def _fetched(self, organisation: str, version: str) -> Register:
        try:
            content = await self._post.send("intake", "GET", f"/registers/{version}", organisation=organisation)
        except NotFound:
            raise UnknownRegister from None
        register = _parsed(content)
        row = RegisterCopy(organisation_id=organisation, version=version, content=content, at=self._clock())
        try:
            async with self._database.write(organisation) as session:
                session.add(row)
        except IntegrityError:
            pass  # Another order fetched the same version at the same time.
        return register


def _parsed(content: object) -> Register:
    try:
        return Register.model_validate(content)
    except ValidationError:
        raise UnreadableRegister from None
